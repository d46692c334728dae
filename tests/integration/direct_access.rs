//! People who reach a database without transaction pooling: through the direct listener, or without Sluice in between
//! (`sluice verify` in PAM, `sluice guard` beside it); and tokens that are passed through to a server's PAM.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    Fixture, Person,
    pam::{PamFixture, verify},
    postgres::{OTHER_TOKEN_ROLE, PASSWORD, PASSWORD_ROLE, TOKEN_ROLE},
    programs::{psql_command, psql_value, succeeded},
    sluice::Settings,
    until,
};

/// What PostgreSQL says to somebody whom PAM refuses.
const PAM_FAILED: &str = "28000";

/// A direct session ends within this time of what ends it.
const BOUND: Duration = Duration::from_secs(3);

fn direct() -> PamFixture {
    PamFixture::start(Settings::default(), json!({}))
}

fn passthrough() -> PamFixture {
    let settings = Settings::default().set("token_access.pooler_networks", vec!["127.0.0.0/8"]);
    PamFixture::start(settings, json!({"login": "passthrough"}))
}

#[test]
fn psql_gets_in_with_a_token_where_pam_asks_sluice() {
    let pam = direct();
    let person = pam.fixture.granted("first");
    let who = psql_value(&pam.direct(&person), "select current_user");
    assert_eq!(who, TOKEN_ROLE);
    let log = pam.verify_log();
    let allowed = format!(
        "allowed person={} role={TOKEN_ROLE} from=127.0.0.1 until=",
        person.id
    );
    assert!(log.contains(&allowed), "{log}");
    assert!(!log.contains(&person.token));
    assert!(!pam.fixture.cluster.log().contains(&person.token));
}

#[test]
fn pam_refuses_whatever_no_rule_allows() {
    let pam = direct();
    let person = pam.fixture.granted("first");
    let refused = |role: &str, secret: &str, why: &str| {
        let fault = pam.direct_as(role, secret).open().err().unwrap();
        assert_eq!(fault.code, PAM_FAILED, "{why}");
        let log = pam.verify_log();
        let last = log
            .lines()
            .rev()
            .find(|line| line.contains("sluice verify:"));
        assert!(last.unwrap().contains(why), "{why}: {log}");
    };
    refused(OTHER_TOKEN_ROLE, &person.token, "406");
    refused(TOKEN_ROLE, "hunter2", "no token");
    let mut wrong = person.token.clone();
    wrong.replace_range(20..21, if &wrong[20..21] == "a" { "b" } else { "a" });
    refused(TOKEN_ROLE, &wrong, "no token");
    assert!(!pam.verify_log().contains("hunter2"));
    pam.fixture.remove_rule(&person, TOKEN_ROLE);
    refused(TOKEN_ROLE, &person.token, "406");
    let elsewhere = json!({"expires": "1h", "networks": ["192.0.2.0/24"]});
    pam.fixture.grant(&person, TOKEN_ROLE, elsewhere);
    refused(TOKEN_ROLE, &person.token, "403");
}

#[test]
fn pam_refuses_when_sluice_cannot_be_asked_and_soon() {
    let pam = direct();
    let person = pam.fixture.granted("first");
    pam.fixture.sluice.stop();
    let start = Instant::now();
    let fault = pam.direct(&person).open().err().unwrap();
    assert_eq!(fault.code, PAM_FAILED);
    assert!(start.elapsed() < Duration::from_secs(10));
    let log = pam.verify_log();
    assert!(log.contains("cannot reach Sluice"), "{log}");
}

#[test]
fn verify_refuses_whatever_is_not_a_login_and_a_silent_sluice() {
    // Somebody who takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let token = "slp_0123456789AB0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg0vG4YB";
    let run = |purpose: &str, secret: &str| {
        let mut child = verify(&["--tenant", "demo", "--url", &url, "--timeout", "1s"])
            .env("PAM_TYPE", purpose)
            .env("PAM_USER", "app")
            .env("PAM_RHOST", "192.0.2.7")
            .spawn()
            .unwrap();
        // What is refused at once may not read it.
        let _ = child.stdin.take().unwrap().write_all(secret.as_bytes());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run("account", token).contains("not for authentication"));
    assert!(run("auth", "hunter2").contains("no token"));
    let generated = Fixture::start();
    let person = generated.granted("first");
    let start = Instant::now();
    let said = run("auth", &person.token);
    assert!(said.contains("no answer in time"), "{said}");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(!said.contains(&person.token));
}

