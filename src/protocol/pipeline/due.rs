//! Messages whose answers are due.

use crate::protocol::prepared::Undo;

/// A message whose answer is due.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) request: Request,
    pub(super) answer: Answer,
    /// What to take back if the server skips the message.
    pub(super) undo: Option<Box<Undo>>,
}

impl Due {
    /// Whether it decides what the unnamed statement is.
    pub(super) fn is_of_unnamed(&self) -> bool {
        matches!(self.request, Request::ParseUnnamed { .. })
            || matches!(self.undo.as_deref(), Some(Undo::Unnamed))
    }

    pub(super) fn ends_with_ready(&self) -> bool {
        matches!(self.request, Request::Sync | Request::Query)
    }

    pub(super) fn into_undo(self) -> Option<Undo> {
        match (self.request, self.undo) {
            (Request::ParseUnnamed { was_own }, None) => Some(Undo::UnnamedParse {
                was_own,
                before: None,
            }),
            (_, undo) => undo.map(|undo| *undo),
        }
    }
}

/// What the client is told when the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answer {
    /// What the server says.
    #[default]
    Pass,
    /// Nothing: the client has not asked.
    Swallow,
    /// ParseComplete: the client's Parse was not needed, and something cheap went in its place.
    ParseComplete,
}

/// A message that the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Parse,
    /// The client's own Parse of the unnamed statement.
    ParseUnnamed {
        was_own: bool,
    },
    Bind,
    Describe,
    Execute,
    Close,
    Sync,
    /// A simple query or a function call: answered up to its own ReadyForQuery.
    Query,
    /// CopyDone or CopyFail: answered by nothing, but it ends a COPY FROM STDIN.
    CopyEnd,
    /// The pooler's own Close: whatever comes before its answer was sent before it.
    Probe,
}

impl Request {
    /// What the server's answer tells of it.
    pub(super) fn kind(self) -> Self {
        match self {
            Self::ParseUnnamed { .. } => Self::Parse,
            Self::Probe => Self::Close,
            other => other,
        }
    }
}
