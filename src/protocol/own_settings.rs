//! Settings that applications make up, such as `app.user`: PostgreSQL keeps them, yet lists them nowhere. So their
//! names are read from what the client says, and the server is asked for each by name.
//!
//! Not a parser: what has a dot and stands behind SET, or in a call of `set_config`, may be one. To take something
//! else for one costs a line in a question to the server.
//!
//! Source: <https://www.postgresql.org/docs/current/runtime-config-custom.html>

use std::fmt::Write as _;

use memchr::{memchr, memchr2_iter};

use super::parameters::{Settings, quote_literal};

/// More names than an honest application has between two questions.
const NAMES_MAX: usize = 100;

/// PostgreSQL cuts identifiers to 63 bytes; a dotted name has a few of them.
const NAME_MAX_BYTES: usize = 255;

/// What a client may have set on a backend since the server was last asked.
#[derive(Debug, Default)]
pub struct OwnSettings {
    names: Vec<Box<str>>,
    sight: Sight,
}

/// Whether all that may have been set is known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Sight {
    #[default]
    Whole,
    /// A statement was too long to be read to its end.
    Cut,
    /// Something was set by a name that was not seen.
    Lost,
}

/// A place in a statement where something is set.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Assignment<'a> {
    Named(&'a [u8]),
    /// The name is an expression.
    Computed,
}

impl OwnSettings {
    /// Reads a statement that is about to run. Nearly all have no dot, or set nothing.
    pub fn read(&mut self, text: &[u8], is_whole: bool) {
        if !is_whole && self.sight == Sight::Whole {
            self.sight = Sight::Cut;
        }
        let worth_reading = memchr(b'.', text).is_some() || memchr(b'(', text).is_some();
        for assignment in assignments(if worth_reading { text } else { &[] }) {
            match assignment {
                Assignment::Named(name) => dotted(name).into_iter().for_each(|name| self.add(name)),
                Assignment::Computed => self.sight = Sight::Lost,
            }
        }
    }

    /// A SET has been done.
    pub fn set(&mut self) {
        if self.sight == Sight::Cut {
            self.sight = Sight::Lost;
        }
    }

    /// Notes the names that a statement was found to set when it was prepared.
    pub fn extend(&mut self, names: &[Box<str>]) {
        for name in names {
            self.add(name);
        }
    }

    /// The names that were read.
    #[must_use]
    pub fn into_names(self) -> Box<[Box<str>]> {
        self.names.into()
    }

    fn add(&mut self, name: &str) {
        if self.names.iter().any(|known| **known == *name) {
            return;
        }
        if self.names.len() < NAMES_MAX {
            self.names.push(name.into());
        } else {
            self.sight = Sight::Lost;
        }
    }

    /// Whether something may be set that cannot be asked for.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.sight == Sight::Lost
    }

    /// The rest of a question for kinds, names and values: those read here and those among `known`, as far as they have a
    /// value. One that was reset has an empty one. Empty: there is nothing to ask for.
    #[must_use]
    pub fn question(&self, known: &Settings) -> String {
        let known = known.iter().map(|(name, _)| name);
        let names = self.names.iter().map(|name| &**name);
        let mut list = String::new();
        for name in names.chain(known.filter(|name| name.contains('.'))) {
            let comma = if list.is_empty() { "" } else { "," };
            let _ = write!(list, "{comma}{}", quote_literal(name));
        }
        if list.is_empty() {
            return list;
        }
        format!(
            " UNION ALL SELECT 'settings', name, pg_catalog.current_setting(name, true) \
             FROM (SELECT DISTINCT pg_catalog.unnest(ARRAY[{list}]) AS name) names \
             WHERE pg_catalog.current_setting(name, true) OPERATOR(pg_catalog.<>) ''"
        )
    }
}

/// Where `text` may set something.
pub(super) fn assignments(text: &[u8]) -> impl Iterator<Item = Assignment<'_>> {
    memchr2_iter(b's', b'S', text).filter_map(|start| {
        let (before, rest) = text.split_at(start);
        let before = before.last().copied().unwrap_or(b' ');
        if let Some(rest) = skip_word(rest, b"set_config")
            && (before == b'.' || !is_of_name(before))
        {
            return called(rest);
        }
        if is_of_name(before) {
            return None;
        }
        let rest = skip_space(skip_word(rest, b"set")?);
        let rest = [&b"session"[..], b"local"]
            .iter()
            .find_map(|word| skip_word(rest, word))
            .map_or(rest, skip_space);
        let length = rest.iter().position(|byte| !is_of_name(*byte));
        Some(Assignment::Named(&rest[..length.unwrap_or(rest.len())]))
    })
}

/// A call of `set_config`, of which `rest` is what follows the name.
fn called(rest: &[u8]) -> Option<Assignment<'_>> {
    let rest = skip_space(skip_space(rest).strip_prefix(b"(")?);
    let Some(quoted) = rest.strip_prefix(b"'") else {
        return Some(Assignment::Computed);
    };
    Some(Assignment::Named(&quoted[..memchr(b'\'', quoted)?]))
}

/// `name`, if it may be one of the application's own.
fn dotted(name: &[u8]) -> Option<&str> {
    let has_dot = memchr(b'.', name).is_some() && name.len() <= NAME_MAX_BYTES;
    let is_name = has_dot && name.iter().all(|byte| is_of_name(*byte));
    is_name.then(|| std::str::from_utf8(name).ok()).flatten()
}

fn skip_word<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = text.split_at_checked(word.len())?;
    let ends = rest.first().is_none_or(|byte| !is_of_name(*byte));
    (ends && found.eq_ignore_ascii_case(word)).then_some(rest)
}

fn skip_space(text: &[u8]) -> &[u8] {
    text.trim_ascii_start()
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.') || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> OwnSettings {
        let mut own = OwnSettings::default();
        own.read(text.as_bytes(), true);
        own
    }

    #[test]
    fn names_with_a_dot_are_read_where_something_is_set() {
        for (text, names) in [
            ("SET app.user = 'x'", &["app.user"][..]),
            ("select 1; set  session app.user to 1", &["app.user"]),
            ("set local a.b.c = 1; Set d.e=2", &["a.b.c", "d.e"]),
            ("select pg_catalog.set_config('a.b', $1, false)", &["a.b"]),
            ("select set_config ( 'app.user', $1, false)", &["app.user"]),
            ("set search_path = a.b", &[]),
            ("select a.set from reset a.b", &[]),
            ("select 1.5", &[]),
            ("", &[]),
        ] {
            let found = read(text);
            assert_eq!(
                found.names.iter().map(|name| &**name).collect::<Vec<_>>(),
                names,
                "{text}"
            );
            assert!(!found.is_lost(), "{text}");
        }
    }

    #[test]
    fn a_name_that_is_not_seen_is_known_to_be_missing() {
        assert!(read("select set_config($1, $2, false)").is_lost());
        let mut own = OwnSettings::default();
        own.read(b"insert into t values ('", false);
        assert!(!own.is_lost());
        own.set();
        assert!(own.is_lost());
        let many: String = (0..=NAMES_MAX)
            .map(|n| format!("set a.n{n} = 1;"))
            .collect();
        assert!(read(&many).is_lost());
    }

    #[test]
    fn the_server_is_asked_for_what_was_read_and_what_was_known() {
        let known = [("work_mem", "4MB"), ("c.d", "1")];
        let known = known.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let known = known.into_iter().collect();
        assert!(
            read("set a.b = 1")
                .question(&known)
                .contains("ARRAY[E'a.b',E'c.d']")
        );
        assert_eq!(read("select 1").question(&Settings::default()), "");
    }
}
