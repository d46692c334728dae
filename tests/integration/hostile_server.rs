//! Servers that do not keep to the protocol: the client is told, the backend goes, and nothing grows or hangs.

use std::{
    io::Result,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    Fault, Fixture, PATIENCE,
    fake_server::{FakeServer, Visit, message},
    login::Login,
    postgres::{PASSWORD, PASSWORD_ROLE},
    sluice::Settings,
    until,
};

const SECRET: &[u8] = b"four";

/// How much Sluice may grow over whatever a server does.
const GROWTH_MAX_BYTES: u64 = 8 << 20;

/// A Sluice with a tenant on the fake server, beside the usual one.
struct Scene {
    fixture: Fixture,
    server: FakeServer,
    login: Login,
}

impl Scene {
    fn new(script: impl Fn(&mut Visit) -> Result<()> + Send + Sync + 'static) -> Self {
        let settings = Settings::default()
            .set("pool.size", 1)
            .set("pool.connect_backoff", "1ms")
            .set("timeouts.backend_connect", "2s");
        let fixture = Fixture::with(settings);
        let server = FakeServer::start(script);
        let tenant = format!("{}-fake", fixture.tenant);
        let fields =
            json!({ "port": server.port, "backend_tls": "disable", "login": "role_secret" });
        fixture.add_tenant(&tenant, fields);
        let login = fixture
            .password_login()
            .user(&format!("{PASSWORD_ROLE}.{tenant}"));
        fixture.set_password(&tenant, PASSWORD_ROLE, PASSWORD);
        Self {
            fixture,
            server,
            login,
        }
    }

    /// The password is not in the catalogue: Sluice has to ask the server for it.
    fn asking(script: impl Fn(&mut Visit) -> Result<()> + Send + Sync + 'static) -> Self {
        let scene = Self::new(script);
        let path = format!(
            "/v1/tenants/{}-fake/roles/{PASSWORD_ROLE}/secret",
            scene.fixture.tenant
        );
        scene.fixture.sluice.admin.delete(&path);
        scene
    }

    /// What the client is told, which must not take long, nor much memory.
    fn refusal(&self, case: &str) -> Fault {
        let before = self.fixture.sluice.resident_bytes();
        self.fixture.sluice.forget_peak();
        let began = Instant::now();
        let told = self
            .login
            .open()
            .and_then(|mut client| client.query("select 1"));
        let fault = told.err().unwrap_or_else(|| panic!("{case}: no error"));
        assert!(began.elapsed() < PATIENCE / 2, "{case}: it hung");
        let growth = self
            .fixture
            .sluice
            .peak_resident_bytes()
            .saturating_sub(before);
        assert!(growth < GROWTH_MAX_BYTES, "{case}: grew by {growth} bytes");
        fault
    }

    fn other_tenants_go_on(&self) {
        assert_eq!(
            self.fixture.password_client().unwrap().value("select 1"),
            "1"
        );
    }
}

/// A server that lets everybody in and answers the first query with `answer`, later visits' as it should.
fn answers(answer: Vec<u8>) -> Scene {
    Scene::new(move |visit| {
        visit.let_in(SECRET)?;
        if visit.number > 0 {
            return visit.serve();
        }
        visit.hear_until(b'Q')?;
        visit.write(&answer)?;
        visit.hear_until(b'X')
    })
}

#[test]
fn an_answer_that_breaks_the_protocol_ends_the_session_and_its_backend() {
    let ready = |body: &[u8]| message(b'Z', body);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a negative length", b"D\xff\xff\xff\xff".to_vec()),
        ("a length below four", b"D\0\0\0\x03".to_vec()),
        (
            "an absurd length of a small message",
            b"C\x7f\xff\xff\xff".to_vec(),
        ),
        ("an absurd ReadyForQuery", b"Z\x7f\xff\xff\xffI".to_vec()),
        ("an absurd ParameterStatus", b"S\x7f\xff\xff\xff".to_vec()),
        ("an unknown tag", message(b'!', b"")),
        ("an unknown status", ready(b"?")),
        ("no status", ready(b"")),
        ("two statuses", ready(b"II")),
        ("a ParameterStatus without a value", message(b'S', b"name")),
        (
            "a login in mid-session",
            message(b'R', &3_u32.to_be_bytes()),
        ),
        ("another key in mid-session", message(b'K', &[0; 8])),
        ("ReadyForQuery twice", [ready(b"I"), ready(b"I")].concat()),
        (
            "a row after ReadyForQuery",
            [ready(b"I"), message(b'D', b"\0\x01\0\0\0\x01x")].concat(),
        ),
    ];
    for (case, answer) in cases {
        let scene = answers(answer);
        let mut client = scene.login.open().unwrap();
        client.start("select 1");
        let fault = client.farewell();
        assert_eq!(fault.code, "08006", "{case}: {fault:?}");
        until("the backend is closed", || scene.server.ended() > 0);
        let mut next = scene.login.open().unwrap();
        assert!(next.query("select 1").is_ok(), "{case}: the next client");
        scene.other_tenants_go_on();
    }
}

