use postgres_protocol::message::frontend;
use proptest::prelude::*;

use super::*;

fn written(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    out.to_vec()
}

#[test]
fn what_a_client_is_told_is_as_the_protocol_says() {
    let unknown = ["_pq_.x".to_owned()];
    let negotiation = Negotiation {
        newest: ProtocolVersion::V3_2,
        unknown_options: &unknown,
    };
    let table: [(Vec<u8>, &[u8]); 10] = [
        (written(authentication_ok), b"R\0\0\0\x08\0\0\0\0"),
        (written(cleartext_password), b"R\0\0\0\x08\0\0\0\x03"),
        (
            written(|out| sasl(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"], out)),
            b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
        ),
        (
            written(|out| sasl_continue(b"r=a", out)),
            b"R\0\0\0\x0b\0\0\0\x0br=a",
        ),
        (
            written(|out| sasl_final(b"v=b", out)),
            b"R\0\0\0\x0b\0\0\0\x0cv=b",
        ),
        (
            written(|out| parameter_status("TimeZone", "UTC", out)),
            b"S\0\0\0\x11TimeZone\0UTC\0",
        ),
        (
            written(|out| backend_key_data(258, &[1, 2, 3, 4], out)),
            b"K\0\0\0\x0c\0\0\x01\x02\x01\x02\x03\x04",
        ),
        (
            written(|out| backend_key_data(1, &[9; 32], out)),
            &[&b"K\0\0\0\x28\0\0\0\x01"[..], &[9; 32]].concat(),
        ),
        (written(|out| ready_for_query(b'I', out)), b"Z\0\0\0\x05I"),
        (
            written(|out| negotiate_protocol_version(negotiation, out)),
            b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0",
        ),
    ];
    for (bytes, expected) in table {
        assert_eq!(bytes, expected);
    }
}

#[test]
fn messages_follow_one_another_in_a_buffer() {
    let bytes = written(|out| {
        authentication_ok(out);
        ready_for_query(b'T', out);
    });
    assert_eq!(bytes, b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05T");
}

#[test]
fn a_zero_byte_in_a_status_cannot_shift_the_fields() {
    let bytes = written(|out| parameter_status("a\0b", "c", out));
    assert_eq!(bytes, b"S\0\0\0\x08a\0c\0");
}

#[test]
fn what_a_backend_is_told_is_what_a_driver_would_tell_it() {
    let parameters = [("user", "app"), ("database", "app"), ("options", "")];
    let mut theirs = BytesMut::new();
    frontend::startup_message(parameters, &mut theirs).unwrap();
    frontend::password_message(b"secret", &mut theirs).unwrap();
    frontend::sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=a", &mut theirs).unwrap();
    frontend::sasl_response(b"c=biws", &mut theirs).unwrap();
    frontend::query("select 1", &mut theirs).unwrap();
    frontend::cancel_request(258, 0x0102_0304, &mut theirs);

    let ours = written(|out| {
        startup(ProtocolVersion::V3_0, parameters, out).unwrap();
        password(b"secret", out).unwrap();
        sasl_initial("SCRAM-SHA-256", b"n,,n=,r=a", out).unwrap();
        sasl_response(b"c=biws", out);
        query("select 1", out).unwrap();
        cancel_request(258, &[1, 2, 3, 4], out);
    });
    assert_eq!(ours, theirs);
}

#[test]
fn protocol_3_2_can_be_asked_for() {
    let bytes = written(|out| startup(ProtocolVersion::V3_2, [], out).unwrap());
    assert_eq!(bytes, b"\0\0\0\x09\0\x03\0\x02\0");
}

#[test]
fn a_text_with_a_zero_byte_is_never_sent() {
    let mut out = BytesMut::from(&b"kept"[..]);
    let refused = [
        startup(
            ProtocolVersion::V3_0,
            [("user", "a"), ("b", "c\0d")],
            &mut out,
        ),
        startup(ProtocolVersion::V3_0, [("b\0", "c")], &mut out),
        password(b"a\0b", &mut out),
        sasl_initial("SCRAM\0", b"", &mut out),
        query("select 1\0drop", &mut out),
    ];
    assert_eq!(refused, [Err(MessageError::ZeroByte); 5]);
    assert_eq!(&out[..], b"kept");
}

#[test]
fn a_startup_parameter_needs_a_name() {
    let mut out = BytesMut::new();
    let nameless = startup(ProtocolVersion::V3_0, [("user", "a"), ("", "b")], &mut out);
    assert_eq!(nameless, Err(MessageError::NoName));
    assert!(out.is_empty());
}

#[test]
fn a_password_ends_with_its_only_zero_byte() {
    type Row = (&'static [u8], Result<&'static [u8], MessageError>);
    let table: [Row; 7] = [
        (b"secret\0", Ok(b"secret")),
        (b"\xff\xfe\0", Ok(b"\xff\xfe")),
        (b"\0", Err(MessageError::EmptyPassword)),
        (b"", Err(MessageError::PasswordSize)),
        (b"secret", Err(MessageError::PasswordSize)),
        (b"sec\0ret\0", Err(MessageError::PasswordSize)),
        (b"\0\0", Err(MessageError::PasswordSize)),
    ];
    for (body, expected) in table {
        assert_eq!(read_password(body), expected, "{body:?}");
    }
    let mut longest = vec![b'x'; PASSWORD_MAX_BYTES];
    longest[PASSWORD_MAX_BYTES - 1] = 0;
    assert!(read_password(&longest).is_ok());
    longest.insert(0, b'x');
    assert_eq!(read_password(&longest), Err(MessageError::Length));
}

#[test]
fn a_sasl_initial_response_is_read_to_its_end() {
    let initial = |response| {
        Ok(SaslInitial {
            mechanism: "SCRAM-SHA-256",
            response,
        })
    };
    type Row = (&'static [u8], Result<SaslInitial<'static>, MessageError>);
    let table: [Row; 10] = [
        (b"SCRAM-SHA-256\0\0\0\0\x03n,,", initial(Some(b"n,,"))),
        (b"SCRAM-SHA-256\0\0\0\0\0", initial(Some(b""))),
        (b"SCRAM-SHA-256\0\xff\xff\xff\xff", initial(None)),
        (
            b"SCRAM-SHA-256\0\xff\xff\xff\xffx",
            Err(MessageError::Format),
        ),
        (
            b"SCRAM-SHA-256\0\xff\xff\xff\xfe",
            Err(MessageError::Format),
        ),
        (b"SCRAM-SHA-256\0\0\0\0\x04n,,", Err(MessageError::Format)),
        (b"SCRAM-SHA-256\0\0\0\0\x02n,,", Err(MessageError::Format)),
        (b"SCRAM-SHA-256\0\0\0", Err(MessageError::Format)),
        (b"SCRAM-SHA-256", Err(MessageError::Format)),
        (b"\xff\0\0\0\0\0", Err(MessageError::Format)),
    ];
    for (body, expected) in table {
        assert_eq!(read_sasl_initial(body), expected, "{body:?}");
    }
}

#[test]
fn a_sasl_message_has_a_limit() {
    assert!(read_sasl_response(&[b'x'; SASL_MAX_BYTES]).is_ok());
    let long = [b'x'; SASL_MAX_BYTES + 1];
    assert_eq!(read_sasl_response(&long), Err(MessageError::Length));
    assert_eq!(read_sasl_initial(&long), Err(MessageError::Length));
}

#[test]
fn each_error_has_the_code_of_who_is_at_fault() {
    assert_eq!(MessageError::PasswordSize.code().as_str(), "08P01");
    assert_eq!(MessageError::EmptyPassword.code().as_str(), "28P01");
    assert_eq!(MessageError::ZeroByte.code().as_str(), "XX000");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in any::<Vec<u8>>()) {
        let _ = read_password(&body);
        let _ = read_sasl_initial(&body);
        let _ = read_sasl_response(&body);
    }

    #[test]
    fn a_login_that_is_written_is_read(secret in "[^\0]{1,80}", data in any::<Vec<u8>>()) {
        let bytes = written(|out| password(secret.as_bytes(), out).unwrap());
        prop_assert_eq!(read_password(&bytes[5..]), Ok(secret.as_bytes()));
        let bytes = written(|out| sasl_initial("M", &data, out).unwrap());
        let expected = SaslInitial { mechanism: "M", response: Some(&data[..]) };
        prop_assert_eq!(read_sasl_initial(&bytes[5..]), Ok(expected));
    }
}
