//! What a person sees and does with nothing but a token of theirs.

use std::process::Output;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Fixture,
    admin::{Admin, Revocation},
    fixture::{Person, text, unique_name},
    postgres::{OTHER_TOKEN_ROLE, TOKEN_ROLE},
    sluice::Settings,
};

impl Fixture {
    fn own(&self, person: &Person) -> Admin {
        self.sluice.admin.with_key(Some(&person.token))
    }

    /// `sluice ARGUMENTS…` as the person runs it: without the admin key.
    fn own_command(&self, person: &Person, arguments: &[&str]) -> Output {
        let mut command = self.sluice.command(arguments);
        command
            .env_remove("SLUICE_ADMIN_KEY")
            .env("SLUICE_TOKEN", &person.token);
        command.output().unwrap()
    }

    #[track_caller]
    fn own_cli(&self, person: &Person, arguments: &[&str]) -> String {
        let output = self.own_command(person, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "sluice {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn ways(&self, person: &Person) -> Vec<Value> {
        let found = self.own(person).get("/v1/me/access");
        found["access"].as_array().unwrap().clone()
    }
}

#[test]
fn a_person_lists_what_they_may_reach_and_gets_the_way_there() {
    let settings = Settings::default().set("listen.public_host", "pooler.example.com");
    let fixture = Fixture::with(settings);
    let person = fixture.granted("first");
    fixture.granted("second");
    let [way] = &fixture.ways(&person)[..] else {
        panic!("one role was granted");
    };
    assert_eq!(way["status"], "open");
    assert_eq!(way["tenant"], json!(fixture.tenant));
    assert!(way["expires_at"].is_string());
    let (tenant, port) = (&fixture.tenant, fixture.sluice.port);
    let uri = format!(
        "postgresql://{TOKEN_ROLE}.{tenant}@pooler.example.com:{port}/{}?sslmode=verify-full&options=-c%20jit%3Dtrue",
        fixture.database
    );
    assert_eq!(text(&way["uri"]), uri);
    let listed = fixture.own_cli(&person, &["connect"]);
    assert!(listed.contains(&uri), "{listed}");
    let printed = fixture.own_cli(&person, &["connect", tenant]);
    assert_eq!(printed.trim_end(), uri);
    let me = fixture.own(&person).get("/v1/me");
    assert_eq!(me["person"]["email"], json!(person.email));
    assert_eq!(me["token"]["id"], json!(person.token_id));
    assert_eq!(me["memberships"][0]["tenant"], json!(fixture.tenant));
}

#[test]
fn what_does_not_hold_at_the_moment_is_listed_with_the_reason() {
    let fixture = Fixture::start();
    let branch = unique_name() + "-branch";
    fixture.add_tenant(&branch, json!({ "parent": fixture.tenant }));
    let person = fixture.person("first");
    let far = json!({ "expires": "1h", "networks": ["192.0.2.0/24"] });
    fixture.grant(&person, TOKEN_ROLE, far);
    let branches = json!({ "expires": "1h", "reach": "branches_only" });
    fixture.grant(&person, OTHER_TOKEN_ROLE, branches);
    let places = |ways: &[Value]| {
        let place = |way: &Value| (text(&way["tenant"]), text(&way["role"]));
        let mut places: Vec<_> = ways.iter().map(place).collect();
        places.sort();
        places
    };
    let place = |tenant: &str, role: &str| (tenant.to_owned(), role.to_owned());
    let ways = fixture.ways(&person);
    let mut expected = vec![
        place(&fixture.tenant, TOKEN_ROLE),
        place(&branch, TOKEN_ROLE),
        place(&branch, OTHER_TOKEN_ROLE),
    ];
    expected.sort();
    assert_eq!(places(&ways), expected);
    let networked = ways.iter().find(|way| way["role"] == TOKEN_ROLE).unwrap();
    // Where they will connect from is not known here; the networks are told.
    assert_eq!(networked["status"], "open");
    assert_eq!(networked["networks"], json!(["192.0.2.0/24"]));
    fixture
        .sluice
        .admin
        .set_token_access(&fixture.tenant, "disabled");
    let ways = fixture.ways(&person);
    let own = ways
        .iter()
        .find(|way| way["tenant"] == json!(fixture.tenant));
    assert_eq!(own.unwrap()["status"], "closed");
    assert_eq!(own.unwrap()["reason"], "access_disabled");
    let refused = fixture.own_command(&person, &["connect", &fixture.tenant]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("not enabled"), "{said}");
    // A rule that tokens like this one are no good for is no secret either.
    let elsewhere = json!({ "kind": "http", "url": "https://auth.example.com/" });
    let tenant = format!("/v1/tenants/{}", fixture.tenant);
    fixture
        .sluice
        .admin
        .patch(&tenant, json!({ "authority": elsewhere }));
    let ways = fixture.ways(&person);
    assert!(places(&ways).contains(&place(&fixture.tenant, TOKEN_ROLE)));
    assert!(ways.iter().all(|way| way["reason"] == "other_authority"));
}

#[test]
fn connect_starts_psql_with_the_token_out_of_sight() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    fixture.grant(&person, OTHER_TOKEN_ROLE, json!({ "expires": "1h" }));
    let ca = fixture.sluice.home().path("ca.crt").display().to_string();
    let connect = |role: &str, query: &str| {
        let words = ["connect", &fixture.tenant, role, "--psql", "--ca", &ca];
        let arguments = ["--", "--no-psqlrc", "-tAc", query];
        fixture.own_cli(&person, &[&words[..], &arguments[..]].concat())
    };
    assert_eq!(
        connect(TOKEN_ROLE, "select current_user").trim(),
        TOKEN_ROLE
    );
    let other = connect(OTHER_TOKEN_ROLE, "select current_user");
    assert_eq!(other.trim(), OTHER_TOKEN_ROLE);
    // psql's own command line, read by the shell that it starts.
    let seen = connect(TOKEN_ROLE, "\\! tr '\\0' ' ' < /proc/$PPID/cmdline");
    assert!(seen.contains("sslmode=verify-full"), "{seen}");
    assert!(!seen.contains(&person.token[4..]), "the token is in sight");

