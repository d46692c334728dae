//! The number of backends over all tenants and workers, with its limit.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Counts backends of the whole process. Shared by the workers, touched when backends open and close only.
#[derive(Debug)]
pub struct OverallBudget {
    open: AtomicU32,
    max: u32,
    /// Workers that found the budget spent and have no idle backend of their own to give up.
    wanted: AtomicU32,
}

/// One backend's share of the overall budget, given back by dropping it.
#[derive(Debug)]
pub(super) struct Share(Arc<OverallBudget>);

impl OverallBudget {
    #[must_use]
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicU32::new(0),
            max,
            wanted: AtomicU32::new(0),
        })
    }

    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn take(self: &Arc<Self>) -> Option<Share> {
        let add = |open| (open < self.max).then_some(open + 1);
        self.open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
            .ok()?;
        Some(Share(Arc::clone(self)))
    }

    /// Asks the other workers to give up an idle backend.
    pub(super) fn want(&self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
    }

    /// How many idle backends were asked for since the last call.
    pub(super) fn take_wanted(&self) -> u32 {
        self.wanted.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}
