//! COPY, both ways, and what may go wrong half-way.

use bytes::Buf;
use postgres_protocol::message::frontend;

use crate::support::{
    Fixture, Reply,
    messages::bind,
    programs::{psql, psql_value, succeeded},
};

const ROWS: usize = 200_000;

#[test]
fn psql_copies_in_and_out() {
    let fixture = Fixture::start();
    let login = fixture.password_login().database(&fixture.database);
    psql_value(&login, "create table loaded (n int, word text)");
    let data: String = (0..ROWS).map(|n| format!("{n}\tword {n}\n")).collect();
    let copied_in = psql(&login, &["-c", "\\copy loaded from pstdin"], &data);
    succeeded(&copied_in);
    assert_eq!(
        psql_value(&login, "select count(*), sum(n) from loaded"),
        format!("{ROWS}|{}", ROWS * (ROWS - 1) / 2)
    );
    let copied_out = succeeded(&psql(
        &login,
        &["-c", "\\copy (select * from loaded order by n) to pstdout"],
        "",
    ));
    assert!(copied_out == data, "what came out is not what went in");
}

fn copy_data(out: &mut bytes::BytesMut, data: &[u8]) {
    frontend::CopyData::new(data.chunk()).unwrap().write(out);
}

#[test]
fn a_copy_that_fails_half_way_leaves_session_and_backend_usable() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    let mut other = fixture.password_client().unwrap();
    client.query("create table loaded (n int)").unwrap();
    client.start("copy loaded from stdin");
    assert_eq!(client.receive(), Reply::CopyIn);
    // The client learns of the error only after it has sent a good deal more.
    client.send_messages(|out| {
        copy_data(out, b"1\nno number\n");
        for _ in 0..10_000 {
            copy_data(out, b"2\n");
        }
        frontend::copy_done(out);
        frontend::query("select 'next'", out).unwrap();
    });
    let fault = client.answer().unwrap_err();
    assert_eq!(fault.code, "22P02", "{fault:?}");
    assert_eq!(client.answer().unwrap().rows[0][0].as_deref(), Some("next"));
    assert_eq!(other.value("select count(*) from loaded"), "0");
}

#[test]
fn a_copy_that_the_client_gives_up_is_an_error_and_no_end() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    client.query("create table loaded (n int)").unwrap();
    client.start("copy loaded from stdin");
    assert_eq!(client.receive(), Reply::CopyIn);
    client.send_messages(|out| {
        copy_data(out, b"1\n");
        frontend::copy_fail("changed my mind", out).unwrap();
    });
    let fault = client.answer().unwrap_err();
    assert_eq!(fault.code, "57014", "{fault:?}");
    assert_eq!(client.value("select count(*) from loaded"), "0");
}

#[test]
fn a_copy_in_holds_its_backend_until_it_is_done() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    client.query("create table loaded (n int)").unwrap();
    client.start("copy loaded from stdin");
    assert_eq!(client.receive(), Reply::CopyIn);
    let mut rival = fixture.password_client().unwrap();
    rival.start("select count(*) from loaded");
    assert!(rival.is_silent_for(std::time::Duration::from_millis(200)));
    client.send_messages(|out| {
        copy_data(out, b"1\n2\n");
        frontend::copy_done(out);
    });
    assert_eq!(client.answer().unwrap().tags, ["COPY 2"]);
    assert_eq!(rival.answer().unwrap().rows[0][0].as_deref(), Some("2"));
}

#[test]
fn a_copy_over_the_extended_protocol_takes_its_syncs_as_postgresql_does() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    client.query("create table loaded (n int)").unwrap();
    let begin = |out: &mut bytes::BytesMut| {
        frontend::parse("", "copy loaded from stdin", [], out).unwrap();
        bind(out);
        frontend::execute("", 0, out).unwrap();
        frontend::sync(out);
    };
    client.send_messages(begin);
    client.send_messages(|out| {
        copy_data(out, b"1\n");
        frontend::copy_done(out);
        frontend::sync(out);
    });
    assert_eq!(client.answer().unwrap().tags, ["COPY 1"]);
    assert_eq!(client.value("select count(*) from loaded"), "1");

    client.send_messages(begin);
    client.send_messages(|out| {
        copy_data(out, b"no number\n");
        copy_data(out, b"2\n");
        frontend::copy_done(out);
        frontend::sync(out);
    });
    assert_eq!(client.answer().unwrap_err().code, "22P02");
    let mut rival = fixture.password_client().unwrap();
    assert_eq!(rival.value("select count(*) from loaded"), "1");
    assert_eq!(client.value("select 'still here'"), "still here");
}
