//! The relay: messages between a client and its backend, both ways at once, until the backend may be released.
//!
//! One task drives both sockets. Bytes are forwarded in bulk; only headers are looked at, and the bodies of the
//! few small messages that matter (ReadyForQuery, CommandComplete, ParameterStatus, errors). A message larger
//! than a buffer streams through: what has come of it goes on at once.
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

use super::{client::Client, error::End, local::Local, session_state};
use crate::{
    access::{Activity, SessionHandle},
    net::buffer::{BUFFER_BYTES, Buffer, BufferPool},
    pool::Backend,
    protocol::{
        frame::{HEADER_BYTES, Header, backend as tag, frontend},
        pipeline::TransactionStatus,
    },
};

/// One stretch of relaying, from the first message of a transaction to its release.
pub(super) struct Relay<'a> {
    client: &'a mut Client,
    backend: &'a mut Backend,
    local: &'a Local,
    clock: &'a dyn Fn() -> tokio::time::Instant,
    to_backend: Buffer,
    from_backend: Buffer,
    /// Bytes of a client message's body that have not come yet.
    client_body: usize,
    /// The same for a message of the server.
    backend_body: usize,
    /// Where in the outbox's last filling its last whole message ends; `None`: it is the middle of one message.
    whole_in_outbox: Option<usize>,
    /// How much of that filling has been sent.
    sent_of_outbox: usize,
    ending: Ending,
}

/// Whether this stretch ends with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// The client has said goodbye; it ends when what it asked for before is answered.
    Terminated,
    /// The server has reported a FATAL; its end will follow.
    Fatal,
}

/// What became of the bytes for the client when a relay was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Boundary {
    /// The client has whole messages only: one more can be said.
    Whole,
    /// A message was partly sent: nothing more can be said.
    Cut,
}

impl<'a> Relay<'a> {
    pub(super) fn new(
        client: &'a mut Client,
        backend: &'a mut Backend,
        local: &'a Local,
        buffers: &BufferPool,
        clock: &'a dyn Fn() -> tokio::time::Instant,
    ) -> Self {
        Self {
            client,
            backend,
            local,
            clock,
            to_backend: Buffer::new(buffers.clone()),
            from_backend: Buffer::new(buffers.clone()),
            client_body: 0,
            backend_body: 0,
            whole_in_outbox: Some(0),
            sent_of_outbox: 0,
            ending: Ending::No,
        }
    }

