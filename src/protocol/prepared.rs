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

use std::{cell::Cell, collections::BTreeMap, fmt::Write as _, hash::BuildHasher as _, rc::Rc};

use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap};

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

/// What one backend knows, oldest use first out.
#[derive(Debug, Default)]
pub struct Known {
    last_use: FxHashMap<u64, u64>,
    clock: u64,
}

impl Known {
    /// Notes a use of `statement`; `false`: the backend does not know it.
    pub fn touch(&mut self, statement: &Statement) -> bool {
        self.clock += 1;
        match self.last_use.get_mut(&statement.id) {
            Some(used) => {
                *used = self.clock;
                true
            }
            None => false,
        }
    }

    /// Whether the backend knows `statement`, which does not use it.
    #[must_use]
    pub fn contains(&self, statement: &Statement) -> bool {
        self.last_use.contains_key(&statement.id)
    }

    pub fn insert(&mut self, statement: &Statement) {
        self.clock += 1;
        self.last_use.insert(statement.id, self.clock);
    }

    pub fn remove(&mut self, statement: &Statement) {
        self.last_use.remove(&statement.id);
    }

    /// Removes the statement of that name, if there is one.
    pub fn remove_named(&mut self, canonical: &str) {
        let id = canonical.strip_prefix(PREFIX).map(str::parse);
        if let Some(Ok(id)) = id {
            self.last_use.remove(&id);
        }
    }

    pub fn clear(&mut self) {
        self.last_use.clear();
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.last_use.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last_use.is_empty()
    }

    /// SQL that lets the backend forget what it has not used for longest, down to three quarters of `max`; `None`:
    /// it knows no more than `max`.
    pub fn shrink(&mut self, max: usize) -> Option<String> {
        if self.len() <= max {
            return None;
        }
        let mut by_age: Vec<(u64, u64)> = self
            .last_use
            .iter()
            .map(|(id, used)| (*used, *id))
            .collect();
        by_age.sort_unstable();
        let mut sql = String::new();
        for (_, id) in by_age.iter().take(self.len() - max * 3 / 4) {
            self.last_use.remove(id);
            let _ = write!(sql, "DEALLOCATE {PREFIX}{id};");
        }
        Some(sql)
    }
}

/// A client's names.
#[derive(Debug, Default)]
pub struct Names {
    /// Made with the first statement: most clients prepare none.
    by_name: Option<Box<ByName>>,
    bytes: usize,
    /// Counts uses.
    clock: u64,
}

type ByName = FxHashMap<Box<[u8]>, Named>;

#[derive(Debug)]
struct Named {
    statement: Rc<Statement>,
    last_use: u64,
}

/// A client has prepared more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many prepared statements: the limit is {count} of {bytes} bytes in all")]
pub struct TooManyStatements {
    pub count: usize,
    pub bytes: usize,
}

/// What a client may prepare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameLimits {
    pub count: usize,
    pub bytes: usize,
}

impl NameLimits {
    /// For what has been within its limits before.
    pub const NONE: Self = Self {
        count: usize::MAX,
        bytes: usize::MAX,
    };
}

impl Names {
    /// The client's statement of that name, to be used.
    #[must_use]
    pub fn find(&mut self, name: &[u8]) -> Option<&mut Rc<Statement>> {
        let named = self.by_name.as_mut()?.get_mut(name)?;
        self.clock += 1;
        named.last_use = self.clock;
        Some(&mut named.statement)
    }

    pub fn insert(
        &mut self,
        name: &[u8],
        statement: Rc<Statement>,
        limits: NameLimits,
    ) -> Result<(), TooManyStatements> {
        let by_name = self.by_name.get_or_insert_default();
        let bytes = self.bytes + name.len() + statement.body.len();
        if by_name.len() >= limits.count || bytes > limits.bytes {
            return Err(TooManyStatements {
                count: limits.count,
                bytes: limits.bytes,
            });
        }
        let named = Named {
            statement,
            last_use: self.clock,
        };
        if by_name.insert(name.into(), named).is_none() {
            self.bytes = bytes;
        }
        Ok(())
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        let statement = self.by_name.as_mut()?.remove(name)?.statement;
        self.bytes = self.bytes.saturating_sub(name.len() + statement.body.len());
        Some(statement)
    }

