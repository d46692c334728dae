use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::{server::start_with_nonce, *};

/// The exchange of RFC 7677 section 3: user "user", password "pencil".
mod rfc7677 {
    pub(super) const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    pub(super) const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    pub(super) const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    pub(super) const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    pub(super) const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    pub(super) const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    pub(super) const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
}

fn pencil() -> Verifier {
    Verifier::from_password("pencil", &BASE64.decode(rfc7677::SALT).unwrap(), 4096)
}

/// Cheap enough for hundreds of exchanges.
fn cheap(password: &[u8]) -> Verifier {
    Verifier::from_password(password, b"0123456789abcdef", 2)
}

fn start(
    client_first: &str,
    mechanism: &str,
    binding: ServerBinding,
) -> Result<(String, ServerWait), ScramError> {
    ServerFirst::start(cheap(b"x"), client_first.as_bytes(), mechanism, binding)
}

fn start_error(client_first: &str, mechanism: &str, binding: ServerBinding) -> ScramError {
    start(client_first, mechanism, binding)
        .err()
        .unwrap_or_else(|| panic!("{client_first:?} was accepted"))
}

fn end_point() -> ServerBinding {
    ServerBinding::EndPoint(vec![0xab; 32])
}

/// A whole exchange with rust-postgres as the client.
fn log_in(
    verifier: Verifier,
    password: &[u8],
    mechanism: &str,
    theirs: ChannelBinding,
    ours: ServerBinding,
) -> Result<ScramKeys, ScramError> {
    let mut client = ScramSha256::new(password, theirs);
    let (server_first, wait) = ServerFirst::start(verifier, client.message(), mechanism, ours)?;
    client.update(server_first.as_bytes()).unwrap();
    let (server_final, keys) = wait.finish(client.message())?;
    client.finish(server_final.as_bytes()).unwrap();
    Ok(keys)
}

fn log_in_plainly(verifier: Verifier, password: &[u8]) -> Result<ScramKeys, ScramError> {
    log_in(
        verifier,
        password,
        SCRAM_SHA_256,
        ChannelBinding::unsupported(),
        ServerBinding::None,
    )
}

#[test]
fn the_server_speaks_as_in_rfc_7677() {
    let (server_first, wait) = start_with_nonce(
        pencil(),
        rfc7677::CLIENT_FIRST.as_bytes(),
        SCRAM_SHA_256,
        ServerBinding::None,
        rfc7677::SERVER_NONCE,
    )
    .unwrap();
    assert_eq!(server_first, rfc7677::SERVER_FIRST);
    let (server_final, keys) = wait.finish(rfc7677::CLIENT_FINAL.as_bytes()).unwrap();
    assert_eq!(server_final, rfc7677::SERVER_FINAL);
    assert_eq!(sha256(&keys.client_key), pencil().stored_key);
    assert_eq!(keys.server_key, pencil().server_key);
}

#[test]
fn keys_taken_from_one_login_make_the_next() {
    let keys = log_in_plainly(cheap(b"secret"), b"secret").unwrap();
    let (client, client_first) = ClientWithKeys::new(keys);
    let (server_first, server) = ServerFirst::start(
        cheap(b"secret"),
        client_first.as_bytes(),
        SCRAM_SHA_256,
        ServerBinding::None,
    )
    .unwrap();
    let (client, client_final) = client.respond(server_first.as_bytes()).unwrap();
    let (server_final, _) = server.finish(client_final.as_bytes()).unwrap();
    assert_eq!(client.verify(server_final.as_bytes()), Ok(()));
}

#[test]
fn keys_of_another_password_do_not_log_in() {
    let keys = log_in_plainly(cheap(b"secret"), b"secret").unwrap();
    let (client, client_first) = ClientWithKeys::new(keys);
    let (server_first, server) = ServerFirst::start(
        cheap(b"changed"),
        client_first.as_bytes(),
        SCRAM_SHA_256,
        ServerBinding::None,
    )
    .unwrap();
    let (_, client_final) = client.respond(server_first.as_bytes()).unwrap();
    assert_eq!(
        server.finish(client_final.as_bytes()).err(),
        Some(ScramError::Proof)
    );
}

