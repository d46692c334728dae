//! Epochs of a pool: when access ends, all its connections so far are retired, those on their way included.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The connections that were opened between two retirements. Each backend holds its own.
#[derive(Default)]
pub(super) struct Epoch {
    in_transit: Cell<u32>,
    landed: Notify,
    /// Cancelled when a retirement has ended the epoch.
    pub(super) over: CancellationToken,
    /// Connections that were closed without proof that the server process is gone.
    unproven: Cell<u32>,
}

/// A connection of an epoch that is being opened, cleaned or closed; over by dropping it.
pub(super) struct Transit(Rc<Epoch>);

/// The epochs of one pool: the current one, and those of which something is left.
#[derive(Default)]
pub(super) struct Epochs {
    current: RefCell<Rc<Epoch>>,
    older: RefCell<Vec<Rc<Epoch>>>,
}

impl Epochs {
    pub(super) fn current(&self) -> Rc<Epoch> {
        Rc::clone(&self.current.borrow())
    }

    pub(super) fn is_current(&self, epoch: &Rc<Epoch>) -> bool {
        Rc::ptr_eq(&self.current.borrow(), epoch)
    }

    /// Begins a new epoch. Answers what to wait for: that nothing of the older ones is in transit any more; what is
    /// on loan then is its session's business. The wait answers how many closed without proof.
    pub(super) fn advance(&self) -> impl Future<Output = u32> + 'static {
        let mut older = self.older.borrow_mut();
        older.retain(|epoch| Rc::strong_count(epoch) > 1);
        if Rc::strong_count(&self.current.borrow()) > 1 {
            let ended = self.current.take();
            ended.over.cancel();
            older.push(ended);
        }
        let old = older.clone();
        async move {
            let mut unproven = 0;
            for epoch in old {
                epoch.quiet().await;
                unproven += epoch.unproven.take();
            }
            unproven
        }
    }
}

impl Epoch {
    pub(super) fn transit(self: &Rc<Self>) -> Transit {
        self.in_transit.set(self.in_transit.get() + 1);
        Transit(Rc::clone(self))
    }

    async fn quiet(&self) {
        while self.in_transit.get() > 0 {
            // All of one thread: nobody can land between a look at the count and the wait itself.
            self.landed.notified().await;
        }
    }
}

impl Transit {
    /// Notes that the connection was closed and that nothing proves the end of its server process.
    pub(super) fn mark_unproven(&self) {
        self.0.unproven.set(self.0.unproven.get() + 1);
    }
}

impl Drop for Transit {
    fn drop(&mut self) {
        self.0.in_transit.set(self.0.in_transit.get() - 1);
        self.0.landed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_retirement_waits_for_every_older_epoch() {
        let epochs = Epochs::default();
        let first = epochs.current();
        let closing = first.transit();
        drop(first);
        assert!(epochs.advance().now_or_never().is_none());
        // An epoch of which nothing is left in between must not hide the first.
        let second = epochs.current();
        drop(epochs.advance());
        drop(second);
        let mut third = Box::pin(epochs.advance());
        assert!(third.as_mut().now_or_never().is_none());
        closing.mark_unproven();
        drop(closing);
        assert_eq!(third.now_or_never(), Some(1));
        assert_eq!(epochs.advance().now_or_never(), Some(0));
    }

    #[test]
    fn what_was_begun_after_a_retirement_is_not_waited_for() {
        let epochs = Epochs::default();
        let old = epochs.current();
        let retired = epochs.advance();
        assert!(!epochs.is_current(&old));
        let _opening = epochs.current().transit();
        assert_eq!(retired.now_or_never(), Some(0));
    }
}
