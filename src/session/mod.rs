//! One client's life in our process, first byte to last.
//!
//! ```text
//! accepting worker   accept ─▶ handshake ─▶ route ─┐            (or a cancel request: forwarded, done)
//!                                                  │ the socket moves
//! home worker        login ─▶ greet ─▶ ┌ idle ─▶ checkout ─▶ relay ─▶ release ┐ ─▶ end
//!                                      └──────────────────────────────────────┘
//! ```
//! Everything up to ReadyForQuery stands under one deadline that starts at accept. Every way out is an [`End`];
//! the client is told in one place (`finish`), once.

mod arrive;
mod cancel_keys;
mod client;
mod crowd;
mod error;
mod even_time;
mod finish;
mod greet;
pub mod handshake;
mod idle;
mod lanes;
mod leaks;
mod listening;
mod local;
mod login;
mod overview;
mod relay;
mod route;
mod session_state;
mod sql_names;
mod statements;
mod tenancy;
mod throttle;
mod unnamed;
mod verifier;
mod watch;
mod worker;

use std::{
    future::{Future as _, poll_fn},
    pin::pin,
    rc::Rc,
    sync::atomic::Ordering,
    task::Poll,
};

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};

use self::{
    arrive::Settled,
    cancel_keys::Issued,
    client::Client,
    finish::{Farewell, refuse},
    leaks::Leaks,
    listening::{ListenLimits, Listening, Subscriber},
    login::{Authenticated, Claim, login, unless_ended},
    relay::{Boundary, Held, Left, READY, Relay},
    statements::{Own, Prepared},
    unnamed::Unnamed,
    worker::{Enrolled, Place},
};
pub use self::{
    arrive::{Arrival, accept, take_in},
    cancel_keys::Guesses,
    error::End,
    lanes::Lanes,
    overview::Overview,
    verifier::AUTH_QUERY,
    worker::{Command, Parts, Process, Worker},
};
use crate::{
    access::{Activity, EndCause, Floor, Registration, SessionHandle},
    backend::Told,
    catalog::types::{Tenant, TenantTimeouts, TimeLimit},
    metrics::{GaugeGuard, TenantMetrics},
    net::{buffer::Buffer, stream::Stream},
    pool::{Backend, Checkout, Pool, PoolKey, Service},
    protocol::{
        message,
        parameters::Settings,
        prepared::{NameLimits, Names, SqlStatements},
        residue::Residue,
        startup::Replication,
    },
};

/// How a listener's clients share backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// A backend serves one transaction and goes on to the next client.
    Transaction,
    /// A backend serves one client until that leaves.
    Session,
}

/// A client that has logged in.
struct Session {
    worker: Rc<Worker>,
    registration: Registration,
    enrolled: Enrolled,
    pool: Rc<Pool>,
    floor: Floor,
    sharing: Sharing,
    /// What the client began with, and what it has set by now.
    initial: Rc<Settings>,
    settings: Rc<Settings>,
    /// What the client knows of the server's parameters.
    told: Told,
    prepared: Prepared,
    listening: Listening,
    listen_limits: ListenLimits,
    leaks: Leaks,
    metrics: Rc<TenantMetrics>,
    _place: Place,
    _gauge: GaugeGuard,
}

/// What a stretch of relaying has come to.
struct Relayed {
    outcome: Result<(), End>,
    boundary: Boundary,
    held: Held,
    left: Left,
}

/// A client that was let in, with what it gives up when it has left.
struct LetIn {
    session: Session,
    client: Client,
    _cancel_key: Issued,
    _place: Place,
}

/// Lets a client log in on its home worker, and has it served there, in its tenant's lane.
///
/// In a task of its own: thousands are idle at once, and what only the login needs is given back. Nor does it get that lane
/// before: a stranger may name any tenant, or many that do not exist.
async fn serve(worker: Rc<Worker>, stream: Stream, arrival: Settled) {
    let tenant = arrival.route.tenant.clone();
    if let Some(let_in) = begin(Rc::clone(&worker), stream, arrival).await {
        worker.serve(tenant, live(let_in));
    }
}

/// From the greeting to the end.
async fn live(mut let_in: LetIn) {
    let farewell = let_in.session.run(&mut let_in.client).await;
    Box::pin(finish::finish(let_in, farewell)).await;
}

