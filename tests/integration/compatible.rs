//! The routes with the shapes of the Management API: its clients work here unchanged.

use reqwest::Method;
use serde_json::json;

use crate::support::{
    Fixture,
    admin::Revocation,
    postgres::{OTHER_TOKEN_ROLE, TOKEN_ROLE},
};

#[test]
fn the_compatible_switch_and_rules_work_as_the_management_api_does() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let admin = &fixture.sluice.admin;
    let project = format!("/v1/projects/{}", fixture.tenant);
    assert_eq!(
        admin.get(&format!("{project}/jit-access"))["state"],
        "enabled"
    );
    let switched = admin.put(
        &format!("{project}/jit-access"),
        json!({ "state": "disabled" }),
    );
    assert_eq!(switched["state"], "disabled");
    admin.put(
        &format!("{project}/jit-access"),
        json!({ "state": "enabled" }),
    );

    let in_an_hour = (time::OffsetDateTime::now_utc() + time::Duration::HOUR).unix_timestamp();
    let role = |role: &str| {
        json!({
            "role": role, "expires_at": in_an_hour,
            "allowed_networks": { "allowed_cidrs": [{ "cidr": "127.0.0.0/8" }], "allowed_cidrs_v6": [] },
        })
    };
    let grants =
        json!({ "user_id": person.id, "roles": [role(TOKEN_ROLE), role(OTHER_TOKEN_ROLE)] });
    let answer = admin.put(&format!("{project}/database/jit"), grants);
    assert_eq!(answer["user_id"], person.id);
    assert_eq!(answer["user_roles"].as_array().unwrap().len(), 2);
    let items = admin.get(&format!("{project}/database/jit/list"))["items"].clone();
    assert_eq!(items[0]["user_id"], person.id);
    assert_eq!(items[0]["user_roles"][0]["expires_at"], in_an_hour);
    let mut client = fixture.token_client(&person).unwrap();
    assert_eq!(client.value("select 1"), "1");

    // The set is replaced whole: what is not in it any more is revoked.
    let fewer = json!({ "user_id": person.id, "roles": [role(OTHER_TOKEN_ROLE)] });
    let answer = admin.put(&format!("{project}/database/jit"), fewer);
    assert_eq!(Revocation::of(&answer).sessions_ended, 1);
    assert_eq!(client.farewell().code, "57P01");
    admin.delete(&format!("{project}/database/jit/{}", person.id));
    assert!(
        fixture
            .token_login_as(&person, OTHER_TOKEN_ROLE)
            .open()
            .is_err()
    );
}

#[test]
fn a_person_asks_about_their_own_grants_with_their_token() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let path = format!("/v1/projects/{}/database/jit", fixture.tenant);
    let own = fixture.sluice.admin.with_key(Some(&person.token));
    assert_eq!(own.get(&path)["user_roles"][0]["role"], TOKEN_ROLE);

    let ask = |role: &str, rhost: &str| {
        own.call(
            Method::POST,
            &path,
            Some(json!({ "role": role, "rhost": rhost })),
        )
    };
    let allowed = ask(TOKEN_ROLE, "192.0.2.7").value();
    assert_eq!(allowed["user_id"], person.id);
    assert_eq!(allowed["user_role"]["role"], TOKEN_ROLE);
    assert_eq!(ask(OTHER_TOKEN_ROLE, "192.0.2.7").status, 406);
    assert_eq!(ask(TOKEN_ROLE, "not an address").status, 400);
    let stranger = fixture.sluice.admin.with_key(Some("slp_nothing"));
    assert_eq!(stranger.call(Method::GET, &path, None).status, 401);
    let without = fixture.person("second");
    let none = fixture.sluice.admin.with_key(Some(&without.token));
    assert_eq!(none.call(Method::GET, &path, None).status, 406);
}
