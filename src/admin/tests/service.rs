//! Keys, health, metrics, reload, unknown routes, the end of service.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::world::{ADMIN_KEY, EMAIL, OPERATOR_KEY, ROLE, VIEWER_KEY, World};
use crate::admin::{self, MetricsGuard, Readiness};

#[tokio::test]
async fn every_call_but_health_and_readiness_needs_a_key() {
    let world = World::start().await;
    for path in [
        "/v1/tenants",
        "/v1/tenants/demo",
        "/v1/tenants/demo/access",
        "/v1/tenants/demo/members",
        "/v1/tenants/demo/rules",
        "/v1/tenants/demo/invites",
        "/v1/people",
        "/v1/people/first@example.com/tokens",
        "/v1/sessions",
        "/v1/audit",
        "/v1/audit/verify",
        "/v1/projects/demo/jit-access",
        "/v1/projects/demo/database/jit",
        "/v1/projects/demo/database/jit/list",
    ] {
        for bearer in [None, Some("wrong"), Some("")] {
            let (status, body) = world.call(bearer, Method::GET, path, None).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
            assert!(body["error"]["hint"].is_string(), "{path}: {body}");
        }
    }
    for path in ["/health", "/ready"] {
        let (status, _) = world.call(None, Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn the_admin_key_is_no_token_and_a_token_no_admin_key() {
    let world = World::start().await;
    let token = world.settle().await;
    let (status, _) = world
        .call(Some(&token), Method::GET, "/v1/people", None)
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (_, audit) = world.get("/v1/audit?kind=admin.denied").await;
    assert_eq!(audit["rows"][0]["email"], EMAIL, "who tried is known");
    let (status, _) = world.get("/v1/projects/demo/database/jit").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_path_that_does_not_fit_is_refused_in_the_one_shape_and_only_with_the_key() {
    let world = World::start().await;
    for (path, said) in [
        ("/v1/people/%ff", "`person` in the path is not UTF-8"),
        ("/v1/tenants/%ff", "`ref` in the path is not UTF-8"),
        (
            "/v1/tenants/Demo",
            "a part of the path: a tenant ref may hold lower-case letters, digits, - and _ only",
        ),
        (
            "/v1/tenants/Demo/rules",
            "a part of the path: a tenant ref may hold lower-case letters, digits, - and _ only",
        ),
        (
            "/v1/audit?session=hush",
            "`session`: an id looks like 0197068e-5f3a-7cc1-a1b2-0c9d8e7f6a5b",
        ),
    ] {
        let (status, _) = world.call(None, Method::GET, path, None).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        let (status, body) = world.get(path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(body["error"]["message"], said, "{path}");
    }
}

#[tokio::test]
async fn a_lesser_key_opens_what_the_description_says_and_nothing_else() {
    let world = World::start().await;
    let document: Value = serde_json::from_str(admin::DOCUMENT).unwrap();
    let mut denied = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let keys = operation["security"].as_array().into_iter().flatten();
            let keys: Vec<_> = keys
                .flat_map(|key| key.as_object().unwrap().keys())
                .collect();
            let takes = |name: &str| keys.iter().any(|key| *key == name);
            if !takes("admin_key") || takes("webhook_key") {
                continue;
            }
            for (name, key) in [("operator_key", OPERATOR_KEY), ("viewer_key", VIEWER_KEY)] {
                // The braces in the path name nobody: what is let through changes nothing.
                let verb: Method = method.to_uppercase().parse().unwrap();
                let (status, body) = world.call(Some(key), verb, path, None).await;
                if takes(name) {
                    let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
                    assert!(
                        !refused.contains(&status),
                        "{name}: {method} {path}: {body}"
                    );
                } else {
                    assert_eq!(status, StatusCode::FORBIDDEN, "{name}: {method} {path}");
                    denied += 1;
                }
            }
            assert!(method != "get" || takes("viewer_key"), "{path}");
        }
    }
    assert!(denied > 30, "{denied}");
}

#[tokio::test]
async fn an_operator_gives_and_takes_access_and_a_viewer_looks_on() {
    let world = World::start().await;
    let token = world.settle().await;
    let rules = "/v1/tenants/demo/rules";
    let rule = json!({"person": EMAIL, "role": ROLE, "expires": "1h"});
    let call =
        async |key, method, path: &str, body| world.call(Some(key), method, path, body).await.0;
    let refused = call(VIEWER_KEY, Method::POST, rules, Some(rule.clone())).await;
    assert_eq!(refused, StatusCode::FORBIDDEN);
    let added = call(OPERATOR_KEY, Method::POST, rules, Some(rule)).await;
    assert_eq!(added, StatusCode::CREATED);
    let session = world.log_in(&token).await;
    let tokens = format!("/v1/people/{EMAIL}/tokens");
    let made = json!({"name": "another", "expires": "1h"});
    let refused = call(OPERATOR_KEY, Method::POST, &tokens, Some(made)).await;
    assert_eq!(refused, StatusCode::FORBIDDEN, "a token is its person");
    let revoked = call(OPERATOR_KEY, Method::DELETE, &tokens, None).await;
    assert_eq!(revoked, StatusCode::OK);
    session.await.unwrap();
    let path = "/v1/audit?kind=rule.created";
    let (_, audit) = world.call(Some(VIEWER_KEY), Method::GET, path, None).await;
    assert_eq!(audit["rows"][0]["actor"], "operator-key");
    let (_, audit) = world.get("/v1/audit?kind=admin.denied").await;
    let actors = audit["rows"].as_array().unwrap().iter();
    let actors: Vec<_> = actors.map(|row| &row["actor"]).collect();
    assert!(actors.contains(&&json!("viewer-key")), "{actors:?}");
}

#[tokio::test]
async fn metrics_can_be_put_behind_the_key() {
    for (guard, without) in [
        (MetricsGuard::Open, StatusCode::OK),
        (MetricsGuard::AdminKey, StatusCode::UNAUTHORIZED),
    ] {
        let world = World::guarding_metrics(guard).await;
        let (status, _) = world.call(None, Method::GET, "/metrics", None).await;
        assert_eq!(status, without, "{guard:?}");
        let (status, _) = world.get("/metrics").await;
        assert_eq!(status, StatusCode::OK, "{guard:?}");
    }
}

#[tokio::test]
async fn it_is_ready_only_while_new_clients_are_served() {
    let world = World::start().await;
    for (readiness, expected) in [
        (Readiness::Starting, StatusCode::SERVICE_UNAVAILABLE),
        (Readiness::Ready, StatusCode::OK),
        (Readiness::Draining, StatusCode::SERVICE_UNAVAILABLE),
    ] {
        world.readiness.send_replace(readiness);
        let (status, _) = world.call(None, Method::GET, "/ready", None).await;
        assert_eq!(status, expected, "{readiness:?}");
        let (status, _) = world.call(None, Method::GET, "/health", None).await;
        assert_eq!(status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_reload_answers_what_came_of_it() {
    let mut world = World::start().await;
    let mut reloads = std::mem::replace(&mut world.reloads, tokio::sync::mpsc::channel(1).1);
    let operator = tokio::spawn(async move {
        let good = reloads.recv().await.unwrap();
        good.answer.send(Ok(())).unwrap();
        let bad = reloads.recv().await.unwrap();
        bad.answer
            .send(Err("pooler.toml, line 3: no".into()))
            .unwrap();
    });
    let (status, _) = world.send(Method::POST, "/v1/reload", json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let (status, body) = world.send(Method::POST, "/v1/reload", json!({})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(body["error"]["message"], "pooler.toml, line 3: no");
    operator.await.unwrap();
}

#[tokio::test]
async fn unknown_routes_and_methods_are_refused_in_the_one_shape() {
    let world = World::start().await;
    let (status, body) = world.get("/v1/tenant").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(body["error"]["code"], "not_found");
    let (status, body) = world.delete("/v1/tenants").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(body["error"]["code"], "method_not_allowed");
}

#[tokio::test]
async fn a_body_that_does_not_fit_is_refused_with_the_place_named() {
    let world = World::start().await;
    let (status, body) = world
        .send(
            Method::POST,
            "/v1/people",
            json!({"email": "a@example.com", "phone": "1"}),
        )
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("no field `phone`"), "{message}");
    let (status, body) = world
        .call(Some(ADMIN_KEY), Method::POST, "/v1/people", None)
        .await;
    assert_eq!(
        (status, &body["error"]["message"]),
        (
            StatusCode::BAD_REQUEST,
            &json!("the body is empty, it must be JSON")
        )
    );
    let long = Value::String("x".repeat(300_000));
    let (status, _) = world
        .send(Method::POST, "/v1/people", json!({ "email": long }))
        .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = world.get("/v1/sessions?persona=x").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn service_ends_when_it_is_asked_to() {
    let world = World::start().await;
    world.get("/health").await;
    world.shutdown.cancel();
    world.server.await.unwrap().unwrap();
}
