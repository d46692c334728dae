//! Statements that a client has prepared in SQL.

use std::{collections::BTreeMap, rc::Rc};

use super::{NameLimits, TooManyStatements};
use crate::protocol::{
    own_settings::OwnSettings,
    residue::{self, Residue},
};

/// A client's statements of SQL's own PREPARE: the server's session has them by these names, so they are prepared anew
/// on each backend that serves the client, and deallocated where it serves another. Never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct SqlStatements {
    /// `PREPARE name … AS …` by name.
    texts: BTreeMap<String, String>,
    residue: Residue,
    own_settings: Box<[Box<str>]>,
}

impl SqlStatements {
    /// From names and texts; `None`: there are none.
    pub fn new(
        texts: BTreeMap<String, String>,
        limits: NameLimits,
    ) -> Result<Option<Rc<Self>>, TooManyStatements> {
        let bytes: usize = texts
            .iter()
            .map(|(name, text)| name.len() + text.len())
            .sum();
        if texts.len() > limits.count || bytes > limits.bytes {
            return Err(TooManyStatements {
                count: limits.count,
                bytes: limits.bytes,
            });
        }
        if texts.is_empty() {
            return Ok(None);
        }
        let mut residue = Residue::empty();
        let mut own_settings = OwnSettings::default();
        for text in texts.values() {
            residue |= residue::of_text(text.as_bytes());
            own_settings.read(text.as_bytes(), true);
        }
        if own_settings.is_lost() {
            residue |= Residue::DIRTY;
        }
        Ok(Some(Rc::new(Self {
            texts,
            residue,
            own_settings: own_settings.into_names(),
        })))
    }

    /// What they may leave behind in the session that runs them: an EXECUTE does not say what it runs.
    #[must_use]
    pub fn residue(&self) -> Residue {
        self.residue
    }

    /// The settings of the application's own that they may set.
    #[must_use]
    pub fn own_settings(&self) -> &[Box<str>] {
        &self.own_settings
    }

    #[must_use]
    pub fn contains(&self, name: &[u8]) -> bool {
        std::str::from_utf8(name).is_ok_and(|name| self.texts.contains_key(name))
    }

    /// Names and texts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Whether both are the same, in the one place where they are kept.
    #[must_use]
    pub fn same(one: Option<&Rc<Self>>, other: Option<&Rc<Self>>) -> bool {
        match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => Rc::ptr_eq(one, other),
            _ => false,
        }
    }
}
