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

mod from_client;
mod from_server;

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use super::{Sharing, client::Client, error::End, idle, local::Local, statements::Own};
use crate::{
    access::SessionHandle,
    net::buffer::{Buffer, BufferPool},
    pool::{Backend, Half, Remains},
    protocol::{
        pipeline::{Awaited, Doubt},
        reading::Words,
    },
};

/// A whole ReadyForQuery of a session that is idle.
pub(super) const READY: &[u8] = b"Z\0\0\0\x05I";

/// Close of a statement that does not exist, and Sync.
const PROBE: &[u8] = b"C\0\0\0\x11Ssluice_none\0S\0\0\0\x04";

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
