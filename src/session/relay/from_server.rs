//! What the server sends, message by message.

use bytes::BytesMut;

use super::{Ending, Held, Relay, take_back_skipped};
use crate::{
    access::Activity,
    net::buffer::BUFFER_BYTES,
    pool::Backend,
    protocol::{
        error::{ErrorResponse, SqlState},
        frame::{HEADER_BYTES, Header, backend as tag},
        pipeline::{Answer, Pipeline, TransactionStatus},
        residue::Residue,
    },
    session::{
        error::{End, STATEMENT_TIMEOUT},
        listening::Whose,
        local::Local,
        session_state,
        statements::Own,
    },
};

/// A whole ParseComplete.
const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";

impl Relay<'_> {
    /// Takes what the server has sent, message by message, and lines it up for the client. Whatever stops it, the
    /// client gets the messages before that one, whole.
    pub(super) fn take_from_backend(&mut self) -> Result<(), End> {
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
