use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::protocol::message;

fn body(code: u32, rest: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], rest].concat()
}

fn startup_of(version: u32, parameters: &[u8]) -> Result<Startup, StartupError> {
    match parse_first(&body(version, parameters))? {
        First::Startup(startup) => Ok(startup),
        other => panic!("{other:?} is no startup message"),
    }
}

fn startup(parameters: &[u8]) -> Startup {
    startup_of(0x0003_0000, parameters).unwrap()
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn a_length_is_taken_within_its_bounds_only() {
    for (word, expected) in [
        (0, Err(StartupError::Length)),
        (4, Err(StartupError::Length)),
        (7, Err(StartupError::Length)),
        (8, Ok(4)),
        (10_000, Ok(9_996)),
        (10_001, Err(StartupError::Length)),
        (0x8000_0000, Err(StartupError::Length)),
        (u32::MAX, Err(StartupError::Length)),
        (u32::from_be_bytes(*b"GET "), Err(StartupError::Length)),
    ] {
        assert_eq!(first_length(u32::to_be_bytes(word)), expected, "{word}");
    }
}

#[test]
fn encryption_requests_stand_alone() {
    assert_eq!(parse_first(&[0x04, 0xd2, 0x16, 0x2f]), Ok(First::Tls));
    assert_eq!(parse_first(&[0x04, 0xd2, 0x16, 0x30]), Ok(First::Gss));
    assert_eq!(
        parse_first(&body(SSL_REQUEST_CODE, b"\0")),
        Err(StartupError::Length)
    );
    assert_eq!(
        parse_first(&body(GSS_REQUEST_CODE, b"\x16")),
        Err(StartupError::Length)
    );
    for short in [&b""[..], &[0], &[0, 3, 0]] {
        assert_eq!(parse_first(short), Err(StartupError::Length));
    }
}

#[test]
fn a_cancel_request_has_a_key_of_4_to_256_bytes() {
    let cancel = |rest: &[u8]| parse_first(&body(CANCEL_REQUEST_CODE, rest));
    for length in [4, 32, 256] {
        let rest = [&[0, 0, 1, 2][..], &vec![7; length]].concat();
        let expected = CancelKey {
            pid: 258,
            secret: SecretKey::new(&vec![7; length]).unwrap(),
        };
        assert_eq!(cancel(&rest), Ok(First::Cancel(expected)));
    }
    for length in [0, 3, 257] {
        let rest = [&[0, 0, 1, 2][..], &vec![7; length]].concat();
        assert_eq!(cancel(&rest), Err(StartupError::CancelKeyLength));
    }
    assert_eq!(cancel(&[0, 0, 1]), Err(StartupError::CancelLength));
}

#[test]
fn cancel_keys_are_equal_only_as_a_whole() {
    let key = |pid, secret: &[u8]| CancelKey {
        pid,
        secret: SecretKey::new(secret).unwrap(),
    };
    assert_eq!(key(1, b"abcd"), key(1, b"abcd"));
    assert_ne!(key(1, b"abcd"), key(2, b"abcd"));
    assert_ne!(key(1, b"abcd"), key(1, b"abce"));
    assert_ne!(key(1, b"abcd"), key(1, b"abcde"));
}

#[test]
fn a_cancel_key_does_not_show_its_secret() {
    let key = CancelKey {
        pid: 7,
        secret: SecretKey::new(b"hush").unwrap(),
    };
    assert_eq!(format!("{key:?}"), "CancelKey { pid: 7, .. }");
}

#[test]
fn what_psql_sends_is_sorted_by_purpose() {
    let startup = startup(
        b"user\0app_user.demo\0database\0app\0application_name\0psql\0client_encoding\0UTF8\0\
          options\0-c jit=true --search-path=a,b\0application_name\0later\0\0",
    );
    assert_eq!(
        startup,
        Startup {
            version: ProtocolVersion::V3_0,
            user: "app_user.demo".to_owned(),
            database: Some("app".to_owned()),
            options: vec![pair("jit", "true"), pair("search_path", "a,b")],
            parameters: vec![
                pair("application_name", "psql"),
                pair("client_encoding", "UTF8"),
                pair("application_name", "later"),
            ],
            replication: Replication::No,
            unknown_protocol_options: Vec::new(),
        }
    );
    assert_eq!(startup.negotiation(), None);
}

#[test]
fn the_last_of_two_values_holds_and_an_empty_one_is_none() {
    let startup = startup(b"user\0a\0database\0x\0user\0b\0database\0\0\0");
    assert_eq!(startup.user, "b");
    assert_eq!(startup.database, None);
}

#[test]
fn a_user_is_required() {
    for parameters in [
        &b"\0"[..],
        b"database\0app\0\0",
        b"user\0\0\0",
        b"user\0a\0user\0\0\0",
    ] {
        let error = startup_of(0x0003_0000, parameters).unwrap_err();
        assert_eq!(error, StartupError::NoUser);
        assert_eq!(error.code().as_str(), "28000");
        assert_eq!(
            error.to_string(),
            "no PostgreSQL user name specified in startup packet"
        );
    }
}

#[test]
fn the_terminator_is_the_last_byte() {
    for parameters in [
        &b""[..],
        b"user",
        b"user\0",
        b"user\0a",
        b"user\0a\0",
        b"user\0a\0\0\0",
        b"user\0a\0\0x",
        b"user\0a\0database\0",
        b"\0user\0a\0\0",
    ] {
        let error = startup_of(0x0003_0000, parameters).unwrap_err();
        assert_eq!(error, StartupError::Layout, "{parameters:?}");
        assert_eq!(error.code().as_str(), "08P01");
    }
}

#[test]
fn text_that_is_not_utf8_is_a_protocol_violation() {
    for parameters in [&b"user\0\xff\0\0"[..], b"\xc3\x28\0a\0user\0a\0\0"] {
        let error = startup_of(0x0003_0000, parameters).unwrap_err();
        assert_eq!(error, StartupError::Encoding);
        assert_eq!(error.code().as_str(), "08P01");
    }
}

#[test]
fn only_major_version_3_is_spoken() {
    for version in [0x0002_0000, 0x0004_0000, 0, 0x04d2_0000, u32::MAX] {
        let error = startup_of(version, b"user\0a\0\0").unwrap_err();
        assert_eq!(error, StartupError::Version(version.into()));
        assert_eq!(error.code().as_str(), "0A000");
    }
    assert_eq!(
        StartupError::Version(0x0002_0000.into()).to_string(),
        "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"
    );
}

#[test]
fn a_minor_version_that_is_not_spoken_is_negotiated_down() {
    for (minor, spoken, negotiated) in [
        (0, 0, false),
        (1, 0, true),
        (2, 2, false),
        (3, 2, true),
        (9999, 2, true),
    ] {
        let startup = startup_of(0x0003_0000 + minor, b"user\0a\0\0").unwrap();
        let spoken = ProtocolVersion {
            major: 3,
            minor: spoken,
        };
        assert_eq!(startup.spoken(), spoken);
        let expected = negotiated.then_some(Negotiation {
            newest: spoken,
            unknown_options: &[],
        });
        assert_eq!(startup.negotiation(), expected, "3.{minor}");
    }
}

#[test]
fn cancel_keys_are_long_from_3_2_on() {
    let long = |minor| ProtocolVersion { major: 3, minor }.has_long_cancel_keys();
    assert_eq!([0, 1, 2, 3].map(long), [false, false, true, true]);
}

#[test]
fn unknown_protocol_options_are_named_to_the_client() {
    let startup = startup(b"user\0a\0_pq_.shiny\x001\0x\0y\0_pq_.other\0\0\0");
    let unknown = ["_pq_.shiny".to_owned(), "_pq_.other".to_owned()];
    assert_eq!(startup.parameters, [pair("x", "y")]);
    assert_eq!(
        startup.negotiation(),
        Some(Negotiation {
            newest: ProtocolVersion::V3_0,
            unknown_options: &unknown,
        })
    );
}

#[test]
fn replication_is_read_as_postgresql_reads_it() {
    let replication = |value: &str| {
        let parameters = format!("user\0a\0replication\0{value}\0\0");
        startup_of(0x0003_0000, parameters.as_bytes()).map(|startup| startup.replication)
    };
    assert_eq!(replication("database"), Ok(Replication::Logical));
    for physical in ["true", "on", "1", "YES"] {
        assert_eq!(replication(physical), Ok(Replication::Physical));
    }
    for no in ["false", "off", "0", "n"] {
        assert_eq!(replication(no), Ok(Replication::No));
    }
    for wrong in ["Database", "maybe", "", "o"] {
        let error = replication(wrong).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("invalid value for parameter \"replication\": \"{wrong}\"")
        );
        assert_eq!(error.code().as_str(), "22023");
        assert!(error.hint().is_some());
    }
}

