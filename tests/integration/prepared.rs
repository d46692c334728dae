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
fn one_text_that_two_clients_read_differently_is_two_statements() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    for (setting, text, first, second) in [
        (
            "datestyle = 'ISO, DMY'",
            "select '01/02/2003'::date",
            "2003-01-02",
            "2003-02-01",
        ),
        (
            "standard_conforming_strings = off",
            r"select 'a\\b'",
            r"a\\b",
            r"a\b",
        ),
        (
            "search_path = pg_catalog, other",
            "select to_regclass('t')::text",
            "t",
            "",
        ),
    ] {
        one.query("create table if not exists t (a int)").unwrap();
        two.query(&format!("set {setting}")).unwrap();
        exchange(&mut one, parse("s", text));
        assert_eq!(exchange(&mut one, |out| run("s", out))[1], first);
        exchange(&mut two, parse("s", text));
        let answers = exchange(&mut two, |out| run("s", out));
        assert_eq!(answers[1], second, "{setting}: {answers:?}");
        for client in [&mut one, &mut two] {
            exchange(client, |out| frontend::close(b'S', "s", out).unwrap());
        }
    }
}

#[test]
fn a_text_behind_a_set_in_one_pipeline_is_read_as_set() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    let text = "select '01/02/2003'::date";
    exchange(&mut one, parse("s", text));
    let mut two = fixture.password_client().unwrap();
    let answers = exchange(&mut two, |out| {
        run_unnamed("set datestyle = 'ISO, DMY'", out);
        parse("s", text)(out);
        run("s", out);
    });
    assert!(answers.contains(&"2003-02-01".to_owned()), "{answers:?}");
}

/// `a.t` and `b.t`, whose columns are of different types.
fn make_two_tables_of_one_name(fixture: &Fixture) {
    let mut superuser = fixture.cluster.superuser(&fixture.database);
    superuser
        .query(
            "create schema a; create table a.t as select 1 as x; \
             create schema b; create table b.t as select 'two'::text as x; \
             grant usage on schema a, b to public; grant select on a.t, b.t to public",
        )
        .unwrap();
}

#[test]
fn tables_of_one_name_in_two_schemas_do_not_meet_in_one_statement() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    make_two_tables_of_one_name(&fixture);
    one.query("set search_path = a").unwrap();
    two.query("set search_path = b").unwrap();
    for client in [&mut one, &mut two] {
        exchange(client, parse("s", "select * from t"));
    }
    for _ in 0..2 {
        assert_eq!(exchange(&mut one, |out| run("s", out))[1], "1");
        assert_eq!(exchange(&mut two, |out| run("s", out))[1], "two");
    }
}

#[test]
fn tables_of_one_name_do_not_meet_where_the_schema_is_set_for_a_transaction_alone() {
    let fixture = Fixture::with_one_backend();
    make_two_tables_of_one_name(&fixture);
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    let begin = "begin; set local search_path =";
    for round in 0..3 {
        for (client, schema, row) in [(&mut one, "a", "1"), (&mut two, "b", "two")] {
            client.query(&format!("{begin} {schema}")).unwrap();
            if round == 0 {
                exchange(client, parse("s", "select * from t"));
            }
            assert_eq!(exchange(client, |out| run("s", out))[1], row, "{round}");
            client.query("commit").unwrap();
        }
    }
    // Whoever says the same shares the statement all the same.
    let mut three = fixture.password_client().unwrap();
    three.query(&format!("{begin} a")).unwrap();
    exchange(&mut three, parse("other", "select * from t"));
    assert_eq!(exchange(&mut three, |out| run("other", out))[1], "1");
    let prepared = three.value("select count(*) from pg_prepared_statements");
    assert_eq!(prepared, "2");
}

#[test]
fn a_statement_keeps_its_meaning_where_it_is_known_when_the_encoding_changes() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    exchange(&mut client, parse("s", "select ascii('\u{e4}')::text"));
    client.query("set client_encoding = 'LATIN1'").unwrap();
    assert_eq!(exchange(&mut client, |out| run("s", out))[1], "228");
}

