//! The end of a session: the one place where the client is told, and where log, audit and metrics learn of it.

use std::{
    future::Future, net::SocketAddr, rc::Rc, sync::atomic::Ordering::Relaxed, time::Duration,
};

use bytes::BytesMut;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    LetIn, Session,
    arrive::Settled,
    client::Client,
    error::{End, Row},
    relay::Boundary,
    route::Mode,
    throttle::Caller,
    worker::{Process, Worker},
};
use crate::{
    access::{Activity, Grant, Identity, SessionHandle},
    catalog::{
        Novelty,
        types::{AuditEvent, Outcome},
    },
    config::AuditedLogins,
    metrics::{LoginOutcome, Method, TenantMetrics, session_ended},
    names::{RoleName, TenantRef},
    net::stream::Stream,
    pool::Checkout,
    protocol::{error::ErrorResponse, startup::Startup},
};

/// How long a client may take to take in its last message.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// How a session ends, with the backend it still holds.
pub(super) struct Farewell {
    pub(super) end: End,
    pub(super) boundary: Boundary,
    pub(super) checkout: Option<Checkout>,
}

impl Farewell {
    pub(super) fn without_backend(end: End) -> Self {
        Self {
            end,
            boundary: Boundary::Whole,
            checkout: None,
        }
    }
}

/// Ends a session that had logged in: tells the client, closes the backend, and writes both down.
pub(super) async fn finish(let_in: LetIn, farewell: Farewell) {
    let LetIn {
        session,
        client,
        _cancel_key,
        _place,
    } = let_in;
    let Farewell {
        end,
        boundary,
        checkout,
    } = farewell;
    session.enter(Activity::Ending);
    let local = &session.enrolled.local;
    let row = end.row(&local.timeouts(&session.worker.process.config.load().timeouts));
    let had_backend = checkout.is_some();
    let commit_in_flight = had_backend && matches!(end, End::Signalled(_));
    let response = row
        .response
        .as_ref()
        .filter(|_| boundary == Boundary::Whole);
    let last_words =
        response.map_or_else(BytesMut::new, |response| encode(response, commit_in_flight));
    let is_cut = boundary == Boundary::Cut && matches!(end, End::Signalled(_));
    let mut client = Some(client);
    if is_cut && let Some(client) = client.take() {
        // Nothing can be said to it, and what is still on its way to it is to stop.
        client.stream.reset();
    }
    // Also with nothing to add: what the client has asked for may still be on its way.
    let told = async {
        match &mut client {
            Some(client) => client.send_last(&last_words).await,
            None => Ok(()),
        }
    };
    let gone = async {
        match checkout {
            Some(checkout) => Box::pin(checkout.close()).await,
            None => true,
        }
    };
    let asked = session.handle().asked_to_end();
    // The backend first of all: a client that does not read must not keep a query running.
    let ((gone, backend_gone), ((), told)) = tokio::join!(
        timed(asked, gone),
        timed(asked, within(LAST_WORDS_MAX, told))
    );
    if !gone {
        session.handle().mark_unconfirmed();
    }
    session.retire_after(&end);
    let parting = Parting {
        revoke_to_fatal_ms: told,
        revoke_to_backend_gone_ms: backend_gone.filter(|_| had_backend),
        commit_in_flight,
    };
    note_end(&session, &row, &parting);
    match client {
        // Nothing of a client that has said goodbye is unread: closing sends a FIN.
        Some(client) if matches!(end, End::Terminated) && !client.stream.is_encrypted() => {}
        Some(client) => linger(&session.worker, client.stream),
        None => {}
    }
}

impl Session {
    /// When it was the access that ended, what is idle for the same person in the same role goes as well.
    pub(super) fn retire_after(&self, end: &End) {
        if let End::Signalled(cause) = end
            && cause.ends_access()
        {
            self.pool.retire();
        }
    }
}

/// Refuses a client that has not logged in.
pub(super) async fn refuse(worker: &Rc<Worker>, mut client: Client, arrival: &Settled, end: End) {
    let row = end.row(&worker.process.config.load().timeouts);
    // First of all told: what there is to write down depends on which tenants exist.
    if let Some(response) = &row.response {
        within(LAST_WORDS_MAX, client.send_last(&encode(response, false))).await;
    }
    linger(worker, client.stream);
    note_refusal(worker, arrival, &end, &row).await;
}

/// Tells a client that has not come as far as a login.
pub(super) async fn tell(worker: &Rc<Worker>, stream: Stream, end: &End) {
    let row = end.row(&worker.process.config.load().timeouts);
    tracing::debug!(reason = row.reason, %end, "connection refused");
    let mut client = Client::new(stream, &worker.buffers);
    if let Some(response) = &row.response {
        within(LAST_WORDS_MAX, client.send_last(&encode(response, false))).await;
    }
    linger(worker, client.stream);
}

