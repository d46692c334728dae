//! One TLS connection over one socket: rustls does the cryptography, this file moves the bytes.
//!
//! Socket and TLS state are kept apart (not wrapped into one another), so that a stream can leave one thread's
//! reactor and join another's with its TLS state untouched. Nothing is buffered here: ciphertext waits in rustls
//! only, at most one write's worth ([`SEND_BUFFER_MAX_BYTES`]) on the way out and one record on the way in.

use std::{
    future::poll_fn,
    io::{self, IoSlice, Read, Write},
    task::{Context, Poll, ready},
};

use rustls::{Connection, IoState, ProtocolVersion};
use tokio::{io::ReadBuf, net::TcpStream};

use super::socket::Socket;

/// How much of a write rustls takes at once: one full TLS record. A peer that does not read costs no more.
const SEND_BUFFER_MAX_BYTES: usize = 16 * 1024;

/// A socket and the TLS connection that runs over it.
pub(super) struct Tls {
    pub(super) socket: Socket,
    pub(super) connection: Box<Connection>,
    /// A ticket is still here, which nobody waits for: it leaves with what is written first.
    has_ticket: bool,
}

impl Tls {
    /// Runs the handshake to its end, our last flight included, except for what the peer does not wait for.
    ///
    /// Cancel-safe only in that the connection is lost when it is dropped.
    pub(super) async fn handshake(tcp: TcpStream, mut connection: Connection) -> io::Result<Self> {
        connection.set_buffer_limit(Some(SEND_BUFFER_MAX_BYTES));
        let mut tls = Self::new(Socket::new(tcp), Box::new(connection));
        poll_fn(|cx| tls.poll_handshake(cx)).await?;
        Ok(tls)
    }

    /// A connection that nothing has been written to yet, but for its handshake.
    pub(super) fn new(socket: Socket, connection: Box<Connection>) -> Self {
        let has_ticket = !connection.is_handshaking() && connection.wants_write();
        Self {
            socket,
            connection,
            has_ticket,
        }
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.is_handshaking() {
            ready!(self.poll_send(cx))?;
            if ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        // In TLS 1.3 it is the client who has the last word.
        self.has_ticket = matches!(*self.connection, Connection::Server(_))
            && self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if self.has_ticket {
            return Poll::Ready(Ok(()));
        }
        self.poll_send(cx)
    }

    /// Plaintext for the caller; nothing added to `buffer` means the peer has finished.
    ///
    /// An end without `close_notify` counts as an end: PostgreSQL's own framing tells a cut message apart.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.connection.reader().read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                Err(_) => ready!(self.poll_receive(cx))?,
            };
        }
    }

    /// Ready when [`Self::poll_read`] may have something to say: plaintext, the end, an error, or new bytes.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.connection.process_new_packets() {
            Ok(state) if !has_news(&state) => self.socket.poll_read_ready(cx),
            Ok(_) | Err(_) => Poll::Ready(Ok(())),
        }
    }

    /// Takes some of `data`, encrypts it and sends what the socket takes; the rest leaves with the next write or flush.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Earlier records leave first, so that at most one write's worth is ever held.
        if !std::mem::take(&mut self.has_ticket) {
            ready!(self.poll_send(cx))?;
        }
        let taken = self.connection.writer().write(data)?;
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    /// Encrypts `data` and the `close_notify` after it, both to be sent. For short data only.
    pub(super) fn put_last(&mut self, data: &[u8]) -> io::Result<()> {
        self.connection.writer().write_all(data)?;
        self.connection.send_close_notify();
        Ok(())
    }

    /// Sends every record that rustls holds.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            let mut socket = Turn {
                socket: &mut self.socket,
                cx,
            };
            match self.connection.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Says `close_notify`, then ends our half of the socket.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // rustls sends the alert once, however often it is asked.
        self.connection.send_close_notify();
        ready!(self.poll_send(cx))?;
        self.socket.poll_shutdown(cx)
    }

    /// Ready when the peer has said anything or left. Records that carry no data are taken in, as by
    /// [`Self::has_spoken`].
    pub(super) fn poll_spoken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.connection.process_new_packets() {
                Ok(state) if !has_news(&state) => {}
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
            match ready!(self.poll_receive(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    /// Whether the peer has said anything or left, as far as can be told without waiting.
    ///
    /// Records that carry no data (session tickets, key updates) are taken in and do not count.
    pub(super) fn has_spoken(&mut self) -> bool {
        loop {
            match self.connection.process_new_packets() {
                Ok(state) if !has_news(&state) => {}
                Ok(_) | Err(_) => return true,
            }
            match self.connection.read_tls(&mut Now(&mut self.socket)) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Reads what the socket has into rustls; 0 means end of stream.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut socket = Turn {
            socket: &mut self.socket,
            cx,
        };
        let count = match self.connection.read_tls(&mut socket) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Err(error) = self.connection.process_new_packets() {
            // The alert that tells the peer why; whether it still gets through changes nothing for us.
            let _ = self.poll_send(cx);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        Poll::Ready(Ok(count))
    }
}

/// Whether a reader would be told something now: data, or that the peer has closed.
fn has_news(state: &IoState) -> bool {
    state.plaintext_bytes_to_read() > 0 || state.peer_has_closed()
}

/// The socket as rustls wants it: blocking calls, where "not now" is `WouldBlock` with the task's waker registered.
struct Turn<'a, 'cx, 'waker> {
    socket: &'a mut Socket,
    cx: &'cx mut Context<'waker>,
}

impl Read for Turn<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match self.socket.poll_read(self.cx, &mut buffer) {
            Poll::Ready(Ok(())) => Ok(buffer.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Turn<'_, '_, '_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.socket.poll_write(self.cx, slices) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket as rustls wants it, with nobody to wake.
struct Now<'a>(&'a mut Socket);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_now(buffer)
    }
}
