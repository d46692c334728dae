//! The relay: messages between a client and its backend, both ways at once, until the backend may be released.
//!
//! One task drives both sockets. Bytes are forwarded in bulk; only headers are looked at, and the bodies of the
//! few small messages that matter (ReadyForQuery, CommandComplete, ParameterStatus, errors). A message larger
//! than a buffer streams through: what has come of it goes on at once. Smaller ones of the server go on whole, so that a
//! client whose session ends among them can still be told why.
//!
//! ```text
//!            read ──▶ inbox ── take_from_client ──▶ to_backend ──▶ write
//! client                                                               backend
//!            write ◀── outbox ◀── take_from_backend ── from_backend ◀── read
//! ```
//! Back-pressure: nothing is read from a side while the other has not taken what was read before.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use bytes::BytesMut;

use super::{
    Sharing,
    client::Client,
    error::{End, STATEMENT_TIMEOUT},
    idle,
    listening::Whose,
    local::Local,
    session_state,
    statements::{Own, Step, Translator, may_name_statement},
    unnamed::{KEPT_MAX_BYTES, Use},
};
use crate::{
    access::{Activity, SessionHandle},
    net::buffer::{BUFFER_BYTES, Buffer, BufferPool},
    pool::{Backend, Half, Remains},
    protocol::{
        error::{ErrorResponse, SqlState},
        frame::{HEADER_BYTES, Header, backend as tag, frontend},
        pipeline::{
            Answer, Awaited, Doubt, InvalidMessage, Pipeline, TransactionStatus, is_request,
        },
        reading::Words,
        residue::Residue,
    },
};

/// PostgreSQL takes no larger message (`PQ_LARGE_MESSAGE_LIMIT`, two bytes less than 1 GiB, the length word included).
const CLIENT_BODY_MAX_BYTES: usize = 0x3fff_fffe - 4;

/// A whole ReadyForQuery of a session that is idle.
pub(super) const READY: &[u8] = b"Z\0\0\0\x05I";

/// Close of a statement that does not exist, and Sync.
const PROBE: &[u8] = b"C\0\0\0\x11Ssluice_none\0S\0\0\0\x04";

const FLUSH: &[u8] = b"H\0\0\0\x04";

/// A whole ParseComplete.
const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";

/// One stretch of relaying, from the first message of a transaction to its release.
pub(super) struct Relay<'a> {
    client: &'a mut Client,
    backend: &'a mut Backend,
    local: &'a Local,
    clock: &'a dyn Fn() -> tokio::time::Instant,
    to_backend: Buffer,
    from_backend: Buffer,
    /// Bytes of a client message's body that have not come yet, and that message's type.
    client_body: usize,
    client_tag: u8,
    /// The same for a message of the server.
    backend_body: usize,
    /// Where in the outbox's last filling its last whole message ends; `None`: it is the middle of one message.
    whole_in_outbox: Option<usize>,
    /// How much of that filling has been sent.
    sent_of_outbox: usize,
    /// What the client's next message needs.
    needs: Needs,
    held: Held,
    /// `None`: the backend is the client's own, names and all.
    own: Option<Own<'a>>,
    sending: Sending,
    ending: Ending,
}

/// Whether the server still takes what we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Works,
    Broken,
}

/// What must have come before the client's next message can be sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// So many of its bytes.
    Bytes(usize),
    /// What the server answers to an earlier batch.
    Answers,
}

/// Whether this stretch ends with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// The client has said goodbye; it ends when what it asked for before is answered.
    Terminated,
    /// The server has reported a FATAL; its end will follow.
    Fatal,
    /// The server has reported an error when all was answered: it is the backend's end, and no client's.
    Departed,
}

/// Whether the client waits to hear that its transaction is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Held {
    #[default]
    Nothing,
    /// ReadyForQuery, until what the client listens to is settled.
    Ready,
}

/// What became of the bytes for the client when a relay was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Boundary {
    /// The client has whole messages only: one more can be said.
    Whole,
    /// A message was partly sent: nothing more can be said.
    Cut,
}

/// What a relay that has ended leaves to its backend.
pub(super) enum Left {
    /// Nothing is half done.
    Nothing,
    /// Work that somebody has to undo.
    InHand(Remains),
    /// The backend is of no use any more.
    Broken,
}

