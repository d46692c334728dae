//! What is used to count: handles made once where a metric is hot, functions where it is rare.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::{
    AUTHORITY_CALL, AUTHORITY_CALLS, BACKEND_CONNECTS, BACKENDS, BACKENDS_IDLE, BYTES,
    CANCEL_REQUESTS, CLIENTS, CLIENTS_WAITING, LEAKS, LOG_LINES_DROPPED, LOGINS, QUEUE_WAIT,
    REVOCATION, REVOCATIONS, SESSIONS_ENDED, TRANSACTIONS,
};
use crate::names::TenantRef;

/// A value of a label: one word of a closed set.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident: $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            pub(super) const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

label!(
    /// How a client proves who it is.
    Method {
        Password: "password",
        Token: "token",
    }
);
label!(
    /// How a login ended.
    LoginOutcome {
        Allowed: "allowed",
        /// Wrong password or token, no rule, over a limit: the client's to mend.
        Refused: "refused",
        /// Ours or the tenant's PostgreSQL's to mend.
        Failed: "failed",
        /// Not let try, after too many failures from its address.
        Throttled: "throttled",
        /// The client left, or was too slow.
        Abandoned: "abandoned",
    }
);
label!(
    /// What came of a question to an external authority.
    AuthorityOutcome {
        Allowed: "allowed",
        Refused: "refused",
        Unavailable: "unavailable",
    }
);
label!(
    /// How an attempt to reach a tenant's PostgreSQL ended.
    ConnectOutcome {
        Connected: "connected",
        Failed: "failed",
    }
);
label!(
    /// What became of a cancel request.
    CancelOutcome {
        Forwarded: "forwarded",
        /// Its session waited for a backend, and was told so.
        Dequeued: "dequeued",
        /// Its session had nothing running.
        Idle: "idle",
        UnknownKey: "unknown_key",
        /// Too many wrong keys from this address.
        Throttled: "throttled",
        /// The tenant's PostgreSQL could not be reached.
        Failed: "failed",
    }
);

label!(
    /// What of a client's session was kept from the next client.
    LeakKind {
        Settings: "settings",
        Role: "role",
        TemporaryTable: "temp_table",
        HoldCursor: "hold_cursor",
        AdvisoryLock: "advisory_lock",
        Listen: "listen",
        PreparedStatement: "prepared_statement",
    }
);

impl LeakKind {
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Whether the client finds it again on the next backend.
    #[must_use]
    pub fn follows_client(self) -> bool {
        matches!(
            self,
            Self::Settings | Self::Role | Self::Listen | Self::PreparedStatement
        )
    }
}

/// The metrics of one tenant.
#[derive(Clone)]
pub struct TenantMetrics {
    clients: Gauge,
    waiting: Gauge,
    backends: Gauge,
    idle: Gauge,
    transactions: Counter,
    logins: [[Counter; LoginOutcome::ALL.len()]; Method::ALL.len()],
    connects: [Counter; ConnectOutcome::ALL.len()],
}

impl TenantMetrics {
    /// For a tenant that exists.
    #[must_use]
    pub fn new(tenant: &TenantRef) -> Self {
        Self::labelled(tenant.as_str())
    }

    /// Stands for every tenant that does not exist: the names that strangers try must not become labels.
    #[must_use]
    pub fn unknown() -> Self {
        Self::labelled("")
    }

    fn labelled(tenant: &str) -> Self {
        let login = |method: Method, outcome: LoginOutcome| counter!(LOGINS, "tenant" => tenant.to_owned(), "method" => method.as_str(), "outcome" => outcome.as_str());
        let connect = |outcome: ConnectOutcome| counter!(BACKEND_CONNECTS, "tenant" => tenant.to_owned(), "outcome" => outcome.as_str());
        Self {
            clients: gauge!(CLIENTS, "tenant" => tenant.to_owned()),
            waiting: gauge!(CLIENTS_WAITING, "tenant" => tenant.to_owned()),
            backends: gauge!(BACKENDS, "tenant" => tenant.to_owned()),
            idle: gauge!(BACKENDS_IDLE, "tenant" => tenant.to_owned()),
            transactions: counter!(TRANSACTIONS, "tenant" => tenant.to_owned()),
            logins: Method::ALL
                .map(|method| LoginOutcome::ALL.map(|outcome| login(method, outcome))),
            connects: ConnectOutcome::ALL.map(connect),
        }
    }

