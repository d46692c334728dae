//! How backends leave a pool: one by one, when they are idle for too long, or all at once when access ends.

use std::{future::Future, rc::Rc, task::Context, time::Duration};

use tokio::time::{Instant, timeout};

use super::{Backend, Pool, epoch::Transit, turns::Place};
use crate::backend::{self, Parting, Server};

/// How long it may take to have a process ended that does not end by itself.
const FORCE_MAX: Duration = Duration::from_millis(1900);

/// What a closed backend still held, given up in this order: whoever is served when its place is free must not
/// count it among those that close, and who waits for the transit's end may rely on both.
pub(super) struct Closed {
    pub(super) is_gone: bool,
    _closing: Closing,
    _place: Place,
    transit: Transit,
}

/// One of a pool's closing backends.
struct Closing(Rc<Pool>);

impl Closing {
    fn of(pool: &Rc<Pool>) -> Self {
        pool.closing.set(pool.closing.get() + 1);
        Self(Rc::clone(pool))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.closing.set(self.0.closing.get() - 1);
    }
}

impl Pool {
    /// Ends what the pool has because access has ended: idle backends close now, those on loan when they come back.
    pub fn retire(self: &Rc<Self>) {
        // Nobody waits: who has to know (an enforcement) purges by itself.
        drop(self.retire_all());
    }

    /// Closes `backend` for good. Its place is free when its server process is gone.
    pub(super) fn discard(self: &Rc<Self>, backend: Box<Backend>) {
        let closing = self.close(backend);
        self.tenant.shared.tasks.spawn_local(async move {
            let closed = closing.await;
            if !closed.is_gone {
                closed.transit.mark_unproven();
            }
        });
    }

    /// Cancels what `backend` runs, parts from it, and sees to it that its server process ends.
    pub(super) fn close(
        self: &Rc<Self>,
        backend: Box<Backend>,
    ) -> impl Future<Output = Closed> + 'static {
        let running = backend.pipeline.is_busy().then(|| backend.cancel_target());
        let Backend {
            connection,
            server,
            epoch,
            place,
            ..
        } = *backend;
        let pool = Rc::clone(self);
        let mut closed = Closed {
            is_gone: true,
            _closing: Closing::of(self),
            _place: place,
            transit: epoch.transit(),
        };
        async move {
            let terminated = match running.flatten() {
                Some(running) => pool.stop(&running, &server).await,
                None => None,
            };
            if let Err(parting) = backend::close(connection).await {
                closed.is_gone = pool.force(parting, &server).await;
            }
            if let Some(terminated) = terminated {
                closed.is_gone &= terminated.sender_is_gone().await;
            }
            closed
        }
    }

    /// Has a server process ended that does not end by itself; answers whether it is gone.
    async fn force(self: &Rc<Self>, parting: Parting, server: &Rc<Server>) -> bool {
        let is_gone = async {
            let address = parting.address.clone();
            let terminated = self.terminate(server, address, parting.pid).await?;
            let (is_over, is_sender_gone) =
                tokio::join!(parting.is_over(), terminated.sender_is_gone());
            Some(is_over && is_sender_gone)
        };
        let is_gone = timeout(FORCE_MAX, is_gone).await.ok().flatten() == Some(true);
        if !is_gone {
            tracing::warn!(tenant = %self.key.tenant, "a server process that was to be terminated may still be there");
        }
        is_gone
    }

    /// Starts a new epoch: idle backends close now, those on loan when they come back. Answers how many were idle,
    /// and what to wait for: that no connection of the old epochs is being opened, cleaned or closed any more. The
    /// wait answers how many of them are not proven to be gone.
    pub(super) fn retire_all(self: &Rc<Self>) -> (usize, impl Future<Output = u32> + 'static) {
        self.outage.replace(None);
        self.greetings.borrow_mut().clear();
        let idle = self.idle.take();
        let count = idle.len();
        for backend in idle {
            self.discard(backend);
        }
        let quiet = self.epochs.advance();
        self.subscriptions.retire();
        (count, quiet)
    }

    /// Closes the backend that has been idle longest; `false`: none is idle.
    pub(super) fn give_up_idle(self: &Rc<Self>) -> bool {
        if self.idle.borrow().is_empty() {
            return false;
        }
        let oldest = self.idle.borrow_mut().remove(0);
        self.discard(oldest);
        true
    }

    pub(super) fn oldest_idle(&self) -> Option<Instant> {
        self.idle.borrow().first().map(|backend| backend.idle_since)
    }

    pub(super) fn drop_broken_idle(self: &Rc<Self>, context: &mut Context<'_>) {
        let broken: Vec<Box<Backend>> = self
            .idle
            .borrow_mut()
            .extract_if(.., |backend| {
                backend
                    .connection
                    .stream_mut()
                    .poll_spoken(context)
                    .is_ready()
            })
            .collect();
        for backend in broken {
            self.discard(backend);
        }
    }

    pub(super) fn expire_idle(self: &Rc<Self>, now: Instant) {
        let idle_timeout = self.tenant.shared.settings.idle_timeout;
        let expired: Vec<Box<Backend>> = self
            .idle
            .borrow_mut()
            .extract_if(.., |backend| {
                backend.retire_at <= now || backend.idle_since + idle_timeout <= now
            })
            .collect();
        for backend in expired {
            self.discard(backend);
        }
    }
}