#[test]
fn a_wrong_password_fails_at_the_proof() {
    let error = log_in_plainly(cheap(b"secret"), b"guess").err().unwrap();
    assert_eq!(error, ScramError::Proof);
    assert_eq!(error.code().as_str(), "28P01");
    assert_eq!(error.detail(), None);
}

#[test]
fn a_mock_is_stable_looks_real_and_never_lets_anyone_in() {
    let seed = [7; 32];
    let mock = Verifier::mock(&seed, "nobody");
    assert_eq!(mock.salt, Verifier::mock(&seed, "nobody").salt);
    assert_ne!(mock.salt, Verifier::mock(&seed, "somebody").salt);
    assert_ne!(mock.salt, Verifier::mock(&[8; 32], "nobody").salt);
    assert_eq!(mock.salt.len(), 16);
    assert_eq!(mock.iterations, 4096);
    assert_eq!(
        log_in_plainly(mock, b"guess").err(),
        Some(ScramError::Proof)
    );

    // Not even to somebody who knows the password behind it.
    let mut doomed = cheap(b"secret");
    doomed.origin = verifier::Origin::Mock;
    assert_eq!(
        log_in_plainly(doomed, b"secret").err(),
        Some(ScramError::Proof)
    );
}

#[test]
fn a_channel_is_bound_to_the_certificate() {
    let plus = |hash: Vec<u8>, ours| {
        let theirs = ChannelBinding::tls_server_end_point(hash);
        log_in(cheap(b"x"), b"x", SCRAM_SHA_256_PLUS, theirs, ours).err()
    };
    assert_eq!(plus(vec![0xab; 32], end_point()), None);
    let other_certificate = plus(vec![0xcd; 32], end_point());
    assert_eq!(other_certificate, Some(ScramError::Binding));
    assert_eq!(other_certificate.unwrap().code().as_str(), "28000");
    assert_eq!(
        plus(vec![0xab; 32], ServerBinding::None),
        Some(ScramError::Mechanism)
    );
}

#[test]
fn a_client_without_channel_binding_may_come_over_tls() {
    let log_in = |theirs, ours| log_in(cheap(b"x"), b"x", SCRAM_SHA_256, theirs, ours).err();
    assert_eq!(log_in(ChannelBinding::unsupported(), end_point()), None);
    assert_eq!(
        log_in(ChannelBinding::unrequested(), ServerBinding::None),
        None
    );
    let downgraded = log_in(ChannelBinding::unrequested(), end_point());
    assert_eq!(downgraded, Some(ScramError::Downgrade));
    assert!(downgraded.unwrap().detail().is_some());
}

#[test]
fn plus_is_offered_first_and_only_where_there_is_a_certificate() {
    assert_eq!(
        end_point().mechanisms(),
        [SCRAM_SHA_256_PLUS, SCRAM_SHA_256]
    );
    assert_eq!(ServerBinding::None.mechanisms(), [SCRAM_SHA_256]);
}

#[test]
fn a_client_first_that_is_not_one_is_refused() {
    let table = [
        ("", Malformed::Empty.into()),
        ("n", Malformed::Attribute.into()),
        ("n,", Malformed::Attribute.into()),
        ("n,,", Malformed::Attribute.into()),
        ("n,,n=", Malformed::Attribute.into()),
        ("n,,r=abc,n=", Malformed::Attribute.into()),
        ("n,,n=,r=", ScramError::NonceCharacters),
        ("n,,n=,r=a b", ScramError::NonceCharacters),
        ("n,,n=,r=ä", ScramError::NonceCharacters),
        ("n,,n=,r=abc,", Malformed::Attribute.into()),
        ("n,,n=,r=abc,xx=1", Malformed::Attribute.into()),
        ("n,,m=1,n=,r=abc", ScramError::Extension),
        ("n,a=root,n=,r=abc", ScramError::AuthorizationIdentity),
        ("n,b=root,n=,r=abc", Malformed::Attribute.into()),
        ("q,,n=,r=abc", Malformed::BindingFlag.into()),
        (",,n=,r=abc", Malformed::BindingFlag.into()),
        (
            "p=tls-server-end-point,,n=,r=abc",
            Malformed::BindingUnasked.into(),
        ),
    ];
    for (client_first, expected) in table {
        let error = start_error(client_first, SCRAM_SHA_256, ServerBinding::None);
        assert_eq!(error, expected, "{client_first:?}");
    }
    assert!(
        start(
            "n,,n=ignored,r=abc,x=1,y=a=b",
            SCRAM_SHA_256,
            ServerBinding::None
        )
        .is_ok()
    );
}