    /// One more client, until the guard is dropped.
    #[must_use]
    pub fn client(&self) -> GaugeGuard {
        GaugeGuard::new(self.clients.clone())
    }

    /// One more backend, until the guard is dropped.
    #[must_use]
    pub fn backend(&self) -> GaugeGuard {
        GaugeGuard::new(self.backends.clone())
    }

    /// How many clients wait, and how many backends are idle, now. Told from time to time: neither is worth an atomic
    /// operation per transaction.
    pub fn load(&self, waiting: usize, idle: usize) {
        self.waiting.set(waiting as f64);
        self.idle.set(idle as f64);
    }

    pub fn transaction(&self) {
        self.transactions.increment(1);
    }

    pub fn login(&self, method: Method, outcome: LoginOutcome) {
        self.logins[method as usize][outcome as usize].increment(1);
    }

    pub fn connect(&self, outcome: ConnectOutcome) {
        self.connects[outcome as usize].increment(1);
    }
}

/// Counts one as long as it lives.
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// What all sessions together count, as often as once a transaction.
#[derive(Clone)]
pub struct Traffic {
    received: Counter,
    sent: Counter,
    queue_wait: Histogram,
}

impl Traffic {
    #[must_use]
    pub fn new() -> Self {
        Self {
            received: counter!(BYTES, "direction" => "in"),
            sent: counter!(BYTES, "direction" => "out"),
            queue_wait: histogram!(QUEUE_WAIT),
        }
    }

    /// Bytes that came from a client.
    pub fn received(&self, bytes: u64) {
        self.received.increment(bytes);
    }

    /// Bytes that went to a client.
    pub fn sent(&self, bytes: u64) {
        self.sent.increment(bytes);
    }

    /// A session got a backend after this wait.
    pub fn queue_wait(&self, wait: Duration) {
        self.queue_wait.record(wait);
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self::new()
    }
}

/// A session has ended; `cause` is a word of the table of ends.
pub fn session_ended(cause: &'static str) {
    counter!(SESSIONS_ENDED, "cause" => cause).increment(1);
}

/// A change of rules ended `sessions` sessions, and took `elapsed` to see the last of them gone.
pub fn revoked(sessions: u32, elapsed: Duration) {
    counter!(REVOCATIONS).increment(u64::from(sessions));
    histogram!(REVOCATION).record(elapsed);
}

/// An external authority was asked.
pub fn authority_asked(outcome: AuthorityOutcome, took: Duration) {
    counter!(AUTHORITY_CALLS, "outcome" => outcome.as_str()).increment(1);
    histogram!(AUTHORITY_CALL).record(took);
}

/// Shows what counts from the start at 0: of a line that appears with its first event, no rate can be told.
pub(super) fn start_at_zero() {
    for outcome in CancelOutcome::ALL {
        counter!(CANCEL_REQUESTS, "outcome" => outcome.as_str()).increment(0);
    }
    for kind in LeakKind::ALL {
        counter!(LEAKS, "kind" => kind.as_str()).increment(0);
    }
    for outcome in AuthorityOutcome::ALL {
        counter!(AUTHORITY_CALLS, "outcome" => outcome.as_str()).increment(0);
    }
    counter!(REVOCATIONS).increment(0);
    counter!(LOG_LINES_DROPPED).increment(0);
}

pub fn cancel_request(outcome: CancelOutcome) {
    counter!(CANCEL_REQUESTS, "outcome" => outcome.as_str()).increment(1);
}

/// Session state was kept from the next client.
pub fn leak(kind: LeakKind) {
    counter!(LEAKS, "kind" => kind.as_str()).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_of_a_label_has_its_place() {
        let outcomes = LoginOutcome::ALL.map(|outcome| outcome as usize);
        assert_eq!(outcomes, std::array::from_fn(|index| index));
        let words = CancelOutcome::ALL.map(CancelOutcome::as_str);
        assert!(words.contains(&"unknown_key"));
        assert!(words.iter().all(|word| !word.contains(' ')));
    }
}
