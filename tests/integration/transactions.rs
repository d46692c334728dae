//! Transaction pooling: drivers must not be able to tell it from PostgreSQL.

use bytes::BytesMut;
use postgres_protocol::{IsNull, message::frontend};

use crate::support::{
    Client, Fixture, Reply, login::Login, programs::pgbench, reply::Status, sluice::Settings, until,
};

/// Parse, Bind, Describe and Execute of an unnamed statement without parameters; no Sync.
fn unnamed(sql: &str, out: &mut BytesMut) {
    frontend::parse("", sql, [], out).unwrap();
    bind(out);
    frontend::describe(b'P', "", out).unwrap();
    frontend::execute("", 0, out).unwrap();
}

fn bind(out: &mut BytesMut) {
    let no_values: [&str; 0] = [];
    let bound = frontend::bind("", "", [], no_values, |_, _| Ok(IsNull::Yes), [], out);
    assert!(bound.is_ok());
}

/// The values of the rows among `replies`, and the errors' codes.
fn gist(replies: &[Reply]) -> Vec<String> {
    let mut gist = Vec::new();
    for reply in replies {
        match reply {
            Reply::DataRow(row) => gist.push(row[0].clone().unwrap_or_default()),
            Reply::Error(fault) => gist.push(fault.code.clone()),
            Reply::ReadyForQuery(status) => gist.push(format!("{status:?}")),
            _ => {}
        }
    }
    gist
}

fn one_backend() -> Fixture {
    Fixture::with(Settings::default().set("pool.size", 1))
}

#[test]
fn several_syncs_sent_at_once_are_each_answered_in_order() {
    let fixture = one_backend();
    let mut client = fixture.password_client().unwrap();
    // Another client wants the only backend between any two of them.
    let mut rival = fixture.password_client().unwrap();
    client.send_messages(|out| {
        for number in 0..50 {
            unnamed(&format!("select {number}"), out);
            frontend::sync(out);
        }
    });
    rival.start("select 'rival'");
    for number in 0..50 {
        let replies = client.receive_until_ready();
        assert_eq!(gist(&replies), [number.to_string(), "Idle".to_owned()]);
    }
    assert_eq!(rival.answer().unwrap().rows[0][0].as_deref(), Some("rival"));
}

#[test]
fn a_flush_brings_the_answers_so_far_and_keeps_the_backend_until_the_sync() {
    let fixture = one_backend();
    let mut client = fixture.password_client().unwrap();
    let mut rival = fixture.password_client().unwrap();
    client.send_messages(|out| {
        unnamed("select 1", out);
        frontend::flush(out);
    });
    let mut seen = Vec::new();
    while !matches!(seen.last(), Some(Reply::CommandComplete(_))) {
        seen.push(client.receive());
    }
    assert_eq!(gist(&seen), ["1"]);
    rival.start("select 'rival'");
    assert!(
        rival.is_silent_for(std::time::Duration::from_millis(200)),
        "the backend was given away"
    );
    client.send_messages(|out| {
        unnamed("select 2", out);
        frontend::sync(out);
    });
    assert_eq!(gist(&client.receive_until_ready()), ["2", "Idle"]);
    assert!(rival.answer().is_ok());
}

#[test]
fn after_an_error_a_pipeline_is_skipped_to_its_sync_and_goes_on_behind_it() {
    let fixture = one_backend();
    let mut client = fixture.password_client().unwrap();
    client.send_messages(|out| {
        unnamed("select 1", out);
        unnamed("select 1 / 0", out);
        unnamed("select 'skipped'", out);
        frontend::sync(out);
        unnamed("select 2", out);
        frontend::sync(out);
        unnamed("no sql at all", out);
        frontend::sync(out);
    });
    assert_eq!(gist(&client.receive_until_ready()), ["1", "22012", "Idle"]);
    assert_eq!(gist(&client.receive_until_ready()), ["2", "Idle"]);
    assert_eq!(gist(&client.receive_until_ready()), ["42601", "Idle"]);
    assert_eq!(client.value("select 3"), "3");
}

#[test]
fn an_error_is_told_at_once_and_not_only_at_the_sync() {
    let fixture = one_backend();
    let mut client = fixture.password_client().unwrap();
    client.send_messages(|out| unnamed("select 1 / 0", out));
    loop {
        if let Reply::Error(fault) = client.receive() {
            assert_eq!(fault.code, "22012");
            break;
        }
    }
    client.send_messages(frontend::sync);
    assert_eq!(gist(&client.receive_until_ready()), ["Idle"]);
}

