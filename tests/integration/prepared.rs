//! Named prepared statements: whatever backend a client gets, it finds its own.

use bytes::BytesMut;
use postgres_protocol::{IsNull, message::frontend};

use crate::support::{Client, Fixture, Reply, sluice::Settings};

fn parse(name: &str, sql: &str) -> impl Fn(&mut BytesMut) {
    let (name, sql) = (name.to_owned(), sql.to_owned());
    move |out| frontend::parse(&name, &sql, [], out).unwrap()
}

/// Bind and Execute of a named statement without parameters.
fn run(name: &str, out: &mut BytesMut) {
    let no_values: [&str; 0] = [];
    let bound = frontend::bind("", name, [], no_values, |_, _| Ok(IsNull::Yes), [], out);
    assert!(bound.is_ok());
    frontend::execute("", 0, out).unwrap();
}

/// Sends what `write` writes and a Sync, and answers what came back, one word a message.
fn exchange(client: &mut Client, write: impl FnOnce(&mut BytesMut)) -> Vec<String> {
    client.send_messages(|out| {
        write(out);
        frontend::sync(out);
    });
    client.receive_until_ready().iter().map(word).collect()
}

fn word(reply: &Reply) -> String {
    match reply {
        Reply::DataRow(row) => row[0].clone().unwrap_or_default(),
        Reply::Error(fault) => format!("{} {}", fault.code, fault.message),
        Reply::ReadyForQuery(status) => format!("{status:?}"),
        Reply::CommandComplete(tag) => tag.clone(),
        other => format!("{other:?}"),
    }
}

/// Occupies the backend that was used last, so that the next client gets another.
fn busy(fixture: &Fixture) -> Client {
    let mut rival = fixture.password_client().unwrap();
    rival.query("begin").unwrap();
    rival
}

#[test]
fn a_statement_is_found_on_a_backend_that_has_never_seen_it() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    let prepared = exchange(&mut client, parse("s", "select pg_backend_pid()::text"));
    assert_eq!(prepared, ["ParseComplete", "Idle"]);
    let first = exchange(&mut client, |out| run("s", out));
    let _rival = busy(&fixture);
    let second = exchange(&mut client, |out| run("s", out));
    assert_eq!(first[0], "BindComplete");
    assert_eq!(second[0], "BindComplete");
    assert_eq!(
        second.len(),
        first.len(),
        "an injected message reached the client: {second:?}"
    );
    assert_ne!(first[1], second[1], "both ran on one backend");
}

#[test]
fn two_clients_use_one_name_for_two_texts_on_one_backend() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    exchange(&mut one, parse("s", "select 'one'"));
    assert_eq!(
        exchange(&mut two, parse("s", "select 'two'")),
        ["ParseComplete", "Idle"]
    );
    for _ in 0..3 {
        assert_eq!(exchange(&mut one, |out| run("s", out))[1], "one");
        assert_eq!(exchange(&mut two, |out| run("s", out))[1], "two");
    }
}

#[test]
fn a_text_that_the_backend_knows_already_is_answered_in_its_place() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    exchange(&mut one, parse("a", "select 1"));
    let answers = exchange(&mut two, |out| {
        run_unnamed("select 0", out);
        parse("b", "select 1")(out);
        run("b", out);
    });
    let expected = [
        "ParseComplete",
        "BindComplete",
        "0",
        "SELECT 1",
        "ParseComplete",
        "BindComplete",
        "1",
        "SELECT 1",
        "Idle",
    ];
    assert_eq!(answers, expected);
}

fn run_unnamed(sql: &str, out: &mut BytesMut) {
    parse("", sql)(out);
    run("", out);
}

#[test]
fn duplicate_and_unknown_names_are_the_servers_errors_in_the_clients_words() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    exchange(&mut client, parse("s", "select 1"));
    let duplicate = exchange(&mut client, parse("s", "select 2"));
    assert_eq!(
        duplicate,
        ["42P05 prepared statement \"s\" already exists", "Idle"]
    );
    assert_eq!(exchange(&mut client, |out| run("s", out))[1], "1");
    let unknown = exchange(&mut client, |out| run("nobody", out));
    assert_eq!(
        unknown,
        ["26000 prepared statement \"nobody\" does not exist", "Idle"]
    );
}

