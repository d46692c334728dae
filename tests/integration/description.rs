//! The admin API is as its own description says: schemathesis makes calls of every kind from the description, good and
//! bad, and holds every answer against it.
//!
//! `tests/api/schemathesis.toml` says how, and speaks of the world that is made here.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Fixture, Person,
    fixture::text,
    pki,
    postgres::{OTHER_TOKEN_ROLE, TOKEN_ROLE},
    programs::succeeded,
    sluice::{ADMIN_KEY, program, source},
    wire::Client,
};

/// The tenant that the description takes for example.
const TENANT: &str = "demo";
/// Seconds that a run has, many times what it takes.
const LIMIT: &str = "900";
/// What owners and administrators of a tenant may call with their own token. Bad calls of every kind are made with the
/// admin key; here it is enough to see that the key makes no difference.
const MANAGED: [&str; 4] = [
    "--include-path-regex",
    "/(access|members|rules|invites|jit-access|database)",
    "--phases",
    "examples,fuzzing",
];

/// What calls can be about, under the names that the configuration has for it.
struct World {
    fixture: Fixture,
    variables: Vec<(&'static str, String)>,
    /// Of the owner, for calls about them.
    _sessions: [Client; 2],
}

impl World {
    fn make() -> Self {
        let fixture = Fixture::start();
        for tenant in [TENANT, "spare-1", "spare-2", "spare-3"] {
            fixture.add_tenant(tenant, json!({}));
        }
        let authority = json!({
            "kind": "http", "url": "https://auth.example.com/", "ca": pki::authority().identity.certificate,
        });
        for tenant in ["outside", "spare-outside"] {
            fixture.add_tenant(tenant, json!({ "authority": authority }));
        }
        for name in ["anna", "ben", "carl", "dora", "spare-1", "spare-2"] {
            let person = fixture.person(name);
            fixture.join(&person, TENANT);
            if name != "dora" {
                grant(&fixture, &person, TOKEN_ROLE);
                grant(&fixture, &person, OTHER_TOKEN_ROLE);
            }
        }
        let owner = owner(&fixture);
        let login = fixture
            .token_login(&owner)
            .user(&format!("{TOKEN_ROLE}.{TENANT}"));
        let sessions = [login.open().unwrap(), login.open().unwrap()];
        let variables = variables(&fixture, &owner);
        Self {
            fixture,
            variables,
            _sessions: sessions,
        }
    }

    /// Lets schemathesis make its calls; `key` is shown where the admin key is asked for.
    fn check(&self, key: &str, options: &[&str]) {
        let url = format!("{}/openapi.json", self.fixture.sluice.admin.url);
        // It holds the keys that were shown; what Sluice keeps in its folder must not.
        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join("calls.json");
        let by_hand = env::var("SCHEMATHESIS_OPTIONS").unwrap_or_default();
        let output = Command::new("timeout")
            .arg(LIMIT)
            .arg(schemathesis())
            .arg("--config-file")
            .arg(source("tests/api/schemathesis.toml"))
            .args(["run", &url])
            .args(options)
            .args(by_hand.split_whitespace())
            .arg("--report-har-path")
            .arg(&report)
            .current_dir(&folder)
            .env("SLUICE_ADMIN_KEY", key)
            .envs(self.variables.iter().cloned())
            .output()
            .unwrap();
        println!("{}", succeeded(&output));
        let missing = self.without_success(&fs::read(report).unwrap());
        assert!(missing.is_empty(), "no call succeeded of {missing:?}");
    }

    /// Operations that were called, and never with success: nothing is proven of their good answers.
    fn without_success(&self, report: &[u8]) -> BTreeSet<String> {
        let document = self.fixture.sluice.admin.get("/openapi.json");
        let report: Value = serde_json::from_slice(report).unwrap();
        let (mut called, mut succeeded) = (BTreeSet::new(), BTreeSet::new());
        for call in report["log"]["entries"].as_array().unwrap() {
            let Some(operation) = operation(&document, &call["request"]) else {
                continue;
            };
            if (200..300).contains(&call["response"]["status"].as_u64().unwrap()) {
                succeeded.insert(operation.clone());
            }
            called.insert(operation);
        }
        assert!(
            called.len() > 20,
            "only {} operations were called",
            called.len()
        );
        &called - &succeeded
    }

