//! Real PostgreSQL servers: one per test process that is new enough, one that is too old.
//!
//! A server is started at first use. A small watchdog process holds a pipe to us: when we end, however that happens,
//! the pipe closes, and the watchdog stops the server and removes its files.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, OnceLock},
};

use super::{login::Login, pki, ports::free_port, wire::Client};

/// The roles of every cluster. Each is made for one way to log in.
pub(crate) const PASSWORD_ROLE: &str = "app_user";
pub(crate) const PASSWORD: &str = "correct horse battery staple";
/// As `PASSWORD_ROLE`, with a verifier that is cheap for clients: for tests that log in thousands of times.
pub(crate) const SWARM_ROLE: &str = "app_swarm";
/// What people are granted: only a certificate gets in.
pub(crate) const TOKEN_ROLE: &str = "app_readwrite";
pub(crate) const OTHER_TOKEN_ROLE: &str = "app_readonly";
/// What people are granted where the pooler keeps the role's password.
pub(crate) const SECRET_ROLE: &str = "app_secret";
/// Reads verifiers for `auth_query`.
pub(crate) const AUTH_ROLE: &str = "sluice_auth";

/// `nobody`: PostgreSQL refuses to run as root.
const SERVER_USER: u32 = 65_534;

pub(crate) struct Cluster {
    pub(crate) port: u16,
    data: PathBuf,
    control: Mutex<Client>,
    /// Closing it (by ending) is what stops the server.
    _watchdog: ChildStdin,
}

/// One row of `pg_stat_activity`.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    pub(crate) user: String,
    pub(crate) state: String,
    pub(crate) query: String,
    pub(crate) application_name: String,
}

/// PostgreSQL 17 or newer.
pub(crate) fn current() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(&current_programs()))
}

/// PostgreSQL 15: too old for token access.
pub(crate) fn old() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(&find_programs(&["15"])))
}

fn current_programs() -> PathBuf {
    std::env::var_os("SLUICE_POSTGRES_BIN").map_or_else(|| find_programs(&[]), PathBuf::from)
}

fn find_programs(arguments: &[&str]) -> PathBuf {
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

impl Cluster {
    fn start(programs: &Path) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("sluice-postgres-")
            .tempdir()
            .unwrap()
            .keep();
        let as_root = fs::metadata(&folder).unwrap().uid() == 0;
        let server = Server {
            programs,
            folder: &folder,
            user: as_root.then_some(SERVER_USER),
        };
        server.give_away(&folder);
        server.initialise();
        let port = server.run();
        let watchdog = server.watch();
        let login = Login::new(port, "postgres", PASSWORD).database("postgres");
        let cluster = Self {
            port,
            data: folder.join("data"),
            control: Mutex::new(login.open().expect("the superuser logs in")),
            _watchdog: watchdog,
        };
        cluster.create_roles();
        cluster
    }

    fn create_roles(&self) {
        self.run(&format!(
            "create role jit_assumable;
             create role {PASSWORD_ROLE} login password '{PASSWORD}';
             create role {SECRET_ROLE} login password '{PASSWORD}';
             create role {AUTH_ROLE} login password '{PASSWORD}';
             create role {TOKEN_ROLE} login in role jit_assumable;
             create role {OTHER_TOKEN_ROLE} login in role jit_assumable;"
        ));
        // The setting came with PostgreSQL 16.
        if self.version() >= 16 {
            self.run("set scram_iterations = 1");
        }
        self.run(&format!(
            "create role {SWARM_ROLE} login password '{PASSWORD}'"
        ));
        let mut template = self.superuser("template1");
        let roles = [
            PASSWORD_ROLE,
            SECRET_ROLE,
            TOKEN_ROLE,
            OTHER_TOKEN_ROLE,
            SWARM_ROLE,
        ]
        .join(", ");
        template
            .query(&format!("grant create on schema public to {roles}"))
            .unwrap();
        template
            .query(&format!("grant select on pg_authid to {AUTH_ROLE}"))
            .unwrap();
    }

    pub(crate) fn version(&self) -> u32 {
        self.value("select current_setting('server_version_num')::int / 10000")
            .parse()
            .unwrap()
    }

    /// A direct session of the superuser.
    pub(crate) fn superuser(&self, database: &str) -> Client {
        Login::new(self.port, "postgres", PASSWORD)
            .database(database)
            .open()
            .unwrap()
    }

    /// Runs SQL as the superuser in the database `postgres`.
    #[track_caller]
    pub(crate) fn run(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let mut control = self
            .control
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        control
            .query(sql)
            .unwrap_or_else(|fault| panic!("{sql}: {fault:?}"))
            .rows
    }

    #[track_caller]
    pub(crate) fn value(&self, sql: &str) -> String {
        self.run(sql)[0][0]
            .clone()
            .expect("a value that is not null")
    }

    pub(crate) fn create_database(&self, name: &str) {
        // Template databases admit no second session while they are copied.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        self.run(&format!("create database {name}"));
    }

    /// The backends that serve clients in `database`; the superuser's own are left out.
    pub(crate) fn backends(&self, database: &str) -> Vec<Activity> {
        let rows = self.run(&format!(
            "select usename, coalesce(state, ''), query, application_name from pg_stat_activity
             where datname = '{database}' and backend_type = 'client backend'
               and usename not in ('postgres', '{AUTH_ROLE}') order by backend_start"
        ));
        rows.into_iter()
            .map(|row| {
                let mut values = row.into_iter().map(Option::unwrap_or_default);
                let mut next = || values.next().unwrap();
                Activity {
                    user: next(),
                    state: next(),
                    query: next(),
                    application_name: next(),
                }
            })
            .collect()
    }

    /// Whether a backend with this pid lives.
    pub(crate) fn is_alive(&self, pid: &str) -> bool {
        !self
            .run(&format!("select 1 from pg_stat_activity where pid = {pid}"))
            .is_empty()
    }

    /// What the server has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.data.join("server.log")).unwrap()
    }
}

/// A cluster in the making.
struct Server<'a> {
    programs: &'a Path,
    folder: &'a Path,
    user: Option<u32>,
}

impl Server<'_> {
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
        let mut start = self.program("pg_ctl");
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
host    all all            127.0.0.0/8 scram-sha-256
";

const IDENT_MAP: &str = r#"jit "/^O=[a-z0-9_-]+,OU=g-[0-9a-f]{32},OU=r-([a-z_][a-z0-9_$]*),UID=[A-Za-z0-9._@-]{1,200}$" \1
"#;

const SETTINGS: &str = "
listen_addresses = '127.0.0.1, 127.0.0.2'
unix_socket_directories = ''
max_connections = 600
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
