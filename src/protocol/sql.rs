//! As much of SQL's lexical structure as it takes to tell one statement of a text from the next, and to read a name.
//!
//! Used where a client has state that only its own words name: channels it no longer listens to, and statements of
//! SQL's own PREPARE. Source: <https://www.postgresql.org/docs/current/sql-syntax-lexical.html>

use std::borrow::Cow;

/// PostgreSQL cuts names to this many bytes (`NAMEDATALEN` less one).
const NAME_MAX_BYTES: usize = 63;

/// What an UNLISTEN gives up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unlisten {
    All,
    Channel(String),
}

/// What the UNLISTENs in `text` give up, in their order.
pub fn unlistened(text: &str) -> impl Iterator<Item = Unlisten> {
    statements(text).filter_map(|statement| {
        let rest = after_keyword(statement, "unlisten")?;
        if rest.starts_with('*') {
            return Some(Unlisten::All);
        }
        Some(Unlisten::Channel(name(rest)?.0))
    })
}

/// The last `PREPARE name` in `text`, without what stands around it.
#[must_use]
pub fn prepare_of<'a>(text: &'a str, prepared: &str) -> Option<&'a str> {
    let prepares = statements(text).filter(|statement| {
        after_keyword(statement, "prepare")
            .and_then(name)
            .is_some_and(|(name, _)| name == prepared)
    });
    prepares.last()
}

/// What follows `keyword` at the start of `statement`; `None`: it starts with something else.
#[must_use]
pub fn after_keyword<'a>(statement: &'a str, keyword: &str) -> Option<&'a str> {
    let statement = skip_blanks(statement);
    let rest = statement.get(keyword.len()..)?;
    let begins = statement.as_bytes()[..keyword.len()].eq_ignore_ascii_case(keyword.as_bytes());
    (begins && !rest.starts_with(is_name_character)).then(|| skip_blanks(rest))
}

/// The name at the start of `text` as the server reads it, and what follows it.
#[must_use]
pub fn name(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let end = quoted_end(quoted.as_bytes(), b'"')?;
        let inner = &quoted[..end - 1];
        let name = Cow::from(inner.replace("\"\"", "\""));
        return Some((cut(&name).to_owned(), &quoted[end..]));
    }
    let end = text.find(|c| !is_name_character(c)).unwrap_or(text.len());
    let first = text.chars().next()?;
    (end > 0 && !first.is_ascii_digit() && first != '$').then(|| {
        (
            cut(&text[..end].to_ascii_lowercase()).to_owned(),
            &text[end..],
        )
    })
}

fn cut(name: &str) -> &str {
    let end = name.floor_char_boundary(NAME_MAX_BYTES);
    &name[..end]
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// The statements of `text`, each without blanks and comments before it.
pub fn statements(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = skip_blanks(rest.trim_start_matches(';'));
        while let Some(after) = rest.strip_prefix(';') {
            rest = skip_blanks(after);
        }
        if rest.is_empty() {
            return None;
        }
        let (statement, after) = rest.split_at(statement_end(rest.as_bytes()));
        rest = after;
        Some(statement)
    })
}

/// Without the blanks and comments that `text` starts with.
fn skip_blanks(mut text: &str) -> &str {
    loop {
        let trimmed = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c', '\0']);
        let comment = comment_end(trimmed.as_bytes());
        if comment == 0 {
            return trimmed;
        }
        text = &trimmed[comment..];
    }
}

/// Where the first statement of `bytes` ends: at its semicolon, or with the text.
fn statement_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let rest = &bytes[at..];
        at += match byte {
            b';' => return at,
            b'\'' if is_escaped(&bytes[..at]) => 1 + escaped_end(&rest[1..]),
            b'\'' | b'"' => 1 + quoted_end(&rest[1..], *byte).unwrap_or(rest.len() - 1),
            b'$' if !bytes[..at]
                .last()
                .is_some_and(|b| is_name_character(char::from(*b))) =>
            {
                dollar_end(rest)
            }
            _ => comment_end(rest).max(1),
        };
    }
    bytes.len()
}

/// Whether a quote after `before` opens a literal with backslash escapes: `E'…'`.
fn is_escaped(before: &[u8]) -> bool {
    let [start @ .., b'e' | b'E'] = before else {
        return false;
    };
    !start
        .last()
        .is_some_and(|b| is_name_character(char::from(*b)))
}

