//! An admin listener on a free port, and sessions that end when they are asked to.

use std::{future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use zeroize::Zeroizing;

use crate::{
    access::{Access, Credential, EndCause, Identity, Registration},
    admin::{AdminState, Changes, MetricsGuard, Readiness, ReloadRequest, serve},
    catalog::{Catalog, Token},
    config::{Config, Secret},
    doctor::Doctor,
    names::{DatabaseName, RoleName, TenantRef},
    session::Overview,
};

pub(crate) const ADMIN_KEY: &str = "an-admin-key-of-the-tests";
pub(super) const OPERATOR_KEY: &str = "an-operators-key-of-the-tests";
pub(super) const VIEWER_KEY: &str = "a-viewers-key-of-the-tests";
pub(super) const ROLE: &str = "app_readwrite";
pub(super) const EMAIL: &str = "first@example.com";

pub(crate) struct World {
    pub(super) address: SocketAddr,
    pub(super) access: Access,
    pub(super) changes: Changes,
    pub(super) readiness: watch::Sender<Readiness>,
    pub(super) reloads: mpsc::Receiver<ReloadRequest>,
    pub(super) server: JoinHandle<std::io::Result<()>>,
    pub(super) shutdown: CancellationToken,
    http: reqwest::Client,
    _stop: DropGuard,
    _folder: TempDir,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::guarding_metrics(MetricsGuard::Open).await
    }

    pub(super) async fn guarding_metrics(metrics_guard: MetricsGuard) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sluice.db");
        let catalog = Catalog::open(&path, &Zeroizing::new([7; 32]))
            .await
            .unwrap();
        let access = Access::new(
            catalog.clone(),
            Vec::new(),
            Config::new(Secret::new([7; 32]), Secret::new(String::new())).authorities,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (readiness, ready) = watch::channel(Readiness::Ready);
        let (reload, reloads) = mpsc::channel(1);
        let changes = Changes::default();
        let mut config = Config::new(Secret::new([7; 32]), Secret::new(ADMIN_KEY.to_owned()));
        config.admin.operator_key = Some(Secret::new(OPERATOR_KEY.to_owned()));
        config.admin.viewer_key = Some(Secret::new(VIEWER_KEY.to_owned()));
        let doctor = Doctor {
            catalog: catalog.clone(),
            config: Arc::new(ArcSwap::from_pointee(config)),
            authority: None,
        };
        let state = AdminState {
            catalog,
            access: access.clone(),
            metrics: PrometheusBuilder::new().build_recorder().handle(),
            metrics_guard,
            readiness: ready,
            reload,
            changes: changes.clone(),
            doctor,
            overview: Overview::default(),
        };
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, state, shutdown.clone()));
        Self {
            address,
            access,
            changes,
            readiness,
            reloads,
            server,
            _stop: shutdown.clone().drop_guard(),
            shutdown,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            _folder: folder,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// One call with the given bearer; the answer's body is null where it is not JSON.
    pub(super) async fn call(
        &self,
        bearer: Option<&str>,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url()));
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let body = answer.bytes().await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub(super) async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Some(ADMIN_KEY), Method::GET, path, None).await
    }

    pub(super) async fn delete(&self, path: &str) -> (StatusCode, Value) {
        self.call(Some(ADMIN_KEY), Method::DELETE, path, None).await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        self.call(Some(ADMIN_KEY), method, path, Some(body)).await
    }

    /// Sends what must be accepted, and gives the answer.
    pub(super) async fn make(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.send(method, path, body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// Tenant `demo`, its member [`EMAIL`] and their token. No rule yet.
    pub(crate) async fn settle(&self) -> String {
        // No server listens there.
        let tenant =
            json!({"ref": "demo", "host": "127.0.0.1", "port": 1, "token_access": "enabled"});
        self.make(Method::POST, "/v1/tenants", tenant).await;
        self.make(Method::POST, "/v1/people", json!({ "email": EMAIL }))
            .await;
        let member = format!("/v1/tenants/demo/members/{EMAIL}");
        self.make(Method::PUT, &member, json!({"kind": "member"}))
            .await;
        let tokens = format!("/v1/people/{EMAIL}/tokens");
        let terms = json!({"name": "laptop", "expires": "30d"});
        let made = self.make(Method::POST, &tokens, terms).await;
        made["secret"].as_str().unwrap().to_owned()
    }

    /// A rule for [`ROLE`], valid for a day from anywhere.
    pub(super) async fn grant(&self) {
        let rule = json!({"person": EMAIL, "role": ROLE, "expires": "24h"});
        self.make(Method::POST, "/v1/tenants/demo/rules", rule)
            .await;
    }

    /// A session that lives on `token` and leaves once it is told to.
    pub(crate) async fn log_in(&self, token: &str) -> JoinHandle<EndCause> {
        let session = self.admitted(token).await;
        tokio::spawn(async move { poll_fn(|context| session.handle().poll_end(context)).await })
    }

    /// A session that lives on `token` and does not care what it is told.
    pub(super) async fn admitted(&self, token: &str) -> Registration {
        let token = Token::parse(token).unwrap();
        let session = self.access.registry().register(Identity {
            tenant: TenantRef::parse("demo").unwrap(),
            role: RoleName::parse(ROLE).unwrap(),
            database: DatabaseName::parse("app").unwrap(),
            peer: "127.0.0.1:50000".parse().unwrap(),
            tls: None,
            application_name: "psql".to_owned(),
            token: Some(token.id().clone()),
            external: None,
        });
        let credential = Credential::Token(token);
        self.access
            .admit(session.handle(), &credential)
            .await
            .unwrap();
        session
    }
}

/// Waits until `done` says so; what never comes fails the test.
pub(super) async fn eventually(mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited in vain for the condition"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
