//! One connection to a peer, plain or encrypted, for clients and backends alike.
//!
//! ```text
//!   Stream on worker A ── detach ──▶ Detached (Send) ── attach ──▶ Stream on worker B
//! ```
//!
//! A `Stream` belongs to the thread whose reactor watches its socket and cannot be sent to another: a socket
//! served from afar would cost a wake-up across threads for every message. [`Detached`] is the one way over.
//! A write to an encrypted stream may leave records behind; flush after the last one.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    marker::PhantomData,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{Connection, ProtocolVersion};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::{buffer::Filling, socket::Socket, tls::Tls};

/// A connected socket, plain or encrypted. Bound to its thread.
pub struct Stream {
    transport: Transport,
    /// Not `Send`: only [`Detached`] crosses threads.
    home: PhantomData<Rc<()>>,
}

enum Transport {
    Plain(Socket),
    Tls(Tls),
}

/// A stream between two threads: watched by no reactor, its TLS state kept.
pub struct Detached {
    socket: std::net::TcpStream,
    connection: Option<Box<Connection>>,
}

/// What was agreed on for an encrypted stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSummary {
    /// As PostgreSQL writes it: `TLSv1.3`.
    pub version: &'static str,
    pub cipher: &'static str,
    /// The server name the client asked for; `None` for backends and clients that sent none.
    pub sni: Option<String>,
}

impl Stream {
    /// A stream that is not encrypted.
    #[must_use]
    pub fn plain(tcp: TcpStream) -> Self {
        Self::over(Transport::Plain(Socket::new(tcp)))
    }

    /// A stream that is encrypted; the handshake is done.
    pub(super) fn encrypted(tls: Tls) -> Self {
        Self::over(Transport::Tls(tls))
    }

    fn over(transport: Transport) -> Self {
        Self {
            transport,
            home: PhantomData,
        }
    }

    /// Comes to rest on this thread for good: from now on its ring, where there is one, makes the reads and writes.
    #[must_use]
    pub fn settle(mut self) -> Self {
        self.socket_mut().settle();
        self
    }

    /// Waits for something to read without lending a buffer: data, the peer's end, or an error.
    ///
    /// May be ready too early (part of a TLS record has come); the read that follows is then pending.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(socket) => socket.poll_read_ready(cx),
            Transport::Tls(tls) => tls.poll_readable(cx),
        }
    }

    /// Waits until the peer of an idle connection says something nobody asked for, leaves, or fails.
    ///
    /// Asks the kernel before it is ready: what [`Self::poll_readable`] knows may be left over from the last read.
    pub fn poll_spoken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.transport {
            Transport::Plain(socket) => socket.poll_peek(cx),
            Transport::Tls(tls) => tls.poll_spoken(cx),
        }
    }

    /// Whether the peer has left, failed, or sent something nobody asked for. Never waits.
    ///
    /// For idle backends, which have nothing to say: `true` means that the connection is of no use any more.
    pub fn peek_closed(&mut self) -> bool {
        match &mut self.transport {
            Transport::Plain(socket) => !socket.is_silent(),
            Transport::Tls(tls) => tls.has_spoken(),
        }
    }

    /// What TLS agreed on; `None` for a plain stream.
    #[must_use]
    pub fn tls(&self) -> Option<TlsSummary> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(tls) => Some(summary(&tls.connection)),
        }
    }

    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }

    /// What has been received already, with the memory that it is in.
    pub(super) fn take_received(&mut self) -> Option<Filling> {
        match &mut self.transport {
            Transport::Plain(socket) => socket.take_received(),
            Transport::Tls(_) => None,
        }
    }

    /// Ready when [`Self::send`] can be called; `None`: not now, what is written is to be copied.
    pub(super) fn poll_takes_memory(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Option<Poll<io::Result<()>>> {
        match &mut self.transport {
            Transport::Plain(socket) => socket.poll_takes_memory(cx),
            Transport::Tls(_) => None,
        }
    }

    /// Sends what is in the memory, which goes with it.
    pub(super) fn send(&mut self, filling: Filling) -> io::Result<()> {
        match &mut self.transport {
            Transport::Plain(socket) => socket.send(filling),
            Transport::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether the kernel has not taken all yet that was written.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        match &self.transport {
            Transport::Plain(socket) => socket.is_sending(),
            Transport::Tls(tls) => tls.socket.is_sending(),
        }
    }

    /// The socket's peer: behind a balancer, the balancer.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let address = self.socket().peer_addr()?;
        address
            .as_socket()
            .ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Leaves this thread's reactor.
    ///
    /// # Errors
    /// It has [settled](Self::settle) here.
    pub fn detach(self) -> io::Result<Detached> {
        let (socket, connection) = match self.transport {
            Transport::Plain(socket) => (socket, None),
            Transport::Tls(tls) => (tls.socket, Some(tls.connection)),
        };
        Ok(Detached {
            socket: socket.into_std()?,
            connection,
        })
    }

    /// Writes `data` as the last that the peer will be sent: what announces the end leaves with it.
    pub async fn write_last(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.transport {
            Transport::Plain(_) => self.write_all(data).await?,
            Transport::Tls(tls) => {
                poll_fn(|cx| tls.poll_send(cx)).await?;
                tls.put_last(data)?;
                poll_fn(|cx| tls.poll_send(cx)).await?;
            }
        }
        poll_fn(|cx| self.socket_mut().poll_sent(cx)).await
    }

    /// Ends the connection so that the peer reads everything we wrote, and then a FIN.
    ///
    /// Closing a socket that holds unread bytes sends RST, and RST makes the peer's kernel drop what it has not
    /// read yet, our last message included. So: send what is left, `close_notify`, end our half, and read on
    /// until the peer ends its own. All of it takes `limit` at most.
    pub async fn graceful_close(mut self, limit: Duration) {
        // Failure and a spent limit lead to the same end: the socket is dropped.
        let _ = tokio::time::timeout(limit, async {
            self.shutdown().await?;
            drain(self.socket_mut()).await
        })
        .await;
    }

    /// Ends the connection at once: what the peer has not received yet, it will not.
    pub fn reset(self) {
        // A socket that is broken has nothing to drop.
        let _ = self.socket().set_linger(Some(Duration::ZERO));
    }

    pub(super) fn socket(&self) -> SockRef<'_> {
        match &self.transport {
            Transport::Plain(socket) => SockRef::from(socket),
            Transport::Tls(tls) => SockRef::from(&tls.socket),
        }
    }

    fn socket_mut(&mut self) -> &mut Socket {
        match &mut self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(tls) => &mut tls.socket,
        }
    }
}

