//! How a server reads the text of a statement: what a Parse means depends on settings of the session that gets it.
//!
//! `'01/02/2003'::date`, `'a\b'` and an unqualified table are settled when the statement is parsed. So what one client
//! has prepared may stand for another's Parse only where both have the same reading; and `'now'` is read anew by each.
//!
//! Source: <https://www.postgresql.org/docs/current/runtime-config-client.html>,
//! <https://www.postgresql.org/docs/current/runtime-config-compatible.html>

use std::hash::{DefaultHasher, Hash, Hasher};

use bitflags::bitflags;

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

    /// From the words of a SET.
    fn of_words(text: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish())
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0.rotate_left(1).wrapping_add(other.0))
    }
}

bitflags! {
    /// What running a text may do to how the texts behind it are read.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Change: u8 {
        /// The server reports it.
        const REPORTED = 1;
        /// It does not, but the text says what is set.
        const SAID = 1 << 1;
        /// Nothing says what comes of it.
        const UNSAID = 1 << 2;
        /// What was done before may be undone.
        const UNDONE = 1 << 3;
    }
}

/// What a transaction has done, by its own words, to settings that the server does not report: equal words, equal reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Words {
    #[default]
    None,
    Said(Reading),
    Unsaid,
}

impl Words {
    /// Notes a text that is to run and the `change` that it may make.
    pub fn note(&mut self, change: Change, text: &[u8]) {
        let is_undone = change.contains(Change::UNDONE) && *self != Self::None;
        if change.contains(Change::UNSAID) || is_undone {
            *self = Self::Unsaid;
        } else if change.contains(Change::SAID) {
            let before = *self;
            let said = Reading::of_words(text);
            *self = match before {
                Self::None => Self::Said(said),
                Self::Said(reading) => Self::Said(reading.and(said)),
                Self::Unsaid => Self::Unsaid,
            };
        }
    }

    /// `reading`, as it is behind these words; `None`: nobody knows.
    #[must_use]
    pub fn behind(self, reading: Reading) -> Option<Reading> {
        match self {
            Self::None => Some(reading),
            Self::Said(said) => Some(reading.and(said)),
            Self::Unsaid => None,
        }
    }
}

/// What running `text` may change in how the texts behind it are read. `has_set`: its transaction has set something before,
/// which the end of the transaction may undo.
#[must_use]
pub fn may_change(text: &[u8], has_set: bool) -> Change {
    let mut change = Change::empty();
    if contains(text, b"set_config") {
        for assignment in assignments(text) {
            change |= match assignment {
                Assignment::Named(name) => of_setting(name, text),
                Assignment::Computed => Change::REPORTED | Change::UNSAID,
            };
        }
    }
    let is_worth_reading = begins_so(text)
        || memchr::memchr(b';', text).is_some_and(|end| !text[end + 1..].trim_ascii().is_empty());
    if is_worth_reading {
        change |= std::str::from_utf8(text).map_or(Change::all(), |text| {
            let statements = sql::statements(text);
            statements.fold(Change::empty(), |sum, one| sum | changes(one, has_set))
        });
    }
    change
}

/// What setting `name` changes. `text` says to what, unless that is a parameter.
fn of_setting(name: &[u8], text: &[u8]) -> Change {
    let is_among = |names: &[&str]| {
        let mut names = names.iter();
        names.any(|own| own.as_bytes().eq_ignore_ascii_case(name))
    };
    if is_among(&REPORTED) {
        Change::REPORTED
    } else if !is_among(&ASKED) {
        Change::empty()
    } else if memchr::memchr(b'$', text).is_some() {
        Change::UNSAID
    } else {
        Change::SAID
    }
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

fn changes(statement: &str, has_set: bool) -> Change {
    let after = |keyword| sql::after_keyword(statement, keyword);
    if let Some(what) = after("set") {
        let what = ["session", "local"]
            .iter()
            .find_map(|word| sql::after_keyword(what, word))
            .unwrap_or(what);
        return of_named(what, statement);
    }
    if let Some(what) = after("reset") {
        return match sql::after_keyword(what, "all") {
            Some(_) => Change::REPORTED | Change::SAID,
            None => of_named(what, statement),
        };
    }
    let is_one_of = |words: &[&'static str]| words.iter().any(|word| after(word).is_some());
    if is_one_of(&["discard", "do", "call"]) {
        Change::REPORTED | Change::UNSAID
    } else if has_set && is_one_of(&["commit", "end", "rollback", "abort"]) {
        Change::REPORTED | Change::UNDONE
    } else {
        Change::empty()
    }
}

/// What becomes of what a SET or RESET names. Some have a name of their own there.
fn of_named(what: &str, statement: &str) -> Change {
    let Some((name, _)) = sql::name(what) else {
        return Change::empty();
    };
    let name = match name.as_str() {
        "time" => "timezone",
        "schema" => "search_path",
        "xml" => "xmloption",
        other => other,
    };
    of_setting(name.as_bytes(), statement.as_bytes())
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
            let change = may_change(text.as_bytes(), false);
            assert!(change.contains(Change::REPORTED), "{text}");
        }
        for text in [
            "set local search_path = a",
            "reset search_path",
            "set schema 'a'",
            "select set_config('search_path', 'a', true)",
        ] {
            let change = may_change(text.as_bytes(), false);
            assert_eq!(change, Change::SAID, "{text}");
        }
        let bound = b"select set_config('search_path', $1, true)";
        assert_eq!(may_change(bound, false), Change::UNSAID);
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
            assert!(may_change(text.as_bytes(), false).is_empty(), "{text}");
        }
        assert!(!may_change(b"ROLLBACK", true).is_empty());
    }

    #[test]
    fn equal_words_are_read_alike_and_others_are_not() {
        let behind = |texts: &[&str]| {
            let mut words = Words::default();
            for text in texts {
                words.note(may_change(text.as_bytes(), true), text.as_bytes());
            }
            words.behind(Reading::DEFAULT)
        };
        let one = behind(&["set local search_path = a"]);
        assert_eq!(one, behind(&["select 1", "set local search_path = a"]));
        assert_ne!(one, behind(&["set local search_path = b"]));
        assert_ne!(one, behind(&[]));
        assert_eq!(behind(&["select 1"]), Some(Reading::DEFAULT));
        assert_eq!(
            behind(&["set local search_path = a", "rollback to s"]),
            None
        );
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
