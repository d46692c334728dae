//! Prepared statements on their way to a backend: the client's names become the pool's, and what the backend does
//! not know yet goes ahead.
//!
//! Nothing is ever answered out of turn. Where the server need not do what the client asks (it knows the statement
//! already, or is to keep it), a Close of a statement that does not exist goes in its place: its answer comes at
//! the right moment, and is skipped with everything else after an error. The server's own errors for duplicate
//! and unknown names stay the server's.

use std::{cell::RefCell, rc::Rc};

use super::{error::End, session_state};
use crate::{
    net::buffer::{BUFFER_BYTES, Buffer},
    pool::Backend,
    protocol::{
        error::ErrorResponse,
        frame::{HEADER_BYTES, Header, frontend},
        pipeline::{Answer, TransactionStatus},
        prepared::{NO_STATEMENT, NameLimits, Names, PREFIX, Statement, Statements, Undo},
    },
};

/// A client's prepared statements.
pub(super) struct Prepared {
    pub(super) names: Names,
    pub(super) limits: NameLimits,
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
pub(super) struct Translator<'a> {
    pub(super) prepared: &'a mut Prepared,
    pub(super) statements: &'a RefCell<Statements>,
    pub(super) backend: &'a mut Backend,
    pub(super) unnamed: &'a mut Unnamed,
    pub(super) out: &'a mut Buffer,
}

/// The unnamed statement of the backend, as its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// The client has not prepared it here: what is there, if anything, is another client's.
    Foreign,
    /// The client has prepared it and not used it yet, so it must get this backend again.
    Waits,
    /// It has been used, which is all that drivers want of it.
    Used,
}

impl Unnamed {
    /// Notes a message that is sent on as it is.
    pub(super) fn look_at(&mut self, tag: u8, body: &[u8]) {
        match (tag, body) {
            (frontend::PARSE, [0, ..]) => *self = Self::Waits,
            // The server drops it with a simple query.
            (frontend::BIND | frontend::QUERY, _) => *self = Self::Used,
            _ => {}
        }
    }

    /// Notes an error: what failed to be prepared need not be kept.
    pub(super) fn look_at_error(&mut self) {
        if *self == Self::Waits {
            *self = Self::Foreign;
        }
    }
}

/// Whether the message that begins `bytes` may name a prepared statement, or one that is not the client's. Nearly all
/// do not: those are never copied one by one.
pub(super) fn may_name_statement(header: Header, bytes: &[u8], unnamed: Unnamed) -> bool {
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    match header.tag {
        frontend::PARSE => body.first() != Some(&0),
        frontend::BIND => unnamed == Unnamed::Foreign || !body.starts_with(&[0, 0]),
        frontend::DESCRIBE | frontend::CLOSE => matches!(body.first(), Some(b'S') | None),
        frontend::QUERY => matches!(body.first(), Some(b'd' | b'D') | None),
        _ => false,
    }
}

