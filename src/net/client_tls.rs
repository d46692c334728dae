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
    socket::{Peek, peek},
    stream::Stream,
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

    /// Whether the server has to prove who it is before anything is said to it.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        match &self.0 {
            Mode::Plain => false,
            Mode::Encrypted { check, .. } => check.is_proof(),
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

pub(super) fn parse_authorities(pem: &str) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{Files, HOST, accept, sockets};

    const OTHER_HOST: &str = "other.example.com";

    /// What comes of connecting to a server that shows `files`.
    async fn attempt(
        files: &Files,
        mode: BackendTls,
        authority: Option<&Files>,
        host: &str,
    ) -> Result<Stream, ClientTlsError> {
        let authority = authority.map(|files| files.authority.as_str());
        let config = ClientTlsConfig::new(mode, authority).unwrap();
        let (client, server) = sockets().await;
        let tls = files.server();
        let serve = async {
            let mut server = server;
            server.read_exact(&mut [0; 8]).await.unwrap();
            server.write_all(b"S").await.unwrap();
            // A client that refuses the certificate is an error here; the client's own verdict is what counts.
            let _ = tls
                .accept(server, crate::net::server_tls::Opening::Requested)
                .await;
        };
        tokio::join!(config.connect(client, host), serve).0
    }

    fn refused(result: Result<Stream, ClientTlsError>) -> bool {
        matches!(result, Err(ClientTlsError::Handshake(_)))
    }

    #[tokio::test]
    async fn each_mode_checks_as_much_as_it_says() {
        use BackendTls::{Require, VerifyCa, VerifyFull};
        let (ours, other) = (Files::issued(), Files::issued());

        assert!(attempt(&ours, Require, None, OTHER_HOST).await.is_ok());
        assert!(attempt(&ours, Require, Some(&other), HOST).await.is_ok());

        assert!(attempt(&ours, VerifyCa, Some(&ours), HOST).await.is_ok());
        assert!(
            attempt(&ours, VerifyCa, Some(&ours), OTHER_HOST)
                .await
                .is_ok()
        );
        assert!(refused(attempt(&ours, VerifyCa, Some(&other), HOST).await));

        assert!(attempt(&ours, VerifyFull, Some(&ours), HOST).await.is_ok());
        assert!(refused(
            attempt(&ours, VerifyFull, Some(&ours), OTHER_HOST).await
        ));
        assert!(refused(
            attempt(&ours, VerifyFull, Some(&ours), "127.0.0.1").await
        ));
        assert!(refused(
            attempt(&ours, VerifyFull, Some(&other), HOST).await
        ));
        assert!(refused(attempt(&ours, VerifyFull, None, HOST).await));
    }

    #[tokio::test]
    async fn a_self_signed_certificate_vouches_for_itself_only() {
        use BackendTls::{VerifyCa, VerifyFull};
        let key = rcgen::KeyPair::generate().unwrap();
        let (ours, other) = (Files::self_signed(&key), Files::issued());
        assert!(
            attempt(&ours, VerifyCa, Some(&ours), OTHER_HOST)
                .await
                .is_ok()
        );
        assert!(attempt(&ours, VerifyFull, Some(&ours), HOST).await.is_ok());
        assert!(refused(
            attempt(&ours, VerifyFull, Some(&ours), OTHER_HOST).await
        ));
        assert!(refused(attempt(&ours, VerifyCa, Some(&other), HOST).await));
    }

    #[tokio::test]
    async fn a_stolen_certificate_without_its_key_is_refused_in_every_mode() {
        // The other server shows our certificate, but signs the handshake with a key of its own.
        let (ours, other) = (Files::issued(), Files::issued());
        let thief = rustls::sign::CertifiedKey::new(
            super::super::pem::certificates(&ours.certificate).unwrap(),
            ring::sign::any_supported_type(&super::super::pem::private_key(&other.key).unwrap())
                .unwrap(),
        );
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(thief)));
        let config = Arc::new(config);
        for mode in [BackendTls::Require, BackendTls::VerifyFull] {
            let client_config = ClientTlsConfig::new(mode, Some(&ours.authority)).unwrap();
            let (client, mut server) = sockets().await;
            let serve = async {
                server.read_exact(&mut [0; 8]).await.unwrap();
                server.write_all(b"S").await.unwrap();
                let connection = rustls::ServerConnection::new(config.clone()).unwrap();
                let _ = Tls::handshake(server, Connection::Server(connection)).await;
            };
            let (result, ()) = tokio::join!(client_config.connect(client, HOST), serve);
            assert!(refused(result), "{mode:?}");
        }
    }

    #[tokio::test]
    async fn without_tls_nothing_is_asked() {
        let config = ClientTlsConfig::new(BackendTls::Disable, None).unwrap();
        let (client, mut server) = sockets().await;
        let stream = config.connect(client, "not a host").await.unwrap();
        assert!(!stream.is_encrypted());
        drop(stream);
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    }

    /// What comes of a server that answers the SSLRequest with `answer`.
    async fn answered(answer: &[u8]) -> ClientTlsError {
        let config = ClientTlsConfig::new(BackendTls::Require, None).unwrap();
        let (client, mut server) = sockets().await;
        // All of it is there before the client looks.
        server.write_all(answer).await.unwrap();
        drop_after(server, config.connect(client, HOST))
            .await
            .err()
            .unwrap()
    }

    async fn drop_after<T>(server: TcpStream, connecting: impl Future<Output = T>) -> T {
        let result = connecting.await;
        drop(server);
        result
    }

    #[tokio::test]
    async fn a_server_that_answers_anything_but_yes_is_refused() {
        assert!(matches!(answered(b"N").await, ClientTlsError::Refused));
        assert!(matches!(
            answered(b"ESERROR").await,
            ClientTlsError::UnexpectedAnswer(b'E')
        ));
        assert!(matches!(
            answered(b"S\x16").await,
            ClientTlsError::UnencryptedData
        ));
    }

    #[test]
    fn authorities_that_are_none_are_refused_when_read() {
        let with = |mode, pem| ClientTlsConfig::new(mode, pem).err().unwrap();
        assert!(matches!(
            with(BackendTls::VerifyCa, None),
            ClientTlsError::AuthorityRequired
        ));
        assert!(matches!(
            with(BackendTls::VerifyFull, Some("no certificate")),
            ClientTlsError::NoAuthority
        ));
        assert!(matches!(
            with(
                BackendTls::VerifyFull,
                Some("-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n")
            ),
            ClientTlsError::MalformedAuthority(_)
        ));
    }

    #[tokio::test]
    async fn an_impossible_host_is_named() {
        let config = ClientTlsConfig::new(BackendTls::Require, None).unwrap();
        let (client, _server) = sockets().await;
        let error = config.connect(client, "no host").await.err().unwrap();
        assert!(error.to_string().contains("\"no host\""));
    }

    #[tokio::test]
    async fn both_ends_agree_on_the_newest_tls() {
        let files = Files::issued();
        let config = ClientTlsConfig::new(BackendTls::VerifyFull, Some(&files.authority)).unwrap();
        let (client, server) = sockets().await;
        let tls = files.server();
        let (client, server) = tokio::join!(config.connect(client, HOST), accept(server, &tls));
        assert_eq!(client.unwrap().tls().unwrap().version, "TLSv1.3");
        assert!(server.is_encrypted());
    }
}