#[test]
fn the_moment_is_that_of_each_clients_own_parse() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    let text = "select 'now'::timestamptz::text";
    exchange(&mut one, parse("s", text));
    let first = exchange(&mut one, |out| run("s", out))[1].clone();
    exchange(&mut two, parse("s", text));
    let second = exchange(&mut two, |out| run("s", out))[1].clone();
    assert_ne!(first, second);
    assert_eq!(exchange(&mut one, |out| run("s", out))[1], first);
}

#[test]
fn a_notice_about_a_text_is_told_to_each_who_prepares_it() {
    let fixture = Fixture::with_one_backend();
    let long = "a".repeat(70);
    let notices = || {
        let mut client = fixture.password_client().unwrap();
        exchange(&mut client, parse("s", &format!("select 1 as {long}")));
        client.notices.len()
    };
    assert_eq!((notices(), notices()), (1, 1));
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

/// The name is gone from the client's when the error comes that speaks of it.
#[test]
fn an_error_about_a_name_that_is_closed_right_behind_is_in_the_clients_words() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    exchange(&mut client, |out| {
        frontend::parse("s", "select $1::text", [], out).unwrap();
    });
    client.send_messages(|out| {
        run("s", out);
        frontend::sync(out);
        frontend::close(b'S', "s", out).unwrap();
        frontend::sync(out);
    });
    let words: Vec<String> = client.receive_until_ready().iter().map(word).collect();
    assert_eq!(
        words,
        [
            "08P01 bind message supplies 0 parameters, but prepared statement \"s\" requires 1",
            "Idle"
        ]
    );
    let closed: Vec<String> = client.receive_until_ready().iter().map(word).collect();
    assert_eq!(closed, ["CloseComplete", "Idle"]);
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
fn what_one_client_has_deallocated_behind_the_poolers_back_does_not_fail_for_others_for_ever() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    exchange(&mut one, parse("s", "select 'one'"));
    two.query("do $$ begin execute 'deallocate all'; end $$")
        .unwrap();
    assert_eq!(exchange(&mut one, |out| run("s", out))[1], "one");
    let mut superuser = fixture.cluster.superuser(&fixture.database);
    superuser
        .query(
            "create function forget() returns void language plpgsql \
             as $$ begin execute 'deallocate all'; end $$",
        )
        .unwrap();
    two.query("select forget()").unwrap();
    let unknown = "26000 prepared statement \"s\" does not exist";
    assert_eq!(exchange(&mut one, |out| run("s", out))[0], unknown);
    assert_eq!(exchange(&mut one, |out| run("s", out))[1], "one");
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
fn a_plan_gone_stale_is_reported_once_and_not_by_every_backend_to_every_client() {
    let fixture = Fixture::with(Settings::default().set("pool.size", 2));
    let mut clients = [(); 3].map(|()| fixture.password_client().unwrap());
    clients[0]
        .query("create table stale(a int); insert into stale values (1)")
        .unwrap();
    let mut pids = std::collections::HashSet::new();
    for (number, client) in clients.iter_mut().enumerate() {
        let name = format!("s{number}");
        exchange(client, parse(&name, "select a from stale"));
        exchange(client, |out| run(&name, out));
        pids.insert(client.value("select pg_backend_pid()"));
        let mut rival = busy(&fixture);
        exchange(client, |out| run(&name, out));
        pids.insert(client.value("select pg_backend_pid()"));
        rival.query("commit").unwrap();
    }
    assert_eq!(pids.len(), 2);
    clients[0]
        .query("alter table stale alter a type text")
        .unwrap();
    let stale = exchange(&mut clients[0], |out| run("s0", out));
    assert!(stale[0].starts_with("0A000"), "{stale:?}");
    for (number, client) in clients.iter_mut().enumerate() {
        let name = format!("s{number}");
        assert_eq!(exchange(client, |out| run(&name, out))[1], "1");
        let mut rival = busy(&fixture);
        assert_eq!(exchange(client, |out| run(&name, out))[1], "1");
        rival.query("commit").unwrap();
    }
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

#[test]
fn what_sql_prepares_is_found_on_every_backend() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    client
        .query(
            "select 1; prepare p(int) as select $1 || ';'; /* two */ prepare \"Q\" as select 'q'",
        )
        .unwrap();
    client
        .query("begin; prepare r as select 'r'; rollback")
        .unwrap();
    let first = client.value("select pg_backend_pid()");
    let _rival = busy(&fixture);
    assert_ne!(client.value("select pg_backend_pid()"), first);
    assert_eq!(client.value("execute p(7)"), "7;");
    assert_eq!(client.value("execute \"Q\""), "q");
    assert_eq!(
        client.value("execute r"),
        "r",
        "PREPARE is not undone by a rollback"
    );
    let again = client.query("prepare p as select 1").unwrap_err();
    assert_eq!(again.code, "42P05");
    assert_eq!(again.message, "prepared statement \"p\" already exists");
}

#[test]
fn what_sql_prepares_never_reaches_another_client() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    one.query("prepare p as select 'one'").unwrap();
    let unknown = two.query("execute p").unwrap_err();
    assert_eq!(unknown.code, "26000");
    assert_eq!(unknown.message, "prepared statement \"p\" does not exist");
    assert_eq!(
        two.value("select count(*) from pg_prepared_statements"),
        "0"
    );
    two.query("prepare p as select 'two'").unwrap();
    for _ in 0..2 {
        assert_eq!(one.value("execute p"), "one");
        assert_eq!(two.value("execute p"), "two");
    }
}

