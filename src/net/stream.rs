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
    io,
    marker::PhantomData,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{Connection, ProtocolVersion};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

use super::tls::Tls;

/// A connected socket, plain or encrypted. Bound to its thread.
pub struct Stream {
    transport: Transport,
    /// Not `Send`: only [`Detached`] crosses threads.
    home: PhantomData<Rc<()>>,
}

enum Transport {
    Plain(TcpStream),
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
        Self::over(Transport::Plain(tcp))
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

    /// Waits for something to read without lending a buffer: data, the peer's end, or an error.
    ///
    /// May be ready too early (part of a TLS record has come); the read that follows is then pending.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.poll_read_ready(cx),
            Transport::Tls(tls) => tls.poll_readable(cx),
        }
    }

    /// Waits until the peer of an idle connection says something nobody asked for, leaves, or fails.
    ///
    /// Asks the kernel before it is ready: what [`Self::poll_readable`] knows may be left over from the last read.
    pub fn poll_spoken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.poll_peek(cx, &mut ReadBuf::new(&mut [0])).map(drop),
            Transport::Tls(tls) => tls.poll_spoken(cx),
        }
    }

    /// Whether the peer has left, failed, or sent something nobody asked for. Never waits.
    ///
    /// For idle backends, which have nothing to say: `true` means that the connection is of no use any more.
    pub fn peek_closed(&mut self) -> bool {
        match &mut self.transport {
            Transport::Plain(tcp) => peek(tcp) != Peek::Silent,
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

    /// The socket's peer: behind a balancer, the balancer.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    /// Leaves this thread's reactor.
    pub fn detach(self) -> io::Result<Detached> {
        let (tcp, connection) = match self.transport {
            Transport::Plain(tcp) => (tcp, None),
            Transport::Tls(tls) => (tls.tcp, Some(tls.connection)),
        };
        Ok(Detached {
            socket: tcp.into_std()?,
            connection,
        })
    }

    /// Writes `data` as the last that the peer will be sent: what announces the end leaves with it.
    pub async fn write_last(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.write_all(data).await,
            Transport::Tls(tls) => {
                poll_fn(|cx| tls.poll_send(cx)).await?;
                tls.put_last(data)?;
                poll_fn(|cx| tls.poll_send(cx)).await
            }
        }
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
            drain(self.tcp()).await
        })
        .await;
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        match &self.transport {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => &tls.tcp,
        }
    }
}

impl Detached {
    /// Joins the reactor of the current thread's runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime, as everything that needs a reactor.
    pub fn attach(self) -> io::Result<Stream> {
        let tcp = TcpStream::from_std(self.socket)?;
        Ok(Stream::over(match self.connection {
            None => Transport::Plain(tcp),
            Some(connection) => Transport::Tls(Tls { tcp, connection }),
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
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
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
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, data),
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
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
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

/// What a socket holds for us at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peek {
    /// Connected, and nothing has come.
    Silent,
    /// At least one byte has come and is still there.
    Bytes,
    /// The peer has ended its half, or the connection is broken.
    Closed,
}

/// Looks at a socket without waiting and without taking anything.
///
/// Asks the kernel itself: tokio's idea of readiness may be older than what has arrived.
pub(crate) fn peek(tcp: &TcpStream) -> Peek {
    match SockRef::from(tcp).peek(&mut [MaybeUninit::uninit()]) {
        Ok(0) => Peek::Closed,
        Ok(_) => Peek::Bytes,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Peek::Silent,
        Err(_) => Peek::Closed,
    }
}

/// Reads and forgets, until the peer ends its half.
async fn drain(tcp: &TcpStream) -> io::Result<()> {
    loop {
        tcp.readable().await?;
        let mut scratch = [0; 4096];
        match tcp.try_read(&mut scratch) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
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
