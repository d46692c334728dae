//! Real PostgreSQL servers, started at first use: one per test process that is new enough, one that is too old.

use std::{
    fs,
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
};

use super::{
    login::Login,
    server::{self, Server},
    wire::Client,
};

/// The roles of every cluster. Each is made for one way to log in.
pub(crate) const PASSWORD_ROLE: &str = "app_user";
pub(crate) const PASSWORD: &str = "correct horse battery staple";
/// As `PASSWORD_ROLE`, with a verifier that is cheap for clients: for tests that log in thousands of times.
pub(crate) const SWARM_ROLE: &str = "app_swarm";
/// What people are granted: only a certificate gets in.
pub(crate) const TOKEN_ROLE: &str = "app_readwrite";
/// May replicate: with its password, and as somebody's grant.
pub(crate) const REPLICA_ROLE: &str = "app_replica";
pub(crate) const REPLICA_TOKEN_ROLE: &str = "app_follower";
pub(crate) const OTHER_TOKEN_ROLE: &str = "app_readonly";
/// What people are granted where the pooler keeps the role's password.
pub(crate) const SECRET_ROLE: &str = "app_secret";
/// Reads verifiers for `auth_query`.
pub(crate) const AUTH_ROLE: &str = "sluice_auth";

pub(crate) struct Cluster {
    pub(crate) port: u16,
    control: Mutex<Client>,
    server: Server,
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
    CLUSTER.get_or_init(|| Cluster::start(&server::current_programs()))
}

/// PostgreSQL 15: too old for token access.
pub(crate) fn old() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(&server::find_programs(&["15"])))
}

/// A server like [`current`], of the test's own, to be stopped and hurt. It ends with the process.
pub(crate) fn own() -> &'static Cluster {
    Box::leak(Box::new(Cluster::start(&server::current_programs())))
}

/// Debian's PostgreSQL 15, which has PAM, with services of its own.
pub(crate) fn with_pam() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let programs = server::find_programs(&["15"]);
        Cluster::of(server::start_with(&programs, server::Pam::Own))
    })
}

impl Cluster {
    /// Stops the server in PostgreSQL's mode of that name: `fast` or `immediate`.
    pub(crate) fn stop(&self, mode: &str) {
        self.server.control(&["stop", "-m", mode]);
    }

    pub(crate) fn start_again(&self) {
        self.server.control(&["start"]);
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        *control = self.superuser("postgres");
    }

    pub(crate) fn restart(&self, mode: &str) {
        self.stop(mode);
        self.start_again();
    }

    /// Replaces one of the server's own files; it takes effect with [`Self::reload`].
    pub(crate) fn write_file(&self, name: &str, content: &str) {
        fs::write(self.server.data.join(name), content).unwrap();
    }

    /// Has the server read its files again, and waits until it has.
    pub(crate) fn reload(&self) {
        let loaded = "select pg_conf_load_time()::text";
        let before = self.value(loaded);
        self.server.control(&["reload"]);
        super::until("the server has read its files", || {
            self.value(loaded) != before
        });
    }

    /// The pid of the process that all others are children of.
    pub(crate) fn postmaster(&self) -> u32 {
        let file = fs::read_to_string(self.server.data.join("postmaster.pid")).unwrap();
        file.lines().next().unwrap().parse().unwrap()
    }

    /// What belongs to the server lies in here.
    pub(crate) fn folder(&self) -> &Path {
        self.server.data.parent().unwrap()
    }

    fn start(programs: &Path) -> Self {
        Self::of(server::start(programs))
    }

    fn of(server: Server) -> Self {
        let port = server.port;
        let login = Login::new(port, "postgres", PASSWORD).database("postgres");
        let cluster = Self {
            port,
            control: Mutex::new(login.open().expect("the superuser logs in")),
            server,
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
             create role {OTHER_TOKEN_ROLE} login in role jit_assumable;
             create role {REPLICA_ROLE} login replication password '{PASSWORD}';
             create role {REPLICA_TOKEN_ROLE} login replication in role jit_assumable;"
        ));
        // Cheap to log in with; the setting came with PostgreSQL 16.
        let cheap = if self.version() >= 16 {
            "set local scram_iterations = 1;"
        } else {
            ""
        };
        self.run(&format!(
            "begin; {cheap} create role {SWARM_ROLE} login password '{PASSWORD}'; commit"
        ));
        let roles = [
            PASSWORD_ROLE,
            SECRET_ROLE,
            TOKEN_ROLE,
            OTHER_TOKEN_ROLE,
            SWARM_ROLE,
        ]
        .join(", ");
        for database in ["template1", "postgres"] {
            let mut superuser = self.superuser(database);
            superuser
                .query(&format!("grant create on schema public to {roles}"))
                .unwrap();
            superuser
                .query(&format!("grant select on pg_authid to {AUTH_ROLE}"))
                .unwrap();
        }
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
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
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
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
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
        fs::read_to_string(self.server.data.join("server.log")).unwrap()
    }
}
