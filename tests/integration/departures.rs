//! Clients that go away in the middle of their work: nothing of it stays behind.

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::support::{Client, Fixture, Reply, messages::unnamed, until};

/// How a client may leave in the middle of its work.
fn leaves_nothing_behind(leave: impl FnOnce(Client)) {
    let fixture = Fixture::with_one_backend();
    let login = fixture.password_login();
    let mut client = login.open().unwrap();
    client.query("create table work (n int)").unwrap();
    client.query("begin").unwrap();
    client.query("insert into work values (1)").unwrap();
    leave(client);
    until("no transaction is open", || {
        fixture
            .backends()
            .iter()
            .all(|backend| backend.state == "idle")
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
