//! Branches: what is enabled, granted and removed on a tenant reaches its branches.

use reqwest::Method;
use serde_json::json;

use crate::support::{
    Fixture, Login, Person, admin::Revocation, fixture::unique_name, postgres::TOKEN_ROLE,
};

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
