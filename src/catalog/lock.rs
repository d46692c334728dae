//! One process at a time: the lock beside the catalogue's file.
//!
//! Only the process that serves a session can end it. A second one on the same catalogue would confirm revocations while the
//! sessions that they concern live on in the first, and would take these for over in the trail. The lock is the kernel's
//! (`flock(2)`), so it goes with the process, however that ends; the file it is on stays. That is not the catalogue itself:
//! SQLite loses its own locks when a process closes any other handle on it.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::catalog::error::CatalogError;

/// Held for as long as the catalogue is open.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the catalogue at `path`, without waiting for whoever has it.
    pub(super) fn take(path: &Path) -> Result<Self, CatalogError> {
        let inaccessible = |source| CatalogError::Inaccessible {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(beside(path))
            .map_err(inaccessible)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(CatalogError::InUse {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(inaccessible(source)),
        }
    }
}

/// `sluice.db-lock` beside `sluice.db`, named as SQLite names its own files there.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push("-lock");
    name.into()
}
