//! What a client may do before its startup packet, and what it may not.

use tokio::task::yield_now;

use super::*;
use crate::{
    catalog::types::BackendTls,
    net::{
        client_tls::ClientTlsConfig,
        testing::{Files, HOST, sockets},
    },
};

const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSS_REQUEST: &[u8] = &[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
const CANCEL: &[u8] = &[0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 7, 1, 2, 3, 4];
const PEER: &str = "[::ffff:127.0.0.1]:4321";

fn startup() -> Vec<u8> {
    let body = b"\x00\x03\x00\x00user\x00app.demo\x00\x00";
    let length = u32::try_from(4 + body.len()).unwrap();
    [&length.to_be_bytes()[..], body].concat()
}

fn with_tls(files: &Files) -> HandshakeSettings {
    HandshakeSettings {
        tls: Some(files.server()),
        proxy_from: Vec::new(),
    }
}

fn behind_balancer() -> HandshakeSettings {
    HandshakeSettings {
        tls: None,
        proxy_from: vec!["127.0.0.0/8".parse().unwrap()],
    }
}

/// Handshakes with a client that does as `client` says.
async fn run<T>(
    settings: &HandshakeSettings,
    client: impl AsyncFnOnce(TcpStream) -> T,
) -> (Result<Handshake, HandshakeError>, T) {
    let (near, mut far) = sockets().await;
    near.set_nodelay(true).unwrap();
    let shaking = async {
        let peer = true_peer(&mut far, PEER.parse().unwrap(), settings).await;
        match peer.map_err(untold)? {
            Some(peer) => handshake(far, peer, settings).await,
            None => Ok(Handshake::Closed),
        }
    };
    tokio::join!(shaking, client(near))
}

/// The same for a client that sends `bytes` and leaves its half open.
async fn send(settings: &HandshakeSettings, bytes: &[u8]) -> Result<Handshake, HandshakeError> {
    let client = async |mut tcp: TcpStream| {
        tcp.write_all(bytes).await.unwrap();
        tcp
    };
    run(settings, client).await.0
}

fn session(result: Result<Handshake, HandshakeError>) -> Hello {
    match result {
        Ok(Handshake::Session(hello)) => hello,
        Ok(_) => panic!("no session"),
        Err(error) => panic!("{}", error.cause),
    }
}

fn failure(result: Result<Handshake, HandshakeError>) -> HandshakeError {
    result.err().expect("a failure")
}

async fn ask(tcp: &mut TcpStream, request: &[u8]) -> u8 {
    tcp.write_all(request).await.unwrap();
    tcp.read_u8().await.unwrap()
}

#[tokio::test]
async fn a_startup_packet_in_clear_makes_a_session_without_tls() {
    let hello = session(send(&HandshakeSettings::default(), &startup()).await);
    assert_eq!(hello.startup.user, "app.demo");
    assert_eq!(hello.peer, "127.0.0.1:4321".parse().unwrap());
    assert!(!hello.stream.is_encrypted());
    assert!(hello.end_point.is_none());
}

#[tokio::test]
async fn a_packet_may_come_byte_by_byte_and_what_follows_stays() {
    let client = async |mut tcp: TcpStream| {
        for byte in startup() {
            tcp.write_all(&[byte]).await.unwrap();
            yield_now().await;
        }
        tcp.write_all(b"p").await.unwrap();
        tcp
    };
    let (result, _client) = run(&HandshakeSettings::default(), client).await;
    let mut hello = session(result);
    assert_eq!(hello.stream.read_u8().await.unwrap(), b'p');
}

#[tokio::test]
async fn requests_that_cannot_be_met_are_declined_and_the_client_may_go_on() {
    for order in [[SSL_REQUEST, GSS_REQUEST], [GSS_REQUEST, SSL_REQUEST]] {
        let client = async |mut tcp: TcpStream| {
            for request in order {
                assert_eq!(ask(&mut tcp, request).await, b'N');
            }
            tcp.write_all(&startup()).await.unwrap();
            tcp
        };
        let (result, _client) = run(&HandshakeSettings::default(), client).await;
        session(result);
    }
}

#[tokio::test]
async fn tls_is_agreed_on_and_the_startup_packet_read_inside() {
    let files = Files::issued();
    let config = ClientTlsConfig::new(BackendTls::VerifyFull, Some(&files.authority)).unwrap();
    for gss_first in [false, true] {
        let client = async |mut tcp: TcpStream| {
            if gss_first {
                assert_eq!(ask(&mut tcp, GSS_REQUEST).await, b'N');
            }
            let mut stream = config.connect(tcp, HOST).await.unwrap();
            stream.write_all(&startup()).await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let (result, _client) = run(&with_tls(&files), client).await;
        let hello = session(result);
        assert_eq!(hello.stream.tls().unwrap().sni.as_deref(), Some(HOST));
        assert_eq!(hello.end_point.unwrap().len(), 32);
    }
}

#[tokio::test]
async fn encryption_is_asked_for_at_most_once() {
    let twice = async |mut tcp: TcpStream| {
        assert_eq!(ask(&mut tcp, GSS_REQUEST).await, b'N');
        tcp.write_all(GSS_REQUEST).await.unwrap();
        tcp
    };
    let (result, _client) = run(&HandshakeSettings::default(), twice).await;
    let error = failure(result);
    assert!(matches!(
        error.cause,
        HandshakeFailure::Repeated(Encryption::Gss)
    ));
    assert!(error.stream.is_some());

    let files = Files::issued();
    let config = ClientTlsConfig::new(BackendTls::Require, None).unwrap();
    for (request, encryption) in [
        (SSL_REQUEST, Encryption::Ssl),
        (GSS_REQUEST, Encryption::Gss),
    ] {
        let inside = async |tcp: TcpStream| {
            let mut stream = config.connect(tcp, HOST).await.unwrap();
            stream.write_all(request).await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let (result, _client) = run(&with_tls(&files), inside).await;
        let error = failure(result);
        assert!(matches!(error.cause, HandshakeFailure::Repeated(again) if again == encryption));
        assert!(error.stream.unwrap().is_encrypted());
    }
}

#[tokio::test]
async fn bytes_smuggled_in_behind_a_request_end_the_handshake_unanswered() {
    let files = Files::issued();
    for request in [SSL_REQUEST, GSS_REQUEST] {
        let smuggle = async |mut tcp: TcpStream| {
            tcp.write_all(&[request, &startup()].concat())
                .await
                .unwrap();
            tcp
        };
        let (result, mut client) = run(&with_tls(&files), smuggle).await;
        let error = failure(result);
        assert!(matches!(error.cause, HandshakeFailure::UnencryptedData(_)));
        assert!(
            error
                .cause
                .to_string()
                .starts_with("received unencrypted data after ")
        );
        // The client can still be told, and neither `S` nor `N` went before that.
        let mut stream = error.stream.unwrap();
        stream.write_all(b"E").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'E');
    }
}

#[tokio::test]
async fn cancel_requests_are_taken_in_clear_and_within_tls() {
    let Ok(Handshake::Cancel(request)) = send(&HandshakeSettings::default(), CANCEL).await else {
        panic!("no cancel request");
    };
    assert_eq!(
        (request.key.pid, request.key.secret.as_bytes()),
        (7, &[1, 2, 3, 4][..])
    );

    let files = Files::issued();
    let config = ClientTlsConfig::new(BackendTls::Require, None).unwrap();
    let client = async |tcp: TcpStream| {
        let mut stream = config.connect(tcp, HOST).await.unwrap();
        stream.write_all(CANCEL).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    let (result, _client) = run(&with_tls(&files), client).await;
    let Ok(Handshake::Cancel(request)) = result else {
        panic!("no cancel request");
    };
    assert!(request.stream.is_encrypted());
}

#[tokio::test]
async fn direct_tls_without_a_certificate_is_refused() {
    let error = failure(send(&HandshakeSettings::default(), &[0x16, 3, 1, 0, 5]).await);
    assert!(matches!(
        error.cause,
        HandshakeFailure::DirectTlsUnavailable
    ));
    assert!(error.stream.is_none());
}

#[tokio::test]
async fn peers_that_leave_early_are_no_errors_and_cut_packets_are() {
    let leave_after = async |bytes: &[u8]| {
        let client = async |mut tcp: TcpStream| tcp.write_all(bytes).await.unwrap();
        run(&HandshakeSettings::default(), client).await.0
    };
    assert!(matches!(leave_after(b"").await, Ok(Handshake::Closed)));
    let declined = async |mut tcp: TcpStream| assert_eq!(ask(&mut tcp, SSL_REQUEST).await, b'N');
    let (result, ()) = run(&HandshakeSettings::default(), declined).await;
    assert!(matches!(result, Ok(Handshake::Closed)));
    for cut in [1, 3, 4, 20] {
        let error = failure(leave_after(&startup()[..cut]).await);
        assert!(matches!(error.cause, HandshakeFailure::Truncated), "{cut}");
    }
}

#[tokio::test]
async fn impossible_lengths_and_versions_are_told_to_the_client() {
    for packet in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0, 0, 0, 7, 0, 3, 0],
        &[0, 0, 0x27, 0x11, 0, 3, 0, 0],
        &[0, 0, 0, 9, 0, 2, 0, 0, 0],
    ] {
        let error = failure(send(&HandshakeSettings::default(), packet).await);
        assert!(
            matches!(error.cause, HandshakeFailure::Startup(_)),
            "{packet:?}"
        );
        assert!(error.stream.is_some());
    }
}

#[tokio::test]
async fn a_trusted_balancer_names_the_client_and_must() {
    let settings = behind_balancer();
    let mut packet = b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 6543\r\n".to_vec();
    packet.extend(startup());
    let hello = session(send(&settings, &packet).await);
    assert_eq!(hello.peer, "203.0.113.7:56324".parse().unwrap());

    let error = failure(send(&settings, &startup()).await);
    assert!(matches!(
        error.cause,
        HandshakeFailure::Proxy(ProxyError::Missing)
    ));
    let (result, ()) = run(&settings, async |_| ()).await;
    assert!(matches!(result, Ok(Handshake::Closed)));
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let error = failure(
        send(
            &HandshakeSettings::default(),
            b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 6543\r\n",
        )
        .await,
    );
    assert!(matches!(
        error.cause,
        HandshakeFailure::Startup(StartupError::Length)
    ));
}
