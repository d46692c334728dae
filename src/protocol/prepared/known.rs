//! Which statements a backend has, and which of them it is to forget.

use std::fmt::Write as _;

use rustc_hash::FxHashMap;

use super::{PREFIX, Statement};

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