    fn variable(&self, name: &str) -> &str {
        let mut variables = self.variables.iter();
        let found = variables.find(|(known, _)| *known == name);
        &found.expect("a variable of the configuration").1
    }
}

/// The operation of the document that a request is of.
fn operation(document: &Value, request: &Value) -> Option<String> {
    let url = reqwest::Url::parse(request["url"].as_str()?).ok()?;
    let method = request["method"].as_str()?;
    let given: Vec<_> = url.path().split('/').collect();
    let is_meant = |path: &str| {
        let template: Vec<_> = path.split('/').collect();
        let mut pairs = template.iter().zip(&given);
        template.len() == given.len()
            && pairs.all(|(part, given)| part.starts_with('{') || part == given)
    };
    let paths = document["paths"].as_object()?.iter();
    let mut paths =
        paths.filter(|(path, item)| is_meant(path) && item.get(method.to_lowercase()).is_some());
    paths.next().map(|(path, _)| format!("{method} {path}"))
}

/// The owner of the tenant, who has a role there and a token for managing as well.
fn owner(fixture: &Fixture) -> Person {
    let person = fixture.person("zoe");
    let path = format!("/v1/tenants/{TENANT}/members/{}", person.id);
    fixture.sluice.admin.put(&path, json!({ "kind": "owner" }));
    grant(fixture, &person, TOKEN_ROLE);
    let terms = json!({ "scopes": ["db:connect", "manage"] });
    let (token_id, token) = fixture.limited_token(&person, terms);
    Person {
        token_id,
        token,
        ..person
    }
}

fn grant(fixture: &Fixture, person: &Person, role: &str) {
    let path = format!("/v1/tenants/{TENANT}/rules/{}/{role}", person.id);
    let terms = json!({ "expires": "1h", "reason": "ticket 4711" });
    fixture.sluice.admin.put(&path, terms);
}

/// What the configuration puts into calls: keys, and names that are not known before.
fn variables(fixture: &Fixture, owner: &Person) -> Vec<(&'static str, String)> {
    let admin = &fixture.sluice.admin;
    let made = |path: &str, body: Value, secret: &str| {
        let answer = admin.post(path, body);
        fixture.sluice.keep_secret(&text(&answer[secret]));
        answer
    };
    let token = |person: &str| {
        let path = format!("/v1/people/{person}@example.com/tokens");
        let terms = json!({ "name": "spare", "expires": "1d" });
        text(&made(&path, terms, "secret")["token"]["id"])
    };
    let invitation = |name: &str| {
        let email = format!("{name}@example.com");
        let roles = json!([{ "role": TOKEN_ROLE, "lasts": "1h" }]);
        let path = format!("/v1/tenants/{TENANT}/invites");
        made(&path, json!({ "email": email, "roles": roles }), "token")
    };
    let session = |number: usize| text(&admin.sessions(TENANT)[number]["id"]);
    let key = |path: &str, field: &str| text(&made(path, json!({}), field)[field]);
    vec![
        (
            "SLUICE_GUARD_KEY",
            key("/v1/tenants/demo/guard-key", "guard_key"),
        ),
        (
            "SLUICE_WEBHOOK_KEY",
            key("/v1/tenants/outside/authority/webhook-key", "key"),
        ),
        ("SLUICE_TOKEN", owner.token.clone()),
        ("TOKEN_TO_CHANGE", token("anna")),
        ("TOKEN_TO_ROTATE", token("anna")),
        ("TOKEN_TO_REVOKE", token("anna")),
        ("OWN_TOKEN_TO_REVOKE", token("zoe")),
        ("SESSION_TO_END", session(0)),
        ("OWN_SESSION_TO_END", session(1)),
        ("ACCEPTANCE_TOKEN", text(&invitation("first")["token"])),
        (
            "OTHER_ACCEPTANCE_TOKEN",
            text(&invitation("second")["token"]),
        ),
        (
            "INVITATION_TO_REVOKE",
            text(&invitation("third")["invite"]["id"]),
        ),
        (
            "OTHER_INVITATION_TO_REVOKE",
            text(&invitation("fourth")["invite"]["id"]),
        ),
    ]
}

#[test]
fn every_answer_to_an_administrator_is_as_the_description_says() {
    World::make().check(ADMIN_KEY, &[]);
}

#[test]
fn every_answer_to_an_owner_with_a_token_is_as_the_description_says() {
    let world = World::make();
    let token = world.variable("SLUICE_TOKEN");
    world.check(token, &MANAGED);
}

#[test]
fn the_command_line_prints_the_description_that_is_served() {
    let fixture = Fixture::start();
    let admin = fixture.sluice.admin.with_key(None);
    let served = admin.call(Method::GET, "/openapi.json", None).value();
    let output = program().arg("openapi").output().unwrap();
    let printed: Value = serde_json::from_str(&succeeded(&output)).unwrap();
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
