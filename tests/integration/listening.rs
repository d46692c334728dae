//! LISTEN and NOTIFY for clients that share backends: as with a connection of their own.

use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::{IsNull, message::frontend};
use serde_json::json;

use crate::support::{
    Client, Fixture, Reply, postgres::TOKEN_ROLE, reply::Status, sluice::Settings, until,
    wire::SocketOptions,
};

const SILENCE: Duration = Duration::from_millis(200);

/// Channel and payload of the next message, which must be a notification.
#[track_caller]
fn heard(client: &mut Client) -> (String, String) {
    match client.receive() {
        Reply::Notification {
            channel, payload, ..
        } => (channel, payload),
        other => panic!("no notification but {other:?}"),
    }
}

fn said(channel: &str, payload: &str) -> (String, String) {
    (channel.to_owned(), payload.to_owned())
}

/// Somebody who notifies without Sluice.
fn outsider(fixture: &Fixture) -> Client {
    fixture.cluster.superuser(&fixture.database)
}

/// Asserts that `client` hears nothing of what `notifier` has said so far.
#[track_caller]
fn assert_deaf(client: &mut Client, notifier: &mut Client, fixture: &Fixture) {
    let mut witness = fixture.password_client().unwrap();
    witness.query("listen witness").unwrap();
    notifier.query("notify witness").unwrap();
    assert_eq!(heard(&mut witness), said("witness", ""));
    assert!(
        client.is_silent_for(SILENCE),
        "it heard {:?}",
        client.receive()
    );
}

/// What one exchange answers, notifications included, one word a message.
fn words(replies: Vec<Reply>) -> Vec<String> {
    let word = |reply: Reply| match reply {
        Reply::Notification {
            channel, payload, ..
        } => format!("{channel}={payload}"),
        Reply::CommandComplete(tag) => tag,
        Reply::DataRow(row) => row[0].clone().unwrap_or_default(),
        Reply::ReadyForQuery(status) => format!("{status:?}"),
        other => format!("{other:?}"),
    };
    replies.into_iter().map(word).collect()
}

fn run(client: &mut Client, sql: &str) -> Vec<String> {
    client.start(sql);
    words(client.receive_until_ready())
}

#[test]
fn a_notification_reaches_an_idle_client_with_pid_and_payload() {
    let fixture = Fixture::with_one_backend();
    let mut listener = fixture.password_client().unwrap();
    let mut other = fixture.password_client().unwrap();
    assert_eq!(run(&mut listener, "listen jobs"), ["LISTEN", "Idle"]);
    let notifier_pid: u32 = other.value("select pg_backend_pid()").parse().unwrap();
    assert_eq!(run(&mut other, "notify jobs, 'one'"), ["NOTIFY", "Idle"]);
    let expected = Reply::Notification {
        pid: notifier_pid,
        channel: "jobs".to_owned(),
        payload: "one".to_owned(),
    };
    assert_eq!(listener.receive(), expected);
    other.query("select pg_notify('jobs', 'two')").unwrap();
    assert_eq!(heard(&mut listener), said("jobs", "two"));
    assert!(
        other.is_silent_for(SILENCE),
        "told to somebody who does not listen"
    );
    assert_eq!(listener.value("select 1"), "1");
}

#[test]
fn what_is_notified_right_after_listen_is_answered_is_never_missed() {
    let fixture = Fixture::with_one_backend();
    let mut notifier = outsider(&fixture);
    for round in 0..20 {
        let mut listener = fixture.password_client().unwrap();
        for channel in ["a", "B"] {
            listener.query(&format!("listen \"{channel}\"")).unwrap();
            notifier
                .query(&format!("notify \"{channel}\", '{round}'"))
                .unwrap();
            assert_eq!(heard(&mut listener), said(channel, &round.to_string()));
        }
    }
}

