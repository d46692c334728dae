//! The audit trail: read it, check it.

use std::collections::HashMap;

use axum::{Json, Router, extract::State, routing::get};
use serde::Deserialize;

use super::{
    AdminState,
    error::ApiError,
    extract::Params,
    people,
    values::{AuditRows, AuditView},
};
use crate::{
    catalog::{AuditVerdict, types::AuditFilter},
    names::{PersonId, SessionId, TenantRef},
};

const LIMIT_MAX: u32 = 1_000;

pub(super) fn routes() -> Router<AdminState> {
    Router::new()
        .route("/v1/audit", get(list))
        .route("/v1/audit/verify", get(verify))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    tenant: Option<TenantRef>,
    /// Id or e-mail address; the id also of a person who is gone.
    person: Option<String>,
    kind: Option<String>,
    session: Option<SessionId>,
    before: Option<i64>,
    limit: Option<u32>,
}

async fn list(
    State(state): State<AdminState>,
    Params(filter): Params<Filter>,
) -> Result<Json<AuditRows>, ApiError> {
    if filter
        .limit
        .is_some_and(|limit| !(1..=LIMIT_MAX).contains(&limit))
    {
        return Err(ApiError::malformed(format!(
            "`limit` must be 1 to {LIMIT_MAX}"
        )));
    }
    let person = match filter.person {
        Some(text) => Some(person_once_there(&state, &text).await?),
        None => None,
    };
    let filter = AuditFilter {
        tenant: filter.tenant,
        person,
        kind: filter.kind,
        session: filter.session,
        before: filter.before,
        limit: filter.limit,
    };
    // What has happened before this call is to be in its answer.
    state.catalog.flush().await?;
    let rows = state.catalog.audit_rows(filter).await?;
    let emails: HashMap<PersonId, String> = {
        let people = state.catalog.people().await?;
        people
            .into_iter()
            .map(|person| (person.id, person.email))
            .collect()
    };
    let rows = rows.into_iter().map(|row| AuditView {
        email: row
            .event
            .person
            .and_then(|person| emails.get(&person).cloned()),
        row,
    });
    Ok(Json(AuditRows {
        rows: rows.collect(),
    }))
}

/// A person by id, who need not exist any more, or by e-mail address.
async fn person_once_there(state: &AdminState, text: &str) -> Result<PersonId, ApiError> {
    match text.parse() {
        Ok(id) => Ok(id),
        Err(_) => Ok(people::find(&state.catalog, text).await?.id),
    }
}

async fn verify(State(state): State<AdminState>) -> Result<Json<AuditVerdict>, ApiError> {
    state.catalog.flush().await?;
    Ok(Json(state.catalog.verify_audit().await?))
}
