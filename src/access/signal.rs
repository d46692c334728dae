//! The one way to reach into a session from outside: "end now, because".
//!
//! A signal is set from any thread and read by the session's own task at every poll. The first cause stays;
//! only a drain, which merely asks a session to end when it is idle, gives way to anything stronger.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use serde::Serialize;

/// Why somebody else ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum EndCause {
    /// The process shuts down: end as soon as no transaction is open.
    Drain = 1,
    /// The process shuts down and the time for draining is over.
    Shutdown,
    /// An administrator ended this one session.
    Administrator,
    /// The grant no longer holds.
    Revoked,
    /// The grant's time is over.
    Expired,
    /// The authority cannot be asked whether the grant still holds.
    AuthorityLost,
    /// The client was idle for too long.
    IdleTimeout,
    /// The client was idle inside a transaction for too long.
    IdleInTransactionTimeout,
    /// No backend came free in time.
    QueueTimeout,
    /// A statement ran for too long.
    QueryTimeout,
    /// A transaction was open for too long.
    TransactionTimeout,
}

impl EndCause {
    const ALL: [Self; 11] = [
        Self::Drain,
        Self::Shutdown,
        Self::Administrator,
        Self::Revoked,
        Self::Expired,
        Self::AuthorityLost,
        Self::IdleTimeout,
        Self::IdleInTransactionTimeout,
        Self::QueueTimeout,
        Self::QueryTimeout,
        Self::TransactionTimeout,
    ];

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// Whether it is the person's access that has ended, and not merely this session.
    #[must_use]
    pub fn ends_access(self) -> bool {
        matches!(self, Self::Revoked | Self::Expired | Self::AuthorityLost)
    }

    /// The word for audit, logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Drain | Self::Shutdown => "shutdown",
            Self::Administrator => "administrator",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::AuthorityLost => "authority_lost",
            Self::IdleTimeout => "idle_timeout",
            Self::IdleInTransactionTimeout => "idle_in_transaction_timeout",
            Self::QueueTimeout => "queue_timeout",
            Self::QueryTimeout => "query_timeout",
            Self::TransactionTimeout => "transaction_timeout",
        }
    }
}

const NONE: u8 = 0;

/// A cause that is set at most once and wakes the session it concerns.
#[derive(Debug, Default)]
pub(super) struct Signal {
    cause: AtomicU8,
    waker: AtomicWaker,
}

impl Signal {
    /// Asks the session to end. Returns whether this was the first such request.
    pub(super) fn set(&self, cause: EndCause) -> bool {
        let first = self.replace(NONE, cause)
            || (cause != EndCause::Drain && self.replace(EndCause::Drain as u8, cause));
        if first {
            self.waker.wake();
        }
        first
    }

    fn replace(&self, old: u8, cause: EndCause) -> bool {
        self.cause
            .compare_exchange(old, cause as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    pub(super) fn cause(&self) -> Option<EndCause> {
        EndCause::from_code(self.cause.load(Ordering::Acquire))
    }

    /// Ready with the cause once there is one; the task is woken when it comes, and when a stronger one follows.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<EndCause> {
        match self.cause() {
            Some(EndCause::Drain) | None => self.waker.register(context.waker()),
            Some(cause) => return Poll::Ready(cause),
        }
        match self.cause() {
            Some(cause) => Poll::Ready(cause),
            None => Poll::Pending,
        }
    }

    /// Wakes the session without ending it: something else has changed for it.
    pub(super) fn nudge(&self) {
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_stays_but_a_drain_gives_way() {
        let signal = Signal::default();
        assert!(signal.set(EndCause::Drain));
        assert!(signal.set(EndCause::Revoked));
        assert!(!signal.set(EndCause::Expired));
        assert!(!signal.set(EndCause::Drain));
        assert_eq!(signal.cause(), Some(EndCause::Revoked));
    }

    #[test]
    fn every_cause_survives_its_code() {
        for cause in EndCause::ALL {
            assert_eq!(EndCause::from_code(cause as u8), Some(cause));
        }
        assert_eq!(EndCause::from_code(0), None);
        assert_eq!(EndCause::from_code(99), None);
    }
}
