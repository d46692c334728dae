//! Session settings: what a client has set, what a backend has been told, and how to turn one into the other.
//!
//! Names compare without case, as PostgreSQL's do. Values are compared as they are: equal text, equal setting.
//!
//! Source: <https://www.postgresql.org/docs/current/config-setting.html>

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fmt::Write as _,
    hash::{Hash, Hasher},
};

use super::reading::Reading;

type Text = Box<str>;

/// The settings of one session, by lower-case name. Compared by hash first, so unequal ones cost next to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    hash: u64,
    reading: Reading,
    /// Sorted by name, and no larger than it must be: every session has some.
    values: Box<[(Text, Text)]>,
}

impl Hash for Settings {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl FromIterator<(String, String)> for Settings {
    /// Of two settings of one name the later one counts.
    fn from_iter<I: IntoIterator<Item = (String, String)>>(settings: I) -> Self {
        let values: BTreeMap<Text, Text> = settings
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase().into(), value.into()))
            .collect();
        let values: Box<[_]> = values.into_iter().collect();
        let mut hasher = DefaultHasher::new();
        values.hash(&mut hasher);
        let pairs = values.iter().map(|(name, value)| (&**name, &**value));
        Self {
            reading: Reading::of_settings(pairs),
            hash: if values.is_empty() {
                0
            } else {
                hasher.finish()
            },
            values,
        }
    }
}

impl Settings {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What they do to the texts of statements.
    #[must_use]
    pub fn reading(&self) -> Reading {
        self.reading
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .values
            .binary_search_by(|(known, _)| (**known).cmp(name));
        Some(&*self.values.get(found.ok()?)?.1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The statements that turn a session with settings `from` into one with these; empty: nothing to do.
    ///
    /// Values go through `set_config`, which reads them as the configuration file does: `a, b` in a
    /// `search_path` is two schemas.
    #[must_use]
    pub fn statements_from(&self, from: &Self) -> String {
        let mut sql = String::new();
        for (name, _) in from.iter().filter(|(name, _)| self.get(name).is_none()) {
            let _ = write!(sql, "RESET {};", quote_name(name));
        }
        let mut call = "SELECT ";
        let mut others: Vec<_> = self
            .iter()
            .filter(|(name, value)| from.get(name) != Some(*value))
            .collect();
        others.sort_by_key(|(name, _)| rank(name));
        for (name, value) in others {
            let (name, value) = (quote_literal(name), quote_literal(value));
            let _ = write!(sql, "{call}pg_catalog.set_config({name},{value},false)");
            call = ",";
        }
        sql
    }
}

/// Who somebody is decides what may be set: first what the role that logged in may set, then who the session is, and
/// then as which role it acts.
fn rank(name: &str) -> u8 {
    match name {
        "role" => 2,
        "session_authorization" => 1,
        _ => 0,
    }
}

/// A setting's name as an identifier, each part of a qualified one by itself.
fn quote_name(name: &str) -> String {
    let parts: Vec<String> = name
        .split('.')
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
        .collect();
    parts.join(".")
}

/// A literal that means the same whatever `standard_conforming_strings` and `client_encoding` are.
pub(super) fn quote_literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 3);
    literal.push_str("E'");
    for character in text.chars() {
        match character {
            '\\' => literal.push_str("\\\\"),
            '\'' => literal.push_str("''"),
            _ if character.is_ascii() => literal.push(character),
            _ => {
                let _ = write!(literal, "\\U{:08X}", u32::from(character));
            }
        }
    }
    literal.push('\'');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn equal_settings_need_no_statement_whatever_their_order_and_case() {
        let one = settings(&[("DateStyle", "ISO"), ("work_mem", "4MB")]);
        let other = settings(&[("work_mem", "4MB"), ("datestyle", "ISO")]);
        assert_eq!(one, other);
        assert_eq!(one.statements_from(&other), "");
    }

    #[test]
    fn a_difference_becomes_one_call_and_what_is_gone_is_reset() {
        let from = settings(&[("a.b", "1"), ("work_mem", "4MB")]);
        let to = settings(&[("search_path", "x, y"), ("work_mem", "8MB")]);
        assert_eq!(
            to.statements_from(&from),
            "RESET \"a\".\"b\";SELECT pg_catalog.set_config(E'search_path',E'x, y',false),\
             pg_catalog.set_config(E'work_mem',E'8MB',false)"
        );
    }

    #[test]
    fn who_the_session_is_comes_last_and_its_role_behind_it() {
        let to = settings(&[
            ("role", "r"),
            ("session_authorization", "s"),
            ("work_mem", "8MB"),
        ]);
        let sql = to.statements_from(&Settings::default());
        let places = ["'work_mem'", "'session_authorization'", "'role'"].map(|name| sql.find(name));
        assert!(places.is_sorted() && places[0].is_some(), "{sql}");
    }

    #[test]
    fn a_value_means_the_same_in_every_encoding() {
        assert_eq!(quote_literal("naïve 🐘"), "E'na\\U000000EFve \\U0001F418'");
    }

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        let hostile = settings(&[("application_name", "x'; drop table t; --\\")]);
        assert_eq!(
            hostile.statements_from(&Settings::default()),
            "SELECT pg_catalog.set_config(E'application_name',E'x''; drop table t; --\\\\',false)"
        );
    }
}
