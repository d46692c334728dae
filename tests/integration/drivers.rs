//! The drivers that applications use, each with a program of its own in `tests/drivers`.
//!
//! Every program runs three times: on PostgreSQL itself, which shows that it asks for nothing that PostgreSQL does not
//! do; then through Sluice over three backends, with a role's password and with a person's token. It finds its server
//! where libpq looks for it, in the environment.

mod sqlx;
mod tokio_postgres;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{
    Fixture, Login,
    login::Encryption,
    postgres::{PASSWORD, PASSWORD_ROLE},
    programs::{reach, succeeded},
    sluice::{Settings, source},
    until,
};

/// What one pool has: far fewer than the programs have connections.
const BACKENDS: usize = 3;

/// How many connections the Rust drivers open at once, and how often each has its turn.
const CROWD: usize = 24;
const ROUNDS: usize = 8;

const MEGABYTE: usize = 1024 * 1024;

/// Seconds that a program has, many times what it takes.
const LIMIT: &str = "120";

/// Calls `program` with each of the three ways to a database, and an empty table `items` in it.
fn each_way(program: impl Fn(&Login, &Path)) {
    let fixture = Fixture::with(Settings::default().set("pool.size", BACKENDS as i64));
    let person = fixture.granted("anna");
    let direct = Login::new(fixture.cluster.port, PASSWORD_ROLE, PASSWORD);
    let authority = fixture.sluice.home().path("ca.crt");
    for (way, login) in [
        ("PostgreSQL itself", direct),
        ("Sluice, with a password", fixture.password_login()),
        ("Sluice, with a token", fixture.token_login(&person)),
    ] {
        println!("{way}:");
        make_table(&fixture);
        program(&login.database(&fixture.database), &authority);
        until("no backend is held", || {
            fixture
                .backends()
                .iter()
                .all(|backend| backend.state == "idle")
        });
    }
    let backends = fixture.backends().len();
    assert!(
        (1..=2 * BACKENDS).contains(&backends),
        "{backends} backends in two pools"
    );
}

fn make_table(fixture: &Fixture) {
    let mut superuser = fixture.cluster.superuser(&fixture.database);
    superuser
        .query(
            "drop table if exists items;
             create table items (id int primary key, owner text, note text);
             grant all on items to public",
        )
        .unwrap();
}

/// Runs a program each way; `program` makes its command.
fn drive(program: impl Fn() -> Command) {
    each_way(|login, authority| {
        let mut command = program();
        reach(&mut command, login);
        match login.encryption {
            // Whatever the driver does by itself.
            Encryption::None => command.env_remove("PGSSLMODE"),
            Encryption::Requested | Encryption::Direct => command
                .env("PGSSLMODE", "verify-full")
                .env("PGSSLROOTCERT", authority),
        };
        println!("{}", run(command));
    });
}

/// What a program printed that has succeeded.
fn run(mut command: Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: run scripts/drivers"));
    if !output.status.success() {
        eprintln!("{command:?} fails; if it lacks something, run scripts/drivers");
    }
    succeeded(&output)
}

/// A command that is ended when it takes too long; the last case that it printed tells where it hung.
fn limited(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg(LIMIT).arg(program);
    command
}

fn program_source(name: &str) -> PathBuf {
    source("tests/drivers").join(name)
}

/// The folder in which `scripts/drivers` has installed what `list` holds.
fn installed(folder: &str, list: &str) -> PathBuf {
    let folder = built(folder);
    let made_from = fs::read(folder.join("made-from")).unwrap_or_default();
    assert!(
        made_from == fs::read(program_source(list)).unwrap(),
        "{} is missing or out of date: run scripts/drivers",
        folder.display()
    );
    folder
}

/// A file or folder below `target/drivers`.
fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("drivers")
        .join(name)
}

fn python(name: &str) -> Command {
    let folder = installed("python", "requirements.txt");
    let mut command = limited(folder.join("bin/python"));
    command.arg(program_source(name));
    command
}

fn node(name: &str) -> Command {
    let modules = installed("node", "package.json").join("node_modules");
    let mut command = limited("node");
    command.arg(program_source(name)).env("NODE_PATH", modules);
    command
}

fn c(name: &str) -> PathBuf {
    let program = built(name);
    let mut compiler = Command::new("cc");
    compiler
        .args(["-O1", "-Wall", "-Werror", "-I/usr/include/postgresql", "-o"])
        .args([&program, &program_source(&format!("{name}.c"))])
        .arg("-lpq");
    run(compiler);
    program
}

/// Debian keeps the sources of Go's packages in a GOPATH; nothing comes from anywhere else.
fn go(name: &str) -> PathBuf {
    let program = built(name);
    let mut compiler = Command::new("go");
    compiler
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .args(["build", "-o"])
        .args([&program, &program_source(&format!("{name}.go"))])
        .arg(program_source("cases.go"));
    run(compiler);
    program
}

fn java(name: &str) -> Command {
    let mut command = limited("java");
    command
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .args(["-cp", "/usr/share/java/postgresql.jar"])
        .arg(program_source(name));
    command
}

#[test]
fn psycopg3() {
    drive(|| python("psycopg3.py"));
}

#[test]
fn psycopg3_async() {
    drive(|| python("psycopg3_async.py"));
}

#[test]
fn psycopg3_pipeline() {
    drive(|| python("psycopg3_pipeline.py"));
}

#[test]
fn psycopg2() {
    drive(|| python("psycopg2_driver.py"));
}

#[test]
fn asyncpg() {
    drive(|| python("asyncpg_driver.py"));
}

#[test]
fn pg8000() {
    drive(|| python("pg8000_driver.py"));
}

#[test]
fn sqlalchemy() {
    drive(|| python("sqlalchemy_driver.py"));
}

#[test]
fn node_postgres() {
    drive(|| node("node_postgres.js"));
}

#[test]
fn postgres_js() {
    drive(|| node("postgres_js.js"));
}

#[test]
fn libpq_pipeline() {
    let program = c("libpq_pipeline");
    drive(|| limited(&program));
}

#[test]
fn jdbc() {
    drive(|| java("Jdbc.java"));
}

#[test]
fn pgx() {
    let program = go("pgx");
    drive(|| limited(&program));
}

#[test]
fn lib_pq() {
    let program = go("lib_pq");
    drive(|| limited(&program));
}
