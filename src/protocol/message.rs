//! The messages that Sluice itself speaks: those of a login, on both sides, and the few behind it.
//!
//! Everything else is relayed as it is. Three groups: what a client is told, what a client says in its login, and
//! what a backend is told. Writers append to a buffer, its last argument, and allocate nothing of their own.
//! Those that speak to a backend refuse a text with a zero byte in it, which would end the field early, and then
//! leave the buffer as it was. (PostgreSQL's "Message Formats" page.)

use bytes::{BufMut, BytesMut};
pub use postgres_protocol::message::frontend::{ssl_request, terminate};

use crate::protocol::{
    error::SqlState,
    startup::{CANCEL_REQUEST_CODE, Negotiation, ProtocolVersion},
};

/// The longest body of a PasswordMessage, as PostgreSQL limits it.
pub const PASSWORD_MAX_BYTES: usize = 65_535;

/// The longest body of a SASL message, as PostgreSQL limits it.
pub const SASL_MAX_BYTES: usize = 1_024;

/// The most text one message to a backend may carry: PostgreSQL takes no message of 1 GiB.
const TEXT_MAX_BYTES: usize = 0x3fff_0000;

/// A message that cannot be read or must not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("invalid message length")]
    Length,
    #[error("invalid message format")]
    Format,
    #[error("invalid password packet size")]
    PasswordSize,
    #[error("empty password returned by client")]
    EmptyPassword,
    #[error("a text for the server contains a zero byte")]
    ZeroByte,
    #[error("a text for the server is too long")]
    TextLength,
    #[error("a startup parameter for the server has no name")]
    NoName,
}

impl MessageError {
    /// The code PostgreSQL answers with.
    #[must_use]
    pub fn code(self) -> SqlState {
        match self {
            Self::Length | Self::Format | Self::PasswordSize => SqlState::PROTOCOL_VIOLATION,
            Self::EmptyPassword => SqlState::INVALID_PASSWORD,
            Self::ZeroByte | Self::TextLength | Self::NoName => SqlState::INTERNAL_ERROR,
        }
    }
}

// What a client is told.

/// AuthenticationOk.
pub fn authentication_ok(out: &mut BytesMut) {
    authentication(0, out, |_| ());
}

/// AuthenticationCleartextPassword.
pub fn cleartext_password(out: &mut BytesMut) {
    authentication(3, out, |_| ());
}

/// AuthenticationSASL, the mechanisms in order of preference.
pub fn sasl(mechanisms: &[&str], out: &mut BytesMut) {
    authentication(10, out, |out| {
        for mechanism in mechanisms {
            terminated(mechanism.as_bytes(), out);
        }
        out.put_u8(0);
    });
}

/// AuthenticationSASLContinue.
pub fn sasl_continue(data: &[u8], out: &mut BytesMut) {
    authentication(11, out, |out| out.put_slice(data));
}

/// AuthenticationSASLFinal.
pub fn sasl_final(data: &[u8], out: &mut BytesMut) {
    authentication(12, out, |out| out.put_slice(data));
}

/// ParameterStatus.
pub fn parameter_status(name: &str, value: &str, out: &mut BytesMut) {
    tagged(b'S', out, |out| {
        terminated(name.as_bytes(), out);
        terminated(value.as_bytes(), out);
    });
}

/// BackendKeyData. Only a client of protocol 3.2 takes a secret longer than four bytes.
pub fn backend_key_data(pid: u32, secret: &[u8], out: &mut BytesMut) {
    tagged(b'K', out, |out| {
        out.put_u32(pid);
        out.put_slice(secret);
    });
}

/// ReadyForQuery: `I` idle, `T` in a transaction, `E` in a failed one.
pub fn ready_for_query(status: u8, out: &mut BytesMut) {
    tagged(b'Z', out, |out| out.put_u8(status));
}

/// NegotiateProtocolVersion. The documentation speaks of the newest minor version, yet PostgreSQL sends, and libpq
/// expects, the whole version.
pub fn negotiate_protocol_version(negotiation: Negotiation<'_>, out: &mut BytesMut) {
    let options = negotiation.unknown_options;
    tagged(b'v', out, |out| {
        out.put_u32(negotiation.newest.code());
        out.put_u32(u32::try_from(options.len()).unwrap_or(u32::MAX));
        for option in options {
            terminated(option.as_bytes(), out);
        }
    });
}

fn authentication(kind: u32, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    tagged(b'R', out, |out| {
        out.put_u32(kind);
        body(out);
    });
}

// What a client says in its login. All of these have the tag `p`; which one it is depends on what was asked.

/// A SASLInitialResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitial<'a> {
    pub mechanism: &'a str,
    /// `None`: the client leaves the first word to the server.
    pub response: Option<&'a [u8]>,
}

