//! The life of a token: what it is limited to, its rotation, its end, and what the trail knows of it.

use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Client, Fixture,
    admin::Revocation,
    fixture::{Person, text, unique_name},
    postgres::{OTHER_TOKEN_ROLE, TOKEN_ROLE},
    reply::Fault,
    sluice::{Settings, source},
    until,
};

impl Fixture {
    fn open_with(&self, person: &Person, role: &str, token: &str) -> Result<Client, Fault> {
        let login = self.token_login_as(person, role);
        login.password(token).open()
    }

    fn token_record(&self, id: &str) -> Value {
        self.sluice.admin.get(&format!("/v1/tokens/{id}"))["token"].clone()
    }

    fn audit_rows(&self, filter: &str) -> Vec<Value> {
        let answer = self.sluice.admin.get(&format!("/v1/audit?{filter}"));
        answer["rows"].as_array().unwrap().clone()
    }
}

#[track_caller]
fn assert_denied(outcome: Result<Client, Fault>, detail: &str) {
    let told = outcome.err().expect("a refusal");
    assert_eq!(told.code, "28000", "{told:?}");
    assert_eq!(told.detail.as_deref(), Some(detail));
}

#[test]
fn a_limited_token_opens_nothing_outside_its_limits_and_is_told_why() {
    let fixture = Fixture::start();
    let other = unique_name() + "-other";
    fixture.add_tenant(&other, json!({}));
    let person = fixture.granted("first");
    fixture.grant(&person, OTHER_TOKEN_ROLE, json!({ "expires": "1h" }));

    let (_, of_role) = fixture.limited_token(&person, json!({ "roles": [TOKEN_ROLE] }));
    assert!(fixture.open_with(&person, TOKEN_ROLE, &of_role).is_ok());
    assert_denied(
        fixture.open_with(&person, OTHER_TOKEN_ROLE, &of_role),
        "The token is limited to other roles.",
    );
    let (_, elsewhere) = fixture.limited_token(&person, json!({ "tenants": [other] }));
    assert_denied(
        fixture.open_with(&person, TOKEN_ROLE, &elsewhere),
        "The token is limited to other projects.",
    );
    let (_, managing) = fixture.limited_token(&person, json!({ "scopes": ["manage"] }));
    assert_denied(
        fixture.open_with(&person, TOKEN_ROLE, &managing),
        "The token is not made for this kind of use.",
    );
    // The person's usual token is none the worse for it.
    assert!(fixture.token_client(&person).is_ok());
    let reasons = || {
        let rows = fixture.audit_rows(&format!("person={}&kind=auth.denied", person.id));
        let mut reasons: Vec<_> = rows.iter().map(|row| text(&row["reason"])).collect();
        reasons.sort();
        reasons
    };
    until("all refusals are in the trail", || {
        reasons() == ["token_role", "token_scope", "token_tenant"]
    });
}

#[test]
fn a_token_for_a_tenant_is_good_on_its_branches() {
    let fixture = Fixture::start();
    let branch = unique_name() + "-branch";
    fixture.add_tenant(&branch, json!({ "parent": fixture.tenant }));
    let person = fixture.granted("first");
    let (_, token) = fixture.limited_token(&person, json!({ "tenants": [fixture.tenant] }));
    let login = fixture
        .token_login(&person)
        .user(&format!("{TOKEN_ROLE}.{branch}"));
    let mut client = login.password(&token).open().unwrap();
    assert_eq!(client.value("select current_user"), TOKEN_ROLE);
}

