//! From a fresh socket to a client's startup packet, or to its request to cancel.
//!
//! ```text
//!   tcp ─▶ PROXY header (trusted peers) ─▶ first byte ─┬─ 0x16: TLS at once, ALPN must be `postgresql` ─┐
//!                                                      └─ packets: SSLRequest ─▶ `S`, TLS ──────────────┤
//!                                                                     │  └────▶ `N` (no certificate)    │
//!                                                                  GSSENCRequest ─▶ `N`                 │
//!                                                                     ▼                                 ▼
//!                                                          StartupMessage or CancelRequest ◀────────────┘
//! ```
//!
//! Each request for encryption is answered once, and only if nothing has been sent behind it: bytes that arrive in
//! clear before TLS begins may have been put in by somebody in between (CVE-2021-23214). Packets are read to the
//! byte, so such bytes could never be taken for the client's anyway. No deadline here: the caller has one for all of login.

use std::{io, net::SocketAddr, sync::Arc};

use ipnet::IpNet;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    net::{
        proxy_protocol::{self, ProxyError, Source},
        server_tls::{AcceptError, Accepted, Opening, ServerTls},
        socket::{Peek, peek},
        stream::Stream,
    },
    protocol::error::SqlState,
    protocol::startup::{CancelKey, First, Startup, StartupError, first_length, parse_first},
};

/// First byte of a TLS record that carries a handshake message; no PostgreSQL packet begins with it.
const TLS_HANDSHAKE_RECORD: u8 = 0x16;

/// What a handshake needs to know.
#[derive(Clone, Default)]
pub struct HandshakeSettings {
    /// Our certificate; without one, requests for TLS are declined.
    pub tls: Option<ServerTls>,
    /// Balancers: peers from these networks must begin with a PROXY header.
    pub proxy_from: Vec<IpNet>,
}

/// What a client came for.
pub enum Handshake {
    Session(Hello),
    Cancel(CancelRequest),
    /// The peer left without a startup packet: a port check, or a client that will not do without what we declined.
    Closed,
}

/// A client that wants a session.
pub struct Hello {
    pub stream: Stream,
    pub startup: Startup,
    /// The client's true address: behind a balancer, what its PROXY header says. IPv4 is always written as IPv4.
    pub peer: SocketAddr,
    /// Hash of the certificate that the client was shown, for SCRAM channel binding.
    pub end_point: Option<Arc<[u8]>>,
}

/// A client that wants another connection's query cancelled.
///
/// There is no answer; closing `stream` tells the client that the request has been dealt with.
pub struct CancelRequest {
    pub stream: Stream,
    pub key: CancelKey,
    pub peer: SocketAddr,
}

/// A handshake that failed, with the stream where the client can still be told.
pub struct HandshakeError {
    pub cause: HandshakeFailure,
    pub stream: Option<Stream>,
}

/// What went wrong, as the client may be told.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeFailure {
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error(transparent)]
    Tls(#[from] AcceptError),
    #[error("direct TLS connection, but no certificate is configured")]
    DirectTlsUnavailable,
    #[error("received unencrypted data after {0} request")]
    UnencryptedData(Encryption),
    #[error("{0} was requested twice, or after the connection was encrypted")]
    Repeated(Encryption),
    #[error("incomplete startup packet")]
    Truncated,
    #[error("connection lost during the handshake: {0}")]
    Io(#[from] io::Error),
}

impl HandshakeFailure {
    /// The code the client is told.
    #[must_use]
    pub fn code(&self) -> SqlState {
        match self {
            Self::Startup(error) => error.code(),
            Self::Proxy(_)
            | Self::Tls(_)
            | Self::DirectTlsUnavailable
            | Self::UnencryptedData(_)
            | Self::Repeated(_)
            | Self::Truncated
            | Self::Io(_) => SqlState::PROTOCOL_VIOLATION,
        }
    }

    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Startup(error) => error.hint(),
            _ => None,
        }
    }
}

/// What a client may ask for before its startup packet, in the words of PostgreSQL's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    Ssl,
    Gss,
}

impl std::fmt::Display for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ssl => "SSL",
            Self::Gss => "GSSAPI encryption",
        })
    }
}

/// The client's own address: a trusted balancer's word for it, else the socket's. `None`: the balancer left without a
/// word, for balancers check ports, too.
pub async fn true_peer(
    tcp: &mut TcpStream,
    peer: SocketAddr,
    settings: &HandshakeSettings,
) -> Result<Option<SocketAddr>, HandshakeFailure> {
    let peer = canonical(peer);
    if !settings
        .proxy_from
        .iter()
        .any(|net| net.contains(&peer.ip()))
    {
        return Ok(Some(peer));
    }
    if first_byte(tcp).await.is_none() {
        return Ok(None);
    }
    Ok(Some(match proxy_protocol::read(tcp).await? {
        Source::Client(client) => canonical(client),
        Source::Peer => peer,
    }))
}

/// Brings the connection of the client at `peer` to the point where it is known what it wants.
pub async fn handshake(
    tcp: TcpStream,
    peer: SocketAddr,
    settings: &HandshakeSettings,
) -> Result<Handshake, HandshakeError> {
    match first_byte(&tcp).await {
        None => Ok(Handshake::Closed),
        Some(TLS_HANDSHAKE_RECORD) => {
            let tls = settings.tls.as_ref();
            let tls = tls.ok_or_else(|| untold(HandshakeFailure::DirectTlsUnavailable))?;
            encrypted(tcp, tls, Opening::Direct, peer).await
        }
        Some(_) => negotiated(tcp, settings.tls.as_ref(), peer).await,
    }
}