#[test]
fn what_sql_prepared_is_deallocated_for_good() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    let mut other = fixture.password_client().unwrap();
    for end in [
        "deallocate p",
        "deallocate all",
        "discard all",
        "begin; deallocate p; rollback",
    ] {
        client
            .query("prepare p as select 1; prepare q as select 2")
            .unwrap();
        other.query("select 1").unwrap();
        assert_eq!(client.value("execute p"), "1");
        client.query(end).unwrap();
        other.query("select 1").unwrap();
        assert_eq!(
            client.query("execute p").unwrap_err().code,
            "26000",
            "{end}"
        );
        let q = client.query("execute q");
        assert_eq!(q.is_ok(), !end.ends_with("all"), "{end}");
        client.query("deallocate all").unwrap();
    }
    client.query("prepare p as select 1").unwrap();
    let closed = exchange(&mut client, |out| frontend::close(b'S', "p", out).unwrap());
    assert_eq!(closed, ["CloseComplete", "Idle"]);
    other.query("select 1").unwrap();
    assert_eq!(client.query("execute p").unwrap_err().code, "26000");
}

#[test]
fn a_statement_whose_table_is_gone_does_not_keep_its_client_from_working() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    one.query("create table gone(a int); prepare p as select * from gone; prepare q as select 'q'")
        .unwrap();
    two.query("drop table gone").unwrap();
    assert_eq!(one.value("execute q"), "q");
    assert!(one.query("execute p").is_err());
    two.query("select 1").unwrap();
    assert_eq!(one.value("execute q"), "q");
}

#[test]
fn sql_and_protocol_share_one_namespace() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    exchange(&mut client, |out| {
        frontend::parse("s", "select $1::text", [], out).unwrap();
    });
    exchange(&mut client, parse("t", "select 't'"));
    client.query("prepare p as select 'p'").unwrap();
    let _rival = busy(&fixture);
    assert_eq!(client.value("execute s('x;y')"), "x;y");
    assert_eq!(
        exchange(&mut client, |out| run_unnamed("EXECUTE t", out))[2],
        "t"
    );
    assert_eq!(exchange(&mut client, |out| run("p", out))[1], "p");
    assert_eq!(
        exchange(&mut client, parse("p", "select 1")),
        ["42P05 prepared statement \"p\" already exists", "Idle"]
    );
    let taken = client.query("prepare t as select 1").unwrap_err();
    assert_eq!(
        (taken.code.as_str(), taken.message.as_str()),
        ("42P05", "prepared statement \"t\" already exists")
    );
    assert_eq!(
        exchange(&mut client, |out| run_unnamed("DEALLOCATE t", out))[2..],
        ["DEALLOCATE", "Idle"]
    );
    assert!(exchange(&mut client, |out| run("t", out))[0].starts_with("26000"));
    assert_eq!(
        client.query("deallocate prepare s").unwrap().tags,
        ["DEALLOCATE"]
    );
    assert!(exchange(&mut client, |out| run("s", out))[0].starts_with("26000"));
    assert_eq!(client.value("execute p"), "p");
}

