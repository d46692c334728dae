//! `sluice demo`: PostgreSQL, Sluice, a tenant, two people and their tokens in one go, to try them or to test against.
//!
//! ```text
//! folder ─▶ server (PostgreSQL) ─▶ pooler (`sluice serve` as a child) ─▶ people (admin API) ─▶ proof (psql) ─▶ ready file
//!                                                                                          Ctrl-C ─▶ all of it down
//! ```
//!
//! Nothing in here is a way of its own: the pooler is the same executable with a configuration file, everything is
//! registered through the admin API as the command line does it, and what is shown was run with `psql`.
//! Whatever ends the demo, its children end with it and a temporary folder is removed.

mod authority;
mod cluster;
mod folder;
mod people;
mod pooler;
mod ports;
mod process;
mod psql;
mod ready;
mod secret_file;
mod server;
mod tour;
mod user;

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{
    authority::{Authority, AuthorityError},
    cluster::{Cluster, ClusterError},
    folder::{Folder, FolderError},
    people::{PeopleError, Registration},
    pooler::{Pooler, PoolerError},
    ports::{PortError, Ports},
    process::ProcessError,
    psql::PsqlError,
    ready::{Ready, ReadyError, ReadyFile},
    server::{Server, ServerError},
    tour::TourError,
};
use super::DemoArgs;

#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Pooler(#[from] PoolerError),
    #[error(transparent)]
    People(#[from] PeopleError),
    #[error(transparent)]
    Psql(#[from] PsqlError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Tour(#[from] TourError),
    #[error(transparent)]
    Ready(#[from] ReadyError),
    #[error("told to stop before the tour was over")]
    Interrupted,
    #[error("cannot start: {0}")]
    Runtime(#[from] std::io::Error),
}

/// Runs the demo until it is told to stop; says how the process is to exit.
#[must_use]
pub fn run(args: &DemoArgs) -> ExitCode {
    // The children are told to end with the thread that started them, so that has to be the main one.
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DemoError::Runtime)
        .and_then(|runtime| runtime.block_on(demonstrate(args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What has been started so far, and so has to be stopped.
#[derive(Default)]
struct Running {
    cluster: Option<Cluster>,
    pooler: Option<Pooler>,
}

async fn demonstrate(args: &DemoArgs) -> Result<(), DemoError> {
    let mut stop = StopSignals::listen()?;
    let ports = Ports::choose(args)?;
    let folder = Folder::open(args.data.as_deref())?;
    let ready_file = args.ready_file.as_deref().map(ReadyFile::at).transpose()?;
    let mut running = Running::default();

    let outcome = tokio::select! {
        outcome = show(args, &ports, &folder, ready_file.as_ref(), &mut running) => outcome,
        () = stop.received() => match args.check {
            true => Err(DemoError::Interrupted),
            false => Ok(()),
        },
    };

    drop(ready_file);
    if let Some(pooler) = running.pooler {
        pooler.stop().await;
    }
    if let Some(cluster) = running.cluster {
        cluster.stop().await;
    }
    outcome
}

/// Brings everything up and keeps it up; returns early after `--check`, or when a part ends by itself.
async fn show(
    args: &DemoArgs,
    ports: &Ports,
    folder: &Folder,
    ready_file: Option<&ReadyFile>,
    running: &mut Running,
) -> Result<(), DemoError> {
    psql::require().await?;
    let authority = Authority::load_or_make(folder)?;
    let server = match &args.postgres {
        Some(url) => Server::running(url).await?,
        None => {
            let cluster = Cluster::start(folder, &authority, ports.postgres, args.tenants).await?;
            running.cluster.insert(cluster).server().clone()
        }
    };
    server.prepare(folder.secrets()).await?;
    println!("PostgreSQL  {}:{}", server.host, server.port);

    let pooler = running
        .pooler
        .insert(Pooler::start(folder, ports, args.pool_size).await?);
    println!(
        "Sluice      127.0.0.1:{} (direct {}, admin {})",
        ports.pooler, ports.direct, ports.admin
    );

    let registration =
        Registration::make(pooler.client(), &server, folder.secrets(), args.tenants).await?;
    let ready = Ready::new(ports, folder, &server, pooler, registration);
    tour::prove_logins(&ready).await?;
    if let Some(file) = ready_file {
        file.write(&ready)?;
    }
    if args.check {
        return Ok(tour::take(&ready, &server, pooler.client()).await?);
    }
    println!(
        "\nEverything is kept in {}; Ctrl-C ends the demo{}.",
        folder.path().display(),
        folder.fate()
    );
    Err(running.first_to_end().await.into())
}

impl Running {
    /// Waits for a child to end although nobody asked it to.
    async fn first_to_end(&mut self) -> ProcessError {
        let cluster = async {
            match &mut self.cluster {
                Some(cluster) => cluster.ended().await,
                None => std::future::pending().await,
            }
        };
        let pooler = async {
            match &mut self.pooler {
                Some(pooler) => pooler.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = cluster => error,
            error = pooler => error,
        }
    }
}

/// The signals that end the demo: Ctrl-C, `kill`, and the terminal's closing.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self, std::io::Error> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
