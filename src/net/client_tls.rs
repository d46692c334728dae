//! TLS towards backends: SSLRequest, the client's half of the handshake, and how far the server is trusted.

use std::{io, sync::Arc};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::{
    ClientConfig, ClientConnection, Connection, client::Resumption,
    client::danger::ServerCertVerifier, crypto::ring,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    server_check::ServerCheck,
    server_tls::ALPN,
    stream::{Peek, Stream, peek},
    tls::Tls,
};
use crate::catalog::types::BackendTls;

/// Why a connection to a server could not be encrypted as asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    #[error("the certificate authorities for the server are not well-formed PEM: {0:?}")]
    MalformedAuthority(rustls_pki_types::pem::Error),
    #[error("the PEM given for the server's certificate authorities holds no certificate")]
    NoAuthority,
    #[error(
        "TLS mode verify-ca needs the server's own certificate authority: any public one vouches for anybody; give it, or use verify-full"
    )]
    AuthorityRequired,
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
    #[error("TLS cannot be set up: {0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    #[error("{host:?} is neither a host name nor an IP address")]
    Host { host: String },
    #[error("the server does not accept encrypted connections (ssl is off in its configuration)")]
    Refused,
    #[error("the server answered the request for TLS with an unexpected byte ({0:#04x})")]
    UnexpectedAnswer(u8),
    #[error(
        "the server sent unencrypted data after it agreed to TLS; somebody may be tampering with the connection"
    )]
    UnencryptedData,
    #[error("the connection broke before TLS was agreed on: {0}")]
    Io(#[from] io::Error),
    #[error("TLS handshake with the server failed: {0}")]
    Handshake(#[source] io::Error),
}

/// The certificate and key that we show to a server. Secret: no `Debug`.
pub struct ClientIdentity {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// How to encrypt connections to one server; made once, cheap to clone.
#[derive(Clone)]
pub struct ClientTlsConfig(Mode);

#[derive(Clone)]
enum Mode {
    Plain,
    Encrypted {
        check: Arc<ServerCheck>,
        config: Arc<ClientConfig>,
    },
}

impl ClientTlsConfig {
    /// `authorities`: PEM of those who may vouch for the server; `None`: the public ones.
    pub fn new(mode: BackendTls, authorities: Option<&str>) -> Result<Self, ClientTlsError> {
        let authorities = authorities.map(parse_authorities).transpose()?;
        let check = match (mode, authorities) {
            (BackendTls::Disable, _) => return Ok(Self(Mode::Plain)),
            (BackendTls::Require, _) => ServerCheck::none(),
            (BackendTls::VerifyCa, None) => return Err(ClientTlsError::AuthorityRequired),
            (BackendTls::VerifyCa, Some(authorities)) => ServerCheck::chain(authorities)?,
            (BackendTls::VerifyFull, None) => ServerCheck::public()?,
            (BackendTls::VerifyFull, Some(authorities)) => ServerCheck::full(authorities)?,
        };
        let check = Arc::new(check);
        let config = Arc::new(client_config(check.clone(), None)?);
        Ok(Self(Mode::Encrypted { check, config }))
    }

    /// The same, with a certificate of our own to show. The parsed authorities are shared.
    pub fn with_identity(&self, identity: &ClientIdentity) -> Result<Self, ClientTlsError> {
        match &self.0 {
            Mode::Plain => Ok(Self(Mode::Plain)),
            Mode::Encrypted { check, .. } => Ok(Self(Mode::Encrypted {
                check: check.clone(),
                config: Arc::new(client_config(check.clone(), Some(identity))?),
            })),
        }
    }

    /// Encrypts a fresh connection to `host` (a name or an address, as the server's certificate has it).
    ///
    /// With `BackendTls::Disable` the connection is handed back as it is.
    pub async fn connect(&self, tcp: TcpStream, host: &str) -> Result<Stream, ClientTlsError> {
        let Mode::Encrypted { config, .. } = &self.0 else {
            return Ok(Stream::plain(tcp));
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ClientTlsError::Host { host: host.into() })?;
        let tcp = request(tcp).await?;
        let connection = ClientConnection::new(config.clone(), name)?;
        let tls = Tls::handshake(tcp, Connection::Client(connection))
            .await
            .map_err(ClientTlsError::Handshake)?;
        Ok(Stream::encrypted(tls))
    }
}

/// Sends SSLRequest and takes the one byte of the answer.
async fn request(mut tcp: TcpStream) -> Result<TcpStream, ClientTlsError> {
    let mut message = BytesMut::new();
    frontend::ssl_request(&mut message);
    tcp.write_all(&message).await?;
    match tcp.read_u8().await? {
        b'S' => {}
        b'N' => return Err(ClientTlsError::Refused),
        // An `E` comes from a server older than TLS itself; its text is not to be trusted and not shown.
        other => return Err(ClientTlsError::UnexpectedAnswer(other)),
    }
    // In TLS the client speaks first: whatever is here already was put in by somebody in between (CVE-2021-23222).
    match peek(&tcp) {
        Peek::Silent => Ok(tcp),
        Peek::Bytes => Err(ClientTlsError::UnencryptedData),
        Peek::Closed => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

fn parse_authorities(pem: &str) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
    let authorities: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(ClientTlsError::MalformedAuthority)?;
    if authorities.is_empty() {
        return Err(ClientTlsError::NoAuthority);
    }
    Ok(authorities)
}

fn client_config(
    check: Arc<dyn ServerCertVerifier>,
    identity: Option<&ClientIdentity>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(check);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    // PostgreSQL does not resume TLS sessions.
    config.resumption = Resumption::disabled();
    Ok(config)
}
