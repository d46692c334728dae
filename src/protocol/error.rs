//! ErrorResponse and NoticeResponse, and the codes in them.
//!
//! Both have one body: fields of a type byte and a zero-terminated text, ended by a zero byte. What Sluice writes
//! always has S, V, C and M, because clients have crashed on less; what it reads comes from a server it need not
//! trust, so anything may be missing, too long or no text at all.
//! (PostgreSQL's "Error and Notice Message Fields" page.)

use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::protocol::message;

/// The most that is kept of one field of a server's error.
const FIELD_MAX_BYTES: usize = 8 * 1024;

/// An error or notice, as told to a client or heard from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorResponse {
    pub severity: Severity,
    pub code: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl ErrorResponse {
    #[must_use]
    pub fn new(severity: Severity, code: SqlState, message: impl Into<String>) -> Self {
        Self {
            severity,
            code,
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Appends an ErrorResponse.
    pub fn write(&self, out: &mut BytesMut) {
        self.write_tagged(b'E', out);
    }

    /// Appends a NoticeResponse.
    pub fn write_notice(&self, out: &mut BytesMut) {
        self.write_tagged(b'N', out);
    }

    fn write_tagged(&self, tag: u8, out: &mut BytesMut) {
        message::tagged(tag, out, |out| {
            write_field(b'S', self.severity.as_str(), out);
            write_field(b'V', self.severity.as_str(), out);
            write_field(b'C', self.code.as_str(), out);
            write_field(b'M', &self.message, out);
            if let Some(detail) = &self.detail {
                write_field(b'D', detail, out);
            }
            if let Some(hint) = &self.hint {
                write_field(b'H', hint, out);
            }
            out.put_u8(0);
        });
    }

    /// Reads the body of a server's ErrorResponse or NoticeResponse, and makes the best of a broken one.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        let field = |wanted: u8| fields(body).find(|(kind, _)| *kind == wanted);
        let text = |wanted: u8| field(wanted).map(|(_, value)| clipped(value));
        let severity = |wanted: u8| field(wanted).and_then(|(_, value)| Severity::parse(value));
        Self {
            // S may be in the server's language; V never is, but came only with PostgreSQL 9.6.
            severity: severity(b'V')
                .or_else(|| severity(b'S'))
                .unwrap_or(Severity::Error),
            code: field(b'C')
                .and_then(|(_, value)| SqlState::parse(value))
                .unwrap_or(SqlState::INTERNAL_ERROR),
            message: text(b'M').unwrap_or_else(|| "the server gave no message".to_owned()),
            detail: text(b'D'),
            hint: text(b'H'),
        }
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} ({})",
            self.severity.as_str(),
            self.message,
            self.code
        )
    }
}

fn write_field(kind: u8, text: &str, out: &mut BytesMut) {
    out.put_u8(kind);
    message::terminated(text.as_bytes(), out);
}

/// The fields of a body up to its end or the first sign that it is broken.
fn fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    body.split(|byte| *byte == 0)
        .map_while(<[u8]>::split_first)
        .map(|(kind, text)| (*kind, text))
}

/// The text of a field: no longer than is useful, and UTF-8 whatever the server's encoding.
fn clipped(field: &[u8]) -> String {
    let kept = field.get(..FIELD_MAX_BYTES).unwrap_or(field);
    String::from_utf8_lossy(kept).into_owned()
}

/// How bad it is, for the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    Error,
    /// The connection ends.
    Fatal,
    /// All connections of the server end.
    Panic,
    Warning,
    Notice,
}

impl Severity {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"ERROR" => Some(Self::Error),
            b"FATAL" => Some(Self::Fatal),
            b"PANIC" => Some(Self::Panic),
            b"WARNING" => Some(Self::Warning),
            // To a client these differ in how many of them it asked to see, nothing else.
            b"NOTICE" | b"DEBUG" | b"INFO" | b"LOG" => Some(Self::Notice),
            _ => None,
        }
    }
}

/// A five-character code that tells programs what happened (PostgreSQL's "Error Codes" page).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    pub const SUCCESSFUL_COMPLETION: Self = Self(*b"00000");
    pub const WARNING: Self = Self(*b"01000");
    pub const CONNECTION_EXCEPTION: Self = Self(*b"08000");
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    pub const TRANSACTION_RESOLUTION_UNKNOWN: Self = Self(*b"08007");
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    pub const IN_FAILED_SQL_TRANSACTION: Self = Self(*b"25P02");
    pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: Self = Self(*b"25P03");
    pub const TRANSACTION_TIMEOUT: Self = Self(*b"25P04");
    pub const INVALID_SQL_STATEMENT_NAME: Self = Self(*b"26000");
    pub const INVALID_AUTHORIZATION_SPECIFICATION: Self = Self(*b"28000");
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    pub const INVALID_CATALOG_NAME: Self = Self(*b"3D000");
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    pub const SYNTAX_ERROR: Self = Self(*b"42601");
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    pub const DUPLICATE_PREPARED_STATEMENT: Self = Self(*b"42P05");
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    pub const CRASH_SHUTDOWN: Self = Self(*b"57P02");
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    pub const DATABASE_DROPPED: Self = Self(*b"57P04");
    pub const IDLE_SESSION_TIMEOUT: Self = Self(*b"57P05");
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");

    /// Takes `code` if it is five upper-case letters and digits.
    #[must_use]
    pub fn parse(code: &[u8]) -> Option<Self> {
        <[u8; 5]>::try_from(code)
            .ok()
            .filter(|code| {
                code.iter()
                    .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
            })
            .map(Self)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        // The constants and `parse` admit ASCII only, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlState({self})")
    }
}

#[cfg(test)]
mod tests;
