use proptest::prelude::*;

use super::*;

fn written(error: &ErrorResponse) -> Vec<u8> {
    let mut out = BytesMut::new();
    error.write(&mut out);
    out.to_vec()
}

#[test]
fn an_error_always_has_severity_code_and_message() {
    let error = ErrorResponse::new(Severity::Fatal, SqlState::INVALID_PASSWORD, "no");
    assert_eq!(
        written(&error),
        b"E\0\0\0\x1eSFATAL\0VFATAL\0C28P01\0Mno\0\0"
    );
    let empty = ErrorResponse::new(Severity::Error, SqlState::INTERNAL_ERROR, "");
    assert_eq!(written(&empty), b"E\0\0\0\x1cSERROR\0VERROR\0CXX000\0M\0\0");
}

#[test]
fn detail_and_hint_follow_the_message() {
    let error = ErrorResponse::new(Severity::Error, SqlState::TOO_MANY_CONNECTIONS, "full")
        .with_detail("d")
        .with_hint("h");
    assert_eq!(
        written(&error),
        b"E\0\0\0\x26SERROR\0VERROR\0C53300\0Mfull\0Dd\0Hh\0\0"
    );
}

#[test]
fn a_notice_is_the_same_under_another_tag() {
    let notice = ErrorResponse::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, "soon");
    let mut out = BytesMut::from(&b"before"[..]);
    notice.write_notice(&mut out);
    assert_eq!(
        &out[..],
        b"beforeN\0\0\0\x22SNOTICE\0VNOTICE\0C00000\0Msoon\0\0"
    );
}

#[test]
fn a_zero_byte_in_a_text_cannot_end_the_message() {
    let error =
        ErrorResponse::new(Severity::Error, SqlState::INTERNAL_ERROR, "a\0Cx").with_detail("\0");
    let bytes = written(&error);
    assert_eq!(bytes, b"E\0\0\0\x1fSERROR\0VERROR\0CXX000\0Ma\0D\0\0");
}

#[test]
fn a_servers_error_is_read_whatever_the_order() {
    let error = ErrorResponse::parse(
        b"HTry.\0Mterminating\0SFATAL\0VFATAL\0C57P01\0Fpostgres.c\0L3269\0RProcess\0DWhy.\0\0",
    );
    let expected = ErrorResponse::new(Severity::Fatal, SqlState::ADMIN_SHUTDOWN, "terminating")
        .with_detail("Why.")
        .with_hint("Try.");
    assert_eq!(error, expected);
}

#[test]
fn the_severity_is_not_taken_from_a_translation() {
    let severity = |body: &[u8]| ErrorResponse::parse(body).severity;
    assert_eq!(severity(b"SSCHWERWIEGEND\0VFATAL\0\0"), Severity::Fatal);
    assert_eq!(severity(b"SFATAL\0\0"), Severity::Fatal);
    assert_eq!(severity(b"SSCHWERWIEGEND\0\0"), Severity::Error);
    assert_eq!(severity(b"VPANIC\0\0"), Severity::Panic);
    assert_eq!(severity(b"VWARNING\0\0"), Severity::Warning);
    for notice in ["DEBUG", "INFO", "LOG", "NOTICE"] {
        assert_eq!(
            severity(format!("V{notice}\0\0").as_bytes()),
            Severity::Notice
        );
    }
}

#[test]
fn missing_and_broken_fields_get_a_stand_in() {
    let stand_in = ErrorResponse::new(
        Severity::Error,
        SqlState::INTERNAL_ERROR,
        "the server gave no message",
    );
    for body in [
        &b""[..],
        b"\0",
        b"\0\0\0",
        b"C\0",
        b"C123456\0",
        b"C28p01\0\0",
        b"VWHAT\0\0",
        b"\0Mlate\0",
    ] {
        assert_eq!(ErrorResponse::parse(body), stand_in, "{body:?}");
    }
    assert_eq!(ErrorResponse::parse(b"Mcut sho").message, "cut sho");
    assert_eq!(ErrorResponse::parse(b"M\xe9\0\0").message, "\u{fffd}");
}

#[test]
fn a_huge_field_is_cut() {
    let body = [&b"M"[..], &vec![b'x'; 1 << 20], b"\0\0"].concat();
    assert_eq!(ErrorResponse::parse(&body).message.len(), FIELD_MAX_BYTES);
}

#[test]
fn a_code_is_five_upper_case_letters_and_digits() {
    assert_eq!(SqlState::parse(b"28P01"), Some(SqlState::INVALID_PASSWORD));
    assert_eq!(SqlState::parse(b"ZZ9ZZ").unwrap().to_string(), "ZZ9ZZ");
    for wrong in [
        &b""[..],
        b"28P0",
        b"28P011",
        b"28p01",
        b"28P0\0",
        b"\xff8P01",
    ] {
        assert_eq!(SqlState::parse(wrong), None, "{wrong:?}");
    }
}

#[test]
fn an_error_reads_well_in_a_log() {
    let error = ErrorResponse::new(Severity::Fatal, SqlState::ADMIN_SHUTDOWN, "going down");
    assert_eq!(error.to_string(), "FATAL: going down (57P01)");
}

proptest! {
    #[test]
    fn any_bytes_give_an_error_that_can_be_passed_on(body in any::<Vec<u8>>()) {
        let error = ErrorResponse::parse(&body);
        let again = written(&error);
        prop_assert_eq!(ErrorResponse::parse(&again[5..]), error);
    }

    #[test]
    fn what_is_written_is_read(
        message in "[^\0]{0,60}",
        detail in proptest::option::of("[^\0]{0,60}"),
        hint in proptest::option::of("[^\0]{0,60}"),
    ) {
        let error = ErrorResponse {
            severity: Severity::Error,
            code: SqlState::SYNTAX_ERROR,
            message,
            detail,
            hint,
        };
        let bytes = written(&error);
        prop_assert_eq!(u32::from_be_bytes(*bytes[1..].first_chunk().unwrap()) as usize, bytes.len() - 1);
        prop_assert_eq!(ErrorResponse::parse(&bytes[5..]), error);
    }
}