impl Translator<'_> {
    /// Translates the message that begins `bytes`, which may not be whole.
    pub(super) fn translate(&mut self, header: Header, bytes: &[u8]) -> Result<Step, End> {
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
        if header.body_bytes > self.prepared.limits.bytes {
            return Err(End::StatementTooLong {
                limit: self.prepared.limits.bytes,
            });
        }
        let Some(body) = whole_body(header, bytes) else {
            return Ok(Step::Wait(header.message_bytes()));
        };
        let Some((name, rest)) = split_name(body) else {
            return Ok(Step::AsIs);
        };
        if name.is_empty() {
            return Ok(Step::AsIs);
        }
        let statement = self.statements.borrow_mut().intern(rest);
        if self.is_undecided(name, Some(&statement)) {
            return Ok(Step::Hold);
        }
        if let Some(existing) = self.prepared.names.find(name).cloned() {
            // The server itself reports the duplicate.
            self.make_known(&existing)?;
            self.write_parse(&existing, rest, Answer::Pass, None)?;
            return Ok(Step::Written(header.message_bytes()));
        }
        self.prepared
            .names
            .insert(name, Rc::clone(&statement), self.prepared.limits)?;
        let known = self.backend.known.touch(&statement);
        if known && self.backend.pipeline.status() != TransactionStatus::Failed {
            self.write_close(
                NO_STATEMENT,
                Answer::ParseComplete,
                Some(Undo::Name(name.into())),
            )?;
        } else {
            if known {
                self.write_close(statement.name().as_bytes(), Answer::Swallow, None)?;
            }
            let undo = Undo::Parse {
                name: Some(name.into()),
                statement: Rc::clone(&statement),
            };
            self.write_parse(&statement, rest, Answer::Pass, Some(undo))?;
            self.backend.known.insert(&statement);
        }
        Ok(Step::Written(header.message_bytes()))
    }

    fn bind(&mut self, header: Header, bytes: &[u8]) -> Result<Step, End> {
        let body = &bytes[HEADER_BYTES..header.message_bytes().min(bytes.len())];
        let names = split_name(body).and_then(|(portal, rest)| Some((portal, split_name(rest)?)));
        let Some((portal, (name, rest))) = names else {
            return wait_for_names(header, bytes);
        };
        let statement = self.prepared.names.find(name).cloned();
        if self.is_undecided(name, statement.as_deref()) {
            return Ok(Step::Hold);
        }
        let canonical = if let Some(statement) = &statement {
            self.make_known(statement)?;
            session_state::look_at_effect(statement.effect(), &mut self.backend.residue);
            statement.name().as_bytes()
        } else if self.is_foreign(name) {
            NO_STATEMENT
        } else {
            return Ok(Step::AsIs);
        };
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
        let Some(name) = statement_name(body) else {
            return Ok(Step::AsIs);
        };
        let statement = self.prepared.names.find(name).cloned();
        if self.is_undecided(name, statement.as_deref()) {
            return Ok(Step::Hold);
        }
        let canonical = if let Some(statement) = &statement {
            self.make_known(statement)?;
            statement.name().as_bytes()
        } else if self.is_foreign(name) {
            NO_STATEMENT
        } else {
            return Ok(Step::AsIs);
        };
        self.backend.pipeline.to_server(frontend::DESCRIBE)?;
        self.write_named(frontend::DESCRIBE, canonical)?;
        Ok(Step::Written(header.message_bytes()))
    }

    /// The statement stays with the backend, where others may use it; only the client's name goes.
    fn close(&mut self, header: Header, bytes: &[u8]) -> Result<Step, End> {
        let Some(body) = whole_body(header, bytes) else {
            return wait_for_names(header, bytes);
        };
        let Some(name) = statement_name(body) else {
            return Ok(Step::AsIs);
        };
        if self.is_undecided(name, None) {
            return Ok(Step::Hold);
        }
        let Some(statement) = self.prepared.names.remove(name) else {
            return Ok(Step::AsIs);
        };
        let undo = Some(Undo::Close {
            name: name.into(),
            statement,
        });
        self.write_close(NO_STATEMENT, Answer::Pass, undo)?;
        Ok(Step::Written(header.message_bytes()))
    }

    /// `DEALLOCATE name` means the client's name, which the server does not know.
    fn query(&mut self, header: Header, bytes: &[u8]) -> Result<Step, End> {
        let text = &bytes[HEADER_BYTES..header.message_bytes().min(bytes.len())];
        if !could_deallocate(text) {
            return Ok(Step::AsIs);
        }
        let Some(body) = whole_body(header, bytes) else {
            return if bytes.len() < BUFFER_BYTES {
                Ok(Step::Wait(header.message_bytes()))
            } else {
                Ok(Step::AsIs)
            };
        };
        let Some(name) = deallocated_name(body) else {
            return Ok(Step::AsIs);
        };
        if self.backend.pipeline.status() == TransactionStatus::Failed {
            return Ok(Step::AsIs);
        }
        if self.is_undecided(name.as_bytes(), None) {
            return Ok(Step::Hold);
        }
        let Some(statement) = self.prepared.names.remove(name.as_bytes()) else {
            return Ok(Step::AsIs);
        };
        self.make_known(&statement)?;
        self.backend.known.remove(&statement);
        let sql = format!("DEALLOCATE {}\0", statement.name());
        self.backend.pipeline.to_server(frontend::QUERY)?;
        self.write_header(frontend::QUERY, sql.len())?;
        self.out.put(sql.as_bytes());
        Ok(Step::Written(header.message_bytes()))
    }

    /// Whether a batch before this one, not answered yet, decides what becomes of this message.
    fn is_undecided(&self, name: &[u8], statement: Option<&Statement>) -> bool {
        self.backend.pipeline.is_undecided(name, statement)
    }

    /// Whether `name` is that of the unnamed statement, and that is another client's: ours has none.
    fn is_foreign(&self, name: &[u8]) -> bool {
        name.is_empty() && *self.unnamed == Unnamed::Foreign
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
        self.write_parse(statement, statement.body(), Answer::Swallow, Some(undo))
    }

    fn write_parse(
        &mut self,
        statement: &Statement,
        rest: &[u8],
        answer: Answer,
        undo: Option<Undo>,
    ) -> Result<(), End> {
        let name = statement.name().as_bytes();
        self.backend
            .pipeline
            .to_server_with(frontend::PARSE, answer, undo)?;
        self.write_header(frontend::PARSE, name.len() + 1 + rest.len())?;
        for part in [name, &[0], rest] {
            self.out.put(part);
        }
        Ok(())
    }

    fn write_close(&mut self, name: &[u8], answer: Answer, undo: Option<Undo>) -> Result<(), End> {
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

    fn write_header(&mut self, tag: u8, body_bytes: usize) -> Result<(), End> {
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
            Undo::Close { name, statement } => {
                // It fitted before, so it fits now.
                let _ = self.names.insert(&name, statement, self.limits);
            }
        }
    }

    /// The server's error in the client's words, if it speaks of a statement by the pool's name.
    pub(super) fn translate_error(&self, body: &[u8]) -> Option<ErrorResponse> {
        memchr::memmem::find(body, PREFIX.as_bytes())?;
        let mut error = ErrorResponse::parse(body);
        let start = error.message.find(PREFIX)?;
        let rest = &error.message[start..];
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        if &rest.as_bytes()[..end] == NO_STATEMENT {
            error.message = "unnamed prepared statement does not exist".to_owned();
            return Some(error);
        }
        let name = String::from_utf8_lossy(self.names.name_of(&rest[..end])?).into_owned();
        error.message.replace_range(start..start + end, &name);
        Some(error)
    }
}