#[test]
fn queries_sent_without_waiting_are_answered_one_by_one() {
    let fixture = one_backend();
    let mut client = fixture.password_client().unwrap();
    client.send_messages(|out| {
        for sql in [
            "begin", "select 1", "oops", "select 2", "rollback", "select 3", "",
        ] {
            frontend::query(sql, out).unwrap();
        }
    });
    let expected: [&[&str]; 7] = [
        &["InTransaction"],
        &["1", "InTransaction"],
        &["42601", "Failed"],
        &["25P02", "Failed"],
        &["Idle"],
        &["3", "Idle"],
        &["Idle"],
    ];
    for answer in expected {
        assert_eq!(gist(&client.receive_until_ready()), answer);
    }
}

#[test]
fn a_message_may_come_byte_by_byte() {
    let fixture = one_backend();
    let mut client = fixture.password_client().unwrap();
    let mut bytes = BytesMut::new();
    frontend::query("select 'slow'", &mut bytes).unwrap();
    for byte in bytes {
        client.send([byte]);
    }
    assert_eq!(client.answer().unwrap().rows[0][0].as_deref(), Some("slow"));
}

#[test]
fn a_failed_transaction_keeps_its_backend_until_it_is_rolled_back() {
    let fixture = one_backend();
    let mut client = fixture.password_client().unwrap();
    client.query("begin").unwrap();
    client.query("select 1 / 0").unwrap_err();
    let mut rival = fixture.password_client().unwrap();
    rival.start("select 1");
    assert!(rival.is_silent_for(std::time::Duration::from_millis(200)));
    assert_eq!(client.query("rollback").unwrap().status, Some(Status::Idle));
    assert!(rival.answer().is_ok());
}

#[test]
fn large_messages_pass_both_ways() {
    let fixture = one_backend();
    let mut client = fixture.password_client().unwrap();
    let length = 20_000_000;
    let text = "x".repeat(length);
    assert_eq!(
        client.value(&format!("select length('{text}')")),
        length.to_string()
    );
    assert_eq!(
        client.value(&format!("select repeat('y', {length})")).len(),
        length
    );
}

#[test]
fn a_big_result_streams_through_bounded_memory() {
    let fixture = one_backend();
    let mut client = fixture.password_client().unwrap();
    client.query("select 1").unwrap();
    let before = fixture.sluice.resident_bytes();
    client.start("select repeat('x', 100000000)");
    let mut most = before;
    let mut bytes = 0;
    loop {
        most = most.max(fixture.sluice.resident_bytes());
        match client.receive() {
            Reply::DataRow(row) => bytes += row[0].as_ref().unwrap().len(),
            Reply::ReadyForQuery(_) => break,
            _ => {}
        }
    }
    assert_eq!(bytes, 100_000_000);
    let grown = fixture.sluice.resident_bytes().max(most) - before;
    assert!(
        grown < 16 << 20,
        "one row has taken {grown} bytes of memory"
    );
}

#[test]
fn an_extended_query_over_a_portal_is_suspended_and_resumed() {
    let fixture = one_backend();
    let mut client = fixture.password_client().unwrap();
    client.query("begin").unwrap();
    client.send_messages(|out| {
        frontend::parse("", "select generate_series(1, 5)", [], out).unwrap();
        bind(out);
        frontend::execute("", 2, out).unwrap();
        frontend::sync(out);
    });
    let replies = client.receive_until_ready();
    assert!(replies.contains(&Reply::PortalSuspended), "{replies:?}");
    assert_eq!(gist(&replies), ["1", "2", "InTransaction"]);
    client.send_messages(|out| {
        frontend::execute("", 0, out).unwrap();
        frontend::sync(out);
    });
    assert_eq!(
        gist(&client.receive_until_ready()),
        ["3", "4", "5", "InTransaction"]
    );
    client.query("commit").unwrap();
}

