//! Sessions that wait for a backend, first come, first served.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{Backend, CheckoutError, Pool};

/// What a waiter is handed in the end.
pub(super) type Served = Result<Box<Backend>, CheckoutError>;

enum Slot {
    Empty,
    Served(Served),
    Gone,
}

/// One place in a pool's queue.
pub(super) struct Waiter {
    pub(super) since: Instant,
    /// How long the server may be away before this one is told.
    pub(super) patience: Duration,
    slot: RefCell<Slot>,
    waker: Cell<Option<Waker>>,
}

impl Waiter {
    pub(super) fn new(patience: Duration) -> Rc<Self> {
        Rc::new(Self {
            since: Instant::now(),
            patience,
            slot: RefCell::new(Slot::Empty),
            waker: Cell::new(None),
        })
    }

    /// Hands over what was waited for; gives it back if nobody waits any more.
    pub(super) fn serve(&self, result: Served) -> Result<(), Served> {
        let mut slot = self.slot.borrow_mut();
        if matches!(*slot, Slot::Gone) {
            return Err(result);
        }
        *slot = Slot::Served(result);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }
}

/// Waits in a pool's queue. Dropped before it is served it leaves the queue; what came too late goes back.
pub(super) struct Waiting {
    pub(super) pool: Rc<Pool>,
    pub(super) waiter: Rc<Waiter>,
}

impl Future for Waiting {
    type Output = Served;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.waiter.slot.borrow_mut();
        match std::mem::replace(&mut *slot, Slot::Empty) {
            Slot::Served(result) => {
                *slot = Slot::Gone;
                Poll::Ready(result)
            }
            other => {
                *slot = other;
                self.waiter.waker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        match self.waiter.slot.replace(Slot::Gone) {
            // Only who has not been served is in the queue, which may be long.
            Slot::Empty => self.pool.leave_queue(&self.waiter),
            Slot::Served(Ok(backend)) => self.pool.take_back(backend),
            Slot::Served(Err(_)) | Slot::Gone => {}
        }
    }
}
