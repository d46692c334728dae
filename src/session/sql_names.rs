//! SQL that names a prepared statement: EXECUTE, DEALLOCATE and PREPARE share their names with the protocol's Parse,
//! and the server knows the client's statements of the protocol by other names.
//!
//! Statements of SQL's own PREPARE are known to the server by the client's names, and need no translation.

use super::{
    error::End,
    session_state,
    statements::{Step, Translator, split_name, whole_body},
};
use crate::{
    net::buffer::BUFFER_BYTES,
    protocol::{
        frame::{HEADER_BYTES, Header, frontend},
        pipeline::{Answer, Awaited, TransactionStatus},
        prepared::Undo,
        sql,
    },
};

/// A statement that is there only to be deallocated in the stead of one that stays with the backend.
pub(super) const GIVEN_UP: &[u8] = b"sluice_given_up";

/// The body of a Parse behind its name: no text, no parameters.
const EMPTY: &[u8] = b"\0\0\0";

const KEYWORDS: [(&str, Command); 3] = [
    ("deallocate", Command::Deallocate),
    ("execute", Command::Execute),
    ("prepare", Command::Prepare),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Deallocate,
    Execute,
    Prepare,
}

/// A lone statement that names a prepared one.
#[derive(Debug, PartialEq, Eq)]
struct Naming<'a> {
    command: Command,
    name: String,
    /// What follows the name.
    rest: &'a str,
}

/// Whether `text`, as far as it has come, may begin with one of the words.
pub(super) fn may_name(text: &[u8]) -> bool {
    KEYWORDS.iter().any(|(keyword, _)| {
        let length = text.len().min(keyword.len());
        text[..length].eq_ignore_ascii_case(&keyword.as_bytes()[..length])
    })
}

/// What becomes of a text.
enum Text {
    AsIs,
    /// Answers that are due decide that.
    Hold,
    Translated(String, Option<Undo>),
}

impl<'a> Naming<'a> {
    fn read(text: &'a [u8]) -> Option<Self> {
        let mut statements = sql::statements(std::str::from_utf8(text).ok()?);
        let statement = statements.next()?;
        if statements.next().is_some() {
            return None;
        }
        let (rest, command) = KEYWORDS.iter().find_map(|(keyword, command)| {
            Some((sql::after_keyword(statement, keyword)?, *command))
        })?;
        let is_quoted = rest.starts_with('"');
        let (name, behind) = sql::name(rest)?;
        if command != Command::Deallocate {
            return Some(Self {
                command,
                name,
                rest: behind,
            });
        }
        let behind = behind.trim();
        match name.as_str() {
            // DEALLOCATE PREPARE name; a statement may have that name itself.
            "prepare" if !is_quoted && !behind.is_empty() => {
                let is_quoted = behind.starts_with('"');
                let (name, rest) = sql::name(behind)?;
                let is_one = rest.trim().is_empty() && (is_quoted || name != "all");
                is_one.then_some(Self {
                    command,
                    name,
                    rest: "",
                })
            }
            "all" if !is_quoted => None,
            _ => behind.is_empty().then_some(Self {
                command,
                name,
                rest: "",
            }),
        }
    }
}

impl Translator<'_, '_> {
    /// A simple query, or several in one message; only one that is alone is translated.
    pub(super) fn query(&mut self, header: Header, bytes: &[u8]) -> Result<Step, End> {
        let text = bytes.get(HEADER_BYTES..).unwrap_or_default();
        if !self.is_to_be_read(header, text) {
            return Ok(Step::AsIs);
        }
        let Some(body) = whole_body(header, bytes) else {
            return Ok(self.wait_for(header, bytes));
        };
        let Some((text, _)) = split_name(body) else {
            return Ok(Step::AsIs);
        };
        let (sql, undo) = match self.translate_text(text, frontend::QUERY)? {
            Text::AsIs => return Ok(Step::AsIs),
            Text::Hold => return Ok(Step::Hold),
            Text::Translated(sql, undo) => (sql, undo),
        };
        self.backend
            .pipeline
            .to_server_with(frontend::QUERY, Answer::Pass, undo)?;
        self.write_header(frontend::QUERY, sql.len() + 1)?;
        self.out.put(sql.as_bytes());
        self.out.put(&[0]);
        Ok(Step::Written(header.message_bytes()))
    }

