//! What comes from the server, and what of that which was owed it settles.

use super::{Answer, Batch, Copy, Due, Pipeline, Request, TransactionStatus};
use crate::protocol::{frame::backend, prepared::Undo};

/// The server sent something that does not fit what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PipelineError {
    #[error("the server sent ReadyForQuery although none was due")]
    UnexpectedReady,
    #[error("the server reported an unknown transaction status")]
    UnknownStatus,
    #[error("the server sent a message of unknown type {0:#04x}")]
    UnknownMessage(u8),
    #[error("the server sent a message of type {0:#04x} that nobody asked for")]
    Unasked(u8),
}

impl Pipeline {
    /// A message of type `tag` has come from the server; `first` is the first byte of its body, if any. Answers
    /// what the client is told of it.
    pub fn from_server(&mut self, tag: u8, first: Option<u8>) -> Result<Answer, PipelineError> {
        if !self.is_busy() && is_answer(tag) && self.doubtful == 0 {
            return Err(PipelineError::Unasked(tag));
        }
        match tag {
            backend::PARSE_COMPLETE => return Ok(self.answered(Request::Parse)),
            backend::BIND_COMPLETE => return Ok(self.answered(Request::Bind)),
            backend::CLOSE_COMPLETE => return Ok(self.answered(Request::Close)),
            backend::READY_FOR_QUERY => return self.ready(first),
            backend::ERROR_RESPONSE => self.error(),
            backend::ROW_DESCRIPTION | backend::NO_DATA => {
                self.answered(Request::Describe);
            }
            backend::COMMAND_COMPLETE
            | backend::EMPTY_QUERY_RESPONSE
            | backend::PORTAL_SUSPENDED => {
                self.copy = Copy::No;
                self.ignored = 0;
                self.answered(Request::Execute);
            }
            backend::COPY_IN_RESPONSE => self.begin_copy_in(),
            backend::COPY_BOTH_RESPONSE => self.copy = Copy::Both,
            backend::NOTICE_RESPONSE => return Ok(self.notice()),
            backend::COPY_DATA
            | backend::COPY_DONE
            | backend::COPY_OUT_RESPONSE
            | backend::DATA_ROW
            | backend::FUNCTION_CALL_RESPONSE
            | backend::NOTIFICATION_RESPONSE
            | backend::PARAMETER_DESCRIPTION
            | backend::PARAMETER_STATUS => {}
            other => return Err(PipelineError::UnknownMessage(other)),
        }
        Ok(Answer::Pass)
    }

    /// What the server has skipped since the last call, the latest first: the order to take it back in.
    pub fn take_skipped(&mut self) -> Vec<Undo> {
        if self.skipped.is_empty() {
            return Vec::new();
        }
        let mut skipped = std::mem::take(&mut self.skipped);
        skipped.reverse();
        skipped
    }

    /// A Parse of the unnamed statement was skipped that would have replaced `before`. Whether what follows it decides what
    /// there is now: another such Parse then replaces `before`, too.
    pub fn is_unnamed_replaced(&mut self, was_own: bool, before: Option<&[u8]>) -> bool {
        let next = self
            .owed
            .iter_mut()
            .find(|due| matches!(due.request, Request::Query | Request::ParseUnnamed { .. }));
        let Some(next) = next else {
            return false;
        };
        if let Request::ParseUnnamed {
            was_own: replaces_own,
        } = &mut next.request
        {
            *replaces_own = was_own;
            let before = Some(before.unwrap_or_default().into());
            let undo = Box::new(Undo::UnnamedParse { was_own, before });
            self.undoable += usize::from(next.undo.replace(undo).is_none());
        }
        true
    }

    fn front(&self) -> Option<Request> {
        self.owed.front().map(|due| due.request)
    }

    fn take_front(&mut self) -> Option<Due> {
        let due = self.owed.pop_front()?;
        self.undoable -= usize::from(due.undo.is_some());
        self.unnamed_owed -= usize::from(due.is_of_unnamed());
        self.ready_owed -= usize::from(due.ends_with_ready());
        Some(due)
    }

    fn answered(&mut self, request: Request) -> Answer {
        self.drop_stray_copy_ends();
        if self.front().map(Request::kind) != Some(request) {
            return Answer::Pass;
        }
        let due = self.take_front();
        if due
            .as_ref()
            .is_some_and(|due| due.request == Request::Probe)
        {
            self.doubtful = 0;
        }
        due.map_or(Answer::Pass, |due| due.answer)
    }