#[test]
fn the_guard_ends_the_sessions_that_a_revocation_concerns_and_no_others() {
    let pam = direct();
    let (first, second) = (pam.fixture.granted("first"), pam.fixture.granted("second"));
    let _guard = pam.guard("30s");
    let mut gone = pam.direct(&first).open().unwrap();
    let mut stays = pam.direct(&second).open().unwrap();
    gone.query("begin").unwrap();

    let start = Instant::now();
    pam.fixture.remove_rule(&first, TOKEN_ROLE);
    let pid_gone = || gone_from(&pam, &first);
    until("the session of the first is gone", pid_gone);
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    assert_eq!(gone.query("select 1").unwrap_err().code, "57P01");
    assert_eq!(stays.value("select 1"), "1");
    let log = pam.guard_log();
    let ended = format!("person={} role={TOKEN_ROLE} from=127.0.0.1", first.id);
    assert!(log.contains(&ended) && log.contains("no_rule"), "{log}");
}

/// Whether no record of a session of the person is left.
fn gone_from(pam: &PamFixture, person: &Person) -> bool {
    let records = std::fs::read_dir(pam.sessions()).unwrap();
    !records
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()))
        .any(|text| text.is_ok_and(|text| text.contains(&person.id)))
}

#[test]
fn each_way_to_lose_access_ends_a_direct_session() {
    let pam = direct();
    let _guard = pam.guard("30s");
    let fixture = &pam.fixture;
    let admin = &fixture.sluice.admin;
    type Way<'a> = (&'a str, &'a dyn Fn(&Person));
    let ways: [Way<'_>; 4] = [
        ("token", &|person| {
            admin.delete(&format!("/v1/tokens/{}", person.token_id));
        }),
        ("member", &|person| {
            admin.delete(&format!(
                "/v1/tenants/{}/members/{}",
                fixture.tenant, person.id
            ));
        }),
        ("person", &|person| {
            admin.delete(&format!("/v1/people/{}", person.id));
        }),
        ("switch", &|_| {
            let path = format!("/v1/tenants/{}/access", fixture.tenant);
            admin.put(&path, json!({"state": "disabled"}));
        }),
    ];
    for (name, lose) in ways {
        let person = fixture.granted(name);
        let mut session = pam.direct(&person).open().unwrap();
        let start = Instant::now();
        lose(&person);
        until(name, || gone_from(&pam, &person));
        assert!(start.elapsed() < BOUND, "{name}: {:?}", start.elapsed());
        assert_eq!(
            session.query("select 1").unwrap_err().code,
            "57P01",
            "{name}"
        );
    }
}

#[test]
fn a_direct_session_ends_when_its_rule_expires() {
    let pam = direct();
    let _guard = pam.guard("30s");
    let person = pam.fixture.person("first");
    pam.fixture
        .grant(&person, TOKEN_ROLE, json!({"expires": "3s"}));
    let granted = Instant::now();
    let mut session = pam.direct(&person).open().unwrap();
    session.query("begin").unwrap();
    until("the session is gone", || gone_from(&pam, &person));
    let lasted = granted.elapsed();
    assert!(
        lasted > Duration::from_secs(2) && lasted < Duration::from_secs(3) + BOUND,
        "{lasted:?}"
    );
    assert_eq!(session.query("select 1").unwrap_err().code, "57P01");
}

#[test]
fn a_guard_that_was_away_catches_up() {
    let pam = direct();
    let person = pam.fixture.granted("first");
    // Nobody looks after it yet.
    let mut session = pam.direct(&person).open().unwrap();
    let guard = pam.guard("30s");
    drop(guard);
    pam.fixture.remove_rule(&person, TOKEN_ROLE);
    assert_eq!(session.value("select 1"), "1");
    let _guard = pam.guard("30s");
    until("the session is gone", || gone_from(&pam, &person));
    assert_eq!(session.query("select 1").unwrap_err().code, "57P01");
}

