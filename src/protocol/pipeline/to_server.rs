//! What goes to the server, and so is owed from then on.

use super::{Answer, Batch, Copy, Due, Pipeline, Request};
use crate::protocol::{frame::frontend, prepared::Undo};

/// A client message that cannot be sent to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid frontend message type {0}")]
pub struct InvalidMessage(pub u8);

/// Whether a client may send messages of this type in a session; Terminate apart, which no server answers.
#[must_use]
pub fn is_request(tag: u8) -> bool {
    matches!(
        tag,
        frontend::PARSE
            | frontend::BIND
            | frontend::DESCRIBE
            | frontend::EXECUTE
            | frontend::CLOSE
            | frontend::QUERY
            | frontend::FUNCTION_CALL
            | frontend::SYNC
            | frontend::FLUSH
            | frontend::COPY_DATA
            | frontend::COPY_DONE
            | frontend::COPY_FAIL
    )
}

impl Pipeline {
    /// A message of type `tag` goes to the server, and its answer to the client.
    pub fn to_server(&mut self, tag: u8) -> Result<(), InvalidMessage> {
        self.to_server_with(tag, Answer::Pass, None)
    }

    /// The same, with what becomes of the answer, and of what was assumed should the server skip the message.
    pub fn to_server_with(
        &mut self,
        tag: u8,
        answer: Answer,
        undo: Option<Undo>,
    ) -> Result<(), InvalidMessage> {
        let due = |request| Due {
            request,
            answer,
            undo: undo.map(Box::new),
        };
        match tag {
            frontend::PARSE => self.request_extended(due(Request::Parse)),
            frontend::BIND => self.request_extended(due(Request::Bind)),
            frontend::DESCRIBE => self.request_extended(due(Request::Describe)),
            frontend::EXECUTE => self.request_extended(due(Request::Execute)),
            frontend::CLOSE => self.request_extended(due(Request::Close)),
            frontend::QUERY | frontend::FUNCTION_CALL => self.request_whole(due(Request::Query)),
            frontend::SYNC => self.request_sync(answer),
            frontend::COPY_DONE | frontend::COPY_FAIL => self.end_copy(),
            frontend::COPY_DATA | frontend::FLUSH => {}
            other => return Err(InvalidMessage(other)),
        }
        Ok(())
    }

    /// A Parse of the unnamed statement goes to the server; `was_own`: what it replaces was the client's, too. `before`
    /// is what it replaces, where the server `may_skip` it: otherwise nothing is allocated.
    pub fn unnamed_to_server(&mut self, was_own: bool, before: Option<Box<[u8]>>) {
        let undo = before.map(|before| {
            Box::new(Undo::UnnamedParse {
                was_own,
                before: Some(before),
            })
        });
        self.request_extended(Due {
            request: Request::ParseUnnamed { was_own },
            answer: Answer::Pass,
            undo,
        });
    }

    /// A Close of no statement goes to the server, and a Sync behind it: the answer ends the doubt.
    pub fn probe_to_server(&mut self) {
        self.owed.push_back(Due {
            request: Request::Probe,
            answer: Answer::Swallow,
            undo: None,
        });
        self.request_sync(Answer::Swallow);
    }

    /// Whether an error that is due, or reported already, may make the server skip the next message.
    #[must_use]
    pub fn may_skip(&self) -> bool {
        !self.owed.is_empty() || self.batch == Batch::Skipping
    }

    fn owe(&mut self, request: Request) {
        self.owed.push_back(Due {
            request,
            answer: Answer::Pass,
            undo: None,
        });
    }

    fn request_whole(&mut self, due: Due) {
        if self.batch == Batch::Skipping {
            self.skipped.extend(due.into_undo());
        } else {
            self.ready_owed += 1;
            self.undoable += usize::from(due.undo.is_some());
            self.owed.push_back(due);
        }
    }

    fn request_extended(&mut self, due: Due) {
        if self.batch == Batch::Skipping {
            self.skipped.extend(due.into_undo());
        } else {
            self.batch = Batch::Open;
            self.undoable += usize::from(due.undo.is_some());
            self.unnamed_owed += usize::from(due.is_of_unnamed());
            self.owed.push_back(due);
        }
    }

    fn request_sync(&mut self, answer: Answer) {
        if self.copy == Copy::In {
            self.ignored += 1;
            return;
        }
        self.batch = Batch::Closed;
        self.ready_owed += 1;
        self.owed.push_back(Due {
            request: Request::Sync,
            answer,
            undo: None,
        });
    }

    fn end_copy(&mut self) {
        if self.copy == Copy::In {
            self.copy = Copy::No;
        } else if self.batch != Batch::Skipping && self.is_busy() {
            // It may be ahead of a CopyInResponse that has not come yet; it is dropped where there is none.
            self.owe(Request::CopyEnd);
        }
    }
}
