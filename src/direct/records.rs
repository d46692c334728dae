//! The records that `verify` leaves of the sessions it let in, and `guard` takes up: a file each, in a folder that
//! only the server's user may enter. They outlive both programs, so neither has to be there for the other.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::process::Process;
use crate::names::{PersonId, RoleName, TokenId};

/// A record is short.
const RECORD_MAX_BYTES: u64 = 4096;

/// Why records cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} can be written by others: chmod go-w it", path.display())]
    Open { path: PathBuf },
}

/// A direct session as it was let in. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub backend: Process,
    pub person: PersonId,
    pub token: TokenId,
    pub role: RoleName,
    pub from: IpAddr,
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

/// The folder of the records.
#[derive(Debug, Clone)]
pub struct Records(PathBuf);

impl Records {
    /// The records in `folder`, which must be there and closed to others: whoever writes here ends sessions.
    pub fn open(folder: PathBuf) -> Result<Self, RecordError> {
        let metadata = match fs::metadata(&folder) {
            Ok(metadata) => metadata,
            Err(source) => {
                return Err(RecordError::Io {
                    path: folder,
                    source,
                });
            }
        };
        if metadata.mode() & 0o022 != 0 {
            return Err(RecordError::Open { path: folder });
        }
        Ok(Self(folder))
    }

    /// Writes a record whole or not at all; one of an earlier process with that pid is replaced.
    pub fn keep(&self, record: &Record) -> Result<(), RecordError> {
        let pid = record.backend.pid;
        let draft = self.0.join(format!("{pid}.new"));
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            fs::rename(&draft, self.path(pid))
        };
        write().map_err(|source| RecordError::Io {
            path: draft.clone(),
            source,
        })
    }

    /// The sessions whose backends are still there; records of others are removed.
    pub fn live(&self) -> Result<Vec<Record>, RecordError> {
        let failed = |source| RecordError::Io {
            path: self.0.clone(),
            source,
        };
        let mut live = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Some(record) if record.backend.is_there().unwrap_or(true) => live.push(record),
                Some(_) => {
                    let _ = fs::remove_file(&path);
                }
                None => {
                    tracing::warn!(path = %path.display(), "not a record of a session; it is passed over");
                }
            }
        }
        live.sort_by_key(|record| record.backend.pid);
        Ok(live)
    }

    fn path(&self, pid: i32) -> PathBuf {
        self.0.join(format!("{pid}.json"))
    }
}

fn read(path: &Path) -> Option<Record> {
    let is_short = fs::metadata(path).is_ok_and(|file| file.len() <= RECORD_MAX_BYTES);
    let text = is_short.then(|| fs::read(path).ok()).flatten()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, process::Command};

    use super::*;

    fn record(backend: Process) -> Record {
        Record {
            backend,
            person: PersonId::generate(),
            token: TokenId::parse("abcdefghijkl").unwrap(),
            role: RoleName::parse("app").unwrap(),
            from: "192.0.2.7".parse().unwrap(),
            expires_at: Some(OffsetDateTime::UNIX_EPOCH),
        }
    }

    #[test]
    fn a_record_lasts_as_long_as_its_backend() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let records = Records::open(folder.path().to_owned()).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let stat = format!("{{\"pid\": {pid}, \"started\": 1}}");
        let gone: Process = serde_json::from_str(&stat).unwrap();
        records.keep(&record(gone)).unwrap();
        assert_eq!(records.live().unwrap(), []);
        assert!(!records.path(pid).exists());

        let parent = Process::parent().unwrap();
        let kept = record(parent);
        records.keep(&kept).unwrap();
        fs::write(folder.path().join("7.json"), "{}").unwrap();
        assert_eq!(records.live().unwrap(), [kept]);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let opened = Records::open(folder.path().to_owned());
        assert!(matches!(opened, Err(RecordError::Open { .. })));
    }
}
