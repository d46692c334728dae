//! What a backend still owes its client, and so when it may be released.
//!
//! A value without IO: it is told the tag of every message in both directions, in the order the server sees or
//! sends them. Requests wait in a queue until their answer has come; an error in the extended protocol takes
//! everything up to the next Sync with it, as the server does. A backend is releasable when its last
//! ReadyForQuery was idle, nothing is owed, no extended batch is open and no COPY is pending.
//!
//! ```text
//! client:  Parse Bind Execute Sync        Query           Execute(copy)   CopyData… CopyDone Sync
//! queue:   [P    B    E       S   ]       [Q]             [E copy-in]
//! server:  1     2    …C      Z           …C Z            G                         C        Z
//! ```
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html>

mod due;
mod from_server;
#[cfg(test)]
mod tests;
mod to_server;

use std::collections::VecDeque;

use self::due::{Due, Request};
pub use self::{
    due::Answer,
    from_server::PipelineError,
    to_server::{InvalidMessage, is_request},
};
use super::prepared::{Statement, Undo};

/// The state of the server's transaction as ReadyForQuery reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

impl TransactionStatus {
    /// Reads the byte of a ReadyForQuery.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}

/// Where the server stands with COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    No,
    /// It takes CopyData until CopyDone or CopyFail; meanwhile it ignores Flush and Sync.
    In,
    /// Replication: both directions at once.
    Both,
}

/// Whether it is known which Syncs the server has ignored.
///
/// A server in COPY FROM STDIN ignores them. When it reports an error meanwhile, nobody can say whether a Sync that was
/// sent with the data came before the error or will be answered; the pooler asks by a Close, whose answer comes behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    No,
    /// The server may be asked at once.
    Ask,
    /// It may skip everything up to a Sync, and the question too.
    AskAfterSync,
}

/// What the server waits for before it can end what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    Nothing,
    /// More rows of a COPY FROM STDIN, or the end of them.
    CopyData,
    /// The end of a batch.
    Sync,
    /// The same, and it skips everything else.
    SyncAfterError,
}

/// The requests that a server has not answered yet.
#[derive(Debug)]
pub struct Pipeline {
    owed: VecDeque<Due>,
    /// How many of those end with a ReadyForQuery.
    ready_owed: usize,
    /// How many of those can be taken back.
    undoable: usize,
    /// How many of those replace the unnamed statement.
    unnamed_owed: usize,
    skipped: Vec<Undo>,
    status: TransactionStatus,
    /// Extended messages went out since the last Sync: the server will wait for one.
    batch: Batch,
    copy: Copy,
    /// Syncs that the server ignores if the COPY that they came in succeeds.
    ignored: usize,
    /// Syncs that it may have ignored in a COPY that has failed, or will answer yet.
    doubtful: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batch {
    Closed,
    Open,
    /// An error was reported: the server skips everything until Sync, and so do we.
    Skipping,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            owed: VecDeque::new(),
            ready_owed: 0,
            undoable: 0,
            unnamed_owed: 0,
            skipped: Vec::new(),
            status: TransactionStatus::Idle,
            batch: Batch::Closed,
            copy: Copy::No,
            ignored: 0,
            doubtful: 0,
        }
    }
}

impl Pipeline {
    #[must_use]
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether the next message finds the transaction in the state of `status`, unless the server skips it. Otherwise
    /// there is a ReadyForQuery still to come ahead of it.
    #[must_use]
    pub fn is_status_certain(&self) -> bool {
        self.ready_owed == 0
    }

    /// Whether another client may have this backend.
    #[must_use]
    pub fn is_releasable(&self) -> bool {
        self.owed.is_empty()
            && self.status == TransactionStatus::Idle
            && self.batch == Batch::Closed
            && self.copy == Copy::No
            && self.doubtful == 0
    }

    #[must_use]
    pub fn doubt(&self) -> Doubt {
        // What else is owed may be a COPY, in which a Close is an error.
        let may_ask = || {
            let mut owed = self.owed.iter().map(|due| due.request);
            self.copy == Copy::No && owed.all(|request| request == Request::Sync)
        };
        match self.batch {
            _ if self.doubtful == 0 || !may_ask() => Doubt::No,
            Batch::Skipping => Doubt::AskAfterSync,
            Batch::Closed | Batch::Open => Doubt::Ask,
        }
    }

    /// Whether the server has answered all, up to a ReadyForQuery.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.owed.is_empty() && self.batch == Batch::Closed && self.doubtful == 0
    }

    /// Whether the server is at work for the client or waits for more of a batch.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.owed.is_empty() || self.copy != Copy::No
    }

    /// Whether answers are due that need nothing more from the client than the end of its batch.
    #[must_use]
    pub fn owes_answers(&self) -> bool {
        !self.owed.is_empty() && self.copy == Copy::No
    }

    #[must_use]
    pub fn awaited(&self) -> Awaited {
        match (self.copy, self.batch) {
            (Copy::In, _) => Awaited::CopyData,
            (Copy::No | Copy::Both, Batch::Open) => Awaited::Sync,
            (Copy::No | Copy::Both, Batch::Skipping) => Awaited::SyncAfterError,
            (Copy::No | Copy::Both, Batch::Closed) => Awaited::Nothing,
        }
    }

    /// Whether what the server does with an earlier batch decides what `name` means, or whether the server knows
    /// `statement`. Within one batch it does not matter: an error takes everything in it.
    #[must_use]
    pub fn is_undecided(&self, name: &[u8], statement: Option<&Statement>) -> bool {
        if self.undoable == 0 {
            return false;
        }
        let is_about = |due: &Due| {
            due.undo
                .as_ref()
                .is_some_and(|undo| undo.is_about(name, statement))
        };
        let mut behind = self.owed.iter().skip_while(|due| !is_about(due));
        behind.any(Due::ends_with_ready)
    }

    /// The name that a client had for the statement that backends know as `canonical`, and has closed since: the server
    /// has not come to that yet.
    #[must_use]
    pub fn name_until_close(&self, canonical: &str) -> Option<&[u8]> {
        let mut undos = self.owed.iter().filter_map(|due| due.undo.as_deref());
        undos.find_map(|undo| match undo {
            Undo::Close { name, statement } if statement.name() == canonical => Some(&**name),
            _ => None,
        })
    }

    /// The same for the unnamed statement.
    #[must_use]
    pub fn is_unnamed_undecided(&self) -> bool {
        if self.ready_owed == 0 || self.unnamed_owed == 0 {
            return false;
        }
        let mut latest = self.owed.iter().rev();
        latest
            .find(|due| due.ends_with_ready() || due.is_of_unnamed())
            .is_some_and(Due::ends_with_ready)
    }
}
