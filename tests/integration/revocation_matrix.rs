//! Revocation is a guarantee: every cause ends every session, whatever it is doing, and the call that revokes returns
//! when it is over.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    Client, Fixture, Person, Reply, admin::Revocation, postgres::TOKEN_ROLE, until,
    wire::SocketOptions,
};

/// What takes the access away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    RuleRemoved,
    RuleNarrowed,
    TokenRevoked,
    AccessDisabled,
    PersonRemoved,
    Expiry,
}

/// What the session is doing when that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    InTransaction,
    Sleeping,
    Streaming,
    CopyIn,
    Waiting,
    NotReading,
}

/// How the client under test will have ended.
enum Ending {
    Read(Box<Client>),
    /// Somebody reads already.
    Reading(JoinHandle<Vec<Reply>>),
}

/// A session in the state asked for, with all that keeps it there.
struct Scene {
    fixture: Fixture,
    person: Person,
    ending: Ending,
    /// Holds what the session waits for.
    _holder: Option<Client>,
    /// Somebody else in the same role and an application: neither may notice anything.
    bystanders: [Client; 2],
}

/// Rows without end; a series in FROM would be computed whole before the first of them.
const BIG: &str = "select repeat('x', 1000), generate_series(1, 1000000000)";

impl Scene {
    fn set(state: State) -> Self {
        let budget = if state == State::Waiting { 1 } else { 10 };
        let fixture = Fixture::with_tenant(json!({ "backend_budget": budget }));
        let superuser = &mut fixture.cluster.superuser(&fixture.database);
        superuser
            .query("create table work (n int); grant all on work to public")
            .unwrap();
        let person = fixture.granted("revoked");
        let other = fixture.granted("bystander");
        let bystanders = [
            fixture.token_client(&other).unwrap(),
            fixture.password_client().unwrap(),
        ];
        let mut login = fixture.token_login(&person);
        if state == State::NotReading {
            login.socket = SocketOptions {
                receive_buffer: Some(4096),
                ..login.socket
            };
        }
        let mut client = login.open().unwrap();
        let mut holder = None;
        match state {
            State::Idle => {
                client.query("select 1").unwrap();
            }
            State::InTransaction => {
                client.query("begin").unwrap();
                client.query("insert into work values (1)").unwrap();
            }
            State::Sleeping => {
                client.start("select pg_sleep(600)");
                fixture.running("pg_sleep");
            }
            State::Streaming => {
                client.start(BIG);
                while !matches!(client.receive(), Reply::DataRow(_)) {}
            }
            State::CopyIn => {
                client.start("copy work from stdin");
                assert_eq!(client.receive(), Reply::CopyIn);
                client.send(b"d\0\0\0\x061\n");
            }
            State::Waiting => {
                let mut busy = fixture.password_client().unwrap();
                busy.query("begin").unwrap();
                holder = Some(busy);
                client.start("insert into work values (1)");
                fixture.wait_for_state("waiting");
            }
            State::NotReading => {
                client.start(BIG);
                until("the server cannot send on", || is_stuck(&fixture));
            }
        }
        let ending = if state == State::Streaming {
            Ending::Reading(thread::spawn(move || without_rows(&mut client)))
        } else {
            Ending::Read(Box::new(client))
        };
        Self {
            fixture,
            person,
            ending,
            _holder: holder,
            bystanders,
        }
    }

    /// Takes the access away; answers what the API said once the call has returned.
    fn revoke(&self, cause: Cause) -> Value {
        let Self {
            fixture, person, ..
        } = self;
        let admin = &fixture.sluice.admin;
        match cause {
            Cause::RuleRemoved => fixture.remove_rule(person, TOKEN_ROLE),
            Cause::RuleNarrowed => {
                let terms = json!({ "expires": "1h", "networks": ["203.0.113.0/24"] });
                fixture.grant(person, TOKEN_ROLE, terms)
            }
            Cause::TokenRevoked => admin.delete(&format!("/v1/tokens/{}", person.token_id)),
            Cause::AccessDisabled => admin.set_token_access(&fixture.tenant, "disabled"),
            Cause::PersonRemoved => admin.delete(&format!("/v1/people/{}", person.id)),
            Cause::Expiry => {
                let answer = fixture.grant(person, TOKEN_ROLE, json!({ "expires": "1s" }));
                until("the session has expired", || self.sessions() == 0);
                until("its backend is gone", || self.backends() == 0);
                answer
            }
        }
    }

    fn sessions(&self) -> usize {
        let path = format!("/v1/sessions?person={}", self.person.id);
        let answer = self
            .fixture
            .sluice
            .admin
            .call(reqwest::Method::GET, &path, None);
        // A person who has been removed has no list.
        if answer.status == 404 {
            let all = self.fixture.sluice.admin.sessions(&self.fixture.tenant);
            return all
                .iter()
                .filter(|session| session["person"] == self.person.id.as_str())
                .count();
        }
        answer.value()["sessions"].as_array().unwrap().len()
    }