/// The beginning of a client's life here; `None`: it was refused, and has been told.
async fn begin(worker: Rc<Worker>, stream: Stream, arrival: Settled) -> Option<LetIn> {
    let limit = worker.process.config.load().timeouts.login;
    let mut client = Client::new(stream, &worker.buffers);
    let logged_in = {
        let login = pin!(establish(&worker, &mut client, &arrival));
        tokio::select! {
            biased;
            done = timeout_at(arrival.deadline, login) => done.unwrap_or(Err(End::LoginTimeout(limit))),
            () = arrival.presence.pushed_out() => Err(End::Crowded),
        }
    };
    match logged_in {
        Ok((session, cancel_key)) => Some(LetIn {
            session,
            client,
            _cancel_key: cancel_key,
            // All that is still needed of what the client came with.
            _place: arrival.into_place(),
        }),
        Err(end) => {
            Box::pin(refuse(&worker, client, &arrival, end)).await;
            None
        }
    }
}

/// Login and greeting: whoever comes back from here has been told ReadyForQuery.
async fn establish(
    worker: &Rc<Worker>,
    client: &mut Client,
    arrival: &Settled,
) -> Result<(Session, Issued), End> {
    if worker.process.draining.load(Ordering::Acquire) {
        return Err(End::ShuttingDown);
    }
    if let Some(negotiation) = arrival.startup.negotiation() {
        let mut out = BytesMut::new();
        message::negotiate_protocol_version(negotiation, &mut out);
        client.outbox.put(&out);
    }
    let claim = Claim {
        startup: &arrival.startup,
        route: &arrival.route,
        peer: arrival.peer,
        sharing: arrival.sharing,
        end_point: arrival.end_point.clone(),
    };
    let authenticated = login(worker, client, &claim).await?;
    let mut session = admit(worker, authenticated, arrival).await?;
    let greeting = async {
        let patience = worker.login_patience(&session.pool);
        let greeting = greet::parameters(&session.pool, &session.settings, patience);
        let parameters = unless_ended(session.handle(), greeting).await?;
        // Of the login itself: what the client's settings make of it (a `role`, say) can be undone.
        let login = session.pool.parameters();
        let is_superuser = login.is_some_and(|login| login.get("is_superuser") == Some("on"));
        if is_superuser || session.pool.is_privileged() {
            session.handle().mark_privileged();
        }
        session.confirm_grant().await?;
        finish::note_login(&session).await?;
        Ok(parameters)
    };
    let parameters = match greeting.await {
        Ok(parameters) => parameters,
        Err(end) => {
            session.retire_after(&end);
            return Err(end);
        }
    };
    session.told = parameters.told().clone();
    let (issued, key) = worker.process.cancel_keys.issue(
        session.handle().id,
        worker.index,
        arrival.startup.spoken(),
    );
    let mut out = BytesMut::new();
    greet::write(&parameters, &key, &mut out);
    // Sent by the session's first wait: from here on every end is that of a session.
    client.outbox.put(&out);
    Ok((session, issued))
}

/// Gives a proven client its place: within its tenant's limits, in its pool, under its worker's eyes.
async fn admit(
    worker: &Rc<Worker>,
    authenticated: Authenticated,
    arrival: &Settled,
) -> Result<Session, End> {
    let Authenticated {
        tenant,
        registration,
        principal,
        login,
    } = authenticated;
    let identity = &registration.handle().identity;
    let configured = worker.process.config.load().limits.tenant_clients;
    let limit = tenant
        .max_clients
        .map_or(configured, |limit| limit as usize);
    let place = worker.process.tenant_place(&tenant.tenant, limit);
    let place = place.ok_or(End::TooMany {
        what: "clients of this project",
        limit,
    })?;
    let initial = Rc::new(greet::initial_settings(
        &arrival.route.settings,
        registration.handle().grant(),
    ));
    let replication = arrival.startup.replication;
    let key = PoolKey {
        tenant: tenant.tenant.clone(),
        database: identity.database.clone(),
        role: identity.role.clone(),
        principal,
        service: service(replication, &initial),
    };
    let pool = tenancy::pools(worker, &tenant.tenant)
        .await?
        .pool(key, login);
    let initial = pool.shared_settings(initial);
    let metrics = worker.metrics(&tenant.tenant);
    let config = worker.process.config.load();
    let limits = NameLimits {
        count: config.pool.statements_per_client,
        bytes: config.pool.client_statements_max_bytes,
    };
    let unnamed = Unnamed::new(pool.statements().borrow_mut().owner());
    Ok(Session {
        worker: Rc::clone(worker),
        enrolled: worker.enroll(local::Local::new(
            registration.handle().clone(),
            own_timeouts(&tenant, replication),
            worker.now(),
        )),
        floor: worker.process.access.floor(&tenant.tenant),
        registration,
        pool,
        sharing: arrival.sharing,
        prepared: Prepared {
            names: Names::default(),
            of_sql: None,
            limits,
            unnamed,
            given_up: Box::default(),
        },
        listening: Listening::default(),
        listen_limits: ListenLimits {
            channels: config.pool.channels_per_client,
            notifications_max_bytes: config.pool.client_notifications_max_bytes,
            wait: config.timeouts.queue,
        },
        leaks: Leaks::default(),
        settings: Rc::clone(&initial),
        told: Told::default(),
        initial,
        _gauge: metrics.client(),
        metrics,
        _place: place,
    })
}