/// Bytes up to behind the closing `quote`, a doubled one being part of the content; `None`: there is none.
fn quoted_end(bytes: &[u8], quote: u8) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = memchr::memchr(quote, &bytes[at..]) {
        at += found + 1;
        if bytes.get(at) != Some(&quote) {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn escaped_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, bytes.get(at + 1)) {
            (b'\\', _) | (b'\'', Some(b'\'')) => at += 2,
            (b'\'', _) => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Bytes of the literal `$tag$…$tag$` that starts here; 1: it is no such literal.
fn dollar_end(bytes: &[u8]) -> usize {
    let Some(second) = memchr::memchr(b'$', &bytes[1..]) else {
        return 1;
    };
    let tag = &bytes[..second + 2];
    let word = &tag[1..tag.len() - 1];
    let is_tag = !word.first().is_some_and(u8::is_ascii_digit)
        && word.iter().all(|b| is_name_character(char::from(*b)));
    if !is_tag {
        return 1;
    }
    let close = memchr::memmem::find(&bytes[tag.len()..], tag);
    close.map_or(bytes.len(), |found| tag.len() + found + tag.len())
}

/// Bytes of the comment that starts here; 0: none does.
fn comment_end(bytes: &[u8]) -> usize {
    if bytes.starts_with(b"--") {
        return memchr::memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
    }
    if !bytes.starts_with(b"/*") {
        return 0;
    }
    let (mut at, mut depth) = (2, 1);
    while depth > 0 && at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"*/") => (at, depth) = (at + 2, depth - 1),
            Some(b"/*") => (at, depth) = (at + 2, depth + 1),
            _ => at += 1,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statements_end_at_semicolons_that_are_not_part_of_something() {
        for (text, expected) in [
            ("select 1", vec!["select 1"]),
            (" ; ;select 1 ; select 2;; ", vec!["select 1 ", "select 2"]),
            (
                "select ';''', \";\"\";\"; x",
                vec!["select ';''', \";\"\";\"", "x"],
            ),
            (
                r"select E'\';', e'\\'; x",
                vec![r"select E'\';', e'\\'", "x"],
            ),
            (r"select '\'; x", vec![r"select '\'", "x"]),
            (
                "do $$ a; b $$; do $a$ $$; $a$; a$b; c",
                vec!["do $$ a; b $$", "do $a$ $$; $a$", "a$b", "c"],
            ),
            (
                "-- a; b\nselect 1 -- ;\n; /* ; /* ; */ ; */ x",
                vec!["select 1 -- ;\n", "x"],
            ),
            ("select $1; x", vec!["select $1", "x"]),
            ("select 'open; x", vec!["select 'open; x"]),
            ("", vec![]),
        ] {
            assert_eq!(statements(text).collect::<Vec<_>>(), expected, "{text}");
        }
    }

    #[test]
    fn the_channels_of_unlisten_are_read_as_the_server_reads_them() {
        let text = "unlisten A; select 'unlisten b'; /* x */UNLISTEN\"B\"\"c\" ; unlisten *; unlistened x; unlisten 5";
        let expected = [
            Unlisten::Channel("a".to_owned()),
            Unlisten::Channel("B\"c".to_owned()),
            Unlisten::All,
        ];
        assert_eq!(unlistened(text).collect::<Vec<_>>(), expected);
        let long = format!("unlisten {}", "ä".repeat(40));
        assert_eq!(
            unlistened(&long).next(),
            Some(Unlisten::Channel("ä".repeat(31)))
        );
    }

    #[test]
    fn a_prepare_is_found_among_other_statements() {
        let text = "select 1; prepare p as select ';'; prepare q(int) as select $1; PREPARE P AS select 2;";
        assert_eq!(prepare_of(text, "p"), Some("PREPARE P AS select 2"));
        assert_eq!(prepare_of(text, "q"), Some("prepare q(int) as select $1"));
        assert_eq!(prepare_of(text, "r"), None);
    }

    proptest! {
        #[test]
        fn no_text_is_lost_or_breaks_it(text in "[;'\"$eE\\\\a \n/*-]{0,40}") {
            let mut rest = text.as_str();
            for statement in statements(&text) {
                let at = rest.find(statement).unwrap();
                rest = &rest[at + statement.len()..];
            }
            let _ = unlistened(&text).count();
        }
    }
}