#[test]
fn a_backend_that_speaks_without_being_asked_is_not_used_again() {
    let scene = Scene::new(|visit| {
        visit.let_in(SECRET)?;
        visit.hear_until(b'Q')?;
        visit.write(b"C\0\0\0\x0dSELECT 0\0Z\0\0\0\x05I")?;
        if visit.number > 0 {
            return visit.serve();
        }
        std::thread::sleep(Duration::from_millis(50));
        visit.say(b'D', b"\0\x01\0\0\0\x01x")?;
        visit.hear_until(b'X')
    });
    let mut client = scene.login.open().unwrap();
    client.query("select 1").unwrap();
    until("the backend is closed", || scene.server.ended() > 0);
    let answer = client.query("select 1").unwrap();
    assert!(answer.rows.is_empty(), "{answer:?}");
}

#[test]
fn what_a_server_may_say_unasked_is_no_clients_problem() {
    type Script = fn(&mut Visit, &[u8]) -> Result<()>;
    const READY: &[u8] = b"Z\0\0\0\x05I";
    let unasked = [
        ("a reload", message(b'S', b"TimeZone\0Mars\0")),
        ("a notice", message(b'N', b"SLOG\0Mhear, hear\0\0")),
        (
            "its goodbye",
            message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mgoodbye\0\0"),
        ),
    ];
    let moments: [(&str, Script); 2] = [
        ("behind the login", |visit, unasked| {
            visit.first_packet()?;
            visit.write(&[b"R\0\0\0\x08\0\0\0\0", READY, unasked].concat())
        }),
        ("behind a setting's answer", |visit, unasked| {
            visit.let_in(SECRET)?;
            visit.hear_until(b'Q')?;
            visit.write(&[b"C\0\0\0\x08SET\0", READY, unasked].concat())
        }),
    ];
    for (said, bytes) in unasked {
        for (moment, script) in moments {
            let bytes = bytes.clone();
            let scene = Scene::new(move |visit| {
                if visit.number == 1 {
                    script(visit, &bytes)?;
                } else {
                    visit.let_in(SECRET)?;
                }
                match visit.number {
                    0 => {
                        // It greets the client, and that is all.
                        visit.hear_until(b'Q')?;
                        visit.write(&[b"C\0\0\0\x08SET\0", READY].concat())
                    }
                    1 if bytes[0] == b'E' => Ok(()),
                    _ => visit.serve(),
                }
            });
            let login = scene.login.clone().parameter("search_path", "elsewhere");
            let mut client = login.open().unwrap();
            until("the greeting is over", || scene.server.ended() > 0);
            let answer = client.query("select 1");
            assert!(answer.is_ok(), "{said} {moment}: {answer:?}");
        }
    }
}

#[test]
fn a_backend_that_leaves_during_a_greeting_is_no_logins_problem() {
    let scene = Scene::new(|visit| {
        visit.let_in(SECRET)?;
        if visit.number > 1 {
            return visit.serve();
        }
        visit.hear_until(b'Q')?;
        if visit.number == 0 {
            visit.write(b"C\0\0\0\x08SET\0Z\0\0\0\x05I")?;
        }
        Ok(())
    });
    let login = |path| scene.login.clone().parameter("search_path", path).open();
    login("first").unwrap();
    login("second").unwrap();
    until("both have left", || scene.server.ended() == 2);
}

