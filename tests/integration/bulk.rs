//! Messages far larger than any buffer stream through, and a client that stops reading holds nobody up but itself.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::{IsNull, message::frontend};
use serde_json::Value;

use crate::support::{
    Client, Fixture, Reply, login::Login, sluice::Settings, until, wire::SocketOptions,
};

/// Enough to show in the memory of whoever keeps it. `SLUICE_BULK_BYTES` says otherwise: PostgreSQL knows up to a gigabyte.
fn bulk_bytes() -> usize {
    std::env::var("SLUICE_BULK_BYTES").map_or(64 << 20, |bytes| bytes.parse().unwrap())
}

/// How much Sluice may grow while it passes that on.
const GROWTH_MAX_BYTES: u64 = 8 << 20;

/// Runs `work` with a client, plain and encrypted, and sees to it that Sluice stays small.
fn in_bounded_memory(work: impl Fn(&mut Client)) {
    let fixture = Fixture::start();
    for login in [
        fixture.password_login(),
        fixture.password_login().encrypted(),
    ] {
        let mut client = login.open().unwrap();
        client.query("select 1").unwrap();
        let before = fixture.sluice.resident_bytes();
        fixture.sluice.forget_peak();
        work(&mut client);
        assert_eq!(client.value("select 1"), "1");
        let growth = fixture.sluice.peak_resident_bytes().saturating_sub(before);
        assert!(growth < GROWTH_MAX_BYTES, "Sluice grew by {growth} bytes");
    }
}

#[test]
fn a_huge_row_streams_through() {
    in_bounded_memory(|client| {
        let value = client.value(&format!("select repeat('x', {})", bulk_bytes()));
        assert_eq!(value.len(), bulk_bytes());
    });
}

#[test]
fn a_huge_parameter_streams_through() {
    in_bounded_memory(|client| {
        let value = "x".repeat(bulk_bytes());
        client.send_messages(|out| {
            frontend::parse("", "select length($1::text)", [], out).unwrap();
            bind_text("", &value, out);
            frontend::execute("", 0, out).unwrap();
            frontend::sync(out);
        });
        let answer = client.answer().unwrap();
        assert_eq!(answer.rows, [[Some(bulk_bytes().to_string())]]);
    });
}

#[test]
fn a_huge_parameter_of_a_named_statement_streams_through() {
    in_bounded_memory(|client| {
        let value = "x".repeat(bulk_bytes());
        client.send_messages(|out| {
            frontend::parse("measure", "select length($1::text)", [], out).unwrap();
            bind_text("measure", &value, out);
            frontend::execute("", 0, out).unwrap();
            frontend::sync(out);
        });
        let answer = client.answer().unwrap();
        assert_eq!(answer.rows, [[Some(bulk_bytes().to_string())]]);
    });
}

#[test]
fn a_huge_query_text_streams_through() {
    in_bounded_memory(|client| {
        let value = "x".repeat(bulk_bytes() / 2);
        let length = client.value(&format!("select length('{value}')"));
        assert_eq!(length, (bulk_bytes() / 2).to_string());
        client.send_messages(|out| {
            frontend::parse("", &format!("select length('{value}')"), [], out).unwrap();
            bind(out);
            frontend::execute("", 0, out).unwrap();
            frontend::sync(out);
        });
        assert!(client.answer().is_ok());
    });
}

#[test]
fn a_huge_copy_streams_through_both_ways() {
    const LINE: usize = 1 << 20;
    in_bounded_memory(|client| {
        client
            .query("create unlogged table if not exists bulk (line text)")
            .unwrap();
        client.start("copy bulk from stdin");
        assert_eq!(client.receive(), Reply::CopyIn);
        let line = "x".repeat(LINE - 1) + "\n";
        let mut data = vec![b'd'];
        data.extend_from_slice(&(LINE as u32 + 4).to_be_bytes());
        data.extend_from_slice(line.as_bytes());
        for _ in 0..bulk_bytes() / LINE {
            client.send(&data);
        }
        client.send_messages(frontend::copy_done);
        assert!(client.answer().is_ok());
        client.start("copy bulk to stdout");
        let mut copied = 0;
        loop {
            match client.receive() {
                Reply::CopyData(data) => copied += data.len(),
                Reply::ReadyForQuery(_) => break,
                Reply::Error(fault) => panic!("{fault:?}"),
                _ => {}
            }
        }
        assert_eq!(copied, bulk_bytes() / LINE * LINE);
        client.query("truncate bulk").unwrap();
    });
}

fn bind_text(statement: &str, value: &str, out: &mut BytesMut) {
    let write = |value: &str, out: &mut BytesMut| {
        out.extend_from_slice(value.as_bytes());
        Ok(IsNull::No)
    };
    assert!(frontend::bind("", statement, [], [value], write, [], out).is_ok());
}

fn bind(out: &mut BytesMut) {
    crate::support::messages::bind(out);
}

/// A client that asks for more than the kernel's buffers hold, and never reads.
fn deaf(mut login: Login) -> Client {
    login.socket = SocketOptions {
        receive_buffer: Some(4096),
        ..SocketOptions::default()
    };
    let mut client = login.open().unwrap();
    client.start(&format!(
        "select repeat('x', {}) from generate_series(1, 10)",
        bulk_bytes()
    ));
    client
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_its_backend_serves_others_again() {
    let settings = Settings::default()
        .set("timeouts.write_stall", "1s")
        .set("pool.size", 2);
    let fixture = Fixture::with(settings);
    for login in [
        fixture.password_login(),
        fixture.password_login().encrypted(),
    ] {
        let mut neighbour = fixture.password_client().unwrap();
        let before = fixture.sluice.resident_bytes();
        fixture.sluice.forget_peak();
        let began = Instant::now();
        let _deaf = deaf(login);
        fixture.running("repeat");
        // The pool's other backend goes on serving everybody else.
        for _ in 0..20 {
            assert_eq!(neighbour.value("select 1"), "1");
        }
        until("the deaf client's backend is gone", || {
            fixture
                .backends()
                .iter()
                .all(|backend| !backend.query.contains("repeat"))
        });
        assert!(
            began.elapsed() > Duration::from_millis(900),
            "cut off too early"
        );
        let growth = fixture.sluice.peak_resident_bytes().saturating_sub(before);
        assert!(growth < GROWTH_MAX_BYTES, "Sluice grew by {growth} bytes");
        // Both backends may be had at once again.
        let mut both = [
            fixture.password_client().unwrap(),
            fixture.password_client().unwrap(),
        ];
        for client in &mut both {
            client.query("begin").unwrap();
        }
    }
    let cut_off = |row: &Value| row["kind"] == "session.ended" && row["reason"] == "write_stall";
    until("the cause is in the audit trail", || {
        fixture
            .sluice
            .admin
            .audit(&fixture.tenant)
            .iter()
            .filter(|row| cut_off(row))
            .count()
            == 2
    });
    let log = fixture.sluice.log();
    assert!(log.contains("write_stall"), "{log}");
}

#[test]
fn a_slow_reader_is_not_cut_off() {
    let settings = Settings::default().set("timeouts.write_stall", "1s");
    let fixture = Fixture::with(settings);
    let mut client = deaf(fixture.password_login());
    let began = Instant::now();
    // A little at a time, for much longer than a client may take in nothing at all.
    while began.elapsed() < Duration::from_secs(3) {
        assert!(client.receive_some() > 0, "it was cut off");
        std::thread::sleep(Duration::from_millis(200));
    }
}
