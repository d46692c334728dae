//! PostgreSQL's own client programs.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use super::login::{Encryption, Login};

/// Tells a command its server, user and password where libpq looks for them.
pub(crate) fn reach<'a>(command: &'a mut Command, login: &Login) -> &'a mut Command {
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", login.port.to_string())
        .env("PGPASSWORD", &login.password)
        .env("PGCONNECT_TIMEOUT", "20")
        .env(
            "PGSSLMODE",
            match login.encryption {
                Encryption::None => "disable",
                Encryption::Requested | Encryption::Direct => "require",
            },
        );
    for (parameter, value) in &login.parameters {
        let variable = match parameter.as_str() {
            "user" => "PGUSER",
            "database" => "PGDATABASE",
            "options" => "PGOPTIONS",
            "application_name" => "PGAPPNAME",
            other => panic!("libpq has no variable for {other}"),
        };
        command.env(variable, value);
    }
    command
}

fn program(name: &str, login: &Login) -> Command {
    let mut command = Command::new(name);
    reach(&mut command, login);
    command
}

/// `psql` without start-up files that fails on the first error.
pub(crate) fn psql_command(login: &Login) -> Command {
    let mut command = program("psql", login);
    command.args([
        "--no-psqlrc",
        "--quiet",
        "--tuples-only",
        "--no-align",
        "--set=ON_ERROR_STOP=1",
    ]);
    command
}

/// Runs `psql` with `arguments` and, as its standard input, `input`.
pub(crate) fn psql(login: &Login, arguments: &[&str], input: &str) -> Output {
    let mut command = psql_command(login);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("psql");
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // psql may answer before it has read everything; it may also leave early.
        scope.spawn(move || stdin.write_all(input.as_bytes()));
        child.wait_with_output().unwrap()
    })
}

/// Runs one command that must succeed; answers what psql printed.
#[track_caller]
pub(crate) fn psql_value(login: &Login, sql: &str) -> String {
    succeeded(&psql(login, &["--command", sql], ""))
        .trim()
        .to_owned()
}

#[track_caller]
pub(crate) fn pgbench(login: &Login, arguments: &[&str]) -> String {
    let output = program("pgbench", login)
        .args(arguments)
        .output()
        .expect("pgbench");
    succeeded(&output)
}

/// Standard output of a program that has succeeded.
#[track_caller]
pub(crate) fn succeeded(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "failed: {out}{err}");
    out.into_owned()
}
