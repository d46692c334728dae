//! The description of the API against the listener, and against docs/api.md.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::world::World;
use crate::admin;

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// How the paths end that need no key.
const OPEN: [&str; 6] = [
    "/health",
    "/ready",
    "/openapi.json",
    "/invites/accept",
    "/invite/accept",
    "/tokens/leaked",
];

fn document() -> Value {
    serde_json::from_str(admin::DOCUMENT).unwrap()
}

/// Path, method and description of every operation.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(|(method, operation)| (path.as_str(), method.as_str(), operation))
    });
    operations.collect()
}

/// Every reference to another part of the document below `value`.
fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(target) if name == "$ref" => {
                        found.insert(target);
                    }
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn the_description_is_what_the_routes_say() {
    let document = admin::openapi::document().to_pretty_json().unwrap();
    // `make openapi` writes it.
    expect_test::expect_file!["../../../docs/openapi.json"].assert_eq(&(document + "\n"));
}

#[tokio::test]
async fn the_description_is_open_to_all() {
    let world = World::start().await;
    let (status, answer) = world.call(None, Method::GET, "/openapi.json", None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer, document());
}

#[test]
fn the_description_has_the_routes_of_the_docs_and_no_others() {
    let document = document();
    let operations = operations(&document).into_iter();
    let described: BTreeSet<String> = operations
        .map(|(path, method, _)| format!("{} {path}", method.to_uppercase()))
        .collect();
    let lines = include_str!("../../../docs/api.md").lines();
    let documented: BTreeSet<String> = lines
        .filter_map(|line| line.strip_prefix("### "))
        .map(ToOwned::to_owned)
        .collect();
    assert_eq!(described, documented);
}

#[tokio::test]
async fn a_path_takes_the_methods_of_its_description_and_no_others() {
    let world = World::start().await;
    let document = document();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            let verb = method.to_uppercase().parse().unwrap();
            // Without a key: what is there refuses, and nothing is done.
            let (status, _) = world.call(None, verb, path, None).await;
            let is_there = status != StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(is_there, item.get(method).is_some(), "{method} {path}");
            assert_ne!(status, StatusCode::NOT_FOUND, "{method} {path}");
        }
    }
}

#[test]
fn an_operation_says_all_that_a_client_must_know() {
    let document = document();
    let operations = operations(&document);
    let mut identifiers = BTreeSet::new();
    for (path, method, operation) in &operations {
        let told = |name: &str| {
            operation[name]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        };
        assert!(told("summary"), "{method} {path} needs a doc comment");
        assert!(operation["tags"][0].is_string(), "{method} {path}: no tag");
        assert!(identifiers.insert(operation["operationId"].as_str()));
        let parameters = operation["parameters"].as_array();
        let named: BTreeSet<_> = parameters
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        let segments: BTreeSet<_> = admin::openapi::segments(path).collect();
        assert_eq!(named, segments, "{method} {path}: see openapi::segment");
        for (status, response) in operation["responses"].as_object().unwrap() {
            let content = response["content"].as_object();
            assert!(content.is_some(), "{method} {path}: {status} has no body");
        }
        let is_open = OPEN.iter().any(|end| path.ends_with(end));
        assert_eq!(operation["security"].is_null(), is_open, "{method} {path}");
    }
    assert!(
        operations.len() > 40,
        "only {} operations",
        operations.len()
    );
}

#[test]
fn the_description_refers_to_nothing_that_is_not_in_it() {
    let document = document();
    let mut targets = BTreeSet::new();
    references(&document, &mut targets);
    assert!(targets.len() > 30, "only {} references", targets.len());
    for target in targets {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target}");
    }
    let schemes = document["components"]["securitySchemes"].as_object();
    for (path, method, operation) in operations(&document) {
        let keys = operation["security"].as_array().into_iter().flatten();
        for key in keys.flat_map(|keys| keys.as_object().unwrap().keys()) {
            assert!(schemes.unwrap().contains_key(key), "{method} {path}: {key}");
        }
    }
}