#[test]
fn the_flag_must_go_with_the_mechanism() {
    let plus = |client_first| start_error(client_first, SCRAM_SHA_256_PLUS, end_point());
    assert_eq!(plus("n,,n=,r=abc"), Malformed::BindingMissing.into());
    assert_eq!(plus("y,,n=,r=abc"), Malformed::BindingMissing.into());
    let unique = plus("p=tls-unique,,n=,r=abc");
    assert_eq!(
        unique.to_string(),
        "unsupported SCRAM channel-binding type \"tls-unique\""
    );
    for mechanism in [
        "",
        "PLAIN",
        "scram-sha-256",
        "SCRAM-SHA-1",
        "SCRAM-SHA-256 ",
    ] {
        let error = start_error("n,,n=,r=abc", mechanism, end_point());
        assert_eq!(error, ScramError::Mechanism);
    }
}

#[test]
fn a_client_final_that_is_not_one_is_refused() {
    let finish = |client_final: &str| {
        let (_, wait) = start_with_nonce(
            cheap(b"x"),
            b"n,,n=,r=abc",
            SCRAM_SHA_256,
            ServerBinding::None,
            "def",
        )
        .unwrap();
        wait.finish(client_final.as_bytes()).err().unwrap()
    };
    let proof = BASE64.encode([0; 32]);
    let short = BASE64.encode([0; 31]);
    let table = [
        (String::new(), Malformed::Empty.into()),
        ("c=biws".into(), Malformed::Attribute.into()),
        (format!("p={proof}"), Malformed::Attribute.into()),
        (format!("c=biws,p={proof}"), Malformed::Attribute.into()),
        (
            format!("r=abcdef,c=biws,p={proof}"),
            Malformed::Attribute.into(),
        ),
        ("c=biws,r=abcdef".into(), Malformed::Attribute.into()),
        ("c=biws,r=abcdef,x=1".into(), Malformed::Proof.into()),
        (
            format!("c=biws,r=abcdef,p={short}"),
            Malformed::Proof.into(),
        ),
        ("c=biws,r=abcdef,p=!".into(), Malformed::Proof.into()),
        (
            format!("c=biws,r=abcdef,p={proof},x=1"),
            Malformed::Proof.into(),
        ),
        (format!("c=biws,r=abc,p={proof}"), ScramError::Nonce),
        (format!("c=biws,r=abcdefg,p={proof}"), ScramError::Nonce),
        (
            format!("c=eSws,r=abcdef,p={proof}"),
            ScramError::UnexpectedBinding,
        ),
        (
            format!("c=,r=abcdef,p={proof}"),
            ScramError::UnexpectedBinding,
        ),
        (format!("c=biws,r=abcdef,p={proof}"), ScramError::Proof),
        (format!("c=biws,r=abcdef,x=1,p={proof}"), ScramError::Proof),
    ];
    for (client_final, expected) in table {
        assert_eq!(finish(&client_final), expected, "{client_final:?}");
    }
}

#[test]
fn a_recorded_exchange_cannot_be_played_again() {
    let (_, wait) = ServerFirst::start(
        pencil(),
        rfc7677::CLIENT_FIRST.as_bytes(),
        SCRAM_SHA_256,
        ServerBinding::None,
    )
    .unwrap();
    let replayed = wait.finish(rfc7677::CLIENT_FINAL.as_bytes()).err();
    assert_eq!(replayed, Some(ScramError::Nonce));
}