    let refused = fixture.own_command(&person, &["connect", &fixture.tenant]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains(TOKEN_ROLE) && said.contains(OTHER_TOKEN_ROLE),
        "{said}"
    );
    let refused = fixture.own_command(&person, &["connect", "nowhere"]);
    assert!(!refused.status.success());
}

#[test]
fn a_person_sees_and_ends_their_own_sessions_and_no_others() {
    let fixture = Fixture::start();
    let (person, other) = (fixture.granted("first"), fixture.granted("second"));
    let mut session = fixture.token_client(&person).unwrap();
    let mut of_other = fixture.token_client(&other).unwrap();
    let own = fixture.own(&person);
    let found = own.get("/v1/me/sessions")["sessions"].clone();
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found[0]["email"], json!(person.email));
    let foreign = fixture.own(&other).get("/v1/me/sessions")["sessions"][0]["id"].clone();
    let path = format!("/v1/me/sessions/{}", text(&foreign));
    assert_eq!(own.call(Method::DELETE, &path, None).status, 404);
    let id = text(&found[0]["id"]);
    let said = fixture.own_cli(&person, &["me", "end", &id]);
    assert!(said.starts_with("session ended in "), "{said}");
    assert_eq!(session.farewell().code, "57P01");
    assert_eq!(of_other.value("select 1"), "1");
    assert!(
        fixture.token_client(&person).is_ok(),
        "the rule still holds"
    );
    let rows = fixture
        .sluice
        .admin
        .get("/v1/audit?kind=session.terminated");
    assert_eq!(
        rows["rows"][0]["actor"],
        json!(format!("person:{}", person.id))
    );
}

