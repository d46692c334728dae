//! The catalogue survives restarts, keeps its secrets, and refuses what is not its own.

use std::fs;

use serde_json::json;

use crate::support::{
    Fixture,
    fixture::text,
    postgres::{PASSWORD, SECRET_ROLE, TOKEN_ROLE},
    sluice::{Home, Settings, ended_in_order},
};

#[test]
fn tenants_people_rules_and_tokens_survive_a_restart() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    drop(fixture.token_client(&person).unwrap());
    assert!(ended_in_order(fixture.sluice.stop()));
    fixture.sluice.start_again();
    assert_eq!(
        fixture.token_client(&person).unwrap().value("select 1"),
        "1"
    );
    assert_eq!(fixture.password_client().unwrap().value("select 1"), "1");
}

#[test]
fn a_revoked_rule_stays_revoked_over_a_crash() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    fixture.remove_rule(&person, TOKEN_ROLE);
    fixture.sluice.signal("KILL");
    fixture.sluice.wait_for_end();
    fixture.sluice.start_again();
    assert_eq!(fixture.token_client(&person).err().unwrap().code, "28000");
}

#[test]
fn neither_tokens_nor_passwords_lie_in_the_file() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    fixture.set_password(&fixture.tenant, SECRET_ROLE, PASSWORD);
    drop(fixture.token_client(&person).unwrap());
    let path = format!("/v1/tenants/{}/invites", fixture.tenant);
    let roles = json!([{ "role": TOKEN_ROLE, "lasts": "1h" }]);
    let invitation = json!({ "email": "guest@example.com", "roles": roles });
    let invitation = text(&fixture.sluice.admin.post(&path, invitation)["token"]);
    assert!(ended_in_order(fixture.sluice.stop()));
    let secret_half = &person.token[16..];
    let mut searched = 0;
    for name in ["sluice.db", "sluice.db-wal"] {
        let Ok(bytes) = fs::read(fixture.sluice.home().path(name)) else {
            continue;
        };
        searched += bytes.len();
        for secret in [secret_half, &invitation[36..], PASSWORD] {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "a secret lies in {name}");
        }
    }
    assert!(searched > 10_000, "the catalogue was not found");
}

#[test]
fn another_master_key_is_refused_with_what_to_do() {
    let fixture = Fixture::start();
    assert!(ended_in_order(fixture.sluice.stop()));
    let home = fixture.sluice.home();
    home.write("catalog.key", &"0123456789abcdef".repeat(4));
    let output = home.serve().output().unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("key") && told.contains("sluice.db"), "{told}");
}

#[test]
fn a_second_sluice_on_one_catalogue_is_refused_for_it_could_not_end_the_firsts_sessions() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut session = fixture.token_client(&person).unwrap();
    let catalogue = fixture.sluice.home().path("sluice.db");
    let elsewhere = Settings::default().set("catalog.path", catalogue.to_str().unwrap());
    let second = Home::new(&elsewhere);
    let output = second.serve().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("sluice.db is in use by another Sluice"),
        "{told}"
    );
    assert_eq!(session.value("select 1"), "1");
    // The lock goes with the process that had it.
    fixture.sluice.signal("KILL");
    fixture.sluice.wait_for_end();
    fixture.sluice.start_again();
    assert!(fixture.token_client(&person).is_ok());
}

#[test]
fn a_file_that_is_no_catalogue_is_refused_and_left_alone() {
    let fixture = Fixture::start();
    assert!(ended_in_order(fixture.sluice.stop()));
    let home = fixture.sluice.home();
    for name in ["sluice.db-wal", "sluice.db-shm"] {
        let _ = fs::remove_file(home.path(name));
    }
    let content = "somebody's shopping list\n".repeat(100);
    home.write("sluice.db", &content);
    let output = home.serve().output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("sluice.db"));
    assert_eq!(fs::read_to_string(home.path("sluice.db")).unwrap(), content);
}

#[test]
fn secrets_are_never_answered_by_the_api() {
    let fixture = Fixture::with_tenant(json!({}));
    let person = fixture.granted("first");
    for path in [
        "/v1/tenants".to_owned(),
        format!("/v1/tenants/{}", fixture.tenant),
        format!("/v1/people/{}/tokens", person.id),
        "/v1/audit?limit=1000".to_owned(),
        "/v1/sessions".to_owned(),
    ] {
        let answer = fixture.sluice.admin.call(reqwest::Method::GET, &path, None);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        for secret in [PASSWORD, &person.token[16..]] {
            assert!(!answer.text.contains(secret), "{path} shows a secret");
        }
    }
}