fn client() -> ClientWithKeys {
    let keys = ScramKeys {
        client_key: [1; 32],
        server_key: [2; 32],
    };
    let (client, client_first) = ClientWithKeys::with_nonce(keys, rfc7677::CLIENT_NONCE.to_owned());
    assert_eq!(client_first, "n,,n=,r=rOprNGfwEbeRWgbNEkqO");
    client
}

#[test]
fn the_client_refuses_a_server_first_that_is_not_one() {
    let table = [
        ("", Malformed::Empty.into()),
        (
            "r=rOprNGfwEbeRWgbNEkqO1,s=QUJD",
            Malformed::Attribute.into(),
        ),
        ("r=rOprNGfwEbeRWgbNEkqO1,s=!,i=1", Malformed::Salt.into()),
        (
            "r=rOprNGfwEbeRWgbNEkqO1,s=QUJD,i=0",
            Malformed::Iterations.into(),
        ),
        (
            "r=rOprNGfwEbeRWgbNEkqO1,s=QUJD,i=+1",
            Malformed::Iterations.into(),
        ),
        (
            "r=rOprNGfwEbeRWgbNEkqO1,s=QUJD,i=4294967296",
            Malformed::Iterations.into(),
        ),
        ("r=rOprNGfwEbeRWgbNEkqO,s=QUJD,i=1", ScramError::Nonce),
        ("r=other,s=QUJD,i=1", ScramError::Nonce),
        ("r=\u{7f},s=QUJD,i=1", ScramError::NonceCharacters),
        (
            "m=x,r=rOprNGfwEbeRWgbNEkqO1,s=QUJD,i=1",
            ScramError::Extension,
        ),
    ];
    for (server_first, expected) in table {
        let error = client().respond(server_first.as_bytes()).err();
        assert_eq!(error, Some(expected), "{server_first:?}");
    }
    let server_first = rfc7677::SERVER_FIRST.as_bytes();
    assert!(client().respond(server_first).is_ok());
}

#[test]
fn the_client_takes_nothing_but_the_servers_signature() {
    let zeros = BASE64.encode([0; 32]);
    let table = [
        (String::new(), Malformed::Empty.into()),
        ("e=other-error".into(), ScramError::ServerError),
        ("v=".into(), Malformed::Signature.into()),
        ("v=QUJD".into(), Malformed::Signature.into()),
        (format!("v={zeros},x=1"), Malformed::Garbage.into()),
        (format!("x={zeros}"), Malformed::Attribute.into()),
        (format!("v={zeros}"), ScramError::ServerSignature),
    ];
    for (server_final, expected) in table {
        let (wait, _) = client().respond(rfc7677::SERVER_FIRST.as_bytes()).unwrap();
        let verdict = wait.verify(server_final.as_bytes());
        assert_eq!(verdict, Err(expected), "{server_final:?}");
    }
}

#[test]
fn a_verifier_survives_its_text() {
    // What PostgreSQL's own tools make of the password "foo".
    let theirs = postgres_protocol::password::scram_sha_256(b"foo");
    let verifier = Verifier::parse(&theirs).unwrap();
    assert_eq!(*verifier.to_text(), theirs);
    let ours = Verifier::from_password("foo", &verifier.salt, verifier.iterations);
    assert_eq!(*ours.to_text(), theirs);
}

