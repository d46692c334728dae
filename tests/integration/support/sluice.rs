//! One running Sluice: the real binary with a configuration, catalogue and ports of its own.

use std::{
    collections::BTreeSet,
    env, fs, io,
    os::unix::{
        fs::{MetadataExt, chown},
        process::{CommandExt, ExitStatusExt},
    },
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use reqwest::Method;
use tempfile::TempDir;
use toml::{Table, Value};

use super::{admin::Admin, canaries::Canaries, eventually, pki, ports::free_port};

pub(crate) const ADMIN_KEY: &str = "the-key-of-the-tests-administrator";
const CATALOG_KEY: &str = "5a17c0de5a17c0de5a17c0de5a17c0de5a17c0de5a17c0de5a17c0de5a17c0de";

/// Owns nothing on any machine.
const NOBODY: u32 = 65_534;

/// `pooler.toml` as the tests write it: free ports, TLS and token access set up, everything else default.
#[derive(Clone)]
pub(crate) struct Settings(Table);

impl Settings {
    /// Sets `section.key`.
    pub(crate) fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        let (section, key) = name.split_once('.').expect("section.key");
        let section = self
            .0
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        section
            .as_table_mut()
            .unwrap()
            .insert(key.to_owned(), value.into());
        self
    }

    /// Leaves a whole section to its defaults.
    pub(crate) fn without(mut self, section: &str) -> Self {
        self.0.remove(section);
        self
    }

    pub(crate) fn text(&self) -> String {
        self.0.to_string()
    }

    fn port(&self, section: &str, key: &str) -> u16 {
        let address = self.0[section][key].as_str().unwrap();
        address.rsplit_once(':').unwrap().1.parse().unwrap()
    }
}

impl Default for Settings {
    fn default() -> Self {
        let address = || format!("127.0.0.1:{}", free_port());
        let settings = match env::var("SLUICE_TEST_IO_METHOD") {
            Ok(method) => Self(Table::new()).set("net.io_method", method),
            Err(_) => Self(Table::new()),
        };
        settings
            .set("listen.pooler", address())
            .set("listen.direct", address())
            .set("admin.listen", address())
            .set("admin.key_file", "admin.key")
            .set("catalog.path", "sluice.db")
            .set("catalog.key_file", "catalog.key")
            .set("tls.certificate", "server.crt")
            .set("tls.key", "server.key")
            .set("token_access.ca_certificate", "ca.crt")
            .set("token_access.ca_key", "ca.key")
            .set("pool.size", 10)
    }
}

/// A folder with everything that a configuration names, and what of it is not Sluice's own work.
pub(crate) struct Home(TempDir, Mutex<BTreeSet<String>>);

impl Home {
    pub(crate) fn new(settings: &Settings) -> Self {
        let home = Self(
            tempfile::Builder::new()
                .prefix("sluice-test-")
                .tempdir()
                .unwrap(),
            Mutex::default(),
        );
        let server = pki::authority().server(&["localhost", "127.0.0.1"]);
        home.write("server.crt", &server.certificate);
        home.write("server.key", &server.key);
        home.write("ca.crt", &pki::authority().identity.certificate);
        home.write("ca.key", &pki::authority().identity.key);
        home.write("admin.key", ADMIN_KEY);
        home.write("catalog.key", CATALOG_KEY);
        home.write("pooler.toml", &settings.text());
        home
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        self.given().insert(name.to_owned());
        fs::write(self.path(name), content).unwrap();
    }

