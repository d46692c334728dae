//! What the pools of a worker look like at one moment, for whoever operates them.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{Pool, Pools, Principal, Service};
use crate::names::{DatabaseName, PersonId, RoleName, TenantRef};

/// One pool: whose it is, what its backends do, and who waits for them.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    pub tenant: TenantRef,
    pub database: DatabaseName,
    pub role: RoleName,
    pub kind: PoolKind,
    /// Whose sessions alone it serves, where it is a person's.
    pub person: Option<PersonId>,
    /// Backends that it may have, as far as the budgets allow.
    pub size: u32,
    /// Backends that nobody uses.
    pub idle: u32,
    /// Backends on loan to a session.
    pub in_use: u32,
    /// Backends that are being opened or closed.
    pub changing: u32,
    /// Sessions that wait for a backend.
    pub waiting: u32,
    /// How long the first of them has waited, in milliseconds.
    pub longest_wait_ms: Option<f64>,
}

/// Whom a pool serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// Everybody who knows the role's password.
    Password,
    /// One person, by token.
    Person,
    /// The pooler itself, to look up password verifiers.
    AuthQuery,
    /// One client that replicates.
    Replication,
}

impl Pools {
    /// All pools of this worker, as they are now.
    #[must_use]
    pub fn view(&self) -> Vec<PoolView> {
        let now = Instant::now();
        let pools = self.matching(|_| true);
        pools.iter().map(|pool| pool.view(now)).collect()
    }
}

impl Pool {
    fn view(&self, now: Instant) -> PoolView {
        let idle = count(self.idle.borrow().len());
        let changing = count(self.connecting.get() + self.closing.get());
        let wait = self.first_waiter().map(|since| now - since);
        PoolView {
            tenant: self.key.tenant.clone(),
            database: self.key.database.clone(),
            role: self.key.role.clone(),
            kind: self.kind(),
            person: self.key.principal.person(),
            size: self.size(),
            idle,
            in_use: self.open.get().saturating_sub(idle + changing),
            changing,
            waiting: count(self.waiters.borrow().len()),
            longest_wait_ms: wait.map(|wait| wait.as_secs_f64() * 1_000.0),
        }
    }

    fn kind(&self) -> PoolKind {
        match (&self.key.service, &self.key.principal) {
            (Service::Walsender { .. }, _) => PoolKind::Replication,
            (Service::Queries, Principal::Password) => PoolKind::Password,
            (Service::Queries, Principal::Person(_) | Principal::Token(..)) => PoolKind::Person,
            (Service::Queries, Principal::AuthQuery) => PoolKind::AuthQuery,
        }
    }
}

fn count(many: usize) -> u32 {
    u32::try_from(many).unwrap_or(u32::MAX)
}
