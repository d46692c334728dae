//! The number of backends over all tenants and workers, with its limit.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

/// Counts backends of the whole process. Shared by the workers, touched when backends open and close only.
#[derive(Debug)]
pub struct OverallBudget {
    open: AtomicU32,
    max: u32,
    /// Requests for an idle backend to be given up, and how many of them were met. In order: the first request is
    /// met first.
    asked: AtomicU64,
    met: AtomicU64,
}

/// The last request of one who finds the budget spent.
#[derive(Debug, Default)]
pub(super) struct Request(Cell<u64>);

/// One backend's share of the overall budget, given back by dropping it.
#[derive(Debug)]
pub(super) struct Share(Arc<OverallBudget>);

impl OverallBudget {
    #[must_use]
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicU32::new(0),
            max,
            asked: AtomicU64::new(0),
            met: AtomicU64::new(0),
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

    /// Asks the workers to give up an idle backend, unless `request` has been made before and is not met yet.
    pub(super) fn ask(&self, request: &Request) {
        if self.met.load(Ordering::Acquire) >= request.0.get() {
            request.0.set(self.asked.fetch_add(1, Ordering::AcqRel) + 1);
        }
    }

    pub(super) fn has_requests(&self) -> bool {
        self.met.load(Ordering::Acquire) < self.asked.load(Ordering::Acquire)
    }

    /// Takes on one request; for a worker that has an idle backend to give up. `false`: there is none.
    pub(super) fn take_request(&self) -> bool {
        let asked = self.asked.load(Ordering::Acquire);
        let meet = |met| (met < asked).then_some(met + 1);
        self.met
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, meet)
            .is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stands_until_somebody_takes_it_on() {
        let overall = OverallBudget::new(1);
        let (first, second) = (Request::default(), Request::default());
        overall.ask(&first);
        overall.ask(&first);
        overall.ask(&second);
        assert!(overall.has_requests());
        assert!(overall.take_request());
        // Met, so it may be made again; the second one still stands.
        overall.ask(&first);
        overall.ask(&second);
        assert!(overall.take_request());
        assert!(overall.take_request());
        assert!(!overall.take_request());
        assert!(!overall.has_requests());
    }

    #[test]
    fn a_share_is_free_again_when_it_is_dropped() {
        let overall = OverallBudget::new(1);
        let share = overall.take();
        assert!(share.is_some());
        assert!(overall.take().is_none());
        drop(share);
        assert!(overall.take().is_some());
        assert_eq!(overall.open(), 0);
    }
}
