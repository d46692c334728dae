//! The open sessions: who is connected, and the end of one.

use axum::{
    Json, Router,
    extract::State,
    routing::{delete, get},
};
use serde::Deserialize;

use super::{
    AdminState,
    auth::Actor,
    error::ApiError,
    extract::{Params, Segments},
    people,
    values::{Done, Removed, Sessions},
};
use crate::names::{SessionId, TenantRef};

pub(super) fn routes() -> Router<AdminState> {
    Router::new()
        .route("/v1/sessions", get(list))
        .route("/v1/sessions/{session}", delete(end))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    tenant: Option<TenantRef>,
    person: Option<String>,
}

async fn list(
    State(state): State<AdminState>,
    Params(filter): Params<Filter>,
) -> Result<Json<Sessions>, ApiError> {
    let person = match filter.person {
        Some(person) => Some(people::find(&state.catalog, &person).await?.id),
        None => None,
    };
    let mut sessions = state.access.sessions();
    sessions.retain(|session| {
        let of_tenant = filter
            .tenant
            .as_ref()
            .is_none_or(|tenant| session.tenant == *tenant);
        of_tenant && (person.is_none() || session.person == person)
    });
    Ok(Json(Sessions { sessions }))
}

async fn end(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(session): Segments<SessionId>,
) -> Result<Json<Done<Removed>>, ApiError> {
    let report = state
        .access
        .end_session(session, &actor)
        .await
        .ok_or_else(|| {
            ApiError::missing("open session", session)
                .with_hint("`sluice session list` shows the open ones")
        })?;
    Ok(Json(Done {
        value: Removed {},
        revision: report.revision,
        revocation: Some(report),
    }))
}
