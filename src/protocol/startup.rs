//! What a client sends first: a startup packet, or one of the requests that look like one.
//!
//! ```text
//!  4 bytes        4 bytes           rest
//! ┌────────┬─────────────────────┬──────────────────────────────────────────┐
//! │ length │ 80877103            │ —                          SSLRequest    │
//! │ (of    │ 80877104            │ —                          GSSENCRequest │
//! │ all)   │ 80877102            │ pid, secret (4..=256)      CancelRequest │
//! │        │ major << 16 | minor │ name\0 value\0 … \0        StartupMessage│
//! └────────┴─────────────────────┴──────────────────────────────────────────┘
//! ```
//!
//! The length is checked ([`first_length`]) before anyone makes room for the rest; [`parse_first`] then sees the
//! whole body. Wire facts: PostgreSQL's "Message Formats" and "Message Flow" pages; texts of errors as PostgreSQL
//! words them.

mod cancel_key;

use std::fmt;

use crate::protocol::{
    error::SqlState,
    options::{self, OptionsError, PROTOCOL_OPTION_PREFIX},
};

pub use cancel_key::{CancelKey, SecretKey};

/// The largest first packet, its length word included.
pub const STARTUP_MAX_BYTES: usize = 10_000;

/// The length word itself and the code behind it.
const STARTUP_MIN_BYTES: usize = 8;
const LENGTH_WORD_BYTES: usize = 4;

pub(super) const CANCEL_REQUEST_CODE: u32 = 80_877_102;
const SSL_REQUEST_CODE: u32 = 80_877_103;
const GSS_REQUEST_CODE: u32 = 80_877_104;

/// A version of the frontend/backend protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolVersion {
    pub major: u16,
    pub minor: u16,
}

impl ProtocolVersion {
    /// What every server since PostgreSQL 7.4 speaks.
    pub const V3_0: Self = Self { major: 3, minor: 0 };
    /// PostgreSQL 18: cancel keys of up to 256 bytes. The newest version spoken here.
    pub const V3_2: Self = Self { major: 3, minor: 2 };

    /// The version as it stands in a startup packet.
    #[must_use]
    pub fn code(self) -> u32 {
        u32::from(self.major) << 16 | u32::from(self.minor)
    }

    /// Whether the client takes cancel keys longer than four bytes.
    #[must_use]
    pub fn has_long_cancel_keys(self) -> bool {
        self >= Self::V3_2
    }
}

impl From<u32> for ProtocolVersion {
    fn from(code: u32) -> Self {
        let [a, b, c, d] = code.to_be_bytes();
        Self {
            major: u16::from_be_bytes([a, b]),
            minor: u16::from_be_bytes([c, d]),
        }
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The first packet of a connection, or of what follows a refused or granted encryption request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// SSLRequest.
    Tls,
    /// GSSENCRequest.
    Gss,
    Cancel(CancelKey),
    Startup(Startup),
}

/// A StartupMessage, its parameters sorted by what they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// What the client asked for; see [`Startup::spoken`] for what it gets.
    pub version: ProtocolVersion,
    /// Never empty.
    pub user: String,
    /// Never empty; PostgreSQL takes the user's name where there is none.
    pub database: Option<String>,
    /// The settings in `options`, in order; a later one overrides an earlier one.
    pub options: Vec<(String, String)>,
    /// All other settings, in order. They override those in `options`.
    pub parameters: Vec<(String, String)>,
    pub replication: Replication,
    /// Names of `_pq_.` parameters; none is known yet.
    pub unknown_protocol_options: Vec<String>,
}

/// Whether the client wants to be served by a walsender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replication {
    No,
    Physical,
    /// `replication=database`: a walsender that also runs SQL.
    Logical,
}

/// What the client must be told with NegotiateProtocolVersion before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiation<'a> {
    pub newest: ProtocolVersion,
    pub unknown_options: &'a [String],
}

/// A first packet that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    #[error("invalid length of startup packet")]
    Length,
    #[error("invalid length of cancel request packet")]
    CancelLength,
    #[error("invalid length of cancel key in cancel request packet")]
    CancelKeyLength,
    #[error(
        "unsupported frontend protocol {0}: server supports {oldest} to {newest}",
        oldest = ProtocolVersion::V3_0,
        newest = ProtocolVersion::V3_2
    )]
    Version(ProtocolVersion),
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    #[error("invalid startup packet: parameter names and values must be UTF-8")]
    Encoding,
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    #[error("invalid value for parameter \"replication\": \"{value}\"")]
    Replication { value: String },
    #[error(transparent)]
    Options(#[from] OptionsError),
}

impl StartupError {
    /// The code PostgreSQL answers with.
    #[must_use]
    pub fn code(&self) -> SqlState {
        match self {
            Self::Length
            | Self::CancelLength
            | Self::CancelKeyLength
            | Self::Layout
            | Self::Encoding => SqlState::PROTOCOL_VIOLATION,
            Self::Version(_) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::NoUser => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::Replication { .. } => SqlState::INVALID_PARAMETER_VALUE,
            Self::Options(error) => error.code(),
        }
    }

