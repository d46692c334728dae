//! The switch for token access of a tenant, and what it says where token sessions cannot be.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Fixture,
    admin::Revocation,
    fake_server::FakeServer,
    fixture::text,
    ports::free_port,
    postgres::{self, PASSWORD_ROLE, TOKEN_ROLE},
    sluice::Settings,
};

/// What the compatible route says of the tenant.
fn compatible(fixture: &Fixture) -> Value {
    let path = format!("/v1/projects/{}/jit-access", fixture.tenant);
    fixture.sluice.admin.get(&path)
}

/// Checks both routes: not to be had, for this reason.
#[track_caller]
fn unavailable(fixture: &Fixture, reason: &str) {
    let found = compatible(fixture);
    assert_eq!(
        (&found["state"], &found["unavailableReason"]),
        (&json!("unavailable"), &json!(reason)),
        "{found}"
    );
    let path = format!("/v1/tenants/{}/access", fixture.tenant);
    let found = fixture.sluice.admin.get(&path);
    assert_eq!(found["unavailable"]["reason"], reason, "{found}");
    let said = fixture.sluice.cli(&["access", "status", &fixture.tenant]);
    let why = text(&found["unavailable"]["message"]);
    assert!(
        said.contains(&format!("but not available: {why}")),
        "{said}"
    );
}

fn point(fixture: &Fixture, fields: Value) {
    let path = format!("/v1/tenants/{}", fixture.tenant);
    fixture.sluice.admin.patch(&path, fields);
}

#[test]
fn turning_it_off_ends_token_sessions_and_no_password_sessions_and_the_rules_come_back() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut tokens = [
        fixture.token_client(&person).unwrap(),
        fixture.token_client(&person).unwrap(),
    ];
    tokens[1].query("begin").unwrap();
    let mut password = fixture.password_client().unwrap();
    password.query("begin").unwrap();
    let pid = password.value("select pg_backend_pid()");
    assert_eq!(compatible(&fixture), json!({ "state": "enabled" }));

    let off = fixture
        .sluice
        .admin
        .set_token_access(&fixture.tenant, "disabled");
    let report = Revocation::of(&off);
    assert_eq!((report.sessions_ended, report.unconfirmed), (2, 0));
    for client in &mut tokens {
        assert_eq!(client.farewell().code, "57P01");
    }
    assert_eq!(
        password.value("select pg_backend_pid()"),
        pid,
        "in the same transaction"
    );
    assert!(fixture.token_client(&person).is_err());
    assert_eq!(compatible(&fixture), json!({ "state": "disabled" }));

    let before = fixture
        .sluice
        .admin
        .get(&format!("/v1/tenants/{}/rules", fixture.tenant));
    fixture
        .sluice
        .admin
        .set_token_access(&fixture.tenant, "enabled");
    let after = fixture
        .sluice
        .admin
        .get(&format!("/v1/tenants/{}/rules", fixture.tenant));
    assert_eq!(before, after);
    assert_eq!(
        fixture.token_client(&person).unwrap().value("select 1"),
        "1"
    );
    password.query("commit").unwrap();
}

#[test]
fn a_server_that_is_too_old_is_unavailable_and_cannot_be_enabled() {
    let fields = json!({ "token_access": "disabled" });
    let fixture = Fixture::on(postgres::old(), Settings::default(), fields);
    unavailable(&fixture, "postgres_upgrade_required");
    for path in ["tenants/{}/access", "projects/{}/jit-access"] {
        let path = format!("/v1/{}", path.replace("{}", &fixture.tenant));
        let wanted = Some(json!({ "state": "enabled" }));
        let refused = fixture.sluice.admin.call(Method::PUT, &path, wanted);
        assert_eq!(refused.status, 409, "{refused:?}");
        let (code, message) = refused.error();
        assert_eq!(code, "postgres_upgrade_required");
        assert!(message.contains("PostgreSQL 15"), "{message}");
    }
    let path = format!("/v1/tenants/{}/access", fixture.tenant);
    assert_eq!(fixture.sluice.admin.get(&path)["state"], "disabled");
}

#[test]
fn a_server_without_encryption_is_unavailable_until_the_tenant_has_another() {
    let plain = FakeServer::start(|visit| {
        visit.first_packet()?;
        visit.write(b"N")
    });
    let fixture = Fixture::start();
    point(&fixture, json!({ "port": plain.port }));
    unavailable(&fixture, "ssl_enforcement_required");
    let refused = fixture.sluice.admin.call(
        Method::PUT,
        &format!("/v1/tenants/{}/access", fixture.tenant),
        Some(json!({ "state": "enabled" })),
    );
    assert_eq!(refused.error().0, "ssl_enforcement_required");
    point(&fixture, json!({ "port": fixture.cluster.port }));
    assert_eq!(compatible(&fixture), json!({ "state": "enabled" }));
}

#[test]
fn a_server_that_does_not_answer_is_unavailable_for_now_and_can_be_turned_on_and_off() {
    let fixture = Fixture::start();
    point(&fixture, json!({ "port": free_port() }));
    unavailable(&fixture, "temporarily_unavailable");
    for state in ["disabled", "enabled"] {
        let turned = fixture
            .sluice
            .admin
            .set_token_access(&fixture.tenant, state);
        assert_eq!(turned["state"], state);
    }
}

#[test]
fn a_server_that_does_not_take_our_certificates_yet_says_so() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    // The server asks this role for its password.
    fixture.grant(&person, PASSWORD_ROLE, json!({ "expires": "1h" }));
    unavailable(&fixture, "manual_migration_required");
    // Now it is that role's fault: another one gets in.
    fixture.grant(&person, TOKEN_ROLE, json!({ "expires": "1h" }));
    fixture.grant(&person, "app_misspelt", json!({ "expires": "1h" }));
    assert_eq!(compatible(&fixture), json!({ "state": "enabled" }));
}

#[test]
fn a_role_of_branches_alone_says_nothing_of_the_tenants_own_server() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let terms = json!({ "expires": "1h", "reach": "branches_only" });
    fixture.grant(&person, PASSWORD_ROLE, terms);
    assert_eq!(compatible(&fixture), json!({ "state": "enabled" }));
}
