//! The audit trail: read it, check it.

use axum::{Json, Router, extract::State, routing::get};
use serde::Deserialize;

use super::{AdminState, error::ApiError, extract::Params, people, tenants, values::AuditRows};
use crate::{
    catalog::{
        AuditVerdict,
        types::{AUDIT_KINDS, AuditFilter},
    },
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
    /// Id or e-mail address, also of a person who is gone.
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
    filter.check_numbers()?;
    let filter = filter.into_catalog();
    // What has happened before this call is to be in its answer.
    state.catalog.flush().await?;
    let rows = state.catalog.audit_rows(filter.clone()).await?;
    if rows.is_empty() {
        refuse_unknown(&state, filter).await?;
    }
    Ok(Json(AuditRows { rows }))
}

impl Filter {
    fn check_numbers(&self) -> Result<(), ApiError> {
        if self.before.is_some_and(|before| before < 1) {
            return Err(ApiError::malformed("`before` must be 1 or more"));
        }
        if self
            .limit
            .is_some_and(|limit| !(1..=LIMIT_MAX).contains(&limit))
        {
            return Err(ApiError::malformed(format!(
                "`limit` must be 1 to {LIMIT_MAX}"
            )));
        }
        Ok(())
    }

    fn into_catalog(self) -> AuditFilter {
        let id = self.person.as_deref().map(str::parse::<PersonId>);
        let (person, email) = match id {
            Some(Ok(id)) => (Some(id), None),
            Some(Err(_)) => (None, self.person.map(|text| text.trim().to_lowercase())),
            None => (None, None),
        };
        AuditFilter {
            tenant: self.tenant,
            person,
            email,
            kind: self.kind,
            session: self.session,
            before: self.before,
            limit: self.limit,
        }
    }
}

/// Tells a filter that nothing can ever pass, as after a typing error, from one that nothing has passed.
/// What is gone but was there once is known by its rows.
async fn refuse_unknown(state: &AdminState, filter: AuditFilter) -> Result<(), ApiError> {
    if let Some(kind) = filter.kind {
        let by_kind = AuditFilter {
            kind: Some(kind.clone()),
            ..AuditFilter::default()
        };
        if !AUDIT_KINDS.contains(&kind.as_str()) && !state.catalog.has_audit_rows(by_kind).await? {
            return Err(
                ApiError::malformed(format!("there is no kind of row `{kind}`"))
                    .with_hint(format!("the kinds are {}", AUDIT_KINDS.join(", "))),
            );
        }
    }
    if let Some(tenant) = filter.tenant {
        let by_tenant = AuditFilter {
            tenant: Some(tenant.clone()),
            ..AuditFilter::default()
        };
        if !state.catalog.has_audit_rows(by_tenant).await? {
            tenants::find(&state.catalog, &tenant).await?;
        }
    }
    if let Some(email) = filter.email {
        let by_email = AuditFilter {
            email: Some(email.clone()),
            ..AuditFilter::default()
        };
        if !state.catalog.has_audit_rows(by_email).await? {
            people::find(&state.catalog, &email).await?;
        }
    }
    Ok(())
}

async fn verify(State(state): State<AdminState>) -> Result<Json<AuditVerdict>, ApiError> {
    state.catalog.flush().await?;
    Ok(Json(state.catalog.verify_audit().await?))
}
