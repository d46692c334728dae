//! From the first byte to the startup packet: encryption requests, direct TLS, PROXY headers, sizes and versions.

use std::time::{Duration, Instant};

use crate::support::{
    Client, Fixture, Login, Reply,
    login::{Encryption, GSS_REQUEST, SSL_REQUEST, VERSION, startup},
    sluice::Settings,
};

/// Reads what the server says to bytes that it must refuse: one FATAL with this code, then the end.
#[track_caller]
fn refused(client: &mut Client, code: &str) -> String {
    let fault = client.farewell();
    assert_eq!(fault.code, code, "{fault:?}");
    fault.message
}

fn packet(login: &Login) -> Vec<u8> {
    startup(login.version, &login.parameters)
}

#[test]
fn an_encryption_request_is_answered_and_the_session_is_encrypted() {
    let fixture = Fixture::start();
    let mut client = fixture.password_login().encrypted().open().unwrap();
    assert_eq!(client.value("select 1"), "1");
    let sessions = fixture.sluice.admin.sessions(&fixture.tenant);
    assert!(!sessions[0]["tls"].is_null(), "{sessions:?}");
}

#[test]
fn gss_encryption_is_declined_and_the_connection_goes_on_with_tls_or_without() {
    let fixture = Fixture::start();
    let login = fixture.password_login();

    let mut plain = Client::connect(login.port).unwrap();
    plain.send(GSS_REQUEST);
    assert_eq!(plain.receive_byte(), Some(b'N'));
    plain.send(packet(&login));
    login.authenticate(&mut plain).unwrap();

    let mut encrypted = Client::connect(login.port).unwrap();
    encrypted.send(GSS_REQUEST);
    assert_eq!(encrypted.receive_byte(), Some(b'N'));
    encrypted.send(SSL_REQUEST);
    assert_eq!(encrypted.receive_byte(), Some(b'S'));
    let mut encrypted = encrypted.encrypt("localhost", &[]).unwrap();
    encrypted.send(packet(&login));
    login.authenticate(&mut encrypted).unwrap();
    assert_eq!(encrypted.value("select 1"), "1");
}

#[test]
fn each_encryption_request_is_taken_once() {
    let fixture = Fixture::start();
    let mut twice = Client::connect(fixture.sluice.port).unwrap();
    twice.send(GSS_REQUEST);
    assert_eq!(twice.receive_byte(), Some(b'N'));
    twice.send(GSS_REQUEST);
    refused(&mut twice, "08P01");

    let mut inside = fixture.password_login().encrypted().connect();
    inside.send(SSL_REQUEST);
    refused(&mut inside, "08P01");
}

