//! CancelRequest: it reaches the query it is meant for, and no other.

use bytes::Bytes;

use crate::support::{Client, Fixture, login::VERSION};

/// A `CancelRequest` for what the client is doing, sent the way libpq does: on a connection of its own.
fn cancel(port: u16, (pid, secret): &(u32, Bytes)) {
    let mut request = Vec::new();
    request.extend_from_slice(&(12 + secret.len() as u32).to_be_bytes());
    request.extend_from_slice(&80_877_102_u32.to_be_bytes());
    request.extend_from_slice(&pid.to_be_bytes());
    request.extend_from_slice(secret);
    let mut connection = Client::connect(port).unwrap();
    connection.send(request);
    let (answer, _) = connection.receive_all();
    assert!(
        answer.is_empty(),
        "a cancel request is never answered: {answer:?}"
    );
}

#[test]
fn a_running_query_is_cancelled_and_the_session_goes_on() {
    let fixture = Fixture::start();
    let mut login = fixture.password_login();
    for version in [VERSION, VERSION | 2] {
        login.version = version;
        let mut client = login.open().unwrap();
        client.start("select pg_sleep(600)");
        fixture.running("pg_sleep");
        cancel(fixture.sluice.port, client.cancel_key.as_ref().unwrap());
        assert_eq!(client.answer().unwrap_err().code, "57014");
        assert_eq!(client.value("select 1"), "1");
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
    client.start("select pg_sleep(0.5)");
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
    second.start("select pg_sleep(0.5)");
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
        let cancelling = std::thread::spawn({
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
fn an_idle_client_that_cancels_notices_nothing() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    client.query("select 1").unwrap();
    cancel(fixture.sluice.port, client.cancel_key.as_ref().unwrap());
    assert_eq!(client.value("select 2"), "2");
}
