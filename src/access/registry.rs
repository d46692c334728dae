//! Every session of this process, from before its login is decided until nothing of it is left.
//!
//! A session is registered *before* the final decision about its login is read from the catalogue. So a
//! revocation, which commits first and scans the registry afterwards, either finds the session here or the
//! session's decision was read after the commit: there is no gap between the two.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll},
};

use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::{sync::Notify, time::Instant};
use utoipa::ToSchema;

use super::{
    external::Standing,
    grant::Grant,
    signal::{EndCause, Signal},
};
use crate::{
    catalog::{ExternalToken, types::Revision},
    memory::Trim as _,
    names::{DatabaseName, PersonId, RoleName, RuleId, SessionId, TenantRef, TokenId},
    scheduling::{Hurry, TURNS},
};

/// What a session is doing, for those who look from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Activity {
    Login,
    Idle,
    Waiting,
    Active,
    IdleInTransaction,
    Ending,
}

impl Activity {
    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Login,
            1 => Self::Idle,
            2 => Self::Waiting,
            3 => Self::Active,
            4 => Self::IdleInTransaction,
            _ => Self::Ending,
        }
    }
}

/// What is known of a session when it registers.
#[derive(Debug, Clone)]
pub struct Identity {
    pub tenant: TenantRef,
    pub role: RoleName,
    pub database: DatabaseName,
    pub peer: SocketAddr,
    /// TLS version and cipher; `None`: plaintext.
    pub tls: Option<String>,
    pub application_name: String,
    /// The token the session logs in with; `None`: a password session.
    pub token: Option<TokenId>,
    /// Who decides about the token, if not the catalogue alone.
    pub external: Option<External>,
}

/// How a token is decided about that is not the catalogue's.
#[derive(Debug, Clone)]
pub enum External {
    /// The tenant's HTTP service is asked, again and again: so the token is kept. Wiped when the session ends.
    Http(Arc<ExternalToken>),
    /// Its issuer's signature was checked once, at login.
    Jwt,
}

impl Identity {
    /// The token that an HTTP service can be asked about again.
    pub(super) fn kept_token(&self) -> Option<&Arc<ExternalToken>> {
        match &self.external {
            Some(External::Http(token)) => Some(token),
            Some(External::Jwt) | None => None,
        }
    }
}

/// One session as the rest of the process sees it. Counters have a single writer, the session itself.
#[derive(Debug)]
pub struct SessionHandle {
    pub id: SessionId,
    pub identity: Identity,
    pub started_at: OffsetDateTime,
    /// Boxed, because most sessions have none.
    granted: OnceLock<Box<Grant>>,
    /// What somebody else than the catalogue has said; `None` before that, and for all other sessions.
    pub(super) standing: Mutex<Option<Box<Standing>>>,
    /// Taken to write the two numbers below, which belong together; they are read without it.
    deciding: Mutex<()>,
    /// Unix milliseconds; `i64::MAX`: never.
    expires_at_ms: AtomicI64,
    decided_at: AtomicI64,
    activity: AtomicU8,
    backend_pid: AtomicU32,
    /// Its role is a superuser, replicates or makes roles, which its server has told.
    privileged: AtomicBool,
    /// Its backend was closed, but nothing proves that the server process is gone.
    unconfirmed: AtomicBool,
    pub transactions: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    signal: Signal,
    asked_to_end: OnceLock<Instant>,
    watchers: Mutex<Vec<Arc<Latch>>>,
}

impl SessionHandle {
    fn new(identity: Identity) -> Self {
        Self {
            id: SessionId::generate(),
            identity,
            started_at: OffsetDateTime::now_utc(),
            granted: OnceLock::new(),
            standing: Mutex::new(None),
            deciding: Mutex::new(()),
            expires_at_ms: AtomicI64::new(i64::MAX),
            decided_at: AtomicI64::new(0),
            activity: AtomicU8::new(Activity::Login as u8),
            backend_pid: AtomicU32::new(0),
            privileged: AtomicBool::new(false),
            unconfirmed: AtomicBool::new(false),
            transactions: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            signal: Signal::default(),
            asked_to_end: OnceLock::new(),
            watchers: Mutex::new(Vec::new()),
        }
    }

