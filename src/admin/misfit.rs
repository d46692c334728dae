//! What serde says of a value that does not fit, in words for people: the field and what it has to be.
//!
//! What was sent is left out, for it may be a secret.

use crate::config::plain_type;

/// One sentence of the `message` that serde has for the field at `path` (empty or `.` for all of it).
pub(super) fn sentence(path: &str, message: &str) -> String {
    let message = without_place(message);
    let expected = message.rsplit_once(", expected ").map(|(_, rest)| rest);
    if let Some(field) = quoted(message, "missing field `") {
        return format!("`{}` is missing", below(path, field));
    }
    if let Some(field) = quoted(message, "duplicate field `") {
        return format!("`{field}` is there twice");
    }
    if let Some(field) = quoted(message, "unknown field `") {
        let known = expected.map_or("none at all", |known| known.trim_start_matches("one of "));
        return format!("there is no field `{field}`, only {known}");
    }
    let subject = subject(path);
    match expected {
        Some(variants) if message.starts_with("unknown variant") => {
            format!("{subject} must be {variants}")
        }
        Some(kind) if message.starts_with("invalid ") => {
            format!("{subject} must be {}", plain_type(kind))
        }
        _ if is_about_a_number(message) => format!("{subject} must be a whole number"),
        _ => format!("{subject}: {}", said(message)),
    }
}

/// What a type says of a text that it does not take, without the text.
pub(super) fn said(message: &str) -> &str {
    // How the parser of ids begins, which goes on with what it has met.
    if message.starts_with("UUID parsing failed") {
        return "an id looks like 0197068e-5f3a-7cc1-a1b2-0c9d8e7f6a5b";
    }
    message
}

/// serde_json adds where in the text it was; the field says it better.
fn without_place(message: &str) -> &str {
    message
        .rsplit_once(" at line ")
        .map_or(message, |(message, _)| message)
}

/// The name that follows `start` up to its closing mark.
fn quoted<'a>(message: &'a str, start: &str) -> Option<&'a str> {
    message
        .strip_prefix(start)?
        .split_once('`')
        .map(|(name, _)| name)
}

fn is_all(path: &str) -> bool {
    matches!(path, "" | "." | "?")
}

fn below(path: &str, field: &str) -> String {
    if is_all(path) {
        return field.to_owned();
    }
    format!("{path}.{field}")
}

fn subject(path: &str) -> String {
    if is_all(path) {
        return "the body".to_owned();
    }
    format!("`{path}`")
}

/// How Rust's number parsers begin, which name no type.
fn is_about_a_number(message: &str) -> bool {
    ["invalid digit", "number too ", "cannot parse integer"]
        .iter()
        .any(|start| message.starts_with(start))
}
