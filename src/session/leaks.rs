//! What a client leaves behind that must not reach the next one: counted and logged once per client and kind, so that
//! the operator can tell its owner.

use crate::{
    access::{Grant, SessionHandle},
    metrics::{LeakKind, leak},
};

/// The kinds of state that one client has left behind so far.
#[derive(Debug, Default)]
pub(super) struct Leaks(Vec<LeakKind>);

impl Leaks {
    /// Notes what was found when a backend came back from the session of `handle`.
    pub(super) fn note(&mut self, found: &[LeakKind], handle: &SessionHandle) {
        for kind in found {
            if self.0.contains(kind) {
                continue;
            }
            self.0.push(*kind);
            leak(*kind);
            log(*kind, handle);
        }
    }
}

/// What follows the client to its next backend is nobody's worry; what it will miss there is its owner's.
fn log(kind: LeakKind, handle: &SessionHandle) {
    let (session, tenant, role) = (handle.id, &handle.identity.tenant, &handle.identity.role);
    let person = handle.grant().map(Grant::email);
    let kind_word = kind.as_str();
    if kind.follows_client() {
        tracing::debug!(%session, %tenant, %role, person, kind = kind_word, "session state follows its client");
    } else {
        tracing::info!(%session, %tenant, %role, person, kind = kind_word, "session state was removed: it cannot outlive a transaction here");
    }
}