    /// The grant the session lives on; `None` before the decision and for password sessions.
    #[must_use]
    pub fn grant(&self) -> Option<&Grant> {
        self.granted.get().map(|grant| &**grant)
    }

    /// Remembers the first decision, or a later one that confirms it. One that was read before the last is past.
    pub(super) fn confirm(&self, grant: &Grant) {
        self.granted.get_or_init(|| Box::new(grant.clone()));
        self.decide(grant.revision(), unix_ms(grant.expires_at()));
    }

    fn decide(&self, revision: Revision, expires_at_ms: i64) {
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        if revision >= self.decided_at() {
            self.expires_at_ms.store(expires_at_ms, Relaxed);
            self.decided_at.store(revision.0, Relaxed);
        }
    }

    /// The revision up to which the catalogue is known to allow this session.
    #[must_use]
    pub fn decided_at(&self) -> Revision {
        Revision(self.decided_at.load(Relaxed))
    }

    /// When the grant runs out, in unix milliseconds; `None`: never.
    #[must_use]
    pub fn expires_at_ms(&self) -> Option<i64> {
        Some(self.expires_at_ms.load(Relaxed)).filter(|at| *at != i64::MAX)
    }

    pub fn set_activity(&self, activity: Activity) {
        self.activity.store(activity as u8, Relaxed);
    }

    #[must_use]
    pub fn activity(&self) -> Activity {
        Activity::from_code(self.activity.load(Relaxed))
    }

    /// The backend's process id while one is checked out; 0: none.
    pub fn set_backend_pid(&self, pid: u32) {
        self.backend_pid.store(pid, Relaxed);
    }

    /// Notes that the session's role is a privileged one, whatever its name.
    pub fn mark_privileged(&self) {
        self.privileged.store(true, Relaxed);
    }

    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.privileged.load(Relaxed)
    }

    #[must_use]
    pub fn has_backend(&self) -> bool {
        self.backend_pid.load(Relaxed) != 0
    }

    /// Notes that nothing proves the end of the server process that the session has left behind.
    pub fn mark_unconfirmed(&self) {
        self.unconfirmed.store(true, Relaxed);
    }

    /// Adds to a counter that only the session itself writes.
    pub fn count(counter: &AtomicU64, by: u64) {
        counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
    }

    /// Asks the session to end. Returns whether nobody had asked before.
    pub fn end(&self, cause: EndCause) -> bool {
        // A drain may wait for as long as the client works.
        if cause != EndCause::Drain {
            self.asked_to_end.get_or_init(Instant::now);
        }
        self.signal.set(cause)
    }

    /// Since when somebody wants the session to end; `None`: nobody does, or only when it suits the client.
    #[must_use]
    pub fn asked_to_end(&self) -> Option<Instant> {
        self.asked_to_end.get().copied()
    }

    #[must_use]
    pub fn end_cause(&self) -> Option<EndCause> {
        self.signal.cause()
    }

    /// Ready once the session has to end.
    pub fn poll_end(&self, context: &mut Context<'_>) -> Poll<EndCause> {
        self.signal.poll(context)
    }

    /// Wakes the session's task to look around, without ending it.
    pub fn nudge(&self) {
        self.signal.nudge();
    }

    fn watch(&self, latch: &Arc<Latch>) {
        self.watchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(latch));
    }
}

/// Counts sessions down to none and lets one task wait for it. Whoever has to end them is in a hurry until then.
#[derive(Debug)]
pub(super) struct Latch {
    _hurry: Hurry<'static>,
    left: AtomicU32,
    ended: AtomicU32,
    with_backend: AtomicU32,
    unproven: AtomicU32,
    emptied: Notify,
}

impl Default for Latch {
    fn default() -> Self {
        Self {
            _hurry: TURNS.hurry(),
            left: AtomicU32::default(),
            ended: AtomicU32::default(),
            with_backend: AtomicU32::default(),
            unproven: AtomicU32::default(),
            emptied: Notify::default(),
        }
    }
}

