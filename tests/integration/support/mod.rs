//! The means of the integration tests: servers, clients and a way to wait.

pub(crate) mod admin;
pub(crate) mod authority;
pub(crate) mod canaries;
pub(crate) mod clock;
pub(crate) mod fake_server;
pub(crate) mod fixture;
pub(crate) mod login;
pub(crate) mod messages;
pub(crate) mod pam;
pub(crate) mod pki;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod programs;
pub(crate) mod reply;
mod server;
pub(crate) mod sluice;
pub(crate) mod tls;
pub(crate) mod wire;

use std::{
    process::Command,
    time::{Duration, Instant},
};

pub(crate) use self::{
    fixture::{Fixture, Person},
    login::Login,
    reply::{Fault, Reply},
    wire::Client,
};

/// How long a test waits for anything that must happen; far above what is usual, so that a slow machine does not fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` answers something, or panics naming `what` never came true.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || condition().then_some(()));
}

/// Lets this process and those it starts hold as many connections as the system allows at all.
pub(crate) fn allow_many_connections() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let most = line.split_whitespace().nth(4).unwrap();
    let us = std::process::id().to_string();
    let status = Command::new("prlimit")
        .args(["--pid", &us, &format!("--nofile={most}:{most}")])
        .status();
    assert!(status.expect("prlimit").success());
}
