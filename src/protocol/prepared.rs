//! Named prepared statements over any backend.
//!
//! A client names its statements as it likes; two clients may use one name for two texts, and one text may be known
//! under many names. So a pool gives every statement (text and parameter types) one canonical name, which is what
//! its backends know it by. A client's names are translated on their way.
//!
//! ```text
//! client A  "s1" ─┐                           ┌─ backend 1 knows it
//! client B  "q7" ─┴─▶ Statement "sluice_42" ──┴─ backend 2 does not yet: Parse goes ahead of the Bind
//! ```

mod known;
mod names;
mod sql_statements;
#[cfg(test)]
mod tests;
mod undo;

use std::{cell::Cell, hash::BuildHasher as _, rc::Rc};

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

pub use self::{
    known::Known,
    names::{NameLimits, Names, TooManyStatements},
    sql_statements::SqlStatements,
    undo::Undo,
};
use super::{
    own_settings::OwnSettings,
    reading::{self, Change, Reading},
    residue::{self, Residue},
};

/// The encoding of nearly all clients, as servers call it.
pub const UTF8: &str = "UTF8";

/// What canonical names begin with.
pub const PREFIX: &str = "sluice_";

/// A name that no statement has: to close it is answered with CloseComplete and does nothing.
pub const NO_STATEMENT: &[u8] = b"sluice_none";

/// What decides, beside its text, what a Parse means: the settings of the session that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning<'a> {
    /// The client's encoding, as the server calls it.
    pub encoding: &'a str,
    /// `None`: something was sent that may change it, and the server has not told yet.
    pub reading: Option<Reading>,
}

impl Meaning<'static> {
    #[must_use]
    pub const fn in_utf8(reading: Reading) -> Self {
        Self {
            encoding: UTF8,
            reading: Some(reading),
        }
    }
}

/// A statement as a pool knows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement {
    id: u64,
    name: String,
    /// The body of a Parse behind its name: text, zero byte, parameter types.
    body: Box<[u8]>,
    residue: Residue,
    own_settings: Box<[Box<str>]>,
    may_forget: bool,
    change: Change,
    is_ascii: bool,
    reading: Option<Reading>,
    /// Whether the server had something to tell when it was parsed.
    is_noticed: Cell<bool>,
    /// What its text is encoded in, where that matters: a client encoding other than UTF-8.
    encoding: Option<Box<str>>,
}

impl Statement {
    /// Whether it is the one that a Parse with this body means.
    fn is(&self, body: &[u8], encoding: Option<&str>, reading: Option<Reading>) -> bool {
        self.reading == reading && self.encoding.as_deref() == encoding && *self.body == *body
    }

    fn hash(body: &[u8], encoding: Option<&str>, reading: Option<Reading>) -> u64 {
        FxBuildHasher.hash_one((body, encoding, reading))
    }

    /// Whether its bytes are another text for a client with this encoding.
    fn is_foreign_in(&self, encoding: &str) -> bool {
        match &self.encoding {
            Some(own) => **own != *encoding,
            None => encoding != UTF8 && !self.is_ascii,
        }
    }

    /// Whether it means the same in every encoding.
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.is_ascii
    }

    /// What it may leave behind in the session that runs it.
    #[must_use]
    pub fn residue(&self) -> Residue {
        self.residue
    }

    /// Whether running it may take away every prepared statement.
    #[must_use]
    pub fn may_forget(&self) -> bool {
        self.may_forget
    }

    /// What running it may change in how the server reads texts.
    #[must_use]
    pub fn change(&self) -> Change {
        self.change
    }

    /// Notes that the server had something to tell when it parsed it: the next who asks for that is told, too.
    pub(super) fn notice(&self) {
        self.is_noticed.set(true);
    }

    #[must_use]
    pub fn is_noticed(&self) -> bool {
        self.is_noticed.get()
    }

    /// The settings of the application's own that it may set.
    #[must_use]
    pub fn own_settings(&self) -> &[Box<str>] {
        &self.own_settings
    }

    /// The name that backends know it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.body
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
    }

    /// The body of a Parse behind the name.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// Whose unnamed statement it is, and which of those that this client of a pool has had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    client: u64,
    statement: u64,
}

impl Owner {
    /// The same client with its next one.
    #[must_use]
    pub fn next(self) -> Self {
        Self {
            statement: self.statement + 1,
            ..self
        }
    }
}

/// All statements of a pool, each once.
#[derive(Debug)]
pub struct Statements {
    shared: HashTable<Rc<Statement>>,
    next_id: u64,
    /// What was interned before this one may have plans that no longer fit.
    fresh_from: u64,
    next_owner: u64,
    max: usize,
}

impl Statements {
    /// Forgets what no client uses once there are more than `max`.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            shared: HashTable::new(),
            next_id: 1,
            fresh_from: 1,
            next_owner: 1,
            max,
        }
    }

    /// A new client of the pool.
    pub fn owner(&mut self) -> Owner {
        let owner = Owner {
            client: self.next_owner,
            statement: 0,
        };
        self.next_owner += 1;
        owner
    }

    /// Has every statement prepared anew, under another name, when it is used next: after a change of a table, a plan
    /// that was made before may not be used any more, on no backend.
    pub fn renew(&mut self) {
        self.shared.clear();
        self.fresh_from = self.next_id;
    }

    /// What `statement` has been renewed to; `None`: it has not been. What the backend has parsed already, `is_known`,
    /// keeps the meaning that it had then.
    pub fn renewed(
        &mut self,
        statement: &Statement,
        meaning: Meaning<'_>,
        is_known: bool,
    ) -> Option<Rc<Statement>> {
        let has_other_meaning =
            statement.is_foreign_in(meaning.encoding) || statement.reading != meaning.reading;
        let is_stale = statement.id < self.fresh_from || (has_other_meaning && !is_known);
        is_stale.then(|| self.intern(&statement.body, meaning))
    }

    /// The statement whose Parse has `body` behind its name.
    pub fn intern(&mut self, body: &[u8], meaning: Meaning<'_>) -> Rc<Statement> {
        let Meaning { encoding, reading } = meaning;
        let is_ascii = body.is_ascii();
        let encoding = (encoding != UTF8 && !is_ascii).then_some(encoding);
        let hash = Statement::hash(body, encoding, reading);
        let known = self
            .shared
            .find(hash, |statement| statement.is(body, encoding, reading));
        if let Some(known) = known {
            return Rc::clone(known);
        }
        let id = self.next_id;
        self.next_id += 1;
        let mut own_settings = OwnSettings::default();
        own_settings.read(body, true);
        let text = body.split(|byte| *byte == 0).next().unwrap_or_default();
        let statement = Rc::new(Statement {
            id,
            name: format!("{PREFIX}{id}"),
            body: body.into(),
            residue: residue::of_text(body),
            own_settings: own_settings.into_names(),
            may_forget: residue::may_forget_statements(text),
            change: reading::may_change(text, true),
            is_ascii,
            reading,
            is_noticed: Cell::new(false),
            encoding: encoding.map(Into::into),
        });
        if reading.is_some() && !reading::is_momentary(text) {
            self.share(hash, &statement);
        }
        statement
    }

    fn share(&mut self, hash: u64, statement: &Rc<Statement>) {
        if self.shared.len() >= self.max {
            self.shared.retain(|other| Rc::strong_count(other) > 1);
        }
        let statement = Rc::clone(statement);
        self.shared.insert_unique(hash, statement, |other| {
            Statement::hash(&other.body, other.encoding.as_deref(), other.reading)
        });
    }
}
