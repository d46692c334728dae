//! Revocation reaches exactly what it must: other causes than those of the matrix, and what stays open.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    Client, Fixture, admin::Revocation, login::Login, postgres::TOKEN_ROLE, until,
};

/// A statement that no cancel ends: it catches it and goes on.
const STUBBORN: &str = "do $$ begin loop begin perform pg_sleep(600); \
    exception when query_canceled then null; end; end loop; end $$";

#[test]
fn a_rule_that_was_short_from_the_start_ends_its_session_on_time() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    fixture.grant(&person, TOKEN_ROLE, json!({ "expires": "3s" }));
    let granted = Instant::now();
    let mut client = fixture.token_client(&person).unwrap();
    client.query("begin").unwrap();
    let fault = client.farewell();
    assert_eq!(fault.message, "terminating connection due to access expiry");
    assert!(
        granted.elapsed() > Duration::from_millis(2500),
        "ended before its time"
    );
    assert!(
        granted.elapsed() < Duration::from_secs(6),
        "{:?}",
        granted.elapsed()
    );
}

#[test]
fn a_token_that_expires_ends_its_sessions() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let (_, short) = fixture.token(&person.id, "3s");
    let mut client = fixture
        .token_login(&person)
        .password(&short)
        .open()
        .unwrap();
    let fault = client.farewell();
    assert_eq!(fault.message, "terminating connection due to access expiry");
}

#[test]
fn a_rule_that_is_prolonged_keeps_its_session() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    fixture.grant(&person, TOKEN_ROLE, json!({ "expires": "3s" }));
    let mut client = fixture.token_client(&person).unwrap();
    let answer = fixture.grant(&person, TOKEN_ROLE, json!({ "expires": "1h" }));
    assert_eq!(Revocation::of(&answer).sessions_ended, 0);
    // Beyond the old expiry.
    client.query("select pg_sleep(4)").unwrap();
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn revoking_one_token_leaves_the_sessions_of_the_persons_other_token() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let (second_id, second) = fixture.token(&person.id, "1d");
    let mut kept = fixture.token_client(&person).unwrap();
    let mut ended = fixture
        .token_login(&person)
        .password(&second)
        .open()
        .unwrap();
    let answer = fixture
        .sluice
        .admin
        .delete(&format!("/v1/tokens/{second_id}"));
    assert_eq!(Revocation::of(&answer).sessions_ended, 1);
    assert_eq!(ended.farewell().code, "57P01");
    assert_eq!(kept.value("select 1"), "1");
}

#[test]
fn leaving_the_tenant_ends_the_sessions() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    let path = format!("/v1/tenants/{}/members/{}", fixture.tenant, person.id);
    let answer = fixture.sluice.admin.delete(&path);
    assert_eq!(Revocation::of(&answer).sessions_ended, 1);
    assert_eq!(
        client.farewell().message,
        "terminating connection due to access revocation"
    );
}

#[test]
fn tightening_the_tenants_networks_ends_the_sessions_outside_them() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    let path = format!("/v1/tenants/{}", fixture.tenant);
    let answer = fixture
        .sluice
        .admin
        .patch(&path, json!({ "networks": ["203.0.113.0/24"] }));
    assert_eq!(Revocation::of(&answer).sessions_ended, 1);
    assert_eq!(client.farewell().code, "57P01");
}

#[test]
fn removing_a_tenant_ends_its_token_sessions() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    fixture
        .sluice
        .admin
        .delete(&format!("/v1/tenants/{}", fixture.tenant));
    assert_eq!(client.farewell().code, "57P01");
    assert!(fixture.backends().is_empty());
}

#[test]
fn switching_access_back_on_does_not_bring_sessions_back() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    fixture
        .sluice
        .admin
        .set_token_access(&fixture.tenant, "disabled");
    fixture
        .sluice
        .admin
        .set_token_access(&fixture.tenant, "enabled");
    assert_eq!(client.farewell().code, "57P01");
    assert_eq!(
        fixture.token_client(&person).unwrap().value("select 1"),
        "1"
    );
}

#[test]
fn an_administrator_can_end_one_session() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut ended = fixture.token_client(&person).unwrap();
    ended.start("select pg_sleep(600)");
    fixture.running("pg_sleep");
    let session = fixture.sluice.admin.sessions(&fixture.tenant)[0]["id"].clone();
    let mut kept = fixture.token_client(&person).unwrap();
    fixture
        .sluice
        .admin
        .delete(&format!("/v1/sessions/{}", session.as_str().unwrap()));
    assert_eq!(ended.farewell().code, "57P01");
    assert_eq!(kept.value("select 1"), "1");
}

#[test]
fn what_a_person_narrowed_to_another_network_may_still_do_stays() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    let terms = json!({ "expires": "30m", "networks": ["127.0.0.0/8"] });
    let answer = fixture.grant(&person, TOKEN_ROLE, terms);
    assert_eq!(
        Revocation::of(&answer).sessions_ended,
        0,
        "the rule still allows this session"
    );
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn a_statement_that_catches_its_cancel_is_ended_all_the_same() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    client.start(STUBBORN);
    fixture.running("query_canceled");
    let began = Instant::now();
    let report = Revocation::of(&fixture.remove_rule(&person, TOKEN_ROLE));
    assert_eq!(
        (report.sessions_ended, report.unconfirmed),
        (1, 0),
        "{report:?}"
    );
    let left = fixture.backends();
    assert!(left.is_empty(), "something runs on: {left:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(client.farewell().code, "57P01");
}

