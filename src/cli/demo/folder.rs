//! The folder that holds all of a demo: kept where `--data` says, else temporary and removed at the end.
//!
//! ```text
//! lock           one demo at a time
//! secrets.json   passwords, made once
//! admin.key  catalog.key  sluice.db  pooler.toml  sluice.log
//! tls/           our certificate authority and the certificates of Sluice and PostgreSQL
//! postgres/      the cluster, which belongs to the user that runs PostgreSQL;  postgres.log
//! ```

use std::{
    env,
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rand::{Rng as _, distr::Alphanumeric};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::secret_file;

const PASSWORD_LENGTH: usize = 24;
/// Others may enter (PostgreSQL runs as another user when we are root) but not write.
const FOLDER_MODE: u32 = 0o755;

#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("cannot use the folder {}: {source}\nhint: name another with --data", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("another demo is running in {}\nhint: name another folder with --data", path.display())]
    InUse { path: PathBuf },
    #[error("cannot use {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is not what a demo wrote: {source}\nhint: remove the folder to start anew", path.display())]
    Secrets {
        path: PathBuf,
        source: serde_json::Error,
    },
}

pub(super) struct Folder {
    path: PathBuf,
    life: Life,
    secrets: Secrets,
    /// Held as long as the folder is ours.
    _lock: File,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Kept,
    Temporary,
}

/// The passwords of the demo. Without `Debug`.
#[derive(Serialize, Deserialize)]
pub(super) struct Secrets {
    /// Of the superuser `postgres`.
    pub(super) superuser: Zeroizing<String>,
    /// Of the role that logs in with a password.
    pub(super) password_role: Zeroizing<String>,
    /// Of the role that asks for verifiers.
    pub(super) auth_user: Zeroizing<String>,
    /// Of the role that people use with tokens, where certificates are not to be had.
    pub(super) token_role: Zeroizing<String>,
    pub(super) admin_key: Zeroizing<String>,
    /// 64 hexadecimal digits.
    pub(super) catalog_key: Zeroizing<String>,
}

impl Folder {
    pub(super) fn open(kept: Option<&Path>) -> Result<Self, FolderError> {
        let (path, life) = match kept {
            Some(path) => (make_kept(path)?, Life::Kept),
            None => (make_temporary()?, Life::Temporary),
        };
        let lock = lock(&path)?;
        let secrets = load_or_make(&path.join("secrets.json"), Secrets::generate)?;
        Ok(Self {
            path,
            life,
            secrets,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// What becomes of the folder when the demo ends.
    pub(super) const fn fate(&self) -> &'static str {
        match self.life {
            Life::Kept => ", which leaves the folder as it is",
            Life::Temporary => " and removes the folder",
        }
    }

    /// Makes the folder `name` in here if it is missing.
    pub(super) fn make(&self, name: &str) -> Result<(), FolderError> {
        let path = self.path.join(name);
        make_kept(&path).map(drop)
    }

    /// Writes `text` to the file `name` in here, which others may read.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, FolderError> {
        let path = self.path.join(name);
        fs::write(&path, text).map_err(|source| FolderError::File {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    /// Writes `text` to the file `name` in here, which nobody else may read.
    pub(super) fn write_secret(&self, name: &str, text: &str) -> Result<PathBuf, FolderError> {
        let path = self.path.join(name);
        secret_file::write(&path, text.as_bytes()).map_err(|source| FolderError::File {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.life == Life::Temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

impl Secrets {
    fn generate() -> Self {
        Self {
            superuser: random(PASSWORD_LENGTH),
            password_role: random(PASSWORD_LENGTH),
            auth_user: random(PASSWORD_LENGTH),
            token_role: random(PASSWORD_LENGTH),
            admin_key: random(2 * PASSWORD_LENGTH),
            catalog_key: random_key(),
        }
    }
}

/// Letters and digits only, so that no place it is written to needs quotes.
fn random(length: usize) -> Zeroizing<String> {
    let letters = rand::rng().sample_iter(Alphanumeric).take(length);
    Zeroizing::new(letters.map(char::from).collect())
}

fn random_key() -> Zeroizing<String> {
    let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(rand::rng().random());
    Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn make_kept(path: &Path) -> Result<PathBuf, FolderError> {
    let made = DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(path)
        // Absolute, because it goes into configuration files and is printed.
        .and_then(|()| path.canonicalize());
    made.map_err(|source| FolderError::Folder {
        path: path.to_owned(),
        source,
    })
}

fn make_temporary() -> Result<PathBuf, FolderError> {
    let path = env::temp_dir().join(format!("sluice-demo-{}", random(8).as_str()));
    // Set once more, because the user's mask may have narrowed it.
    DirBuilder::new()
        .mode(FOLDER_MODE)
        .create(&path)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(FOLDER_MODE)))
        .map_err(|source| FolderError::Folder {
            path: path.clone(),
            source,
        })?;
    Ok(path)
}

fn lock(folder: &Path) -> Result<File, FolderError> {
    let path = folder.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| FolderError::File {
            path: path.clone(),
            source,
        })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FolderError::InUse {
            path: folder.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(FolderError::File { path, source }),
    }
}

fn load_or_make<T: Serialize + DeserializeOwned>(
    path: &Path,
    make: impl FnOnce() -> T,
) -> Result<T, FolderError> {
    let file = |source| FolderError::File {
        path: path.to_owned(),
        source,
    };
    let secrets = |source| FolderError::Secrets {
        path: path.to_owned(),
        source,
    };
    match fs::read(path).map(Zeroizing::new) {
        Ok(text) => serde_json::from_slice(&text).map_err(secrets),
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            let value = make();
            let text = Zeroizing::new(serde_json::to_vec_pretty(&value).map_err(secrets)?);
            secret_file::write(path, &text).map_err(file)?;
            Ok(value)
        }
        Err(source) => Err(file(source)),
    }
}
