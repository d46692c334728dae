//! Branches: what is enabled, granted and removed on a tenant reaches its branches.

use reqwest::Method;
use serde_json::json;

use crate::support::{
    Fixture, Login, Person,
    admin::Revocation,
    authority::{Authority, Reaction, USER, yes},
    fixture::unique_name,
    postgres::TOKEN_ROLE,
    sluice::Settings,
    until,
};

/// A token of an external authority.
const TOKEN: &str = "sbp_0123456789abcdef0123456789abcdef89abcdef";

fn branch(fixture: &Fixture) -> String {
    let name = unique_name();
    let fields = json!({ "parent": fixture.tenant, "token_access": "disabled" });
    fixture.add_tenant(&name, fields);
    name
}

fn login(fixture: &Fixture, person: &Person, branch: &str) -> Login {
    fixture
        .token_login(person)
        .user(&format!("{TOKEN_ROLE}.{branch}"))
}

#[test]
fn enabling_the_parent_enables_its_branches_those_to_come_as_well() {
    let fixture = Fixture::with_tenant(json!({ "token_access": "disabled" }));
    let admin = &fixture.sluice.admin;
    let person = fixture.granted("first");
    let existing = branch(&fixture);
    let state = |tenant: &str| admin.get(&format!("/v1/tenants/{tenant}/access"))["state"].clone();
    assert!(login(&fixture, &person, &existing).open().is_err());
    assert_eq!(state(&existing), "disabled");

    admin.set_token_access(&fixture.tenant, "enabled");
    let future = branch(&fixture);
    let mut clients = Vec::new();
    for branch in [&existing, &future] {
        assert_eq!(state(branch), "enabled");
        let mut client = login(&fixture, &person, branch).open().unwrap();
        assert_eq!(client.value("select current_user"), TOKEN_ROLE);
        clients.push(client);
    }
    // A branch does not stay behind: it is on as long as its parent is.
    let path = format!("/v1/tenants/{existing}/access");
    let refused = admin.call(Method::PUT, &path, Some(json!({ "state": "disabled" })));
    assert_eq!(
        (refused.status, refused.error().0.as_str()),
        (409, "enabled_by_parent")
    );

    let disabled = admin.set_token_access(&fixture.tenant, "disabled");
    assert_eq!(Revocation::of(&disabled).sessions_ended, 2);
    for client in &mut clients {
        assert_eq!(client.farewell().code, "57P01");
    }
    for branch in [&existing, &future] {
        assert!(login(&fixture, &person, branch).open().is_err());
        assert_eq!(state(branch), "disabled");
    }
}

#[test]
fn removing_a_branch_ends_its_sessions_and_no_others() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let (gone, stays) = (branch(&fixture), branch(&fixture));
    let mut ended = login(&fixture, &person, &gone).open().unwrap();
    ended.query("begin").unwrap();
    let mut kept = [
        login(&fixture, &person, &stays).open().unwrap(),
        fixture.token_client(&person).unwrap(),
    ];
    let removed = fixture.sluice.admin.delete(&format!("/v1/tenants/{gone}"));
    let report = Revocation::of(&removed);
    assert_eq!((report.sessions_ended, report.unconfirmed), (1, 0));
    assert_eq!(ended.farewell().code, "57P01");
    for client in &mut kept {
        assert_eq!(client.value("select 1"), "1");
    }
}

#[test]
fn who_leaves_the_parent_leaves_its_branches() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let branch = branch(&fixture);
    // A rule of the branch's own, too.
    let rule = format!("/v1/tenants/{branch}/rules/{}/{TOKEN_ROLE}", person.id);
    fixture.sluice.admin.put(&rule, json!({ "expires": "2h" }));
    let mut clients = [
        login(&fixture, &person, &branch).open().unwrap(),
        fixture.token_client(&person).unwrap(),
    ];
    let path = format!("/v1/tenants/{}/members/{}", fixture.tenant, person.id);
    let removed = fixture.sluice.admin.delete(&path);
    assert_eq!(Revocation::of(&removed).sessions_ended, 2);
    for client in &mut clients {
        assert_eq!(client.farewell().code, "57P01");
    }
    assert!(login(&fixture, &person, &branch).open().is_err());
}

