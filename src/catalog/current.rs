//! What was read at the present revision, for as long as that is the present one.
//!
//! ```text
//! look up ─▶ revision in the file, now ─┬─ the one remembered ─▶ what was read then still holds
//!                                       └─ another, or busy ───▶ read, and remember with its revision
//! ```
//! Every change raises the revision in its own transaction, whichever process makes it. So a value of the present
//! revision is what reading it again would give; nothing here has an age. The revision is read in the caller's own
//! thread: a few microseconds, where asking one of the readers means several switches of threads.

use std::{collections::HashMap, hash::Hash, io, path::Path, sync::Mutex, time::Duration};

use rusqlite::{Connection, OpenFlags};

use crate::catalog::{CatalogError, cache::locked, types::Revision};

/// Values of one kind that are remembered.
const VALUES_MAX: usize = 4_096;

/// The revision in the file.
pub(super) struct Present(Mutex<Connection>);

impl Present {
    pub(super) fn open(path: &Path) -> Result<Self, CatalogError> {
        let opened = Self::connect(path).map_err(|error| CatalogError::Inaccessible {
            path: path.to_owned(),
            source: io::Error::other(error),
        });
        opened.map(|connection| Self(Mutex::new(connection)))
    }

    fn connect(path: &Path) -> rusqlite::Result<Connection> {
        // Under a lock of ours, so SQLite needs none of its own.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.pragma_update(None, "query_only", true)?;
        connection.busy_timeout(Duration::ZERO)?;
        Ok(connection)
    }

    /// `None`: it cannot be told without waiting. Every change that was confirmed before this call is counted.
    pub(super) fn revision(&self) -> Option<Revision> {
        let connection = locked(&self.0);
        let mut query = connection
            .prepare_cached("SELECT revision FROM catalogue WHERE id = 1")
            .ok()?;
        query.query_row([], |row| row.get(0)).ok().map(Revision)
    }
}

/// Values that were read, all at one revision.
pub(super) struct AsOf<K, V>(Mutex<Values<K, V>>);

struct Values<K, V> {
    revision: Revision,
    by_key: HashMap<K, V>,
}

impl<K, V> Default for AsOf<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Values {
            revision: Revision(0),
            by_key: HashMap::new(),
        }))
    }
}

impl<K: Eq + Hash, V: Clone> AsOf<K, V> {
    /// The value, if it was read at `revision`.
    pub(super) fn find(&self, revision: Revision, key: &K) -> Option<V> {
        let values = locked(&self.0);
        (values.revision == revision)
            .then(|| values.by_key.get(key).cloned())
            .flatten()
    }

    /// Keeps a value that was read at `revision` or later, in place of all older ones.
    pub(super) fn remember(&self, revision: Revision, key: K, value: V) {
        let mut values = locked(&self.0);
        if revision < values.revision {
            return;
        }
        if revision > values.revision || values.by_key.len() >= VALUES_MAX {
            values.revision = revision;
            values.by_key = HashMap::new();
        }
        values.by_key.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_holds_at_its_own_revision_only() {
        let values = AsOf::default();
        values.remember(Revision(2), "a", 1);
        assert_eq!(values.find(Revision(2), &"a"), Some(1));
        assert_eq!(values.find(Revision(3), &"a"), None);
        values.remember(Revision(3), "b", 2);
        assert_eq!(values.find(Revision(3), &"a"), None);
        // Read before the change, and told late.
        values.remember(Revision(2), "b", 1);
        assert_eq!(values.find(Revision(3), &"b"), Some(2));
        assert_eq!(values.find(Revision(2), &"b"), None);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let values = AsOf::default();
        for number in 0..=VALUES_MAX {
            values.remember(Revision(1), number, ());
        }
        assert!(locked(&values.0).by_key.len() <= VALUES_MAX);
        assert!(values.find(Revision(1), &VALUES_MAX).is_some());
    }
}
