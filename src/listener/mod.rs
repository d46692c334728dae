//! The running pooler: its listeners, its worker threads, and how it stops.
//!
//! ```text
//! control runtime   catalogue, admin API, signals
//! worker threads    one tokio runtime each: accept ─▶ sessions and pools at home there
//! ```
//! Stopping is a drain with a deadline: no more clients are accepted, idle sessions end at once, busy ones when
//! their transaction does, and what is left at the deadline is cut off.

mod worker;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    access::{Access, EndCause, Purge, certificates::CertificateAuthority},
    catalog::Catalog,
    config::{Config, IoMethod},
    net::{
        listener::{ListenError, bind},
        ring::{Queueing, Ring},
        server_tls::ServerTls,
        stream::Keepalive,
    },
    pool::OverallBudget,
    session::{Command, Parts, Process, Sharing},
};

/// After the deadline of a drain: how long sessions get to say their last words and close their backends.
const LAST_WORDS_MAX: Duration = Duration::from_secs(3);

/// How often a drain looks whether the last session is gone.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// The sockets that clients connect to, bound but not served yet.
pub struct Listeners {
    pooler: Vec<TcpListener>,
    direct: Vec<TcpListener>,
}

/// A pooler that serves clients.
pub struct Pooler {
    process: Arc<Process>,
    threads: Vec<JoinHandle<()>>,
    stop_accepting: CancellationToken,
    stop: CancellationToken,
}

/// What a pooler is started with.
pub struct Setup {
    pub config: Config,
    pub catalog: Catalog,
    pub tls: Option<ServerTls>,
    pub authority: Option<Arc<CertificateAuthority>>,
}

impl Listeners {
    /// Binds what the configuration names, one socket per worker and address.
    pub fn bind(config: &Config) -> Result<Self, ListenError> {
        let count = NonZeroUsize::new(config.listen.workers).unwrap_or(NonZeroUsize::MIN);
        let keepalive = keepalive(config);
        Ok(Self {
            pooler: bind(config.listen.pooler, count, "listen.pooler", &keepalive)?,
            direct: match config.listen.direct {
                Some(address) => bind(address, count, "listen.direct", &keepalive)?,
                None => Vec::new(),
            },
        })
    }

    /// Where transactions are pooled, with the port that was really taken.
    pub fn pooler_address(&self) -> io::Result<SocketAddr> {
        self.pooler
            .first()
            .ok_or(io::ErrorKind::NotConnected)?
            .local_addr()
    }

    /// Where a client has a backend to itself; `None`: nowhere.
    #[must_use]
    pub fn direct_address(&self) -> Option<SocketAddr> {
        self.direct.first()?.local_addr().ok()
    }
}

/// What clients' connections are tuned to.
pub fn keepalive(config: &Config) -> Keepalive {
    Keepalive {
        idle: config.net.keepalive_idle,
        interval: config.net.keepalive_interval,
        unacknowledged: config.timeouts.write_stall,
    }
}

/// What of the workers' reads and writes goes through io_uring; `None`: nothing.
fn queueing(method: IoMethod) -> io::Result<Option<Queueing>> {
    if method == IoMethod::Epoll {
        tracing::info!(io_method = "epoll", "how sockets are served");
        return Ok(None);
    }
    let Err(error) = Ring::check() else {
        tracing::info!(io_method = "io_uring", "how sockets are served");
        return Ok(Some(match method {
            IoMethod::IoUring => Queueing::Always,
            IoMethod::Auto | IoMethod::Epoll => Queueing::UnderLoad,
        }));
    };
    if method == IoMethod::Auto {
        tracing::info!(io_method = "epoll", without_io_uring = %error, "how sockets are served");
        return Ok(None);
    }
    let text = format!(
        "net.io_method is \"io_uring\", which cannot be had here ({error}): say \"auto\" or \"epoll\""
    );
    Err(io::Error::new(error.kind(), text))
}

impl Pooler {
    /// Starts the worker threads.
    pub fn start(setup: Setup, listeners: Listeners) -> io::Result<Self> {
        let count = setup.config.listen.workers.max(1);
        let queueing = queueing(setup.config.net.io_method)?;
        let (workers, commands): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| mpsc::unbounded_channel::<Command>())
            .unzip();
        let (purgers, purges): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| mpsc::unbounded_channel::<Purge>())
            .unzip();
        let overall = OverallBudget::new(setup.config.pool.overall_budget);
        let access = Access::new(
            setup.catalog.clone(),
            purgers,
            setup.config.authorities.clone(),
        );
        let process = Arc::new(Process::new(Parts {
            config: setup.config,
            catalog: setup.catalog,
            access,
            tls: setup.tls,
            authority: setup.authority,
            workers,
        }));
        let stop_accepting = CancellationToken::new();
        let stop = CancellationToken::new();
        let mut direct = listeners.direct.into_iter();
        let mut threads = Vec::with_capacity(count);
        let inputs = listeners.pooler.into_iter().zip(commands).zip(purges);
        for (index, ((pooler, commands), purges)) in inputs.enumerate() {
            let mut sockets = vec![(pooler, Sharing::Transaction)];
            sockets.extend(direct.next().map(|socket| (socket, Sharing::Session)));
            let input = worker::Input {
                index,
                queueing,
                process: Arc::clone(&process),
                overall: Arc::clone(&overall),
                sockets,
                commands,
                purges,
                stop_accepting: stop_accepting.clone(),
                stop: stop.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("sluice-{index}"));
            threads.push(thread.spawn(move || worker::run(input))?);
        }
        Ok(Self {
            process,
            threads,
            stop_accepting,
            stop,
        })
    }

    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Drains: returns when every session is gone, or has been cut off at the deadline, and all threads have ended.
    pub async fn drain(self) {
        let limit = self.process.config.load().timeouts.drain;
        self.process.draining.store(true, Ordering::Release);
        self.stop_accepting.cancel();
        self.end_all(EndCause::Drain, limit).await;
        self.end_all(EndCause::Shutdown, LAST_WORDS_MAX).await;
        self.stop.cancel();
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().all(|thread| thread.join().is_ok())
        });
        if !joined.await.unwrap_or(false) {
            tracing::error!("a worker thread panicked: this is a bug");
        }
    }

    /// Asks every session to end, those too that only now finish their login, until none is left.
    async fn end_all(&self, cause: EndCause, limit: Duration) {
        let registry = self.process.access.registry();
        let deadline = Instant::now() + limit;
        while !registry.is_empty() && Instant::now() < deadline {
            registry.end_all(cause);
            tokio::time::sleep(DRAIN_STEP).await;
        }
    }
}