#[test]
fn rules_of_a_branch_are_listed_with_the_addresses_of_the_parents_members() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let branch = branch(&fixture);
    let rule = format!("/v1/tenants/{branch}/rules/{}/{TOKEN_ROLE}", person.id);
    fixture.sluice.admin.put(&rule, json!({ "expires": "2h" }));
    let rules = fixture
        .sluice
        .admin
        .get(&format!("/v1/tenants/{branch}/rules"));
    assert_eq!(rules["rules"][0]["email"], person.email);
    let list = format!("/v1/projects/{branch}/database/jit/list");
    let items = fixture.sluice.admin.get(&list);
    assert_eq!(items["items"][0]["primary_email"], person.email);
}

/// A tenant that asks `authority`, with one branch from before it did and one from later; answers are good for `recheck`.
fn external(authority: &Authority, recheck: &str) -> (Fixture, [String; 2]) {
    let settings = Settings::default()
        .set("authorities.networks", vec!["127.0.0.0/8"])
        .set("authorities.recheck", recheck);
    let fixture = Fixture::with(settings);
    let existing = branch(&fixture);
    let path = format!("/v1/tenants/{}", fixture.tenant);
    let field = json!({ "authority": authority.field() });
    fixture.sluice.admin.patch(&path, field);
    let future = branch(&fixture);
    fixture.sluice.keep_secret(TOKEN);
    (fixture, [existing, future])
}

#[test]
fn an_authority_may_be_asked_about_each_branch_by_its_ref() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let (fixture, [existing, _]) = external(&authority, "1h");
    let mut field = authority.field();
    field["url"] = json!(authority.url().replace("/demo/", "/{ref}/"));
    let path = format!("/v1/tenants/{}", fixture.tenant);
    let set = json!({ "authority": field });
    let answer = fixture.sluice.admin.patch(&path, set);
    assert_eq!(answer["tenant"]["authority"]["url"], field["url"]);
    for tenant in [&fixture.tenant, &existing] {
        assert!(external_login(&fixture, tenant).open().is_ok());
        let asked = authority.asked();
        let line = format!("POST /v1/projects/{tenant}/database/jit HTTP/1.1");
        assert_eq!(asked.last().unwrap().line, line);
    }
    assert_eq!(authority.asked().len(), 2);
}

fn external_login(fixture: &Fixture, tenant: &str) -> Login {
    let login = fixture.role_login(TOKEN_ROLE).password(TOKEN);
    let login = login.user(&format!("{TOKEN_ROLE}.{tenant}"));
    login.options("-c jit=true").encrypted()
}

#[test]
fn the_parents_external_authority_decides_for_its_branches_those_to_come_as_well() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let (fixture, [existing, future]) = external(&authority, "1h");
    for tenant in [&fixture.tenant, &existing, &future] {
        let mut client = external_login(&fixture, tenant).open().unwrap();
        assert_eq!(client.value("select current_user"), TOKEN_ROLE);
        assert_eq!(fixture.sluice.admin.sessions(tenant)[0]["person"], USER);
    }
    assert_eq!(
        authority.asked().len(),
        1,
        "one question, and what was answered is good for all of them"
    );
}

#[test]
fn what_the_parents_authority_limits_to_branches_opens_branches_only() {
    let authority = Authority::start();
    authority.react(yes(json!({ "role": TOKEN_ROLE, "branches_only": true })));
    let (fixture, [existing, future]) = external(&authority, "1h");
    for tenant in [&existing, &future] {
        assert!(external_login(&fixture, tenant).open().is_ok());
    }
    let refused = external_login(&fixture, &fixture.tenant).open();
    let refused = refused.err().unwrap();
    assert_eq!(
        (refused.code.as_str(), refused.detail.as_deref()),
        ("28000", Some("The rule holds on branches only."))
    );
}

#[test]
fn a_no_of_the_parents_authority_ends_the_sessions_on_branches_too() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let (fixture, [existing, future]) = external(&authority, "1s");
    let tenants = [&fixture.tenant, &existing, &future];
    let mut clients = tenants.map(|tenant| external_login(&fixture, tenant).open().unwrap());
    authority.react(Reaction::Json(401, json!({})));
    for client in &mut clients {
        assert_eq!(
            client.farewell().message,
            "terminating connection due to access revocation"
        );
    }
    until("no backend is left", || fixture.backends().is_empty());
}

