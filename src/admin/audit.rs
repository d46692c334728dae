//! The audit trail: read it, ask it who was in, take it away, check it.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    AdminState,
    error::ApiError,
    extract::Params,
    moment::Moment,
    people,
    routes::{Routes, routes},
    tenants,
    values::{AuditRows, Presences},
};
use crate::{
    catalog::{
        AuditVerdict, Catalog, CatalogError, SignedEnd, folded_email,
        types::{AUDIT_KINDS, AuditFilter, AuditOrder, AuditRow},
    },
    names::{Fingerprint, PersonId, SessionId, TenantRef},
};

const LIMIT_MAX: u32 = 1_000;

pub(super) fn routes() -> Routes {
    routes!(list, who, export, verify, checkpoint)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Filter {
    tenant: Option<TenantRef>,
    /// Id or e-mail address, also of a person who is gone.
    person: Option<String>,
    /// What happened: `auth.denied`, `session.ended`, `rule.removed`…
    kind: Option<String>,
    session: Option<SessionId>,
    /// Of one token, also when it is gone.
    fingerprint: Option<Fingerprint>,
    /// Rows of this moment and later.
    #[param(value_type = Option<String>, example = "2h")]
    since: Option<Moment>,
    /// Rows of this moment and earlier.
    #[param(value_type = Option<String>, example = "2026-03-01T10:00:00Z")]
    until: Option<Moment>,
    /// Rows with a smaller number only, to page.
    #[param(minimum = 1)]
    before: Option<i64>,
    /// 100 unless told; an export has all rows.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Question {
    tenant: Option<TenantRef>,
    /// Now unless told.
    #[param(value_type = Option<String>, example = "2026-03-01T10:00:00Z")]
    at: Option<Moment>,
}

/// The audit trail, newest row first.
#[utoipa::path(
    get, path = "/v1/audit", tag = "Audit",
    params(Filter),
    responses(
        (status = 200, description = "The rows that pass.", body = AuditRows),
        (status = 404, description = "No such tenant or person, and the trail never spoke of one."),
    ),
)]
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

/// Who was in at a moment, oldest login first.
#[utoipa::path(
    get, path = "/v1/audit/who", tag = "Audit",
    params(Question),
    responses(
        (status = 200, description = "The sessions of that moment.", body = Presences),
        (status = 404, description = "No such tenant, and the trail never spoke of one."),
    ),
)]
async fn who(
    State(state): State<AdminState>,
    Params(question): Params<Question>,
) -> Result<Json<Presences>, ApiError> {
    if let Some(tenant) = &question.tenant {
        refuse_unknown_tenant(&state, tenant).await?;
    }
    let at = question
        .at
        .map_or_else(OffsetDateTime::now_utc, |moment| moment.0);
    state.catalog.flush().await?;
    let registry = state.access.registry();
    let is_live = |start: &AuditRow| {
        let session = start.event.session;
        session.is_some_and(|session| registry.find(session).is_some())
    };
    let sessions = state
        .catalog
        .present(question.tenant.as_ref(), at, is_live)
        .await?;
    Ok(Json(Presences { at, sessions }))
}

/// All rows that pass, oldest first, as JSON lines. Breaks off without a proper end when a row cannot be read.
#[utoipa::path(
    get, path = "/v1/audit/export", tag = "Audit",
    params(Filter),
    responses(
        (status = 200, description = "One row a line.", body = AuditRow, content_type = "application/x-ndjson"),
        (status = 404, description = "No such tenant or person, and the trail never spoke of one."),
    ),
)]
async fn export(
    State(state): State<AdminState>,
    Params(filter): Params<Filter>,
) -> Result<Response, ApiError> {
    filter.check_numbers()?;
    state.catalog.flush().await?;
    let filter = AuditFilter {
        order: AuditOrder::OldestFirst,
        ..filter.into_catalog()
    };
    if !state.catalog.has_audit_rows(filter.clone()).await? {
        refuse_unknown(&state, filter.clone()).await?;
    }
    let export = Export {
        catalog: state.catalog,
        left: filter.limit.map_or(u64::MAX, u64::from),
        filter,
    };
    let lines = stream::try_unfold(export, Export::next);
    let kind = (header::CONTENT_TYPE, "application/x-ndjson");
    Ok(([kind], Body::from_stream(lines)).into_response())
}

/// How far an export has come.
struct Export {
    catalog: Catalog,
    filter: AuditFilter,
    left: u64,
}

impl Export {
    /// The next lines; nothing of the catalogue is held while the reader takes them in.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, CatalogError> {
        self.filter.limit = Some(u32::try_from(self.left).unwrap_or(LIMIT_MAX).min(LIMIT_MAX));
        let rows = self.catalog.audit_rows(self.filter.clone()).await?;
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        self.filter.after = Some(last.seq);
        self.left -= rows.len() as u64;
        let mut lines = Vec::new();
        for row in &rows {
            // A row is made of texts, numbers and JSON, and a vector takes every write.
            let _ = serde_json::to_writer(&mut lines, row);
            lines.push(b'\n');
        }
        Ok(Some((lines.into(), self)))
    }
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
            Some(Err(_)) => (None, self.person.as_deref().map(folded_email)),
            None => (None, None),
        };
        AuditFilter {
            tenant: self.tenant,
            person,
            email,
            kind: self.kind,
            session: self.session,
            fingerprint: self.fingerprint,
            since: self.since.map(|moment| moment.0),
            until: self.until.map(|moment| moment.0),
            before: self.before,
            limit: self.limit,
            ..AuditFilter::default()
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
        refuse_unknown_tenant(state, &tenant).await?;
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

async fn refuse_unknown_tenant(state: &AdminState, tenant: &TenantRef) -> Result<(), ApiError> {
    let by_tenant = AuditFilter {
        tenant: Some(tenant.clone()),
        ..AuditFilter::default()
    };
    if !state.catalog.has_audit_rows(by_tenant).await? {
        tenants::find(&state.catalog, tenant).await?;
    }
    Ok(())
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Check {
    /// `SEQ:HASH` or `SEQ:HASH:SIGNATURE` of a row that must be there.
    #[param(pattern = "^[1-9][0-9]*:[0-9a-f]{64}(:[0-9A-Za-z_-]{86})?$")]
    checkpoint: Option<String>,
}

/// Checks that nobody has changed the trail.
#[utoipa::path(
    get, path = "/v1/audit/verify", tag = "Audit",
    params(Check),
    responses(
        (status = 200, description = "What was found.", body = AuditVerdict),
        (status = 422, description = "`invalid`: `checkpoint` is none, or of a row that was removed since its time was over."),
    ),
)]
async fn verify(
    State(state): State<AdminState>,
    Params(check): Params<Check>,
) -> Result<Json<AuditVerdict>, ApiError> {
    let checkpoint = check.checkpoint.map(|text| text.parse()).transpose()?;
    state.catalog.flush().await?;
    Ok(Json(state.catalog.verify_audit(checkpoint).await?))
}

/// A signed checkpoint of the end of the trail, to be kept elsewhere.
#[utoipa::path(
    get, path = "/v1/audit/checkpoint", tag = "Audit",
    responses((status = 200, description = "The checkpoint, and the key that its signature is checked with.", body = SignedEnd)),
)]
async fn checkpoint(State(state): State<AdminState>) -> Result<Json<SignedEnd>, ApiError> {
    state.catalog.flush().await?;
    Ok(Json(state.catalog.checkpoint().await?))
}