#[test]
fn narrowing_a_token_ends_the_sessions_that_no_longer_fit() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    fixture.grant(&person, OTHER_TOKEN_ROLE, json!({ "expires": "1h" }));
    let (id, token) = fixture.limited_token(&person, json!({}));
    let mut kept = fixture.open_with(&person, TOKEN_ROLE, &token).unwrap();
    let mut ended = fixture
        .open_with(&person, OTHER_TOKEN_ROLE, &token)
        .unwrap();
    let mut of_another = fixture.token_client(&person).unwrap();
    let path = format!("/v1/tokens/{id}");
    let admin = &fixture.sluice.admin;
    let answer = admin.patch(&path, json!({ "roles": [TOKEN_ROLE] }));
    assert_eq!(Revocation::of(&answer).sessions_ended, 1);
    assert_eq!(answer["token"]["roles"], json!([TOKEN_ROLE]));
    assert_eq!(ended.farewell().code, "57P01");
    assert_eq!(kept.value("select 1"), "1");
    // What was remembered of the token at its login holds no longer.
    assert_denied(
        fixture.open_with(&person, OTHER_TOKEN_ROLE, &token),
        "The token is limited to other roles.",
    );
    let answer = admin.patch(&path, json!({ "scopes": ["manage"] }));
    assert_eq!(Revocation::of(&answer).sessions_ended, 1);
    assert_eq!(kept.farewell().code, "57P01");
    assert_eq!(of_another.value("select 1"), "1");
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let path = format!("/v1/people/{}/tokens", person.id);
    for (field, value, status) in [
        ("scopes", json!([]), 422),
        ("scopes", json!(["everything"]), 400),
        ("tenants", json!(["nowhere"]), 404),
        ("tenants", json!("demo"), 400),
        ("roles", json!([""]), 400),
    ] {
        let mut terms = json!({ "name": "limited", "expires": "1d" });
        terms[field] = value;
        let answer = fixture.sluice.admin.call(Method::POST, &path, Some(terms));
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[test]
fn a_rotated_token_works_on_for_the_overlap_and_is_flagged() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let (id, token) = fixture.limited_token(&person, json!({ "roles": [TOKEN_ROLE] }));
    let mut session = fixture.open_with(&person, TOKEN_ROLE, &token).unwrap();
    let rotate = format!("/v1/tokens/{id}/rotate");
    let admin = &fixture.sluice.admin;
    let answer = admin.post(&rotate, json!({ "overlap": "1h" }));
    let new = text(&answer["secret"]);
    fixture.sluice.keep_secret(&new);
    assert_eq!(Revocation::of(&answer).sessions_ended, 0);
    assert_eq!(answer["token"]["roles"], json!([TOKEN_ROLE]));
    assert_eq!(answer["token"]["name"], "limited");
    let new_id = text(&answer["token"]["id"]);
    assert_eq!(answer["replaced"]["replaced_by"], json!(new_id));

    assert_eq!(session.value("select 1"), "1");
    assert!(fixture.open_with(&person, TOKEN_ROLE, &new).is_ok());
    assert!(fixture.open_with(&person, TOKEN_ROLE, &token).is_ok());
    until("the use of the old token is flagged in the trail", || {
        let rows = fixture.audit_rows(&format!("person={}&kind=auth.succeeded", person.id));
        rows.iter().any(|row| {
            row["token"] == json!(id) && row["detail"]["token_replaced_by"] == json!(new_id)
        })
    });
    let rotated = &fixture.audit_rows("kind=token.rotated")[0];
    assert_eq!(rotated["token"], json!(id));
    assert_eq!(rotated["detail"]["replaced_by"], json!(new_id));
    let listed = fixture.sluice.cli(&["token", "list", &person.email]);
    assert!(listed.contains("replaced"), "{listed}");
    let again = admin.call(Method::POST, &rotate, Some(json!({})));
    assert_eq!(again.status, 422, "{again:?}");
}

#[test]
fn a_day_is_the_overlap_unless_told_and_never_beyond_the_old_expiry() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let admin = &fixture.sluice.admin;
    let rotated = |terms: Value| {
        let (id, _) = fixture.limited_token(&person, terms);
        let answer = admin.post(&format!("/v1/tokens/{id}/rotate"), json!({}));
        fixture.sluice.keep_secret(&text(&answer["secret"]));
        let left = |token: &Value| {
            let end = text(&token["expires_at"]);
            let format = &time::format_description::well_known::Rfc3339;
            let end = time::OffsetDateTime::parse(&end, format).unwrap();
            (end - time::OffsetDateTime::now_utc()).whole_minutes()
        };
        (left(&answer["replaced"]), left(&answer["token"]))
    };
    let (old, new) = rotated(json!({ "expires": "30d" }));
    assert!((1430..=1440).contains(&old), "{old} minutes");
    assert!((30 * 1440 - 10..=30 * 1440).contains(&new), "{new} minutes");
    let (old, _) = rotated(json!({ "expires": "1h" }));
    assert!((50..=60).contains(&old), "{old} minutes");
}

