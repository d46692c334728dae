//! Is it alive, is it ready, how is it doing; and: read the configuration again.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::IntoResponse,
    routing::{get, post},
};
use serde::Serialize;
use tokio::sync::oneshot;

use super::{AdminState, MetricsGuard, Readiness, ReloadRequest, auth, error::ApiError};

/// Routes that need no key, or decide about it themselves.
pub(super) fn routes(state: &AdminState) -> Router<AdminState> {
    let metrics = Router::new().route("/metrics", get(metrics));
    let metrics = match state.metrics_guard {
        MetricsGuard::Open => metrics,
        MetricsGuard::AdminKey => metrics.route_layer(middleware::from_fn_with_state(
            state.clone(),
            auth::require_admin_key,
        )),
    };
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .merge(metrics)
}

pub(super) fn reload_route() -> Router<AdminState> {
    Router::new().route("/v1/reload", post(reload))
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

async fn health() -> Json<Status> {
    Json(Status { status: "ok" })
}

async fn ready(State(state): State<AdminState>) -> (StatusCode, Json<Status>) {
    let readiness = *state.readiness.borrow();
    let status = match readiness {
        Readiness::Starting => "starting",
        Readiness::Draining => "draining",
        Readiness::Ready if state.catalog.revision().await.is_err() => "catalogue_unavailable",
        Readiness::Ready => return (StatusCode::OK, Json(Status { status: "ready" })),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(Status { status }))
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    let kind = (
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    );
    ([kind], state.metrics.render())
}

async fn reload(State(state): State<AdminState>) -> Result<Json<Status>, ApiError> {
    let stopping = || {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "the pooler is stopping",
        )
    };
    let (answer, answered) = oneshot::channel();
    state
        .reload
        .send(ReloadRequest { answer })
        .await
        .map_err(|_| stopping())?;
    match answered.await {
        Ok(Ok(())) => Ok(Json(Status { status: "reloaded" })),
        Ok(Err(error)) => Err(ApiError::invalid(error.to_string())
            .with_hint("the configuration is as it was before; mend the file and reload again")),
        Err(_) => Err(stopping()),
    }
}