#[test]
fn a_deallocate_that_is_skipped_after_an_error_leaves_the_statement() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    exchange(&mut client, parse("s", "select 's'"));
    exchange(&mut client, |out| {
        run_unnamed("select 1/0", out);
        run_unnamed("deallocate s", out);
    });
    assert_eq!(exchange(&mut client, |out| run("s", out))[1], "s");
}

#[test]
fn the_unnamed_statement_outlives_its_transaction_on_any_backend() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    let prepared = exchange(&mut client, parse("", "select pg_backend_pid()::text"));
    assert_eq!(prepared, ["ParseComplete", "Idle"]);
    let first = exchange(&mut client, |out| run("", out));
    let _rival = busy(&fixture);
    let second = exchange(&mut client, |out| run("", out));
    assert_eq!(first[0], "BindComplete");
    assert_eq!(second[0], "BindComplete", "{second:?}");
    assert_eq!(second.len(), first.len(), "{second:?}");
    assert_ne!(first[1], second[1], "both ran on one backend");
}

/// A backend that had the client's unnamed statement has an old one, once the client has prepared another elsewhere.
#[test]
fn the_unnamed_statement_is_the_last_one_on_backends_that_had_one_before() {
    let fixture = Fixture::with(Settings::default().set("pool.size", 2));
    let mut client = fixture.password_client().unwrap();
    // Their own statements have names, so that they leave the unnamed ones of backends alone.
    let mut rivals = [(); 2].map(|()| fixture.password_client().unwrap());
    for rival in &mut rivals {
        exchange(rival, |out| {
            parse("begin", "begin")(out);
            parse("commit", "commit")(out);
        });
    }
    let answer = |client: &mut Client, write: &dyn Fn(&mut BytesMut)| {
        let answers = exchange(client, write);
        let row = answers.iter().position(|answer| answer == "BindComplete");
        row.map_or_else(|| format!("{answers:?}"), |row| answers[row + 1].clone())
    };
    let [one, two] = &mut rivals;
    assert_eq!(
        answer(&mut client, &|out| run_unnamed("select 'old'", out)),
        "old"
    );
    exchange(one, |out| run("begin", out));
    assert_eq!(
        answer(&mut client, &|out| run_unnamed("select 'new'", out)),
        "new"
    );
    exchange(two, |out| run("begin", out));
    exchange(one, |out| run("commit", out));
    assert_eq!(answer(&mut client, &|out| run("", out)), "new");
}

#[test]
fn a_long_unnamed_statement_is_there_to_be_bound_in_a_later_transaction() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    let long = format!("select length('{}')::text", "x".repeat(500_000));
    exchange(&mut client, parse("", &long));
    let _rival = busy(&fixture);
    assert_eq!(exchange(&mut client, |out| run("", out))[1], "500000");
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn nobody_runs_the_unnamed_statement_of_another() {
    let fixture = Fixture::with_one_backend();
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    exchange(&mut one, parse("", "select 'secret'"));
    let none = "26000 unnamed prepared statement does not exist";
    assert_eq!(exchange(&mut two, |out| run("", out)), [none, "Idle"]);
    assert_eq!(exchange(&mut one, |out| run("", out))[1], "secret");
    one.query("select 1").unwrap();
    assert_eq!(exchange(&mut one, |out| run("", out)), [none, "Idle"]);
}

#[test]
fn what_goes_ahead_of_a_message_that_waits_is_answered_without_the_clients_sync() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    let mut rival = fixture.password_client().unwrap();
    let bind_one = |portal, statement, out: &mut BytesMut| {
        let value = |(), _: &mut BytesMut| Ok(IsNull::Yes);
        let bound = frontend::bind(portal, statement, [], [()], value, [], out);
        assert!(bound.is_ok());
    };
    // Statements behind this one wait until it is known what it did.
    exchange(&mut client, parse("", "deallocate all"));
    rival.query("select 1").unwrap();
    let answers = exchange(&mut client, |out| {
        bind_one("p1", "unknown", out);
        frontend::sync(out);
        bind_one("p2", "", out);
        frontend::flush(out);
        bind_one("p3", "", out);
    });
    assert_eq!(answers.len(), 2, "{answers:?}");
    let mut seen = client.receive_until_ready();
    seen.truncate(1);
    assert!(
        matches!(&seen[..], [Reply::Error(fault)] if fault.code == "08P01"),
        "{seen:?}"
    );
}
