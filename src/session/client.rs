//! A client's connection with the bytes on their way in both directions.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use bytes::BytesMut;

use super::error::End;
use crate::{
    net::{
        buffer::{Buffer, BufferPool},
        stream::Stream,
    },
    protocol::frame::{Header, frontend},
};

/// The client's side of a session.
pub(super) struct Client {
    pub(super) stream: Stream,
    /// What the client has sent and nobody has taken yet.
    pub(super) inbox: Buffer,
    /// What the client is to be sent.
    pub(super) outbox: Buffer,
}

impl Client {
    pub(super) fn new(stream: Stream, buffers: &BufferPool) -> Self {
        Self {
            stream,
            inbox: Buffer::new(buffers.clone()),
            outbox: Buffer::new(buffers.clone()),
        }
    }

    /// Reads more of what the client sends; an end of the stream is an error.
    pub(super) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, End>> {
        let is_sending = self.is_sending();
        self.inbox
            .poll_fill(&mut self.stream, context)
            .map(|result| match result {
                Ok(0) => Err(End::ClientLost),
                // The error is told once: to this read, although it was the writes that took too long.
                Err(error) if is_sending => Err(End::from_client_io(error)),
                Err(_) => Err(End::ClientLost),
                Ok(count) => Ok(count),
            })
    }

    /// Whether the client has yet to take something.
    fn is_sending(&self) -> bool {
        !self.outbox.is_drained() || self.stream.is_sending()
    }

    pub(super) fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        self.outbox
            .poll_drain(&mut self.stream, context)
            .map_err(End::from_client_io)
    }

    /// Sends `bytes` whole.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.outbox.put(bytes);
        poll_fn(|context| self.poll_drain(context)).await
    }

    /// Sends what is on its way, and then `bytes` as the last of all.
    pub(super) async fn send_last(&mut self, bytes: &[u8]) -> Result<(), End> {
        poll_fn(|context| self.poll_drain(context)).await?;
        let sent = self.stream.write_last(bytes).await;
        sent.map_err(End::from_client_io)
    }

    /// The body of the next message, which must answer an authentication request (tag `p`).
    pub(super) async fn receive_password(
        &mut self,
        body_max_bytes: usize,
    ) -> Result<BytesMut, End> {
        loop {
            match Header::parse(self.inbox.bytes()).map_err(|_| End::ClientLength)? {
                Some(Header {
                    tag: frontend::TERMINATE,
                    ..
                }) => return Err(End::Terminated),
                Some(header) if header.tag != frontend::PASSWORD => {
                    return Err(End::PasswordExpected(header.tag));
                }
                Some(header) if header.body_bytes > body_max_bytes => {
                    return Err(End::ClientLength);
                }
                Some(header) if self.inbox.bytes().len() >= header.message_bytes() => {
                    let message = &self.inbox.bytes()[..header.message_bytes()];
                    let body = BytesMut::from(&message[message.len() - header.body_bytes..]);
                    self.inbox.consume_secret(header.message_bytes());
                    return Ok(body);
                }
                Some(_) | None => {}
            }
            poll_fn(|context| self.poll_fill(context)).await?;
        }
    }
}