    /// A Parse of an unnamed statement.
    pub(super) fn parse_unnamed(&mut self, header: Header, bytes: &[u8]) -> Result<Step, End> {
        let text = bytes.get(HEADER_BYTES + 1..).unwrap_or_default();
        if !self.is_to_be_read(header, text) {
            return Ok(Step::AsIs);
        }
        let Some(body) = whole_body(header, bytes) else {
            return Ok(self.wait_for(header, bytes));
        };
        let Some((text, types)) = body.get(1..).and_then(split_name) else {
            return Ok(Step::AsIs);
        };
        let (sql, undo) = match self.translate_text(text, frontend::PARSE)? {
            Text::AsIs => return Ok(Step::AsIs),
            Text::Hold => return Ok(Step::Hold),
            Text::Translated(sql, undo) => (sql, undo),
        };
        let rest = [sql.as_bytes(), &[0], types].concat();
        self.write_parse(b"", &rest, Answer::Pass, undo)?;
        Ok(Step::Written(header.message_bytes()))
    }

    fn is_to_be_read(&self, header: Header, text: &[u8]) -> bool {
        let prepared = &self.own.prepared;
        !prepared.names.is_empty() && header.body_bytes <= prepared.limits.bytes && may_name(text)
    }

    fn wait_for(&self, header: Header, bytes: &[u8]) -> Step {
        if bytes.len() < BUFFER_BYTES {
            Step::Wait(header.message_bytes())
        } else {
            Step::AsIs
        }
    }

    /// The text as the server is to have it; what it needs to know goes ahead.
    fn translate_text(&mut self, text: &[u8], tag: u8) -> Result<Text, End> {
        let Some(Naming {
            command,
            name,
            rest,
        }) = Naming::read(text)
        else {
            return Ok(Text::AsIs);
        };
        let statement = self.find(name.as_bytes());
        if self.is_undecided(name.as_bytes(), statement.as_deref()) {
            return Ok(Text::Hold);
        }
        let Some(statement) = statement else {
            return Ok(Text::AsIs);
        };
        // In a failed transaction whatever went ahead would fail, and take the query with it.
        let pipeline = &self.backend.pipeline;
        match pipeline.status() {
            // The server does not expect it here, and says so.
            _ if pipeline.awaited() == Awaited::CopyData => return Ok(Text::AsIs),
            _ if !pipeline.is_status_certain() => return Ok(Text::Hold),
            TransactionStatus::Failed => return Ok(Text::AsIs),
            TransactionStatus::Idle | TransactionStatus::InTransaction => {}
        }
        let canonical = statement.name();
        Ok(match command {
            Command::Deallocate => {
                self.own.prepared.names.remove(name.as_bytes());
                self.write_close(GIVEN_UP, Answer::Swallow, None)?;
                self.write_parse(GIVEN_UP, EMPTY, Answer::Swallow, None)?;
                let undo = Undo::Close {
                    name: name.as_bytes().into(),
                    statement,
                };
                Text::Translated("DEALLOCATE sluice_given_up".to_owned(), Some(undo))
            }
            Command::Execute => {
                self.make_known_for(&statement, tag)?;
                session_state::look_at_statement(&statement, self.backend);
                Text::Translated(format!("EXECUTE {canonical}{rest}"), None)
            }
            // The server itself reports the duplicate.
            Command::Prepare => {
                self.make_known_for(&statement, tag)?;
                Text::Translated(format!("PREPARE {canonical}{rest}"), None)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_statement_is_read_as_the_server_reads_it() {
        let naming = |text: &str| {
            Naming::read(text.as_bytes())
                .map(|naming| (naming.command, naming.name, naming.rest.to_owned()))
        };
        for (text, command, name, rest) in [
            ("DEALLOCATE s1", Command::Deallocate, "s1", ""),
            (
                "deallocate prepare \"_pg3_0\" ; ",
                Command::Deallocate,
                "_pg3_0",
                "",
            ),
            ("DEALLOCATE prepare", Command::Deallocate, "prepare", ""),
            ("DEALLOCATE \"all\"", Command::Deallocate, "all", ""),
            ("DEALLOCATE \"A\"\"b\"", Command::Deallocate, "A\"b", ""),
            ("Execute S1(';', 2)", Command::Execute, "s1", "(';', 2)"),
            (
                "prepare s (int) as select $1",
                Command::Prepare,
                "s",
                " (int) as select $1",
            ),
        ] {
            let expected = (command, name.to_owned(), rest.to_owned());
            assert_eq!(naming(text), Some(expected), "{text}");
        }
        for other in [
            "DEALLOCATE ALL",
            "deallocate prepare all",
            "DEALLOCATE",
            "DEALLOCATE a; SELECT 1",
            "DEALLOCATED x",
            "DEALLOCATE \"a\"b\"",
            "execute \"unterminated",
        ] {
            assert_eq!(naming(other), None, "{other}");
        }
    }
}