/// Reads a PasswordMessage: the password, without the zero byte that ends it.
pub fn read_password(body: &[u8]) -> Result<&[u8], MessageError> {
    if body.len() > PASSWORD_MAX_BYTES {
        return Err(MessageError::Length);
    }
    match body.split_last() {
        Some((0, [])) => Err(MessageError::EmptyPassword),
        Some((0, password)) if !password.contains(&0) => Ok(password),
        Some(_) | None => Err(MessageError::PasswordSize),
    }
}

/// Reads a SASLInitialResponse.
pub fn read_sasl_initial(body: &[u8]) -> Result<SaslInitial<'_>, MessageError> {
    let body = read_sasl_response(body)?;
    split_sasl_initial(body).ok_or(MessageError::Format)
}

/// Reads a SASLResponse.
pub fn read_sasl_response(body: &[u8]) -> Result<&[u8], MessageError> {
    if body.len() > SASL_MAX_BYTES {
        return Err(MessageError::Length);
    }
    Ok(body)
}

fn split_sasl_initial(body: &[u8]) -> Option<SaslInitial<'_>> {
    let (mechanism, rest) = body.split_at_checked(memchr::memchr(0, body)?)?;
    let (length, response) = rest.get(1..)?.split_first_chunk()?;
    let response = match i32::from_be_bytes(*length) {
        -1 if response.is_empty() => None,
        length if usize::try_from(length) == Ok(response.len()) => Some(response),
        _ => return None,
    };
    let mechanism = std::str::from_utf8(mechanism).ok()?;
    Some(SaslInitial {
        mechanism,
        response,
    })
}

// What a backend is told.

/// StartupMessage with `parameters` in their order.
pub fn startup<'a, I>(
    version: ProtocolVersion,
    parameters: I,
    out: &mut BytesMut,
) -> Result<(), MessageError>
where
    I: IntoIterator<Item = (&'a str, &'a str)>,
{
    let start = out.len();
    let mut result = Ok(());
    counted(out, |out| {
        out.put_u32(version.code());
        result = parameters
            .into_iter()
            .try_for_each(|(name, value)| startup_parameter(name, value, out));
        out.put_u8(0);
    });
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn startup_parameter(name: &str, value: &str, out: &mut BytesMut) -> Result<(), MessageError> {
    // An empty name ends the list.
    if name.is_empty() {
        return Err(MessageError::NoName);
    }
    sendable(name.as_bytes())?;
    sendable(value.as_bytes())?;
    terminated(name.as_bytes(), out);
    terminated(value.as_bytes(), out);
    Ok(())
}

/// PasswordMessage.
pub fn password(password: &[u8], out: &mut BytesMut) -> Result<(), MessageError> {
    sendable(password)?;
    tagged(b'p', out, |out| terminated(password, out));
    Ok(())
}

/// SASLInitialResponse.
pub fn sasl_initial(
    mechanism: &str,
    response: &[u8],
    out: &mut BytesMut,
) -> Result<(), MessageError> {
    sendable(mechanism.as_bytes())?;
    let length = u32::try_from(response.len()).map_err(|_| MessageError::TextLength)?;
    tagged(b'p', out, |out| {
        terminated(mechanism.as_bytes(), out);
        out.put_u32(length);
        out.put_slice(response);
    });
    Ok(())
}

/// SASLResponse.
pub fn sasl_response(response: &[u8], out: &mut BytesMut) {
    tagged(b'p', out, |out| out.put_slice(response));
}

/// Query: the text runs as one simple query.
pub fn query(text: &str, out: &mut BytesMut) -> Result<(), MessageError> {
    sendable(text.as_bytes())?;
    tagged(b'Q', out, |out| terminated(text.as_bytes(), out));
    Ok(())
}

/// CancelRequest, the only thing ever sent on its connection.
pub fn cancel_request(pid: u32, secret: &[u8], out: &mut BytesMut) {
    counted(out, |out| {
        out.put_u32(CANCEL_REQUEST_CODE);
        out.put_u32(pid);
        out.put_slice(secret);
    });
}

fn sendable(text: &[u8]) -> Result<(), MessageError> {
    if text.len() > TEXT_MAX_BYTES {
        return Err(MessageError::TextLength);
    }
    if memchr::memchr(0, text).is_some() {
        return Err(MessageError::ZeroByte);
    }
    Ok(())
}

// How a message is put together.

/// Appends a message: its tag, its length and what `body` writes.
pub(super) fn tagged(tag: u8, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    counted(out, body);
}

/// Appends what `body` writes behind a word with its length, that word included.
fn counted(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    body(out);
    // All that is written here has a limit far below 4 GiB where it comes from.
    let length = u32::try_from(out.len().saturating_sub(start)).unwrap_or(u32::MAX);
    if let Some(word) = out.get_mut(start..).and_then(<[u8]>::first_chunk_mut) {
        *word = length.to_be_bytes();
    }
}

/// Appends `text`, up to a zero byte in it if there is one, and the zero byte that ends it.
pub(super) fn terminated(text: &[u8], out: &mut BytesMut) {
    out.put_slice(text.split(|byte| *byte == 0).next().unwrap_or_default());
    out.put_u8(0);
}

#[cfg(test)]
mod tests;