impl Detached {
    /// Joins the reactor of the current thread's runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime, as everything that needs a reactor.
    pub fn attach(self) -> io::Result<Stream> {
        let socket = Socket::new(TcpStream::from_std(self.socket)?);
        Ok(Stream::over(match self.connection {
            None => Transport::Plain(socket),
            Some(connection) => Transport::Tls(Tls::new(socket, connection)),
        }))
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => socket.poll_read(cx, buffer),
            Transport::Tls(tls) => tls.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => socket.poll_write(cx, &[IoSlice::new(data)]),
            Transport::Tls(tls) => tls.poll_write(cx, data),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(_) => Poll::Ready(Ok(())),
            Transport::Tls(tls) => tls.poll_send(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(socket) => socket.poll_shutdown(cx),
            Transport::Tls(tls) => tls.poll_shutdown(cx),
        }
    }
}

/// Probes without an answer before the connection is dead, where no limit of time is set.
const PROBES: u32 = 4;

/// How soon the kernel finds out that a peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// How long sent bytes may stay unacknowledged, or wait for a peer that reads nothing (`TCP_USER_TIMEOUT`); also how
    /// long probes go without an answer. `None`: as long as the kernel tries.
    pub unacknowledged: Option<Duration>,
}

/// Prepares a socket for short messages and for peers that vanish. What a listener accepts inherits it.
pub fn tune<'s>(socket: impl Into<SockRef<'s>>, keepalive: &Keepalive) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    let probing = TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&probing)?;
    socket.set_tcp_user_timeout(keepalive.unacknowledged)
}

/// Connects to a server on this machine through the Unix socket at `path`.
///
/// As a TCP stream by type, for the system calls that move bytes are the same, and one kind of stream is enough for all.
/// What only TCP has fails: addresses, keepalive.
pub async fn connect_unix(path: &Path) -> io::Result<TcpStream> {
    let socket = OwnedFd::from(UnixStream::connect(path).await?.into_std()?);
    TcpStream::from_std(socket.into())
}

/// Reads and forgets, until the peer ends its half.
async fn drain(socket: &mut Socket) -> io::Result<()> {
    let mut scratch = [0; 4096];
    loop {
        let mut buffer = ReadBuf::new(&mut scratch);
        poll_fn(|cx| socket.poll_read(cx, &mut buffer)).await?;
        if buffer.filled().is_empty() {
            return Ok(());
        }
    }
}

fn summary(connection: &Connection) -> TlsSummary {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(_) | None => "unknown",
    };
    let cipher = connection
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str())
        .unwrap_or("unknown");
    let sni = match connection {
        Connection::Server(server) => server.server_name().map(str::to_owned),
        Connection::Client(_) => None,
    };
    TlsSummary {
        version,
        cipher,
        sni,
    }
}
