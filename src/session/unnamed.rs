//! The unnamed statement: a client that prepares it in one transaction finds it in the next, whatever backend it gets,
//! and never another client's.
//!
//! Its text is kept with the client. A backend remembers whose unnamed statement it has, and which of them: a client has
//! an old one where it was before. When a client uses its own on a backend that has another, the text goes ahead as a
//! Parse, or where there is none a Close, so that the server itself says that there is none.

use super::{session_state, statements::split_name};
use crate::{
    net::buffer::{BUFFER_BYTES, Buffer},
    pool::Backend,
    protocol::{
        frame::{HEADER_BYTES, Header, frontend},
        pipeline::{Answer, InvalidMessage},
        prepared::{Owner, Undo},
        reading::Change,
        residue::Residue,
    },
};

/// The largest Parse that is kept. One that does not fit a buffer is kept until it has been bound: drivers that prepare it
/// and synchronise bind it next, and an idle client holds no such memory.
pub(super) const KEPT_MAX_BYTES: usize = 1024 * 1024;

/// A client's unnamed statement.
pub(super) struct Unnamed {
    owner: Owner,
    /// The body of its Parse; empty: the client has none. One memory for all that follow each other.
    parse: Vec<u8>,
    /// Whether what its text may leave behind is noted with the backend for the present transaction.
    is_noted: bool,
    /// Only the backend has its text.
    is_unknown: bool,
    bound: Bound,
}

/// Whether a client has bound its unnamed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    No,
    Yes,
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
            is_noted: false,
            is_unknown: false,
            bound: Bound::No,
        }
    }

    /// A transaction begins on `backend`.
    pub(super) fn begin(&mut self, backend: &mut Backend) {
        self.is_noted = false;
        if self.is_on(backend) && self.parse.is_empty() && !self.is_unknown {
            // It was too large to be kept, or there is none.
            backend.unnamed = None;
        }
    }

    /// The client binds it.
    pub(super) fn bind(&mut self) {
        self.bound = Bound::Yes;
    }

    /// A transaction has ended.
    pub(super) fn rest(&mut self) {
        if self.bound == Bound::Yes && self.parse.capacity() > BUFFER_BYTES {
            self.owner = self.owner.next();
            self.parse = Vec::new();
        }
    }

    /// Notes with the backend that has it what its text may leave behind.
    pub(super) fn look(&mut self, backend: &mut Backend) {
        if !self.is_noted {
            self.is_noted = true;
            if self.is_unknown {
                backend.residue |= Residue::all();
                backend.may_forget = true;
                session_state::note_change(Change::all(), &[], backend);
            }
            session_state::look_at_text(self.text(), true, backend);
        }
    }

    fn text(&self) -> &[u8] {
        // The name, which is empty, goes before it.
        let text = self.parse.get(1..).unwrap_or_default();
        text.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Takes a Parse that goes to `backend`, as far as it has come. One that is too large to be kept ends with its
    /// transaction.
    pub(super) fn replace(&mut self, header: Header, bytes: &[u8], backend: &mut Backend) {
        let before = backend
            .pipeline
            .may_skip()
            .then(|| self.parse.as_slice().into());
        backend
            .pipeline
            .unnamed_to_server(self.is_on(backend), before);
        self.drop(backend);
        if header.message_bytes() <= KEPT_MAX_BYTES
            && let Some(body) = bytes.get(HEADER_BYTES..header.message_bytes())
        {
            self.parse.extend_from_slice(body);
        }
    }

    pub(super) fn drop(&mut self, backend: &mut Backend) {
        self.owner = self.owner.next();
        self.parse.clear();
        if self.parse.capacity() > BUFFER_BYTES {
            self.parse = Vec::new();
        }
        self.bound = Bound::No;
        // The relay looks at the text of every Parse.
        self.is_noted = true;
        self.is_unknown = false;
        backend.unnamed = Some(self.owner);
    }

    /// A message has gone to the server in other words, which serve on this backend only.
    pub(super) fn translated(&mut self, used: Use, backend: &mut Backend) {
        if matches!(used, Use::Replace | Use::Drop) {
            self.drop(backend);
        }
    }

    /// Whether `backend` has this statement, or knows that the client has none.
    pub(super) fn is_on(&self, backend: &Backend) -> bool {
        backend.unnamed == Some(self.owner)
    }

    /// Brings the statement to `backend`.
    pub(super) fn bring(
        &mut self,
        backend: &mut Backend,
        out: &mut Buffer,
    ) -> Result<(), InvalidMessage> {
        self.look(backend);
        let (tag, body) = match self.parse.as_slice() {
            [] => (frontend::CLOSE, b"S\0".as_slice()),
            parse => (frontend::PARSE, parse),
        };
        let undo = Some(Undo::Unnamed);
        backend
            .pipeline
            .to_server_with(tag, Answer::Swallow, undo)?;
        // No longer than `KEPT_MAX_BYTES`, so it fits.
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
        out.put(&[tag]);
        out.put(&length.to_be_bytes());
        out.put(body);
        backend.unnamed = Some(self.owner);
        Ok(())
    }

    /// The server has skipped the client's Parse: what was there before, `parse`, is there still. `None`: the Parse has
    /// failed, and nothing is there.
    pub(super) fn take_back(&mut self, parse: Option<&[u8]>) {
        self.parse.clear();
        self.parse.extend_from_slice(parse.unwrap_or_default());
        self.is_unknown = parse.is_some_and(<[u8]>::is_empty);
        self.is_noted = false;
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
