//! One worker thread: a runtime of its own, its listeners, and the sessions and pools that are at home here.

use std::{
    convert::Infallible, net::TcpListener, rc::Rc, sync::Arc, task::Context, time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{JoinSet, LocalSet},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::keepalive;
use crate::{
    access::Purge,
    names::TenantRef,
    net::{
        buffer::BufferPool,
        ring::{Queueing, Ring},
        stream::tune,
    },
    pool::{OverallBudget, Pools},
    scheduling::TURNS,
    session::{Command, Lanes, Process, Sharing, Worker, accept, take_in},
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
    /// What of its reads and writes goes through io_uring; `None`: nothing.
    pub(super) queueing: Option<Queueing>,
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
    let _seat = TURNS.seat();
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
    let lanes = Rc::new(Lanes::default());
    let buffers = BufferPool::default();
    let working = async {
        let ring = input
            .queueing
            .map(|queueing| Ring::start(buffers.clone(), queueing));
        let ring = ring.transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "a worker thread has no io_uring");
            None
        });
        let learn =
            |context: &mut Context<'_>| ring.as_ref().is_some_and(|ring| ring.turn(context));
        // Of what `block_on` itself waits for, which is polled whenever anything happens on this thread, clients come first.
        tokio::select! {
            biased;
            never = lanes.serve(learn) => match never {},
            done = tokio::task::spawn_local(work(input, Rc::clone(&lanes), buffers)) => done,
        }
    };
    let done = LocalSet::new().block_on(&runtime, working);
    Ring::stop();
    if let Err(error) = done
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

async fn work(input: Input, lanes: Rc<Lanes<Option<TenantRef>>>, buffers: BufferPool) {
    let config = input.process.config.load_full();
    let pools = Pools::new(
        config.pool.clone(),
        input.overall,
        config.token_access.min_server_version,
    );
    let worker = Worker::new(
        input.index,
        input.process,
        pools,
        buffers,
        Rc::clone(&lanes),
    );
    for (socket, sharing) in input.sockets {
        let listening = listen(Rc::clone(&worker), socket, sharing);
        let stop = input.stop_accepting.clone();
        tokio::task::spawn_local(async move { stop.run_until_cancelled(listening).await });
    }
    // A task each: one that is woken is not to poll the others.
    let mut duties = JoinSet::new();
    duties.spawn_local(keep_time(Rc::clone(&worker)));
    duties.spawn_local(obey(Rc::clone(&worker), input.commands));
    duties.spawn_local(purge(Rc::clone(&worker), input.purges));
    let watched = Rc::clone(&worker);
    duties.spawn_local(async move { watched.pools.watch_idle().await });
    input.stop.run_until_cancelled(lasting(duties)).await;
    worker.sessions.close();
    worker.pools.shut_down(CLOSE_MAX).await;
    let _ = tokio::time::timeout(CLOSE_MAX, worker.sessions.wait()).await;
    // They hold the worker, which holds them.
    lanes.abandon();
}

async fn listen(worker: Rc<Worker>, socket: TcpListener, sharing: Sharing) {
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener cannot be served"),
    };
    let mut tuned = keepalive(&worker.process.config.load());
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let keepalive = keepalive(&worker.process.config.load());
                if keepalive != tuned {
                    // Loaded since: what is accepted from now on inherits it.
                    let retuned = tune(&listener, &keepalive).and_then(|()| tune(&tcp, &keepalive));
                    if let Err(error) = retuned {
                        tracing::warn!(%error, "keepalive cannot be set as configured");
                    }
                    tuned = keepalive;
                }
                let arriving = accept(Rc::clone(&worker), tcp, peer, sharing);
                worker.serve(None, arriving);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for as long as all of `duties` go on: none ends by itself. Dropped, it ends them.
async fn lasting(mut duties: JoinSet<Infallible>) {
    if let Some(Err(error)) = duties.join_next().await
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

async fn keep_time(worker: Rc<Worker>) -> Infallible {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.tick();
    }
}

async fn obey(worker: Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) -> Infallible {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Arrive(arrival) => take_in(&worker, *arrival),
            Command::Cancel { session, done } => {
                let worker = Rc::clone(&worker);
                tokio::task::spawn_local(async move {
                    let _ = done.send(worker.cancel(session).await);
                });
            }
            Command::Pools { done } => {
                // Whoever asked may have gone.
                let _ = done.send(worker.pools.view());
            }
        }
    }
    std::future::pending().await
}

async fn purge(worker: Rc<Worker>, mut purges: mpsc::UnboundedReceiver<Purge>) -> Infallible {
    while let Some(purge) = purges.recv().await {
        worker.pools.purge(purge);
    }
    std::future::pending().await
}
