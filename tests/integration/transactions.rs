//! Transaction pooling: drivers must not be able to tell it from PostgreSQL.

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::support::{Fixture, Reply, postgres::PASSWORD, reply::Status};

#[test]
fn a_message_may_come_byte_by_byte() {
    let fixture = Fixture::with_one_backend();
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
    let fixture = Fixture::with_one_backend();
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
    let fixture = Fixture::with_one_backend();
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
    let fixture = Fixture::with_one_backend();
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
fn tokio_postgres_runs_transactions_and_pipelines() {
    let fixture = Fixture::with_one_backend();
    let settings = format!(
        "host=127.0.0.1 port={} user={} password='{}'",
        fixture.sluice.port,
        fixture.password_login().parameters[0].1,
        PASSWORD,
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

#[test]
fn garbage_after_login_is_a_protocol_violation_and_hurts_nobody_else() {
    let fixture = Fixture::with_one_backend();
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
