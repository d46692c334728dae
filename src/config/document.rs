//! The text of a configuration file, read up to its types: where each key stands, and which are unknown.

use std::{ops::Range, path::Path};

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer, Error},
};

use super::{
    error::{ConfigError, Place, Problem, Suggestion},
    file::{self, SECTIONS},
};

/// How alike two keys must be for one to be offered in place of the other (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.8;

/// Where each key of the file stands, for errors that are found later.
pub(super) struct Places<'a> {
    file: &'a Path,
    text: &'a str,
    entries: Vec<Entry>,
}

struct Entry {
    /// `section` or `section.key`.
    name: String,
    span: Range<usize>,
}

/// Reads `text`: TOML, known keys only, each of its type.
pub(super) fn read<'a>(
    text: &'a str,
    file: &'a Path,
) -> Result<(file::Config, Places<'a>), ConfigError> {
    let mut places = Places {
        file,
        text,
        entries: Vec::new(),
    };
    let document = DeTable::parse(text).map_err(|cause| ConfigError::Syntax {
        place: places.at(cause.span()),
        cause: Box::new(cause),
    })?;
    places.entries = entries(document.get_ref());
    places.refuse_unknown(document.get_ref())?;
    match file::Config::deserialize(Deserializer::from(document)) {
        Ok(config) => Ok((config, places)),
        Err(cause) => Err(places.mistyped(cause)),
    }
}

impl Places<'_> {
    /// The error for a key whose value is of its type, but will not do.
    pub(super) fn error(&self, key: &'static str, problem: Problem) -> ConfigError {
        let written = self.entries.iter().find(|entry| entry.name == key);
        ConfigError::Value {
            place: self.at(written.map(|entry| entry.span.clone())),
            key,
            problem,
        }
    }

    fn mistyped(&self, cause: Error) -> ConfigError {
        let span = cause.span();
        // The innermost entry around the spot: keys come after their section.
        let entry = span.as_ref().and_then(|span| {
            let around = |entry: &&Entry| entry.span.contains(&span.start);
            self.entries.iter().rev().find(around)
        });
        ConfigError::Type {
            place: self.at(span),
            key: entry.map_or_else(String::new, |entry| entry.name.clone()),
            cause: Box::new(cause),
        }
    }

    fn refuse_unknown(&self, document: &DeTable<'_>) -> Result<(), ConfigError> {
        for (section, value) in document {
            let Some((name, keys)) = SECTIONS.iter().find(|(name, _)| name == section.get_ref())
            else {
                let suggestion = suggest_section(section.get_ref());
                return Err(self.unknown(
                    section.get_ref().to_string(),
                    section.span(),
                    suggestion,
                ));
            };
            for key in table(value).into_iter().flat_map(|table| table.keys()) {
                if !keys.contains(&key.get_ref().as_ref()) {
                    let suggestion = suggest_key(name, keys, key.get_ref());
                    return Err(self.unknown(
                        format!("{name}.{}", key.get_ref()),
                        key.span(),
                        suggestion,
                    ));
                }
            }
        }
        Ok(())
    }

    fn unknown(&self, key: String, span: Range<usize>, suggestion: Suggestion) -> ConfigError {
        ConfigError::UnknownKey {
            place: self.at(Some(span)),
            key,
            suggestion,
        }
    }

    fn at(&self, span: Option<Range<usize>>) -> Place {
        let line = span.and_then(|span| {
            let before = self.text.as_bytes().get(..span.start)?;
            Some(1 + memchr::memchr_iter(b'\n', before).count())
        });
        Place {
            file: self.file.to_owned(),
            line,
        }
    }
}

fn entries(document: &DeTable<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (section, value) in document {
        entries.push(Entry {
            name: section.get_ref().to_string(),
            span: section.span().start..value.span().end,
        });
        for (key, value) in table(value).into_iter().flatten() {
            entries.push(Entry {
                name: format!("{}.{}", section.get_ref(), key.get_ref()),
                span: key.span().start..value.span().end,
            });
        }
    }
    entries
}

fn table<'a, 'i>(value: &'a Spanned<DeValue<'i>>) -> Option<&'a DeTable<'i>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

/// For a key at the top: a section of that name, or the section that the key belongs to.
fn suggest_section(written: &str) -> Suggestion {
    let names = SECTIONS.iter().map(|(name, _)| *name);
    nearest(written, names)
        .map(Suggestion::Section)
        .or_else(|| key_elsewhere(written))
        .unwrap_or(Suggestion::Sections)
}

/// For a key in a section: one of its keys, or the other section that has this very key.
fn suggest_key(section: &'static str, keys: &'static [&str], written: &str) -> Suggestion {
    key_elsewhere(written)
        .or_else(|| {
            nearest(written, keys.iter().copied()).map(|key| Suggestion::Key { section, key })
        })
        .unwrap_or(Suggestion::Keys(keys))
}

fn key_elsewhere(written: &str) -> Option<Suggestion> {
    SECTIONS.iter().find_map(|(section, keys)| {
        let key = keys.iter().find(|key| **key == written)?;
        Some(Suggestion::Key { section, key })
    })
}

fn nearest(written: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    known
        .map(|known| (known, strsim::jaro_winkler(known, written)))
        .filter(|(_, likeness)| *likeness >= ALIKE)
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(known, _)| known)
}
