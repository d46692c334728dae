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
    // Where it is no statement of its own, it may be one of a DO block.
    let is_inside = contains(text, b"deallocate") && !may_forget_statements(text);
    found.set(Residue::DIRTY, is_inside);
    found
}

/// Functions on large objects, which leave nothing behind: nearly all that drivers call by a FunctionCall.
const OF_LARGE_OBJECTS: [u32; 13] = [
    715, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172,
];

/// What the call of a function by its number may leave behind: anything, such as settings by names that nobody has seen.
/// `body` is that of a FunctionCall, as far as it has come.
#[must_use]
pub fn of_call(body: &[u8]) -> Residue {
    let function = body.first_chunk().map(|number| u32::from_be_bytes(*number));
    if function.is_some_and(|function| OF_LARGE_OBJECTS.contains(&function)) {
        Residue::empty()
    } else {
        Residue::all()
    }
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

/// `CREATE TEMP …`, `CREATE LOCAL TEMPORARY …`, `SELECT … INTO TEMP …`, `CREATE TABLE pg_temp.…`.
fn makes_temporary(text: &[u8]) -> bool {
    occurrences(text, b"temp").any(|start| {
        let (before, rest) = (&text[..start], &text[start + 4..]);
        let is_word = before.last().is_some_and(|byte| is_gap(*byte))
            && (rest.first().is_some_and(|byte| is_gap(*byte)) || begins(rest, b"orary"));
        (is_word || ends(before, b"pg_"))
            && (contains(before, b"create") || contains(before, b"into"))
    })
}

/// Whether `byte` may stand between two words: a blank, or part of a comment.
fn is_gap(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'/' | b'-')
}

fn ends(text: &[u8], word: &[u8]) -> bool {
    let start = text.len().checked_sub(word.len());
    let end = start.and_then(|start| text.get(start..));
    end.is_some_and(|end| end.eq_ignore_ascii_case(word))
}

fn begins(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Whether `word`, given in lower case, stands in `text` in any case.
pub(super) fn contains(text: &[u8], word: &'static [u8]) -> bool {
    occurrences(text, word).next().is_some()
}

/// Where `word`, given in lower case, stands in `text`. Every statement is searched: by the letter of the word that is
/// rarest in SQL, so that there is little to look at twice.
fn occurrences<'a>(text: &'a [u8], word: &'static [u8]) -> impl Iterator<Item = usize> + 'a {
    let rare = |letter: u8| word.iter().position(|byte| *byte == letter);
    let place = rare(b'_').or_else(|| rare(b'p')).unwrap_or(0);
    let letter = word.get(place).copied().unwrap_or_default();
    memchr2_iter(letter, letter.to_ascii_uppercase(), text).filter_map(move |found| {
        let start = found.checked_sub(place)?;
        let part = text.get(start..start + word.len())?;
        part.eq_ignore_ascii_case(word).then_some(start)
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
    fn a_function_called_by_its_number_may_leave_anything_unless_it_is_of_large_objects() {
        let call = |function: u32| of_call(&[&function.to_be_bytes()[..], b"\0\0"].concat());
        assert_eq!(call(952), Residue::empty());
        assert!(call(2078).contains(Residue::SETTINGS | Residue::LOCK));
        assert!(of_call(b"\0\0\x03").contains(Residue::SETTINGS));
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
            ("create temp/**/table t(a int)", Residue::TEMPORARY),
            ("create/**/temp table t(a int)", Residue::TEMPORARY),
            ("create table PG_TEMP.t(a int)", Residue::TEMPORARY),
            (
                "do $$ begin execute 'deallocate all'; end $$",
                Residue::DIRTY,
            ),
            ("deallocate all", Residue::empty()),
            ("select temp from readings", Residue::empty()),
            ("insert into readings(temp) values (1)", Residue::empty()),
            ("create table template(a int)", Residue::empty()),
            ("select 1", Residue::empty()),
            ("_", Residue::empty()),
            ("p", Residue::empty()),
            ("", Residue::empty()),
        ] {
            assert_eq!(of_text(text.as_bytes()), residue, "{text}");
        }
    }
}
