//! Who guesses at passwords and tokens: it costs the guesser, and nobody else, and tells nothing.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::Instant,
};

use postgres_protocol::message::frontend;
use serde_json::{Value, json};

use crate::support::{
    Client, Fixture, Login, Reply,
    login::{server_first, startup},
    ports::free_port,
    postgres::{PASSWORD, PASSWORD_ROLE, SECRET_ROLE, TOKEN_ROLE, current},
    sluice::Settings,
    until,
};

/// How many failures an address may have in a minute in these tests: one is paid off in fifteen seconds.
const LIMIT: usize = 4;

fn fixture() -> Fixture {
    Fixture::with(limited(LIMIT))
}

fn limited(limit: usize) -> Settings {
    let limit = i64::try_from(limit).unwrap();
    Settings::default().set("limits.failed_logins_per_address", limit)
}

/// The same login from another address.
fn from(login: &Login, last: u8) -> Login {
    let mut login = login.clone();
    login.socket.source = Some(Ipv4Addr::new(127, 0, 0, last));
    login
}

fn code(login: &Login) -> String {
    login.open().err().unwrap_or_default().code
}

/// Fails until the address is refused that may fail `limit` times.
fn flood(login: &Login, limit: usize) {
    for _ in 0..limit {
        assert_eq!(code(login), "28P01");
    }
    until("the address is refused", || code(login) == "53300");
}

#[test]
fn an_address_that_guesses_is_refused_and_nobody_else_is() {
    let fixture = fixture();
    let right = fixture.password_login();
    let wrong = right.clone().password("wrong");
    flood(&from(&wrong, 2), LIMIT);
    // The right password gets in from anywhere else meanwhile, whether somebody has come from there or not.
    for last in [3, 3, 4] {
        assert!(from(&right, last).open().is_ok());
    }
    until("it may try again", || from(&right, 2).open().is_ok());
    let metrics = fixture
        .sluice
        .admin
        .call(reqwest::Method::GET, "/metrics", None);
    let throttled = format!(
        r#"sluice_logins_total{{tenant="{}",method="password",outcome="throttled"}}"#,
        fixture.tenant
    );
    assert!(metrics.text.contains(&throttled), "{}", metrics.text);
}

#[test]
fn the_refusal_is_the_same_in_every_byte_for_all_names() {
    let fixture = Fixture::with(limited(1));
    assert_eq!(
        code(&from(&fixture.password_login().password("wrong"), 2)),
        "28P01"
    );
    let known = format!("{PASSWORD_ROLE}.{}", fixture.tenant);
    let granted = format!("{TOKEN_ROLE}.{}", fixture.tenant);
    let ghost = format!("nobody_here.{}", fixture.tenant);
    let elsewhere = format!("{PASSWORD_ROLE}.no-such-tenant");
    let told = |user: &str, options: &str| {
        let login = fixture.password_login().user(user).options(options);
        let login = from(&login.encrypted().password("wrong"), 2);
        let mut client = login.connect();
        client.send(startup(login.version, &login.parameters));
        if !options.is_empty() {
            // Only of what is typed it can be known whether it is a token.
            assert!(matches!(client.receive(), Reply::CleartextPassword));
            client.send_messages(|out| {
                frontend::password_message(login.password.as_bytes(), out).unwrap();
            });
        }
        String::from_utf8_lossy(&client.receive_all().0).into_owned()
    };
    let logins = [
        (&known, ""),
        (&ghost, ""),
        (&elsewhere, ""),
        (&granted, "-c jit=true"),
        (&ghost, "-c jit=true"),
        (&elsewhere, "-c jit=true"),
    ];
    let told: Vec<String> = thread::scope(|threads| {
        let told = &told;
        let asked = logins.map(|(user, options)| threads.spawn(move || told(user, options)));
        asked.map(|asked| asked.join().unwrap()).into()
    });
    let first = told[0].clone();
    for (login, told) in logins.iter().zip(&told) {
        assert!(
            told.contains("C53300\0Mtoo many failed logins from this address\0"),
            "{login:?}: {told}"
        );
        assert_eq!(*told, first, "{login:?}");
    }
}