#[test]
fn the_parents_authority_revokes_on_branches_with_one_call() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let (fixture, [existing, future]) = external(&authority, "1h");
    let tenants = [&fixture.tenant, &existing, &future];
    let admin = &fixture.sluice.admin;
    let path = |tenant: &str| format!("/v1/tenants/{tenant}/authority/revocations");
    for body in [
        json!({ "token": TOKEN }),
        json!({ "person": USER }),
        json!({}),
    ] {
        let mut clients = tenants.map(|tenant| external_login(&fixture, tenant).open().unwrap());
        let report = Revocation::of(&admin.post(&path(&fixture.tenant), body.clone()));
        assert_eq!(
            (report.sessions_ended, report.unconfirmed),
            (3, 0),
            "{body}: {report:?}"
        );
        assert!(fixture.backends().is_empty(), "{body}");
        for client in &mut clients {
            assert_eq!(client.farewell().code, "57P01");
        }
    }
    let refused = admin.call(Method::POST, &path(&existing), Some(json!({})));
    assert_eq!(refused.status, 422);
    assert!(refused.text.contains("its parent's"), "{}", refused.text);
}

#[test]
fn another_authority_for_the_parent_ends_the_sessions_that_the_former_let_in_on_branches() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let (fixture, [existing, _]) = external(&authority, "1h");
    let mut client = external_login(&fixture, &existing).open().unwrap();
    let path = format!("/v1/tenants/{}", fixture.tenant);
    let catalogue = json!({ "authority": { "kind": "catalogue" } });
    let report = Revocation::of(&fixture.sluice.admin.patch(&path, catalogue));
    assert_eq!((report.sessions_ended, report.unconfirmed), (1, 0));
    assert_eq!(client.farewell().code, "57P01");
    let person = fixture.granted("first");
    assert!(login(&fixture, &person, &existing).open().is_ok());
}

#[test]
fn a_branch_may_have_an_authority_of_its_own() {
    let authority = Authority::allowing(TOKEN_ROLE);
    let (fixture, [branch, _]) = external(&authority, "1h");
    let person = fixture.granted("first");
    let shown = |tenant: &str| fixture.sluice.cli(&["tenant", "show", tenant]);
    for word in ["token access", "authority", "token networks"] {
        let shown = shown(&branch);
        let line = shown.lines().find(|line| line.starts_with(word)).unwrap();
        assert!(line.ends_with("as its parent"), "{line}");
    }
    fixture.sluice.cli(&["authority", "catalogue", &branch]);
    assert!(login(&fixture, &person, &branch).open().is_ok());
    let refused = external_login(&fixture, &branch).open().err().unwrap();
    assert_eq!(refused.code, "28P01");
    fixture.sluice.cli(&["authority", "parent", &branch]);
    assert!(external_login(&fixture, &branch).open().is_ok());

    let path = format!("/v1/tenants/{}", fixture.tenant);
    let parent = json!({ "authority": { "kind": "parent" } });
    let refused = fixture
        .sluice
        .admin
        .call(Method::PATCH, &path, Some(parent));
    assert_eq!(
        (refused.status, refused.error().0.as_str()),
        (422, "invalid")
    );
}

#[test]
fn a_branch_that_says_nothing_of_networks_takes_tokens_from_its_parents() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let (silent, open) = (branch(&fixture), branch(&fixture));
    let admin = &fixture.sluice.admin;
    let set = |tenant: &str, networks: &[&str]| {
        admin.patch(
            &format!("/v1/tenants/{tenant}"),
            json!({ "networks": networks }),
        )
    };
    set(&open, &["0.0.0.0/0", "::/0"]);
    let mut ended = login(&fixture, &person, &silent).open().unwrap();
    let mut kept = login(&fixture, &person, &open).open().unwrap();
    let report = Revocation::of(&set(&fixture.tenant, &["192.0.2.0/24"]));
    assert_eq!((report.sessions_ended, report.unconfirmed), (1, 0));
    assert_eq!(ended.farewell().code, "57P01");
    assert_eq!(kept.value("select 1"), "1");
    let refused = login(&fixture, &person, &silent).open().err().unwrap();
    let detail = refused.detail.unwrap();
    assert!(detail.contains("network"), "{detail}");
    // A branch to come is no way around it either.
    let future = branch(&fixture);
    assert!(login(&fixture, &person, &future).open().is_err());
}
