//! Sockets are served through io_uring where it can be had, and else through epoll. What holds for both is tested with
//! each by `make test`, which sets `SLUICE_TEST_IO_METHOD` for that.

use std::{path::PathBuf, process::Command};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    fixture::Fixture,
    postgres,
    sluice::{Home, Settings, Sluice, source},
};

/// Takes io_uring away from a program that has it in its environment.
struct NoIoUring(TempDir);

impl NoIoUring {
    fn new() -> Self {
        let without = Self(TempDir::new().unwrap());
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(without.library())
            .arg(source("tests/integration/support/no_io_uring.c"))
            .status();
        assert!(compiled.expect("cc").success());
        without
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("no_io_uring.so")
    }

    fn environment(&self) -> [(&'static str, PathBuf); 1] {
        [("LD_PRELOAD", self.library())]
    }
}

fn settings(method: &str) -> Settings {
    Settings::default().set("net.io_method", method)
}

/// Asks `sluice` for a little and for a lot, and tells its log.
fn log_of_one_that_serves(sluice: Sluice) -> String {
    let fixture = Fixture::around(postgres::current(), sluice, json!({}));
    let mut client = fixture.password_client().unwrap();
    client.query("select 1").unwrap();
    let answer = client.query("select repeat('x', 1000) from generate_series(1, 20000)");
    assert_eq!(answer.unwrap().rows.len(), 20_000);
    fixture.sluice.log()
}

#[test]
fn sockets_are_served_through_io_uring_where_it_can_be_had() {
    for method in ["auto", "io_uring"] {
        let log = log_of_one_that_serves(Sluice::start(settings(method)));
        assert!(log.contains("io_method=\"io_uring\""), "{log}");
    }
}

#[test]
fn sockets_are_served_through_epoll_where_that_is_asked_for() {
    let log = log_of_one_that_serves(Sluice::start(settings("epoll")));
    assert!(log.contains("io_method=\"epoll\""), "{log}");
}

#[test]
fn without_io_uring_epoll_is_taken_and_the_log_says_why() {
    let without = NoIoUring::new();
    let sluice = Sluice::start_with(settings("auto"), &without.environment());
    let log = log_of_one_that_serves(sluice);
    assert!(log.contains("io_method=\"epoll\""), "{log}");
    assert!(log.contains("Operation not permitted"), "{log}");
}

#[test]
fn io_uring_that_cannot_be_had_is_refused_where_nothing_else_will_do() {
    let without = NoIoUring::new();
    let home = Home::new(&settings("io_uring"));
    let output = home.serve().envs(without.environment()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("net.io_method"), "{told}");
    assert!(told.contains("say \"auto\" or \"epoll\""), "{told}");
}
