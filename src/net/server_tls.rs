//! TLS towards clients: our certificate, loaded and reloaded as one, and the server's half of the handshake.
//!
//! Sessions resume by stateless tickets, so that a client that reconnects often costs no signature and no memory.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    CipherSuite, Connection, ServerConfig, ServerConnection, crypto::ring,
    server::NoServerSessionStorage,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;

use super::{
    channel_binding::server_end_point,
    pem::{self, PemError},
    stream::Stream,
    tls::Tls,
};

/// The ALPN protocol of PostgreSQL (registered with IANA; PostgreSQL 17 and newer).
pub(super) const ALPN: &[u8] = b"postgresql";

/// Why a certificate could not be taken into use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("the certificate {certificate} and the key {key} cannot be used together: {cause}")]
    Unusable {
        certificate: PathBuf,
        key: PathBuf,
        cause: rustls::Error,
    },
}

/// Why a client's TLS handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error("TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    #[error("TLS cannot be started: {0}")]
    Start(#[source] rustls::Error),
    #[error("direct TLS connection without ALPN protocol \"postgresql\"")]
    NoAlpn,
}

/// How the client came to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It sent an SSLRequest and was answered `S`.
    Requested,
    /// It started TLS with its first byte; then ALPN must say that PostgreSQL is meant, so that no browser can be
    /// tricked into speaking to us (or a client of ours to another server).
    Direct,
}

/// An encrypted client.
pub struct Accepted {
    pub stream: Stream,
    /// For SCRAM channel binding to the certificate this client was shown; `None` where it is not defined.
    pub end_point: Option<Arc<[u8]>>,
}

/// Our certificate and key. Clones share it; [`Self::reload`] replaces it for all.
#[derive(Clone)]
pub struct ServerTls(Arc<Shared>);

struct Shared {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<Loaded>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

impl ServerTls {
    /// Reads the certificate chain (leaf first) and its key from PEM files.
    pub fn load(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, TlsError> {
        let (certificate, key) = (certificate.into(), key.into());
        let loaded = Loaded::read(&certificate, &key)?;
        Ok(Self(Arc::new(Shared {
            certificate,
            key,
            current: ArcSwap::from_pointee(loaded),
        })))
    }

    /// Reads the files again. New handshakes use what was read; after an error, what was there before.
    pub fn reload(&self) -> Result<(), TlsError> {
        let loaded = Loaded::read(&self.0.certificate, &self.0.key)?;
        self.0.current.store(Arc::new(loaded));
        Ok(())
    }

    /// Runs the server's half of the handshake.
    pub async fn accept(&self, tcp: TcpStream, opening: Opening) -> Result<Accepted, AcceptError> {
        let current = self.0.current.load_full();
        let connection =
            ServerConnection::new(current.config.clone()).map_err(AcceptError::Start)?;
        let tls = Tls::handshake(tcp, Connection::Server(connection))
            .await
            .map_err(AcceptError::Handshake)?;
        if opening == Opening::Direct && tls.connection.alpn_protocol() != Some(ALPN) {
            return Err(AcceptError::NoAlpn);
        }
        Ok(Accepted {
            stream: Stream::encrypted(tls),
            end_point: current.end_point.clone(),
        })
    }
}

impl Loaded {
    fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = pem::certificates(certificate)?;
        let end_point = chain.first().and_then(server_end_point);
        let config =
            server_config(chain, pem::private_key(key)?).map_err(|cause| TlsError::Unusable {
                certificate: certificate.into(),
                key: key.into(),
                cause,
            })?;
        Ok(Self {
            config: Arc::new(config),
            end_point,
        })
    }
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut provider = ring::default_provider();
    // All of them are safe. Those with AES-128 cost less for each byte, and for the keys of a handshake: there are
    // instructions for SHA-256, but none for SHA-384.
    let suites = &mut provider.cipher_suites;
    suites.sort_by_key(|suite| !has_aes_128(suite.suite()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.ignore_client_order = true;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ticketer = ring::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // One ticket is enough to come back once; each more costs bytes and work in every handshake.
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn has_aes_128(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use rcgen::KeyPair;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, version::TLS12};
    use rustls_pki_types::{ServerName, pem::PemObject};
    use tokio::io::{AsyncWriteExt as _, ReadBuf};

    use super::*;
    use crate::net::{
        socket::{Peek, peek},
        testing::{Files, HOST, sockets},
    };

    fn client(files: &Files, protocols: &[&[u8]]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(files.authority.as_bytes()).unwrap())
            .unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config
    }

    /// Both ends' results of a TLS handshake without SSLRequest.
    async fn meet(
        server: &ServerTls,
        opening: Opening,
        client: ClientConfig,
    ) -> (Result<Accepted, AcceptError>, io::Result<Tls>) {
        let (near, far) = sockets().await;
        let name = ServerName::try_from(HOST).unwrap();
        let connection = ClientConnection::new(Arc::new(client), name).unwrap();
        tokio::join!(
            server.accept(far, opening),
            Tls::handshake(near, Connection::Client(connection))
        )
    }

    #[tokio::test]
    async fn direct_tls_needs_the_protocol_of_postgresql() {
        let files = Files::issued();
        let server = files.server();
        let with = |protocols: &'static [&'static [u8]]| client(&files, protocols);

        let (result, _) = meet(&server, Opening::Direct, with(&[b"postgresql"])).await;
        assert!(result.is_ok());
        let (result, _) = meet(&server, Opening::Direct, with(&[])).await;
        assert!(matches!(result, Err(AcceptError::NoAlpn)));
        let (result, _) = meet(&server, Opening::Direct, with(&[b"http/1.1"])).await;
        assert!(matches!(result, Err(AcceptError::Handshake(_))));
        // After an SSLRequest it is plain what is meant.
        let (result, _) = meet(&server, Opening::Requested, with(&[])).await;
        assert!(result.is_ok());
    }

