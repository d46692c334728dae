//! How a server reads the text of a statement: what a Parse means depends on settings of the session that gets it.
//!
//! `'01/02/2003'::date`, `'a\b'` and an unqualified table are settled when the statement is parsed. So what one client
//! has prepared may stand for another's Parse only where both have the same reading; and `'now'` is read anew by each.
//!
//! Source: <https://www.postgresql.org/docs/current/runtime-config-client.html>,
//! <https://www.postgresql.org/docs/current/runtime-config-compatible.html>

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{
    own_settings::{Assignment, assignments},
    residue::contains,
    sql,
};

/// Those that the server reports with ParameterStatus, so that they are always known.
const REPORTED: [&str; 4] = [
    "datestyle",
    "intervalstyle",
    "standard_conforming_strings",
    "timezone",
];

/// Those that it tells when it is asked.
const ASKED: [&str; 8] = [
    "array_nulls",
    "backslash_quote",
    "escape_string_warning",
    "lc_monetary",
    "search_path",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmloption",
];

/// The settings by which a text is read, as a hash: nobody gains from a collision but by preparing texts of their own
/// for themselves, since a pool has one role and one person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Reading(u64);

impl Reading {
    /// Nothing set.
    pub const DEFAULT: Self = Self(0);

    /// From what the server reports, of which all but the four of interest is left out.
    #[must_use]
    pub fn of_reported<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        Self::of(&REPORTED, parameters)
    }

    /// From settings that a client has made.
    #[must_use]
    pub fn of_settings<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        Self::of(&ASKED, settings)
    }

    fn of<'a>(names: &[&str], settings: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut sum = 0_u64;
        for (name, value) in settings {
            let Some(index) = names.iter().position(|own| own.eq_ignore_ascii_case(name)) else {
                continue;
            };
            let mut hasher = DefaultHasher::new();
            (index, value).hash(&mut hasher);
            sum = sum.wrapping_add(hasher.finish());
        }
        Self(sum)
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0.rotate_left(1).wrapping_add(other.0))
    }
}

/// Whether running `text` may change how the texts behind it are read, in a way that the server reports. `has_set`: its
/// transaction has set something before, which the end of the transaction may undo.
#[must_use]
pub fn may_change(text: &[u8], has_set: bool) -> bool {
    if contains(text, b"set_config") && assignments(text).any(is_of_reported) {
        return true;
    }
    let is_worth_reading = begins_so(text)
        || memchr::memchr(b';', text).is_some_and(|end| !text[end + 1..].trim_ascii().is_empty());
    if !is_worth_reading {
        return false;
    }
    std::str::from_utf8(text).map_or(true, |text| {
        sql::statements(text).any(|one| changes(one, has_set))
    })
}

fn is_of_reported(assignment: Assignment<'_>) -> bool {
    match assignment {
        Assignment::Named(name) => is_reported(name),
        Assignment::Computed => true,
    }
}

fn is_reported(name: &[u8]) -> bool {
    REPORTED
        .iter()
        .any(|own| own.as_bytes().eq_ignore_ascii_case(name))
}

/// Whether a text begins as one that `changes` finds something in, or with a comment.
fn begins_so(text: &[u8]) -> bool {
    const BEGINNINGS: [&[u8]; 11] = [
        b"set",
        b"reset",
        b"discard",
        b"do",
        b"call",
        b"commit",
        b"end",
        b"rollback",
        b"abort",
        b"--",
        b"/*",
    ];
    let text = text.trim_ascii_start();
    BEGINNINGS.iter().any(|word| {
        let start = text.get(..word.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(word))
    })
}

fn changes(statement: &str, has_set: bool) -> bool {
    let after = |keyword| sql::after_keyword(statement, keyword);
    if let Some(what) = after("set") {
        let what = ["session", "local"]
            .iter()
            .find_map(|word| sql::after_keyword(what, word))
            .unwrap_or(what);
        return names_reported(what) || sql::after_keyword(what, "time").is_some();
    }
    if let Some(what) = after("reset") {
        let starts = |word| sql::after_keyword(what, word).is_some();
        return names_reported(what) || starts("all") || starts("time");
    }
    let may = ["discard", "do", "call"];
    let may_undo = ["commit", "end", "rollback", "abort"];
    may.iter().any(|keyword| after(keyword).is_some())
        || has_set && may_undo.iter().any(|keyword| after(keyword).is_some())
}

fn names_reported(text: &str) -> bool {
    sql::name(text).is_some_and(|(name, _)| is_reported(name.as_bytes()))
}

/// Whether `text` has a literal that stands for the time at which it is read.
#[must_use]
pub fn is_momentary(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 4] = [b"now'", b"today", b"tomorrow", b"yesterday"];
    memchr::memchr(b'\'', text).is_some() && WORDS.iter().any(|word| contains(text, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_depends_on_what_decides_it_and_on_nothing_else() {
        let of =
            |pairs: &[(&'static str, &'static str)]| Reading::of_reported(pairs.iter().copied());
        let usual = of(&[("DateStyle", "ISO, MDY"), ("TimeZone", "UTC")]);
        let same = of(&[
            ("TimeZone", "UTC"),
            ("application_name", "psql"),
            ("DateStyle", "ISO, MDY"),
        ]);
        assert_eq!(usual, same);
        assert_ne!(usual, of(&[("DateStyle", "ISO, DMY"), ("TimeZone", "UTC")]));
        assert_ne!(usual, of(&[("DateStyle", "UTC"), ("TimeZone", "ISO, MDY")]));
        let none = Reading::of_settings([("app.user", "7"), ("role", "x")].into_iter());
        assert_eq!(none, Reading::default());
        let path = Reading::of_settings([("search_path", "a")].into_iter());
        assert_ne!(usual.and(path), usual.and(none));
    }

    #[test]
    fn what_changes_the_reading_is_found_and_nothing_else() {
        for text in [
            "set timezone to 'UTC'",
            "SET LOCAL DateStyle = dmy",
            "set session time zone 1",
            "/* why */ reset all",
            "select 1; set intervalstyle = sql_standard",
            "select set_config('TimeZone', $1, true)",
            "select set_config($1, $2, false)",
            "do $$ begin end $$",
            "discard all",
        ] {
            assert!(may_change(text.as_bytes(), false), "{text}");
        }
        for text in [
            "select now() at time zone 'UTC';",
            "set local role app",
            "set transaction isolation level serializable",
            "select set_config('request.jwt.claims', $1, true)",
            "update settings set timezone = 'UTC'",
            "rollback",
            "documents",
            "",
        ] {
            assert!(!may_change(text.as_bytes(), false), "{text}");
        }
        assert!(may_change(b"ROLLBACK", true));
    }

    #[test]
    fn a_literal_of_the_moment_is_seen() {
        for text in ["select 'now'::timestamptz", "select date 'Today'"] {
            assert!(is_momentary(text.as_bytes()), "{text}");
        }
        for text in ["select now()", "select 'nowhere'", "select 1"] {
            assert!(!is_momentary(text.as_bytes()), "{text}");
        }
    }
}
