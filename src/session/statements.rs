//! Prepared statements on their way to a backend: the client's names become the pool's, and what the backend does
//! not know yet goes ahead.
//!
//! Nothing is ever answered out of turn. Where the server need not do what the client asks (it knows the statement
//! already, or is to keep it), a Close of a statement that does not exist goes in its place: its answer comes at
//! the right moment, and is skipped with everything else after an error. The server's own errors for duplicate
//! and unknown names stay the server's.

use std::{cell::RefCell, rc::Rc};

use bytes::{BufMut, BytesMut};

use super::{
    error::End,
    listening::Listening,
    session_state,
    sql_names::{self, GIVEN_UP},
    unnamed::Unnamed,
};
use crate::{
    net::buffer::{BUFFER_BYTES, Buffer},
    pool::Backend,
    protocol::{
        frame::{HEADER_BYTES, Header, backend as tag, frontend},
        pipeline::{Answer, TransactionStatus},
        prepared::{
            Meaning, NO_STATEMENT, NameLimits, Names, PREFIX, SqlStatements, Statement, Statements,
            UTF8, Undo,
        },
        residue::Residue,
    },
};

/// A client's prepared statements.
pub(super) struct Prepared {
    pub(super) names: Names,
    /// Those of SQL's own PREPARE.
    pub(super) of_sql: Option<Rc<SqlStatements>>,
    pub(super) limits: NameLimits,
    pub(super) unnamed: Unnamed,
    /// The name that the server's errors about `GIVEN_UP` mean.
    pub(super) given_up: Box<[u8]>,
}

/// What a client has beyond a transaction, wherever it is served, and what it shares with its pool.
pub(super) struct Own<'a> {
    pub(super) prepared: &'a mut Prepared,
    pub(super) statements: &'a RefCell<Statements>,
    pub(super) listening: &'a mut Listening,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It goes on as it is.
    AsIs,
    /// This many bytes of it must be there before that can be said.
    Wait(usize),
    /// Answers that are due decide that.
    Hold,
    /// It has been written, in whatever form; so many of its bytes were taken.
    Written(usize),
}

/// One side of the translation: a client's names and where its messages go.
pub(super) struct Translator<'a, 'b> {
    pub(super) own: &'a mut Own<'b>,
    pub(super) backend: &'a mut Backend,
    pub(super) out: &'a mut Buffer,
}

/// Whether the message that begins `bytes` may name a prepared statement. Nearly all do not: those are never copied
/// one by one.
pub(super) fn may_name_statement(header: Header, bytes: &[u8]) -> bool {
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    match header.tag {
        frontend::PARSE => match body {
            [0, text @ ..] => sql_names::may_name(text),
            _ => true,
        },
        frontend::BIND => !body.starts_with(&[0, 0]),
        frontend::DESCRIBE | frontend::CLOSE => matches!(body.first(), Some(b'S') | None),
        frontend::QUERY => sql_names::may_name(body),
        _ => false,
    }
}

impl Translator<'_, '_> {
    /// Translates the message that begins `bytes`, which may not be whole.
    pub(super) fn translate(&mut self, header: Header, bytes: &[u8]) -> Result<Step, End> {
        if self.may_yet_forget() {
            return Ok(Step::Hold);
        }
        match header.tag {
            frontend::PARSE => self.parse(header, bytes),
            frontend::BIND => self.bind(header, bytes),
            frontend::DESCRIBE => self.describe(header, bytes),
            frontend::CLOSE => self.close(header, bytes),
            frontend::QUERY => self.query(header, bytes),
            _ => Ok(Step::AsIs),
        }
    }

