//! The promises under load: many sessions, many races, many silent connections.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use rand::Rng;
use serde_json::json;

use crate::support::{
    Client, Fixture, Login, Person,
    admin::Revocation,
    allow_many_connections,
    postgres::{SWARM_ROLE, TOKEN_ROLE},
    sluice::Settings,
    until,
};

/// Opens `count` sessions, a few at a time.
fn open_many(login: &Login, count: usize) -> Vec<Client> {
    let per_thread = count / 4;
    assert_eq!(per_thread * 4, count);
    thread::scope(|scope| {
        let openers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..per_thread)
                        .map(|_| login.open().unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        openers
            .into_iter()
            .flat_map(|opener| opener.join().unwrap())
            .collect()
    })
}

#[test]
fn a_removed_rule_ends_a_thousand_idle_and_twenty_busy_sessions_at_once() {
    allow_many_connections();
    let fixture = Fixture::with(
        Settings::default()
            .set("pool.size", 20)
            .set("pool.tenant_budget", 20),
    );
    let person = fixture.granted("first");
    let login = fixture.token_login(&person);
    let mut idle = open_many(&login, 1_000);
    let mut busy = open_many(&login, 20);
    for client in &mut busy {
        client.start("select pg_sleep(600)");
    }
    until("all of them are busy", || {
        fixture
            .backends()
            .iter()
            .filter(|backend| backend.state == "active")
            .count()
            == 20
    });

    let began = Instant::now();
    let answer = fixture.remove_rule(&person, TOKEN_ROLE);
    let took = began.elapsed();
    assert!(fixture.backends().is_empty(), "backends have survived");
    assert!(
        fixture.sluice.admin.sessions(&fixture.tenant).is_empty(),
        "sessions have survived"
    );
    let report = Revocation::of(&answer);
    println!("1,020 sessions ended in {took:?}: {report:?}");
    assert_eq!(
        (report.sessions_ended, report.unconfirmed),
        (1_020, 0),
        "{report:?}"
    );
    assert_eq!(report.backends_closed, 20, "{report:?}");
    for client in idle.iter_mut().chain(&mut busy) {
        assert_eq!(
            client.farewell().message,
            "terminating connection due to access revocation"
        );
    }
    // 100 ms is the promise for a release build on a quiet machine; this build and this suite are neither.
    assert!(took < Duration::from_secs(10), "revoking took {took:?}");
}

/// Counts grants and revocations: odd while a grant may hold, even from the return of a revocation to the next grant.
struct Epoch(AtomicU64);

impl Epoch {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn advance(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// How many revocations have returned.
fn revocations(epoch: u64) -> u64 {
    epoch / 2
}

fn is_revoked(epoch: u64) -> bool {
    epoch.is_multiple_of(2)
}

/// Logs in and asks until it is thrown out. Panics when a revocation that has returned did not hold.
fn provoke(fixture: &Fixture, person: &Person, epoch: &Epoch) {
    let before = epoch.now();
    let Ok(mut client) = fixture.token_client(person) else {
        return;
    };
    let admitted = epoch.now();
    assert!(
        before != admitted || !is_revoked(admitted),
        "let in without a rule"
    );
    for _ in 0..rand::rng().random_range(1..20) {
        let began = epoch.now();
        if client.query("select 1").is_err() {
            return;
        }
        let ended = epoch.now();
        assert!(
            began != ended || !is_revoked(began),
            "a query ran while nothing was granted"
        );
        // Whoever was in before a revocation returned is out after it, even if there is a new grant by now.
        let survived = revocations(began) > revocations(admitted);
        assert!(
            !survived,
            "a session of epoch {admitted} asked in epoch {began}"
        );
    }
}

/// Lets clients log in all the time while their rule comes and goes; `check` looks on each time it has gone.
fn race(logins: usize, check: impl Fn(&Fixture) + Sync) {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let (epoch, done) = (Epoch(AtomicU64::new(0)), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while done.fetch_add(1, Ordering::SeqCst) < logins {
                    provoke(&fixture, &person, &epoch);
                }
            });
        }
        scope.spawn(|| {
            while done.load(Ordering::SeqCst) < logins {
                epoch.advance();
                fixture.grant(&person, TOKEN_ROLE, json!({ "expires": "1h" }));
                thread::sleep(Duration::from_micros(rand::rng().random_range(0..30_000)));
                let answer = fixture.remove_rule(&person, TOKEN_ROLE);
                assert_eq!(Revocation::of(&answer).unconfirmed, 0);
                epoch.advance();
                check(&fixture);
            }
        });
    });
    println!("{logins} logins, {} grants", epoch.now() / 2);
    assert!(
        epoch.now() > logins as u64 / 100,
        "hardly a race: {} epochs",
        epoch.now()
    );
    assert!(fixture.sluice.admin.sessions(&fixture.tenant).is_empty());
}

#[test]
fn ten_thousand_logins_racing_with_revocations_leave_no_survivor() {
    race(10_000, |_| ());
}

#[test]
fn logins_racing_with_revocations_leave_no_backend_in_the_persons_name() {
    race(1_000, |fixture| {
        let survivors = fixture.backends();
        assert!(survivors.is_empty(), "{survivors:?}");
    });
}

#[test]
fn two_thousand_silent_connections_keep_nobody_from_logging_in() {
    allow_many_connections();
    let fixture = Fixture::with(Settings::default().set("timeouts.login", "10min"));
    let silent: Vec<Client> = (0..2_000)
        .map(|_| Client::connect(fixture.sluice.port).unwrap())
        .collect();
    // Long before the silent ones are cut off: a client of the tests is patient for seconds only.
    let mut client = fixture.role_login(SWARM_ROLE).open().unwrap();
    assert_eq!(client.value("select 1"), "1");
    drop(silent);
}

#[test]
fn five_thousand_idle_clients_take_little_memory() {
    allow_many_connections();
    const MIB: u64 = 1 << 20;
    let fixture = Fixture::start();
    let mut clients = open_many(&fixture.role_login(SWARM_ROLE), 5_000);
    assert_eq!(fixture.sluice.admin.sessions(&fixture.tenant).len(), 5_000);
    let resident = fixture.sluice.resident_bytes();
    println!(
        "5,000 idle clients: {:.1} MiB resident",
        resident as f64 / MIB as f64
    );
    // The promise is for a release build; futures and tables of a debug build are larger.
    let bound = if cfg!(debug_assertions) {
        80 * MIB
    } else {
        45 * MIB
    };
    assert!(resident < bound, "{resident} bytes");
    for client in clients.iter_mut().step_by(500) {
        assert_eq!(client.value("select 1"), "1");
    }
}
