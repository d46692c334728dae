//! Message boundaries: one tag byte and a length word that counts itself but not the tag.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-overview.html#PROTOCOL-MESSAGE-CONCEPTS>

/// Bytes of a tag and a length word.
pub const HEADER_BYTES: usize = 5;

/// The head of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Bytes of the body.
    pub body_bytes: usize,
}

/// A length word that counts less than itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid message length")]
pub struct InvalidLength;

impl Header {
    /// Bytes of the whole message.
    #[must_use]
    pub fn message_bytes(self) -> usize {
        HEADER_BYTES + self.body_bytes
    }

    /// The header at the start of `bytes`; `None`: it is not whole yet.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, InvalidLength> {
        let [tag, a, b, c, d, ..] = *bytes else {
            return Ok(None);
        };
        let length = i32::from_be_bytes([a, b, c, d]);
        let body_bytes = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_sub(4))
            .ok_or(InvalidLength)?;
        Ok(Some(Self { tag, body_bytes }))
    }
}

/// Tags of messages that a client sends.
pub mod frontend {
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// Tags of messages that a server sends.
pub mod backend {
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_when_its_five_bytes_are_there() {
        let bytes = b"Q\0\0\0\x09abc\0\0";
        for end in 0..HEADER_BYTES {
            assert_eq!(Header::parse(&bytes[..end]), Ok(None));
        }
        let header = Header::parse(bytes).unwrap().unwrap();
        assert_eq!(
            header,
            Header {
                tag: b'Q',
                body_bytes: 5
            }
        );
        assert_eq!(header.message_bytes(), bytes.len());
    }

    #[test]
    fn a_length_below_four_is_refused() {
        for length in [0, 1, 3, -1, i32::MIN] {
            let mut bytes = vec![b'Q'];
            bytes.extend_from_slice(&i32::to_be_bytes(length));
            assert_eq!(Header::parse(&bytes), Err(InvalidLength));
        }
    }
}