fn whole_body(header: Header, bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(HEADER_BYTES..header.message_bytes())
}

/// The statement that the body of a Describe or Close names, if it is not a portal.
fn statement_name(body: &[u8]) -> Option<&[u8]> {
    let (name, _) = split_name(body.strip_prefix(b"S")?)?;
    Some(name)
}

/// A zero-terminated name and what follows it.
fn split_name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
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

const DEALLOCATE: &[u8] = b"deallocate";

/// Whether `text`, as far as it has come, may begin with DEALLOCATE.
fn could_deallocate(text: &[u8]) -> bool {
    let length = text.len().min(DEALLOCATE.len());
    text[..length].eq_ignore_ascii_case(&DEALLOCATE[..length])
}

/// The one name in `DEALLOCATE [PREPARE] name`; `None`: it is something else.
fn deallocated_name(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body.strip_suffix(&[0])?).ok()?;
    let mut rest = text.get(DEALLOCATE.len()..)?;
    rest = rest.strip_prefix(char::is_whitespace)?.trim();
    rest = rest.strip_suffix(';').unwrap_or(rest).trim();
    if let Some((first, after)) = rest.split_once(char::is_whitespace)
        && first.eq_ignore_ascii_case("prepare")
    {
        rest = after.trim();
    }
    if let Some(quoted) = rest.strip_prefix('"') {
        let name = quoted.strip_suffix('"')?;
        return (!name.replace("\"\"", "").contains('"')).then(|| name.replace("\"\"", "\""));
    }
    let is_name = rest
        .chars()
        .all(|c| c.is_alphanumeric() || c == '_' || c == '$')
        && !rest.is_empty();
    (is_name && !rest.eq_ignore_ascii_case("all")).then(|| rest.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_deallocate_is_read_as_the_server_reads_it() {
        let name = |text: &str| deallocated_name(format!("{text}\0").as_bytes());
        assert_eq!(name("DEALLOCATE s1").as_deref(), Some("s1"));
        assert_eq!(
            name("deallocate prepare \"_pg3_0\" ; ").as_deref(),
            Some("_pg3_0")
        );
        assert_eq!(name("DEALLOCATE \"A\"\"b\"").as_deref(), Some("A\"b"));
        assert_eq!(name("DEALLOCATE S1").as_deref(), Some("s1"));
        for other in [
            "DEALLOCATE ALL",
            "DEALLOCATE",
            "DEALLOCATE a; SELECT 1",
            "DEALLOCATED x",
            "DEALLOCATE \"a\"b\"",
        ] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn messages_of_unnamed_statements_are_not_looked_into() {
        let check = |bytes: &[u8]| {
            let header = Header::parse(bytes).unwrap().unwrap();
            may_name_statement(header, bytes, Unnamed::Used)
        };
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