impl<'a> Relay<'a> {
    pub(super) fn new(
        client: &'a mut Client,
        backend: &'a mut Backend,
        local: &'a Local,
        buffers: &BufferPool,
        clock: &'a dyn Fn() -> tokio::time::Instant,
        mut own: Option<Own<'a>>,
    ) -> Self {
        // Whatever was sent to it before is answered.
        backend.may_forget = false;
        backend.may_reread = false;
        backend.words = Words::None;
        backend.was_reset = false;
        if let Some(own) = &mut own {
            own.prepared.unnamed.begin(backend);
            if let Some(of_sql) = &own.prepared.of_sql {
                backend.residue |= of_sql.residue();
                backend.own_settings.extend(of_sql.own_settings());
            }
        }
        Self {
            client,
            backend,
            local,
            clock,
            to_backend: Buffer::new(buffers.clone()),
            from_backend: Buffer::new(buffers.clone()),
            client_body: 0,
            client_tag: 0,
            backend_body: 0,
            whole_in_outbox: Some(0),
            sent_of_outbox: 0,
            needs: Needs::Nothing,
            held: Held::Nothing,
            own,
            sending: Sending::Works,
            ending: Ending::No,
        }
    }

    /// Relays until the backend may be released (with a backend of its own: until it was reset) or the session ends.
    pub(super) async fn run(&mut self, sharing: Sharing) -> Result<(), End> {
        // What brought us here is in the inbox already.
        self.take_from_client()?;
        poll_fn(|context| self.poll(context, sharing)).await
    }

    /// Where the client's stream stands after `run` has failed. The part of a message that has not been sent is
    /// taken back; if some of that message has been sent already, the stream is cut.
    pub(super) fn cut(&mut self) -> Boundary {
        if self.backend_body == 0 {
            return Boundary::Whole;
        }
        match self
            .whole_in_outbox
            .and_then(|whole| whole.checked_sub(self.sent_of_outbox))
        {
            Some(unsent) => {
                self.client.outbox.truncate(unsent);
                Boundary::Whole
            }
            None => Boundary::Cut,
        }
    }

    /// What the client leaves behind if it goes now.
    pub(super) fn into_left(self) -> Left {
        if self.sending == Sending::Broken
            || matches!(self.ending, Ending::Fatal | Ending::Departed)
        {
            return Left::Broken;
        }
        if self.is_settled() {
            return Left::Nothing;
        }
        let half = (self.client_body > 0).then_some(Half {
            tag: self.client_tag,
            missing_bytes: self.client_body,
        });
        Left::InHand(Remains {
            to_backend: self.to_backend,
            half,
            from_backend: self.from_backend,
            backend_body: self.backend_body,
        })
    }