impl Latch {
    /// Waits until all watched sessions are gone.
    pub(super) async fn wait(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.left.load(Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// How many sessions are gone for certain. A login that never had a grant is none.
    pub(super) fn ended(&self) -> u32 {
        self.ended.load(Relaxed)
    }

    /// How many sessions are still there, or have left a server process behind that may be.
    pub(super) fn unconfirmed(&self) -> u32 {
        self.left.load(Acquire) + self.unproven.load(Relaxed)
    }

    /// How many of the sessions that are gone closed a backend with them.
    pub(super) fn with_backend(&self) -> u32 {
        self.with_backend.load(Relaxed)
    }

    fn session_gone(&self, session: &SessionHandle) {
        let counts = session.grant().is_some() || session.identity.token.is_none();
        if session.unconfirmed.load(Relaxed) {
            self.unproven.fetch_add(1, Relaxed);
        } else {
            let had_backend = session.backend_pid.load(Relaxed) != 0;
            self.ended.fetch_add(u32::from(counts), Relaxed);
            self.with_backend.fetch_add(u32::from(had_backend), Relaxed);
        }
        if self.left.fetch_sub(1, AcqRel) == 1 {
            self.emptied.notify_waiters();
        }
    }
}

/// All sessions of the process.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: DashMap<SessionId, Arc<SessionHandle>>,
}

impl Registry {
    /// Registers a session that is about to log in; dropping the registration removes it.
    #[must_use]
    pub fn register(self: &Arc<Self>, identity: Identity) -> Registration {
        let handle = Arc::new(SessionHandle::new(identity));
        self.sessions.insert(handle.id, Arc::clone(&handle));
        Registration {
            registry: Arc::clone(self),
            handle,
        }
    }

    /// The sessions of which `chosen` is true, as they are now.
    pub(super) fn matching(
        &self,
        chosen: impl Fn(&SessionHandle) -> bool,
    ) -> Vec<Arc<SessionHandle>> {
        self.sessions
            .iter()
            .filter(|entry| chosen(entry.value()))
            .map(|entry| Arc::clone(entry.value()))
            .collect()
    }

    #[must_use]
    pub fn find(&self, id: SessionId) -> Option<Arc<SessionHandle>> {
        self.sessions
            .get(&id)
            .map(|entry| Arc::clone(entry.value()))
    }

    /// Gives back memory that many sessions have needed.
    pub fn trim(&self) {
        self.sessions.trim();
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Asks every session to end.
    pub fn end_all(&self, cause: EndCause) {
        for entry in &self.sessions {
            entry.value().end(cause);
        }
    }

    /// Ends `sessions` and answers a latch that opens when all of them are gone.
    pub(super) fn end(&self, sessions: &[(Arc<SessionHandle>, EndCause)]) -> Arc<Latch> {
        let latch = Arc::new(Latch::default());
        for (session, cause) in sessions {
            self.end_one(session, *cause, &latch);
        }
        latch
    }

    /// Ends `session`, and has `latch`, for which nobody waits yet, open no earlier than that it is gone.
    pub(super) fn end_one(&self, session: &SessionHandle, cause: EndCause, latch: &Arc<Latch>) {
        latch.left.fetch_add(1, Relaxed);
        session.watch(latch);
        session.end(cause);
        // It may have left between the scan and the watch: then nobody counts it down but we.
        if !self.sessions.contains_key(&session.id) {
            Self::release_watchers(session);
        }
    }

    fn release_watchers(session: &SessionHandle) {
        let watchers = std::mem::take(
            &mut *session
                .watchers
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for latch in watchers {
            latch.session_gone(session);
        }
    }
}

/// A session's place in the registry, given up by dropping it: after its client was told and its backend is gone.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<Registry>,
    handle: Arc<SessionHandle>,
}

impl Registration {
    #[must_use]
    pub fn handle(&self) -> &Arc<SessionHandle> {
        &self.handle
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.sessions.remove(&self.handle.id);
        Registry::release_watchers(&self.handle);
    }
}

/// One session as the API and the CLI list it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    pub id: SessionId,
    pub tenant: TenantRef,
    pub role: RoleName,
    pub database: DatabaseName,
    pub person: Option<PersonId>,
    pub email: Option<String>,
    pub token: Option<TokenId>,
    pub rule: Option<RuleId>,
    pub peer: String,
    pub tls: Option<String>,
    pub application_name: String,
    pub state: Activity,
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    pub backend_pid: Option<u32>,
    pub transactions: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl From<&SessionHandle> for SessionView {
    fn from(session: &SessionHandle) -> Self {
        let grant = session.grant();
        let identity = &session.identity;
        Self {
            id: session.id,
            tenant: identity.tenant.clone(),
            role: identity.role.clone(),
            database: identity.database.clone(),
            person: grant.map(Grant::person),
            email: grant.map(|grant| grant.email().to_owned()),
            token: identity.token.clone(),
            rule: grant.and_then(Grant::rule),
            peer: identity.peer.to_string(),
            tls: identity.tls.clone(),
            application_name: identity.application_name.clone(),
            state: session.activity(),
            started_at: session.started_at,
            expires_at: session.expires_at_ms().and_then(from_unix_ms),
            backend_pid: Some(session.backend_pid.load(Relaxed)).filter(|pid| *pid != 0),
            transactions: session.transactions.load(Relaxed),
            bytes_in: session.bytes_in.load(Relaxed),
            bytes_out: session.bytes_out.load(Relaxed),
        }
    }
}

fn unix_ms(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

fn from_unix_ms(ms: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            tenant: TenantRef::parse("demo").unwrap(),
            role: RoleName::parse("app").unwrap(),
            database: DatabaseName::parse("app").unwrap(),
            peer: "127.0.0.1:5".parse().unwrap(),
            tls: None,
            application_name: String::new(),
            token: None,
            external: None,
        }
    }

