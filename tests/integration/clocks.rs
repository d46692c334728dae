//! Time as it really passes, and a wall clock that jumps.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    Fixture, PATIENCE,
    clock::Clock,
    postgres::{self, TOKEN_ROLE},
    sluice::{Settings, Sluice},
    until,
    wire::Heard,
};

const HOUR: i64 = 60 * 60;

#[test]
fn a_wall_clock_that_jumps_prolongs_no_grant_and_ends_only_what_is_over_by_it() {
    let clock = Clock::new();
    let sluice = Sluice::start_with(Settings::default(), &clock.environment());
    let fixture = Fixture::around(postgres::current(), sluice, json!({}));
    let open = |name: &str, expires: &str| {
        let person = fixture.person(name);
        fixture.grant(&person, TOKEN_ROLE, json!({ "expires": expires }));
        let mut client = fixture.token_client(&person).unwrap();
        client.query("begin").unwrap();
        client
    };
    let mut long = open("first", "1d");
    let mut hour = open("second", "1h");
    let mut password = fixture.password_client().unwrap();
    let mut brief = open("third", "8s");
    let granted = Instant::now();
    // Long enough for the clock that cannot be set to be looked at.
    brief.query("select pg_sleep(0.5)").unwrap();

    clock.move_by(-HOUR);
    let fault = brief.farewell();
    assert_eq!(fault.message, "terminating connection due to access expiry");
    assert!(
        granted.elapsed() > Duration::from_secs(6),
        "before its time"
    );
    for client in [&mut long, &mut hour, &mut password] {
        assert_eq!(client.value("select 1"), "1", "although it is not over");
    }
    assert!(fixture.password_client().is_ok());

    clock.move_by(HOUR);
    let fault = hour.farewell();
    assert_eq!(fault.message, "terminating connection due to access expiry");
    for client in [&mut long, &mut password] {
        assert_eq!(client.value("select 1"), "1", "although it is not over");
    }
    assert!(fixture.password_client().is_ok());
    // Who comes back in time: what the server's clock makes of new certificates is told by `sluice doctor`.
    clock.move_by(0);
    let person = fixture.granted("fourth");
    until("a new login with a certificate", || {
        fixture.token_client(&person).is_ok()
    });
    fixture.sluice.cli(&["audit", "verify"]);
}

#[test]
fn a_grant_of_seventy_seconds_ends_a_transaction_of_ten_minutes_on_time() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    fixture.grant(&person, TOKEN_ROLE, json!({ "expires": "70s" }));
    let granted = Instant::now();
    let mut client = fixture.token_client(&person).unwrap();
    client.query("begin").unwrap();
    client.start("select pg_sleep(600)");
    let fault = loop {
        match client.hear(PATIENCE) {
            Heard::Message(b'E', body) => break String::from_utf8_lossy(&body).into_owned(),
            Heard::End => panic!("ended without a word after {:?}", granted.elapsed()),
            // Silence, and perhaps a notice, is what there is to hear for a minute.
            Heard::Message(..) | Heard::Silence => {}
        }
        assert!(granted.elapsed() < Duration::from_secs(100), "goes on");
    };
    let after = granted.elapsed();
    assert!(
        fault.contains("terminating connection due to access expiry"),
        "{fault}"
    );
    let on_time = Duration::from_secs(69)..Duration::from_secs(75);
    assert!(on_time.contains(&after), "{after:?}");
    until("its query is gone", || fixture.backends().is_empty());
}