/// Closes the connection so that the client reads our last words, without holding up anybody for it.
fn linger(worker: &Rc<Worker>, stream: Stream) {
    worker
        .sessions
        .spawn_local(stream.graceful_close(LAST_WORDS_MAX));
}

/// How the end of a session went, for the trail. Times are those since somebody asked for the end.
#[derive(Serialize)]
struct Parting {
    #[serde(skip_serializing_if = "Option::is_none")]
    revoke_to_fatal_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoke_to_backend_gone_ms: Option<f64>,
    /// A COMMIT may have been on its way when the backend was closed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    commit_in_flight: bool,
}

/// What the trail keeps of a session that is over.
#[derive(Serialize)]
struct Ended<'a> {
    seconds: f64,
    transactions: u64,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(flatten)]
    parting: &'a Parting,
}

/// Does `part` and says how long after `since` it was done.
async fn timed<T>(since: Option<Instant>, part: impl Future<Output = T>) -> (T, Option<f64>) {
    let done = part.await;
    (
        done,
        since.map(|since| since.elapsed().as_secs_f64() * 1_000.0),
    )
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) {
    let _ = tokio::time::timeout(limit, future).await;
}

fn encode(response: &ErrorResponse, commit_in_flight: bool) -> BytesMut {
    let mut out = BytesMut::new();
    if commit_in_flight && response.detail.is_none() {
        let detail = "The transaction was rolled back, unless its COMMIT had been sent: then its outcome is unknown.";
        response.clone().with_detail(detail).write(&mut out);
    } else {
        response.write(&mut out);
    }
    out
}

/// Writes down a client that was refused before it could say which tenant it wants.
pub(super) fn note_turned_away(worker: &Worker, startup: &Startup, peer: SocketAddr, end: &End) {
    let row = end.row(&worker.process.config.load().timeouts);
    let event = AuditEvent {
        reason: Some(row.reason.to_owned()),
        peer: Some(peer.to_string()),
        detail: match end {
            // What is no name may be a secret.
            End::Credentials { .. } => serde_json::Value::Null,
            _ => serde_json::json!({ "user": startup.user }),
        },
        ..AuditEvent::new("auth.denied", Outcome::Failure, "unknown")
    };
    let novelty = worker.process.catalog.record_refusal(event, peer.ip());
    let asked = Asked {
        tenant: None,
        role: None,
        peer,
    };
    log(&row, &asked, novelty, end);
}

/// A login that comes through, unless it has to be on record and cannot be.
pub(super) async fn note_login(session: &Session) -> Result<(), End> {
    let handle = session.handle();
    let method = method_of(handle);
    let event = AuditEvent {
        detail: serde_json::json!({
            "method": method.as_str(), "database": handle.identity.database, "tls": handle.identity.tls,
            "application_name": handle.identity.application_name,
            "rule": handle.grant().and_then(Grant::rule), "expires_at": handle.grant().map(|grant| grant.expires_at().unix_timestamp()),
            "token_replaced_by": handle.grant().and_then(Grant::replaced_by),
        }),
        ..event("auth.succeeded", Outcome::Success, handle)
    };
    let Process {
        config, catalog, ..
    } = &*session.worker.process;
    let logins = config.load().audit.logins;
    match logins {
        AuditedLogins::Queued => catalog.record_later(event),
        AuditedLogins::Required => {
            let recorded = catalog.record(event).await;
            recorded.map_err(End::NotRecorded)?;
        }
    }
    session.metrics.login(method, LoginOutcome::Allowed);
    tracing::info!(
        session = %handle.id, peer = %handle.identity.peer, tenant = %handle.identity.tenant,
        role = %handle.identity.role, person = handle.grant().map(Grant::email), "logged in"
    );
    Ok(())
}