#[test]
fn a_person_sees_and_revokes_their_own_tokens_and_no_others() {
    let fixture = Fixture::start();
    let (person, other) = (fixture.granted("first"), fixture.granted("second"));
    let (lost_id, lost) = fixture.token(&person.id, "1d");
    let login = fixture.token_login(&person).password(&lost);
    let mut session = login.open().unwrap();
    let own = fixture.own(&person);
    let found = own.get("/v1/me/tokens");
    assert_eq!(found["tokens"].as_array().unwrap().len(), 2);
    assert!(!found.to_string().contains(&lost[16..59]));
    let path = |id: &str| format!("/v1/me/tokens/{id}");
    let foreign = own.call(Method::DELETE, &path(&other.token_id), None);
    assert_eq!(foreign.status, 404);
    assert!(fixture.token_client(&other).is_ok());
    assert_eq!(
        Revocation::of(&own.delete(&path(&lost_id))).sessions_ended,
        1
    );
    assert_eq!(session.farewell().code, "57P01");
    let said = fixture.own_cli(&person, &["me", "revoke", &person.token_id]);
    assert!(said.starts_with("token revoked"), "{said}");
    assert_eq!(own.call(Method::GET, "/v1/me", None).status, 401);
}

#[test]
fn a_limited_token_shows_no_more_than_it_opens() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    fixture.grant(&person, OTHER_TOKEN_ROLE, json!({ "expires": "1h" }));
    let path = format!("/v1/people/{}/tokens", person.id);
    let terms = json!({ "name": "report", "expires": "1d", "roles": [OTHER_TOKEN_ROLE] });
    let made = fixture.sluice.admin.post(&path, terms);
    let limited = Person {
        token: text(&made["secret"]),
        token_id: text(&made["token"]["id"]),
        ..person.clone()
    };
    fixture.sluice.keep_secret(&limited.token);
    let _wider = fixture.token_client(&person).unwrap();
    let login = fixture.token_login_as(&limited, OTHER_TOKEN_ROLE);
    let _session = login.open().unwrap();
    let own = fixture.own(&limited);
    let ways = fixture.ways(&limited);
    assert_eq!(ways.len(), 1);
    assert_eq!(ways[0]["role"], OTHER_TOKEN_ROLE);
    let sessions = own.get("/v1/me/sessions")["sessions"].clone();
    assert_eq!(sessions.as_array().unwrap().len(), 1);
    assert_eq!(sessions[0]["role"], OTHER_TOKEN_ROLE);
    let tokens = own.get("/v1/me/tokens")["tokens"].clone();
    assert_eq!(tokens.as_array().unwrap().len(), 1);
    let other = format!("/v1/me/tokens/{}", person.token_id);
    assert_eq!(own.call(Method::DELETE, &other, None).status, 404);
    let compatible = format!("/v1/projects/{}/database/jit", fixture.tenant);
    let roles = own.get(&compatible)["user_roles"].clone();
    assert_eq!(roles.as_array().unwrap().len(), 1);
    assert_eq!(roles[0]["role"], OTHER_TOKEN_ROLE);
}

#[test]
fn a_token_opens_its_persons_own_view_and_nothing_of_the_administrators() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    for path in [
        "/v1/me",
        "/v1/me/access",
        "/v1/me/sessions",
        "/v1/me/tokens",
    ] {
        assert_eq!(
            fixture.own(&person).call(Method::GET, path, None).status,
            200
        );
        let stranger = fixture.sluice.admin.with_key(Some("slp_nothing"));
        assert_eq!(stranger.call(Method::GET, path, None).status, 401, "{path}");
    }
    let own = fixture.own(&person);
    let tokens = format!("/v1/people/{}/tokens", person.id);
    let terms = Some(json!({ "name": "more", "expires": "1d" }));
    assert_eq!(own.call(Method::POST, &tokens, terms).status, 401);
    let rotate = format!("/v1/tokens/{}/rotate", person.token_id);
    assert_eq!(own.call(Method::POST, &rotate, Some(json!({}))).status, 401);
}