#[test]
fn listen_takes_effect_when_its_transaction_commits() {
    let fixture = Fixture::with_one_backend();
    let mut notifier = outsider(&fixture);
    let mut listener = fixture.password_client().unwrap();
    listener.query("begin; listen a; rollback").unwrap();
    listener.query("listen b; select 1/0").unwrap_err();
    listener
        .query("begin; savepoint s; listen c; rollback to s; listen d; commit")
        .unwrap();
    for channel in ["a", "b", "c", "d"] {
        notifier.query(&format!("notify {channel}")).unwrap();
    }
    assert_eq!(heard(&mut listener), said("d", ""));
    assert_deaf(&mut listener, &mut notifier, &fixture);
}

#[test]
fn unlisten_takes_effect_when_its_transaction_commits() {
    let fixture = Fixture::with_one_backend();
    let mut notifier = outsider(&fixture);
    let mut listener = fixture.password_client().unwrap();
    listener.query("listen a; listen \"B\"; listen c").unwrap();
    listener.query("begin; unlisten a; rollback").unwrap();
    listener.query("unlisten a; select 1/0").unwrap_err();
    listener.query("select 'unlisten a'").unwrap();
    notifier.query("notify a").unwrap();
    assert_eq!(heard(&mut listener), said("a", ""));
    assert_eq!(
        run(&mut listener, "unlisten A; unlisten \"B\""),
        ["UNLISTEN", "UNLISTEN", "Idle"]
    );
    notifier.query("notify a; notify \"B\"; notify c").unwrap();
    assert_eq!(heard(&mut listener), said("c", ""));
    for end in [
        "begin; unlisten *; commit",
        "discard all",
        "begin; unlisten c; listen d; unlisten d; commit",
    ] {
        listener.query("listen c").unwrap();
        notifier.query("notify c").unwrap();
        assert_eq!(heard(&mut listener), said("c", ""));
        listener.query(end).unwrap();
        notifier.query("notify c; notify d").unwrap();
        assert_deaf(&mut listener, &mut notifier, &fixture);
    }
}

#[test]
fn ones_own_notification_comes_once_and_before_the_end_of_its_transaction() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    assert_eq!(
        run(&mut client, "begin; listen a; notify a, '1'; commit"),
        ["BEGIN", "LISTEN", "NOTIFY", "COMMIT", "a=1", "Idle"]
    );
    assert_eq!(run(&mut client, "notify a, '2'"), ["NOTIFY", "a=2", "Idle"]);
    assert_eq!(
        run(&mut client, "listen a; notify a, '3'"),
        ["LISTEN", "NOTIFY", "a=3", "Idle"]
    );
    client.start("begin; notify a, '4'");
    assert_eq!(
        words(client.receive_until_ready()),
        ["BEGIN", "NOTIFY", "InTransaction"]
    );
    assert_eq!(run(&mut client, "commit"), ["COMMIT", "a=4", "Idle"]);
    assert!(client.is_silent_for(SILENCE), "it was told twice");
}

#[test]
fn a_notification_waits_for_the_end_of_a_transaction() {
    let fixture = Fixture::with(Settings::default().set("pool.size", 2));
    let mut notifier = outsider(&fixture);
    let mut listener = fixture.password_client().unwrap();
    listener.query("listen a").unwrap();
    listener.query("begin").unwrap();
    notifier.query("notify a").unwrap();
    assert!(listener.is_silent_for(SILENCE));
    assert_eq!(
        run(&mut listener, "select 1")[1..],
        ["1", "SELECT 1", "InTransaction"]
    );
    listener.query("commit").unwrap();
    assert_eq!(heard(&mut listener), said("a", ""));
}

#[test]
fn the_extended_protocol_listens_and_unlistens_too() {
    let fixture = Fixture::with_one_backend();
    let mut notifier = outsider(&fixture);
    let mut listener = fixture.password_client().unwrap();
    let mut exchange = |name: &str, sql: Option<&str>| {
        listener.send_messages(|out| {
            if let Some(sql) = sql {
                frontend::parse(name, sql, [], out).unwrap();
            }
            execute(name, out);
            frontend::sync(out);
        });
        words(listener.receive_until_ready())
    };
    assert_eq!(
        exchange("", Some("listen a")),
        ["ParseComplete", "BindComplete", "LISTEN", "Idle"]
    );
    notifier.query("notify a").unwrap();
    assert_eq!(
        exchange("u", Some("unlisten a")).last().map(String::as_str),
        Some("Idle")
    );
    exchange("", Some("listen a"));
    assert_eq!(exchange("u", None), ["BindComplete", "UNLISTEN", "Idle"]);
    while !listener.is_silent_for(SILENCE) {
        assert_eq!(heard(&mut listener), said("a", ""));
    }
    notifier.query("notify a").unwrap();
    assert_deaf(&mut listener, &mut notifier, &fixture);
}