    fn given(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `sluice serve` on this folder's configuration.
    pub(crate) fn serve(&self) -> Command {
        let mut command = program();
        command
            .args(["serve", "--config"])
            .arg(self.path("pooler.toml"));
        command
    }

    /// The same as a user without privileges, whose the folder is then; as ourselves, where we are no more.
    fn serve_unprivileged(&self) -> Command {
        // Not `fs::copy`: a process that another test forks meanwhile would hold the program open for writing.
        let copy = self.path("sluice");
        self.given().insert("sluice".to_owned());
        let copied = Command::new("cp")
            .args([Path::new(env!("CARGO_BIN_EXE_sluice")), &copy])
            .status();
        assert!(copied.unwrap().success());
        let mut command = Command::new(copy);
        command.args(self.serve().get_args());
        if fs::metadata(self.0.path()).unwrap().uid() == 0 {
            let files = fs::read_dir(self.0.path()).unwrap();
            let files = files.map(|file| file.unwrap().path());
            for path in files.chain([self.0.path().to_owned()]) {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

/// The binary under test, with nothing of ours in its environment.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    for variable in [
        "SLUICE_ADMIN_KEY",
        "SLUICE_ADMIN_URL",
        "SLUICE_CATALOG_KEY",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    command
}

/// A running process. When it goes, its log is searched for panics, and everything that it has written or can be asked for
/// for secrets.
pub(crate) struct Sluice {
    home: Home,
    settings: Settings,
    process: Mutex<Child>,
    pub(crate) port: u16,
    pub(crate) direct_port: u16,
    pub(crate) admin: Admin,
    canaries: Canaries,
}

impl Sluice {
    /// Starts and waits until it is ready.
    pub(crate) fn start(settings: Settings) -> Self {
        let home = Home::new(&settings);
        Self::start_in(home, settings)
    }

    /// Starts with more in its environment.
    pub(crate) fn start_with(settings: Settings, environment: &[(&str, PathBuf)]) -> Self {
        let home = Home::new(&settings);
        let mut command = home.serve();
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let process = spawn(command, &home);
        Self::wait_for(process, home, settings)
    }

    /// Starts with this limit on open files, lower and upper.
    pub(crate) fn start_with_open_files(settings: Settings, lower: u32, upper: u32) -> Self {
        let home = Home::new(&settings);
        let serve = home.serve();
        let mut command = Command::new("sh");
        let limits = format!("ulimit -Sn {lower} && ulimit -Hn {upper} && exec \"$0\" \"$@\"");
        command.args(["-c", &limits]).arg(serve.get_program());
        command.args(serve.get_args());
        for (name, _) in serve.get_envs() {
            command.env_remove(name);
        }
        let process = spawn(command, &home);
        Self::wait_for(process, home, settings)
    }

    /// Starts as a user without privileges, where we are root.
    pub(crate) fn start_unprivileged(settings: Settings) -> Self {
        let home = Home::new(&settings);
        let process = spawn(home.serve_unprivileged(), &home);
        Self::wait_for(process, home, settings)
    }

    fn start_in(home: Home, settings: Settings) -> Self {
        let process = spawn(home.serve(), &home);
        Self::wait_for(process, home, settings)
    }

    fn wait_for(process: Child, home: Home, settings: Settings) -> Self {
        let admin = Admin::new(settings.port("admin", "listen"), ADMIN_KEY);
        let canaries = admin.canaries.clone();
        canaries.add(ADMIN_KEY);
        canaries.add(CATALOG_KEY);
        let sluice = Self {
            port: settings.port("listen", "pooler"),
            direct_port: settings.port("listen", "direct"),
            admin,
            home,
            settings,
            process: Mutex::new(process),
            canaries,
        };
        sluice.wait_until_ready();
        sluice
    }

    fn wait_until_ready(&self) {
        eventually("Sluice is ready", || {
            assert_eq!(self.exit_status(), None, "Sluice has ended: {}", self.log());
            self.admin.is_ready().then_some(())
        });
    }

    /// Starts again on the same folder after it has ended.
    pub(crate) fn start_again(&self) {
        *self.lock() = spawn(self.home.serve(), &self.home);
        self.wait_until_ready();
    }

    /// Changes the configuration file; takes effect when it is read next.
    pub(crate) fn rewrite(&self, change: impl FnOnce(Settings) -> Settings) {
        let settings = change(self.settings.clone());
        self.home.write("pooler.toml", &settings.text());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.lock().id()
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Sends a signal by name: `TERM`, `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// How it ended, if it has.
    pub(crate) fn exit_status(&self) -> Option<ExitStatus> {
        self.lock().try_wait().unwrap()
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(&self) -> ExitStatus {
        self.signal("TERM");
        self.wait_for_end()
    }

    pub(crate) fn wait_for_end(&self) -> ExitStatus {
        eventually("Sluice ends", || self.exit_status())
    }

    /// Adds text that nothing may show from now on.
    pub(crate) fn keep_secret(&self, text: &str) {
        self.canaries.add(text);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.path("log")).unwrap_or_default()
    }

    /// `sluice ARGUMENTS…` against this instance.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command
            .args(arguments)
            .env("SLUICE_ADMIN_URL", &self.admin.url)
            .env("SLUICE_ADMIN_KEY", ADMIN_KEY);
        command
    }

    /// Runs a command that must succeed and answers its standard output.
    #[track_caller]
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "sluice {arguments:?}: {error}");
        let place = format!("what sluice {arguments:?} prints");
        self.canaries.search(&place, &output.stdout);
        self.canaries.search(&place, &output.stderr);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Memory that is resident, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory that was resident at any time since [`Self::forget_peak`].
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    pub(crate) fn forget_peak(&self) {
        match fs::write(format!("/proc/{}/clear_refs", self.pid()), "5") {
            // For root only (`cli::memory`); to others the peak is that since the start, which is no lower.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            outcome => outcome.unwrap(),
        }
    }

    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_files(&self) {
        let log = self.log();
        assert!(!log.contains("panicked"), "Sluice has panicked: {log}");
        let given = self.home.given();
        let searched = self.canaries.search_folder(self.home.0.path(), &given);
        assert!(searched > 0, "not even a log was found");
    }

    /// What can be asked for while it runs is searched by the asking.
    fn check_answers(&self) {
        if self.exit_status().is_none() && self.admin.is_ready() {
            for path in [
                "/metrics",
                "/v1/sessions",
                "/v1/audit?limit=1000",
                "/v1/people",
                "/v1/tenants",
            ] {
                let answer = self.admin.call(Method::GET, path, None);
                assert_eq!(answer.status, 200, "{path}: {answer:?}");
            }
        }
    }
}

impl Drop for Sluice {
    fn drop(&mut self) {
        let is_failing = std::thread::panicking();
        // Whatever comes of it, the process is to end.
        let checked = catch_unwind(AssertUnwindSafe(|| {
            if !is_failing {
                self.check_answers();
            }
        }));
        let _ = self.lock().kill();
        let _ = self.lock().wait();
        if is_failing {
            eprintln!("the log of Sluice ends with:\n{}", tail(&self.log()));
            return;
        }
        checked.unwrap_or_else(|cause| resume_unwind(cause));
        self.check_files();
    }
}

fn spawn(mut command: Command, home: &Home) -> Child {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(home.path("log"))
        .unwrap();
    let errors = log.try_clone().unwrap();
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    command.spawn().unwrap()
}

pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name])
        .arg(pid.to_string())
        .status()
        .unwrap();
    assert!(status.success(), "kill -s {name} {pid}");
}

/// Whether the process ended by itself and not by a signal.
pub(crate) fn ended_in_order(status: ExitStatus) -> bool {
    status.signal().is_none() && status.success()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Where a file of the product's source tree lies.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