#[test]
fn who_has_logged_in_from_an_address_is_not_starved_by_who_guesses_there() {
    let fixture = fixture();
    let password = from(&fixture.password_login(), 2);
    assert!(password.open().is_ok());
    let other = format!("other.{}", fixture.tenant);
    flood(&password.clone().user(&other), LIMIT);
    assert!(password.open().is_ok());
    // Nor by who guesses at the very role: there is room for both.
    for _ in 0..2 * LIMIT {
        assert_eq!(code(&password.clone().password("wrong")), "28P01");
    }
    assert!(password.open().is_ok());
}

#[test]
fn a_right_token_gets_in_from_wherever_others_guess() {
    let fixture = Fixture::with(limited(1));
    let person = fixture.granted("first");
    let right = from(&fixture.token_login(&person), 2);
    flood(&right.clone().password("slp_wrong"), 1);
    // Where the right password, of somebody who has not been there before, has to wait.
    assert_eq!(code(&from(&fixture.password_login(), 2)), "53300");
    assert!(right.open().is_ok());
}

#[test]
fn a_new_password_gets_its_turn_where_somebody_guesses() {
    // Two turns in a second, for two guessers and whoever else comes.
    let limit = 120;
    let fixture = Fixture::with(limited(limit));
    let right = from(&fixture.password_login(), 2);
    let wrong = right.clone().password("wrong");
    let (guesses, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let guess = || {
        while !is_over.load(Relaxed) {
            let fault = wrong.guess(&mut wrong.connect());
            guesses.fetch_add(usize::from(fault.code == "28P01"), Relaxed);
        }
    };
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(guess);
        }
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("nothing is left", || guesses.load(Relaxed) >= limit);
            until("its turn comes", || right.open().is_ok());
        }));
        is_over.store(true, Relaxed);
        tried.unwrap();
    });
}

#[test]
fn guesses_from_everywhere_lock_nobody_out_of_the_tenant() {
    let settings = Settings::default()
        .set("limits.failed_logins_per_address", 20)
        .set("limits.failed_logins_per_tenant", 5);
    let fixture = Fixture::with(settings);
    let right = fixture.password_login();
    let wrong = right.clone().password("wrong");
    for last in 10..40 {
        assert_eq!(code(&from(&wrong, last)), "28P01");
    }
    assert!(from(&right, 2).open().is_ok());
    // Now a failure counts for ten.
    let refused = (0..5).any(|_| code(&from(&wrong, 3)) == "53300");
    assert!(refused, "a besieged tenant's guessers are not slowed down");
    assert!(from(&right, 4).open().is_ok());
}

#[test]
fn what_is_no_guess_is_not_counted() {
    let networks = vec!["127.0.0.0/8"];
    let fixture = Fixture::with(limited(LIMIT).set("authorities.networks", networks));
    let person = fixture.person("first");
    let away = format!("{}-away", fixture.tenant);
    fixture.add_tenant(&away, json!({ "port": free_port() }));
    let silent = format!("{}-silent", fixture.tenant);
    let nobody = json!({ "kind": "http", "url": format!("https://localhost:{}/", free_port()) });
    fixture.add_tenant(&silent, json!({ "authority": nobody }));
    let no_rule = from(&fixture.token_login(&person), 2);
    let outage = from(&fixture.password_login(), 2).user(&format!("{PASSWORD_ROLE}.{away}"));
    let unanswered = no_rule.clone().user(&format!("{TOKEN_ROLE}.{silent}"));
    let gone = fixture.granted("second");
    fixture
        .sluice
        .admin
        .delete(&format!("/v1/tokens/{}", gone.token_id));
    let revoked = from(&fixture.token_login(&gone), 2);
    for _ in 0..=LIMIT {
        assert_eq!(code(&no_rule), "28000");
        assert_eq!(code(&outage), "08006");
        assert_eq!(code(&unanswered), "57P03");
        assert_eq!(code(&revoked), "28P01");
    }
    assert!(from(&fixture.password_login(), 2).open().is_ok());
}