    #[tokio::test]
    async fn a_latch_opens_when_the_last_session_is_gone() {
        let registry = Arc::new(Registry::default());
        let (first, second) = (registry.register(identity()), registry.register(identity()));
        let sessions = [&first, &second].map(|s| (Arc::clone(s.handle()), EndCause::Revoked));
        let latch = registry.end(&sessions);
        assert_eq!(first.handle().end_cause(), Some(EndCause::Revoked));
        first.handle().set_backend_pid(7);
        drop(first);
        assert_eq!(latch.unconfirmed(), 1);
        drop(second);
        latch.wait().await;
        assert_eq!((latch.ended(), latch.unconfirmed()), (2, 0));
        assert_eq!(latch.with_backend(), 1);
        assert!(registry.is_empty());
    }

    #[tokio::test]
    async fn a_session_whose_backend_may_live_on_is_not_confirmed() {
        let registry = Arc::new(Registry::default());
        let session = registry.register(identity());
        session.handle().set_backend_pid(7);
        let latch = registry.end(&[(Arc::clone(session.handle()), EndCause::Revoked)]);
        session.handle().mark_unconfirmed();
        drop(session);
        latch.wait().await;
        assert_eq!((latch.ended(), latch.unconfirmed()), (0, 1));
        assert_eq!(latch.with_backend(), 0);
    }

    #[tokio::test]
    async fn a_login_without_a_grant_is_waited_for_but_is_no_session() {
        let registry = Arc::new(Registry::default());
        let login = registry.register(Identity {
            token: Some(TokenId::parse("abcdefghijkl").unwrap()),
            ..identity()
        });
        let latch = registry.end(&[(Arc::clone(login.handle()), EndCause::Revoked)]);
        assert_eq!(latch.unconfirmed(), 1);
        drop(login);
        latch.wait().await;
        assert_eq!((latch.ended(), latch.unconfirmed()), (0, 0));
    }

    #[test]
    fn an_older_decision_changes_nothing() {
        let session = SessionHandle::new(identity());
        session.decide(Revision(5), 1_000);
        session.decide(Revision(4), 9_000);
        assert_eq!(
            (session.decided_at(), session.expires_at_ms()),
            (Revision(5), Some(1_000))
        );
        session.decide(Revision(6), 2_000);
        assert_eq!(
            (session.decided_at(), session.expires_at_ms()),
            (Revision(6), Some(2_000))
        );
    }

    #[tokio::test]
    async fn a_session_that_left_before_the_watch_is_not_waited_for() {
        let registry = Arc::new(Registry::default());
        let session = registry.register(identity());
        let handle = Arc::clone(session.handle());
        drop(session);
        registry.end(&[(handle, EndCause::Revoked)]).wait().await;
    }
}
