//! The extended protocol and its pipelines: several answers owed, errors in between, Flush instead of Sync.

use std::time::Duration;

use postgres_protocol::message::frontend;

use crate::support::{
    Fixture, Reply,
    messages::{bind, unnamed},
};

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

#[test]
fn several_syncs_sent_at_once_are_each_answered_in_order() {
    let fixture = Fixture::with_one_backend();
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
    let fixture = Fixture::with_one_backend();
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
        rival.is_silent_for(Duration::from_millis(200)),
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
    let fixture = Fixture::with_one_backend();
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
    let fixture = Fixture::with_one_backend();
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
    let fixture = Fixture::with_one_backend();
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
fn a_pipeline_that_waits_for_answers_twice_goes_on_after_both() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    // Whether there is a statement `a` is known after the first Sync, and whether there still is any prepared
    // statement only after DEALLOCATE: all of it comes at once, so nothing more of the client's brings it on.
    client.send_messages(|out| {
        frontend::parse("a", "select 1", [], out).unwrap();
        frontend::sync(out);
        frontend::describe(b'S', "a", out).unwrap();
        unnamed("deallocate all", out);
        frontend::parse("b", "select 2", [], out).unwrap();
        frontend::describe(b'S', "b", out).unwrap();
        unnamed("select 3", out);
        frontend::sync(out);
    });
    assert_eq!(gist(&client.receive_until_ready()), ["Idle"]);
    assert_eq!(gist(&client.receive_until_ready()), ["3", "Idle"]);
}

#[test]
fn an_extended_query_over_a_portal_is_suspended_and_resumed() {
    let fixture = Fixture::with_one_backend();
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
