//! A backend as a pool keeps it: the connection, what it owes, what it has been told, and who is cancelling it.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::time::Instant;

use super::{epoch::Epoch, pools::Place};
use crate::{
    backend::{self, Connection, Server},
    protocol::{parameters::Settings, pipeline::Pipeline, prepared::Known},
};

/// How long a closing backend may take before it is given up on.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// One connection of a pool.
pub struct Backend {
    pub connection: Connection,
    pub pipeline: Pipeline,
    /// The settings the server session has now.
    pub settings: Rc<Settings>,
    /// The prepared statements the server session has.
    pub known: Known,
    /// What the last client left behind beside settings.
    pub residue: Residue,
    pub(super) epoch: Rc<Epoch>,
    pub(super) retire_at: Instant,
    pub(super) idle_since: Instant,
    cancels: Rc<Cancels>,
    /// Given back when the connection is closed.
    _place: Place,
}

/// Session state that must not reach another client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Residue {
    None,
    /// Settings have changed in a way that we have to ask the server about.
    Settings,
    /// Something that only a reset takes away: prepared statements, LISTEN, cursors.
    State,
}

/// Cancel requests on their way to a backend. While there is one the backend is not handed out: it would hit
/// whoever comes next.
#[derive(Debug, Default)]
pub struct Cancels {
    in_flight: Cell<u32>,
    done: tokio::sync::Notify,
}

/// Keeps a backend from being handed out until it is dropped.
pub struct CancelBarrier(Rc<Cancels>);

impl Cancels {
    /// Announces a cancel request that is about to be sent.
    #[must_use]
    pub fn announce(self: &Rc<Self>) -> CancelBarrier {
        self.in_flight.set(self.in_flight.get() + 1);
        CancelBarrier(Rc::clone(self))
    }

    fn is_clear(&self) -> bool {
        self.in_flight.get() == 0
    }

    async fn wait_clear(&self) {
        while !self.is_clear() {
            self.done.notified().await;
        }
    }
}

impl Drop for CancelBarrier {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.done.notify_waiters();
    }
}

impl Backend {
    pub(super) fn new(
        connection: Connection,
        place: Place,
        epoch: Rc<Epoch>,
        retire_at: Instant,
    ) -> Self {
        Self {
            connection,
            pipeline: Pipeline::default(),
            settings: Rc::default(),
            known: Known::default(),
            residue: Residue::None,
            epoch,
            retire_at,
            idle_since: Instant::now(),
            cancels: Rc::default(),
            _place: place,
        }
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.connection.pid()
    }

    #[must_use]
    pub fn cancels(&self) -> &Rc<Cancels> {
        &self.cancels
    }

    /// Whether it can be handed to another client at once.
    pub(super) fn is_clean(&self, statements_max: usize) -> bool {
        self.pipeline.is_releasable()
            && self.residue == Residue::None
            && self.known.len() <= statements_max
            && self.cancels.is_clear()
    }

    /// Removes what a client left behind, so that the backend is clean; `false`: it could not be done.
    ///
    /// After a cancel the signal may still be on its way to the process: an empty query takes it.
    pub(super) async fn cleanse(&mut self, statements_max: usize, limit: Duration) -> bool {
        let was_cancelled = !self.cancels.is_clear();
        if tokio::time::timeout(limit, self.cancels.wait_clear())
            .await
            .is_err()
        {
            return false;
        }
        if was_cancelled && self.connection.query("", limit).await.is_err() {
            return false;
        }
        if self.residue != Residue::None {
            self.settings = Rc::default();
            self.known.clear();
            self.residue = Residue::None;
            return self.run("DISCARD ALL", limit).await;
        }
        match self.known.shrink(statements_max) {
            Some(sql) => self.run(&sql, limit).await,
            None => true,
        }
    }

    /// Runs `sql` between clients; `false`: it failed, and the backend cannot be trusted any more.
    async fn run(&mut self, sql: &str, limit: Duration) -> bool {
        let reply = self.connection.query(sql, limit).await;
        reply.is_ok_and(|reply| reply.error.is_none() && reply.status == b'I')
    }

    /// Closes the connection for good: cancels what runs, parts, and waits until the server process is gone.
    pub async fn close(self, server: &Server) -> bool {
        if self.pipeline.is_busy()
            && let Some(secret) = self.connection.secret()
        {
            let _ = backend::cancel(server, self.pid(), secret).await;
        }
        let Self {
            connection,
            _place: place,
            ..
        } = self;
        let gone = backend::close(connection, CLOSE_MAX).await;
        drop(place);
        gone
    }
}