fn execute(name: &str, out: &mut BytesMut) {
    let no_values: [&str; 0] = [];
    let bound = frontend::bind("", name, [], no_values, |_, _| Ok(IsNull::Yes), [], out);
    assert!(bound.is_ok());
    frontend::execute("", 0, out).unwrap();
}

#[test]
fn many_clients_share_one_listening_backend_that_ends_with_the_last() {
    let fixture = Fixture::with_one_backend();
    let mut notifier = outsider(&fixture);
    let mut listeners: Vec<Client> = (0..10)
        .map(|_| {
            let mut client = fixture.password_client().unwrap();
            client.query("listen a").unwrap();
            client
        })
        .collect();
    assert_eq!(fixture.backends().len(), 2);
    notifier.query("notify a, 'all'").unwrap();
    for listener in &mut listeners {
        assert_eq!(heard(listener), said("a", "all"));
    }
    drop(listeners);
    until("the listening backend is closed", || {
        fixture.backends().len() == 1
    });
}

#[test]
fn what_a_function_listens_to_reaches_nobody_else() {
    let fixture = Fixture::with_one_backend();
    let mut notifier = outsider(&fixture);
    notifier
        .query("create function public.hidden() returns void language plpgsql as $$ begin execute 'listen a'; end $$")
        .unwrap();
    let mut one = fixture.password_client().unwrap();
    let mut two = fixture.password_client().unwrap();
    one.query("select public.hidden()").unwrap();
    two.query("begin").unwrap();
    notifier.query("notify a").unwrap();
    assert_eq!(
        run(&mut two, "select 1")[1..],
        ["1", "SELECT 1", "InTransaction"]
    );
    assert_eq!(run(&mut two, "commit"), ["COMMIT", "Idle"]);
    assert_eq!(
        two.value("select count(*) from pg_listening_channels()"),
        "0"
    );
    // What a DO block listens to is asked for.
    one.query("do $$ begin execute 'listen b'; end $$").unwrap();
    notifier.query("notify b").unwrap();
    assert_eq!(heard(&mut one), said("b", ""));
}

#[test]
fn clients_whose_listening_backend_is_lost_are_told_and_others_go_on() {
    let fixture = Fixture::with_one_backend();
    let mut listener = fixture.password_client().unwrap();
    let mut other = fixture.password_client().unwrap();
    listener.query("listen a").unwrap();
    let own = other.value("select pg_backend_pid()");
    fixture.cluster.run(&format!(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
         where datname = '{}' and pid <> {own} and usename = 'app_user'",
        fixture.database
    ));
    let end = listener.farewell();
    assert_eq!(end.code, "08006", "{end:?}");
    assert_eq!(
        end.detail.as_deref(),
        Some("Notifications may have been missed.")
    );
    assert_eq!(other.value("select pg_backend_pid()"), own);
    let mut again = fixture.password_client().unwrap();
    again.query("listen a").unwrap();
    other.query("notify a").unwrap();
    assert_eq!(heard(&mut again), said("a", ""));
}

#[test]
fn a_revoked_person_listens_no_more_and_leaves_no_backend() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut listener = fixture.token_client(&person).unwrap();
    listener.query("listen a").unwrap();
    assert_eq!(
        fixture
            .backends()
            .iter()
            .filter(|one| one.user == TOKEN_ROLE)
            .count(),
        2
    );
    let named = format!(
        "select count(*) from pg_stat_activity where datname = '{}' and application_name like '{}/%'",
        fixture.database, person.email
    );
    assert_eq!(
        fixture.cluster.value(&named),
        "2",
        "the server sees whom it serves"
    );
    fixture.remove_rule(&person, TOKEN_ROLE);
    assert_eq!(
        fixture
            .backends()
            .iter()
            .filter(|one| one.user == TOKEN_ROLE)
            .count(),
        0
    );
    assert_eq!(listener.farewell().code, "57P01");
}

