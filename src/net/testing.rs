//! Sockets and certificates for tests of streams.

use std::{convert::Infallible, future::poll_fn, path::PathBuf, rc::Rc, task::Poll};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

use super::{
    buffer::BufferPool,
    client_tls::ClientTlsConfig,
    ring::{Queueing, Ring},
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
    /// The client's end and the server's, at rest on this thread.
    pub(crate) async fn pair(self) -> (Stream, Stream) {
        let (client, server) = self.unsettled_pair().await;
        (client.settle(), server.settle())
    }

    pub(crate) async fn unsettled_pair(self) -> (Stream, Stream) {
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

/// Runs `test` for streams of either kind: without a ring, and with one of each kind.
pub(crate) fn for_every_kind(test: impl AsyncFn(Kind)) {
    for kind in [Kind::Plain, Kind::Tls] {
        runtime().block_on(test(kind));
        with_ring(Queueing::UnderLoad, async |_| test(kind).await);
        with_ring(Queueing::Always, async |_| test(kind).await);
    }
}

/// Runs `test` on a thread that has a ring.
pub(crate) fn with_ring(queueing: Queueing, test: impl AsyncFnOnce(Rc<Ring>)) {
    runtime().block_on(async {
        let ring = Ring::start(BufferPool::default(), queueing)
            .expect("Linux 5.19, and no seccomp filter");
        let served = Rc::clone(&ring);
        let serving = poll_fn(|context| {
            while served.turn(context) {}
            Poll::<Infallible>::Pending
        });
        tokio::select! {
            () = test(ring) => {}
            never = serving => match never {},
        }
    });
    Ring::stop();
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}
