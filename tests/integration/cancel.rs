//! CancelRequest: it reaches the query it is meant for, and no other.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use bytes::Bytes;
use reqwest::Method;

use crate::support::{
    Client, Fixture,
    login::{Login, SSL_REQUEST, VERSION},
    sluice::Settings,
    until,
    wire::SocketOptions,
};

/// A `CancelRequest` for what the client is doing, sent the way libpq does: on a connection of its own.
pub(crate) fn cancel(port: u16, key: &(u32, Bytes)) {
    cancel_over(Client::connect(port).unwrap(), key);
}

fn cancel_over(mut connection: Client, (pid, secret): &(u32, Bytes)) {
    let mut request = Vec::new();
    request.extend_from_slice(&(12 + secret.len() as u32).to_be_bytes());
    request.extend_from_slice(&80_877_102_u32.to_be_bytes());
    request.extend_from_slice(&pid.to_be_bytes());
    request.extend_from_slice(secret);
    connection.send(request);
    let (answer, _) = connection.receive_all();
    assert!(
        answer.is_empty(),
        "a cancel request is never answered: {answer:?}"
    );
}

/// Asserts that what the client runs can be cancelled, and that its session goes on.
#[track_caller]
pub(crate) fn a_query_is_cancelled(fixture: &Fixture, client: &mut Client) {
    client.start("select pg_sleep(600)");
    fixture.running("pg_sleep");
    cancel(fixture.sluice.port, client.cancel_key.as_ref().unwrap());
    assert_eq!(client.answer().unwrap_err().code, "57014");
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn a_running_query_is_cancelled_and_the_session_goes_on() {
    let fixture = Fixture::start();
    let mut login = fixture.password_login();
    for version in [VERSION, VERSION | 2] {
        login.version = version;
        a_query_is_cancelled(&fixture, &mut login.open().unwrap());
    }
}

#[test]
fn a_client_waiting_for_a_backend_is_taken_out_of_the_queue() {
    let fixture = Fixture::with_one_backend();
    let mut busy = fixture.password_client().unwrap();
    busy.query("begin").unwrap();
    let mut waiting = fixture.password_client().unwrap();
    waiting.start("select 1");
    fixture.wait_for_state("waiting");
    cancel(fixture.sluice.port, waiting.cancel_key.as_ref().unwrap());
    assert_eq!(waiting.answer().unwrap_err().code, "57014");
    busy.query("commit").unwrap();
    assert_eq!(waiting.value("select 1"), "1");
}

#[test]
fn a_wrong_key_cancels_nothing_and_is_not_answered() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    client.start("select pg_sleep(2)");
    fixture.running("pg_sleep");
    let (pid, secret) = client.cancel_key.clone().unwrap();
    let mut wrong = secret.to_vec();
    wrong[0] ^= 1;
    cancel(fixture.sluice.port, &(pid, Bytes::from(wrong)));
    cancel(fixture.sluice.port, &(pid.wrapping_add(1), secret));
    assert!(client.answer().is_ok());
}

#[test]
fn the_keys_that_clients_hold_are_not_the_servers() {
    let fixture = Fixture::with_one_backend();
    let first = fixture.password_client().unwrap();
    let mut second = fixture.password_client().unwrap();
    assert_ne!(first.cancel_key, second.cancel_key);
    // Of two clients that share a backend, only the one whose key it is can cancel.
    second.start("select pg_sleep(2)");
    fixture.running("pg_sleep");
    cancel(fixture.sluice.port, first.cancel_key.as_ref().unwrap());
    assert!(second.answer().is_ok());
}

#[test]
fn a_cancel_that_comes_late_hits_nobody_else() {
    let fixture = Fixture::with_one_backend();
    let mut late = fixture.password_client().unwrap();
    let mut next = fixture.password_client().unwrap();
    let key = late.cancel_key.clone().unwrap();
    let port = fixture.sluice.port;
    for _ in 0..100 {
        // The query ends by itself at about the time its cancel arrives; the next client has the backend by then.
        late.start("select pg_sleep(0.002)");
        let cancelling = thread::spawn({
            let key = key.clone();
            move || cancel(port, &key)
        });
        let ended = late.answer();
        let other = next.query("select pg_sleep(0.003)");
        assert!(other.is_ok(), "the wrong query was cancelled: {other:?}");
        assert!(ended.is_ok() || ended.is_err_and(|fault| fault.code == "57014"));
        cancelling.join().unwrap();
    }
}

#[test]
fn a_cancel_right_behind_a_set_ends_no_session() {
    let fixture = Fixture::with_one_backend();
    let mut client = fixture.password_client().unwrap();
    let key = client.cancel_key.clone().unwrap();
    for number in 1_000..1_100 {
        client
            .query(&format!("set work_mem = '{number}kB'"))
            .unwrap();
        cancel(fixture.sluice.port, &key);
    }
    assert_eq!(client.value("show work_mem"), "1099kB");
}

