//! A PostgreSQL of the demo's own: found or installed, initialised once, started, and stopped at the end.
//!
//! Token sessions log in to it with certificates of our authority, password sessions with SCRAM:
//!
//! ```text
//! hostssl  +jit_assumable  cert, subject mapped to the role    (person, rule and tenant are in the subject)
//! host     everybody else  scram-sha-256
//! ```

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{process::Command, time::sleep};

use super::{
    authority::Authority,
    folder::{Folder, FolderError},
    people,
    process::{Process, ProcessError},
    psql,
    server::Server,
    user::{User, UserError},
};

/// The script of this project that finds or installs PostgreSQL; carried along so that the program works anywhere.
const FIND_POSTGRES: &str = include_str!("../../../scripts/postgres");

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(20);
/// The line of `postmaster.pid` that tells the state of the server, and what it says once it takes connections.
const STATE_LINE: usize = 7;
const STATE_READY: &str = "ready";

const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
password_encryption = 'scram-sha-256'
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'sluice_ca.crt'
log_connections = on
log_line_prefix = '%m [%p] %q%u@%d '
# Nothing in here outlives the demo's machine.
fsync = off
full_page_writes = off
synchronous_commit = off
";

const ACCESS: &str = "\
# Token sessions: only from the pooler's addresses, only roles of the gate group, only by certificate.
hostssl   all   +jit_assumable   127.0.0.1/32   cert   clientname=DN   map=jit
host      all   +jit_assumable   all            reject
# Everybody else: by password.
host      all   all              127.0.0.1/32   scram-sha-256
";

#[derive(Debug, thiserror::Error)]
pub(super) enum ClusterError {
    #[error("cannot run bash to find PostgreSQL: {0}")]
    Bash(#[source] io::Error),
    #[error(
        "no PostgreSQL 17 or newer to be had\nhint: install one and set SLUICE_POSTGRES_BIN to its folder of programs, or use a running one with --postgres URL"
    )]
    NoPostgres,
    #[error("cannot run initdb: {0}")]
    Start(#[source] io::Error),
    #[error(
        "initdb failed:\n{said}\nhint: {user} has to be able to enter every folder above {}; name another with --data",
        folder.display()
    )]
    Initialise {
        said: String,
        user: String,
        folder: PathBuf,
    },
    #[error("cannot write {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

pub(super) struct Cluster {
    process: Process,
    server: Server,
}

impl Cluster {
    /// Starts the cluster in `folder` on `port`, making it first if it is not there. Token sessions of the first
    /// tenant and of `more_tenants` more may log in.
    pub(super) async fn start(
        folder: &Folder,
        authority: &Authority,
        port: u16,
        more_tenants: u32,
    ) -> Result<Self, ClusterError> {
        let programs = find_postgres().await?;
        let user = User::for_postgres()?;
        let data = folder.path().join("postgres");
        if !data.exists() {
            initialise(folder, &programs, &user, &data).await?;
        }
        configure(&user, &data, authority, more_tenants)?;

        let mut command = user.command(programs.join("postgres"), "INT");
        command
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string()])
            .current_dir(&data);
        let log = folder.path().join("postgres.log");
        let mut process = Process::start("PostgreSQL", command, log, Signal::INT)?;
        process
            .until_ready(READY_TIMEOUT, until_ready(&data, process.pid()))
            .await?;
        let server = Server::own(
            port,
            folder.secrets().superuser.clone(),
            authority.certificate.clone(),
        );
        Ok(Self { process, server })
    }

    pub(super) const fn server(&self) -> &Server {
        &self.server
    }

    pub(super) async fn ended(&mut self) -> ProcessError {
        self.process.ended().await
    }

    pub(super) async fn stop(self) {
        self.process.stop().await;
    }
}

async fn find_postgres() -> Result<PathBuf, ClusterError> {
    let output = Command::new("bash")
        .args(["-c", FIND_POSTGRES, "postgres"])
        .stdin(Stdio::null())
        // What it installs, and why it cannot, is for the user.
        .stderr(Stdio::inherit())
        .output()
        .await
        .map_err(ClusterError::Bash)?;
    let found = String::from_utf8_lossy(&output.stdout);
    match (output.status.success(), found.trim_end()) {
        (true, folder) if !folder.is_empty() => Ok(folder.into()),
        _ => Err(ClusterError::NoPostgres),
    }
}