#[test]
fn behind_a_balancer_the_clients_own_address_counts() {
    let trusted = toml::Value::Array(vec!["127.0.0.1/32".into()]);
    let fixture = Fixture::with(limited(1).set("listen.proxy_protocol_from", trusted));
    let proxied = |client: &str, password: &str| {
        let mut login = fixture.password_login().password(password);
        let family = if client.contains(':') { "TCP6" } else { "TCP4" };
        let server = if client.contains(':') {
            "2001:db8::9"
        } else {
            "192.0.2.9"
        };
        login.proxy_header = format!("PROXY {family} {client} {server} 4711 6543\r\n").into_bytes();
        login
    };
    flood(&proxied("203.0.113.1", "wrong"), 1);
    assert!(proxied("203.0.113.2", PASSWORD).open().is_ok());
    // Of IPv6, whoever has one address has the network.
    flood(&proxied("2001:db8:1::1", "wrong"), 1);
    assert_eq!(code(&proxied("2001:db8:1::ffff", PASSWORD)), "53300");
    assert!(proxied("2001:db8:2::1", PASSWORD).open().is_ok());
}

#[test]
fn the_salt_of_a_role_is_as_lasting_as_that_of_a_made_up_one_however_it_is_named() {
    let fixture = Fixture::start();
    fixture.set_password(&fixture.tenant, SECRET_ROLE, PASSWORD);
    let salt = |user: &str, options: &str| {
        let login = fixture.password_login().user(user).options(options);
        let mut client = login.connect();
        client.send(startup(login.version, &login.parameters));
        client.receive();
        let first = server_first(&mut client);
        first.split(",s=").nth(1).unwrap().to_owned()
    };
    let tenant = &fixture.tenant;
    for role in [SECRET_ROLE, PASSWORD_ROLE, "ghost"] {
        let named = format!("{role}.{tenant}");
        let first = salt(&named, "");
        // A failed login has what is remembered of the role forgotten.
        let wrong = fixture.role_login(role).password("wrong");
        assert_eq!(code(&wrong), "28P01");
        assert_eq!(salt(&named, ""), first, "{role}");
        assert_eq!(salt(role, &format!("reference={tenant}")), first, "{role}");
    }
}

/// Seconds from the first word to the last of a login that fails.
fn failing_takes(login: &Login) -> f64 {
    let mut client = login.connect();
    let began = Instant::now();
    let fault = login.guess(&mut client);
    let took = began.elapsed().as_secs_f64();
    assert_eq!(fault.code, "28P01", "{fault:?}");
    took
}

/// What is usual among samples, whatever else the machine did now and then: their faster four fifths.
struct Usual {
    median: f64,
    mean: f64,
    variance: f64,
    count: f64,
}

impl Usual {
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let median = samples[samples.len() / 2];
        samples.truncate(samples.len() * 4 / 5);
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / count;
        let squares = samples.iter().map(|sample| (sample - mean).powi(2));
        Self {
            median,
            mean,
            variance: squares.sum::<f64>() / (count - 1.0),
            count,
        }
    }

    /// Welch's t.
    fn t(&self, other: &Self) -> f64 {
        let error = self.variance / self.count + other.variance / other.count;
        (self.mean - other.mean).abs() / error.sqrt()
    }

    /// Both what a statistician and what an engineer calls different: a look-up of a server on the same machine, or deriving
    /// keys once, takes more than this.
    fn differs_from(&self, other: &Self) -> bool {
        self.t(other) > 5.0 && (self.median - other.median).abs() > 0.000_3
    }
}

/// Fails if one of these logins can be told from the first by how long it takes: in each of three batches, so that nothing
/// that happens on the machine is taken for a difference.
#[track_caller]
fn assert_alike(logins: &[(&str, Login)]) {
    const ROUNDS: usize = 120;
    let mut suspects: Vec<usize> = (1..logins.len()).collect();
    for _ in 0..3 {
        let mut samples = vec![Vec::new(); logins.len()];
        for round in 0..ROUNDS {
            // In changing order, so that none always follows the same.
            for step in 0..logins.len() {
                let index = (round + step) % logins.len();
                samples[index].push(failing_takes(&logins[index].1));
            }
        }
        let usual: Vec<Usual> = samples.into_iter().map(Usual::of).collect();
        for ((name, _), usual) in logins.iter().zip(&usual) {
            println!(
                "{name}: median {:.6} s, mean {:.6} s",
                usual.median, usual.mean
            );
        }
        suspects.retain(|&index| usual[index].differs_from(&usual[0]));
        if suspects.is_empty() {
            return;
        }
    }
    let names: Vec<&str> = suspects.iter().map(|&index| logins[index].0).collect();
    panic!(
        "{names:?} can be told from {} by the time they take",
        logins[0].0
    );
}

