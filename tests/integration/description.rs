//! The admin API is as its own description says: schemathesis makes calls of every kind from the description, good and
//! bad, and holds every answer against it.
//!
//! `tests/api/schemathesis.toml` says how, and speaks of the world that is made here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Fixture,
    fixture::text,
    pki,
    postgres::TOKEN_ROLE,
    programs::succeeded,
    sluice::{ADMIN_KEY, source},
};

/// Seconds that it has, several times what it takes.
const LIMIT: &str = "240";

#[test]
fn every_answer_is_as_the_description_says() {
    let fixture = Fixture::start();
    let admin = &fixture.sluice.admin;
    for tenant in ["main", "spare-1", "spare-2", "spare-3"] {
        fixture.add_tenant(tenant, json!({}));
    }
    let authority = json!({
        "kind": "http", "url": "https://auth.example.com/", "ca": pki::authority().identity.certificate,
    });
    fixture.add_tenant("outside", json!({ "authority": authority }));
    let anna = fixture.person("anna");
    for name in ["ben", "carl", "dora"] {
        let person = fixture.person(name);
        fixture.join(&person, "main");
    }
    fixture.join(&anna, "main");
    admin.put(
        &format!("/v1/tenants/main/rules/{}/{TOKEN_ROLE}", anna.id),
        json!({ "expires": "1h", "networks": ["127.0.0.0/8"], "reason": "ticket 4711" }),
    );
    let login = fixture
        .token_login(&anna)
        .user(&format!("{TOKEN_ROLE}.main"));
    let _session = login.open().unwrap();
    let key = |path: &str, field: &str| {
        let key = text(&admin.post(path, json!({}))[field]);
        fixture.sluice.keep_secret(&key);
        key
    };
    let guard_key = key("/v1/tenants/main/guard-key", "guard_key");
    let webhook_key = key("/v1/tenants/outside/authority/webhook-key", "key");

    let output = Command::new("timeout")
        .arg(LIMIT)
        .arg(schemathesis())
        .arg("--config-file")
        .arg(source("tests/api/schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", admin.url)])
        .current_dir(fixture.sluice.home().path("."))
        .env("SLUICE_ADMIN_KEY", ADMIN_KEY)
        .env("SLUICE_GUARD_KEY", guard_key)
        .env("SLUICE_WEBHOOK_KEY", webhook_key)
        .env("SLUICE_TOKEN", &anna.token)
        .output()
        .unwrap();
    println!("{}", succeeded(&output));
}

#[test]
fn the_command_line_prints_the_description_that_is_served() {
    let fixture = Fixture::start();
    let admin = fixture.sluice.admin.with_key(None);
    let served = admin.call(Method::GET, "/openapi.json", None).value();
    let output = crate::support::sluice::program().arg("openapi").output();
    let printed: Value = serde_json::from_str(&succeeded(&output.unwrap())).unwrap();
    assert_eq!(served, printed);
    assert!(served["paths"]["/v1/tenants"]["post"].is_object());
}

/// The program that `scripts/schemathesis` has installed.
fn schemathesis() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("schemathesis");
    let made_from = fs::read(folder.join("made-from")).unwrap_or_default();
    assert!(
        made_from == fs::read(source("tests/api/requirements.txt")).unwrap(),
        "{} is missing or out of date: run scripts/schemathesis",
        folder.display()
    );
    folder.join("bin/schemathesis")
}
