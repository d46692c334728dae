//! What a statement's text says of the session state it may leave behind, where no command tag tells.
//!
//! Not a parser: a search for a few words. It errs on the side of seeing too much, which costs a round trip.

use memchr::memchr2_iter;

/// What may outlive the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    None,
    /// Settings, by way of `set_config`.
    Settings,
    /// Session advisory locks, temporary tables.
    State,
}

/// Searches `text`, in any case of its letters.
#[must_use]
pub fn of_text(text: &[u8]) -> Effect {
    if contains(text, b"advisory_") || makes_temporary(text) {
        Effect::State
    } else if contains(text, b"set_config") {
        Effect::Settings
    } else {
        Effect::None
    }
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

fn contains(text: &[u8], word: &'static [u8]) -> bool {
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
    fn words_are_found_in_any_case_and_nothing_is_read_into_others() {
        for (text, effect) in [
            ("select Set_Config('role', 'x', false)", Effect::Settings),
            ("SELECT PG_ADVISORY_LOCK(1)", Effect::State),
            ("select pg_try_advisory_lock_shared(1)", Effect::State),
            ("create temp table t(a int)", Effect::State),
            ("CREATE LOCAL TEMPORARY TABLE t(a int)", Effect::State),
            ("select 1 into temporary t", Effect::State),
            ("select temp from readings", Effect::None),
            ("insert into readings(temp) values (1)", Effect::None),
            ("create table template(a int)", Effect::None),
            ("select 1", Effect::None),
            ("", Effect::None),
        ] {
            assert_eq!(of_text(text.as_bytes()), effect, "{text}");
        }
    }
}
