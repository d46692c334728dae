//! `sluice verify` and `sluice guard`: what runs beside a PostgreSQL that people reach without the pooler.

use std::{
    io::Write as _, os::unix::net::UnixDatagram, path::PathBuf, process::ExitCode, time::Duration,
};

use clap::Args;
use reqwest::Url;

use super::{environment, error::CliError, input, words};
use crate::{
    config::{Log, LogFormat},
    direct::{Authority, Guard, Login, Records, Refusal, SetupError, Verified, verify},
    names::TenantRef,
    telemetry,
};

/// Where the system's log takes messages (RFC 3164 in a datagram).
const SYSLOG: &str = "/dev/log";
/// `authpriv` and `info`, `warning`.
const ALLOWED_PRIORITY: u8 = 10 * 8 + 6;
const REFUSED_PRIORITY: u8 = 10 * 8 + 4;

/// The Sluice to ask.
#[derive(Args)]
struct Asked {
    /// The tenant that this database is
    #[arg(long, value_name = "REF")]
    tenant: TenantRef,
    /// Address of Sluice's API: https, or http on the loopback address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:6544")]
    url: Url,
    /// File (PEM) with the authorities that may vouch for it; the public ones unless told
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Asked {
    fn authority(self, timeout: Duration) -> Result<Authority, SetupError> {
        Authority::new(self.url, self.tenant, self.ca, timeout)
    }
}

/// Options of `sluice verify`.
#[derive(Args)]
#[command(
    after_help = "In /etc/pam.d/sluice:\n  auth    required pam_exec.so expose_authtok quiet /usr/local/bin/sluice verify --tenant demo --url https://sluice.example.com\n  account required pam_permit.so\n\nExample:\n  sluice verify --tenant demo --url https://sluice.example.com --sessions /run/sluice/sessions"
)]
pub struct VerifyArgs {
    #[command(flatten)]
    asked: Asked,
    /// How long Sluice may take to answer
    #[arg(long, value_name = "TIME", value_parser = words::span, default_value = "5s")]
    timeout: Duration,
    /// Folder in which `sluice guard` finds the sessions that it is to look after
    #[arg(long, value_name = "FOLDER")]
    sessions: Option<PathBuf>,
}

impl VerifyArgs {
    /// Says by its exit status whether somebody gets in: 0, and 1 for every other outcome.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let login = Login::read(environment);
        let who = login.as_ref().map_or_else(
            |_| "nobody".to_owned(),
            |login| format!("role={} from={}", login.role, login.from),
        );
        match login
            .map_err(Failure::from)
            .and_then(|login| self.ask(&login))
        {
            Ok(verified) => {
                let until = verified
                    .expires_at
                    .map_or_else(|| "-".to_owned(), super::output::instant);
                let person = verified.person;
                note(
                    ALLOWED_PRIORITY,
                    &format!("allowed person={person} {who} until={until}"),
                );
                ExitCode::SUCCESS
            }
            Err(failure) => {
                note(REFUSED_PRIORITY, &format!("refused {who}: {failure}"));
                ExitCode::FAILURE
            }
        }
    }

    fn ask(self, login: &Login) -> Result<Verified, Failure> {
        let timeout = self.timeout;
        let records = self.sessions.map(Records::open).transpose();
        let records = records.map_err(Refusal::from)?;
        let authority = self.asked.authority(timeout)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::Runtime)?;
        let input = std::io::stdin().lock();
        let verified = verify(&authority, login, input, records.as_ref());
        Ok(runtime.block_on(verified)?)
    }
}

/// Why `sluice verify` lets nobody in.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("cannot start: {0}")]
    Runtime(#[source] std::io::Error),
}

/// Writes a line to the system's log and to standard error, which `pam_exec` may put into a file.
fn note(priority: u8, text: &str) {
    let _ = writeln!(std::io::stderr(), "sluice verify: {text}");
    let line = format!("<{priority}>sluice-verify[{}]: {text}", std::process::id());
    // A machine without a system log is no reason to keep anybody out, or to let them in.
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.set_nonblocking(true);
        let _ = socket.send_to(line.as_bytes(), SYSLOG);
    }
}

/// Options of `sluice guard`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  sluice guard --tenant demo --url https://sluice.example.com --key-file /etc/sluice/guard.key \\\n      --sessions /run/sluice/sessions"
)]
pub struct GuardArgs {
    #[command(flatten)]
    asked: Asked,
    /// File with the tenant's guard key: `sluice tenant guard-key REF` makes it
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// The folder that `sluice verify` is told
    #[arg(long, value_name = "FOLDER")]
    sessions: PathBuf,
    /// How long sessions may go on while Sluice cannot be asked
    #[arg(long, value_name = "TIME", value_parser = words::span, default_value = "30s")]
    patience: Duration,
}

impl GuardArgs {
    /// Runs until it is killed; an end by itself is a failure.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.watch() {
            Ok(never) => match never {},
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn watch(self) -> Result<std::convert::Infallible, CliError> {
        let log = Log {
            level: "info".to_owned(),
            format: LogFormat::Text,
        };
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| CliError::Guard(error);
        let _telemetry = telemetry::init(&log).map_err(|error| failed(error.into()))?;
        let guard = Guard {
            key: input::secret_file(&self.key_file)?,
            records: Records::open(self.sessions).map_err(|error| failed(error.into()))?,
            patience: self.patience,
            authority: self
                .asked
                .authority(Guard::QUESTION_MAX)
                .map_err(|error| failed(error.into()))?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CliError::Runtime)?;
        tracing::info!("looking after direct sessions");
        runtime
            .block_on(guard.run())
            .map_err(|error| failed(error.into()))
    }
}