#[test]
fn a_login_that_breaks_the_protocol_is_told_in_time() {
    type Script = fn(&mut Visit) -> Result<()>;
    fn then_wait(visit: &mut Visit, bytes: &[u8]) -> Result<()> {
        visit.first_packet()?;
        visit.write(bytes)?;
        visit.hear_until(b'X')
    }
    fn endlessly(visit: &mut Visit, mut next: impl FnMut(u32) -> Vec<u8>) -> Result<()> {
        visit.first_packet()?;
        visit.say(b'R', &[0; 4])?;
        for number in 0.. {
            visit.write(&next(number))?;
        }
        Ok(())
    }
    let cases: &[(&str, Script)] = &[
        ("silence", |visit| visit.hear_until(b'X')),
        ("not a login at all", |visit| {
            then_wait(visit, b"HTTP/1.1 400 Bad Request\r\n\r\n")
        }),
        ("ready before the login", |visit| {
            then_wait(visit, b"Z\0\0\0\x05I")
        }),
        ("half an authentication request", |visit| {
            then_wait(visit, b"R\0\0\0\x07\0\0\0")
        }),
        ("an unknown method", |visit| {
            then_wait(visit, b"R\0\0\0\x08\0\0\0\x63")
        }),
        ("SASL without a mechanism", |visit| {
            then_wait(visit, b"R\0\0\0\x09\0\0\0\x0a\0")
        }),
        ("the password in clear", |visit| {
            then_wait(visit, b"R\0\0\0\x08\0\0\0\x03")
        }),
        ("half a salt", |visit| {
            then_wait(visit, b"R\0\0\0\x0a\0\0\0\x05ab")
        }),
        ("a negative length", |visit| {
            then_wait(visit, b"R\xff\xff\xff\xff")
        }),
        ("an absurd length", |visit| {
            then_wait(visit, b"R\x7f\xff\xff\xff\0\0\0\0")
        }),
        ("a key too short", |visit| {
            then_wait(visit, b"R\0\0\0\x08\0\0\0\0K\0\0\0\x06ab")
        }),
        ("a key too long", |visit| {
            let key = message(b'K', &[1; 4 + 257]);
            then_wait(visit, &[b"R\0\0\0\x08\0\0\0\0", &key[..]].concat())
        }),
        ("in a transaction from the start", |visit| {
            then_wait(visit, b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05T")
        }),
        ("a row behind the login", |visit| {
            then_wait(visit, b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05ID\0\0\0\x06\0\0")
        }),
        ("endless requests for a password", |visit| {
            endlessly(visit, |_| message(b'R', b"\0\0\0\x05salt"))
        }),
        ("endless parameters", |visit| {
            endlessly(visit, |number| {
                message(b'S', format!("p{number}\0v\0").as_bytes())
            })
        }),
        ("one parameter, endlessly", |visit| {
            let value = "v".repeat(100_000);
            endlessly(visit, |_| message(b'S', format!("p\0{value}\0").as_bytes()))
        }),
        ("endless notices", |visit| {
            let text = "n".repeat(100_000);
            endlessly(visit, |_| message(b'N', format!("M{text}\0\0").as_bytes()))
        }),
    ];
    for (case, script) in cases {
        let scene = Scene::new(*script);
        let fault = scene.refusal(case);
        assert_eq!(fault.code, "08006", "{case}: {fault:?}");
        scene.other_tenants_go_on();
    }
}

/// Lets Sluice in, and has `say` the answer when it asks for a verifier.
fn asked(visit: &mut Visit, say: impl Fn(&mut Visit) -> Result<()>) -> Result<()> {
    visit.let_in(SECRET)?;
    loop {
        match visit.hear()? {
            // The pooler pins its search_path first.
            b'Q' => visit.write(b"C\0\0\0\x08SET\0Z\0\0\0\x05I")?,
            b'S' => return say(visit),
            _ => {}
        }
    }
}

#[test]
fn a_verifier_look_up_takes_no_more_than_it_needs() {
    type Script = fn(&mut Visit) -> Result<()>;
    let cases: &[(&str, Script)] = &[
        ("endless rows", |visit| {
            asked(visit, |visit| {
                let value = "x".repeat(1000);
                let row = [b"\0\x01\0\0\x03\xe8", value.as_bytes()].concat();
                loop {
                    visit.say(b'D', &row)?;
                }
            })
        }),
        ("a huge row", |visit| {
            asked(visit, |visit| {
                visit.write(b"D\x04\0\0\0\0\x01\x03\xff\0\0")?;
                loop {
                    visit.write(&[b'x'; 65_536])?;
                }
            })
        }),
        ("an unknown tag", |visit| {
            asked(visit, |visit| visit.say(b'!', b""))
        }),
        ("an unknown status", |visit| {
            asked(visit, |visit| visit.say(b'Z', b"?"))
        }),
        ("a row of more columns than it holds", |visit| {
            asked(visit, |visit| visit.say(b'D', b"\xff\xff\0\0\0\0"))
        }),
        ("a column longer than its row", |visit| {
            asked(visit, |visit| visit.say(b'D', b"\0\x01\x7f\xff\xff\xff"))
        }),
        ("a negative column", |visit| {
            asked(visit, |visit| visit.say(b'D', b"\0\x01\xff\xff\xff\0"))
        }),
        ("a message behind the end", |visit| {
            asked(visit, |visit| visit.write(b"Z\0\0\0\x05I1\0\0\0\x04"))
        }),
        ("silence", |visit| {
            asked(visit, |visit| visit.hear_until(b'X'))
        }),
    ];
    for (case, script) in cases {
        let scene = Scene::asking(*script);
        let fault = scene.refusal(case);
        assert_eq!(fault.code, "08006", "{case}: {fault:?}");
        scene.other_tenants_go_on();
    }
}

#[test]
fn a_backend_that_leaves_instead_of_telling_a_verifier_is_no_logins_problem() {
    let scene = Scene::asking(|visit| {
        asked(visit, |visit| match visit.number {
            0 => Ok(()),
            _ => visit.say(b'Z', b"I"),
        })
    });
    let fault = scene.refusal("the other one knows no such role");
    assert_eq!(fault.code, "28P01", "{fault:?}");
}

#[test]
fn a_verifier_of_endless_work_is_no_password() {
    let scene = Scene::asking(|visit| {
        visit.let_in(SECRET)?;
        loop {
            match visit.hear()? {
                b'Q' => visit.write(b"C\0\0\0\x08SET\0Z\0\0\0\x05I")?,
                b'S' => {
                    let key = "A".repeat(43) + "=";
                    let verifier = format!("SCRAM-SHA-256$2147483647:c2FsdA==${key}:{key}");
                    let mut row = b"\0\x02\xff\xff\xff\xff".to_vec();
                    row.extend_from_slice(&(verifier.len() as u32).to_be_bytes());
                    row.extend_from_slice(verifier.as_bytes());
                    visit.say(b'D', &row)?;
                    visit.say(b'Z', b"I")?;
                }
                b'X' => return Ok(()),
                _ => {}
            }
        }
    });
    let mut client = scene.login.connect();
    client.send(crate::support::login::startup(
        scene.login.version,
        &scene.login.parameters,
    ));
    let fault = scene.login.authenticate(&mut client).unwrap_err();
    assert_eq!(fault.code, "28P01", "{fault:?}");
    assert!(scene.fixture.sluice.log().contains("too much work"));
}

#[test]
fn a_servers_long_cancel_key_is_used_whole() {
    const LONG: [u8; 256] = [7; 256];
    let (tell, told) = std::sync::mpsc::channel();
    let scene = Scene::new(move |visit| {
        let (code, body) = visit.first_packet()?;
        if code == 80_877_102 {
            tell.send(body).unwrap();
            return Ok(());
        }
        visit.welcome(&LONG)?;
        visit.hear_until(b'Q')?;
        visit.hear_until(b'X')
    });
    let mut client = scene.login.open().unwrap();
    client.start("select 1");
    until("the query runs", || {
        let sessions = scene
            .fixture
            .sluice
            .admin
            .sessions(&format!("{}-fake", scene.fixture.tenant));
        sessions.iter().any(|session| session["state"] == "active")
    });
    let (pid, secret) = client.cancel_key.clone().unwrap();
    assert_eq!(secret.len(), 4, "protocol 3.0 has short keys");
    crate::cancel::cancel(scene.fixture.sluice.port, &(pid, secret));
    let body = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(body[..4], 77_u32.to_be_bytes());
    assert_eq!(body[4..], LONG);
}