    /// The server reads CopyData now. What the client sent behind the COPY in one go is read in copy mode too:
    /// Syncs before the end of the data are ignored by the server.
    fn begin_copy_in(&mut self) {
        let end = self
            .owed
            .iter()
            .position(|due| due.request == Request::CopyEnd);
        let ahead = end.unwrap_or(self.owed.len());
        let mut index = 0;
        self.owed.retain(|due| {
            let ignored = index > 0 && index < ahead && due.request == Request::Sync;
            let is_end = Some(index) == end;
            index += 1;
            self.ready_owed -= usize::from(ignored);
            self.ignored += usize::from(ignored);
            !ignored && !is_end
        });
        if end.is_none() {
            self.copy = Copy::In;
        }
        // The Sync that closed the batch may be among the ignored ones.
        if self.front() == Some(Request::Execute) && self.ready_owed == 0 {
            self.batch = Batch::Open;
        }
    }

    fn error(&mut self) {
        self.copy = Copy::No;
        self.doubtful += std::mem::take(&mut self.ignored);
        self.drop_stray_copy_ends();
        match self.front() {
            // The error is part of the answer of a simple query, or asynchronous: nothing is skipped.
            Some(Request::Query | Request::Sync) => {
                let failed = self.owed.front_mut().and_then(|due| due.undo.take());
                self.undoable -= usize::from(failed.is_some());
                self.skipped.extend(failed.map(|undo| *undo));
            }
            // A Close never fails: the error is of something before it.
            Some(Request::Probe) => {}
            None if self.batch != Batch::Open => {}
            _ => self.skip_to_sync(),
        }
    }

    /// What the server has to tell may be about the statement that it parses: who has not asked for that has been told
    /// before.
    fn notice(&self) -> Answer {
        match self.owed.front() {
            Some(Due {
                request: Request::Parse,
                answer,
                undo,
            }) => {
                if let Some(Undo::Parse { statement, .. }) = undo.as_deref() {
                    statement.notice();
                }
                *answer
            }
            _ => Answer::Pass,
        }
    }

    fn skip_to_sync(&mut self) {
        // The first one has failed. A Parse of the unnamed statement has taken away what was there before.
        if let Some(Due {
            request: Request::ParseUnnamed { .. },
            undo,
            ..
        }) = self.owed.front_mut()
        {
            self.undoable -= usize::from(undo.take().is_some());
        }
        while self.front().is_some_and(|request| request != Request::Sync) {
            let undo = self.take_front().and_then(Due::into_undo);
            self.skipped.extend(undo);
        }
        if self.owed.is_empty() {
            self.batch = Batch::Skipping;
        }
    }

    fn ready(&mut self, status: Option<u8>) -> Result<Answer, PipelineError> {
        self.status = status
            .and_then(TransactionStatus::from_byte)
            .ok_or(PipelineError::UnknownStatus)?;
        self.copy = Copy::No;
        self.drop_stray_copy_ends();
        let is_due = matches!(self.front(), Some(Request::Query | Request::Sync));
        if !is_due && self.doubtful > 0 {
            self.doubtful -= 1;
            if self.owed.is_empty() {
                self.batch = Batch::Closed;
            }
            return Ok(Answer::Pass);
        }
        match self.take_front().map(|due| (due.request, due.answer)) {
            Some((request @ (Request::Query | Request::Sync), answer)) => {
                self.drop_stray_copy_ends();
                if request == Request::Query && self.owed.is_empty() {
                    // A simple query ends whatever batch was open before it.
                    self.batch = Batch::Closed;
                }
                Ok(answer)
            }
            _ => Err(PipelineError::UnexpectedReady),
        }
    }

    fn drop_stray_copy_ends(&mut self) {
        while self.front() == Some(Request::CopyEnd) {
            self.take_front();
        }
    }
}

/// Messages that a server sends only to answer a request. It may report an error, and what else it has to tell, at any
/// time; a ReadyForQuery that is not due is an error of its own.
fn is_answer(tag: u8) -> bool {
    !matches!(
        tag,
        backend::ERROR_RESPONSE
            | backend::NOTICE_RESPONSE
            | backend::NOTIFICATION_RESPONSE
            | backend::PARAMETER_STATUS
            | backend::READY_FOR_QUERY
    )
}