/// Packets in clear, until one of them is a startup packet, asks to cancel, or turns the connection into TLS.
async fn negotiated(
    mut tcp: TcpStream,
    tls: Option<&ServerTls>,
    peer: SocketAddr,
) -> Result<Handshake, HandshakeError> {
    let mut asked = Vec::with_capacity(2);
    loop {
        let encryption = match first_packet(&mut tcp).await {
            Ok(Some(First::Tls)) => Encryption::Ssl,
            Ok(Some(First::Gss)) => Encryption::Gss,
            other => return conclude(Stream::plain(tcp), other, peer, None),
        };
        if let Err(cause) = may_answer(&tcp, encryption, &asked) {
            return Err(told(Stream::plain(tcp), cause));
        }
        asked.push(encryption);
        match (encryption, tls) {
            (Encryption::Ssl, Some(tls)) => {
                answer(&mut tcp, b'S').await?;
                return encrypted(tcp, tls, Opening::Requested, peer).await;
            }
            (Encryption::Ssl, None) | (Encryption::Gss, _) => answer(&mut tcp, b'N').await?,
        }
    }
}

/// TLS, and then the one packet that may follow inside.
async fn encrypted(
    tcp: TcpStream,
    tls: &ServerTls,
    opening: Opening,
    peer: SocketAddr,
) -> Result<Handshake, HandshakeError> {
    let accepted = tls.accept(tcp, opening).await;
    let Accepted {
        mut stream,
        end_point,
    } = accepted.map_err(|error| untold(error.into()))?;
    let packet = first_packet(&mut stream).await;
    conclude(stream, packet, peer, end_point)
}

/// What the last packet of the handshake makes of the connection.
fn conclude(
    stream: Stream,
    packet: Result<Option<First>, HandshakeFailure>,
    peer: SocketAddr,
    end_point: Option<Arc<[u8]>>,
) -> Result<Handshake, HandshakeError> {
    match packet {
        Ok(Some(First::Startup(startup))) => Ok(Handshake::Session(Hello {
            stream,
            startup,
            peer,
            end_point,
        })),
        Ok(Some(First::Cancel(key))) => Ok(Handshake::Cancel(CancelRequest { stream, key, peer })),
        Ok(Some(First::Tls)) => Err(told(stream, HandshakeFailure::Repeated(Encryption::Ssl))),
        Ok(Some(First::Gss)) => Err(told(stream, HandshakeFailure::Repeated(Encryption::Gss))),
        Ok(None) => Ok(Handshake::Closed),
        Err(cause @ HandshakeFailure::Startup(_)) => Err(told(stream, cause)),
        Err(cause) => Err(untold(cause)),
    }
}

/// Reads one packet to its last byte and not further; `None` if the peer ends before the first.
async fn first_packet(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<First>, HandshakeFailure> {
    let mut header = [0; 4];
    let begun = match stream.read(&mut header).await {
        Ok(0) => return Ok(None),
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let rest = stream.read_exact(&mut header[begun..]).await;
    rest.map_err(cut_off)?;
    let mut body = vec![0; first_length(header)?];
    stream.read_exact(&mut body).await.map_err(cut_off)?;
    Ok(Some(parse_first(&body)?))
}

fn cut_off(error: io::Error) -> HandshakeFailure {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => HandshakeFailure::Truncated,
        _ => error.into(),
    }
}

/// Whether a request for encryption may be answered: it is the first of its kind and nothing came behind it.
fn may_answer(
    tcp: &TcpStream,
    encryption: Encryption,
    asked: &[Encryption],
) -> Result<(), HandshakeFailure> {
    if asked.contains(&encryption) {
        return Err(HandshakeFailure::Repeated(encryption));
    }
    match peek(tcp) {
        Peek::Bytes => Err(HandshakeFailure::UnencryptedData(encryption)),
        // A peer that has left is found out by the next read.
        Peek::Silent | Peek::Closed => Ok(()),
    }
}

async fn answer(tcp: &mut TcpStream, byte: u8) -> Result<(), HandshakeError> {
    let written = tcp.write_all(&[byte]).await;
    written.map_err(|error| untold(error.into()))
}

/// The first byte, left where it is; `None` if the peer is gone before it sent any.
async fn first_byte(tcp: &TcpStream) -> Option<u8> {
    let mut byte = [0];
    // Port checks end with FIN or RST as they like; neither is an error.
    let count = tcp.peek(&mut byte).await.unwrap_or(0);
    (count > 0).then_some(byte[0])
}

/// IPv4 as IPv4: a listener for both families shows it wrapped in IPv6, which no network of a rule would match.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn told(stream: Stream, cause: HandshakeFailure) -> HandshakeError {
    HandshakeError {
        cause,
        stream: Some(stream),
    }
}

/// For a peer that does not speak PostgreSQL, or with which nothing can be exchanged any more.
fn untold(cause: HandshakeFailure) -> HandshakeError {
    HandshakeError {
        cause,
        stream: None,
    }
}

#[cfg(test)]
mod tests;
