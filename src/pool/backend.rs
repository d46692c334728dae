//! A backend as a pool keeps it: the connection, what it owes, what it has been told, and who is cancelling it.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::time::Instant;

use super::{epoch::Epoch, turns::Place};
use crate::{
    backend::{CancelTarget, Connection, Server},
    protocol::{
        own_settings::OwnSettings,
        parameters::Settings,
        pipeline::Pipeline,
        prepared::{Known, Owner, SqlStatements},
        reading::Words,
        residue::Residue,
    },
};

/// One connection of a pool.
pub struct Backend {
    pub connection: Connection,
    /// The server it was opened to; its pool may have another one by now.
    pub(super) server: Rc<Server>,
    pub pipeline: Pipeline,
    /// The settings the server session has now.
    pub settings: Rc<Settings>,
    /// The prepared statements the server session has.
    pub known: Known,
    /// The statements of SQL's own PREPARE that it has.
    pub sql_statements: Option<Rc<SqlStatements>>,
    /// Whose unnamed statement it has; `None`: nobody's that matters.
    pub unnamed: Option<Owner>,
    /// Settings of the client's own that it may have set since the server was asked for its settings.
    pub own_settings: OwnSettings,
    /// The client has sent something that may take every prepared statement away from the server session.
    pub may_forget: bool,
    /// The same for how it reads the texts of statements.
    pub may_reread: bool,
    /// What its client has changed about that in the present transaction, as far as the server does not report it.
    pub words: Words,
    /// Its client has had something go back to what the server has by itself.
    pub was_reset: bool,
    /// What the last client may have left behind.
    pub residue: Residue,
    pub(super) epoch: Rc<Epoch>,
    pub(super) retire_at: Instant,
    pub(super) idle_since: Instant,
    cancels: Rc<Cancels>,
    /// Given back when the connection is closed.
    pub(super) place: Place,
}

/// Cancel requests aimed at a backend. While one is on its way the backend is not handed out: it would hit whoever
/// comes next. After one of which nobody knows what became of it, it never is again.
#[derive(Default)]
pub struct Cancels {
    /// What they are aimed at; `None`: the server gave no key for that.
    target: Option<CancelTarget>,
    in_flight: Cell<u32>,
    lost: Cell<bool>,
    done: tokio::sync::Notify,
}

/// Keeps a backend from being handed out until it is known what has become of one cancel request. Dropped without
/// that knowledge, it does so for good.
pub struct CancelBarrier {
    cancels: Rc<Cancels>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unknown,
    Delivered,
}

impl Cancels {
    fn of(target: Option<CancelTarget>) -> Rc<Self> {
        Rc::new(Self {
            target,
            ..Self::default()
        })
    }

    /// What cancels whatever the backend runs; `None`: the server gave no key for that.
    #[must_use]
    pub fn target(&self) -> Option<&CancelTarget> {
        self.target.as_ref()
    }

    /// Announces a cancel request that is about to be sent.
    #[must_use]
    pub fn announce(self: &Rc<Self>) -> CancelBarrier {
        self.in_flight.set(self.in_flight.get() + 1);
        CancelBarrier {
            cancels: Rc::clone(self),
            fate: Fate::Unknown,
        }
    }

    pub(super) fn is_clear(&self) -> bool {
        self.in_flight.get() == 0
    }

    async fn wait_clear(&self) {
        while !self.is_clear() {
            self.done.notified().await;
        }
    }
}

impl CancelBarrier {
    /// The server has taken the request: what it hits, it has hit.
    pub fn delivered(mut self) {
        self.fate = Fate::Delivered;
    }
}

impl Drop for CancelBarrier {
    fn drop(&mut self) {
        let Cancels {
            in_flight,
            lost,
            done,
            ..
        } = &*self.cancels;
        in_flight.set(in_flight.get() - 1);
        lost.set(lost.get() || self.fate == Fate::Unknown);
        done.notify_waiters();
    }
}

impl Backend {
    pub(super) fn new(
        connection: Connection,
        server: Rc<Server>,
        place: Place,
        epoch: Rc<Epoch>,
        retire_at: Instant,
    ) -> Self {
        Self {
            cancels: Cancels::of(CancelTarget::of(&connection, &server)),
            connection,
            server,
            pipeline: Pipeline::default(),
            settings: Rc::default(),
            known: Known::default(),
            sql_statements: None,
            unnamed: None,
            own_settings: OwnSettings::default(),
            may_forget: false,
            may_reread: false,
            words: Words::None,
            was_reset: false,
            residue: Residue::empty(),
            epoch,
            retire_at,
            idle_since: Instant::now(),
            place,
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

    /// What cancels whatever it runs; `None`: the server gave no key for that.
    #[must_use]
    pub fn cancel_target(&self) -> Option<CancelTarget> {
        self.cancels.target().cloned()
    }

    /// Whether a cancel request was lost that may still hit it.
    pub(super) fn may_be_hit(&self) -> bool {
        self.cancels.lost.get()
    }

    /// Whether it can be handed to another client at once.
    pub(super) fn is_clean(&self, statements_max: usize) -> bool {
        self.pipeline.is_releasable()
            && self.residue.is_empty()
            && self.known.len() <= statements_max
            && self.cancels.is_clear()
    }

    /// Waits until no cancel can hit the backend any more; `false`: nobody can say that.
    ///
    /// After a cancel the signal may still be on its way to the process: an empty query takes it.
    pub(super) async fn absorb_cancels(&mut self, limit: Duration) -> bool {
        // A simple query takes it away.
        self.unnamed = None;
        let was_cancelled = !self.cancels.is_clear();
        if tokio::time::timeout(limit, self.cancels.wait_clear())
            .await
            .is_err()
        {
            return false;
        }
        if self.may_be_hit() {
            return false;
        }
        !was_cancelled || self.connection.query("", limit).await.is_ok()
    }

    /// Removes what a client left behind, so that the backend is clean; `false`: it could not be done.
    pub(super) async fn cleanse(&mut self, statements_max: usize, limit: Duration) -> bool {
        if !self.absorb_cancels(limit).await {
            return false;
        }
        if !self.residue.is_empty() {
            self.settings = Rc::default();
            self.known.clear();
            self.sql_statements = None;
            self.own_settings = OwnSettings::default();
            self.residue = Residue::empty();
            return self.run("DISCARD ALL", limit).await;
        }
        match self.known.shrink(statements_max) {
            Some(sql) => self.run(&sql, limit).await,
            None => true,
        }
    }

    /// Runs `sql` between clients; `false`: it failed, and the backend cannot be trusted any more.
    pub(super) async fn run(&mut self, sql: &str, limit: Duration) -> bool {
        self.unnamed = None;
        let reply = self.connection.query(sql, limit).await;
        reply.is_ok_and(|reply| reply.error.is_none() && reply.status == b'I')
            && !self.connection.has_more()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_cancel_holds_the_backend_until_its_fate_is_known() {
        let cancels = Rc::<Cancels>::default();
        let (first, second) = (cancels.announce(), cancels.announce());
        assert!(cancels.wait_clear().now_or_never().is_none());
        first.delivered();
        assert!(!cancels.is_clear());
        second.delivered();
        assert!(cancels.wait_clear().now_or_never().is_some());
        assert!(!cancels.lost.get());
    }

    #[test]
    fn a_lost_cancel_is_never_forgotten() {
        let cancels = Rc::<Cancels>::default();
        drop(cancels.announce());
        cancels.announce().delivered();
        assert!(cancels.is_clear() && cancels.lost.get());
    }
}
