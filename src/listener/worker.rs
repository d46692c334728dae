//! One worker thread: a runtime of its own, its listeners, and the sessions and pools that are at home here.

use std::{net::TcpListener, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::Purge,
    pool::{OverallBudget, Pools},
    session::{Command, Process, Sharing, Worker, accept, take_in},
};

/// The worker's clock: limits of time are kept to this.
const TICK: Duration = Duration::from_millis(100);

/// How long to pause when the process is out of file descriptors, or the like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long connections that are being closed get when the thread ends.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// What a worker thread is started with.
pub(super) struct Input {
    pub(super) index: usize,
    pub(super) process: Arc<Process>,
    pub(super) overall: Arc<OverallBudget>,
    pub(super) sockets: Vec<(TcpListener, Sharing)>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) purges: mpsc::UnboundedReceiver<Purge>,
    pub(super) stop_accepting: CancellationToken,
    pub(super) stop: CancellationToken,
}

/// Runs a worker until it is told to stop.
pub(super) fn run(input: Input) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a worker thread cannot start");
            return input.stop_accepting.cancel();
        }
    };
    LocalSet::new().block_on(&runtime, work(input));
}

async fn work(input: Input) {
    let config = input.process.config.load_full();
    let pools = Pools::new(
        config.pool.clone(),
        input.overall,
        config.token_access.min_server_version,
    );
    let worker = Worker::new(input.index, input.process, pools);
    for (socket, sharing) in input.sockets {
        let listening = listen(Rc::clone(&worker), socket, sharing);
        let stop = input.stop_accepting.clone();
        tokio::task::spawn_local(async move { stop.run_until_cancelled(listening).await });
    }
    let duties = async {
        tokio::join!(
            keep_time(&worker),
            obey(&worker, input.commands),
            purge(&worker, input.purges),
            worker.pools.watch_idle(),
        )
    };
    input.stop.run_until_cancelled(duties).await;
    worker.sessions.close();
    worker.pools.shut_down(CLOSE_MAX).await;
    let _ = tokio::time::timeout(CLOSE_MAX, worker.sessions.wait()).await;
}

async fn listen(worker: Rc<Worker>, socket: TcpListener, sharing: Sharing) {
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener cannot be served"),
    };
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                worker
                    .sessions
                    .spawn_local(accept(Rc::clone(&worker), tcp, peer, sharing));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn keep_time(worker: &Rc<Worker>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.tick();
    }
}

async fn obey(worker: &Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Arrive(arrival) => take_in(worker, *arrival),
            Command::Cancel { session, done } => {
                let worker = Rc::clone(worker);
                tokio::task::spawn_local(async move {
                    let _ = done.send(worker.cancel(session).await);
                });
            }
        }
    }
    std::future::pending().await
}

async fn purge(worker: &Rc<Worker>, mut purges: mpsc::UnboundedReceiver<Purge>) {
    while let Some(purge) = purges.recv().await {
        worker.pools.purge(purge);
    }
    std::future::pending().await
}