#[test]
fn a_guard_that_cannot_ask_ends_all_sessions_when_its_patience_is_over() {
    let pam = direct();
    let _guard = pam.guard("2s");
    let person = pam.fixture.granted("first");
    let mut session = pam.direct(&person).open().unwrap();
    pam.fixture.sluice.stop();
    until("the session is gone", || gone_from(&pam, &person));
    assert_eq!(session.query("select 1").unwrap_err().code, "57P01");
    assert!(pam.guard_log().contains("authority_lost"));
}

#[test]
fn only_the_tenants_own_guard_is_answered() {
    let pam = direct();
    let admin = &pam.fixture.sluice.admin;
    let path = format!("/v1/tenants/{}/guard", pam.fixture.tenant);
    let question = json!({"wait_seconds": 0, "sessions": []});
    let made = admin.post(&format!("{path}-key"), json!({}));
    let key = made["guard_key"].as_str().unwrap();
    let ask = |key: Option<&str>, path: &str| {
        let caller = admin.with_key(key);
        caller
            .call(reqwest::Method::POST, path, Some(question.clone()))
            .status
    };
    assert_eq!(ask(Some(key), &path), 200);
    for wrong in [None, Some("slg_x")] {
        assert_eq!(ask(wrong, &path), 401);
    }
    // Another tenant's guard learns nothing of this one, nor the other way round.
    pam.fixture.add_tenant("another", json!({}));
    assert_eq!(ask(Some(key), "/v1/tenants/another/guard"), 401);
    let renewed = admin.post(&format!("{path}-key"), json!({}));
    assert_eq!(ask(Some(key), &path), 401);
    assert_eq!(ask(renewed["guard_key"].as_str(), &path), 200);
}

#[test]
fn a_token_is_passed_through_to_a_server_whose_pam_checks_it() {
    let pam = passthrough();
    let person = pam.fixture.granted("first");
    let mut client = pam.fixture.token_client(&person).unwrap();
    assert_eq!(client.value("select current_user"), TOKEN_ROLE);
    let log = pam.verify_log();
    assert!(
        log.contains(&format!("allowed person={}", person.id)),
        "{log}"
    );
    assert!(!pam.fixture.cluster.log().contains(&person.token));

    // Another person has backends of their own.
    let other = pam.fixture.granted("second");
    let pid = "select pg_backend_pid()";
    let mut second = pam.fixture.token_client(&other).unwrap();
    assert_ne!(second.value(pid), client.value(pid));
    // And a revocation ends the session as everywhere.
    let report = pam.fixture.remove_rule(&person, TOKEN_ROLE);
    assert_eq!(report["revocation"]["sessions_ended"], 1);
    assert_eq!(client.query("select 1").unwrap_err().code, "57P01");
    assert_eq!(second.value("select 1"), "1");
}

#[test]
fn a_token_that_has_ended_fails_nobody_elses_login_and_no_other_token_of_its_person() {
    let pam = passthrough();
    let fixture = &pam.fixture;
    let person = fixture.granted("first");
    let (token_id, token) = fixture.token(&person.id, "1d");
    let renewed = Person {
        token,
        token_id,
        ..person.clone()
    };
    let other = fixture.granted("second");
    let mut with_new = fixture.token_client(&renewed).unwrap();
    let mut with_old = fixture.token_client(&person).unwrap();
    fixture
        .sluice
        .admin
        .delete(&format!("/v1/tokens/{}", person.token_id));
    assert_eq!(with_old.query("select 1").unwrap_err().code, "57P01");
    assert_eq!(fixture.token_client(&person).err().unwrap().code, "28P01");
    // Its pool was emptied with the other's, so this opens a new backend: with its own token.
    assert_eq!(with_new.value("select 1"), "1");
    assert!(fixture.token_client(&renewed).is_ok());
    assert!(fixture.token_client(&other).is_ok());
}