    /// The client's own name for the statement that backends know as `canonical`; of several, the one used last.
    #[must_use]
    pub fn name_of(&self, canonical: &str) -> Option<&[u8]> {
        let names = self.by_name.as_ref()?.iter();
        names
            .filter(|(_, named)| named.statement.name == canonical)
            .max_by_key(|(_, named)| named.last_use)
            .map(|(name, _)| &**name)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.as_ref().is_none_or(|names| names.is_empty())
    }
}

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

/// What has to be taken back when the server skips a message because of an earlier error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// The pooler's own word on the unnamed statement: the backend has whatever it had.
    Unnamed,
    /// The client's Parse of the unnamed statement.
    UnnamedParse {
        /// What it would have replaced was the client's, too.
        was_own: bool,
        /// The body of the Parse that it would have replaced; `None`: it has failed itself, and so replaced it.
        before: Option<Box<[u8]>>,
    },
    /// A Parse for the backend: it does not know the statement after all, nor has the client the name, if it asked.
    Parse {
        name: Option<Box<[u8]>>,
        statement: Rc<Statement>,
    },
    /// The pooler's own Close of a statement: the backend still knows it.
    Dropped(Rc<Statement>),
    /// A Parse that the backend did not need: the client has not got the name.
    Name(Box<[u8]>),
    /// A Close: the client still has the name.
    Close {
        name: Box<[u8]>,
        statement: Rc<Statement>,
    },
}