#[test]
fn many_busy_sessions_are_ended_through_one_connection() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut clients = busy(&fixture, &fixture.token_login(&person), 8);
    let logins = format!(
        "select sessions from pg_stat_database where datname = '{}'",
        fixture.database
    );
    let count = |sql: &str| fixture.cluster.value(sql).parse::<u32>().unwrap();
    // Sessions are counted when they begin to wait for a query.
    until("all logins are counted", || count(&logins) >= 8);
    let before = count(&logins);
    let report = Revocation::of(&fixture.remove_rule(&person, TOKEN_ROLE));
    assert_eq!(
        (report.sessions_ended, report.unconfirmed),
        (8, 0),
        "{report:?}"
    );
    assert!(fixture.backends().is_empty());
    for client in &mut clients {
        assert_eq!(client.farewell().code, "57P01");
    }
    until("the one that terminated them is counted", || {
        count(&logins) > before
    });
    assert!(count(&logins) <= before + 1, "one connection for all");
}

#[test]
fn busy_sessions_end_when_the_role_may_open_no_further_connection() {
    let fixture = Fixture::start();
    let role = format!("{}_limited", fixture.tenant);
    fixture.cluster.run(&format!(
        "create role {role} login connection limit 6 in role jit_assumable"
    ));
    let person = fixture.person("first");
    fixture.grant(&person, &role, json!({ "expires": "1h" }));
    let mut clients = busy(&fixture, &fixture.token_login_as(&person, &role), 6);
    let report = Revocation::of(&fixture.remove_rule(&person, &role));
    assert_eq!(
        (report.sessions_ended, report.unconfirmed),
        (6, 0),
        "{report:?}"
    );
    assert!(fixture.backends().is_empty());
    for client in &mut clients {
        assert_eq!(client.farewell().code, "57P01");
    }
}

/// So many clients, each with a statement running.
fn busy(fixture: &Fixture, login: &Login, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| login.open().unwrap()).collect();
    for client in &mut clients {
        client.start("select pg_sleep(600)");
    }
    until("all of them run", || {
        let backends = fixture.backends();
        backends.iter().filter(|one| one.state == "active").count() == count
    });
    clients
}

#[test]
fn a_backend_that_cannot_be_ended_is_reported_as_unconfirmed() {
    let fixture = Fixture::start();
    let role = format!("{}_stubborn", fixture.tenant);
    let cluster = fixture.cluster;
    cluster.run(&format!("create role {role} login in role jit_assumable"));
    let person = fixture.person("first");
    fixture.grant(&person, &role, json!({ "expires": "1h" }));
    let mut client = fixture.token_login_as(&person, &role).open().unwrap();
    client.start(STUBBORN);
    fixture.running("query_canceled");
    cluster.run(&format!("alter role {role} nologin"));
    let report = Revocation::of(&fixture.remove_rule(&person, &role));
    assert_eq!(
        (report.sessions_ended, report.unconfirmed),
        (0, 1),
        "{report:?}"
    );
    assert_eq!(client.farewell().code, "57P01");
    cluster.run(&format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'"
    ));
}

#[test]
fn revoking_a_token_closes_the_backends_that_its_sessions_left_behind() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    client.query("select 1").unwrap();
    drop(client);
    until("the session is gone", || {
        fixture.sluice.admin.sessions(&fixture.tenant).is_empty()
    });
    assert_eq!(fixture.backends().len(), 1);
    let path = format!("/v1/tokens/{}", person.token_id);
    let report = Revocation::of(&fixture.sluice.admin.delete(&path));
    assert_eq!(
        (report.sessions_ended, report.backends_closed),
        (0, 1),
        "{report:?}"
    );
    assert!(fixture.backends().is_empty());
}

#[test]
fn access_that_runs_out_closes_the_idle_backends_too() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    fixture.grant(&person, TOKEN_ROLE, json!({ "expires": "3s" }));
    let login = fixture.token_login(&person);
    let mut clients: Vec<Client> = (0..3).map(|_| login.open().unwrap()).collect();
    for client in &mut clients {
        client.query("begin").unwrap();
    }
    assert_eq!(fixture.backends().len(), 3);
    for client in &mut clients {
        client.query("commit").unwrap();
    }
    for client in &mut clients {
        assert_eq!(
            client.farewell().message,
            "terminating connection due to access expiry"
        );
    }
    until("the idle backends are gone", || {
        fixture.backends().is_empty()
    });
}

#[test]
fn revoking_what_nobody_uses_ends_nothing_and_says_so() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let path = format!("/v1/tokens/{}", person.token_id);
    let report = Revocation::of(&fixture.sluice.admin.delete(&path));
    assert_eq!(
        (report.sessions_ended, report.unconfirmed),
        (0, 0),
        "{report:?}"
    );
    let audit = fixture.sluice.admin.get("/v1/audit?limit=1000");
    let rows = audit["rows"].as_array().unwrap();
    assert!(
        rows.iter().all(|row| row["kind"] != "access.revoked"),
        "{rows:?}"
    );
}