#[test]
fn behind_the_pooler_a_rules_networks_are_judged_by_the_clients_address() {
    let settings = Settings::default()
        .set("token_access.pooler_networks", vec!["127.0.0.0/8"])
        .set("listen.proxy_protocol_from", vec!["127.0.0.1"]);
    let pam = PamFixture::start(settings, json!({"login": "passthrough", "auth_user": null}));
    let person = pam.fixture.person("first");
    let terms = json!({"expires": "1h", "networks": ["203.0.113.0/24"]});
    pam.fixture.grant(&person, TOKEN_ROLE, terms);
    let mut login = pam.fixture.token_login(&person);
    login.proxy_header = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 6543\r\n".to_vec();
    let mut client = login.open().unwrap();
    assert_eq!(client.value("select current_user"), TOKEN_ROLE);
    drop(client);
    // Without a session of the pooler's the pooler's address is nobody's.
    until("no session is left", || {
        pam.fixture
            .sluice
            .admin
            .sessions(&pam.fixture.tenant)
            .is_empty()
    });
    assert_eq!(pam.direct(&person).open().err().unwrap().code, PAM_FAILED);
}

#[test]
fn a_token_is_told_to_no_server_that_asks_for_scram_or_has_not_proven_itself() {
    let pam = passthrough();
    let fixture = &pam.fixture;
    let person = fixture.person("first");
    // Not a member of the gate group: this role meets the line for passwords.
    fixture.grant(&person, PASSWORD_ROLE, json!({"expires": "1h"}));
    let fault = fixture
        .token_login_as(&person, PASSWORD_ROLE)
        .open()
        .err()
        .unwrap();
    assert_eq!(fault.code, "08006");
    let path = format!("/v1/tenants/{}", fixture.tenant);
    for tls in ["require", "disable"] {
        let body = Some(json!({"backend_tls": tls}));
        let admin = &fixture.sluice.admin;
        let refused = admin.call(reqwest::Method::PATCH, &path, body);
        assert_eq!(refused.status, 422, "{}", refused.text);
    }
}

#[test]
fn the_doctor_knows_what_a_tenant_with_passthrough_needs() {
    let pam = passthrough();
    let fixture = &pam.fixture;
    fixture.granted("first");
    fixture
        .cluster
        .superuser(&fixture.database)
        .query(
            "grant select on pg_hba_file_rules, pg_ident_file_mappings to sluice_auth;
             grant execute on function pg_hba_file_rules(), pg_ident_file_mappings() to sluice_auth",
        )
        .unwrap();
    let report = fixture
        .sluice
        .admin
        .post(&format!("/v1/tenants/{}/doctor", fixture.tenant), json!({}));
    let findings = report["findings"].as_array().unwrap();
    let ours = findings
        .iter()
        .find(|finding| finding["topic"] == "host-rules");
    assert_eq!(ours.unwrap()["verdict"], "ok", "{findings:#?}");
}

#[test]
fn through_the_direct_listener_psql_needs_the_role_and_the_server_name_only() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut login = fixture.token_login(&person).user(TOKEN_ROLE);
    login.port = fixture.sluice.direct_port;
    login.parameters.retain(|(name, _)| name != "options");
    let name = format!("db.{}.localhost", fixture.tenant);
    let mut command = psql_command(&login);
    // Session state stays, as on a connection without a pooler.
    let output = command
        .env("PGHOST", &name)
        .env("PGHOSTADDR", "127.0.0.1")
        .args(["--command", "create temporary table t (n int)"])
        .args(["--command", "insert into t values (7)"])
        .args(["--command", "select n, current_user from t"])
        .output()
        .unwrap();
    assert_eq!(succeeded(&output).trim(), format!("7|{TOKEN_ROLE}"));

    let direct =
        |role: &str, secret: &str| login.clone().user(role).password(secret).server_name(&name);
    // Revocation ends it.
    let mut client = direct(TOKEN_ROLE, &person.token).open().unwrap();
    fixture.remove_rule(&person, TOKEN_ROLE);
    assert_eq!(client.query("select 1").unwrap_err().code, "57P01");
    // A role with a password keeps SCRAM: the secret is never asked for in clear.
    let mut application = direct(PASSWORD_ROLE, PASSWORD).open().unwrap();
    assert_eq!(application.value("select current_user"), PASSWORD_ROLE);
    let refused = direct(PASSWORD_ROLE, &person.token).open().err().unwrap();
    assert_eq!(refused.code, "28P01");
}
