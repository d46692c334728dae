//! Owners and administrators manage the access of their own tenant with their own tokens, and nobody else does.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Fixture, Person,
    admin::{Admin, Revocation},
    eventually,
    fixture::{text, unique_name},
    postgres::{OTHER_TOKEN_ROLE, TOKEN_ROLE},
};

/// A member of the tenant of this kind, with a token for managing, and the API as they call it.
fn manager(fixture: &Fixture, name: &str, kind: &str) -> (Person, Admin) {
    let person = fixture.person(name);
    let path = member_path(fixture, &person);
    fixture.sluice.admin.put(&path, json!({ "kind": kind }));
    let (token_id, token) = managing_token(fixture, &person);
    let person = Person {
        token_id,
        token,
        ..person
    };
    let api = fixture.sluice.admin.with_key(Some(&person.token));
    (person, api)
}

fn managing_token(fixture: &Fixture, person: &Person) -> (String, String) {
    fixture.limited_token(person, json!({ "scopes": ["db:connect", "manage"] }))
}

fn member_path(fixture: &Fixture, person: &Person) -> String {
    format!("/v1/tenants/{}/members/{}", fixture.tenant, person.id)
}

/// One call of each kind that manages access of `tenant`.
fn calls(tenant: &str, person: &Person) -> Vec<(Method, String, Option<Value>)> {
    let own = format!("/v1/tenants/{tenant}");
    let jit = format!("/v1/projects/{tenant}");
    let rule = format!("{own}/rules/{}/{TOKEN_ROLE}", person.id);
    let invitation =
        json!({ "email": "guest@example.com", "roles": [{ "role": TOKEN_ROLE, "lasts": "1h" }] });
    let roles = json!([{ "role": TOKEN_ROLE }]);
    vec![
        (Method::GET, format!("{own}/rules"), None),
        (
            Method::POST,
            format!("{own}/rules"),
            Some(json!({ "person": person.id, "role": OTHER_TOKEN_ROLE, "expires": "1h" })),
        ),
        (Method::PUT, rule.clone(), Some(json!({ "expires": "2h" }))),
        (Method::PATCH, rule, Some(json!({ "expires": "3h" }))),
        (Method::GET, format!("{own}/members"), None),
        (
            Method::PUT,
            format!("{own}/members/{}", person.id),
            Some(json!({ "kind": "member" })),
        ),
        (Method::GET, format!("{own}/invites"), None),
        (Method::POST, format!("{own}/invites"), Some(invitation)),
        (Method::GET, format!("{own}/access"), None),
        (
            Method::PUT,
            format!("{own}/access"),
            Some(json!({ "state": "enabled" })),
        ),
        (Method::GET, format!("{jit}/jit-access"), None),
        (
            Method::PUT,
            format!("{jit}/jit-access"),
            Some(json!({ "state": "enabled" })),
        ),
        (Method::GET, format!("{jit}/database/jit/list"), None),
        (
            Method::PUT,
            format!("{jit}/database/jit"),
            Some(json!({ "user_id": person.id, "roles": roles })),
        ),
        (
            Method::POST,
            format!("{jit}/database/jit/invite"),
            Some(json!({ "email": "other@example.com", "roles": roles })),
        ),
        (
            Method::DELETE,
            format!("{jit}/database/jit/{}", person.id),
            None,
        ),
        (Method::DELETE, format!("{own}/members/{}", person.id), None),
    ]
}

#[test]
fn an_owner_and_an_administrator_manage_their_tenant_with_their_own_tokens() {
    let fixture = Fixture::start();
    for kind in ["owner", "administrator"] {
        let (_, api) = manager(&fixture, kind, kind);
        let somebody = fixture.granted(&format!("{kind}-colleague"));
        for (method, path, body) in calls(&fixture.tenant, &somebody) {
            let answer = api.call(method.clone(), &path, body);
            assert!(answer.status < 300, "{kind}: {method} {path}: {answer:?}");
        }
    }
}