#[test]
fn without_overlap_the_old_token_and_its_sessions_end_at_once() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut session = fixture.token_client(&person).unwrap();
    let said = fixture
        .sluice
        .cli(&["token", "rotate", &person.token_id, "--overlap", "0"]);
    let new = said.lines().next().unwrap();
    fixture.sluice.keep_secret(new);
    assert!(said.contains("is revoked; 1 session ended in "), "{said}");
    assert_eq!(session.farewell().code, "57P01");
    let told = fixture.token_client(&person).err().unwrap();
    assert_eq!(told.code, "28P01", "{told:?}");
    assert!(fixture.open_with(&person, TOKEN_ROLE, new).is_ok());
}

#[test]
fn the_sessions_of_a_rotated_token_end_when_the_overlap_is_over() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut session = fixture.token_client(&person).unwrap();
    let path = format!("/v1/tokens/{}/rotate", person.token_id);
    let answer = fixture.sluice.admin.post(&path, json!({ "overlap": "1s" }));
    fixture.sluice.keep_secret(&text(&answer["secret"]));
    let told = session.farewell();
    assert_eq!(told.code, "57P01");
    assert!(told.message.contains("access expiry"), "{told:?}");
}

#[test]
fn all_tokens_of_a_person_are_revoked_by_one_call_with_their_sessions() {
    let fixture = Fixture::start();
    let (person, other) = (fixture.granted("first"), fixture.granted("second"));
    let (_, second) = fixture.token(&person.id, "1d");
    let mut sessions = [
        fixture.token_client(&person).unwrap(),
        fixture.open_with(&person, TOKEN_ROLE, &second).unwrap(),
    ];
    let mut kept = fixture.token_client(&other).unwrap();
    let path = format!("/v1/people/{}/tokens", person.email);
    let answer = fixture.sluice.admin.delete(&path);
    assert_eq!(answer["tokens_revoked"], 2);
    let report = Revocation::of(&answer);
    assert_eq!((report.sessions_ended, report.unconfirmed), (2, 0));
    for session in &mut sessions {
        assert_eq!(session.farewell().code, "57P01");
    }
    assert!(fixture.token_client(&person).is_err());
    assert_eq!(kept.value("select 1"), "1");
    let said = fixture
        .sluice
        .cli(&["token", "revoke", "--all", &person.email]);
    assert!(said.starts_with("0 tokens revoked"), "{said}");
}

#[test]
fn who_shows_a_leaked_token_has_it_revoked_and_learns_nothing() {
    let fixture = Fixture::start();
    let (person, other) = (fixture.granted("first"), fixture.granted("second"));
    let mut session = fixture.token_client(&person).unwrap();
    let mut kept = fixture.token_client(&other).unwrap();
    let stranger = fixture.sluice.admin.with_key(None);
    let report = |body: Value| stranger.call(Method::POST, "/v1/tokens/leaked", Some(body));

    // The right id with another secret is nobody's token; nor is one with a wrong checksum.
    let forged = with_checksum(&format!("{}{}", &person.token[4..16], &other.token[16..59]));
    let end = if person.token.ends_with('x') {
        "y"
    } else {
        "x"
    };
    let misspelt = format!("{}{end}", &person.token[..64]);
    let misses = report(json!({ "tokens": [forged, misspelt, "hush", "hush"] }));
    let hits = report(json!([
        { "token": "hush", "type": "sluice_token", "url": "https://example.com/1" },
        { "token": person.token, "type": "sluice_token", "url": "https://example.com/2" },
        { "token": "hush" },
        { "token": "hush" },
    ]));
    assert_eq!((misses.status, &misses.text), (202, &hits.text));
    assert_eq!(hits.status, 202);

    assert_eq!(session.farewell().code, "57P01");
    assert!(fixture.token_client(&person).is_err());
    assert_eq!(kept.value("select 1"), "1");
    let rows = fixture.audit_rows("kind=token.leaked");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["token"], json!(person.token_id));
    assert_eq!(rows[0]["peer"], "127.0.0.1");
    assert_eq!(
        fixture.token_record(&person.token_id)["revoked_by"],
        "leak-report"
    );
    // Shown again it is answered the same and adds nothing to the trail; what comes behind it is looked at after it.
    let again = report(json!({ "tokens": [person.token, other.token] }));
    assert_eq!(again.text, r#"{"received":2}"#);
    assert_eq!(kept.farewell().code, "57P01");
    assert_eq!(fixture.audit_rows("kind=token.leaked").len(), 2);
}

