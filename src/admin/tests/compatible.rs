//! The routes under `/v1/projects`.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::world::{EMAIL, ROLE, World};
use crate::catalog::Token;

const JIT: &str = "/v1/projects/demo/database/jit";

async fn person_id(world: &World) -> String {
    let (_, found) = world.get(&format!("/v1/people/{EMAIL}")).await;
    found["person"]["id"].as_str().unwrap().to_owned()
}

fn soon() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp() + 3_600
}

async fn authorise(world: &World, token: &str, role: &str, rhost: &str) -> (StatusCode, Value) {
    let body = json!({"role": role, "rhost": rhost});
    world.call(Some(token), Method::POST, JIT, Some(body)).await
}

#[tokio::test]
async fn the_switch_is_read_and_turned() {
    let world = World::start().await;
    world.settle().await;
    let path = "/v1/projects/demo/jit-access";
    let (_, before) = world.get(path).await;
    assert_eq!(
        (&before["state"], &before["unavailableReason"]),
        (&json!("unavailable"), &json!("temporarily_unavailable")),
        "there is no server"
    );
    let after = world
        .make(Method::PUT, path, json!({"state": "disabled"}))
        .await;
    assert_eq!(
        after,
        json!({"state": "disabled", "appliedSuccessfully": true})
    );
}

#[tokio::test]
async fn a_persons_roles_are_replaced_as_a_whole() {
    let world = World::start().await;
    let token = world.settle().await;
    world.grant().await;
    let session = world.log_in(&token).await;
    let user_id = person_id(&world).await;
    let expires_at = soon();
    let networks = json!({"allowed_cidrs": [{"cidr": "192.0.2.0/24"}], "allowed_cidrs_v6": []});
    let role = json!({"role": "reporting", "expires_at": expires_at, "allowed_networks": networks});
    let body = json!({"user_id": user_id, "roles": [role]});
    let set = world.make(Method::PUT, JIT, body).await;
    assert_eq!(set["revocation"]["sessions_ended"], 1);
    session.await.unwrap();
    let expected = json!([{
        "role": "reporting",
        "expires_at": expires_at,
        "allowed_networks": networks,
        "branches_only": false,
    }]);
    assert_eq!(set["user_roles"], expected);
    let (_, listed) = world.get(&format!("{JIT}/list")).await;
    assert_eq!(
        listed["items"],
        json!([{"user_id": user_id, "user_roles": expected, "primary_email": EMAIL}])
    );
    let (_, own) = world.call(Some(&token), Method::GET, JIT, None).await;
    assert_eq!(own, json!({"user_id": user_id, "user_roles": expected}));
}

#[tokio::test]
async fn the_authorise_call_tells_the_kinds_of_no_apart() {
    let world = World::start().await;
    let token = world.settle().await;
    let (status, _) = world.call(Some(&token), Method::GET, JIT, None).await;
    assert_eq!(status, StatusCode::NOT_ACCEPTABLE);
    let (status, body) = authorise(&world, &token, ROLE, "127.0.0.1").await;
    assert_eq!(status, StatusCode::NOT_ACCEPTABLE);
    assert_eq!(body["error"]["code"], "no_rule");
    assert_eq!(body["message"], body["error"]["message"]);

    let rule = json!({"person": EMAIL, "role": ROLE, "expires": "1h", "networks": ["127.0.0.0/8"]});
    world
        .make(Method::POST, "/v1/tenants/demo/rules", rule)
        .await;
    let (status, body) = authorise(&world, &token, ROLE, "127.0.0.1").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["user_id"], json!(person_id(&world).await));
    assert_eq!(body["user_role"]["role"], ROLE);
    assert!(body["user_role"]["expires_at"].as_i64().unwrap() <= soon());

    let (status, body) = authorise(&world, &token, ROLE, "192.0.2.1").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::FORBIDDEN, &json!("network"))
    );
    let (status, _) = authorise(&world, &token, ROLE, "somewhere").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    world.delete(&format!("/v1/tokens/{}", &token[4..16])).await;
    let (status, body) = authorise(&world, &token, ROLE, "127.0.0.1").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::UNAUTHORIZED, &json!("invalid_token"))
    );
}

#[tokio::test]
async fn authorise_calls_are_in_the_audit_trail() {
    let world = World::start().await;
    let token = world.settle().await;
    authorise(&world, &token, ROLE, "127.0.0.1").await;
    let (_, audit) = world.get("/v1/audit?kind=auth.denied").await;
    let row = &audit["rows"][0];
    assert_eq!(
        (&row["reason"], &row["peer"]),
        (&json!("no_rule"), &json!("127.0.0.1"))
    );
    assert_eq!(
        (&row["email"], &row["token"]),
        (&json!(EMAIL), &json!(&token[4..16])),
        "whose token it was is known"
    );
}

#[tokio::test]
async fn who_has_no_token_cannot_fill_the_trail_with_what_they_make_up() {
    let world = World::start().await;
    world.settle().await;
    let unknown = Token::generate().unwrap().reveal();
    for number in 1..=50 {
        let path = format!("/v1/projects/made-up-{number}/database/jit");
        let body = json!({"role": format!("role{number}"), "rhost": format!("192.0.2.{number}")});
        let (status, _) = world
            .call(Some(&unknown), Method::POST, &path, Some(body))
            .await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    let (_, audit) = world.get("/v1/audit?kind=auth.denied&limit=1000").await;
    let rows = audit["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "the others are counted: {rows:?}");
    assert_eq!(rows[0]["tenant"], Value::Null, "there is no such tenant");
    assert_eq!(rows[0]["detail"]["asked_by"], "127.0.0.1");
}

#[tokio::test]
async fn a_token_does_not_find_out_which_tenants_exist() {
    let world = World::start().await;
    let token = world.settle().await;
    let there = world.call(Some(&token), Method::GET, JIT, None).await;
    let path = "/v1/projects/elsewhere/database/jit";
    let not_there = world.call(Some(&token), Method::GET, path, None).await;
    assert_eq!(there, not_there);
}

#[tokio::test]
async fn errors_are_in_the_shape_that_clients_of_these_routes_read() {
    let world = World::start().await;
    let body = json!({"user_id": "00000000-0000-7000-8000-000000000000", "user_roles": []});
    let (status, answer) = world.send(Method::PUT, JIT, body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("no field `user_roles`, only `user_id` or `roles`"),
        "{message}"
    );
    let (_, answer) = world.call(None, Method::PUT, JIT, None).await;
    assert!(answer["message"].is_string(), "{answer}");
}
