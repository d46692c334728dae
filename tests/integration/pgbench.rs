//! PostgreSQL's own load generator through a small pool.

use std::{thread, time::Duration};

use crate::support::{Fixture, programs::pgbench};

/// Sixty-four clients over ten backends for a while, without one error and never with an eleventh backend.
fn pgbench_runs(protocol: &str) {
    let fixture = Fixture::start();
    let login = fixture.password_login().database(&fixture.database);
    pgbench(&login, &["-i", "-q", "-s", "1"]);
    let output = thread::scope(|scope| {
        let bench = scope.spawn(|| {
            let clients = ["-n", "-S", "-c", "64", "-j", "2", "-T", "5", "-M", protocol];
            pgbench(&login, &clients)
        });
        while !bench.is_finished() {
            let backends = fixture.backends().len();
            assert!(backends <= 10, "{backends} backends");
            thread::sleep(Duration::from_millis(20));
        }
        bench.join().unwrap()
    });
    assert!(
        output.contains("number of failed transactions: 0 "),
        "{output}"
    );
    let processed = output
        .lines()
        .find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    assert!(
        processed.unwrap().parse::<u64>().unwrap() > 1_000,
        "{output}"
    );
}

#[test]
fn pgbench_runs_with_simple_queries_through_ten_backends() {
    pgbench_runs("simple");
}

#[test]
fn pgbench_runs_with_extended_queries_through_ten_backends() {
    pgbench_runs("extended");
}

#[test]
fn pgbench_runs_with_prepared_statements_through_ten_backends() {
    pgbench_runs("prepared");
}
