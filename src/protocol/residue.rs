//! What a statement's text says of the session state it may leave behind, where no command tag tells.
//!
//! Not a parser: a search for a few words. It errs on the side of seeing too much, which costs a round trip.

use bitflags::bitflags;
use memchr::memchr2_iter;

use super::sql;

bitflags! {
    /// What a client may have left behind in the session of its backend, by kind.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Residue: u8 {
        /// Settings, the role among them.
        const SETTINGS = 1;
        /// Temporary tables.
        const TEMPORARY = 1 << 1;
        /// Cursors that outlive their transaction.
        const CURSOR = 1 << 2;
        /// Advisory locks of the session.
        const LOCK = 1 << 3;
        /// Channels that it listens to now, or no longer.
        const LISTEN = 1 << 4;
        /// Statements of SQL's own PREPARE, or fewer of them.
        const PREPARED = 1 << 5;
        /// Something that only DISCARD ALL takes away.
        const DIRTY = 1 << 6;
    }
}

/// Searches `text`, in any case of its letters, for what may outlive the transaction.
#[must_use]
pub fn of_text(text: &[u8]) -> Residue {
    let mut found = Residue::empty();
    found.set(Residue::LOCK, contains(text, b"advisory_"));
    found.set(Residue::TEMPORARY, makes_temporary(text));
    found.set(Residue::SETTINGS, contains(text, b"set_config"));
    found
}

/// Whether `text` may take away every prepared statement, whoever made it: DEALLOCATE ALL, DISCARD ALL.
#[must_use]
pub fn may_forget_statements(text: &[u8]) -> bool {
    if !contains(text, b"deallocate") && !contains(text, b"discard") {
        return false;
    }
    let Ok(text) = std::str::from_utf8(text) else {
        return true;
    };
    sql::statements(text).any(|statement| {
        ["deallocate", "discard"]
            .iter()
            .any(|keyword| sql::after_keyword(statement, keyword).is_some())
    })
}

/// `CREATE TEMP …`, `CREATE LOCAL TEMPORARY …`, `SELECT … INTO TEMP …`.
fn makes_temporary(text: &[u8]) -> bool {
    occurrences(text, b"temp").any(|start| {
        let before = text[..start].last().is_some_and(u8::is_ascii_whitespace);
        let rest = &text[start + 4..];
        let is_whole = rest.first().is_some_and(u8::is_ascii_whitespace);
        let is_long = rest
            .get(..5)
            .is_some_and(|rest| rest.eq_ignore_ascii_case(b"orary"));
        before
            && (is_whole || is_long)
            && (contains(&text[..start], b"create") || contains(&text[..start], b"into"))
    })
}

/// Whether `word`, given in lower case, stands in `text` in any case.
pub(super) fn contains(text: &[u8], word: &'static [u8]) -> bool {
    occurrences(text, word).next().is_some()
}

/// Where `word`, given in lower case, stands in `text`.
fn occurrences<'a>(text: &'a [u8], word: &'static [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = word.first().copied().unwrap_or_default();
    memchr2_iter(first, first.to_ascii_uppercase(), text).filter(move |start| {
        text.get(*start..*start + word.len())
            .is_some_and(|part| part.eq_ignore_ascii_case(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_statement_that_forgets_others_is_taken_for_one() {
        for text in [
            "deallocate all",
            "/* why */ DISCARD ALL;",
            "select 1; discard all",
        ] {
            assert!(may_forget_statements(text.as_bytes()), "{text}");
        }
        for text in [
            "select discarded_at from posts",
            "select 'discard all'",
            "select 1",
        ] {
            assert!(!may_forget_statements(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn words_are_found_in_any_case_and_nothing_is_read_into_others() {
        for (text, residue) in [
            ("select Set_Config('role', 'x', false)", Residue::SETTINGS),
            ("SELECT PG_ADVISORY_LOCK(1)", Residue::LOCK),
            ("select pg_try_advisory_lock_shared(1)", Residue::LOCK),
            ("create temp table t(a int)", Residue::TEMPORARY),
            ("CREATE LOCAL TEMPORARY TABLE t(a int)", Residue::TEMPORARY),
            ("select 1 into temporary t", Residue::TEMPORARY),
            ("select temp from readings", Residue::empty()),
            ("insert into readings(temp) values (1)", Residue::empty()),
            ("create table template(a int)", Residue::empty()),
            ("select 1", Residue::empty()),
            ("", Residue::empty()),
        ] {
            assert_eq!(of_text(text.as_bytes()), residue, "{text}");
        }
    }
}