#[test]
fn broken_options_fail_the_startup() {
    let error = startup_of(0x0003_0000, b"user\0a\0options\0-x\0\0").unwrap_err();
    assert_eq!(error.code().as_str(), "42601");
    assert_eq!(
        error.to_string(),
        "invalid command-line argument for server process: -x"
    );
}

#[test]
fn a_version_survives_its_code() {
    let version = ProtocolVersion::from(196_610);
    assert_eq!(version, ProtocolVersion::V3_2);
    assert_eq!(version.code(), 196_610);
    assert_eq!(version.to_string(), "3.2");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in any::<Vec<u8>>()) {
        let _ = parse_first(&bytes);
    }

    #[test]
    fn any_parameters_are_read_or_refused(bytes in any::<Vec<u8>>(), minor in 0..4u32) {
        let _ = parse_first(&body(0x0003_0000 + minor, &bytes));
    }

    #[test]
    fn any_layout_is_read_or_refused(parameters in "(user|database|options|replication|_pq_.x|a|-c b=1|\0){0,12}") {
        let _ = parse_first(&body(0x0003_0000, parameters.as_bytes()));
    }

    #[test]
    fn what_is_written_is_read(
        user in "[^\0]{1,40}",
        parameters in proptest::collection::vec(("[a-z]{1,3}\\.[a-z]{1,9}", "[^\0]{0,40}"), 0..9),
    ) {
        let mut out = BytesMut::new();
        let pairs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all = std::iter::once(("user", user.as_str())).chain(pairs);
        message::startup(ProtocolVersion::V3_2, all, &mut out).unwrap();

        let header = *out.first_chunk().unwrap();
        prop_assert_eq!(first_length(header), Ok(out.len() - 4));
        let First::Startup(startup) = parse_first(&out[4..]).unwrap() else {
            panic!("not a startup message");
        };
        prop_assert_eq!(startup.version, ProtocolVersion::V3_2);
        prop_assert_eq!(startup.user, user);
        prop_assert_eq!(startup.parameters, parameters);
    }
}