    fn parse(&mut self, header: Header, bytes: &[u8]) -> Result<Step, End> {
        if bytes.get(HEADER_BYTES) == Some(&0) {
            return self.parse_unnamed(header, bytes);
        }
        if header.body_bytes > self.own.prepared.limits.bytes {
            return Err(End::StatementTooLong {
                limit: self.own.prepared.limits.bytes,
            });
        }
        let Some(body) = whole_body(header, bytes) else {
            return Ok(Step::Wait(header.message_bytes()));
        };
        let Some((name, rest)) = split_name(body) else {
            return Ok(Step::AsIs);
        };
        if self.is_of_sql(name) {
            // The server itself reports the duplicate. Should it not, nobody would know of that statement.
            self.backend.residue |= Residue::DIRTY;
            return Ok(Step::AsIs);
        }
        let meaning = meaning(self.backend, rest.is_ascii());
        let statement = self.own.statements.borrow_mut().intern(rest, meaning);
        if self.is_undecided(name, Some(&statement)) {
            return Ok(Step::Hold);
        }
        if let Some(existing) = self.find(name) {
            self.parse_duplicate(&existing, name, rest)?;
            return Ok(Step::Written(header.message_bytes()));
        }
        self.own
            .prepared
            .names
            .insert(name, Rc::clone(&statement), self.own.prepared.limits)?;
        let known = self.backend.known.touch(&statement);
        // In a transaction a Parse does more than a Close: it takes the snapshot, or fails where the transaction has.
        let pipeline = &self.backend.pipeline;
        let is_outside =
            pipeline.status() == TransactionStatus::Idle && pipeline.is_status_certain();
        if known && is_outside && !statement.is_noticed() {
            self.write_close(
                NO_STATEMENT,
                Answer::ParseComplete,
                Some(Undo::Name(name.into())),
            )?;
        } else {
            if known {
                let undo = Some(Undo::Dropped(Rc::clone(&statement)));
                self.write_close(statement.name().as_bytes(), Answer::Swallow, undo)?;
            }
            let undo = Undo::Parse {
                name: Some(name.into()),
                statement: Rc::clone(&statement),
            };
            self.write_parse(statement.name().as_bytes(), rest, Answer::Pass, Some(undo))?;
            self.backend.known.insert(&statement);
        }
        Ok(Step::Written(header.message_bytes()))
    }

    /// Has the server itself report that the client has `existing` under that name.
    fn parse_duplicate(
        &mut self,
        existing: &Rc<Statement>,
        name: &[u8],
        rest: &[u8],
    ) -> Result<(), End> {
        let is_failed = self.backend.pipeline.status() == TransactionStatus::Failed;
        if is_failed && !self.backend.known.touch(existing) {
            // What would have to go ahead fails, unless it may be parsed here. So may the client's own then.
            self.own.prepared.given_up = name.into();
            self.write_close(GIVEN_UP, Answer::Swallow, None)?;
            self.write_parse(GIVEN_UP, rest, Answer::Swallow, None)?;
            return self.write_parse(GIVEN_UP, rest, Answer::Pass, None);
        }
        self.make_known(existing)?;
        self.write_parse(existing.name().as_bytes(), rest, Answer::Pass, None)
    }

    fn bind(&mut self, header: Header, bytes: &[u8]) -> Result<Step, End> {
        let body = &bytes[HEADER_BYTES..header.message_bytes().min(bytes.len())];
        let names = split_name(body).and_then(|(portal, rest)| Some((portal, split_name(rest)?)));
        let Some((portal, (name, rest))) = names else {
            return wait_for_names(header, bytes);
        };
        let statement = self.find(name);
        if self.is_undecided(name, statement.as_deref()) {
            return Ok(Step::Hold);
        }
        let Some(statement) = statement else {
            return Ok(Step::AsIs);
        };
        self.make_known(&statement)?;
        session_state::look_at_statement(&statement, self.backend);
        if self.own.listening.is_subscribed() {
            self.own.listening.read(statement.text());
        }
        let canonical = statement.name().as_bytes();
        let length = header.body_bytes - name.len() + canonical.len();
        self.backend.pipeline.to_server(frontend::BIND)?;
        self.write_header(frontend::BIND, length)?;
        for part in [portal, &[0], canonical, &[0], rest] {
            self.out.put(part);
        }
        Ok(Step::Written(header.message_bytes().min(bytes.len())))
    }

    fn describe(&mut self, header: Header, bytes: &[u8]) -> Result<Step, End> {
        let Some(body) = whole_body(header, bytes) else {
            return wait_for_names(header, bytes);
        };
        let Some(name) = named(body) else {
            return Ok(Step::AsIs);
        };
        let statement = self.find(name);
        if self.is_undecided(name, statement.as_deref()) {
            return Ok(Step::Hold);
        }
        let Some(statement) = statement else {
            return Ok(Step::AsIs);
        };
        self.make_known(&statement)?;
        self.backend.pipeline.to_server(frontend::DESCRIBE)?;
        self.write_named(frontend::DESCRIBE, statement.name().as_bytes())?;
        Ok(Step::Written(header.message_bytes()))
    }

    /// The statement stays with the backend, where others may use it; only the client's name goes.
    fn close(&mut self, header: Header, bytes: &[u8]) -> Result<Step, End> {
        let Some(body) = whole_body(header, bytes) else {
            return wait_for_names(header, bytes);
        };
        let Some(name) = named(body) else {
            return Ok(Step::AsIs);
        };
        if self.is_undecided(name, None) {
            return Ok(Step::Hold);
        }
        let Some(statement) = self.own.prepared.names.remove(name) else {
            if self.is_of_sql(name) {
                self.backend.residue |= Residue::PREPARED;
            }
            return Ok(Step::AsIs);
        };
        let undo = Undo::Close {
            name: name.into(),
            statement,
        };
        self.write_close(NO_STATEMENT, Answer::Pass, Some(undo))?;
        Ok(Step::Written(header.message_bytes()))
    }