#[test]
fn without_a_certificate_encryption_is_declined_and_plaintext_goes_on() {
    let fixture = Fixture::with(Settings::default().without("tls"));
    let login = fixture.password_login();
    let mut client = Client::connect(login.port).unwrap();
    client.send(SSL_REQUEST);
    assert_eq!(client.receive_byte(), Some(b'N'));
    client.send(packet(&login));
    login.authenticate(&mut client).unwrap();
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn bytes_smuggled_in_behind_the_encryption_request_are_refused() {
    let fixture = Fixture::start();
    let login = fixture.password_login();
    let mut client = Client::connect(login.port).unwrap();
    let mut smuggled = SSL_REQUEST.to_vec();
    smuggled.extend_from_slice(&packet(&login));
    client.send(smuggled);
    let (answer, end) = client.receive_all();
    let said = String::from_utf8_lossy(&answer);
    assert!(
        said.contains("received unencrypted data after SSL request"),
        "{said:?}"
    );
    assert!(said.contains("08P01"), "{said:?}");
    assert_eq!(end, Reply::Closed);
}

#[test]
fn direct_tls_needs_the_protocol_name_postgresql() {
    let fixture = Fixture::start();
    let login = fixture.password_login().encryption(Encryption::Direct);
    let mut client = login.open().unwrap();
    assert_eq!(client.value("select 1"), "1");

    for protocols in [&[][..], &["http/1.1"][..]] {
        let tcp = Client::connect(login.port).unwrap();
        // The refusal may come as a TLS alert within the handshake or as an end just after it.
        let Ok(mut client) = tcp.encrypt("localhost", protocols) else {
            continue;
        };
        client.send(packet(&login));
        let replies = client.receive_to_end();
        let asked = replies.iter().any(|reply| matches!(reply, Reply::Sasl(_)));
        assert!(!asked, "a login was begun over {protocols:?}: {replies:?}");
    }
}

#[test]
fn packets_may_come_byte_by_byte() {
    let fixture = Fixture::start();
    let login = fixture.password_login();
    let mut client = Client::connect(login.port).unwrap();
    for byte in SSL_REQUEST {
        client.send([byte]);
    }
    assert_eq!(client.receive_byte(), Some(b'S'));
    let mut client = client.encrypt("localhost", &[]).unwrap();
    for byte in packet(&login) {
        client.send([byte]);
    }
    login.authenticate(&mut client).unwrap();
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn an_impossible_length_is_refused_before_the_body_comes() {
    let fixture = Fixture::start();
    for length in [0_u32, 3, 7, 10_001, 1 << 20, 0x7fff_ffff, 0xffff_ffff] {
        let mut client = Client::connect(fixture.sluice.port).unwrap();
        client.send(length.to_be_bytes());
        let message = refused(&mut client, "08P01");
        assert!(message.contains("length"), "{length}: {message}");
    }
}

#[test]
fn the_longest_startup_packet_is_taken() {
    let fixture = Fixture::start();
    let login = fixture.password_login();
    let filled = |name: String| login.clone().parameter("application_name", &name);
    let spare = 10_000 - packet(&filled(String::new())).len();
    let longest = filled("x".repeat(spare));
    assert_eq!(packet(&longest).len(), 10_000);
    assert_eq!(longest.open().unwrap().value("select 1"), "1");
}

#[test]
fn a_newer_protocol_is_negotiated_down_and_unknown_extensions_are_named() {
    let fixture = Fixture::start();
    let mut login = fixture.password_login().parameter("_pq_.new_thing", "1");
    login.version = VERSION | 9;
    let mut client = login.open().unwrap();
    let (newest, options) = client.negotiated.clone().expect("NegotiateProtocolVersion");
    // PostgreSQL sends the whole version, its own pages say the minor number: either way the minor is 2.
    assert_eq!(newest & 0xffff, 2);
    assert_eq!(options, ["_pq_.new_thing"]);
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn version_3_2_is_spoken_with_a_long_cancel_key_and_3_0_with_a_short_one() {
    let fixture = Fixture::start();
    let mut login = fixture.password_login();
    let old = login.open().unwrap();
    assert_eq!(old.cancel_key.as_ref().unwrap().1.len(), 4);
    assert_eq!(old.negotiated, None);

    login.version = VERSION | 2;
    let new = login.open().unwrap();
    assert!(new.cancel_key.as_ref().unwrap().1.len() > 4);
    assert_eq!(new.negotiated, None);
}

#[test]
fn other_major_versions_and_packets_without_a_user_are_refused() {
    let fixture = Fixture::start();
    let mut login = fixture.password_login();
    for version in [2 << 16, 4 << 16] {
        login.version = version;
        let fault = login.open().err().unwrap();
        assert_eq!(fault.code, "0A000", "{fault:?}");
        assert!(
            fault.message.contains("unsupported frontend protocol"),
            "{fault:?}"
        );
    }
    login.version = VERSION;
    login.parameters.retain(|(name, _)| name != "user");
    let fault = login.open().err().unwrap();
    assert_eq!(fault.code, "28000", "{fault:?}");
}

#[test]
fn one_deadline_covers_everything_from_accept_to_ready() {
    let fixture = Fixture::with(Settings::default().set("timeouts.login", "1s"));
    let login = fixture.password_login().encrypted();
    let mut silent = Client::connect(login.port).unwrap();
    let mut encrypted = login.connect();
    let mut unproven = login.connect();
    unproven.send(packet(&login));
    let began = Instant::now();
    // Somebody who keeps the connection busy gains nothing by it.
    let mut trickling = Client::connect(login.port).unwrap();
    let mut bytes = packet(&login).into_iter();
    while trickling.is_silent_for(Duration::from_millis(100)) {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "the deadline has passed long since"
        );
        trickling.send([bytes.next().expect("more of the packet than time")]);
    }
    for client in [&mut silent, &mut encrypted, &mut unproven, &mut trickling] {
        client.receive_to_end();
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_proxy_header_of_a_trusted_balancer_tells_the_clients_address() {
    let trusted = toml::Value::Array(vec!["127.0.0.1/32".into()]);
    let fixture = Fixture::with(Settings::default().set("listen.proxy_protocol_from", trusted));
    let mut login = fixture.password_login();
    login.proxy_header = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 6543\r\n".to_vec();
    let mut text_header = login.open().unwrap();
    assert_eq!(text_header.value("select 1"), "1");

    login.proxy_header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    login
        .proxy_header
        .extend([198, 51, 100, 7, 192, 0, 2, 1, 0x10, 0x00, 0x19, 0x8f]);
    let login = login.encrypted();
    let mut binary_header = login.open().unwrap();
    assert_eq!(binary_header.value("select 1"), "1");

    let sessions = fixture.sluice.admin.sessions(&fixture.tenant);
    let mut peers: Vec<&str> = sessions
        .iter()
        .map(|s| s["peer"].as_str().unwrap())
        .collect();
    peers.sort_unstable();
    assert_eq!(peers, ["198.51.100.7:4096", "203.0.113.9:4711"]);
}

#[test]
fn a_proxy_header_from_anybody_else_is_refused() {
    let fixture = Fixture::start();
    let mut login = fixture.password_login();
    login.proxy_header = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 6543\r\n".to_vec();
    assert!(login.open().is_err());
}
