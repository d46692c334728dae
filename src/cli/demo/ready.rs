//! The ready file: all that a program needs to use the demo, as JSON, there only while the demo is up.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    authority::CA_CERTIFICATE,
    folder::Folder,
    people::{Holder, Registration, TENANT},
    pooler::Pooler,
    ports::Ports,
    psql::{Login, encoded},
    secret_file,
    server::{DATABASE, PASSWORD_ROLE, Server, TOKEN_ROLE},
};
use crate::names::PersonId;

#[derive(Debug, thiserror::Error)]
pub(super) enum ReadyError {
    #[error("cannot write the ready file {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot put the ready file into words: {0}")]
    Json(#[from] serde_json::Error),
}

/// Where everything is and how to log in. Without `Debug`: it is full of secrets.
#[derive(Serialize)]
pub(super) struct Ready {
    host: String,
    port: u16,
    direct_port: u16,
    tls_ca: PathBuf,
    /// Of the serving process, for signals.
    pid: i32,
    admin_url: String,
    admin_key: Zeroizing<String>,
    tenant: &'static str,
    database: &'static str,
    password_role: &'static str,
    password: Zeroizing<String>,
    token_role: &'static str,
    people: Vec<PersonEntry>,
    postgres: PostgresEntry,
}

#[derive(Serialize)]
pub(super) struct PersonEntry {
    pub(super) id: PersonId,
    pub(super) email: String,
    token: Zeroizing<String>,
}

#[derive(Serialize)]
struct PostgresEntry {
    host: String,
    port: u16,
    user: String,
    password: Zeroizing<String>,
}

impl Ready {
    pub(super) fn new(
        ports: &Ports,
        folder: &Folder,
        server: &Server,
        pooler: &Pooler,
        registration: Registration,
    ) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: ports.pooler,
            direct_port: ports.direct,
            tls_ca: folder.path().join(CA_CERTIFICATE),
            pid: pooler.pid(),
            admin_url: ports.admin_url(),
            admin_key: folder.secrets().admin_key.clone(),
            tenant: TENANT,
            database: DATABASE,
            password_role: PASSWORD_ROLE,
            password: folder.secrets().password_role.clone(),
            token_role: TOKEN_ROLE,
            people: registration
                .holders
                .into_iter()
                .map(PersonEntry::from)
                .collect(),
            postgres: PostgresEntry {
                host: server.host.clone(),
                port: server.port,
                user: server.user.clone(),
                password: server.password.clone(),
            },
        }
    }

    pub(super) fn people(&self) -> &[PersonEntry] {
        &self.people
    }

    /// The login of `person` with the token.
    pub(super) fn token_login(&self, person: &PersonEntry) -> Login {
        let url = format!("{}&options=-c%20jit%3dtrue", self.url(self.token_role));
        Login::new(url, person.token.clone())
    }

    /// The login of the role that has a password.
    pub(super) fn password_login(&self) -> Login {
        Login::new(self.url(self.password_role), self.password.clone())
    }

    fn url(&self, role: &str) -> String {
        format!(
            "postgresql://{role}.{}@{}:{}/{}?sslmode=verify-full&sslrootcert={}",
            self.tenant,
            self.host,
            self.port,
            self.database,
            encoded(&self.tls_ca.to_string_lossy()),
        )
    }
}

impl From<Holder> for PersonEntry {
    fn from(holder: Holder) -> Self {
        Self {
            id: holder.person.id,
            email: holder.person.email,
            token: holder.token,
        }
    }
}

/// The place of the ready file; what is there is removed at the start and at the end.
pub(super) struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    pub(super) fn at(path: &Path) -> Result<Self, ReadyError> {
        let file = Self {
            path: path.to_owned(),
        };
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(file.error(source)),
            _ => Ok(file),
        }
    }

    /// Writes it whole before it appears, so that whoever waits for it never reads half of it.
    pub(super) fn write(&self, ready: &Ready) -> Result<(), ReadyError> {
        let text = Zeroizing::new(serde_json::to_vec_pretty(ready)?);
        let beside = self
            .path
            .with_extension(format!("{}.new", std::process::id()));
        secret_file::write(&beside, &text)
            .and_then(|()| fs::rename(&beside, &self.path))
            .map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> ReadyError {
        ReadyError::Write {
            path: self.path.clone(),
            source,
        }
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // It is gone when the demo never came that far.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_ready_file_is_gone_at_once_and_ours_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        fs::write(&path, "{}").unwrap();
        let file = ReadyFile::at(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "{}").unwrap();
        drop(file);
        assert!(!path.exists());
    }
}
