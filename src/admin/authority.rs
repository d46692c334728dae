//! A tenant's external authority: the key it calls us with, and what it calls us for, to revoke at once.

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use reqwest::StatusCode;

use super::{
    AdminState,
    auth::{Actor, Rank, bearer},
    change::harmless,
    error::ApiError,
    extract::{SecretBody, Segments},
    object::Object,
    routes::{Routes, routes},
    tenants,
    values::{Done, Removed, RevokedByAuthority, WebhookKey},
};
use crate::{
    access::Revoked,
    catalog::{
        ServiceKey,
        types::{Authority, Tenant},
    },
    names::TenantRef,
};

/// With the webhook key, or the admin key.
pub(super) fn routes() -> Routes {
    routes!(revoke)
}

/// With the admin key.
pub(super) fn key_route() -> Routes {
    routes!(make_key)
}

/// Makes the key with which a tenant's HTTP authority revokes, in place of an earlier one.
#[utoipa::path(
    post, path = "/v1/tenants/{ref}/authority/webhook-key", tag = "Authority",
    responses(
        (status = 201, description = "The only answer that holds the key.", body = Done<WebhookKey>),
        (status = 404, description = "No such tenant."),
        (status = 422, description = "`invalid`: the tenant has no HTTP authority."),
    ),
)]
async fn make_key(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(name): Segments<TenantRef>,
) -> Result<(StatusCode, Json<Done<WebhookKey>>), ApiError> {
    external(tenants::find(&state.catalog, &name).await?)?;
    let made = state
        .catalog
        .make_service_key(ServiceKey::Webhook, &name, &actor)
        .await?;
    let answer = |key| WebhookKey { key };
    Ok((StatusCode::CREATED, Json(harmless(made, answer))))
}

/// Ends the sessions that an HTTP authority has let in: those that fit all that is named.
#[utoipa::path(
    post, path = "/v1/tenants/{ref}/authority/revocations", tag = "Authority",
    request_body(content = RevokedByAuthority, example = json!({ "role": "app_readwrite" })), security(("webhook_key" = []), ("admin_key" = [])),
    responses(
        (status = 200, description = "They are gone.", body = Done<Removed>),
        (status = 404, description = "No such tenant."),
        (status = 422, description = "`invalid`: the tenant has no HTTP authority."),
    ),
)]
async fn revoke(
    State(state): State<AdminState>,
    Caller(actor): Caller,
    Segments(name): Segments<TenantRef>,
    SecretBody(Object(wanted)): SecretBody<Object<RevokedByAuthority>>,
) -> Result<Json<Done<Removed>>, ApiError> {
    let tenant = external(tenants::find(&state.catalog, &name).await?)?;
    let token = match (wanted.token, wanted.token_id) {
        (Some(_), Some(_)) => {
            return Err(ApiError::malformed("give either `token` or `token_id`"));
        }
        (Some(token), None) => {
            let named = state.access.external_token(&name, &token);
            let named = named.ok_or_else(|| ApiError::malformed("`token` cannot be a token"))?;
            Some(named.id().clone())
        }
        (None, token) => token,
    };
    let revoked = Revoked {
        person: wanted.person,
        token,
        role: wanted.role,
    };
    let report = state
        .access
        .revoke_external(&tenant, revoked, &actor)
        .await?;
    Ok(Json(Done {
        value: Removed {},
        revision: report.revision,
        revocation: Some(report),
    }))
}

fn external(tenant: Tenant) -> Result<Tenant, ApiError> {
    match tenant.authority {
        Authority::Http(_) => Ok(tenant),
        Authority::Parent => Err(ApiError::invalid(
            "the authority of this branch is its parent's",
        )
        .with_hint("make the call for the parent: it reaches its branches")),
        Authority::Catalogue | Authority::Jwt(_) => Err(ApiError::invalid(
            "the tenant has no external HTTP authority",
        )
        .with_hint("`sluice authority http TENANT --url URL` sets one; rules and tokens of the catalogue are revoked as such")),
    }
}

/// Who revokes: the tenant's authority with its webhook key, or an administrator.
struct Caller(String);

impl FromRequestParts<AdminState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, ApiError> {
        let Actor(actor) = Actor::from_request_parts(parts, state).await?;
        let given = bearer(&parts.headers).unwrap_or_default().to_owned();
        if Rank::of(state, &given) == Some(Rank::Admin) {
            return Ok(Self(actor));
        }
        let Segments(tenant) = Segments::<TenantRef>::from_request_parts(parts, state).await?;
        if state
            .catalog
            .is_service_key(ServiceKey::Webhook, &tenant, &given)
            .await?
        {
            return Ok(Self(format!("authority:{tenant}")));
        }
        Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this call needs the tenant's webhook key or the admin key",
        )
        .with_hint("`sluice authority webhook-key TENANT` makes a new one"))
    }
}
