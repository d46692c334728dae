//! How Sluice logs in to a tenant's PostgreSQL, and what happens when that fails.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    Fixture,
    pki::Authority,
    ports::free_port,
    postgres::{PASSWORD, TOKEN_ROLE},
    sluice::Settings,
};

#[test]
fn a_certificate_carries_person_role_grant_and_tenant_into_the_server() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    let system_user = client.value("select system_user");
    let name = system_user
        .strip_prefix("cert:")
        .expect("a certificate login");
    let (tenant, rest) = name
        .strip_prefix("O=")
        .unwrap()
        .split_once(",OU=g-")
        .unwrap();
    let (grant, rest) = rest.split_once(",OU=r-").unwrap();
    let (role, id) = rest.split_once(",UID=").unwrap();
    assert_eq!(
        (tenant, role, id),
        (&*fixture.tenant, TOKEN_ROLE, &*person.id)
    );
    assert!(
        grant.len() == 32 && grant.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{grant}"
    );
    // The server's own log says so as well: who used the role can be told without Sluice.
    let pid = client.value("select pg_backend_pid()");
    let authenticated = format!("[{pid}] LOG:  connection authenticated: identity=");
    let log = fixture.cluster.log();
    let line = log
        .lines()
        .find(|line| line.contains(&authenticated))
        .expect("a line in the log");
    assert!(line.contains(&person.id), "{line}");
}

#[test]
fn the_connection_to_the_server_is_encrypted() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    assert_eq!(
        client.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()"),
        "t"
    );
}

#[test]
fn encryption_can_be_left_off_or_left_unverified() {
    let stranger = Authority::new("Somebody else").identity.certificate;
    let plain = Fixture::with_tenant(json!({ "backend_tls": "disable", "login": "role_secret" }));
    let mut client = plain.password_client().unwrap();
    assert_eq!(
        client.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()"),
        "f"
    );

    let unverified =
        Fixture::with_tenant(json!({ "backend_tls": "require", "backend_ca": stranger }));
    let mut client = unverified.password_client().unwrap();
    assert_eq!(
        client.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()"),
        "t"
    );
}

#[test]
fn a_server_certificate_of_another_authority_is_refused() {
    let stranger = Authority::new("Somebody else").identity.certificate;
    for mode in ["verify-ca", "verify-full"] {
        let fixture = Fixture::with_tenant(json!({ "backend_tls": mode, "backend_ca": stranger }));
        fixture.set_password(&fixture.tenant, "app_user", PASSWORD);
        let refused = fixture
            .password_client()
            .and_then(|mut client| client.query("select 1"));
        assert_eq!(refused.expect_err("a refusal").code, "08006", "{mode}");
    }
}

#[test]
fn a_server_certificate_of_another_name_is_refused_only_by_full_verification() {
    // The server listens here as well, but its certificate names localhost and 127.0.0.1 only.
    let fields = |mode: &str| json!({ "backend_tls": mode, "host": "127.0.0.2" });
    let full = Fixture::with_tenant(fields("verify-full"));
    let refused = full
        .password_client()
        .and_then(|mut client| client.query("select 1"));
    assert_eq!(refused.expect_err("a refusal").code, "08006");
    let chain = Fixture::with_tenant(fields("verify-ca"));
    assert_eq!(chain.password_client().unwrap().value("select 1"), "1");
}

#[test]
fn a_server_that_is_not_there_is_an_answer_in_time_and_is_not_asked_at_every_login() {
    let settings = Settings::default().set("pool.connect_backoff", "30s");
    let fixture = Fixture::with(settings);
    let down = format!("{}-down", fixture.tenant);
    fixture.add_tenant(&down, json!({ "port": free_port() }));
    fixture.set_password(&down, "app_user", PASSWORD);
    let login = fixture.password_login().user(&format!("app_user.{down}"));
    let attempt = || {
        let began = Instant::now();
        let fault = login
            .open()
            .and_then(|mut client| client.query("select 1"))
            .err()
            .unwrap();
        assert_eq!(fault.code, "08006", "{fault:?}");
        began.elapsed()
    };
    attempt();
    assert!(
        attempt() < Duration::from_secs(2),
        "the failure is not remembered"
    );
    assert!(
        fixture.password_client().is_ok(),
        "another tenant is not concerned"
    );
}
