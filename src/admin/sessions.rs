//! The open sessions: who is connected, and the end of one.

use axum::{Json, extract::State};
use serde::Deserialize;

use super::{
    AdminState,
    auth::Actor,
    error::ApiError,
    extract::{Params, Segments},
    people,
    routes::{Routes, routes},
    values::{Done, Removed, Sessions},
};
use crate::names::{SessionId, TenantRef};

pub(super) fn routes() -> Routes {
    routes!(list, end)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Filter {
    tenant: Option<TenantRef>,
    /// Id or e-mail address.
    person: Option<String>,
}

/// The open sessions, oldest first.
#[utoipa::path(
    get, path = "/v1/sessions", tag = "Sessions",
    params(Filter),
    responses(
        (status = 200, description = "Those that pass.", body = Sessions),
        (status = 404, description = "No such person."),
    ),
)]
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

/// Ends a session; its person may log in again.
#[utoipa::path(
    delete, path = "/v1/sessions/{session}", tag = "Sessions",
    responses(
        (status = 200, description = "It is gone.", body = Done<Removed>),
        (status = 404, description = "No such session is open."),
    ),
)]
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
