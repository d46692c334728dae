//! Epochs of a pool: when access ends, all its connections so far are retired, those on their way included.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::sync::Notify;

/// The connections that were opened between two retirements. Each backend holds its own.
#[derive(Default)]
pub(super) struct Epoch {
    in_transit: Cell<u32>,
    landed: Notify,
    /// The epoch before, as long as something of it is left.
    older: RefCell<Option<Rc<Self>>>,
}

/// A connection of an epoch that is being opened, cleaned or closed; over by dropping it.
pub(super) struct Transit(Rc<Epoch>);

impl Epoch {
    /// A new epoch after `older`.
    pub(super) fn after(older: &Rc<Self>) -> Rc<Self> {
        let over = older
            .older
            .borrow()
            .as_ref()
            .is_some_and(|epoch| Rc::strong_count(epoch) == 1);
        if over {
            older.older.replace(None);
        }
        Rc::new(Self {
            older: RefCell::new(Some(Rc::clone(older))),
            ..Self::default()
        })
    }

    pub(super) fn transit(self: &Rc<Self>) -> Transit {
        self.in_transit.set(self.in_transit.get() + 1);
        Transit(Rc::clone(self))
    }

    /// Waits until nothing of this epoch and those before is in transit. What is on loan then is its session's
    /// business.
    pub(super) async fn quiet(self: Rc<Self>) {
        let mut next = Some(self);
        while let Some(epoch) = next {
            while epoch.in_transit.get() > 0 {
                epoch.landed.notified().await;
            }
            next = epoch.older.borrow().clone();
        }
    }
}

impl Drop for Transit {
    fn drop(&mut self) {
        self.0.in_transit.set(self.0.in_transit.get() - 1);
        // All of one thread: nobody can begin to wait between a look at the count and the wait itself.
        self.0.landed.notify_waiters();
    }
}
