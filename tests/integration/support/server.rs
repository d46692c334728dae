//! Making and starting a PostgreSQL server, and seeing to it that it ends with us.
//!
//! A small watchdog process holds a pipe to us: when we end, however that happens, the pipe closes, and the watchdog
//! stops the server and removes its files.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
};

use super::{pki, ports::free_port, postgres::PASSWORD};

/// `nobody`: PostgreSQL refuses to run as root.
const SERVER_USER: u32 = 65_534;

/// A server that answers.
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) data: PathBuf,
    programs: PathBuf,
    user: Option<u32>,
    /// Closing it (by ending) is what stops the server.
    #[allow(dead_code)] // Held, not read.
    pub(super) watchdog: ChildStdin,
}

/// PostgreSQL 17 or newer.
pub(super) fn current_programs() -> PathBuf {
    std::env::var_os("SLUICE_POSTGRES_BIN").map_or_else(|| find_programs(&[]), PathBuf::from)
}

/// What `scripts/postgres` finds or installs.
pub(super) fn find_programs(arguments: &[&str]) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres");
    let output = Command::new(script)
        .args(arguments)
        .env_remove("SLUICE_POSTGRES_BIN")
        .output()
        .expect("scripts/postgres");
    let failure = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/postgres: {failure}");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Makes a cluster with the programs in this folder and starts it.
pub(super) fn start(programs: &Path) -> Server {
    start_with(programs, Pam::Absent)
}

/// Whether the server finds services of PAM in its folder `pam.d`, in place of the machine's own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pam {
    Absent,
    Own,
}

pub(super) fn start_with(programs: &Path, pam: Pam) -> Server {
    let folder = tempfile::Builder::new()
        .prefix("sluice-postgres-")
        .tempdir()
        .unwrap()
        .keep();
    let as_root = fs::metadata(&folder).unwrap().uid() == 0;
    let draft = Draft {
        programs,
        folder: &folder,
        user: as_root.then_some(SERVER_USER),
        pam,
    };
    draft.give_away(&folder);
    draft.initialise();
    Server {
        port: draft.run(),
        watchdog: draft.watch(),
        data: draft.data(),
        programs: programs.to_owned(),
        user: draft.user,
    }
}

impl Server {
    /// `pg_ctl ARGUMENTS…` on this server; whatever it starts listens where it did before.
    pub(super) fn control(&self, arguments: &[&str]) {
        let mut command = Command::new(self.programs.join("pg_ctl"));
        command
            .args(arguments)
            .args(["--silent", "-D"])
            .arg(&self.data)
            .current_dir(&self.data)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if arguments[0] != "reload" {
            command.args(["--wait", "--timeout=60"]);
        }
        if arguments[0] == "start" {
            command
                .arg("-l")
                .arg(self.data.join("server.log"))
                .arg("-o")
                .arg(format!("-p {}", self.port));
        }
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        assert!(command.status().expect("pg_ctl").success(), "{arguments:?}");
    }
}

/// A cluster in the making.
struct Draft<'a> {
    programs: &'a Path,
    folder: &'a Path,
    user: Option<u32>,
    pam: Pam,
}

impl Draft<'_> {
    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn initialise(&self) {
        let password_file = self.folder.join("password");
        self.write(&password_file, PASSWORD);
        let mut initdb = self.program("initdb");
        initdb
            .args([
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .args(["--no-sync", "--no-instructions"])
            .arg(format!("--pwfile={}", password_file.display()))
            .arg(self.data());
        must_succeed(&mut initdb);
        let server = pki::authority().server(&["localhost", "127.0.0.1"]);
        let file = |name: &str, content: &str| self.write(&self.data().join(name), content);
        file("server.crt", &server.certificate);
        file("server.key", &server.key);
        file("ca.crt", &pki::authority().identity.certificate);
        file("pg_hba.conf", HOST_RULES);
        file("pg_ident.conf", IDENT_MAP);
        let default = fs::read_to_string(self.data().join("postgresql.conf")).unwrap();
        file("postgresql.conf", &format!("{default}{SETTINGS}"));
    }

    /// Starts the server on a free port and waits until it answers.
    fn run(&self) -> u16 {
        let port = free_port();
        let mut start = self.starter();
        start
            .args(["start", "--wait", "--timeout=60", "--silent", "-D"])
            .arg(self.data())
            .arg("-l")
            .arg(self.data().join("server.log"))
            .arg("-o")
            .arg(format!("-p {port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = start.status().expect("pg_ctl");
        let log = fs::read_to_string(self.data().join("server.log")).unwrap_or_default();
        assert!(status.success(), "PostgreSQL does not start: {log}");
        port
    }

    fn watch(&self) -> ChildStdin {
        let mut watchdog = self.command(Path::new("/bin/sh"));
        watchdog
            .arg("-c")
            .arg(r#"read -r _; "$1/pg_ctl" stop -m immediate -D "$2/data"; rm -rf "$2""#)
            .arg("watchdog")
            .args([self.programs, self.folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        watchdog.spawn().expect("sh").stdin.expect("a pipe")
    }

    /// `pg_ctl`, which gives its view of the file system to the server.
    fn starter(&self) -> Command {
        if self.pam == Pam::Absent {
            return self.program("pg_ctl");
        }
        let services = self.folder.join("pam.d");
        fs::create_dir(&services).unwrap();
        let user = self
            .user
            .expect("tests with PAM need root, to put files over /etc/pam.d");
        let user = [format!("--reuid={user}"), format!("--regid={user}")];
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation=private", "sh", "-c"])
            .arg(r#"mount --bind "$1" /etc/pam.d && shift && exec "$@""#)
            .arg("with-pam")
            .arg(services)
            .args(["setpriv", "--clear-groups"])
            .args(user)
            .arg(self.programs.join("pg_ctl"))
            .current_dir(self.folder);
        command
    }

    fn program(&self, name: &str) -> Command {
        self.command(&self.programs.join(name))
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Writes a file that only the server's user may read.
    fn write(&self, path: &Path, content: &str) {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        self.give_away(path);
    }

    fn give_away(&self, path: &Path) {
        chown(path, self.user, self.user).unwrap();
    }
}

#[track_caller]
fn must_succeed(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?} failed: {out}{err}");
}

/// Roles in the gate group get in by certificate only; all others by password.
const HOST_RULES: &str = "\
hostssl all +jit_assumable 127.0.0.0/8 cert clientname=DN map=jit
host    all,replication all 127.0.0.0/8 scram-sha-256
";

const IDENT_MAP: &str = r#"jit "/^O=[a-z0-9_-]+,OU=g-[0-9a-f]{32},OU=r-([a-z_][a-z0-9_$]*),UID=[A-Za-z0-9._@-]{1,200}$" \1
"#;

const SETTINGS: &str = "
listen_addresses = '127.0.0.1, 127.0.0.2'
unix_socket_directories = '.'
max_connections = 600
wal_level = logical
max_wal_senders = 20
max_replication_slots = 20
shared_buffers = 64MB
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
password_encryption = 'scram-sha-256'
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'ca.crt'
log_connections = on
";
