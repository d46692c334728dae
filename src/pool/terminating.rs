//! Stopping what closing backends run: one by one while they are few, all through one connection when they are many.
//!
//! ```text
//! closing ──▶ few of them ──▶ a CancelRequest each
//!    └──────▶ many: doomed ──▶ Terminator: pg_terminate_backend(all that have come) … until none is left
//! ```
//! A cancel request is a connection each, with a TLS handshake and a server process: twenty sessions revoked at once
//! would wait for twenty of them.

use std::{rc::Rc, time::Duration};

use tokio::{
    sync::oneshot,
    task::yield_now,
    time::{Instant, timeout, timeout_at},
};

use super::Pool;
use crate::{
    access::certificates::MintError,
    backend::{Address, CancelTarget, Server, TerminateError, Terminator},
};

/// Of how many closing backends each still has a cancel request of its own: as many as cost what one login does.
const CANCELS_MAX: u32 = 3;

/// How often the reactor is asked who else has to go before they are counted: those that one revocation ends do not all
/// come in the same turn of their thread.
const GATHERING_TURNS: usize = 2;

/// How long it may take to stop what a closing backend runs.
const STOP_MAX: Duration = Duration::from_secs(2);

/// How long one connection may take to terminate all that it is asked to.
const TERMINATE_MAX: Duration = Duration::from_millis(1500);

/// A server process that is to be terminated.
pub(super) struct Doomed {
    server: Rc<Server>,
    address: Address,
    pid: u32,
    /// Answered when the signal is sent; dropped when it cannot be.
    told: oneshot::Sender<Terminated>,
}

/// That a process was sent its signal. Holds whether the process that sent it is gone as well, once it is.
pub(super) struct Terminated(oneshot::Receiver<bool>);

#[derive(Debug, thiserror::Error)]
enum TerminationError {
    #[error("cannot make a certificate: {0}")]
    Mint(#[from] MintError),
    #[error(transparent)]
    Terminate(#[from] TerminateError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// One of those that a pool is about to stop.
struct Stopping<'a>(&'a Pool);

impl<'a> Stopping<'a> {
    fn one_more(pool: &'a Pool) -> Self {
        pool.stopping.set(pool.stopping.get() + 1);
        Self(pool)
    }
}

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.stopping.set(self.0.stopping.get() - 1);
    }
}

impl Terminated {
    /// Whether the process that sent the signal is gone.
    pub(super) async fn sender_is_gone(self) -> bool {
        self.0.await.unwrap_or(false)
    }
}

impl Pool {
    /// Stops what a closing backend runs. `None`: no other connection was needed that might still be there.
    pub(super) async fn stop(
        self: &Rc<Self>,
        running: &CancelTarget,
        server: &Rc<Server>,
    ) -> Option<Terminated> {
        let deadline = Instant::now() + STOP_MAX;
        let _stopping = Stopping::one_more(self);
        for _ in 0..GATHERING_TURNS {
            yield_now().await;
        }
        if self.stopping.get() <= CANCELS_MAX {
            cancel(running, deadline).await;
            return None;
        }
        let terminated = self.terminate(server, running.address().clone(), running.pid());
        let terminated = timeout_at(deadline, terminated).await.ok().flatten();
        if terminated.is_none() {
            cancel(running, deadline).await;
        }
        terminated
    }

    /// Has a server process ended by another one of the same role; `None`: that could not be done.
    pub(super) async fn terminate(
        self: &Rc<Self>,
        server: &Rc<Server>,
        address: Address,
        pid: u32,
    ) -> Option<Terminated> {
        let (told, answer) = oneshot::channel();
        let server = Rc::clone(server);
        self.doomed.borrow_mut().push(Doomed {
            server,
            address,
            pid,
            told,
        });
        if !self.is_terminating.replace(true) {
            let pool = Rc::clone(self);
            self.tenant.shared.tasks.spawn_local(async move {
                pool.terminate_doomed().await;
                pool.is_terminating.set(false);
            });
        }
        answer.await.ok()
    }

    /// Terminates all who are doomed and who come to be meanwhile.
    async fn terminate_doomed(&self) {
        loop {
            let first = self.doomed.borrow().first().map(|doomed| {
                let Doomed {
                    server, address, ..
                } = doomed;
                (Rc::clone(server), address.clone())
            });
            let Some((server, address)) = first else {
                return;
            };
            let terminated = timeout(TERMINATE_MAX, self.terminate_at(&server, &address)).await;
            if let Err(error) = terminated.unwrap_or(Err(TerminationError::TimedOut(TERMINATE_MAX)))
            {
                // Those who wait for it learn it by the loss of their channel.
                drop(self.take_doomed(&address));
                tracing::warn!(tenant = %self.key.tenant, %error, "cannot terminate server processes");
            }
        }
    }

    /// Terminates all who are doomed at `address`, through one connection.
    async fn terminate_at(
        &self,
        server: &Server,
        address: &Address,
    ) -> Result<(), TerminationError> {
        let credentials = self.login.borrow().credentials()?;
        let (role, database) = (&self.key.role, &self.key.database);
        let mut terminator =
            Terminator::connect(server, address, role, database, &credentials).await?;
        let mut waiting = Vec::new();
        loop {
            let doomed = self.take_doomed(address);
            if doomed.is_empty() {
                break;
            }
            let pids: Vec<u32> = doomed.iter().map(|doomed| doomed.pid).collect();
            terminator.end(&pids).await?;
            for Doomed { told, .. } in doomed {
                let (gone, is_gone) = oneshot::channel();
                let _ = told.send(Terminated(is_gone));
                waiting.push(gone);
            }
        }
        let is_gone = terminator.close().await;
        for gone in waiting {
            let _ = gone.send(is_gone);
        }
        Ok(())
    }

    fn take_doomed(&self, address: &Address) -> Vec<Doomed> {
        let mut doomed = self.doomed.borrow_mut();
        doomed
            .extract_if(.., |doomed| doomed.address == *address)
            .collect()
    }
}

async fn cancel(running: &CancelTarget, deadline: Instant) {
    match timeout_at(deadline, running.cancel()).await {
        Ok(Ok(())) => {}
        // What cannot be cancelled has to be waited for, or forced.
        Ok(Err(error)) => {
            tracing::debug!(%error, "cannot cancel what a closing backend runs");
        }
        Err(_) => tracing::debug!("no time to cancel what a closing backend runs"),
    }
}