    /// Relays until the backend may be released (`releasable` says so) or the session ends.
    pub(super) async fn run(&mut self, releasable: impl Fn(&Backend) -> bool) -> Result<(), End> {
        // What brought us here is in the inbox already.
        self.take_from_client()?;
        poll_fn(|context| self.poll(context, &releasable)).await
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

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        releasable: &impl Fn(&Backend) -> bool,
    ) -> Poll<Result<(), End>> {
        if let Poll::Ready(cause) = self.local.poll_end(context) {
            return Poll::Ready(Err(End::Signalled(cause)));
        }
        loop {
            let from_client = self.poll_client_to_backend(context)?;
            let from_backend = self.poll_backend_to_client(context)?;
            if self.is_over(releasable) {
                return Poll::Ready(self.over());
            }
            if from_client.is_pending() && from_backend.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Moves bytes towards the backend; pending: nothing more can be done in this direction now.
    fn poll_client_to_backend(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, End> {
        let mut moved = Poll::Pending;
        if self.to_backend.is_drained() && self.ending == Ending::No && !self.client.inbox.is_full()
        {
            match self.client.poll_fill(context) {
                Poll::Ready(Ok(count)) => {
                    SessionHandle::count(&self.local.handle.bytes_in, count as u64);
                    self.take_from_client()?;
                    moved = Poll::Ready(());
                }
                Poll::Ready(Err(end)) => return Err(end),
                Poll::Pending => {}
            }
        }
        if !self.to_backend.is_drained() {
            match self
                .to_backend
                .poll_drain(self.backend.connection.stream_mut(), context)
            {
                Poll::Ready(Ok(())) => moved = Poll::Ready(()),
                // The server may have told why before it left: its words are still to be read.
                Poll::Ready(Err(_)) => self.to_backend.clear(),
                Poll::Pending => {}
            }
        }
        Ok(moved)
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

    fn is_over(&self, releasable: &impl Fn(&Backend) -> bool) -> bool {
        let settled = self.client_body == 0
            && self.backend_body == 0
            && self.from_backend.is_empty()
            && self.to_backend.is_drained()
            && self.backend.pipeline.is_releasable();
        match self.ending {
            Ending::No => settled && releasable(self.backend),
            Ending::Terminated => settled || !self.backend.pipeline.is_busy(),
            Ending::Fatal => false,
        }
    }

    fn over(&self) -> Result<(), End> {
        match self.ending {
            Ending::Terminated => Err(End::Terminated),
            Ending::No | Ending::Fatal => Ok(()),
        }
    }

    /// Takes what the client has sent, message by message, and lines it up for the backend.
    fn take_from_client(&mut self) -> Result<(), End> {
        let bytes = self.client.inbox.bytes();
        let mut taken = self.client_body.min(bytes.len());
        self.client_body -= taken;
        while self.client_body == 0 && self.ending == Ending::No {
            let Some(header) = Header::parse(&bytes[taken..]).map_err(|_| End::ClientLength)?
            else {
                break;
            };
            if header.tag == frontend::TERMINATE {
                self.ending = Ending::Terminated;
                break;
            }
            self.backend.pipeline.to_server(header.tag)?;
            if matches!(header.tag, frontend::QUERY | frontend::PARSE) {
                session_state::look_at_text(&bytes[taken..], &mut self.backend.residue);
            }
            let here = header.message_bytes().min(bytes.len() - taken);
            self.client_body = header.message_bytes() - here;
            taken += here;
        }
        if taken > 0 {
            self.to_backend.put(&bytes[..taken]);
            self.client.inbox.consume(taken);
            self.local.enter(Activity::Active, (self.clock)());
        }
        Ok(())
    }

    /// Takes what the server has sent, message by message, and lines it up for the client.
    fn take_from_backend(&mut self) -> Result<(), End> {
        let bytes = self.from_backend.bytes();
        let mut taken = self.backend_body.min(bytes.len());
        self.backend_body -= taken;
        let mut whole_messages = (self.backend_body == 0).then_some(taken);
        while self.backend_body == 0 {
            let rest = &bytes[taken..];
            let Some(header) = Header::parse(rest).map_err(|_| End::BackendMessage)? else {
                break;
            };
            let is_whole = rest.len() >= header.message_bytes();
            if is_read_whole(header.tag) && !is_whole {
                if header.message_bytes() <= BUFFER_BYTES {
                    break;
                }
                if !may_be_long(header.tag) {
                    return Err(End::BackendMessage);
                }
            }
            let here = header.message_bytes().min(rest.len());
            let body = rest.get(HEADER_BYTES..here).unwrap_or_default();
            self.backend
                .pipeline
                .from_server(header.tag, body.first().copied())?;
            match header.tag {
                tag::READY_FOR_QUERY => {
                    ready(self.backend.pipeline.status(), self.local, (self.clock)())
                }
                tag::COMMAND_COMPLETE => {
                    session_state::look_at_tag(body, &mut self.backend.residue)
                }
                tag::PARAMETER_STATUS => session_state::look_at_parameter(self.backend, body)?,
                tag::ERROR_RESPONSE if is_fatal(body) => self.ending = Ending::Fatal,
                _ => {}
            }
            self.backend_body = header.message_bytes() - here;
            taken += here;
            if is_whole {
                whole_messages = Some(taken);
            }
        }
        self.client.outbox.put(&bytes[..taken]);
        self.whole_in_outbox = whole_messages;
        self.sent_of_outbox = 0;
        self.from_backend.consume(taken);
        Ok(())
    }
}

fn ready(status: TransactionStatus, local: &Local, now: tokio::time::Instant) {
    if status != TransactionStatus::Idle {
        local.enter(Activity::IdleInTransaction, now);
    }
}

/// Messages whose body is looked at.
fn is_read_whole(tag: u8) -> bool {
    matches!(
        tag,
        tag::READY_FOR_QUERY | tag::COMMAND_COMPLETE | tag::PARAMETER_STATUS | tag::ERROR_RESPONSE
    )
}

/// Of those, the ones that may be larger than a buffer; they are then passed on unread.
fn may_be_long(tag: u8) -> bool {
    tag == tag::ERROR_RESPONSE
}

/// Whether an ErrorResponse says that the server ends the session. The field `V` is never translated.
fn is_fatal(body: &[u8]) -> bool {
    body.split(|byte| *byte == 0)
        .any(|field| field == b"VFATAL" || field == b"VPANIC")
}
