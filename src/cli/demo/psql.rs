//! Everything that the demo says to a server, said with `psql`: what is shown is what a user would type.

use std::{env, fmt, io, process::Output, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::Url;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};
use zeroize::Zeroizing;

use super::process::piped;

const CALL_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT_SECONDS: &str = "10";

#[derive(Debug, thiserror::Error)]
pub(super) enum PsqlError {
    #[error(
        "psql does not run here: {0}\nhint: install PostgreSQL's client programs (Debian: apt-get install postgresql-client)"
    )]
    Missing(#[source] io::Error),
    #[error("psql gave no answer within {} s from {to}", CALL_TIMEOUT.as_secs())]
    Silent { to: String },
    #[error("psql failed at {to}:\n{said}")]
    Failed { to: String, said: String },
}

/// Where to log in, and with what.
#[derive(Clone)]
pub(super) struct Login {
    /// Without the password, which would show in the list of processes.
    url: String,
    password: Zeroizing<String>,
}

impl Login {
    pub(super) fn new(url: String, password: Zeroizing<String>) -> Self {
        Self { url, password }
    }

    /// What a user types for this login.
    pub(super) fn line(&self) -> String {
        format!("PGPASSWORD={} psql '{}'", self.password.as_str(), self.url)
    }

    /// Runs the statements of `script`; answers what they return, one row a line, columns parted by `|`.
    pub(super) async fn run(&self, script: &str) -> Result<String, PsqlError> {
        let output = self.output(script).await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned());
        }
        Err(PsqlError::Failed {
            to: self.url.clone(),
            said: String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
        })
    }

    /// Like [`Login::run`] for what has to fail: answers what psql complained of; `None` if it did not.
    pub(super) async fn complaint(&self, script: &str) -> Result<Option<String>, PsqlError> {
        let output = self.output(script).await?;
        Ok((!output.status.success()).then(|| {
            String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned()
        }))
    }

    async fn output(&self, script: &str) -> Result<Output, PsqlError> {
        // The script goes in by standard input: it may hold passwords.
        let run = async {
            let mut child = piped(&mut self.command()).spawn()?;
            if let Some(mut input) = child.stdin.take() {
                // A psql that could not connect has stopped reading; its exit status tells.
                let _ = input.write_all(script.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        match timeout(CALL_TIMEOUT, run).await {
            Ok(output) => output.map_err(PsqlError::Missing),
            Err(_) => Err(PsqlError::Silent {
                to: self.url.clone(),
            }),
        }
    }

    /// psql on this login: bare rows, no start-up file, the first error ends it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("psql");
        without_libpq_settings(&mut command);
        command
            .args([
                "--no-psqlrc",
                "--no-password",
                "--quiet",
                "--no-align",
                "--tuples-only",
            ])
            .args(["--set", "ON_ERROR_STOP=1"])
            .arg(&self.url)
            .env("PGPASSWORD", self.password.as_str())
            .env("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT_SECONDS)
            .kill_on_drop(true);
        command
    }
}

/// `url` without its password, and the password as libpq would read it.
pub(super) fn part_password(mut url: Url) -> (Url, Zeroizing<String>) {
    let password = Zeroizing::new(decoded(url.password().unwrap_or_default()));
    // Only an address without a host refuses, and that has no password either.
    let _ = url.set_password(None);
    (url, password)
}

/// What needs no escape in any part of an address; `/` so that paths stay readable.
const PLAIN: AsciiSet = NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'-')
    .remove(b'_');

/// `text` as it may stand in the user name or a parameter of an address.
pub(super) fn encoded(text: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(text, &PLAIN)
}

/// What the percent-encoded `text` stands for.
pub(super) fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Fails early, with what to do, where there is no psql.
pub(super) async fn require() -> Result<(), PsqlError> {
    // Debian's psql is a wrapper that is there before the program is: only running it tells.
    let output = Command::new("psql")
        .arg("--version")
        .output()
        .await
        .map_err(PsqlError::Missing)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr)
        .trim_end()
        .to_owned();
    Err(PsqlError::Missing(io::Error::other(said)))
}

/// Takes out what the user's own environment would change about a connection (`PGSSLMODE`, `PGOPTIONS`, …).
pub(super) fn without_libpq_settings(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_readable_and_nothing_ends_the_parameter() {
        let encoded = encoded("/tmp/a b&c=d?#%/ca.crt").to_string();
        assert_eq!(encoded, "/tmp/a%20b%26c%3Dd%3F%23%25/ca.crt");
        assert_eq!(decoded(&encoded), "/tmp/a b&c=d?#%/ca.crt");
    }

    #[test]
    fn the_password_leaves_the_url_decoded() {
        let url =
            Url::parse("postgresql://admin:p%40ss%2Fword@db.example.com:5433/app?sslmode=require")
                .unwrap();
        let (url, password) = part_password(url);
        assert_eq!(
            url.as_str(),
            "postgresql://admin@db.example.com:5433/app?sslmode=require"
        );
        assert_eq!(password.as_str(), "p@ss/word");
    }
}
