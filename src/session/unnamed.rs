//! The unnamed statement: a client that prepares it in one transaction finds it in the next, whatever backend it gets,
//! and never another client's.
//!
//! Its text is kept with the client. A backend remembers whose unnamed statement it has; when a client uses its own on
//! a backend that has another's, the text goes ahead as a Parse, or where there is none a Close, so that the server
//! itself says that there is none.

use super::{session_state, statements::split_name};
use crate::{
    net::buffer::{BUFFER_BYTES, Buffer},
    pool::Backend,
    protocol::{
        frame::{HEADER_BYTES, Header, frontend},
        pipeline::{Answer, InvalidMessage},
        prepared::{Owner, Undo},
    },
};

/// A client's unnamed statement.
pub(super) struct Unnamed {
    owner: Owner,
    /// The body of its Parse; empty: the client has none. One memory for all that follow each other.
    parse: Vec<u8>,
}

/// What a message does with the unnamed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Nothing,
    /// Parse: there is a new one.
    Replace,
    /// A simple query or a Close: there is none any more.
    Drop,
    /// Bind or Describe.
    Read,
}

impl Use {
    /// What the message that begins `bytes` does.
    pub(super) fn of(header: Header, bytes: &[u8]) -> Self {
        let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
        match header.tag {
            frontend::PARSE if body.first() == Some(&0) => Self::Replace,
            frontend::QUERY => Self::Drop,
            frontend::CLOSE if body.starts_with(b"S\0") => Self::Drop,
            frontend::DESCRIBE if body.starts_with(b"S\0") => Self::Read,
            frontend::BIND if body.starts_with(&[0, 0]) => Self::Read,
            frontend::BIND if binds_unnamed(body) => Self::Read,
            _ => Self::Nothing,
        }
    }
}

/// Whether a Bind to a named portal is of the unnamed statement.
fn binds_unnamed(body: &[u8]) -> bool {
    split_name(body).is_some_and(|(_, rest)| rest.first() == Some(&0))
}

impl Unnamed {
    pub(super) fn new(owner: Owner) -> Self {
        Self {
            owner,
            parse: Vec::new(),
        }
    }

    /// Takes a Parse, as far as it has come. One that does not fit a buffer is not kept: it ends with its transaction.
    pub(super) fn replace(&mut self, header: Header, bytes: &[u8], backend: &mut Backend) {
        self.parse.clear();
        if header.message_bytes() <= BUFFER_BYTES
            && let Some(body) = bytes.get(HEADER_BYTES..header.message_bytes())
        {
            self.parse.extend_from_slice(body);
        }
        backend.unnamed = Some(self.owner);
    }

    pub(super) fn drop(&mut self, backend: &mut Backend) {
        self.parse.clear();
        backend.unnamed = Some(self.owner);
    }

    /// Whether `backend` has this statement, or knows that the client has none.
    pub(super) fn is_on(&self, backend: &Backend) -> bool {
        backend.unnamed == Some(self.owner)
    }

    /// Brings the statement to `backend`.
    pub(super) fn bring(
        &self,
        backend: &mut Backend,
        out: &mut Buffer,
    ) -> Result<(), InvalidMessage> {
        let (tag, body) = match self.parse.as_slice() {
            [] => (frontend::CLOSE, b"S\0".as_slice()),
            parse => (frontend::PARSE, parse),
        };
        let undo = Some(Undo::Unnamed);
        backend
            .pipeline
            .to_server_with(tag, Answer::Swallow, undo)?;
        session_state::look_at_text(body, true, backend);
        // No longer than a buffer, so it fits.
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
        out.put(&[tag]);
        out.put(&length.to_be_bytes());
        out.put(body);
        backend.unnamed = Some(self.owner);
        Ok(())
    }

    /// The server has skipped the client's own Parse: what it had before is still there, but only there.
    pub(super) fn forget(&mut self) {
        self.parse.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_that_concern_the_unnamed_statement_are_told_from_others() {
        let used = |bytes: &[u8]| Use::of(Header::parse(bytes).unwrap().unwrap(), bytes);
        assert_eq!(used(b"P\0\0\0\x0c\0select 1\0\0\0"), Use::Replace);
        assert_eq!(used(b"P\0\0\0\x0cs\0select 1\0\0\0"), Use::Nothing);
        assert_eq!(used(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0"), Use::Read);
        assert_eq!(used(b"B\0\0\0\x0cp\0\0\0\0\0\0\0\0"), Use::Read);
        assert_eq!(used(b"B\0\0\0\x0cp\0s\0\0\0\0\0\0\0"), Use::Nothing);
        assert_eq!(used(b"D\0\0\0\x06S\0"), Use::Read);
        assert_eq!(used(b"D\0\0\0\x06P\0"), Use::Nothing);
        assert_eq!(used(b"C\0\0\0\x06S\0"), Use::Drop);
        assert_eq!(used(b"Q\0\0\0\x0dselect 1\0"), Use::Drop);
        assert_eq!(used(b"S\0\0\0\x04"), Use::Nothing);
    }
}
