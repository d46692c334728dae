//! Sockets and certificates for tests of streams.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    client_tls::ClientTlsConfig,
    server_tls::{Opening, ServerTls},
    stream::Stream,
};
use crate::catalog::types::BackendTls;

/// The name in every certificate made here.
pub(crate) const HOST: &str = "db.example.com";

/// Two ends of one connection over loopback.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A certificate with its key as files, and the PEM of who vouches for it.
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) authority: String,
    _folder: TempDir,
}

impl Files {
    /// A certificate for [`HOST`] by a new authority.
    pub(crate) fn issued() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &authority).unwrap();
        Self::store(&leaf.pem(), &key, authority.pem())
    }

    /// A certificate that is its own authority, as `openssl req -x509` makes them.
    pub(crate) fn self_signed(key: &KeyPair) -> Self {
        let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(key).unwrap().pem();
        Self::store(&certificate, key, certificate.clone())
    }

    fn store(certificate: &str, key: &KeyPair, authority: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Self {
            certificate: folder.path().join("server.crt"),
            key: folder.path().join("server.key"),
            authority,
            _folder: folder,
        };
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    pub(crate) fn server(&self) -> ServerTls {
        ServerTls::load(&self.certificate, &self.key).unwrap()
    }
}

/// The server's half of the TLS negotiation on one socket.
pub(crate) async fn accept(mut tcp: TcpStream, tls: &ServerTls) -> Stream {
    let mut request = [0; 8];
    tcp.read_exact(&mut request).await.unwrap();
    tcp.write_all(b"S").await.unwrap();
    tls.accept(tcp, Opening::Requested).await.unwrap().stream
}

/// Which kind of stream a test is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Tls,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Tls];

    /// The client's end and the server's.
    pub(crate) async fn pair(self) -> (Stream, Stream) {
        let (client, server) = sockets().await;
        if self == Self::Plain {
            return (Stream::plain(client), Stream::plain(server));
        }
        let files = Files::issued();
        let config = ClientTlsConfig::new(BackendTls::VerifyFull, Some(&files.authority)).unwrap();
        let tls = files.server();
        let (client, server) = tokio::join!(config.connect(client, HOST), accept(server, &tls));
        (client.unwrap(), server)
    }
}
