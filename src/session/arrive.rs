//! Arrival: handshake and route on the worker that accepted, then the move to the client's home worker.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    Sharing,
    crowd::Presence,
    error::End,
    finish,
    handshake::{CancelRequest, Handshake, HandshakeSettings, Hello, handshake, true_peer},
    route::{Route, route},
    serve,
    worker::{Command, Place, Process, Worker},
};
use crate::{
    catalog::holds_token,
    metrics::{CancelOutcome, cancel_request},
    net::stream::{Detached, Stream},
    protocol::startup::{Replication, Startup},
};

/// How long the closing of a cancel request's connection may take.
const CANCEL_CLOSE_MAX: Duration = Duration::from_secs(1);

/// A client on its way to its home worker.
pub struct Arrival {
    stream: Detached,
    settled: Settled,
}

/// What is known of a client after its handshake.
pub(super) struct Settled {
    pub(super) startup: Startup,
    pub(super) route: Route,
    pub(super) peer: SocketAddr,
    pub(super) end_point: Option<Arc<[u8]>>,
    pub(super) sharing: Sharing,
    pub(super) deadline: Instant,
    pub(super) presence: Presence,
    place: Place,
}

impl Settled {
    /// All that a session keeps of its arrival: it counts as a client until it ends.
    pub(super) fn into_place(self) -> Place {
        self.place
    }
}

/// Takes in a client that another worker has sent: its home is here.
pub fn take_in(worker: &Rc<Worker>, arrival: Arrival) {
    // A socket that cannot join this worker's reactor is closed.
    if let Ok(stream) = arrival.stream.attach() {
        let serving = serve(Rc::clone(worker), stream.settle(), arrival.settled);
        worker.serve(None, serving);
    }
}

/// Takes a fresh connection to where it belongs: its home worker, or the session it wants to cancel.
pub async fn accept(worker: Rc<Worker>, mut tcp: TcpStream, peer: SocketAddr, sharing: Sharing) {
    let config = worker.process.config.load_full();
    let deadline = Instant::now() + config.timeouts.login;
    let presence = worker.process.stranger(peer.ip());
    let settings = HandshakeSettings {
        tls: worker.process.tls.clone(),
        proxy_from: config.listen.proxy_protocol_from.clone(),
    };
    let known = tokio::select! {
        known = timeout_at(deadline, true_peer(&mut tcp, peer, &settings)) => known,
        () = presence.pushed_out() => return,
    };
    // Who does not say who he is, as agreed with balancers, does not speak PostgreSQL either.
    let Ok(Ok(Some(peer))) = known else { return };
    // Of a balancer's clients, each address has its own limit.
    let presence = if presence.is_of(peer.ip()) {
        presence
    } else {
        worker.process.stranger(peer.ip())
    };
    let shaking = Box::pin(timeout_at(deadline, handshake(tcp, peer, &settings)));
    let shaken = tokio::select! {
        shaken = shaking => shaken,
        () = presence.pushed_out() => return,
    };
    match shaken {
        Ok(Ok(Handshake::Session(hello))) => {
            welcome(&worker, hello, sharing, deadline, presence).await
        }
        Ok(Ok(Handshake::Cancel(request))) => Box::pin(cancel(&worker, request)).await,
        Ok(Err(error)) => {
            if let Some(stream) = error.stream {
                finish::tell(&worker, stream, &End::Startup(error.cause)).await;
            }
        }
        Ok(Ok(Handshake::Closed)) | Err(_) => {}
    }
}

async fn welcome(
    worker: &Rc<Worker>,
    hello: Hello,
    sharing: Sharing,
    deadline: Instant,
    presence: Presence,
) {
    let Hello {
        stream,
        startup,
        peer,
        end_point,
    } = hello;
    let (route, place) = match admit(worker, &stream, &startup, sharing) {
        Ok(admitted) => admitted,
        Err(end) => {
            finish::note_turned_away(worker, &startup, peer, &end);
            return finish::tell(worker, stream, &end).await;
        }
    };
    let home = route
        .tenant
        .as_ref()
        .map_or(worker.index, |tenant| worker.process.home(tenant));
    let settled = Settled {
        startup,
        route,
        peer,
        end_point,
        sharing,
        deadline,
        presence,
        place,
    };
    if home == worker.index {
        // In a task of its own: what it took to arrive is given back.
        let serving = serve(Rc::clone(worker), stream.settle(), settled);
        worker.serve(None, serving);
        return;
    }
    let Ok(stream) = stream.detach() else { return };
    let arrival = Arrival { stream, settled };
    // A worker that is gone has drained: so has the client's chance.
    let _ = worker.process.workers[home].send(Command::Arrive(Box::new(arrival)));
}

fn admit(
    worker: &Worker,
    stream: &Stream,
    startup: &Startup,
    sharing: Sharing,
) -> Result<(Route, Place), End> {
    if has_misplaced_token(startup) {
        return Err(End::Credentials {
            user: "…".to_owned(),
            reason: "misplaced_token",
        });
    }
    let sni = stream.tls().and_then(|tls| tls.sni);
    let route = route(startup, sni.as_deref()).map_err(|_| End::Credentials {
        user: startup.user.clone(),
        reason: "malformed_name",
    })?;
    if startup.replication != Replication::No && sharing == Sharing::Transaction {
        return Err(End::Replication);
    }
    let limit = worker.process.config.load().limits.clients;
    let place = worker.process.client_place().ok_or(End::TooMany {
        what: "clients",
        limit,
    })?;
    Ok((route, place))
}

/// Whether a token stands where it would be shown: in the session list, the trail, the server's log and activity.
fn has_misplaced_token(startup: &Startup) -> bool {
    let settings = startup.options.iter().chain(&startup.parameters);
    settings
        .flat_map(|(name, value)| [name, value])
        .chain(&startup.database)
        .chain([&startup.user])
        .any(|text| holds_token(text))
}

/// Forwards a cancel request and closes its connection when it has taken effect: a client may wait for that, and over
/// TLS it expects a proper end.
async fn cancel(worker: &Worker, request: CancelRequest) {
    let outcome = forward(worker, &request).await;
    cancel_request(outcome);
    worker
        .sessions
        .spawn_local(request.stream.graceful_close(CANCEL_CLOSE_MAX));
}

async fn forward(worker: &Worker, request: &CancelRequest) -> CancelOutcome {
    let Process {
        cancel_keys,
        guesses,
        config,
        ..
    } = &*worker.process;
    let address = request.peer.ip();
    let limit = config.load().limits.wrong_cancel_keys_per_address;
    let now = worker.now();
    if guesses.are_too_many(address, limit, now) {
        tracing::debug!(peer = %request.peer, "cancel request from an address that has shown too many wrong keys");
        return CancelOutcome::Throttled;
    }
    let Some((session, home)) = cancel_keys.find(&request.key) else {
        guesses.count(address, now);
        tracing::info!(peer = %request.peer, "cancel request with an unknown key");
        return CancelOutcome::UnknownKey;
    };
    if home == worker.index {
        return worker.cancel(session).await;
    }
    let (done, outcome) = oneshot::channel();
    let _ = worker.process.workers[home].send(Command::Cancel { session, done });
    outcome.await.unwrap_or(CancelOutcome::Failed)
}
