//! What can be wrong with a configuration, told so that the reader knows what to change and where.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::file;

/// Why there is no [`super::Config`]. The text names the file, the line and the key, and the cause as well.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "cannot read the configuration {}: {cause}; name another file with --config, or start from pooler.toml.example",
        path.display()
    )]
    Read { path: PathBuf, cause: io::Error },
    #[error("{place}: this is not TOML: {}", one_line(cause))]
    Syntax {
        place: Place,
        cause: Box<toml::de::Error>,
    },
    #[error("{place}: unknown key {key}; {suggestion}")]
    UnknownKey {
        place: Place,
        key: String,
        suggestion: Suggestion,
    },
    #[error("{place}: {key}: {}", one_line(cause))]
    Type {
        place: Place,
        key: String,
        cause: Box<toml::de::Error>,
    },
    #[error("{place}: {key} {problem}")]
    Value {
        place: Place,
        key: &'static str,
        problem: Problem,
    },
    #[error("the environment variable {variable} {problem}")]
    Environment {
        variable: &'static str,
        problem: Problem,
    },
}

/// A line of the configuration file, or the whole file where a key is not written at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// What an unknown key was probably meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suggestion {
    Key {
        section: &'static str,
        key: &'static str,
    },
    Section(&'static str),
    /// Nothing is near: the keys of the section that it stands in.
    Keys(&'static [&'static str]),
    /// Nothing is near, and it is in no section.
    Sections,
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { section, key } => write!(f, "did you mean {key} in section [{section}]?"),
            Self::Section(section) => write!(f, "did you mean section [{section}]?"),
            Self::Keys(keys) => write!(f, "the section knows {}", keys.join(", ")),
            Self::Sections => {
                let names: Vec<_> = file::SECTIONS.iter().map(|(name, _)| *name).collect();
                write!(f, "the sections are {}", names.join(", "))
            }
        }
    }
}

/// What is wrong with a value, worded to follow the name of its key.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("must be more than 0")]
    Zero,
    #[error("must be more than 0; write \"off\" for no limit")]
    ZeroNotOff,
    #[error("is {value}; at most {max} is allowed")]
    TooMany { value: usize, max: usize },
    #[error("is {}; at most {} is allowed", humantime::format_duration(*value), humantime::format_duration(*max))]
    TooLong { value: Duration, max: Duration },
    #[error(
        "({value}) is more than {other} ({limit}) lets it have: lower the one or raise the other"
    )]
    OverBudget {
        value: u32,
        other: &'static str,
        limit: u32,
    },
    #[error("is the same address as {other}: each listener needs one of its own")]
    SameAddress { other: &'static str },
    #[error(
        "holds the same key as {other}, and would open as much: make another one with `openssl rand -hex 32`"
    )]
    SameKey { other: &'static str },
    #[error("is set but {other} is not: give both, or neither")]
    Alone { other: &'static str },
    #[error("names {}, which cannot be read: {cause}; {remedy}", path.display())]
    Unreadable {
        path: PathBuf,
        cause: io::Error,
        remedy: &'static str,
    },
    #[error("is not set, nor is the environment variable {variable}: set one of them; {remedy}")]
    NoKey {
        variable: &'static str,
        remedy: &'static str,
    },
    #[error(
        "holds no key: it must be 64 hexadecimal digits (or, in a file, 32 bytes); make one with `openssl rand -hex 32`"
    )]
    CatalogKeyShape,
    #[error(
        "holds no key that will do: it must be {min} to {max} printable ASCII characters without spaces; make one with `openssl rand -hex 32`"
    )]
    AdminKeyShape { min: usize, max: usize },
    #[error(
        "is no host name: write one such as \"pooler.example.com\", an IPv4 address, or \"[2001:db8::1]\""
    )]
    NotAHost,
    #[error("is no level: write off, error, warn, info, debug or trace")]
    Level,
    #[error(
        "is no log filter: {0}; write a level such as \"info\", or \"warn,sluice::session=debug\""
    )]
    Filter(tracing_subscriber::filter::ParseError),
}

impl Problem {
    /// `remedy` is for a file that is not there.
    pub(super) fn unreadable(path: &Path, cause: io::Error, remedy: &'static str) -> Self {
        let remedy = match cause.kind() {
            // Whoever made a new key then would lose what the old one opens.
            io::ErrorKind::PermissionDenied => "let the user that Sluice runs as read it",
            _ => remedy,
        };
        Self::Unreadable {
            path: path.to_owned(),
            cause,
            remedy,
        }
    }
}

/// The message alone: the place is told by us, and log lines are one line.
fn one_line(error: &toml::de::Error) -> String {
    let message = error.message().trim().replace('\n', ", ");
    match message.rsplit_once(", expected ") {
        Some((found, kind)) => format!("{found}, expected {}", plain_type(kind)),
        None if message == "wanted string or table" => {
            "expected text in quotation marks".to_owned()
        }
        None => message,
    }
}

/// What serde and Rust call a type, as people call it.
#[must_use]
pub fn plain_type(kind: &str) -> &str {
    match kind {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, not negative",
        "i32" | "i64" => "a whole number",
        "a string" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        _ if kind.starts_with("struct ") => "an object",
        _ => kind,
    }
}
