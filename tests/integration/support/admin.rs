//! The HTTP API, as an administrator's tool calls it.

use std::sync::OnceLock;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::canaries::Canaries;

/// A caller with one key, or none. Every answer is searched for the secrets that are known when it comes.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) url: String,
    key: Option<String>,
    client: reqwest::Client,
    pub(crate) canaries: Canaries,
}

/// Status and body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

/// What a call that revokes has answered.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Revocation {
    pub(crate) revision: i64,
    pub(crate) sessions_ended: u32,
    pub(crate) backends_closed: u32,
    pub(crate) unconfirmed: u32,
    pub(crate) elapsed_ms: f64,
    pub(crate) slowest_ms: f64,
}

impl Admin {
    pub(crate) fn new(port: u16, key: &str) -> Self {
        Self {
            url: format!("http://127.0.0.1:{port}"),
            key: Some(key.to_owned()),
            client: reqwest::Client::new(),
            canaries: Canaries::default(),
        }
    }

    /// The same API with another key, such as a person's token.
    pub(crate) fn with_key(&self, key: Option<&str>) -> Self {
        Self {
            key: key.map(ToOwned::to_owned),
            ..self.clone()
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        runtime().block_on(async {
            let answer = self.client.get(format!("{}/ready", self.url)).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).value()
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: Value) -> Value {
        self.call(Method::POST, path, Some(body)).value()
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, body: Value) -> Value {
        self.call(Method::PUT, path, Some(body)).value()
    }

    #[track_caller]
    pub(crate) fn patch(&self, path: &str, body: Value) -> Value {
        self.call(Method::PATCH, path, Some(body)).value()
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Value {
        self.call(Method::DELETE, path, None).value()
    }

    /// Makes the call and answers whatever comes back.
    pub(crate) fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = runtime().block_on(async {
            let answer = request.send().await.expect("an answer");
            Answer {
                status: answer.status().as_u16(),
                text: answer.text().await.expect("a body"),
            }
        });
        self.canaries
            .search(&format!("the answer to {path}"), answer.text.as_bytes());
        answer
    }

    /// The sessions that Sluice lists for a tenant.
    pub(crate) fn sessions(&self, tenant: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/sessions?tenant={tenant}"));
        answer["sessions"].as_array().expect("sessions").clone()
    }

    /// The audit trail of a tenant, newest first.
    pub(crate) fn audit(&self, tenant: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/audit?tenant={tenant}&limit=1000"));
        answer["rows"].as_array().expect("rows").clone()
    }

    pub(crate) fn set_token_access(&self, tenant: &str, state: &str) -> Value {
        self.put(
            &format!("/v1/tenants/{tenant}/access"),
            json!({ "state": state }),
        )
    }
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub(crate) fn value(&self) -> Value {
        assert!(
            (200..300).contains(&self.status),
            "the API refuses: {self:?}"
        );
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// Code and message of an error.
    #[track_caller]
    pub(crate) fn error(&self) -> (String, String) {
        let body: Value = serde_json::from_str(&self.text).expect("JSON");
        let text = |field: &str| {
            body["error"][field]
                .as_str()
                .expect("error fields")
                .to_owned()
        };
        (text("code"), text("message"))
    }
}

impl Revocation {
    /// The report in the answer to a change.
    #[track_caller]
    pub(crate) fn of(answer: &Value) -> Self {
        serde_json::from_value(answer["revocation"].clone())
            .unwrap_or_else(|error| panic!("no revocation report in {answer}: {error}"))
    }
}

/// Runs the HTTP client; the tests themselves block.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    })
}
