//! What the catalogue remembers in memory: tenants by ref, and when each token was last noted as used.
//!
//! A tenant read before a change must not be remembered after it. So each reader takes a ticket before it
//! reads, and what it read is kept only if nothing was forgotten since.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use time::{Duration, OffsetDateTime};

use crate::{
    catalog::types::TenantAt,
    names::{TenantRef, TokenId},
};

const TENANTS_MAX: usize = 10_000;
const USES_MAX: usize = 10_000;
const USE_INTERVAL: Duration = Duration::MINUTE;

#[derive(Default)]
pub(super) struct TenantCache(Mutex<Tenants>);

#[derive(Default)]
struct Tenants {
    by_ref: HashMap<TenantRef, TenantAt>,
    forgotten: u64,
}

/// Proof of when a read began.
#[derive(Clone, Copy)]
pub(super) struct Ticket(u64);

impl TenantCache {
    /// The tenant, or leave to remember it once it has been read.
    pub(super) fn find(&self, tenant: &TenantRef) -> Result<TenantAt, Ticket> {
        let tenants = locked(&self.0);
        match tenants.by_ref.get(tenant) {
            Some(found) => Ok(found.clone()),
            None => Err(Ticket(tenants.forgotten)),
        }
    }

    pub(super) fn remember(&self, ticket: Ticket, tenant: &TenantAt) {
        let mut tenants = locked(&self.0);
        if tenants.forgotten != ticket.0 {
            return;
        }
        if tenants.by_ref.len() >= TENANTS_MAX {
            tenants.by_ref.clear();
        }
        let name = tenant.record.tenant.clone();
        tenants.by_ref.insert(name, tenant.clone());
    }

    pub(super) fn forget(&self, tenant: &TenantRef) {
        let mut tenants = locked(&self.0);
        tenants.by_ref.remove(tenant);
        tenants.forgotten += 1;
    }
}

/// When each token's use was last written down.
#[derive(Default)]
pub(super) struct RecentUses(Mutex<HashMap<TokenId, OffsetDateTime>>);

impl RecentUses {
    /// Whether this use should be written: the first in a minute.
    pub(super) fn is_due(&self, token: &TokenId, at: OffsetDateTime) -> bool {
        let mut uses = locked(&self.0);
        if let Some(last) = uses.get(token)
            && (at - *last).abs() < USE_INTERVAL
        {
            return false;
        }
        if uses.len() >= USES_MAX {
            uses.retain(|_, last| (at - *last).abs() < USE_INTERVAL);
        }
        if uses.len() >= USES_MAX {
            uses.clear();
        }
        uses.insert(token.clone(), at);
        true
    }
}

/// What the catalogue remembers cannot be left half done by a panic, so a poisoned lock is as good as any.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use time::macros::datetime;

    use super::*;
    use crate::catalog::{tests::tenant, types::Revision};

    #[test]
    fn what_was_read_before_a_change_is_not_remembered_after_it() {
        let cache = TenantCache::default();
        let demo = TenantAt {
            record: Arc::new(tenant("demo")),
            revision: Revision(1),
        };
        let name = &demo.record.tenant;
        let Err(ticket) = cache.find(name) else {
            panic!("nothing was remembered yet");
        };
        cache.forget(name);
        cache.remember(ticket, &demo);
        let Err(ticket) = cache.find(name) else {
            panic!("a stale tenant was remembered");
        };
        cache.remember(ticket, &demo);
        assert!(cache.find(name).is_ok());
    }

    #[test]
    fn a_token_is_noted_once_a_minute() {
        let uses = RecentUses::default();
        let token = TokenId::parse("abc").unwrap();
        let at = datetime!(2026-03-01 10:00 UTC);
        assert!(uses.is_due(&token, at));
        assert!(!uses.is_due(&token, at + Duration::seconds(59)));
        assert!(uses.is_due(&token, at + Duration::seconds(60)));
    }

    #[test]
    fn the_memory_of_uses_has_an_end() {
        let uses = RecentUses::default();
        let at = datetime!(2026-03-01 10:00 UTC);
        for number in 0..USES_MAX + 5 {
            assert!(uses.is_due(&TokenId::parse(&format!("t{number}")).unwrap(), at));
        }
        assert!(locked(&uses.0).len() <= USES_MAX);
    }
}
