//! Whose turn it is: which pool of a tenant may grow, and who gives up a backend for it.
//!
//! A freed backend goes to whoever has waited longest in the tenant among those it can help: a waiter of its own
//! pool takes it as it is; for a waiter of another pool, held up by the tenant's budget, it is closed and another
//! one is opened in its stead.

use std::rc::Rc;

use super::{Pool, TenantPools, budget::Share};
use crate::metrics::GaugeGuard;

/// One backend's place in its pool and in the budgets, given back by dropping it.
pub(super) struct Place {
    pool: Rc<Pool>,
    within: Within,
    /// Always there until the place is dropped.
    share: Option<Share>,
    _gauge: GaugeGuard,
}

impl Drop for Place {
    fn drop(&mut self) {
        // All of it is free before somebody else is served with it.
        self.share.take();
        if self.within == Within::Size {
            self.pool.open.set(self.pool.open.get() - 1);
        }
        let tenant = &self.pool.tenant;
        if self.pool.is_budgeted() {
            tenant.open.set(tenant.open.get() - 1);
        }
        tenant.serve_longest_waiter();
        tenant.freed.notify_waiters();
    }
}

/// What a backend counts against, beside the budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// The size of its pool.
    Size,
    /// Nothing: it serves no client of its own.
    Budget,
}

/// Which budget keeps a pool from growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spent {
    Tenant,
    Overall,
}

impl TenantPools {
    /// A place for one more backend of `pool`, taken from an idle sibling if the budget is spent; `None`: wait.
    pub(super) fn reserve(&self, pool: &Rc<Pool>) -> Option<Place> {
        if pool.open.get() >= pool.size() {
            return None;
        }
        if pool.is_budgeted() && self.open.get() >= self.sizes().budget {
            self.take_idle_from_sibling(pool, Spent::Tenant);
            return None;
        }
        let Some(share) = self.shared.overall.take() else {
            if !self.take_idle_from_sibling(pool, Spent::Overall) {
                self.shared.overall.ask(&self.request);
            }
            return None;
        };
        pool.open.set(pool.open.get() + 1);
        Some(self.occupy(pool, Within::Size, share))
    }

    /// A place for a backend that does not count against the size of `pool`, only against the budgets. Waits for it.
    pub(super) async fn place_beside(&self, pool: &Rc<Pool>) -> Place {
        loop {
            let freed = self.freed.notified();
            if self.open.get() < self.sizes().budget {
                if let Some(share) = self.shared.overall.take() {
                    return self.occupy(pool, Within::Budget, share);
                }
                self.shared.overall.ask(&self.request);
            }
            self.give_up_oldest_idle();
            freed.await;
        }
    }

    fn occupy(&self, pool: &Rc<Pool>, within: Within, share: Share) -> Place {
        if pool.is_budgeted() {
            self.open.set(self.open.get() + 1);
        }
        Place {
            pool: Rc::clone(pool),
            within,
            share: Some(share),
            _gauge: self.metrics.backend(),
        }
    }

    /// Closes the backend under the budget that has been idle longest, unless one is being closed already.
    fn give_up_oldest_idle(&self) {
        let pools = self.pools.borrow();
        let budgeted = || pools.values().filter(|pool| pool.is_budgeted());
        if budgeted().any(|pool| pool.closing.get() > 0) {
            return;
        }
        let idle = budgeted().filter_map(|pool| Some((pool.oldest_idle()?, Rc::clone(pool))));
        let oldest = idle.min_by_key(|(since, _)| *since);
        drop(pools);
        if let Some((_, pool)) = oldest {
            pool.give_up_idle();
        }
    }

    /// Closes the backend that has been idle longest in another pool that draws on the spent budget. Its place is
    /// free once it is gone; then the longest waiter is served.
    fn take_idle_from_sibling(&self, pool: &Rc<Pool>, spent: Spent) -> bool {
        let pools = self.pools.borrow();
        let draws = |other: &&Rc<Pool>| spent == Spent::Overall || other.is_budgeted();
        let drawing = || pools.values().filter(draws);
        let closing: usize = drawing().map(|pool| pool.closing.get()).sum();
        let uncovered: usize = drawing().map(|pool| pool.uncovered()).sum();
        if closing >= uncovered {
            return true;
        }
        let siblings = drawing().filter(|sibling| !Rc::ptr_eq(sibling, pool));
        let oldest = siblings
            .filter_map(|sibling| Some((sibling.oldest_idle()?, Rc::clone(sibling))))
            .min_by_key(|(since, _)| *since);
        drop(pools);
        oldest.is_some_and(|(_, sibling)| sibling.give_up_idle())
    }

    /// Opens backends for those who have waited longest among the pools that may grow.
    pub(super) fn serve_longest_waiter(&self) {
        // What is outside the budget does not wait behind those who are held up by it.
        while let Some(pool) = self.longest_waiting(|pool| !pool.is_budgeted()) {
            if !pool.open_one() {
                break;
            }
        }
        while let Some(pool) = self.longest_waiting(Pool::is_budgeted) {
            if !pool.open_one() {
                break;
            }
        }
    }

    fn longest_waiting(&self, chosen: impl Fn(&Pool) -> bool) -> Option<Rc<Pool>> {
        let pools = self.pools.borrow();
        let growing = pools
            .values()
            .filter(|pool| chosen(pool) && pool.may_grow());
        let waiting = growing.filter_map(|pool| Some((pool.first_uncovered()?, pool)));
        let (_, longest) = waiting.min_by_key(|(since, _)| *since)?;
        Some(Rc::clone(longest))
    }

    /// Notes that `by` more (or fewer) clients wait in the queue of `pool`.
    pub(super) fn count_waiters(&self, pool: &Pool, by: isize) {
        if pool.is_budgeted() {
            self.waiting
                .set(self.waiting.get().saturating_add_signed(by));
        }
    }

    /// Whether somebody has waited longer in another pool than anybody in `pool`, for nothing but the budget's sake.
    ///
    /// Asked at every release: where nobody waits elsewhere, the answer costs two comparisons.
    pub(super) fn has_longer_waiting_sibling(&self, pool: &Rc<Pool>) -> bool {
        if !pool.is_budgeted() || self.waiting.get() == pool.waiters.borrow().len() {
            return false;
        }
        let since = pool.first_waiter();
        let pools = self.pools.borrow();
        let budgeted = || pools.values().filter(|other| other.is_budgeted());
        let held_up = || {
            let siblings = budgeted().filter(|sibling| !Rc::ptr_eq(sibling, pool));
            siblings.filter(|sibling| sibling.may_grow() && sibling.uncovered() > 0)
        };
        // What closes already is enough for them.
        let closing: usize = budgeted().map(|pool| pool.closing.get()).sum();
        if closing >= held_up().map(|sibling| sibling.uncovered()).sum() {
            return false;
        }
        let longest = held_up()
            .filter_map(|sibling| sibling.first_uncovered())
            .min();
        longest.is_some_and(|longest| since.is_none_or(|since| longest < since))
    }
}
