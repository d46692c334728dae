//! The `options` startup parameter: a command line for the backend, of which settings are the part that matters.
//!
//! PostgreSQL splits the text at white space (a backslash keeps the next character as it is) and reads the words
//! as `postgres` reads its own arguments (`pg_split_opts` and `process_postgres_switches` in its sources). Sluice
//! takes every spelling of a setting, and the bare word `reference=ref` by which Supavisor's users name a tenant:
//!
//! ```text
//! -c name=value    -cname=value    --name=value    reference=ref
//! ```

use crate::protocol::error::SqlState;

/// The one setting that may stand without a switch in front of it.
const REFERENCE: &str = "reference";

/// Startup parameters that are about the protocol begin with this.
pub(super) const PROTOCOL_OPTION_PREFIX: &str = "_pq_.";

/// A word of `options` that is not a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("invalid command-line argument for server process: {argument}")]
    Argument { argument: String },
    #[error("-c {name} requires a value")]
    ShortWithoutValue { name: String },
    #[error("--{name} requires a value")]
    LongWithoutValue { name: String },
    #[error("unrecognized configuration parameter \"{name}\"")]
    Unrecognized { name: String },
}

impl OptionsError {
    /// The code PostgreSQL answers with.
    #[must_use]
    pub fn code(&self) -> SqlState {
        match self {
            Self::Argument { .. }
            | Self::ShortWithoutValue { .. }
            | Self::LongWithoutValue { .. } => SqlState::SYNTAX_ERROR,
            Self::Unrecognized { .. } => SqlState::UNDEFINED_OBJECT,
        }
    }
}

/// Reads the settings in `options`, in their order. A name may come twice; the later value holds.
pub fn parse(options: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let mut words = Words(options);
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        if word == "--" {
            break;
        }
        settings.push(setting(word, &mut words)?);
    }
    for word in words {
        settings.push(bare(word)?);
    }
    Ok(settings)
}

/// Reads a boolean as PostgreSQL reads one in a setting: any case, and any beginning that is not ambiguous.
#[must_use]
pub fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "" => None,
        "1" | "on" => Some(true),
        "0" | "of" | "off" => Some(false),
        value if "true".starts_with(value) || "yes".starts_with(value) => Some(true),
        value if "false".starts_with(value) || "no".starts_with(value) => Some(false),
        _ => None,
    }
}

/// Whether a startup parameter of that name is a setting. The others steer the connection itself, so whoever passes
/// settings on as startup parameters must never be given one of them as a setting.
#[must_use]
pub fn is_setting(name: &str) -> bool {
    !matches!(name, "" | "user" | "database" | "options" | "replication")
        && !name.starts_with(PROTOCOL_OPTION_PREFIX)
}

/// Reads one word, and the next one as well where `-c` stands alone.
fn setting(word: String, words: &mut Words<'_>) -> Result<(String, String), OptionsError> {
    if let Some(assignment) = word.strip_prefix("--") {
        let without_value = |name| OptionsError::LongWithoutValue { name };
        return assigned(assignment, without_value);
    }
    if let Some(attached) = word.strip_prefix("-c") {
        let without_value = |name| OptionsError::ShortWithoutValue { name };
        if attached.is_empty() {
            let next = words.next();
            let assignment = next.ok_or(OptionsError::Argument { argument: word })?;
            return assigned(&assignment, without_value);
        }
        return assigned(attached, without_value);
    }
    bare(word)
}

fn bare(word: String) -> Result<(String, String), OptionsError> {
    match word.split_once('=') {
        Some((REFERENCE, value)) => Ok((REFERENCE.to_owned(), value.to_owned())),
        _ => Err(OptionsError::Argument { argument: word }),
    }
}

/// Splits `name=value` at the first equals sign.
fn assigned(
    assignment: &str,
    without_value: impl FnOnce(String) -> OptionsError,
) -> Result<(String, String), OptionsError> {
    let Some((name, value)) = assignment.split_once('=') else {
        return Err(without_value(assignment.to_owned()));
    };
    let name = setting_name(name);
    if !is_setting(&name) {
        return Err(OptionsError::Unrecognized { name });
    }
    Ok((name, value.to_owned()))
}

/// PostgreSQL lets a dash stand for an underscore in a setting's name, after `-c` as well as after `--`.
fn setting_name(name: &str) -> String {
    name.replace('-', "_")
}

/// The words of a command line, without the backslashes that protect white space and other backslashes.
struct Words<'a>(&'a str);

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let text = self.0.trim_start_matches(is_space);
        if text.is_empty() {
            self.0 = text;
            return None;
        }
        let mut word = String::new();
        let mut characters = text.chars();
        loop {
            match characters.next() {
                // A backslash that ends the text protects nothing, and PostgreSQL drops it.
                Some('\\') => word.extend(characters.next()),
                Some(character) if !is_space(character) => word.push(character),
                Some(_) | None => break,
            }
        }
        self.0 = characters.as_str();
        Some(word)
    }
}

/// White space as C's `isspace` knows it.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

#[cfg(test)]
mod tests;