    #[tokio::test]
    async fn a_ticket_has_no_segment_of_its_own() {
        let files = Files::issued();
        let (accepted, near) = meet(&files.server(), Opening::Requested, client(&files, &[])).await;
        let (mut stream, mut near) = (accepted.unwrap().stream, near.unwrap());
        assert_eq!(peek(&near.socket), Peek::Silent);
        stream.write_all(b"x").await.unwrap();
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        poll_fn(|cx| near.poll_read(cx, &mut read)).await.unwrap();
        assert_eq!(read.filled(), b"x");
        let Connection::Client(client) = &*near.connection else {
            panic!("not the client's end");
        };
        assert_eq!(client.tls13_tickets_received(), 1);
    }

    #[tokio::test]
    async fn tls_1_2_is_spoken_with_those_who_know_no_better() {
        let files = Files::issued();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(files.authority.as_bytes()).unwrap())
            .unwrap();
        let old = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (result, _) = meet(&files.server(), Opening::Requested, old).await;
        let accepted = result.unwrap();
        let tls = accepted.stream.tls().unwrap();
        assert_eq!(tls.version, "TLSv1.2");
        assert_eq!(tls.cipher, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
    }

    #[tokio::test]
    async fn the_cheapest_cipher_is_taken_whatever_the_client_likes_best() {
        let files = Files::issued();
        let client = client(&files, &[]);
        let first = client.crypto_provider().cipher_suites[0].suite();
        assert_eq!(first, CipherSuite::TLS13_AES_256_GCM_SHA384);
        let (result, _) = meet(&files.server(), Opening::Requested, client).await;
        let accepted = result.unwrap();
        let tls = accepted.stream.tls().unwrap();
        assert_eq!(tls.cipher, "TLS13_AES_128_GCM_SHA256");
    }

    #[tokio::test]
    async fn a_reload_is_for_new_clients_and_a_failed_one_changes_nothing() {
        let (files, newer) = (Files::issued(), Files::issued());
        let server = files.server();
        let (old, _) = meet(&server, Opening::Requested, client(&files, &[])).await;

        std::fs::copy(&newer.certificate, &files.certificate).unwrap();
        let error = server.reload().unwrap_err();
        assert!(matches!(error, TlsError::Unusable { .. }), "{error}");
        let (kept, _) = meet(&server, Opening::Requested, client(&files, &[])).await;
        assert_eq!(kept.unwrap().end_point, old.unwrap().end_point);

        std::fs::copy(&newer.key, &files.key).unwrap();
        server.clone().reload().unwrap();
        let (result, _) = meet(&server, Opening::Requested, client(&newer, &[])).await;
        assert!(result.is_ok());
        let (result, _) = meet(&server, Opening::Requested, client(&files, &[])).await;
        assert!(result.is_err());
    }

    #[test]
    fn errors_name_the_file_and_what_is_wrong_with_it() {
        let files = Files::issued();
        let load = |certificate: &Path, key: &Path| {
            ServerTls::load(certificate, key).err().unwrap().to_string()
        };
        let text = load(Path::new("/nowhere/server.crt"), &files.key);
        assert!(
            text.contains("/nowhere/server.crt") && text.contains("exists"),
            "{text}"
        );
        let text = load(&files.key, &files.key);
        assert!(text.contains("server.key holds no certificate"), "{text}");
        let text = load(&files.certificate, &files.certificate);
        assert!(text.contains("server.crt holds no private key"), "{text}");
        let text = load(&files.certificate, &Files::issued().key);
        assert!(text.contains("cannot be used together"), "{text}");
    }

    #[tokio::test]
    async fn the_end_point_is_the_hash_that_the_signature_uses() {
        let bytes_of = |alg| {
            let files = Files::self_signed(&KeyPair::generate_for(alg).unwrap());
            let leaf = CertificateDer::from_pem_slice(files.authority.as_bytes()).unwrap();
            server_end_point(&leaf).map(|hash| hash.len())
        };
        assert_eq!(bytes_of(&rcgen::PKCS_ECDSA_P256_SHA256), Some(32));
        assert_eq!(bytes_of(&rcgen::PKCS_ECDSA_P384_SHA384), Some(48));
        assert_eq!(bytes_of(&rcgen::PKCS_ED25519), None);
    }
}
