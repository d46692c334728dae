//! Sessions that people have on a tenant's database without the pooler: the guard there asks which may go on.

use std::time::Duration;

use axum::{Json, extract::State, http::HeaderMap};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    AdminState, Readiness,
    auth::{self, Actor},
    change::harmless,
    error::ApiError,
    extract::{Body, Segments},
    routes::{Routes, routes},
    values::{DirectEnd, Done, GuardAnswer, GuardKey, GuardQuestion},
};
use crate::{catalog::ServiceKey, names::TenantRef};

/// How long a question may be held open.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// With the guard's own key.
pub(super) fn routes() -> Routes {
    routes!(watch)
}

/// With the admin key.
pub(super) fn key_route() -> Routes {
    routes!(make_key)
}

/// Makes the key of the guard beside a tenant's database, in place of an earlier one.
#[utoipa::path(
    post, path = "/v1/tenants/{ref}/guard-key", tag = "Direct access",
    responses(
        (status = 200, description = "The only answer that holds the key.", body = Done<GuardKey>),
        (status = 404, description = "No such tenant."),
    ),
)]
async fn make_key(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(tenant): Segments<TenantRef>,
) -> Result<Json<Done<GuardKey>>, ApiError> {
    let made = state
        .catalog
        .make_service_key(ServiceKey::Guard, &tenant, &actor)
        .await?;
    Ok(Json(harmless(made, |guard_key| GuardKey { guard_key })))
}

/// Answers as soon as one of the sessions may not go on, else when the wait is over.
#[utoipa::path(
    post, path = "/v1/tenants/{ref}/guard", tag = "Direct access",
    request_body(content = GuardQuestion, example = json!({
        "wait_seconds": 10,
        "sessions": [{ "id": "4711", "token": "4fQ8zK1mT0aB", "role": "app_readwrite", "from": "192.0.2.7" }],
    })), security(("guard_key" = [])),
    responses((status = 200, description = "Those that may not go on.", body = GuardAnswer)),
)]
async fn watch(
    State(mut state): State<AdminState>,
    Segments(tenant): Segments<TenantRef>,
    headers: HeaderMap,
    Body(question): Body<GuardQuestion>,
) -> Result<Json<GuardAnswer>, ApiError> {
    let key = auth::bearer(&headers).unwrap_or_default();
    if !state
        .catalog
        .is_service_key(ServiceKey::Guard, &tenant, key)
        .await?
    {
        return Err(auth::refusal("this is not the tenant's guard key"));
    }
    let wait = Duration::from_secs(question.wait_seconds.into());
    if wait > WAIT_MAX {
        return Err(ApiError::malformed(format!(
            "`wait_seconds` must be 0 to {}",
            WAIT_MAX.as_secs()
        )));
    }
    let deadline = Instant::now() + wait;
    let mut changes = state.access.changes();
    loop {
        let revision = *changes.borrow_and_update();
        let (ended, next_expiry) = decide(&state, &tenant, &question).await?;
        let is_stopping = *state.readiness.borrow_and_update() == Readiness::Draining;
        if !ended.is_empty() || is_stopping || Instant::now() >= deadline {
            return Ok(Json(GuardAnswer { revision, ended }));
        }
        tokio::select! {
            () = tokio::time::sleep_until(next_expiry.map_or(deadline, |expiry| expiry.min(deadline))) => {}
            // Neither sender goes before the listener does.
            _ = changes.changed() => {}
            _ = state.readiness.changed() => {}
        }
    }
}

/// Those that may not go on, and when the first of the others runs out.
async fn decide(
    state: &AdminState,
    tenant: &TenantRef,
    question: &GuardQuestion,
) -> Result<(Vec<DirectEnd>, Option<Instant>), ApiError> {
    let mut ended = Vec::new();
    let mut next_expiry: Option<Instant> = None;
    for session in &question.sessions {
        let decision = state
            .access
            .may_go_on(&session.token, tenant, &session.role, session.from)
            .await?;
        match decision {
            Ok(grant) => {
                let left = grant.expires_at() - OffsetDateTime::now_utc();
                let expiry = Instant::now() + left.try_into().unwrap_or(Duration::ZERO);
                next_expiry = Some(next_expiry.map_or(expiry, |first| first.min(expiry)));
            }
            Err(denial) => ended.push(DirectEnd {
                id: session.id.clone(),
                reason: denial.reason().to_owned(),
            }),
        }
    }
    Ok((ended, next_expiry))
}