/// A token of this id and secret, whether or not there is one.
fn with_checksum(body: &str) -> String {
    const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc32fast::hash(body.as_bytes()) as usize;
    let mut letters = [0; 6];
    for letter in letters.iter_mut().rev() {
        *letter = BASE62[rest % 62];
        rest /= 62;
    }
    format!("slp_{body}{}", String::from_utf8_lossy(&letters))
}

#[test]
fn reports_of_leaks_are_bounded_in_size_and_number() {
    let fixture = Fixture::with(Settings::default().set("limits.leak_reports_per_address", 3));
    let stranger = fixture.sluice.admin.with_key(None);
    let report = |body: Value| {
        let answer = stranger.call(Method::POST, "/v1/tokens/leaked", Some(body));
        answer.status
    };
    assert_eq!(report(json!({ "token": "x".repeat(70_000) })), 413);
    assert_eq!(report(json!({ "token": 7 })), 400);
    assert_eq!(report(json!(["x"])), 400, "a list of objects, not of texts");
    assert_eq!(report(json!({ "tokens": vec!["x"; 101] })), 400);
    assert_eq!(report(json!({ "tokens": vec!["x"; 100] })), 202);
    assert_eq!(report(json!({ "token": "x" })), 202);
    assert_eq!(report(json!({ "token": "x" })), 429);
}

#[test]
fn scanners_find_a_token_by_the_published_expression() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let text = std::fs::read_to_string(source("docs/api.md")).unwrap();
    let expression = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("slp_["))
        .expect("the expression in docs/api.md");
    let expression = format!("slp_[{expression}");
    let mut found = Command::new("grep")
        .args(["-oE", &expression])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let hay = format!("password = \"{}\"; slp_short slp_\n", person.token);
    std::io::Write::write_all(&mut found.stdin.take().unwrap(), hay.as_bytes()).unwrap();
    let found = found.wait_with_output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert_eq!(found.lines().collect::<Vec<_>>(), [&*person.token]);
}

#[test]
fn the_fingerprint_finds_every_use_of_a_token_also_when_it_is_gone() {
    let fixture = Fixture::start();
    let (person, other) = (fixture.granted("first"), fixture.granted("second"));
    let fingerprint = text(&fixture.token_record(&person.token_id)["fingerprint"]);
    assert_eq!(fingerprint.len(), 16);
    assert!(!person.token.contains(&fingerprint));
    let session = fixture.token_client(&person).unwrap();
    drop(fixture.token_client(&other).unwrap());
    drop(session);
    let kinds = || {
        let rows = fixture.audit_rows(&format!("fingerprint={fingerprint}"));
        assert!(
            rows.iter()
                .all(|row| row["token"] == json!(person.token_id))
        );
        let mut kinds: Vec<_> = rows.iter().map(|row| text(&row["kind"])).collect();
        kinds.reverse();
        kinds
    };
    until("the whole life of the session is in the trail", || {
        kinds() == ["token.created", "auth.succeeded", "session.ended"]
    });
    fixture
        .sluice
        .admin
        .delete(&format!("/v1/people/{}", person.id));
    assert_eq!(kinds().len(), 3);
    let listed = fixture
        .sluice
        .cli(&["audit", "list", "--fingerprint", &fingerprint]);
    assert!(listed.contains("session.ended") && !listed.contains("second@"));
    assert!(
        fixture
            .sluice
            .cli(&["audit", "verify"])
            .starts_with("the trail is whole")
    );
}

#[test]
fn the_first_use_from_a_new_address_is_in_the_trail() {
    let fixture = Fixture::with(
        Settings::default().set("listen.proxy_protocol_from", vec!["127.0.0.0/8".to_owned()]),
    );
    let person = fixture.granted("first");
    let open = |from: &str| {
        let mut login = fixture.token_login(&person);
        login.proxy_header = format!("PROXY TCP4 {from} 192.0.2.9 4711 6543\r\n").into_bytes();
        drop(login.open().unwrap());
    };
    let noticed = || {
        let rows = fixture.audit_rows("kind=token.first_use_from_new_address");
        rows.iter()
            .map(|row| text(&row["peer"]))
            .collect::<Vec<_>>()
    };
    open("192.0.2.1");
    open("192.0.2.1");
    assert_eq!(noticed(), [""; 0], "the first of all is none");
    open("198.51.100.7");
    until("the new address is noticed", || {
        noticed() == ["198.51.100.7"]
    });
    open("192.0.2.1");
    open("198.51.100.7");
    assert_eq!(noticed(), ["198.51.100.7"]);
}
