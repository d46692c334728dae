//! A backend on loan. Given back it is clean or made so; merely dropped it is closed, for nobody can say what state it
//! is in.

use std::rc::Rc;

use super::{Backend, Pool, Remains};

/// A backend on loan to one session.
pub struct Checkout {
    pub(super) pool: Rc<Pool>,
    /// Always there until the checkout ends.
    pub(super) backend: Option<Box<Backend>>,
}

impl Checkout {
    #[must_use]
    pub fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    /// The backend on loan.
    #[allow(clippy::expect_used)] // `backend` is taken by `release`, `close` and `drop` only, which end the checkout.
    pub fn backend(&mut self) -> &mut Backend {
        self.backend
            .as_mut()
            .expect("a checkout holds its backend until it ends")
    }

    /// Gives the backend back. It is handed on if it is clean, cleansed if that is possible, else discarded.
    pub fn release(mut self) {
        if let Some(backend) = self.backend.take() {
            self.pool.take_back(backend);
        }
    }

    /// Gives back the backend of a client that has left in the middle of its work: what it runs is cancelled, what it
    /// has open is rolled back, and only if that takes too long it is closed.
    pub fn reclaim(mut self, remains: Remains) {
        if let Some(backend) = self.backend.take() {
            self.pool.reclaim(backend, remains);
        }
    }

    /// Cancels and closes the backend and waits until its server process is gone; `false`: nothing proves that.
    pub async fn close(mut self) -> bool {
        match self.backend.take() {
            Some(backend) => self.pool.close(backend).await.is_gone,
            None => true,
        }
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.take() {
            self.pool.discard(backend);
        }
    }
}