    /// The client's statement of that name, as the pool has it now.
    pub(super) fn find(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        let statement = self.own.prepared.names.find(name)?;
        let is_known = self.backend.known.contains(statement);
        let meaning = meaning(self.backend, statement.is_ascii());
        let mut statements = self.own.statements.borrow_mut();
        if let Some(renewed) = statements.renewed(statement, meaning, is_known) {
            *statement = renewed;
        }
        Some(Rc::clone(statement))
    }

    /// Whether a batch before this one, not answered yet, decides what becomes of this message.
    pub(super) fn is_undecided(&self, name: &[u8], statement: Option<&Statement>) -> bool {
        self.backend.pipeline.is_undecided(name, statement)
    }

    /// Whether the server may still be about to take every prepared statement away: what is known of them now is not
    /// what a message finds that is sent now.
    fn may_yet_forget(&self) -> bool {
        self.backend.may_forget && self.backend.pipeline.owes_answers()
    }

    /// Sends a Parse ahead if the backend does not know `statement`; the client does not hear of it.
    fn make_known(&mut self, statement: &Rc<Statement>) -> Result<(), End> {
        if self.backend.known.touch(statement) {
            return Ok(());
        }
        self.backend.known.insert(statement);
        let undo = Undo::Parse {
            name: None,
            statement: Rc::clone(statement),
        };
        let name = statement.name().as_bytes();
        self.write_parse(name, statement.body(), Answer::Swallow, Some(undo))
    }

    /// The same ahead of a message with this tag. An error makes the server skip all up to the next Sync: a simple
    /// query needs one before it.
    pub(super) fn make_known_for(&mut self, statement: &Rc<Statement>, tag: u8) -> Result<(), End> {
        let was_known = self.backend.known.touch(statement);
        self.make_known(statement)?;
        if was_known || tag != frontend::QUERY {
            return Ok(());
        }
        let pipeline = &mut self.backend.pipeline;
        pipeline.to_server_with(frontend::SYNC, Answer::Swallow, None)?;
        self.write_header(frontend::SYNC, 0)
    }

    /// Whether the client has a statement of that name by SQL's own PREPARE, unless it has changed that just now.
    fn is_of_sql(&self, name: &[u8]) -> bool {
        let of_sql = self.own.prepared.of_sql.as_ref();
        of_sql.is_some_and(|known| known.contains(name))
            && !self.backend.residue.contains(Residue::PREPARED)
    }

    pub(super) fn write_parse(
        &mut self,
        name: &[u8],
        rest: &[u8],
        answer: Answer,
        undo: Option<Undo>,
    ) -> Result<(), End> {
        self.backend
            .pipeline
            .to_server_with(frontend::PARSE, answer, undo)?;
        self.write_header(frontend::PARSE, name.len() + 1 + rest.len())?;
        for part in [name, &[0], rest] {
            self.out.put(part);
        }
        Ok(())
    }

    pub(super) fn write_close(
        &mut self,
        name: &[u8],
        answer: Answer,
        undo: Option<Undo>,
    ) -> Result<(), End> {
        self.backend
            .pipeline
            .to_server_with(frontend::CLOSE, answer, undo)?;
        self.write_named(frontend::CLOSE, name)
    }

    fn write_named(&mut self, tag: u8, name: &[u8]) -> Result<(), End> {
        self.write_header(tag, name.len() + 2)?;
        for part in [b"S".as_slice(), name, &[0]] {
            self.out.put(part);
        }
        Ok(())
    }

    pub(super) fn write_header(&mut self, tag: u8, body_bytes: usize) -> Result<(), End> {
        let length = i32::try_from(body_bytes + 4).map_err(|_| End::ClientLength)?;
        self.out.put(&[tag]);
        self.out.put(&length.to_be_bytes());
        Ok(())
    }
}