    /// How many backends act for the person.
    fn backends(&self) -> usize {
        let held = self.fixture.backends().into_iter().filter(|backend| {
            backend.user == TOKEN_ROLE && backend.application_name.contains(&self.person.email)
        });
        held.count()
    }
}

fn is_stuck(fixture: &Fixture) -> bool {
    let waiting = format!(
        "select 1 from pg_stat_activity where datname = '{}' and wait_event = 'ClientWrite'",
        fixture.database
    );
    !fixture.cluster.run(&waiting).is_empty()
}

/// Reads to the end of the connection, keeping everything but rows.
fn without_rows(client: &mut Client) -> Vec<Reply> {
    let mut replies = Vec::new();
    loop {
        match client.receive() {
            Reply::DataRow(_) => {}
            end @ (Reply::Closed | Reply::Reset) => {
                replies.push(end);
                return replies;
            }
            reply => replies.push(reply),
        }
    }
}

/// The whole promise for one cause and one state.
fn ends(cause: Cause, state: State) {
    let scene = Scene::set(state);
    assert_eq!(scene.sessions(), 1);
    let began = Instant::now();
    let answer = scene.revoke(cause);
    let took = began.elapsed();

    // All of this holds now, not eventually: the call has returned.
    assert_eq!(scene.backends(), 0, "a backend has survived");
    assert_eq!(scene.sessions(), 0, "the session is still listed");
    assert!(took < Duration::from_secs(5), "revoking took {took:?}");
    if cause != Cause::Expiry {
        let report = Revocation::of(&answer);
        let expected = if cause == Cause::AccessDisabled { 2 } else { 1 };
        assert_eq!(
            (report.sessions_ended, report.unconfirmed),
            (expected, 0),
            "{report:?}"
        );
        if !matches!(state, State::Idle | State::Waiting) {
            assert!(report.backends_closed >= 1, "{report:?}");
        }
        assert!(
            report.elapsed_ms > 0.0 && report.slowest_ms <= report.elapsed_ms,
            "{report:?}"
        );
        assert!(
            report.elapsed_ms <= took.as_secs_f64() * 1000.0,
            "{report:?} in {took:?}"
        );
        assert!(report.revision > 0, "{report:?}");
    }

    let replies = match scene.ending {
        Ending::Read(mut client) => without_rows(&mut client),
        Ending::Reading(reader) => reader.join().unwrap(),
    };
    check_farewell(cause, state, &replies);
    let mut superuser = scene.fixture.cluster.superuser(&scene.fixture.database);
    assert_eq!(
        superuser.value("select count(*) from work"),
        "0",
        "work was committed"
    );
    assert!(
        scene.fixture.token_client(&scene.person).is_err(),
        "a new login is let in"
    );
    let [mut other, mut application] = scene.bystanders;
    drop(scene._holder);
    if cause != Cause::AccessDisabled {
        assert_eq!(other.value("select 1"), "1");
    }
    assert_eq!(application.value("select 1"), "1");
}

/// One FATAL and an orderly end; only where a message was cut off, or nobody reads, may the words be missing.
fn check_farewell(cause: Cause, state: State, replies: &[Reply]) {
    let faults: Vec<_> = replies
        .iter()
        .filter_map(|reply| match reply {
            Reply::Error(fault) => Some(fault),
            _ => None,
        })
        .collect();
    let message = match cause {
        Cause::Expiry => "terminating connection due to access expiry",
        _ => "terminating connection due to access revocation",
    };
    for fault in &faults {
        assert_eq!(
            (&*fault.severity, &*fault.code),
            ("FATAL", "57P01"),
            "{fault:?}"
        );
        assert_eq!(fault.message, message);
    }
    match state {
        State::NotReading => assert!(faults.len() <= 1),
        _ => {
            assert_eq!(faults.len(), 1, "{replies:?}");
            assert_eq!(
                replies.last(),
                Some(&Reply::Closed),
                "closed with a reset: the words may be lost"
            );
        }
    }
}

macro_rules! every_state {
    ($($cause:ident: $variant:ident,)+) => {
        $(mod $cause {
            use super::{Cause::$variant, State, ends};

            #[test]
            fn ends_an_idle_session() {
                ends($variant, State::Idle);
            }

            #[test]
            fn ends_a_session_in_a_transaction() {
                ends($variant, State::InTransaction);
            }

            #[test]
            fn ends_a_session_running_pg_sleep() {
                ends($variant, State::Sleeping);
            }

            #[test]
            fn ends_a_session_streaming_a_result() {
                ends($variant, State::Streaming);
            }

            #[test]
            fn ends_a_session_in_copy() {
                ends($variant, State::CopyIn);
            }

            #[test]
            fn ends_a_session_waiting_for_a_backend() {
                ends($variant, State::Waiting);
            }

            #[test]
            fn ends_a_session_that_does_not_read() {
                ends($variant, State::NotReading);
            }
        })+
    };
}

every_state! {
    a_removed_rule: RuleRemoved,
    a_narrowed_rule: RuleNarrowed,
    a_revoked_token: TokenRevoked,
    disabled_access: AccessDisabled,
    a_removed_person: PersonRemoved,
    an_expired_rule: Expiry,
}