#[test]
fn what_the_server_skipped_after_an_error_was_never_prepared() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    let failed = exchange(&mut client, |out| {
        run_unnamed("select 1/0", out);
        parse("s", "select 1")(out);
    });
    assert!(
        failed.iter().any(|answer| answer.starts_with("22012")),
        "{failed:?}"
    );
    let unknown = exchange(&mut client, |out| run("s", out));
    assert!(unknown[0].starts_with("26000"), "{unknown:?}");
    assert_eq!(
        exchange(&mut client, parse("s", "select 1")),
        ["ParseComplete", "Idle"]
    );
    assert_eq!(exchange(&mut client, |out| run("s", out))[1], "1");
}

/// Everything is sent before the first answer comes, so what the first batch did is not known when the second is sent on.
#[test]
fn what_an_error_has_skipped_is_not_counted_on_by_the_batches_behind_it() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    let mut rival = fixture.password_client().unwrap();
    exchange(&mut client, parse("old", "select 'old'"));
    // On a new backend the first batch has to bring `old` along, and is skipped before it does.
    rival
        .query("select pg_terminate_backend(pg_backend_pid())")
        .unwrap_err();
    client.send_messages(|out| {
        run_unnamed("select 1 / 0", out);
        run("old", out);
        parse("name", "select 'first'")(out);
        parse("other", "select 'shared'")(out);
        frontend::close(b'S', "old", out).unwrap();
        frontend::sync(out);
        run("old", out);
        parse("name", "select 'second'")(out);
        run("name", out);
        parse("another", "select 'shared'")(out);
        run("another", out);
        frontend::sync(out);
        parse("old", "select 'new'")(out);
        frontend::sync(out);
    });
    let mut words = || -> Vec<String> { client.receive_until_ready().iter().map(word).collect() };
    assert_eq!(words(), ["ParseComplete", "22012 division by zero", "Idle"]);
    assert_eq!(
        words(),
        [
            "BindComplete",
            "old",
            "SELECT 1",
            "ParseComplete",
            "BindComplete",
            "second",
            "SELECT 1",
            "ParseComplete",
            "BindComplete",
            "shared",
            "SELECT 1",
            "Idle",
        ]
    );
    assert_eq!(
        words(),
        ["42P05 prepared statement \"old\" already exists", "Idle"]
    );
}

#[test]
fn a_statement_that_cannot_be_parsed_leaves_its_name_free() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    let failed = exchange(&mut client, parse("s", "select nonsense"));
    assert!(failed[0].starts_with("42703"), "{failed:?}");
    assert_eq!(
        exchange(&mut client, parse("s", "select 1")),
        ["ParseComplete", "Idle"]
    );
}

/// As lib/pq and `PQprepare` with an empty name do: Parse and Sync, and only then Bind.
#[test]
fn an_unnamed_statement_is_there_when_its_client_comes_to_use_it() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    let mut rival = fixture.password_client().unwrap();
    let prepared = exchange(&mut client, parse("", "select 'mine'"));
    assert_eq!(prepared, ["ParseComplete", "Idle"]);
    rival.send_messages(|out| {
        run_unnamed("select 'theirs'", out);
        frontend::sync(out);
    });
    let used = exchange(&mut client, |out| run("", out));
    assert_eq!(used, ["BindComplete", "mine", "SELECT 1", "Idle"]);
    assert!(rival.answer().is_ok());

    let failed = exchange(&mut client, parse("", "no sql at all"));
    assert!(failed[0].starts_with("42601"), "{failed:?}");
    assert_eq!(rival.value("select 'not kept waiting'"), "not kept waiting");
}

#[test]
fn the_unnamed_statement_of_another_client_is_out_of_reach() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    let mut rival = fixture.password_client().unwrap();
    exchange(&mut rival, |out| run_unnamed("select 'theirs'", out));
    for _ in 0..2 {
        let none = ["26000 unnamed prepared statement does not exist", "Idle"];
        assert_eq!(exchange(&mut client, |out| run("", out)), none);
        let described = exchange(&mut client, |out| {
            frontend::describe(b'S', "", out).unwrap();
        });
        assert_eq!(described, none);
    }
}

