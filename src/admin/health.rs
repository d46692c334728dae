//! Is it alive, is it ready, how is it doing; and: read the configuration again.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::{
    AdminState, DOCUMENT, MetricsGuard, Readiness, ReloadRequest,
    auth::{self, Actor},
    error::ApiError,
    routes::{Routes, routes},
};

/// Routes that need no key, or decide about it themselves.
pub(super) fn routes() -> Routes {
    routes!(health, ready, metrics, document)
}

pub(super) fn reload_route() -> Routes {
    routes!(reload)
}

#[derive(Serialize, ToSchema)]
struct Status {
    status: &'static str,
}

/// Whether the process serves.
#[utoipa::path(
    get, path = "/health", tag = "Service",
    responses((status = 200, description = "It does.", body = Status)),
)]
async fn health() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// Whether new clients are served.
#[utoipa::path(
    get, path = "/ready", tag = "Service",
    responses(
        (status = 200, description = "They are.", body = Status),
        (status = 503, description = "They are not: `status` says why.", body = Status),
    ),
)]
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

/// All metrics in Prometheus' text format. Needs the key unless the listener is on a loopback address.
#[utoipa::path(
    get, path = "/metrics", tag = "Service",
    security((), ("admin_key" = []), ("operator_key" = []), ("viewer_key" = [])),
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain")),
)]
async fn metrics(
    State(state): State<AdminState>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, ApiError> {
    if state.metrics_guard == MetricsGuard::AdminKey {
        auth::require_any_key(&state, &headers)?;
    }
    let kind = (
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    );
    Ok(([kind], state.metrics.render()))
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "Service",
    responses((status = 200, description = "The description of all routes.", body = Object)),
)]
async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

/// Reads the configuration and the certificates again, without dropping clients.
#[utoipa::path(
    post, path = "/v1/reload", tag = "Service",
    responses(
        (status = 200, description = "The new ones hold.", body = Status),
        (status = 422, description = "`invalid`: they are not good, and all is as it was."),
        (status = 503, description = "`stopping`: the pooler is about to end."),
    ),
)]
async fn reload(
    State(state): State<AdminState>,
    Actor(actor): Actor,
) -> Result<Json<Status>, ApiError> {
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
        .send(ReloadRequest { actor, answer })
        .await
        .map_err(|_| stopping())?;
    match answered.await {
        Ok(Ok(())) => Ok(Json(Status { status: "reloaded" })),
        Ok(Err(error)) => Err(ApiError::invalid(error.to_string())
            .with_hint("the configuration is as it was before; mend the file and reload again")),
        Err(_) => Err(stopping()),
    }
}
