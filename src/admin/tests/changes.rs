//! What administrators change, and what that does to live sessions.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::world::{ADMIN_KEY, EMAIL, ROLE, World, eventually};
use crate::catalog::types::AUDIT_KINDS;

#[tokio::test]
async fn a_tenant_is_added_shown_changed_and_removed() {
    let world = World::start().await;
    let new = json!({"ref": "demo", "host": "db.example.com", "pool_size": 5});
    let made = world.make(Method::POST, "/v1/tenants", new.clone()).await;
    assert_eq!(made["tenant"]["backend_tls"], "verify-full");
    let (status, body) = world.send(Method::POST, "/v1/tenants", new).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::CONFLICT, &json!("exists"))
    );
    let set = world
        .make(
            Method::PATCH,
            "/v1/tenants/demo",
            json!({"pool_size": null, "port": 6000}),
        )
        .await;
    assert_eq!(
        (&set["tenant"]["pool_size"], &set["tenant"]["port"]),
        (&Value::Null, &json!(6000))
    );
    let (_, listed) = world.get("/v1/tenants").await;
    assert_eq!(listed["tenants"][0], set["tenant"]);
    let (status, _) = world.delete("/v1/tenants/demo").await;
    assert_eq!(status, StatusCode::OK);
    let (status, body) = world.get("/v1/tenants/demo").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(
        body["error"]["hint"]
            .as_str()
            .unwrap()
            .contains("tenant list")
    );
}