impl Undo {
    /// Whether it says what a client's `name` means, or whether the backend knows `statement`.
    #[must_use]
    pub fn is_about(&self, name: &[u8], statement: Option<&Statement>) -> bool {
        match self {
            Self::Parse {
                name: own,
                statement: known,
            } => {
                own.as_deref() == Some(name) || statement.is_some_and(|other| other.id == known.id)
            }
            Self::Name(own) | Self::Close { name: own, .. } => **own == *name,
            Self::Dropped(known) => statement.is_some_and(|other| other.id == known.id),
            Self::Unnamed | Self::UnnamedParse { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Meaning<'_> = Meaning::in_utf8(Reading::DEFAULT);
    const LATIN1: Meaning<'_> = Meaning {
        encoding: "LATIN1",
        ..USUAL
    };

    const LIMITS: NameLimits = NameLimits {
        count: 2,
        bytes: 100,
    };

    #[test]
    fn one_text_is_one_statement_whoever_prepares_it() {
        let mut statements = Statements::new(10);
        let first = statements.intern(b"select 1\0\0\0", USUAL);
        assert!(Rc::ptr_eq(
            &first,
            &statements.intern(b"select 1\0\0\0", USUAL)
        ));
        let other = statements.intern(b"select 2\0\0\0", USUAL);
        assert_ne!(first.name(), other.name());
    }

    #[test]
    fn unused_statements_are_forgotten_and_their_names_never_come_again() {
        let mut statements = Statements::new(1);
        let name = statements.intern(b"a", USUAL).name().to_owned();
        let held = statements.intern(b"b", USUAL);
        statements.intern(b"c", USUAL);
        assert_ne!(statements.intern(b"a", USUAL).name(), name);
        assert!(Rc::ptr_eq(&held, &statements.intern(b"b", USUAL)));
    }

    #[test]
    fn the_same_bytes_in_another_encoding_are_another_statement() {
        let mut statements = Statements::new(10);
        let body = "select 'ï'\0\0\0".as_bytes();
        let one = statements.intern(body, USUAL);
        let other = statements.intern(body, LATIN1);
        assert_ne!(one.name(), other.name());
        assert!(Rc::ptr_eq(
            &statements.renewed(&one, LATIN1, false).unwrap(),
            &other
        ));
        assert_eq!(statements.renewed(&one, LATIN1, true), None);
        assert_eq!(statements.renewed(&other, LATIN1, false), None);
        let ascii = statements.intern(b"select 1", LATIN1);
        assert!(Rc::ptr_eq(&ascii, &statements.intern(b"select 1", USUAL)));
    }

    #[test]
    fn what_is_read_in_another_way_is_another_statement_unless_it_was_parsed_before() {
        let mut statements = Statements::new(10);
        let path = Reading::of_settings([("search_path", "a")].into_iter());
        let other = Meaning::in_utf8(path);
        let one = statements.intern(b"select 1", USUAL);
        assert_ne!(statements.intern(b"select 1", other), one);
        assert_eq!(
            statements.renewed(&one, other, false),
            Some(statements.intern(b"select 1", other))
        );
        assert_eq!(statements.renewed(&one, other, true), None);
    }

    #[test]
    fn nobody_shares_a_statement_while_it_is_not_known_how_it_is_read() {
        let mut statements = Statements::new(10);
        let unknown = Meaning {
            reading: None,
            ..USUAL
        };
        let one = statements.intern(b"select 1", unknown);
        assert_ne!(statements.intern(b"select 1", unknown), one);
        let usual = statements.intern(b"select 1", USUAL);
        assert_eq!(statements.renewed(&one, USUAL, false), Some(usual));
    }

    #[test]
    fn nobody_shares_a_statement_that_stands_for_the_moment() {
        let mut statements = Statements::new(10);
        let one = statements.intern(b"select 'now'::timestamptz", USUAL);
        assert_ne!(statements.intern(b"select 'now'::timestamptz", USUAL), one);
    }

    #[test]
    fn a_renewed_statement_has_another_name_for_everybody() {
        let mut statements = Statements::new(10);
        let old = statements.intern(b"a", USUAL);
        assert_eq!(statements.renewed(&old, USUAL, true), None);
        statements.renew();
        let new = statements.renewed(&old, USUAL, true).unwrap();
        assert_ne!(new.name(), old.name());
        assert!(Rc::ptr_eq(&statements.intern(b"a", USUAL), &new));
        assert_eq!(statements.renewed(&new, USUAL, true), None);
    }

    #[test]
    fn a_backend_forgets_what_it_used_longest_ago() {
        let mut statements = Statements::new(10);
        let all: Vec<_> = [b"a", b"b", b"c", b"d", b"e"]
            .map(|body| statements.intern(body, USUAL))
            .to_vec();
        let mut known = Known::default();
        for statement in &all {
            known.insert(statement);
        }
        assert_eq!(known.shrink(5), None);
        assert!(known.touch(&all[0]));
        assert_eq!(
            known.shrink(4).unwrap(),
            "DEALLOCATE sluice_2;DEALLOCATE sluice_3;"
        );
        assert!(known.touch(&all[0]) && !known.touch(&all[1]));
    }

    #[test]
    fn a_client_may_prepare_only_so_much() {
        let mut statements = Statements::new(10);
        let mut names = Names::default();
        let statement = statements.intern(b"x", USUAL);
        names.insert(b"1", Rc::clone(&statement), LIMITS).unwrap();
        names.insert(b"2", Rc::clone(&statement), LIMITS).unwrap();
        assert!(names.insert(b"3", Rc::clone(&statement), LIMITS).is_err());
        names.remove(b"1");
        let long = statements.intern(&[b'y'; 100], USUAL);
        assert!(names.insert(b"3", long, LIMITS).is_err());
        names.insert(b"3", statement, LIMITS).unwrap();
        assert!(names.find(b"3").is_some() && names.find(b"1").is_none());
    }
}