fn service(replication: Replication, settings: &Rc<Settings>) -> Service {
    match replication {
        Replication::No => Service::Queries,
        Replication::Physical | Replication::Logical => Service::Walsender {
            replication,
            settings: Rc::clone(settings),
        },
    }
}

/// What the tenant limits; a stream of changes has no end that it could be late for.
fn own_timeouts(tenant: &Tenant, replication: Replication) -> TenantTimeouts {
    match replication {
        Replication::No => tenant.timeouts,
        Replication::Physical | Replication::Logical => TenantTimeouts {
            query: Some(TimeLimit::Off),
            transaction: Some(TimeLimit::Off),
            ..tenant.timeouts
        },
    }
}

impl Session {
    fn handle(&self) -> &SessionHandle {
        self.registration.handle()
    }

    fn enter(&self, activity: Activity) {
        self.enrolled.local.enter(activity, self.worker.now());
    }

    /// Serves the client until something ends it.
    async fn run(&mut self, client: &mut Client) -> Farewell {
        loop {
            self.enter(Activity::Idle);
            if let Err(end) = idle::wait(client, &self.enrolled.local, &self.listening).await {
                return Farewell::without_backend(end);
            }
            let checkout = match self.checkout(client).await {
                Ok(Some(checkout)) => checkout,
                Ok(None) => continue,
                Err(farewell) => return *farewell,
            };
            if let Err(farewell) = self.transaction(client, checkout).await {
                return *farewell;
            }
        }
    }

    /// A backend with the client's settings; `None`: the client cancelled while it waited and has been answered.
    async fn checkout(&mut self, client: &mut Client) -> Result<Option<Checkout>, Box<Farewell>> {
        let without_backend = |end| Box::new(Farewell::without_backend(end));
        self.confirm_grant().await.map_err(without_backend)?;
        for _ in 1..session_state::ATTEMPTS {
            match self.ready_backend(client).await {
                Err(farewell) if farewell.end.is_broken_exchange() => drop(farewell),
                other => return other,
            }
        }
        self.ready_backend(client).await
    }

    /// One attempt to get a backend with the client's settings. Nothing of the client's has been sent to it.
    async fn ready_backend(
        &mut self,
        client: &mut Client,
    ) -> Result<Option<Checkout>, Box<Farewell>> {
        let without_backend = |end| Box::new(Farewell::without_backend(end));
        let mut checkout = match self.pool.try_checkout() {
            Some(checkout) => checkout,
            None => match Box::pin(self.queue(client))
                .await
                .map_err(without_backend)?
            {
                Some(checkout) => checkout,
                None => return Ok(None),
            },
        };
        let of_sql = self.prepared.of_sql.as_ref();
        if session_state::fits(checkout.backend(), &self.settings, of_sql) {
            return Ok(Some(checkout));
        }
        let applying = session_state::apply(checkout.backend(), &self.settings, of_sql);
        let applying = Box::pin(applying);
        match unless_ended(self.handle(), applying).await {
            Ok(()) => Ok(Some(checkout)),
            Err(end @ End::Settings(_)) => {
                checkout.release();
                Err(without_backend(end))
            }
            Err(end) => Err(Box::new(Farewell {
                end,
                boundary: Boundary::Whole,
                checkout: Some(checkout),
            })),
        }
    }