/// Makes the cluster beside its place and moves it there when it is whole.
async fn initialise(
    folder: &Folder,
    programs: &Path,
    user: &User,
    place: &Path,
) -> Result<(), ClusterError> {
    let data = place.with_extension("new");
    if data.exists() {
        fs::remove_dir_all(&data).map_err(|source| file_error(&data, source))?;
    }
    fs::create_dir(&data).map_err(|source| file_error(&data, source))?;
    own(user, &data, 0o700)?;
    let password = folder.write_secret("initdb.password", &folder.secrets().superuser)?;
    own(user, &password, 0o600)?;

    let mut command = user.command(programs.join("initdb"), "KILL");
    psql::without_libpq_settings(&mut command);
    let output = command
        .arg("--pgdata")
        .arg(&data)
        .arg("--pwfile")
        .arg(&password)
        .args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
        ])
        .args(["--no-sync", "--no-instructions"])
        .current_dir(&data)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(ClusterError::Start)?;
    fs::remove_file(&password).map_err(|source| file_error(&password, source))?;
    if !output.status.success() {
        return Err(ClusterError::Initialise {
            said: String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
            user: user.name().to_owned(),
            folder: data,
        });
    }
    fs::rename(&data, place).map_err(|source| file_error(place, source))
}

/// Writes our settings, certificates and access rules; they are the same files at every start.
fn configure(
    user: &User,
    data: &Path,
    authority: &Authority,
    more_tenants: u32,
) -> Result<(), ClusterError> {
    let identities = format!("jit   \"{}\"   \\1\n", subject_pattern(more_tenants));
    for (name, text) in [
        ("postgresql.conf", SETTINGS),
        ("pg_hba.conf", ACCESS),
        ("pg_ident.conf", &identities),
        ("server.crt", &authority.postgres.certificate),
        ("server.key", &authority.postgres.key),
        ("sluice_ca.crt", &authority.certificate),
    ] {
        let path = data.join(name);
        fs::write(&path, text).map_err(|source| file_error(&path, source))?;
        own(user, &path, 0o600)?;
    }
    Ok(())
}

/// What the subject of a token session's certificate has to look like; the one capture is the role.
fn subject_pattern(more_tenants: u32) -> String {
    let tenants = match more_tenants {
        0 => people::TENANT.to_owned(),
        _ => format!("{}(?:-[0-9]{{1,6}})?", people::TENANT),
    };
    format!(
        "/^O={tenants},OU=g-[0-9a-f]{{32}},OU=r-([a-z_][a-z0-9_$]*),UID=[A-Za-z0-9._@-]{{1,200}}$"
    )
}

fn own(user: &User, path: &Path, mode: u32) -> Result<(), ClusterError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .and_then(|()| user.own(path))
        .map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: io::Error) -> ClusterError {
    ClusterError::File {
        path: path.to_owned(),
        source,
    }
}

/// Waits until the server that is process `pid` says in its lock file that it takes connections.
async fn until_ready(data: &Path, pid: i32) {
    let path = data.join("postmaster.pid");
    loop {
        // While the server is starting the file is missing, short, or left over from another one.
        if let Ok(text) = fs::read_to_string(&path) {
            let mut lines = text.lines();
            let ours = lines.next() == Some(&pid.to_string());
            if ours
                && lines
                    .nth(STATE_LINE - 1)
                    .is_some_and(|state| state.trim() == STATE_READY)
            {
                return;
            }
        }
        sleep(READY_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_pattern_is_anchored_and_names_the_tenants() {
        assert_eq!(
            subject_pattern(0),
            "/^O=demo,OU=g-[0-9a-f]{32},OU=r-([a-z_][a-z0-9_$]*),UID=[A-Za-z0-9._@-]{1,200}$"
        );
        assert!(subject_pattern(3).starts_with("/^O=demo(?:-[0-9]{1,6})?,OU=g-"));
    }
}