#[test]
fn an_idle_client_that_cancels_notices_nothing() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    client.query("select 1").unwrap();
    cancel(fixture.sluice.port, client.cancel_key.as_ref().unwrap());
    assert_eq!(client.value("select 2"), "2");
}

#[test]
fn a_cancel_over_tls_reaches_a_backend_over_tls() {
    let fixture = Fixture::start();
    let mut login = fixture.password_login().encrypted();
    for version in [VERSION, VERSION | 2] {
        login.version = version;
        let mut client = login.open().unwrap();
        let encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        assert_eq!(client.value(encrypted), "t");
        client.start("select pg_sleep(600)");
        fixture.running("pg_sleep");
        let mut connection = Client::connect(fixture.sluice.port).unwrap();
        connection.send(SSL_REQUEST);
        assert_eq!(connection.receive_byte(), Some(b'S'));
        let connection = connection.encrypt("localhost", &[]).unwrap();
        cancel_over(connection, client.cancel_key.as_ref().unwrap());
        assert_eq!(client.answer().unwrap_err().code, "57014");
    }
}

#[test]
fn who_guesses_at_keys_is_not_listened_to_and_nobody_else_is_harmed() {
    let settings = Settings::default().set("limits.wrong_cancel_keys_per_address", 5);
    let fixture = Fixture::with(settings);
    let from = |last| SocketOptions {
        source: Some([127, 0, 0, last].into()),
        ..SocketOptions::default()
    };
    let port = fixture.sluice.port;
    let connect = |last| Client::connect_with(port, from(last)).unwrap();
    let mut client = fixture.password_client().unwrap();
    client.start("select pg_sleep(600)");
    fixture.running("pg_sleep");
    let key = client.cancel_key.clone().unwrap();
    let wrong = (key.0, Bytes::from_static(b"wrong key"));
    for _ in 0..8 {
        cancel_over(connect(9), &wrong);
    }
    // The right key from there comes to nothing; one from elsewhere does what it should.
    cancel_over(connect(9), &key);
    let admin = &fixture.sluice.admin;
    let metrics = || admin.call(Method::GET, "/metrics", None).text;
    let counted = |outcome: &str, count: u32| {
        let line = format!("sluice_cancel_requests_total{{outcome=\"{outcome}\"}} {count}\n");
        metrics().contains(&line)
    };
    until("wrong keys are counted", || {
        counted("unknown_key", 5) && counted("throttled", 4)
    });
    assert_eq!(fixture.running("pg_sleep").state, "active");
    cancel_over(connect(10), &key);
    assert_eq!(client.answer().unwrap_err().code, "57014");
    assert_eq!(client.value("select 1"), "1");
}

/// How many cancels race with the ends of queries.
fn races() -> usize {
    let asked = std::env::var("SLUICE_CANCELS").ok();
    asked.map_or(10_000, |count| {
        count.parse().expect("SLUICE_CANCELS is a number")
    })
}

#[test]
fn cancels_that_race_with_the_ends_of_queries_never_hit_another_client() {
    const HASTY: usize = 4;
    let fixture = Fixture::with(Settings::default().set("pool.size", 2));
    let login = fixture.role_login(crate::support::postgres::SWARM_ROLE);
    let over = AtomicBool::new(false);
    let [sent, hits, innocent] = [const { AtomicUsize::new(0) }; 3];
    let races = races();
    thread::scope(|scope| {
        let hasty: Vec<_> = (0..HASTY)
            .map(|number| {
                let (login, sent, hits) = (&login, &sent, &hits);
                scope.spawn(move || hasty_client(login, number, races / HASTY, sent, hits))
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = login.open().unwrap();
                while !over.load(Ordering::Relaxed) {
                    let answered = client.query("select pg_sleep(0.001)");
                    assert!(
                        answered.is_ok(),
                        "the wrong query was cancelled: {answered:?}"
                    );
                    innocent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let ended: Vec<_> = hasty.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    let [sent, hits, innocent] = [sent, hits, innocent].map(AtomicUsize::into_inner);
    println!("{sent} cancels, {hits} queries hit, {innocent} queries of others unharmed");
    assert!(sent >= races / HASTY * HASTY && hits > 0 && hits < sent && innocent > 0);
}

/// A client whose every query is cancelled at about the time that it ends by itself.
fn hasty_client(
    login: &Login,
    number: usize,
    races: usize,
    sent: &AtomicUsize,
    hits: &AtomicUsize,
) {
    let mut client = login.open().unwrap();
    let key = client.cancel_key.clone().unwrap();
    for race in 0..races {
        client.start("select pg_sleep(0.002)");
        // Now before, now after its end.
        thread::sleep(Duration::from_micros(
            (race * 37 + number * 501) as u64 % 6_000,
        ));
        cancel(login.port, &key);
        sent.fetch_add(1, Ordering::Relaxed);
        match client.answer() {
            Ok(_) => {}
            Err(fault) => {
                assert_eq!(fault.code, "57014", "{fault:?}");
                hits.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