#[test]
fn whoever_manages_access_is_in_the_trail_as_who_they_are() {
    let fixture = Fixture::start();
    let (owner, api) = manager(&fixture, "owner", "owner");
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    let narrowed = api.patch(
        &fixture.rule_path(&person, TOKEN_ROLE),
        json!({ "networks": ["203.0.113.0/24"] }),
    );
    assert_eq!(Revocation::of(&narrowed).sessions_ended, 1);
    assert_eq!(client.farewell().code, "57P01");
    let rows = fixture.sluice.admin.audit(&fixture.tenant);
    let changed = rows
        .iter()
        .find(|row| row["kind"] == "rule.changed")
        .unwrap();
    assert_eq!(text(&changed["actor"]), format!("person:{}", owner.id));
    assert_eq!(changed["person"], person.id);
}

#[test]
fn whoever_may_not_is_in_the_trail_and_a_flood_of_tries_is_one_row() {
    let fixture = Fixture::start();
    let (owner, _) = manager(&fixture, "owner", "owner");
    let (member, members) = manager(&fixture, "member", "member");
    let (administrator, administrators) = manager(&fixture, "administrator", "administrator");
    let admin = &fixture.sluice.admin;
    for _ in 0..10 {
        for (method, path, body) in calls(&fixture.tenant, &member) {
            assert_eq!(members.call(method, &path, body).status, 403);
        }
    }
    let of_owner = member_path(&fixture, &owner);
    let refused = administrators.call(Method::DELETE, &of_owner, None);
    assert_eq!(refused.status, 403);
    let guessed = admin.with_key(Some("a-key-that-somebody-guessed"));
    for _ in 0..10 {
        assert_eq!(guessed.call(Method::GET, "/v1/tenants", None).status, 401);
    }

    let denied = || {
        let rows = admin.get("/v1/audit?kind=admin.denied");
        rows["rows"].as_array().unwrap().clone()
    };
    let rows = eventually("the last is written", || {
        let rows = denied();
        let is_last = |row: &Value| row["reason"] == "unauthorized";
        rows.iter().any(is_last).then_some(rows)
    });
    let told = |row: &Value| {
        let call = &row["detail"];
        json!([
            row["actor"],
            row["reason"],
            row["tenant"],
            call["method"],
            call["route"]
        ])
    };
    let told: Vec<Value> = rows.iter().rev().map(told).collect();
    let actor = |person: &Person| format!("person:{}", person.id);
    let tenant = &fixture.tenant;
    assert_eq!(
        told,
        [
            json!([
                actor(&member),
                "forbidden",
                tenant,
                "GET",
                "/v1/tenants/{ref}/rules"
            ]),
            json!([
                actor(&administrator),
                "forbidden",
                tenant,
                "DELETE",
                "/v1/tenants/{ref}/members/{person}"
            ]),
            json!(["unknown", "unauthorized", null, "GET", "/v1/tenants"]),
        ]
    );
    assert!(rows.iter().all(|row| row["peer"] == "127.0.0.1"));
}

#[test]
fn nobody_else_manages_it() {
    let fixture = Fixture::start();
    let victim = fixture.granted("victim");
    let (_, member) = manager(&fixture, "member", "member");
    let elsewhere = unique_name();
    fixture.add_tenant(&elsewhere, json!({}));
    let stranger = fixture.person("stranger");
    let admin = &fixture.sluice.admin;
    admin.delete(&member_path(&fixture, &stranger));
    admin.put(
        &format!("/v1/tenants/{elsewhere}/members/{}", stranger.id),
        json!({ "kind": "owner" }),
    );
    let (_, token) = managing_token(&fixture, &stranger);
    let outsider = admin.with_key(Some(&token));
    let owner = fixture.person("owner");
    admin.put(&member_path(&fixture, &owner), json!({ "kind": "owner" }));
    let with_usual_token = admin.with_key(Some(&owner.token));
    let invitation =
        json!({ "email": "guest@example.com", "roles": [{ "role": TOKEN_ROLE, "lasts": "1h" }] });
    let made = admin.post(
        &format!("/v1/tenants/{}/invites", fixture.tenant),
        invitation,
    );
    let shown = json!({ "email": "guest@example.com", "token": made["token"] });
    let accepted = admin.post(
        &format!("/v1/tenants/{}/invites/accept", fixture.tenant),
        shown,
    );
    let (_, token) = fixture.token(accepted["person"]["id"].as_str().unwrap(), "1d");
    let guest = admin.with_key(Some(&token));

    for (who, api) in [
        ("a member", &member),
        ("another's owner", &outsider),
        (
            "an owner's token that is not for managing",
            &with_usual_token,
        ),
        ("a guest", &guest),
    ] {
        for (method, path, body) in calls(&fixture.tenant, &victim) {
            let answer = api.call(method.clone(), &path, body);
            assert_eq!(answer.status, 403, "{who}: {method} {path}: {answer:?}");
        }
        let there = api.call(
            Method::GET,
            &format!("/v1/tenants/{}/rules", fixture.tenant),
            None,
        );
        let not_there = api.call(Method::GET, "/v1/tenants/no-such-tenant/rules", None);
        assert_eq!(
            (there.status, &there.text),
            (not_there.status, &not_there.text),
            "{who}"
        );
    }
    assert!(
        outsider
            .call(Method::GET, &format!("/v1/tenants/{elsewhere}/rules"), None)
            .status
            == 200
    );
    assert!(
        fixture.token_client(&victim).is_ok(),
        "somebody took the rule away"
    );
}