impl Prepared {
    /// Takes back what the server has skipped.
    pub(super) fn take_back(&mut self, undo: Undo, backend: &mut Backend) {
        match undo {
            Undo::Parse { name, statement } => {
                backend.known.remove(&statement);
                if let Some(name) = name {
                    self.names.remove(&name);
                }
            }
            Undo::Name(name) => {
                self.names.remove(&name);
            }
            Undo::Dropped(statement) => backend.known.insert(&statement),
            Undo::Unnamed => backend.unnamed = None,
            Undo::UnnamedParse { was_own, before } => {
                let before = before.as_deref();
                if backend.pipeline.is_unnamed_replaced(was_own, before) {
                    return;
                }
                self.unnamed.take_back(before);
                if !was_own {
                    backend.unnamed = None;
                }
            }
            Undo::Close { name, statement } => {
                // It fitted before, so it fits now.
                let _ = self.names.insert(&name, statement, self.limits);
            }
        }
    }

    /// The server's error, a whole message, in the client's words if it speaks of a statement by the pool's name.
    /// All that it says beside the name stays as it is. What the server does not know, `backend` does not have, whatever
    /// took it away: a function may.
    pub(super) fn translate_error(&self, body: &[u8], backend: &mut Backend) -> Option<BytesMut> {
        let start = memchr::memmem::find(body, PREFIX.as_bytes())?;
        let (before, rest) = body.split_at(start);
        let length = rest.iter().position(|byte| !is_of_name(*byte))?;
        let (canonical, after) = rest.split_at(length);
        if !before.split(|byte| *byte == 0).any(names_statement) {
            return None;
        }
        let name = match canonical {
            GIVEN_UP => &*self.given_up,
            _ => {
                let canonical = std::str::from_utf8(canonical).ok()?;
                if before.split(|byte| *byte == 0).any(is_unknown) {
                    backend.known.remove_named(canonical);
                }
                let closed = || backend.pipeline.name_until_close(canonical);
                self.names.name_of(canonical).or_else(closed)?
            }
        };
        let length = u32::try_from(4 + before.len() + name.len() + after.len()).ok()?;
        let mut message = BytesMut::new();
        message.put_u8(tag::ERROR_RESPONSE);
        message.put_u32(length);
        for part in [before, name, after] {
            message.put_slice(part);
        }
        Some(message)
    }
}

/// Whether this field of an error is the code of one that names a prepared statement: unknown, known already, or bound
/// to the wrong number of parameters.
fn names_statement(field: &[u8]) -> bool {
    is_unknown(field) || matches!(field, b"C42P05" | b"C08P01")
}

fn is_unknown(field: &[u8]) -> bool {
    field == b"C26000"
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// What a client's text means on `backend`, which has the client's settings. One in ASCII is the same in every encoding.
fn meaning(backend: &mut Backend, is_ascii: bool) -> Meaning<'_> {
    // With ReadyForQuery, and not before, the server has told what has changed.
    backend.may_reread &= !backend.pipeline.is_quiet();
    let parameters = &backend.connection.parameters;
    let reading = parameters.reading().and(backend.settings.reading());
    let reading = backend.words.behind(reading);
    Meaning {
        encoding: if is_ascii {
            UTF8
        } else {
            parameters.get("client_encoding").unwrap_or_default()
        },
        reading: reading.filter(|_| !backend.may_reread),
    }
}

pub(super) fn whole_body(header: Header, bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(HEADER_BYTES..header.message_bytes())
}

/// The statement that the body of a Describe or Close names; `None`: it is about a portal.
fn named(body: &[u8]) -> Option<&[u8]> {
    let (b'S', rest) = body.split_first()? else {
        return None;
    };
    Some(split_name(rest)?.0)
}

/// A zero-terminated name and what follows it.
pub(super) fn split_name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Names come at the start of a message. One that does not fit a buffer is nobody's honest name.
fn wait_for_names(header: Header, bytes: &[u8]) -> Result<Step, End> {
    if bytes.len() >= header.message_bytes() {
        return Ok(Step::AsIs);
    }
    if bytes.len() >= BUFFER_BYTES {
        return Err(End::ClientLength);
    }
    Ok(Step::Wait(bytes.len() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_unnamed_statements_are_not_looked_into() {
        let check =
            |bytes: &[u8]| may_name_statement(Header::parse(bytes).unwrap().unwrap(), bytes);
        assert!(!check(b"P\0\0\0\x0c\0select 1\0\0\0"));
        assert!(!check(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0"));
        assert!(!check(b"D\0\0\0\x06P\0"));
        assert!(!check(b"Q\0\0\0\x0dselect 1\0"));
        assert!(check(b"P\0\0\0\x0cs1\0select 1\0\0\0"));
        assert!(check(b"B\0\0\0\x0c\0s1\0\0\0\0\0"));
        assert!(check(b"D\0\0\0\x08Ss1\0"));
        assert!(check(b"Q\0\0\0\x0ddeallocate s1\0"));
    }
}
