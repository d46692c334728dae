//! What a client calls its statements, and how many it may have.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::Statement;

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