#[test]
fn a_text_that_is_no_verifier_is_refused() {
    let key = BASE64.encode([1; 32]);
    let short = BASE64.encode([1; 31]);
    let table = [
        (String::new(), VerifierError::Scheme),
        (
            "md5acbd18db4cc2f85cedef654fccc4a4d8".into(),
            VerifierError::Scheme,
        ),
        ("scram-sha-256$1:AA==$a:b".into(), VerifierError::Scheme),
        ("SCRAM-SHA-256$".into(), VerifierError::Layout),
        ("SCRAM-SHA-256$1:QUJD".into(), VerifierError::Layout),
        (format!("SCRAM-SHA-256$1:QUJD${key}"), VerifierError::Layout),
        (
            format!("SCRAM-SHA-256$1${key}:{key}"),
            VerifierError::Layout,
        ),
        (
            format!("SCRAM-SHA-256$0:QUJD${key}:{key}"),
            VerifierError::Iterations,
        ),
        (
            format!("SCRAM-SHA-256$-1:QUJD${key}:{key}"),
            VerifierError::Iterations,
        ),
        (
            format!("SCRAM-SHA-256$:QUJD${key}:{key}"),
            VerifierError::Iterations,
        ),
        (
            format!("SCRAM-SHA-256$1:?${key}:{key}"),
            VerifierError::Salt,
        ),
        (
            format!("SCRAM-SHA-256$1:QUJD${short}:{key}"),
            VerifierError::Key,
        ),
        (
            format!("SCRAM-SHA-256$1:QUJD${key}:{key}:{key}"),
            VerifierError::Key,
        ),
        (
            format!("SCRAM-SHA-256$1:QUJD${key}:{key} "),
            VerifierError::Key,
        ),
    ];
    for (text, expected) in table {
        assert_eq!(Verifier::parse(&text).err(), Some(expected), "{text:?}");
    }
}

#[test]
fn passwords_are_normalised_as_postgresql_does() {
    let same = |one: &[u8], other: &[u8]| cheap(one).stored_key == cheap(other).stored_key;
    assert!(
        same("I\u{ad}X".as_bytes(), b"IX"),
        "a soft hyphen is nothing"
    );
    assert!(
        same("\u{2168}".as_bytes(), b"IX"),
        "compatibility forms are unfolded"
    );
    assert!(same("a\u{a0}b".as_bytes(), b"a b"), "all spaces are one");
    assert!(!same(b"User", b"user"));
    assert!(
        !same(b"\xff", b"\xfe"),
        "bytes that are no text stay as they are"
    );
    assert!(
        !same(b"a\x07", b"a"),
        "so does a text that SASLprep forbids"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_taken_or_refused(bytes in any::<Vec<u8>>()) {
        let binding = [ServerBinding::None, end_point()];
        for (mechanism, binding) in [SCRAM_SHA_256, SCRAM_SHA_256_PLUS].into_iter().zip(binding) {
            let _ = ServerFirst::start(cheap(b"x"), &bytes, mechanism, binding);
        }
        let (_, wait) = start("n,,n=,r=abc", SCRAM_SHA_256, ServerBinding::None).unwrap();
        prop_assert!(wait.finish(&bytes).is_err());
        prop_assert!(client().respond(&bytes).is_err());
        let (wait, _) = client().respond(rfc7677::SERVER_FIRST.as_bytes()).unwrap();
        prop_assert!(wait.verify(&bytes).is_err());
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = Verifier::parse(text);
        }
    }

    #[test]
    fn anything_like_a_message_is_taken_or_refused(text in "[nyp=,acrsivme:$A/+1]{0,40}") {
        let _ = start(&text, SCRAM_SHA_256, ServerBinding::None);
        let _ = start(&text, SCRAM_SHA_256_PLUS, end_point());
        let (_, wait) = start("n,,n=,r=abc", SCRAM_SHA_256, ServerBinding::None).unwrap();
        prop_assert!(wait.finish(text.as_bytes()).is_err());
        let _ = client().respond(text.as_bytes());
        let verifier = format!("SCRAM-SHA-256${text}");
        prop_assert!(Verifier::parse(&verifier).is_err());
    }

    #[test]
    fn whoever_has_the_password_and_nobody_else_gets_in(password in any::<Vec<u8>>(), text in any::<String>()) {
        for secret in [&password[..], text.as_bytes()] {
            prop_assert!(log_in_plainly(cheap(secret), secret).is_ok());
            let wrong = [secret, b"x"].concat();
            prop_assert!(log_in_plainly(cheap(secret), &wrong).is_err());
        }
    }
}
