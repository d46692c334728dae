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

use std::collections::VecDeque;

use super::{
    frame::{backend, frontend},
    prepared::{Statement, Undo},
};

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

/// A message whose answer is due.
#[derive(Debug)]
struct Due {
    request: Request,
    answer: Answer,
    /// What to take back if the server skips the message.
    undo: Option<Box<Undo>>,
}

impl Due {
    /// Whether it decides what the unnamed statement is.
    fn is_of_unnamed(&self) -> bool {
        matches!(self.request, Request::ParseUnnamed { .. })
            || matches!(self.undo.as_deref(), Some(Undo::Unnamed))
    }

    fn ends_with_ready(&self) -> bool {
        matches!(self.request, Request::Sync | Request::Query)
    }

    fn into_undo(self) -> Option<Undo> {
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
enum Request {
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
    fn kind(self) -> Self {
        match self {
            Self::ParseUnnamed { .. } => Self::Parse,
            Self::Probe => Self::Close,
            other => other,
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

    /// A Close of no statement goes to the server, and a Sync behind it: the answer ends the doubt.
    pub fn probe_to_server(&mut self) {
        self.owed.push_back(Due {
            request: Request::Probe,
            answer: Answer::Swallow,
            undo: None,
        });
        self.request_sync(Answer::Swallow);
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

    /// Whether an error that is due, or reported already, may make the server skip the next message.
    #[must_use]
    pub fn may_skip(&self) -> bool {
        !self.owed.is_empty() || self.batch == Batch::Skipping
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

    fn owe(&mut self, request: Request) {
        self.owed.push_back(Due {
            request,
            answer: Answer::Pass,
            undo: None,
        });
    }

    fn front(&self) -> Option<Request> {
        self.owed.front().map(|due| due.request)
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

    fn take_front(&mut self) -> Option<Due> {
        let due = self.owed.pop_front()?;
        self.undoable -= usize::from(due.undo.is_some());
        self.unnamed_owed -= usize::from(due.is_of_unnamed());
        self.ready_owed -= usize::from(due.ends_with_ready());
        Some(due)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        prepared::{Meaning, Statements},
        reading::Reading,
    };

    /// Plays a script: `>` before what goes to the server, `<` before what comes from it (`I`, `T`, `E` after Z).
    fn play(script: &str) -> Pipeline {
        let mut pipeline = Pipeline::default();
        for step in script.split_whitespace() {
            let bytes = step.as_bytes();
            match bytes[0] {
                b'>' => pipeline.to_server(bytes[1]).unwrap(),
                _ => {
                    pipeline
                        .from_server(bytes[1], bytes.get(2).copied())
                        .unwrap();
                }
            }
        }
        pipeline
    }

    fn assert_released_only_at_the_end(script: &str) {
        let steps: Vec<&str> = script.split_whitespace().collect();
        for end in 1..steps.len() {
            let part = steps[..end].join(" ");
            assert!(
                !play(&part).is_releasable(),
                "released too early after {part}"
            );
        }
        assert!(play(script).is_releasable(), "not released after {script}");
    }

    #[test]
    fn a_backend_is_released_after_the_last_answer_and_not_before() {
        for script in [
            ">Q <T <D <C <ZI",
            ">Q >Q <C <ZI <C <ZI",
            ">P >B >D >E >S <1 <2 <n <C <ZI",
            ">P >B >E >S >P >B >E >S <1 <2 <C <ZI <1 <2 <C <ZI",
            ">P >D >S <1 <t <T <ZI",
            ">P >B >E >H <1 <2 <C >S <ZI",
            ">P >H <1 >Q <C <ZI",
            ">F <V <ZI",
            ">Q <C <ZT >Q <C <ZI",
            ">Q <E <ZI",
            ">S <ZI",
            ">C >S <3 <ZI",
        ] {
            assert_released_only_at_the_end(script);
        }
    }

    #[test]
    fn an_open_or_failed_transaction_keeps_its_backend() {
        assert!(!play(">Q <C <ZT").is_releasable());
        assert!(!play(">Q <E <ZE").is_releasable());
        assert_eq!(play(">Q <E <ZE").status(), TransactionStatus::Failed);
    }

    #[test]
    fn an_error_takes_everything_up_to_the_next_sync_with_it() {
        for script in [
            ">P >B >E >S <E <ZI",
            ">P >B >E >S <1 <E <ZI",
            ">P >B <E >E >Q >S <ZI",
            ">P >B >E >H <1 <E >P >B >E >S <ZI",
            ">P >B >E >S >P >B >E >S <1 <E <ZI <1 <2 <C <ZI",
        ] {
            assert_released_only_at_the_end(script);
        }
    }

    #[test]
    fn copy_in_holds_the_backend_until_its_own_end() {
        for script in [
            ">Q <G >d >d >c <C <ZI",
            ">Q <G >d >f <E <ZI",
            ">P >B >E <1 <2 <G >d >c >S <C <ZI",
            ">P >B >E >S >d >c <1 <2 <G <C >S <ZI",
            ">Q >d >c <G <C <ZI",
        ] {
            assert_released_only_at_the_end(script);
        }
    }

    #[test]
    fn a_sync_sent_with_the_copy_is_ignored_by_the_server_and_not_owed() {
        assert_released_only_at_the_end(">P >B >E >S <1 <2 <G >d >c >S <C <ZI");
        assert_released_only_at_the_end(">P >B >E >S <1 <2 <G >d >S >c >S <C <ZI");
    }

    #[test]
    fn a_sync_sent_with_a_copy_that_fails_keeps_the_backend_until_it_is_answered_or_asked_about() {
        assert_released_only_at_the_end(">P >B >E >S <1 <2 <G >d <E <ZI");
        assert_released_only_at_the_end(">P >B >E <1 <2 <G >d >S <E <ZI");
        assert!(play(">Q <G >d >S <E <ZI <ZI").is_releasable());
        for zs in ["<ZI", "<ZI <ZI"] {
            let mut pipeline = play(">P >B >E >S <1 <2 <G >d <E");
            assert_eq!(pipeline.doubt(), Doubt::AskAfterSync);
            pipeline.to_server(b'S').unwrap();
            pipeline.probe_to_server();
            for _ in zs.split(' ') {
                assert_eq!(pipeline.from_server(b'Z', Some(b'I')), Ok(Answer::Pass));
                assert!(!pipeline.is_releasable());
            }
            assert_eq!(pipeline.from_server(b'3', None), Ok(Answer::Swallow));
            assert_eq!(pipeline.from_server(b'Z', Some(b'I')), Ok(Answer::Swallow));
            assert!(pipeline.is_releasable());
        }
        assert_eq!(play(">Q <G >d >S <E <ZI").doubt(), Doubt::Ask);
    }

    #[test]
    fn a_copy_that_the_server_refuses_half_way_leaves_nothing_owed() {
        assert!(play(">Q <G >d <E <ZI").is_releasable());
        assert!(play(">Q <G >d <E <ZI >d >c").is_releasable());
        assert!(play(">P >B >E >H <1 <2 <G >d <E >c >S <ZI").is_releasable());
    }

    #[test]
    fn copy_out_is_part_of_its_query() {
        assert_released_only_at_the_end(">Q <H <d <d <c <C <ZI");
    }

    fn forget(name: &[u8]) -> Undo {
        let statement = Statements::new(1).intern(name, Meaning::in_utf8(Reading::DEFAULT));
        Undo::Parse {
            name: Some(name.into()),
            statement,
        }
    }

    #[test]
    fn what_the_server_skipped_is_taken_back_latest_first() {
        let mut pipeline = Pipeline::default();
        for name in [b"a", b"b", b"c"] {
            pipeline
                .to_server_with(b'P', Answer::Pass, Some(forget(name)))
                .unwrap();
        }
        pipeline.from_server(b'1', None).unwrap();
        pipeline.from_server(b'E', None).unwrap();
        pipeline
            .to_server_with(b'P', Answer::Pass, Some(forget(b"d")))
            .unwrap();
        assert_eq!(
            pipeline.take_skipped(),
            [forget(b"d"), forget(b"c"), forget(b"b")]
        );
        pipeline.to_server(b'S').unwrap();
        pipeline.from_server(b'Z', Some(b'I')).unwrap();
        assert!(pipeline.is_releasable());
        assert_eq!(pipeline.take_skipped(), []);
    }

    #[test]
    fn each_answer_goes_to_whom_it_is_for() {
        let mut pipeline = Pipeline::default();
        pipeline
            .to_server_with(b'P', Answer::Swallow, None)
            .unwrap();
        pipeline.to_server(b'B').unwrap();
        pipeline
            .to_server_with(b'C', Answer::ParseComplete, None)
            .unwrap();
        assert_eq!(pipeline.from_server(b'1', None), Ok(Answer::Swallow));
        assert_eq!(pipeline.from_server(b'2', None), Ok(Answer::Pass));
        assert_eq!(pipeline.from_server(b'3', None), Ok(Answer::ParseComplete));
    }

    #[test]
    fn a_notice_about_what_the_client_has_not_asked_for_is_not_passed_on() {
        let mut pipeline = Pipeline::default();
        pipeline
            .to_server_with(b'P', Answer::Swallow, None)
            .unwrap();
        pipeline.to_server(b'P').unwrap();
        assert_eq!(pipeline.from_server(b'N', None), Ok(Answer::Swallow));
        assert_eq!(pipeline.from_server(b'1', None), Ok(Answer::Swallow));
        assert_eq!(pipeline.from_server(b'N', None), Ok(Answer::Pass));
    }

    #[test]
    fn a_ready_that_nobody_asked_for_is_an_error() {
        let mut pipeline = Pipeline::default();
        assert_eq!(
            pipeline.from_server(b'Z', Some(b'I')),
            Err(PipelineError::UnexpectedReady)
        );
        assert_eq!(
            pipeline.from_server(b'D', Some(0)),
            Err(PipelineError::Unasked(b'D'))
        );
        pipeline.to_server(b'Q').unwrap();
        assert_eq!(
            pipeline.from_server(b'Z', Some(b'?')),
            Err(PipelineError::UnknownStatus)
        );
        assert_eq!(
            pipeline.from_server(b'!', None),
            Err(PipelineError::UnknownMessage(b'!'))
        );
        assert_eq!(pipeline.to_server(b'p'), Err(InvalidMessage(b'p')));
    }
}