async fn note_refusal(worker: &Rc<Worker>, arrival: &Settled, end: &End, row: &Row) {
    let method = if arrival.route.mode == Mode::Token {
        Method::Token
    } else {
        Method::Password
    };
    let tenant = match &arrival.route.tenant {
        Some(tenant) => worker
            .process
            .catalog
            .tenant(tenant)
            .await
            .ok()
            .flatten()
            .map(|tenant| tenant.tenant.clone()),
        None => None,
    };
    let metrics = tenant.as_ref().map_or_else(
        || Rc::new(TenantMetrics::unknown()),
        |tenant| worker.metrics(tenant),
    );
    metrics.login(method, outcome(end));
    if matches!(end, End::ClientLost | End::Terminated) {
        return tracing::debug!(peer = %arrival.peer, "client left during login");
    }
    let proven = match end {
        End::Denied { proven, .. } => proven.clone(),
        _ => None,
    };
    let (person, token) = proven.unzip();
    let event = AuditEvent {
        reason: Some(row.reason.to_owned()),
        tenant: tenant.clone(),
        person,
        token,
        role: Some(arrival.route.role.clone()),
        peer: Some(arrival.peer.to_string()),
        detail: serde_json::json!({ "method": method.as_str() }),
        ..AuditEvent::new(
            "auth.denied",
            Outcome::Failure,
            format!("role:{}", arrival.route.role),
        )
    };
    let novelty = worker
        .process
        .catalog
        .record_refusal(event, arrival.peer.ip());
    let asked = Asked {
        tenant,
        role: Some(&arrival.route.role),
        peer: arrival.peer,
    };
    log(row, &asked, novelty, end);
}

fn outcome(end: &End) -> LoginOutcome {
    match end {
        End::ClientLost
        | End::WriteStall
        | End::Terminated
        | End::LoginTimeout(_)
        | End::Crowded => LoginOutcome::Abandoned,
        End::TooManyFailures => LoginOutcome::Throttled,
        End::CannotVerify
        | End::NotRecorded(_)
        | End::Checkout(_)
        | End::Exchange(_)
        | End::BackendLost => LoginOutcome::Failed,
        _ => LoginOutcome::Refused,
    }
}

fn note_end(session: &Session, row: &Row, parting: &Parting) {
    let handle = session.handle();
    session_ended(row.reason);
    // However long ago it has logged in: it will do so again.
    session.worker.process.throttle.greet(&caller(handle));
    let lasted = OffsetDateTime::now_utc() - handle.started_at;
    let event = AuditEvent {
        reason: Some(row.reason.to_owned()),
        detail: serde_json::json!(Ended {
            seconds: lasted.as_seconds_f64(),
            transactions: handle.transactions.load(Relaxed),
            bytes_in: handle.bytes_in.load(Relaxed),
            bytes_out: handle.bytes_out.load(Relaxed),
            parting,
        }),
        ..event("session.ended", Outcome::Success, handle)
    };
    session.worker.process.catalog.record_later(event);
    tracing::info!(
        session = %handle.id, peer = %handle.identity.peer, tenant = %handle.identity.tenant,
        role = %handle.identity.role, person = handle.grant().map(Grant::email), reason = row.reason, "session ended"
    );
}

/// What somebody who was refused had asked for.
struct Asked<'a> {
    /// One that there is.
    tenant: Option<TenantRef>,
    /// As it was typed: in the log between quotation marks, so that it can pass for nothing else.
    role: Option<&'a RoleName>,
    peer: SocketAddr,
}

/// Like the trail, the log has a line for the first refusal of its kind only: a flood must not fill the disk.
fn log(row: &Row, asked: &Asked<'_>, novelty: Novelty, end: &End) {
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(
                peer = %asked.peer, tenant = asked.tenant.as_ref().map(tracing::field::display),
                role = asked.role.map(RoleName::as_str), reason = row.reason, %end, "login refused"
            )
        };
    }
    match (novelty, row.level) {
        (Novelty::Repeated, _) => say!(debug),
        (Novelty::First, tracing::Level::ERROR) => say!(error),
        (Novelty::First, tracing::Level::WARN) => say!(warn),
        (Novelty::First, _) => say!(info),
    }
}

/// Who has logged in to this session.
fn caller(handle: &SessionHandle) -> Caller {
    let Identity {
        tenant, role, peer, ..
    } = &handle.identity;
    let mode = match method_of(handle) {
        Method::Token => Mode::Token,
        Method::Password => Mode::Password,
    };
    Caller::new(peer.ip(), Some(tenant.clone()), role.clone(), mode)
}

fn event(kind: &str, outcome: Outcome, handle: &SessionHandle) -> AuditEvent {
    let person = handle.grant().map(Grant::person);
    let actor = person.map_or_else(
        || format!("role:{}", handle.identity.role),
        |person| format!("person:{person}"),
    );
    AuditEvent {
        tenant: Some(handle.identity.tenant.clone()),
        person,
        role: Some(handle.identity.role.clone()),
        session: Some(handle.id),
        token: handle.identity.token.clone(),
        peer: Some(handle.identity.peer.to_string()),
        ..AuditEvent::new(kind, outcome, actor)
    }
}

fn method_of(handle: &SessionHandle) -> Method {
    if handle.identity.token.is_some() {
        Method::Token
    } else {
        Method::Password
    }
}