#[test]
fn tokio_postgres_runs_transactions_and_pipelines() {
    let fixture = one_backend();
    let settings = format!(
        "host=127.0.0.1 port={} user={} password='{}'",
        fixture.sluice.port,
        fixture.password_login().parameters[0].1,
        crate::support::postgres::PASSWORD,
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut client, connection) = tokio_postgres::connect(&settings, tokio_postgres::NoTls)
            .await
            .unwrap();
        let driver = tokio::spawn(connection);
        let transaction = client.transaction().await.unwrap();
        transaction
            .batch_execute("create temporary table numbers (n int) on commit drop")
            .await
            .unwrap();
        for n in 0..10_i32 {
            transaction
                .execute("insert into numbers values ($1)", &[&n])
                .await
                .unwrap();
        }
        let sum: i64 = transaction
            .query_one("select sum(n) from numbers", &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(sum, 45);
        transaction.commit().await.unwrap();
        let (left, right) = tokio::join!(
            client.query_one("select 1::int4", &[]),
            client.query_one("select 2::int4", &[])
        );
        assert_eq!(
            (
                left.unwrap().get::<_, i32>(0),
                right.unwrap().get::<_, i32>(0)
            ),
            (1, 2)
        );
        drop(client);
        driver.await.unwrap().unwrap();
    });
}

/// How a client may leave in the middle of its work.
fn leaves_nothing_behind(leave: impl FnOnce(Client)) {
    let fixture = one_backend();
    let login: Login = fixture.password_login();
    let mut client = login.open().unwrap();
    client.query("create table work (n int)").unwrap();
    client.query("begin").unwrap();
    client.query("insert into work values (1)").unwrap();
    leave(client);
    until("no transaction is open", || {
        fixture
            .backends()
            .iter()
            .all(|backend| backend.state == "idle" || backend.query.contains("count"))
    });
    let mut next = login.open().unwrap();
    assert_eq!(next.value("select count(*) from work"), "0");
    until("its session is forgotten", || {
        fixture.sluice.admin.sessions(&fixture.tenant).len() == 1
    });
}

#[test]
fn a_client_that_vanishes_in_a_transaction_leaves_none_open() {
    leaves_nothing_behind(drop);
}

#[test]
fn a_client_that_says_goodbye_in_a_transaction_leaves_none_open() {
    leaves_nothing_behind(|mut client| client.send_messages(frontend::terminate));
}

#[test]
fn a_client_that_vanishes_in_a_query_leaves_none_running() {
    leaves_nothing_behind(|mut client| client.start("select pg_sleep(600)"));
}

#[test]
fn a_client_that_vanishes_in_half_a_message_leaves_no_transaction_open() {
    leaves_nothing_behind(|mut client| {
        let mut bytes = BytesMut::new();
        frontend::query("insert into work values (2)", &mut bytes).unwrap();
        client.send(&bytes[..bytes.len() / 2]);
    });
}

#[test]
fn a_client_that_vanishes_in_an_unfinished_pipeline_leaves_no_transaction_open() {
    leaves_nothing_behind(|mut client| {
        client.send_messages(|out| {
            unnamed("insert into work values (2)", out);
            frontend::flush(out);
        });
        while !matches!(client.receive(), Reply::CommandComplete(_)) {}
    });
}

#[test]
fn garbage_after_login_is_a_protocol_violation_and_hurts_nobody_else() {
    let fixture = one_backend();
    let mut other = fixture.password_client().unwrap();
    for garbage in [
        &b"Q\0\0\0\x01"[..],
        b"Q\xff\xff\xff\xff",
        b"\0\0\0\0\x04",
        b"~\0\0\0\x04",
        b"p\0\0\0\x08abcd",
    ] {
        let mut client = fixture.password_client().unwrap();
        client.send(garbage);
        let fault = client.farewell();
        assert_eq!(fault.code, "08P01", "{garbage:?}: {fault:?}");
        assert_eq!(other.value("select 1"), "1");
    }
}

/// Sixty-four clients over ten backends for a while, without one error and never with an eleventh backend.
fn pgbench_runs(protocol: &str) {
    let fixture = Fixture::with(Settings::default().set("pool.size", 10));
    let login = fixture.password_login();
    pgbench(&login, &["-i", "-q", "-s", "1"]);
    let output = std::thread::scope(|scope| {
        let bench = scope.spawn(|| {
            let clients = ["-n", "-S", "-c", "64", "-j", "2", "-T", "5", "-M", protocol];
            pgbench(&login, &clients)
        });
        while !bench.is_finished() {
            let backends = fixture.backends().len();
            assert!(backends <= 10, "{backends} backends");
            std::thread::sleep(std::time::Duration::from_millis(20));
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
