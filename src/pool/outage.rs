//! A server that does not let us in: who waits for it, and who is told at once.
//!
//! ```text
//! connect fails ─┬─ waiting may help (down, starting, full) ─┬─ away for less than a waiter's patience: it waits on,
//!                │                                           │  and after the back-off the next attempt is made
//!                │                                           └─ for longer: it is told the reason
//!                └─ waiting does not help (password, database, TLS): everybody is told
//! ```
//! During the back-off nobody connects, and whoever comes and would have to be told is told from memory.

use std::{io, rc::Rc, time::Duration};

use tokio::time::Instant;

use super::{CheckoutError, Pool, turns::Place};
use crate::{backend::ConnectError, net::client_tls::ClientTlsError, protocol::error::SqlState};

/// Connects have failed since then, without a success in between.
pub(super) struct Outage {
    since: Instant,
    last: Instant,
    error: CheckoutError,
}

impl Pool {
    /// Why nothing can be expected of the server at the moment; `None`: there are backends, or nothing has failed.
    #[must_use]
    pub fn outage(&self) -> Option<CheckoutError> {
        let in_use = self.open.get() as usize > self.connecting.get() + self.closing.get();
        let outage = self.outage.borrow();
        let outage = outage.as_ref().filter(|_| !in_use)?;
        Some(outage.error.clone())
    }

    /// A connect has failed. Whoever could only have waited for it is told if there is no hope; others wait on for
    /// the backends there are, or for the next attempt.
    pub(super) fn failed(self: &Rc<Self>, error: CheckoutError, place: Place) {
        tracing::warn!(tenant = %self.key.tenant, role = %self.key.role, %error, "cannot open a backend");
        let last = Instant::now();
        let earlier = self.outage.take();
        let since = earlier.map_or(last, |outage| outage.since);
        self.outage.replace(Some(Outage { since, last, error }));
        drop(place);
        let hopeless = self.remove_waiters(|patience| self.hopeless(patience));
        for (waiter, error) in hopeless {
            let _ = waiter.serve(Err(error));
        }
    }

    /// What somebody with so much patience is told; `None`: there is hope.
    pub(super) fn hopeless(&self, patience: Duration) -> Option<CheckoutError> {
        if self.open.get() > 0 {
            return None;
        }
        let outage = self.outage.borrow();
        let hopeless =
            |outage: &&Outage| !outage.error.may_pass() || outage.since.elapsed() >= patience;
        let outage = outage.as_ref().filter(hopeless)?;
        Some(outage.error.clone())
    }

    pub(super) fn is_backing_off(&self) -> bool {
        let backoff = self.tenant.shared.settings.connect_backoff;
        let outage = self.outage.borrow();
        outage
            .as_ref()
            .is_some_and(|outage| outage.last.elapsed() < backoff)
    }

    /// New credentials may do better than the ones that failed.
    pub(super) fn forget_refused_credentials(&self) {
        let mut outage = self.outage.borrow_mut();
        if outage
            .as_ref()
            .is_some_and(|outage| outage.error.is_about_credentials())
        {
            *outage = None;
        }
    }
}

impl CheckoutError {
    fn is_about_credentials(&self) -> bool {
        matches!(self, Self::Connect(error) if matches!(**error, ConnectError::Refused(_) | ConnectError::Method
            | ConnectError::Scram(_) | ConnectError::ScramPassword(_) | ConnectError::Iterations))
    }

    /// Whether the same attempt may succeed a little later: the server is away, starts, stops, or is full.
    fn may_pass(&self) -> bool {
        let Self::Connect(error) = self else {
            return false;
        };
        match &**error {
            ConnectError::Resolve(_)
            | ConnectError::Unreachable(_)
            | ConnectError::TimedOut(_)
            | ConnectError::Broken(_)
            | ConnectError::Tls(ClientTlsError::Io(_)) => true,
            // What a certificate is refused for is `InvalidData`.
            ConnectError::Tls(ClientTlsError::Handshake(error)) => {
                error.kind() != io::ErrorKind::InvalidData
            }
            ConnectError::Refused(response) => matches!(
                response.code,
                SqlState::ADMIN_SHUTDOWN
                    | SqlState::CRASH_SHUTDOWN
                    | SqlState::CANNOT_CONNECT_NOW
                    | SqlState::TOO_MANY_CONNECTIONS
            ),
            ConnectError::Tls(_)
            | ConnectError::Method
            | ConnectError::Scram(_)
            | ConnectError::ScramPassword(_)
            | ConnectError::Iterations
            | ConnectError::Unverified
            | ConnectError::Protocol => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::error::{ErrorResponse, Severity};

    #[test]
    fn only_what_may_pass_is_waited_for() {
        let may_pass = |error| CheckoutError::Connect(Rc::new(error)).may_pass();
        let refused =
            |code| ConnectError::Refused(Box::new(ErrorResponse::new(Severity::Fatal, code, "no")));
        assert!(may_pass(ConnectError::Unreachable(
            io::ErrorKind::ConnectionRefused.into()
        )));
        assert!(may_pass(refused(SqlState::CANNOT_CONNECT_NOW)));
        assert!(!may_pass(refused(SqlState::INVALID_PASSWORD)));
        assert!(!may_pass(refused(SqlState::INVALID_CATALOG_NAME)));
        assert!(!may_pass(ConnectError::Tls(ClientTlsError::Handshake(
            io::ErrorKind::InvalidData.into()
        ))));
    }
}