#[test]
fn a_closed_or_deallocated_statement_is_gone_for_its_client_only() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    for client in [&mut one, &mut two] {
        exchange(client, parse("s", "select 1"));
        exchange(client, parse("t", "select 2"));
    }
    let closed = exchange(&mut one, |out| frontend::close(b'S', "s", out).unwrap());
    assert_eq!(closed, ["CloseComplete", "Idle"]);
    assert_eq!(one.query("deallocate t").unwrap().tags, ["DEALLOCATE"]);
    for name in ["s", "t"] {
        assert!(exchange(&mut one, |out| run(name, out))[0].starts_with("26000"));
        assert_eq!(exchange(&mut two, |out| run(name, out))[0], "BindComplete");
    }
    two.query("deallocate all").unwrap();
    assert!(exchange(&mut two, |out| run("s", out))[0].starts_with("26000"));
}

#[test]
fn in_a_failed_transaction_a_parse_fails_as_it_does_without_a_pooler() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    exchange(&mut one, parse("a", "select 1"));
    let mut two = fixture.password_client().unwrap();
    two.query("begin").unwrap();
    two.query("select 1/0").unwrap_err();
    assert!(exchange(&mut two, parse("b", "select 1"))[0].starts_with("25P02"));
    two.query("rollback").unwrap();
    assert!(exchange(&mut two, |out| run("b", out))[0].starts_with("26000"));
    assert_eq!(exchange(&mut one, |out| run("a", out))[1], "1");
}

#[test]
fn a_plan_gone_stale_does_not_need_a_reconnect() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    client
        .query("create table stale(a int); insert into stale values (1)")
        .unwrap();
    exchange(&mut client, parse("s", "select * from stale"));
    exchange(&mut client, |out| run("s", out));
    client.query("alter table stale alter a type text").unwrap();
    let stale = exchange(&mut client, |out| run("s", out));
    assert!(stale[0].starts_with("0A000"), "{stale:?}");
    assert_eq!(exchange(&mut client, |out| run("s", out))[1], "1");
}

#[test]
fn a_backend_keeps_no_more_statements_than_it_may() {
    let fixture = Fixture::with(
        Settings::default()
            .set("pool.size", 1)
            .set("pool.statements_per_backend", 8),
    );
    let mut client = fixture.password_client().unwrap();
    for number in 0..40 {
        exchange(
            &mut client,
            parse(&format!("s{number}"), &format!("select {number}")),
        );
    }
    for number in 0..40 {
        assert_eq!(
            exchange(&mut client, |out| run(&format!("s{number}"), out))[1],
            number.to_string()
        );
    }
    let kept: usize = client
        .value("select count(*) from pg_prepared_statements")
        .parse()
        .unwrap();
    assert!(kept <= 8, "{kept} statements on the backend");
}

#[test]
fn a_client_that_prepares_without_end_is_told_its_limit() {
    let fixture = Fixture::with(Settings::default().set("pool.statements_per_client", 3));
    let mut client = fixture.password_client().unwrap();
    for number in 0..3 {
        exchange(&mut client, parse(&format!("s{number}"), "select 1"));
    }
    client.send_messages(|out| {
        parse("s3", "select 1")(out);
        frontend::sync(out);
    });
    let end = client.farewell();
    assert_eq!(end.code, "54000");
}

#[test]
fn a_parse_that_comes_byte_by_byte_is_waited_for() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    let mut bytes = BytesMut::new();
    parse(
        "s",
        "select 'slow, and long enough to wear out any budget of polls without a pause'",
    )(&mut bytes);
    run("s", &mut bytes);
    frontend::sync(&mut bytes);
    for byte in bytes {
        client.send([byte]);
    }
    let replies: Vec<_> = client.receive_until_ready().iter().map(word).collect();
    assert_eq!(replies[..2], ["ParseComplete", "BindComplete"]);
}

#[test]
fn a_statement_larger_than_any_buffer_is_prepared_and_run() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    let text = "x".repeat(300_000);
    let sql = format!("select length('{text}')::text");
    assert_eq!(
        exchange(&mut client, parse("s", &sql)),
        ["ParseComplete", "Idle"]
    );
    assert_eq!(exchange(&mut client, |out| run("s", out))[1], "300000");
}
