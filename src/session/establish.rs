//! The beginning of a client's life on its home worker: login, greeting, and a place among its tenant's clients.

use std::{future::Future, pin::pin, rc::Rc, sync::atomic::Ordering};

use bytes::BytesMut;
use tokio::time::timeout_at;

use super::{
    LetIn, Session,
    arrive::Settled,
    cancel_keys::Issued,
    client::Client,
    error::End,
    finish::{self, refuse},
    greet,
    leaks::Leaks,
    life::live,
    listening::{ListenLimits, Listening},
    local::Local,
    login::{Authenticated, Claim, login, unless_ended},
    statements::Prepared,
    tenancy,
    unnamed::Unnamed,
    worker::Worker,
};
use crate::{
    backend::Told,
    catalog::types::{Tenant, TenantTimeouts, TimeLimit},
    net::stream::Stream,
    pool::{PoolKey, Service},
    protocol::{
        message,
        parameters::Settings,
        prepared::{NameLimits, Names},
        startup::Replication,
    },
};

/// Lets a client log in on its home worker, and has it served there, in its tenant's lane.
///
/// In a task of its own: thousands are idle at once, and what only the login needs is given back. Nor does it get that lane
/// before: a stranger may name any tenant, or many that do not exist.
#[allow(clippy::manual_async_fn)] // Which would have room for the arguments twice.
pub(super) fn serve(
    worker: Rc<Worker>,
    stream: Stream,
    arrival: Settled,
) -> impl Future<Output = ()> {
    async move {
        let mut client = Client::new(stream, &worker.buffers);
        match log_in(&worker, &mut client, &arrival).await {
            Ok((session, cancel_key)) => {
                let tenant = arrival.route.tenant.clone();
                let let_in = LetIn {
                    session,
                    client,
                    _cancel_key: cancel_key,
                    // All that is still needed of what the client came with.
                    _place: arrival.into_place(),
                };
                worker.serve(tenant, live(let_in));
            }
            Err(end) => Box::pin(refuse(&worker, client, &arrival, end)).await,
        }
    }
}

/// Login and greeting, within the time that there is for them.
async fn log_in(
    worker: &Rc<Worker>,
    client: &mut Client,
    arrival: &Settled,
) -> Result<(Session, Issued), End> {
    let limit = worker.process.config.load().timeouts.login;
    let login = pin!(establish(worker, client, arrival));
    tokio::select! {
        biased;
        done = timeout_at(arrival.deadline, login) => done.unwrap_or(Err(End::LoginTimeout(limit))),
        () = arrival.presence.pushed_out() => Err(End::Crowded),
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
        enrolled: worker.enroll(Local::new(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of_future<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// It is moved where it is made, and made for every login.
    #[test]
    fn what_lets_a_client_log_in_is_small() {
        let bytes = bytes_of_future(serve);
        assert!(bytes <= 4_000, "{bytes}");
    }
}