#[test]
fn the_listening_backend_counts_in_the_tenants_budget() {
    let settings = Settings::default().set("timeouts.queue", "1s");
    let fixture = Fixture::on(
        crate::support::postgres::current(),
        settings,
        json!({ "pool_size": 1, "backend_budget": 1 }),
    );
    let mut listener = fixture.password_client().unwrap();
    let fault = listener.query("listen a").unwrap_err();
    assert_eq!(fault.code, "53300", "{fault:?}");
    assert!(fixture.backends().len() <= 1);
    assert_eq!(fixture.password_client().unwrap().value("select 1"), "1");
}

#[test]
fn a_client_that_does_not_read_is_ended_and_the_others_are_not() {
    let fixture =
        Fixture::with(Settings::default().set("pool.client_notifications_max_bytes", 100_000));
    let mut notifier = outsider(&fixture);
    let options = SocketOptions {
        receive_buffer: Some(4096),
        ..SocketOptions::default()
    };
    let mut login = fixture.password_login();
    login.socket = options;
    let mut deaf = login.open().unwrap();
    let mut listener = fixture.password_client().unwrap();
    deaf.query("listen a").unwrap();
    listener.query("listen a").unwrap();
    let notify = "select pg_notify('a', n || repeat('x', 7000)) from generate_series(1, 10) n";
    // More than the buffers of both kernels take.
    for _ in 0..400 {
        notifier.query(notify).unwrap();
        for _ in 0..10 {
            assert_eq!(heard(&mut listener).0, "a");
        }
    }
    until("the client that does not read is ended", || {
        fixture.sluice.admin.sessions(&fixture.tenant).len() == 1
    });
    assert!(fixture.sluice.log().contains("reason=\"limit\""));
    assert_eq!(listener.value("select 1"), "1");
}

#[test]
fn a_client_that_reads_late_is_told_everything() {
    let fixture = Fixture::with_one_backend();
    let mut notifier = outsider(&fixture);
    let mut login = fixture.password_login();
    login.socket = SocketOptions {
        receive_buffer: Some(4096),
        ..SocketOptions::default()
    };
    let mut listener = login.open().unwrap();
    listener.query("listen a").unwrap();
    // More than its buffers take, and nothing comes behind them that would have Sluice look again.
    let notify = "select pg_notify('a', n || repeat('x', 7000)) from generate_series(1, 100) n";
    notifier.query(notify).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..100 {
        assert_eq!(heard(&mut listener).0, "a");
    }
}

#[test]
fn a_client_listens_to_no_more_channels_than_it_may() {
    let fixture = Fixture::with(Settings::default().set("pool.channels_per_client", 2));
    let mut client = fixture.password_client().unwrap();
    client.query("listen a; listen b").unwrap();
    client.query("unlisten a; listen c").unwrap();
    assert_eq!(client.query("listen d").unwrap_err().code, "54000");
}

#[test]
fn in_another_encoding_listen_is_refused_and_not_garbled() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    client.query("set client_encoding = 'LATIN1'").unwrap();
    assert_eq!(client.query("listen a").unwrap_err().code, "0A000");
}

#[test]
fn a_pipeline_that_listens_and_goes_on_is_answered_in_order() {
    let fixture = Fixture::with_one_backend();
    let mut notifier = outsider(&fixture);
    let mut client = fixture.password_client().unwrap();
    client.send_messages(|out| {
        frontend::query("listen a", out).unwrap();
        frontend::query("select 'x'", out).unwrap();
    });
    assert_eq!(words(client.receive_until_ready()), ["LISTEN", "Idle"]);
    let answers = client.receive_until_ready();
    assert_eq!(answers.last(), Some(&Reply::ReadyForQuery(Status::Idle)));
    assert_eq!(words(answers)[1], "x");
    notifier.query("notify a").unwrap();
    assert_eq!(heard(&mut client), said("a", ""));
}