#[test]
fn what_concerns_the_whole_pooler_stays_with_the_admin_key() {
    let fixture = Fixture::start();
    let (owner, api) = manager(&fixture, "owner", "owner");
    let tenant = format!("/v1/tenants/{}", fixture.tenant);
    for (method, path) in [
        (Method::GET, "/v1/tenants".to_owned()),
        (Method::GET, tenant.clone()),
        (Method::PATCH, tenant.clone()),
        (Method::DELETE, tenant.clone()),
        (Method::PUT, format!("{tenant}/roles/{TOKEN_ROLE}/secret")),
        (Method::POST, format!("{tenant}/doctor")),
        (Method::GET, "/v1/people".to_owned()),
        (Method::POST, format!("/v1/people/{}/tokens", owner.id)),
        (Method::GET, "/v1/sessions".to_owned()),
        (Method::GET, "/v1/pools".to_owned()),
        (Method::GET, "/v1/audit".to_owned()),
        (Method::POST, "/v1/reload".to_owned()),
    ] {
        let answer = api.call(
            method.clone(),
            &path,
            Some(json!({ "privileged_roles": "allow" })),
        );
        assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
    }
}

#[test]
fn administrators_neither_make_nor_unmake_owners() {
    let fixture = Fixture::start();
    let (owner, owners) = manager(&fixture, "owner", "owner");
    let (administrator, administrators) = manager(&fixture, "administrator", "administrator");
    let (of_owner, of_administrator) = (
        member_path(&fixture, &owner),
        member_path(&fixture, &administrator),
    );
    for (method, path, body) in [
        (Method::PUT, &of_owner, Some(json!({ "kind": "member" }))),
        (Method::DELETE, &of_owner, None),
        (
            Method::PUT,
            &of_administrator,
            Some(json!({ "kind": "owner" })),
        ),
    ] {
        let answer = administrators.call(method, path, body);
        assert_eq!(answer.status, 403, "{answer:?}");
    }
    owners.put(&of_administrator, json!({ "kind": "owner" }));
    administrators.put(&of_owner, json!({ "kind": "member" }));
    let demoted = owners.call(
        Method::PUT,
        &of_administrator,
        Some(json!({ "kind": "member" })),
    );
    assert_eq!(demoted.status, 403, "no owner any more");
}

#[test]
fn whose_token_or_membership_has_ended_manages_nothing_any_more() {
    let fixture = Fixture::start();
    let rules = format!("/v1/tenants/{}/rules", fixture.tenant);
    let (first, api) = manager(&fixture, "first", "owner");
    assert_eq!(api.call(Method::GET, &rules, None).status, 200);
    fixture.sluice.admin.delete(&member_path(&fixture, &first));
    assert_eq!(api.call(Method::GET, &rules, None).status, 403);

    let (second, api) = manager(&fixture, "second", "owner");
    fixture
        .sluice
        .admin
        .delete(&format!("/v1/tokens/{}", second.token_id));
    let answer = api.call(Method::GET, &rules, None);
    assert_eq!(
        (answer.status, answer.error().0.as_str()),
        (401, "invalid_token")
    );
}