    /// What the client may do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Replication { .. } => {
                Some(r#"Valid values are: "false", 0, "true", 1, "database"."#)
            }
            Self::Options(_) => Some("Use -c name=value or --name=value in the options parameter."),
            Self::Length
            | Self::CancelLength
            | Self::CancelKeyLength
            | Self::Version(_)
            | Self::Layout
            | Self::Encoding
            | Self::NoUser => None,
        }
    }
}

/// Reads the length word: how many bytes of body follow it.
pub fn first_length(header: [u8; 4]) -> Result<usize, StartupError> {
    usize::try_from(u32::from_be_bytes(header))
        .ok()
        .filter(|length| (STARTUP_MIN_BYTES..=STARTUP_MAX_BYTES).contains(length))
        .and_then(|length| length.checked_sub(LENGTH_WORD_BYTES))
        .ok_or(StartupError::Length)
}

/// Reads the body of a first packet: everything after the length word, and nothing else.
pub fn parse_first(body: &[u8]) -> Result<First, StartupError> {
    let (code, rest) = body.split_first_chunk().ok_or(StartupError::Length)?;
    match u32::from_be_bytes(*code) {
        SSL_REQUEST_CODE if rest.is_empty() => Ok(First::Tls),
        GSS_REQUEST_CODE if rest.is_empty() => Ok(First::Gss),
        SSL_REQUEST_CODE | GSS_REQUEST_CODE => Err(StartupError::Length),
        CANCEL_REQUEST_CODE => CancelKey::parse(rest).map(First::Cancel),
        version => Startup::parse(version.into(), rest).map(First::Startup),
    }
}

impl Startup {
    fn parse(version: ProtocolVersion, body: &[u8]) -> Result<Self, StartupError> {
        if version.major != ProtocolVersion::V3_2.major {
            return Err(StartupError::Version(version));
        }
        let pairs = pairs(body)?;
        Ok(Self {
            version,
            user: last_name(&pairs, "user").ok_or(StartupError::NoUser)?,
            database: last_name(&pairs, "database"),
            options: options::parse(last(&pairs, "options").unwrap_or_default())?,
            parameters: pairs
                .iter()
                .filter(|(name, _)| options::is_setting(name))
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            replication: last(&pairs, "replication")
                .map_or(Ok(Replication::No), Replication::parse)?,
            unknown_protocol_options: pairs
                .iter()
                .filter(|(name, _)| name.starts_with(PROTOCOL_OPTION_PREFIX))
                .map(|&(name, _)| name.to_owned())
                .collect(),
        })
    }

    /// The version that the rest of the connection is in: the newest we speak that is not newer than the client's.
    /// Nobody has ever spoken 3.1; a client that asks for it gets 3.0.
    #[must_use]
    pub fn spoken(&self) -> ProtocolVersion {
        if self.version >= ProtocolVersion::V3_2 {
            ProtocolVersion::V3_2
        } else {
            ProtocolVersion::V3_0
        }
    }

    /// What NegotiateProtocolVersion must say, if the client asked for more than we speak.
    #[must_use]
    pub fn negotiation(&self) -> Option<Negotiation<'_>> {
        let asks_more = self.version > self.spoken() || !self.unknown_protocol_options.is_empty();
        asks_more.then(|| Negotiation {
            newest: self.spoken(),
            unknown_options: &self.unknown_protocol_options,
        })
    }
}

impl Replication {
    /// The value of the startup parameter.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "false",
            Self::Physical => "true",
            Self::Logical => "database",
        }
    }

    fn parse(value: &str) -> Result<Self, StartupError> {
        if value == "database" {
            return Ok(Self::Logical);
        }
        match options::boolean(value) {
            Some(true) => Ok(Self::Physical),
            Some(false) => Ok(Self::No),
            None => Err(StartupError::Replication {
                value: value.to_owned(),
            }),
        }
    }
}

/// Reads `name\0value\0 … \0` to its very end.
fn pairs(mut rest: &[u8]) -> Result<Vec<(&str, &str)>, StartupError> {
    let mut pairs = Vec::new();
    loop {
        let (name, after_name) = terminated(rest)?;
        if name.is_empty() {
            return if after_name.is_empty() {
                Ok(pairs)
            } else {
                Err(StartupError::Layout)
            };
        }
        let (value, after_value) = terminated(after_name)?;
        pairs.push((name, value));
        rest = after_value;
    }
}

/// Splits off the text before the next zero byte.
fn terminated(bytes: &[u8]) -> Result<(&str, &[u8]), StartupError> {
    let end = memchr::memchr(0, bytes).ok_or(StartupError::Layout)?;
    let (text, rest) = bytes.split_at_checked(end).ok_or(StartupError::Layout)?;
    let text = std::str::from_utf8(text).map_err(|_| StartupError::Encoding)?;
    Ok((text, rest.get(1..).unwrap_or_default()))
}

/// The value that holds where a name comes twice.
fn last<'a>(pairs: &[(&'a str, &'a str)], name: &str) -> Option<&'a str> {
    let (_, value) = pairs.iter().rfind(|(found, _)| *found == name)?;
    Some(*value)
}

/// A name that is given; an empty one is as good as none.
fn last_name(pairs: &[(&str, &str)], name: &str) -> Option<String> {
    last(pairs, name)
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests;