fn unlimited(fields: Value) -> Fixture {
    let many = 1_000_000;
    let settings = Settings::default()
        .set("limits.failed_logins_per_address", many)
        .set("limits.failed_logins_per_tenant", many);
    Fixture::on(current(), settings, fields)
}

/// Asks for verifiers, at a server that is some way off. It takes its time for every role, whether there is one or not.
const DISTANT_QUERY: &str = "SELECT rolname, rolpassword FROM (SELECT pg_sleep(0.012)) AS way \
    LEFT JOIN pg_authid ON rolname = $1 AND rolcanlogin";

#[test]
fn a_wrong_password_takes_as_long_whatever_of_its_name_exists() {
    let fixture = unlimited(json!({ "auth_query": DISTANT_QUERY }));
    fixture.set_password(&fixture.tenant, SECRET_ROLE, PASSWORD);
    // Somebody else's login has the verifier remembered.
    let busy = from(&fixture.password_login(), 9);
    let login = |user: String| from(&fixture.password_login().user(&user).password("wrong"), 2);
    let tenant = &fixture.tenant;
    let logins = [
        ("a known role", login(format!("{PASSWORD_ROLE}.{tenant}"))),
        ("an unknown role", login(format!("nobody_here.{tenant}"))),
        (
            "an unknown tenant",
            login(format!("{PASSWORD_ROLE}.no-such-tenant")),
        ),
        (
            "a role in the catalogue",
            login(format!("{SECRET_ROLE}.{tenant}")),
        ),
    ];
    assert!(busy.open().is_ok());
    assert_alike(&logins);
}

#[test]
fn a_wrong_token_takes_as_long_whatever_of_it_exists() {
    let fixture = unlimited(json!({}));
    let person = fixture.granted("first");
    let gone = fixture.granted("second");
    fixture
        .sluice
        .admin
        .delete(&format!("/v1/tokens/{}", gone.token_id));
    let elsewhere = Fixture::start().granted("third");
    let mut swapped = fixture.token_login(&person);
    // The right length and letters, and the checksum of neither: so the catalogue is not asked.
    swapped.password = format!("{}{}", &person.token[..16], &gone.token[16..]);
    let unknown = fixture.token_login(&elsewhere);
    let elsewhere = unknown
        .clone()
        .user(&format!("{TOKEN_ROLE}.no-such-tenant"));
    let logins = [
        ("a token of nobody", from(&unknown, 2)),
        ("a revoked token", from(&fixture.token_login(&gone), 2)),
        ("a mistyped token", from(&swapped, 2)),
        ("a token for an unknown tenant", from(&elsewhere, 2)),
    ];
    assert_alike(&logins);
}

#[test]
fn a_misplaced_token_ends_the_login_and_goes_nowhere() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let login = fixture.token_login(&person);
    let token = &person.token;
    let tenant = &fixture.tenant;
    for misplaced in [
        login.clone().user(token),
        login.clone().user(&format!("{}.{tenant}", &token[..60])),
        login.clone().user(&format!("{TOKEN_ROLE}.{token}")),
        login.clone().database(token),
        login.clone().options(&format!("-c jit=true -c {token}=1")),
        login
            .clone()
            .options(&format!("-c jit=true -c search_path={token}")),
        login.clone().options(&format!("reference={token}")),
        login.parameter("application_name", token),
    ] {
        let fault = misplaced.open().err().expect("a refusal");
        assert_eq!(fault.code, "28P01", "{fault:?}");
        assert!(!format!("{fault:?}").contains(&token[..44]), "{fault:?}");
    }
    assert!(!fixture.cluster.log().contains(&token[..44]));
    let trail = fixture.sluice.cli(&["audit", "list"]);
    assert!(trail.contains("misplaced_token"), "{trail}");
    // What Sluice writes and answers is searched when the fixture goes: for this much of it as well.
    fixture.sluice.keep_secret(&token[..44]);
}

#[test]
fn who_leaves_without_a_proof_has_not_guessed() {
    let fixture = fixture();
    let login = from(&fixture.password_login(), 2);
    for _ in 0..=LIMIT {
        let mut client: Client = login.connect();
        client.send(startup(login.version, &login.parameters));
        assert!(matches!(client.receive(), Reply::Sasl(_)));
    }
    assert!(login.open().is_ok());
}
