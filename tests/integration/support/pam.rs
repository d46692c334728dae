//! A PostgreSQL whose PAM asks Sluice about tokens, as docs/direct-access.md sets it up: `sluice verify` is what
//! `pam_exec` runs, `sluice guard` looks after the sessions.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

use serde_json::{Value, json};

use super::{
    Fixture, Login, Person, eventually,
    fixture::text,
    postgres::{self, Cluster, TOKEN_ROLE},
    sluice::{self, Settings},
};

/// The lines of pg_hba.conf below those for PAM.
const HOST_RULES: &str = "host all,replication all 127.0.0.0/8 scram-sha-256\n";

/// A tenant on the server with PAM, and its Sluice.
pub(crate) struct PamFixture {
    pub(crate) fixture: Fixture,
}

/// A running `sluice guard`; it ends with this value.
pub(crate) struct Guard(Child);

impl PamFixture {
    /// Logins to the tenant's database over TLS go through PAM; `fields` are those of the tenant.
    pub(crate) fn start(settings: Settings, fields: Value) -> Self {
        let cluster = postgres::with_pam();
        let settings = settings.set("token_access.min_server_version", 15);
        let fixture = Fixture::on(cluster, settings, fields);
        let pam = Self { fixture };
        let folder = pam.sessions();
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let user = owner(cluster);
        chown(&folder, Some(user), Some(user)).unwrap();
        let service = cluster.folder().join("pam.d").join(&pam.fixture.tenant);
        fs::write(service, pam.service()).unwrap();
        add_host_rule(
            cluster,
            &format!(
                "hostssl {} +jit_assumable 127.0.0.0/8 pam pamservice={}\n",
                pam.fixture.database, pam.fixture.tenant
            ),
        );
        pam
    }

    fn service(&self) -> String {
        let (program, log) = (server_program(self.fixture.cluster), self.log_file());
        let (tenant, url) = (&self.fixture.tenant, &self.fixture.sluice.admin.url);
        format!(
            "auth required pam_exec.so expose_authtok quiet log={} {} verify --tenant {tenant} --url {url} \
             --timeout 2s --sessions {}\naccount required pam_permit.so\n",
            log.display(),
            program.display(),
            self.sessions().display()
        )
    }

    pub(crate) fn sessions(&self) -> PathBuf {
        let name = format!("sessions-{}", self.fixture.tenant);
        self.fixture.cluster.folder().join(name)
    }

    fn log_file(&self) -> PathBuf {
        let name = format!("verify-{}.log", self.fixture.tenant);
        self.fixture.cluster.folder().join(name)
    }

    /// What `sluice verify` has said.
    pub(crate) fn verify_log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// How a person logs in without the pooler.
    pub(crate) fn direct(&self, person: &Person) -> Login {
        self.direct_as(TOKEN_ROLE, &person.token)
    }

    pub(crate) fn direct_as(&self, role: &str, secret: &str) -> Login {
        Login::new(self.fixture.cluster.port, role, secret)
            .database(&self.fixture.database)
            .encrypted()
    }

    /// Starts `sluice guard` with a new key and waits until it is at work.
    pub(crate) fn guard(&self, patience: &str) -> Guard {
        let tenant = &self.fixture.tenant;
        let path = format!("/v1/tenants/{tenant}/guard-key");
        let made = self.fixture.sluice.admin.post(&path, json!({}));
        let key = text(&made["guard_key"]);
        self.fixture.sluice.keep_secret(&key);
        let home = self.fixture.sluice.home();
        home.write("guard.key", &key);
        let log = fs::File::create(home.path("guard.log")).unwrap();
        let guard = sluice::program()
            .args(["guard", "--tenant", tenant, "--patience", patience])
            .args(["--url", &self.fixture.sluice.admin.url])
            .arg("--key-file")
            .arg(home.path("guard.key"))
            .arg("--sessions")
            .arg(self.sessions())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let guard = Guard(guard);
        eventually("the guard is at work", || {
            self.guard_log().contains("looking after").then_some(())
        });
        guard
    }

    pub(crate) fn guard_log(&self) -> String {
        let path = self.fixture.sluice.home().path("guard.log");
        fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn owner(cluster: &Cluster) -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(cluster.folder()).unwrap().uid()
}

/// The binary under test where the server's user may run it.
fn server_program(cluster: &Cluster) -> PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    let copy = COPY.get_or_init(|| {
        let copy = cluster.folder().join("sluice");
        fs::copy(env!("CARGO_BIN_EXE_sluice"), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    });
    copy.clone()
}

/// Puts a line above all others.
fn add_host_rule(cluster: &Cluster, line: &str) {
    static LINES: Mutex<String> = Mutex::new(String::new());
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.push_str(line);
    cluster.write_file("pg_hba.conf", &format!("{lines}{HOST_RULES}"));
    cluster.reload();
}

/// `sluice verify` by hand, with an environment as PAM would make it.
pub(crate) fn verify(arguments: &[&str]) -> Command {
    let mut command = sluice::program();
    command
        .arg("verify")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}