#[tokio::test]
async fn networks_are_checked_and_kept_in_one_form_on_every_route() {
    let world = World::start().await;
    world.settle().await;
    world.grant().await;
    let one = format!("/v1/tenants/demo/rules/{EMAIL}/{ROLE}");
    let typed = json!(["10.1.2.3/8", "192.0.2.7", "2001:db8::1/32"]);
    let kept = json!(["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]);
    let other = json!({"person": EMAIL, "role": "other", "expires": "1h"});
    let new = json!({"ref": "new", "host": "127.0.0.1"});
    for (method, path, mut body, answer) in [
        (Method::POST, "/v1/tenants", new, "/tenant/networks"),
        (
            Method::PATCH,
            "/v1/tenants/demo",
            json!({}),
            "/tenant/networks",
        ),
        (
            Method::POST,
            "/v1/tenants/demo/rules",
            other,
            "/rule/networks",
        ),
        (
            Method::PUT,
            &one,
            json!({"expires": "1h"}),
            "/rule/networks",
        ),
        (Method::PATCH, &one, json!({}), "/rule/networks"),
    ] {
        body["networks"] = json!(["10.0.0.0/8", "10.0.0.0/33"]);
        let (status, refused) = world.send(method.clone(), path, body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{method} {path}");
        let said = refused["error"]["message"].as_str().unwrap();
        assert!(
            said.starts_with("`networks[1]`: write a network ("),
            "{said}"
        );
        body["networks"] = typed.clone();
        let made = world.make(method.clone(), path, body).await;
        assert_eq!(made.pointer(answer), Some(&kept), "{method} {path}");
    }
}

#[tokio::test]
async fn a_role_secret_is_checked_before_it_is_stored() {
    let world = World::start().await;
    world.settle().await;
    let path = "/v1/tenants/demo/roles/app/secret";
    for body in [
        json!({"password": ""}),
        json!({"verifier": "SCRAM-SHA-256$nonsense"}),
        json!({"password": "x", "verifier": "y"}),
        json!({}),
    ] {
        let (status, answer) = world.send(Method::PUT, path, body.clone()).await;
        assert!(status.is_client_error(), "{body}: {status} {answer}");
    }
    for body in [
        json!({}),
        json!({"password": "hush", "verifier": "hush"}),
        json!({"hush": "hush"}),
        json!({"password": ["hush"]}),
        json!("hush"),
    ] {
        let (status, answer) = world.send(Method::PUT, path, body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let said = answer["error"]["message"].as_str().unwrap();
        assert_eq!(said, "give either `password` or `verifier`, as text");
        assert!(!answer.to_string().contains("hush"), "{body}: {answer}");
    }
    world
        .make(Method::PUT, path, json!({"password": "secret"}))
        .await;
    let (status, _) = world.delete(path).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = world.delete(path).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_person_is_found_by_id_and_by_address() {
    let world = World::start().await;
    world.settle().await;
    let (_, by_address) = world.get(&format!("/v1/people/{EMAIL}")).await;
    let id = by_address["person"]["id"].as_str().unwrap();
    let (_, by_id) = world.get(&format!("/v1/people/{id}")).await;
    assert_eq!(by_id, by_address);
    assert_eq!(by_id["memberships"][0]["tenant"], "demo");
    let (status, _) = world.get("/v1/people/nobody@example.com").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_token_is_shown_once_and_never_again() {
    let world = World::start().await;
    let token = world.settle().await;
    let (_, listed) = world.get(&format!("/v1/people/{EMAIL}/tokens")).await;
    assert_eq!(listed["tokens"][0]["name"], "laptop");
    let (_, audit) = world.get("/v1/audit").await;
    assert!(!listed.to_string().contains(&token));
    assert!(!audit.to_string().contains(&token));
}

#[tokio::test]
async fn expiries_must_be_meant_and_within_bounds() {
    let world = World::start().await;
    world.settle().await;
    for (expires, code) in [
        ("3600", "invalid"),
        ("soon", "invalid"),
        ("2020-01-01T00:00:00Z", "expiry_in_the_past"),
        ("91d", "expiry_too_far"),
    ] {
        let rule = json!({"person": EMAIL, "role": ROLE, "expires": expires});
        let (status, body) = world
            .send(Method::POST, "/v1/tenants/demo/rules", rule)
            .await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{expires}");
        assert_eq!(body["error"]["code"], code, "{expires}");
    }
}

#[tokio::test]
async fn only_members_get_rules_and_only_for_roles_that_may_be_granted() {
    let world = World::start().await;
    world.settle().await;
    world
        .make(
            Method::POST,
            "/v1/people",
            json!({"email": "guest@example.com"}),
        )
        .await;
    for (person, role, code) in [
        ("guest@example.com", ROLE, "not_a_member"),
        (EMAIL, "postgres", "privileged_role"),
        (EMAIL, "pg_read_all_data", "privileged_role"),
    ] {
        let rule = json!({"person": person, "role": role, "expires": "1h"});
        let (status, body) = world
            .send(Method::POST, "/v1/tenants/demo/rules", rule)
            .await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{person} {role}");
        assert_eq!(body["error"]["code"], code, "{person} {role}");
    }
}

#[tokio::test]
async fn a_rule_is_added_once_and_changed_in_place() {
    let world = World::start().await;
    world.settle().await;
    let rule =
        json!({"person": EMAIL, "role": ROLE, "expires": "24h", "networks": ["127.0.0.0/8"]});
    let added = world
        .make(Method::POST, "/v1/tenants/demo/rules", rule.clone())
        .await;
    let (status, _) = world
        .send(Method::POST, "/v1/tenants/demo/rules", rule)
        .await;
    assert_eq!(status, StatusCode::CONFLICT);
    let path = format!("/v1/tenants/demo/rules/{EMAIL}/{ROLE}");
    let set = world
        .make(Method::PATCH, &path, json!({"reason": "ticket 7"}))
        .await;
    assert_eq!(set["rule"]["id"], added["rule"]["id"]);
    assert_eq!(set["rule"]["networks"], json!(["127.0.0.0/8"]));
    let replaced = world
        .make(Method::PUT, &path, json!({"expires": "1h"}))
        .await;
    assert_eq!(replaced["rule"]["networks"], json!([]));
    assert_eq!(replaced["rule"]["reason"], Value::Null);
    let (_, listed) = world
        .get(&format!("/v1/tenants/demo/rules?person={EMAIL}"))
        .await;
    assert_eq!(listed["rules"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&listed["rules"][0]["email"], &listed["rules"][0]["status"]),
        (&json!(EMAIL), &json!("active"))
    );
}

#[tokio::test]
async fn whatever_takes_access_away_ends_the_sessions_before_it_answers() {
    let member = format!("/v1/tenants/demo/members/{EMAIL}");
    let rule = format!("/v1/tenants/demo/rules/{EMAIL}/{ROLE}");
    let elsewhere = json!({"networks": ["192.0.2.0/24"]});
    for (method, path, body) in [
        (Method::DELETE, rule.clone(), Value::Null),
        (
            Method::DELETE,
            format!("/v1/tenants/demo/rules/{EMAIL}"),
            Value::Null,
        ),
        (Method::PATCH, rule, elsewhere.clone()),
        (Method::DELETE, "/v1/tokens/ID".to_owned(), Value::Null),
        (Method::DELETE, member, Value::Null),
        (Method::DELETE, format!("/v1/people/{EMAIL}"), Value::Null),
        (
            Method::PUT,
            "/v1/tenants/demo/access".to_owned(),
            json!({"state": "disabled"}),
        ),
        (Method::PATCH, "/v1/tenants/demo".to_owned(), elsewhere),
        (Method::DELETE, "/v1/tenants/demo".to_owned(), Value::Null),
        (
            Method::PUT,
            "/v1/projects/demo/jit-access".to_owned(),
            json!({"state": "disabled"}),
        ),
        (
            Method::DELETE,
            format!("/v1/projects/demo/database/jit/{EMAIL}"),
            Value::Null,
        ),
    ] {
        let world = World::start().await;
        let token = world.settle().await;
        world.grant().await;
        let session = world.log_in(&token).await;
        let path = path.replace("ID", &token[4..16]);
        let body = (!body.is_null()).then_some(body);
        let (status, answer) = world.call(Some(ADMIN_KEY), method, &path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        assert!(world.access.registry().is_empty(), "{path}");
        assert!(session.is_finished(), "{path}");
        if let Some(report) = answer.get("revocation") {
            assert_eq!(report["sessions_ended"], 1, "{path}");
        }
    }
}

#[tokio::test]
async fn what_leaves_access_alone_leaves_sessions_alone() {
    let world = World::start().await;
    let token = world.settle().await;
    world.grant().await;
    let session = world.log_in(&token).await;
    let rule = format!("/v1/tenants/demo/rules/{EMAIL}/{ROLE}");
    for (method, path, body) in [
        (Method::PATCH, rule.as_str(), json!({"expires": "48h"})),
        (
            Method::PATCH,
            "/v1/tenants/demo",
            json!({"networks": ["127.0.0.0/8"]}),
        ),
        (
            Method::PUT,
            "/v1/tenants/demo/access",
            json!({"state": "enabled"}),
        ),
    ] {
        let answer = world.make(method, path, body).await;
        assert_eq!(answer["revocation"]["sessions_ended"], 0, "{path}");
    }
    let (_, listed) = world
        .get(&format!("/v1/sessions?tenant=demo&person={EMAIL}"))
        .await;
    assert_eq!(listed["sessions"][0]["email"], EMAIL);
    let id = listed["sessions"][0]["id"].as_str().unwrap();
    let (status, answer) = world.delete(&format!("/v1/sessions/{id}")).await;
    assert_eq!(
        (status, &answer["revocation"]["sessions_ended"]),
        (StatusCode::OK, &json!(1))
    );
    session.await.unwrap();
    let (status, _) = world.delete(&format!("/v1/sessions/{id}")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_change_is_made_whole_although_the_caller_hangs_up() {
    let world = World::start().await;
    let token = world.settle().await;
    world.grant().await;
    let session = world.log_in(&token).await;
    let order = world.changes.in_order().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    let body = r#"{"state": "disabled"}"#;
    let request = format!(
        "PUT /v1/tenants/demo/access HTTP/1.1\r\nHost: sluice\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    caller.write_all(request.as_bytes()).await.unwrap();
    eventually(|| world.changes.under_way() == 1).await;
    drop(caller);
    drop(order);
    session.await.unwrap();
}

#[tokio::test]
async fn a_session_that_does_not_leave_keeps_no_other_change_waiting() {
    let world = World::start().await;
    let token = world.settle().await;
    world.grant().await;
    let other = json!({"ref": "other", "host": "127.0.0.1", "token_access": "enabled"});
    world.make(Method::POST, "/v1/tenants", other).await;
    let stubborn = world.admitted(&token).await;
    let off = json!({"state": "disabled"});
    let first = world.send(Method::PUT, "/v1/tenants/demo/access", off.clone());
    let second = async {
        eventually(|| stubborn.handle().asked_to_end().is_some()).await;
        let done = world.send(Method::PUT, "/v1/tenants/other/access", off);
        let (status, _) = done.await;
        assert_eq!(status, StatusCode::OK);
        assert!(
            world.changes.under_way() > 0,
            "the first still waits for the session"
        );
        drop(stubborn);
    };
    let ((_, ended), ()) = tokio::join!(first, second);
    assert_eq!(ended["revocation"]["sessions_ended"], 1);
}

#[tokio::test]
async fn the_trail_says_who_did_what_and_is_whole() {
    let world = World::start().await;
    world.settle().await;
    world.grant().await;
    let (_, audit) = world
        .get(&format!("/v1/audit?tenant=demo&person={EMAIL}&limit=1"))
        .await;
    let row = &audit["rows"][0];
    assert_eq!((&row["email"], &row["role"]), (&json!(EMAIL), &json!(ROLE)));
    assert_eq!(row["actor"], "admin-key");
    let (_, verdict) = world.get("/v1/audit/verify").await;
    assert_eq!(verdict["fault"], Value::Null);
    let (status, _) = world.get("/v1/audit?limit=1001").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_trail_of_someone_who_is_gone_is_found_by_address() {
    let world = World::start().await;
    world.settle().await;
    let (status, _) = world.delete(&format!("/v1/people/{EMAIL}")).await;
    assert_eq!(status, StatusCode::OK);
    let (status, found) = world
        .get(&format!("/v1/audit?person={}", EMAIL.to_uppercase()))
        .await;
    assert_eq!(status, StatusCode::OK);
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows[0]["kind"], "person.removed");
    assert!(rows.len() > 2 && rows.iter().all(|row| row["email"] == EMAIL));
}

#[tokio::test]
async fn a_filter_that_nothing_can_pass_is_refused() {
    let world = World::start().await;
    world.settle().await;
    for (query, expected, said) in [
        ("tenant=nope", StatusCode::NOT_FOUND, "no tenant `nope`"),
        (
            "person=nobody@example.com",
            StatusCode::NOT_FOUND,
            "no person",
        ),
        (
            "kind=rule.gone",
            StatusCode::BAD_REQUEST,
            "no kind of row `rule.gone`",
        ),
        ("before=-1", StatusCode::BAD_REQUEST, "`before` must be"),
        ("before=0", StatusCode::BAD_REQUEST, "`before` must be"),
        ("limit=0", StatusCode::BAD_REQUEST, "`limit` must be"),
        ("limit=-1", StatusCode::BAD_REQUEST, "`limit` must be"),
        ("limit=1001", StatusCode::BAD_REQUEST, "`limit` must be"),
    ] {
        for route in ["/v1/audit", "/v1/audit/export"] {
            let (status, answer) = world.get(&format!("{route}?{query}")).await;
            assert_eq!(status, expected, "{route}?{query}: {answer}");
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains(said), "{route}?{query}: {message}");
        }
    }
    let (status, _) = world.get("/v1/audit?kind=rule.created").await;
    assert_eq!(status, StatusCode::OK);
    let (_, found) = world.get("/v1/audit?limit=1000").await;
    for row in found["rows"].as_array().unwrap() {
        let kind = row["kind"].as_str().unwrap();
        assert!(AUDIT_KINDS.contains(&kind), "{kind}");
    }
}