    fn poll(&mut self, context: &mut Context<'_>, sharing: Sharing) -> Poll<Result<(), End>> {
        let ended = if self.is_settled() {
            // Only a client with a backend of its own is here between transactions.
            if let Some(left) = self.local.take_notice() {
                self.client.outbox.put(&idle::expiry_notice(left));
            }
            self.local.poll_end_or_drain(context)
        } else {
            self.local.poll_end(context)
        };
        if let Poll::Ready(cause) = ended {
            return Poll::Ready(Err(End::Signalled(cause)));
        }
        loop {
            let from_client = self.poll_client_to_backend(context)?;
            let from_backend = self.poll_backend_to_client(context)?;
            if self.is_over(sharing) {
                return Poll::Ready(self.over());
            }
            if self.backend.pipeline.doubt() == Doubt::Ask && self.client_body == 0 {
                self.backend.pipeline.probe_to_server();
                self.to_backend.put(PROBE);
                continue;
            }
            if self.let_go() {
                continue;
            }
            if from_client.is_pending() && from_backend.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Moves bytes towards the backend; pending: nothing more can be done in this direction now.
    fn poll_client_to_backend(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, End> {
        // What there is goes first: then one look at the client tells that it has nothing more to say.
        self.send_to_backend(context);
        let mut moved = Poll::Pending;
        if self.needs == Needs::Answers && self.to_backend.is_drained() {
            self.take_from_client()?;
            if self.needs != Needs::Answers || !self.to_backend.is_drained() {
                moved = Poll::Ready(());
            }
        }
        let there = self.client.inbox.bytes().len();
        let waits_for_more = matches!(self.needs, Needs::Bytes(count) if count > there);
        let has_room = waits_for_more || !self.client.inbox.is_full();
        if self.to_backend.is_drained() && self.ending == Ending::No && has_room {
            match self.client.poll_fill(context) {
                Poll::Ready(Ok(_)) => {
                    self.take_from_client()?;
                    moved = Poll::Ready(());
                }
                Poll::Ready(Err(end)) => return Err(end),
                Poll::Pending => {}
            }
        }
        if moved.is_ready() {
            self.send_to_backend(context);
        }
        Ok(moved)
    }

    fn send_to_backend(&mut self, context: &mut Context<'_>) {
        if self.to_backend.is_drained() {
            return;
        }
        let stream = self.backend.connection.stream_mut();
        if let Poll::Ready(Err(_)) = self.to_backend.poll_drain(stream, context) {
            // The server may have told why before it left: its words are still to be read.
            self.to_backend.clear();
            self.sending = Sending::Broken;
        }
    }

    /// Moves bytes towards the client; pending: nothing more can be done in this direction now.
    fn poll_backend_to_client(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, End> {
        let mut moved = Poll::Pending;
        if self.client.outbox.is_drained() {
            match self
                .from_backend
                .poll_fill(self.backend.connection.stream_mut(), context)
            {
                Poll::Ready(Ok(0) | Err(_)) => return Err(self.backend_lost()),
                Poll::Ready(Ok(_)) => {
                    self.take_from_backend()?;
                    moved = Poll::Ready(());
                }
                Poll::Pending => {}
            }
        }
        if !self.client.outbox.is_drained() {
            let count = self.client.outbox.bytes().len();
            match self.client.poll_drain(context) {
                Poll::Ready(Ok(())) => moved = Poll::Ready(()),
                // It has said goodbye: what it asked for before is done all the same.
                Poll::Ready(Err(_)) if self.ending == Ending::Terminated => {
                    self.client.outbox.clear();
                    moved = Poll::Ready(());
                }
                Poll::Ready(Err(end)) => return Err(end),
                Poll::Pending => {}
            }
            let sent = count - self.client.outbox.bytes().len();
            self.sent_of_outbox += sent;
            SessionHandle::count(&self.local.handle.bytes_out, sent as u64);
        }
        Ok(moved)
    }

    fn backend_lost(&self) -> End {
        if self.ending == Ending::Fatal {
            End::BackendFatal
        } else {
            End::BackendLost
        }
    }

    /// Whether nothing is half done in either direction: no message, no answer, no write.
    fn is_settled(&self) -> bool {
        self.client_body == 0
            && self.backend_body == 0
            && self.from_backend.is_empty()
            && self.to_backend.is_drained()
            && self.sending == Sending::Works
            && self.backend.pipeline.is_releasable()
    }

    fn is_over(&self, sharing: Sharing) -> bool {
        match self.ending {
            // A message that has begun to come is on its way to this backend.
            Ending::No => {
                let is_due = sharing == Sharing::Transaction || self.backend.was_reset;
                is_due && self.needs == Needs::Nothing && self.is_settled()
            }
            // Where the server waits for more, it would wait for ever.
            Ending::Terminated => {
                let pipeline = &self.backend.pipeline;
                self.is_settled() || !pipeline.is_busy() || pipeline.awaited() != Awaited::Nothing
            }
            Ending::Fatal => false,
            Ending::Departed => true,
        }
    }

    /// Sends the ReadyForQuery that was held back, although the client goes on at once; `false`: there is none.
    fn let_go(&mut self) -> bool {
        let may_go = self.held == Held::Ready && self.backend_body == 0;
        if may_go {
            self.held = Held::Nothing;
            self.client.outbox.put(READY);
        }
        may_go
    }

    /// What the client has still to be told once all is settled.
    pub(super) fn held(&self) -> Held {
        self.held
    }

    fn over(&self) -> Result<(), End> {
        match self.ending {
            Ending::Terminated => Err(End::Terminated),
            Ending::No | Ending::Fatal | Ending::Departed => Ok(()),
        }
    }

    /// Takes what the client has sent, message by message, and lines it up for the backend.
    fn take_from_client(&mut self) -> Result<(), End> {
        let Self {
            client,
            backend,
            own,
            to_backend,
            ..
        } = self;
        let bytes = client.inbox.bytes();
        let mut taken = self.client_body.min(bytes.len());
        self.client_body -= taken;
        // Bytes up to here are lined up; those behind, up to `taken`, go on as they are.
        let mut lined_up = 0;
        let was_held = self.needs == Needs::Answers;
        self.needs = Needs::Nothing;
        while self.client_body == 0 && self.ending == Ending::No {
            let message = &bytes[taken..];
            let header = match next_from_client(message) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                // What came before it is answered first.
                Err(_) if backend.pipeline.owes_answers() => {
                    self.needs = Needs::Answers;
                    break;
                }
                Err(end) => return Err(end),
            };
            if header.tag == frontend::TERMINATE {
                self.ending = Ending::Terminated;
                break;
            }
            let doubt = backend.pipeline.doubt();
            let mut used = Use::Nothing;
            if let Some(own) = own.as_mut() {
                let unnamed = &mut own.prepared.unnamed;
                used = Use::of(header, message);
                if used == Use::Read && header.tag == frontend::BIND {
                    unnamed.bind();
                }
                match used {
                    Use::Nothing | Use::Drop => {}
                    Use::Replace => {
                        let enough = match header.message_bytes() {
                            whole @ ..=KEPT_MAX_BYTES => whole,
                            _ => BUFFER_BYTES,
                        };
                        if message.len() < enough {
                            self.needs = Needs::Bytes(enough);
                            break;
                        }
                    }
                    Use::Read if backend.pipeline.is_unnamed_undecided() => {
                        self.needs = Needs::Answers;
                        break;
                    }
                    Use::Read if unnamed.is_on(backend) => unnamed.look(backend),
                    Use::Read => {
                        to_backend.put(&bytes[lined_up..taken]);
                        lined_up = taken;
                        unnamed.bring(backend, to_backend)?;
                    }
                }
            }
            if let Some(own) = own.as_mut()
                && may_name_statement(header, message)
            {
                to_backend.put(&bytes[lined_up..taken]);
                lined_up = taken;
                let mut translator = Translator {
                    own,
                    backend,
                    out: to_backend,
                };
                if translator.may_yet_forget() {
                    self.needs = Needs::Answers;
                    break;
                }
                match translator.translate(header, message)? {
                    Step::AsIs => {}
                    Step::Wait(count) => {
                        self.needs = Needs::Bytes(count);
                        break;
                    }
                    Step::Hold => {
                        self.needs = Needs::Answers;
                        break;
                    }
                    Step::Written(count) => {
                        own.prepared.unnamed.translated(used, backend);
                        take_back_skipped(Some(own), backend);
                        self.client_body = header.message_bytes() - count;
                        self.client_tag = header.tag;
                        taken += count;
                        lined_up = taken;
                        continue;
                    }
                }
            }
            match (used, own.as_mut()) {
                (Use::Replace, Some(own)) => {
                    own.prepared.unnamed.replace(header, message, backend);
                }
                (Use::Drop, Some(own)) => {
                    own.prepared.unnamed.drop(backend);
                    backend.pipeline.to_server(header.tag)?;
                }
                _ => backend.pipeline.to_server(header.tag)?,
            }
            if matches!(header.tag, frontend::QUERY | frontend::PARSE) {
                let is_whole = message.len() >= header.message_bytes();
                let text = text_of(header, message);
                session_state::look_at_text(text, is_whole, backend);
                if let Some(own) = own.as_mut()
                    && own.listening.is_subscribed()
                {
                    own.listening.read(text);
                }
            }
            let here = header.message_bytes().min(message.len());
            if header.tag == frontend::FUNCTION_CALL {
                let body = message.get(HEADER_BYTES..here).unwrap_or_default();
                session_state::look_at_call(body, backend);
            }
            self.client_body = header.message_bytes() - here;
            self.client_tag = header.tag;
            taken += here;
            take_back_skipped(own.as_mut(), backend);
            if doubt == Doubt::AskAfterSync && header.tag == frontend::SYNC {
                to_backend.put(&bytes[lined_up..taken]);
                lined_up = taken;
                backend.pipeline.probe_to_server();
                to_backend.put(PROBE);
            }
        }
        client.inbox.consume(lined_up);
        to_backend.take(&mut client.inbox, taken - lined_up);
        // The server says at the end of a batch what it is asked to say now; once is enough for what has been sent.
        if self.needs == Needs::Answers
            && (!was_held || !to_backend.is_drained())
            && backend.pipeline.awaited() == Awaited::Sync
        {
            to_backend.put(FLUSH);
        }
        if taken > 0 {
            SessionHandle::count(&self.local.handle.bytes_in, taken as u64);
            self.local.work((self.clock)());
        }
        Ok(())
    }

    /// Takes what the server has sent, message by message, and lines it up for the client. Whatever stops it, the
    /// client gets the messages before that one, whole.
    fn take_from_backend(&mut self) -> Result<(), End> {
        let Self {
            client,
            backend,
            own,
            from_backend,
            ..
        } = self;
        let bytes = from_backend.bytes();
        let outbox = &mut client.outbox;
        let mut taken = self.backend_body.min(bytes.len());
        self.backend_body -= taken;
        let mut lined_up = 0;
        let mut whole_messages = (self.backend_body == 0).then_some(taken);
        let mut outcome = Ok(());
        while self.backend_body == 0 {
            let message = &bytes[taken..];
            let header = match next_from_server(message) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(end) => {
                    outcome = Err(end);
                    break;
                }
            };
            let here = header.message_bytes().min(message.len());
            let is_whole = here == header.message_bytes();
            let body = message.get(HEADER_BYTES..here).unwrap_or_default();
            let is_shared = own.is_some();
            if is_shared && header.tag == tag::ERROR_RESPONSE && backend.pipeline.is_releasable() {
                self.ending = Ending::Departed;
                break;
            }
            let mut instead = match look_at_server(backend, own.as_mut(), header.tag, body) {
                Ok(instead) => instead.filter(|_| is_whole),
                Err(end) => {
                    outcome = Err(end);
                    break;
                }
            };
            match header.tag {
                tag::READY_FOR_QUERY => {
                    ready(&backend.pipeline, self.local, (self.clock)());
                    if is_to_settle(backend, own.as_mut()) {
                        self.held = Held::Ready;
                        instead = Some(BytesMut::new());
                    }
                }
                tag::ERROR_RESPONSE if is_fatal(body) => self.ending = Ending::Fatal,
                _ => {}
            }
            let instead = match instead {
                None if header.tag == tag::ERROR_RESPONSE
                    && is_whole
                    && self.local.is_overdue() =>
                {
                    statement_timeout(body)
                }
                instead => instead,
            };
            if let Some(instead) = instead {
                outbox.put(&bytes[lined_up..taken]);
                outbox.put(&instead);
                lined_up = taken + here;
            }
            self.backend_body = header.message_bytes() - here;
            taken += here;
            if is_whole {
                whole_messages = Some(outbox.bytes().len() + taken - lined_up);
            }
        }
        from_backend.consume(lined_up);
        outbox.take(from_backend, taken - lined_up);
        self.whole_in_outbox = whole_messages;
        self.sent_of_outbox = 0;
        outcome
    }
}

/// Corrects what was assumed of statements whose messages the server has skipped, before anything is sent or heard that
/// comes after them.
fn take_back_skipped(own: Option<&mut Own<'_>>, backend: &mut Backend) {
    let Some(own) = own else {
        return;
    };
    for undo in backend.pipeline.take_skipped() {
        own.prepared.take_back(undo, backend);
    }
}

/// Notes where a ReadyForQuery leaves the session; with more to be answered it is still at work.
fn ready(pipeline: &Pipeline, local: &Local, now: tokio::time::Instant) {
    match pipeline.status() {
        _ if pipeline.is_busy() => {}
        TransactionStatus::Idle => local.rest(now),
        TransactionStatus::InTransaction | TransactionStatus::Failed => {
            local.enter(Activity::IdleInTransaction, now);
        }
    }
}

/// Whether the client must not know yet that its transaction is over: what it listens to is to be settled before.
fn is_to_settle(backend: &Backend, own: Option<&mut Own<'_>>) -> bool {
    backend.pipeline.status() == TransactionStatus::Idle
        && own.is_some_and(|own| own.listening.transaction_ended())
        && backend.pipeline.is_releasable()
}

/// The text of a Query or Parse, as far as it has come.
fn text_of(header: Header, message: &[u8]) -> &[u8] {
    let body = message.get(HEADER_BYTES..).unwrap_or_default();
    let mut parts = body.split(|byte| *byte == 0);
    if header.tag == frontend::PARSE {
        parts.next();
    }
    parts.next().unwrap_or_default()
}

/// The header of the client's next message.
fn next_from_client(bytes: &[u8]) -> Result<Option<Header>, End> {
    let header = Header::parse(bytes).map_err(|_| End::ClientLength)?;
    header.map_or(Ok(None), |header| match header.tag {
        _ if header.body_bytes > CLIENT_BODY_MAX_BYTES => Err(End::ClientLength),
        frontend::TERMINATE => Ok(Some(header)),
        tag if !is_request(tag) => Err(InvalidMessage(tag).into()),
        _ => Ok(Some(header)),
    })
}

/// The header of the server's next message, once all of it has come, or more than a buffer holds.
///
/// Of those that are looked at, only an error may be that large; it is then passed on unread.
fn next_from_server(bytes: &[u8]) -> Result<Option<Header>, End> {
    let Some(header) = Header::parse(bytes).map_err(|_| End::BackendMessage)? else {
        return Ok(None);
    };
    if header.tag == tag::READY_FOR_QUERY && header.body_bytes != 1 {
        return Err(End::BackendMessage);
    }
    match header.message_bytes() {
        whole if bytes.len() >= whole => Ok(Some(header)),
        ..=BUFFER_BYTES => Ok(None),
        _ if !is_looked_at(header.tag) || header.tag == tag::ERROR_RESPONSE => Ok(Some(header)),
        _ => Err(End::BackendMessage),
    }
}

/// Messages whose body is looked at, or that may be replaced.
fn is_looked_at(tag: u8) -> bool {
    matches!(
        tag,
        tag::READY_FOR_QUERY
            | tag::COMMAND_COMPLETE
            | tag::PARAMETER_STATUS
            | tag::PARSE_COMPLETE
            | tag::CLOSE_COMPLETE
            | tag::ERROR_RESPONSE
            | tag::NOTIFICATION_RESPONSE
    )
}

/// Notes what a message of the server means, and answers what the client gets in its stead, if not the message.
fn look_at_server(
    backend: &mut Backend,
    own: Option<&mut Own<'_>>,
    tag: u8,
    body: &[u8],
) -> Result<Option<BytesMut>, End> {
    let answer = backend.pipeline.from_server(tag, body.first().copied())?;
    match tag {
        tag::COMMAND_COMPLETE => session_state::look_at_tag(body, backend, own),
        tag::PARAMETER_STATUS => session_state::look_at_parameter(backend, body)?,
        tag::ERROR_RESPONSE => {
            let Some(own) = own else { return Ok(None) };
            take_back_skipped(Some(own), backend);
            own.listening.error();
            if session_state::is_stale_plan(body) {
                own.statements.borrow_mut().renew();
            }
            return Ok(own.prepared.translate_error(body, backend));
        }
        tag::NOTIFICATION_RESPONSE => {
            let Some(own) = own else { return Ok(None) };
            match own.listening.whose(body) {
                Whose::New => {}
                Whose::Subscribed => return Ok(Some(BytesMut::new())),
                Whose::Nobodys => {
                    backend.residue |= Residue::DIRTY;
                    return Ok(Some(BytesMut::new()));
                }
            }
        }
        _ => {}
    }
    Ok(match answer {
        Answer::Pass => None,
        Answer::Swallow => Some(BytesMut::new()),
        Answer::ParseComplete => Some(BytesMut::from(PARSE_COMPLETE)),
    })
}

/// The error of a query that we had cancelled because it took too long, as the server would word it.
fn statement_timeout(body: &[u8]) -> Option<BytesMut> {
    let error = ErrorResponse::parse(body);
    (error.code == SqlState::QUERY_CANCELED).then(|| {
        let mut out = BytesMut::new();
        let message = STATEMENT_TIMEOUT.to_owned();
        ErrorResponse { message, ..error }.write(&mut out);
        out
    })
}

/// Whether an ErrorResponse says that the server ends the session. The field `V` is never translated.
fn is_fatal(body: &[u8]) -> bool {
    body.split(|byte| *byte == 0)
        .any(|field| field == b"VFATAL" || field == b"VPANIC")
}