    /// A session whose grant was decided before the tenant's last revocation is decided again.
    async fn confirm_grant(&self) -> Result<(), End> {
        let handle = self.handle();
        if handle.grant().is_some() && handle.decided_at().0 < self.floor.load(Ordering::Acquire) {
            Box::pin(self.worker.process.access.recheck(handle))
                .await
                .map_err(End::Signalled)?;
        }
        match handle.end_cause() {
            Some(EndCause::Drain) | None => Ok(()),
            Some(cause) => Err(End::Signalled(cause)),
        }
    }

    /// Waits for a backend; meanwhile the client may leave, cancel, or be ended.
    async fn queue(&self, client: &mut Client) -> Result<Option<Checkout>, End> {
        self.enter(Activity::Waiting);
        let since = Instant::now();
        let local = &self.enrolled.local;
        let configured = &self.worker.process.config.load().timeouts;
        let patience = self.enrolled.local.timeouts(configured).queue;
        let mut waiting = pin!(self.pool.checkout(patience));
        let result = poll_fn(|context| {
            if let Poll::Ready(result) = waiting.as_mut().poll(context) {
                return Poll::Ready(result.map(Some).map_err(End::from));
            }
            if let Poll::Ready(cause) = local.poll_end(context) {
                // Why there is no backend, where that is known.
                let outage = (cause == EndCause::QueueTimeout).then(|| self.pool.outage());
                let end = outage
                    .flatten()
                    .map_or(End::Signalled(cause), End::Checkout);
                return Poll::Ready(Err(end));
            }
            if local.take_cancel() {
                if idle::answer_cancelled(client) {
                    return Poll::Ready(Ok(None));
                }
                local.put_off_cancel();
            }
            if !client.outbox.is_drained()
                && let Poll::Ready(Err(end)) = client.poll_drain(context)
            {
                return Poll::Ready(Err(end));
            }
            while !client.inbox.is_full() {
                match client.poll_fill(context) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await;
        self.worker.process.traffic.queue_wait(since.elapsed());
        result
    }

    /// Relays one transaction (in session mode: all of them) and gives the backend back.
    async fn transaction(
        &mut self,
        client: &mut Client,
        mut checkout: Checkout,
    ) -> Result<(), Box<Farewell>> {
        let local = Rc::clone(&self.enrolled.local);
        local.attach(checkout.backend(), self.worker.now());
        let (held, left) = loop {
            let relayed = self.relay(client, &mut checkout).await;
            if let Err(end) = relayed.outcome {
                return Err(Box::new(self.part(
                    end,
                    relayed.boundary,
                    relayed.left,
                    checkout,
                )));
            }
            if self.sharing == Sharing::Transaction {
                break (relayed.held, relayed.left);
            }
            if !self.pool.key.service.is_shared() {
                // What it began with was in its startup packet.
                continue;
            }
            let role = &self.pool.key.role;
            let anew = session_state::begin_anew(checkout.backend(), role, &self.initial);
            match unless_ended(self.handle(), Box::pin(anew)).await {
                Ok(notifications) => notifications
                    .iter()
                    .for_each(|one| client.outbox.put(&one.message)),
                Err(end) => {
                    return Err(Box::new(Farewell {
                        end,
                        boundary: Boundary::Whole,
                        checkout: Some(checkout),
                    }));
                }
            }
        };
        // A cancel request that comes now is late: it is not to hit the pooler's own questions.
        local.detach();
        if let Err(end) = self.settle(&mut checkout, held, &mut client.outbox).await {
            let farewell = Farewell {
                end,
                boundary: Boundary::Whole,
                checkout: Some(checkout),
            };
            return Err(Box::new(farewell));
        }
        match left {
            Left::Broken => drop(checkout),
            Left::Nothing | Left::InHand(_) => checkout.release(),
        }
        Ok(())
    }

    /// One stretch of relaying, and what it leaves.
    async fn relay(&mut self, client: &mut Client, checkout: &mut Checkout) -> Relayed {
        self.tell_parameters(checkout.backend(), &mut client.outbox);
        let local = Rc::clone(&self.enrolled.local);
        let before = self.traffic();
        let clock = || self.worker.now();
        let shared = self.sharing == Sharing::Transaction;
        let own = shared.then(|| Own {
            prepared: &mut self.prepared,
            statements: self.pool.statements(),
            listening: &mut self.listening,
        });
        let buffers = &self.worker.buffers;
        let mut relay = Relay::new(client, checkout.backend(), &local, buffers, &clock, own);
        let relayed = Relayed {
            outcome: relay.run(self.sharing).await,
            boundary: relay.cut(),
            held: relay.held(),
            left: relay.into_left(),
        };
        self.prepared.unnamed.rest();
        // The relay has passed on what has changed.
        let told = checkout.backend().connection.parameters.told();
        if self.told != *told {
            self.told = told.clone();
        }
        self.count_transaction(before);
        relayed
    }

    /// Tells the client what its parameters are now that it has `backend`, where it was told something else: the server has
    /// read its configuration anew, or a RESET has been made good that went behind the client's first settings.
    fn tell_parameters(&mut self, backend: &Backend, out: &mut Buffer) {
        let parameters = &backend.connection.parameters;
        if *parameters.told() == self.told {
            return;
        }
        let mut messages = BytesMut::new();
        for (name, value) in parameters.changed_since(&self.told) {
            message::parameter_status(name, value, &mut messages);
        }
        out.put(&messages);
        self.told = parameters.told().clone();
    }

    /// Bytes from and to the client so far.
    fn traffic(&self) -> (u64, u64) {
        let handle = self.handle();
        (
            handle.bytes_in.load(Ordering::Relaxed),
            handle.bytes_out.load(Ordering::Relaxed),
        )
    }

    fn count_transaction(&self, before: (u64, u64)) {
        SessionHandle::count(&self.handle().transactions, 1);
        self.metrics.transaction();
        let (received, sent) = self.traffic();
        self.worker
            .count_bytes(received - before.0, sent - before.1);
    }

    /// Learns what the client has set, so that it finds it again elsewhere, and what it listens to. Puts into `out`
    /// what it is told when that is settled.
    async fn settle(
        &mut self,
        checkout: &mut Checkout,
        held: Held,
        out: &mut Buffer,
    ) -> Result<(), End> {
        let backend = checkout.backend();
        let handle = self.registration.handle();
        let (mut channels, mut notifications) = (Vec::new(), Vec::new());
        if !backend.residue.is_empty() {
            let learning = Box::pin(session_state::learn(
                backend,
                &self.pool.key.role,
                &self.initial,
            ));
            let learnt = unless_ended(handle, learning).await?;
            self.settings = self.pool.shared_settings(learnt.settings);
            if let Some(of_sql) = learnt.of_sql {
                self.prepared.of_sql = SqlStatements::new(of_sql, self.prepared.limits)?;
                backend.sql_statements.clone_from(&self.prepared.of_sql);
            }
            self.leaks.note(&learnt.leaks, handle);
            (channels, notifications) = (learnt.channels, learnt.notifications);
        }
        if self.listening.is_changing() || !channels.is_empty() {
            let subscriber = Subscriber {
                pool: &self.pool,
                handle,
                settings: &self.initial,
                limits: self.listen_limits,
            };
            let settling =
                self.listening
                    .settle(backend, channels, notifications, &subscriber, out);
            unless_ended(handle, Box::pin(settling)).await?;
        }
        if backend.connection.has_more() {
            backend.residue |= Residue::DIRTY;
        }
        if held == Held::Ready {
            out.put(READY);
        }
        Ok(())
    }

    /// The session is ending. A backend that has nothing to do with that goes on to others: at once if it is clean,
    /// else after the work it has in hand is undone. Any other is closed.
    fn part(&self, end: End, boundary: Boundary, left: Left, mut checkout: Checkout) -> Farewell {
        let is_shared = self.pool.key.service.is_shared();
        let checkout = if !is_shared || !end.spares_backend() || matches!(left, Left::Broken) {
            Some(checkout)
        } else {
            self.enrolled.local.detach();
            if self.sharing == Sharing::Session {
                checkout.backend().residue = Residue::DIRTY;
            }
            match left {
                Left::InHand(remains) => checkout.reclaim(remains),
                Left::Nothing | Left::Broken => checkout.release(),
            }
            None
        };
        Farewell {
            end,
            boundary,
            checkout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of_future<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands of them are held while their clients do nothing.
    #[test]
    fn what_serves_a_client_is_small() {
        let bytes = bytes_of_future(live);
        assert!(bytes <= 2_000, "{bytes}");
    }
}
