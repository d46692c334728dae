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

use std::{collections::HashMap, fmt::Write as _, rc::Rc};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::effect::{self, Effect};

/// What canonical names begin with.
pub const PREFIX: &str = "sluice_";

/// A name that no statement has: to close it is answered with CloseComplete and does nothing.
pub const NO_STATEMENT: &[u8] = b"sluice_none";

/// A statement as a pool knows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement {
    id: u64,
    name: String,
    /// The body of a Parse behind its name: text, zero byte, parameter types.
    body: Box<[u8]>,
    effect: Effect,
}

impl Statement {
    /// What it may leave behind in the session that runs it.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// The name that backends know it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The body of a Parse behind the name.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// All statements of a pool, each once.
#[derive(Debug)]
pub struct Statements {
    by_body: HashMap<Box<[u8]>, Rc<Statement>, FxBuildHasher>,
    next_id: u64,
    max: usize,
}

impl Statements {
    /// Forgets what no client uses once there are more than `max`.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            by_body: HashMap::default(),
            next_id: 1,
            max,
        }
    }

    /// The statement whose Parse has `body` behind its name.
    pub fn intern(&mut self, body: &[u8]) -> Rc<Statement> {
        if let Some(known) = self.by_body.get(body) {
            return Rc::clone(known);
        }
        if self.by_body.len() >= self.max {
            self.by_body
                .retain(|_, statement| Rc::strong_count(statement) > 1);
        }
        let id = self.next_id;
        self.next_id += 1;
        let statement = Rc::new(Statement {
            id,
            name: format!("{PREFIX}{id}"),
            body: body.into(),
            effect: effect::of_text(body),
        });
        self.by_body.insert(body.into(), Rc::clone(&statement));
        statement
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

    pub fn insert(&mut self, statement: &Statement) {
        self.clock += 1;
        self.last_use.insert(statement.id, self.clock);
    }

    pub fn remove(&mut self, statement: &Statement) {
        self.last_use.remove(&statement.id);
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
}

type ByName = FxHashMap<Box<[u8]>, Rc<Statement>>;

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

impl Names {
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.by_name.as_ref()?.get(name)
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
        if by_name.insert(name.into(), statement).is_none() {
            self.bytes = bytes;
        }
        Ok(())
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        let statement = self.by_name.as_mut()?.remove(name)?;
        self.bytes = self.bytes.saturating_sub(name.len() + statement.body.len());
        Some(statement)
    }

    /// The client's own name for the statement that backends know as `canonical`.
    #[must_use]
    pub fn name_of(&self, canonical: &str) -> Option<&[u8]> {
        let mut names = self.by_name.as_ref()?.iter();
        names
            .find(|(_, statement)| statement.name == canonical)
            .map(|(name, _)| &**name)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What has to be taken back when the server skips a message because of an earlier error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// A Parse for the backend: it does not know the statement after all, nor has the client the name, if it asked.
    Parse {
        name: Option<Box<[u8]>>,
        statement: Rc<Statement>,
    },
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: NameLimits = NameLimits {
        count: 2,
        bytes: 100,
    };

    #[test]
    fn one_text_is_one_statement_whoever_prepares_it() {
        let mut statements = Statements::new(10);
        let first = statements.intern(b"select 1\0\0\0");
        assert!(Rc::ptr_eq(&first, &statements.intern(b"select 1\0\0\0")));
        let other = statements.intern(b"select 2\0\0\0");
        assert_ne!(first.name(), other.name());
    }

    #[test]
    fn unused_statements_are_forgotten_and_their_names_never_come_again() {
        let mut statements = Statements::new(1);
        let name = statements.intern(b"a").name().to_owned();
        let held = statements.intern(b"b");
        statements.intern(b"c");
        assert_ne!(statements.intern(b"a").name(), name);
        assert!(Rc::ptr_eq(&held, &statements.intern(b"b")));
    }

    #[test]
    fn a_backend_forgets_what_it_used_longest_ago() {
        let mut statements = Statements::new(10);
        let all: Vec<_> = [b"a", b"b", b"c", b"d", b"e"]
            .map(|body| statements.intern(body))
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
        let statement = statements.intern(b"x");
        names.insert(b"1", Rc::clone(&statement), LIMITS).unwrap();
        names.insert(b"2", Rc::clone(&statement), LIMITS).unwrap();
        assert!(names.insert(b"3", Rc::clone(&statement), LIMITS).is_err());
        names.remove(b"1");
        let long = statements.intern(&[b'y'; 100]);
        assert!(names.insert(b"3", long, LIMITS).is_err());
        names.insert(b"3", statement, LIMITS).unwrap();
        assert!(names.find(b"3").is_some() && names.find(b"1").is_none());
    }
}
