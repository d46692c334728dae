//! A tenant's external authority: the key it calls us with, and what it calls us for, to revoke at once.

use axum::{
    Json, Router,
    extract::{FromRequestParts, State},
    http::request::Parts,
    middleware,
    routing::post,
};
use reqwest::StatusCode;

use super::{
    AdminState,
    auth::{self, Actor, bearer, is_admin_key},
    change::harmless,
    error::ApiError,
    extract::{SecretBody, Segments},
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

pub(super) fn routes(state: &AdminState) -> Router<AdminState> {
    let guarded = Router::new()
        .route("/v1/tenants/{ref}/authority/webhook-key", post(make_key))
        .route_layer(middleware::from_fn_with_state(
            state.clone(),
            auth::require_admin_key,
        ));
    let own = Router::new().route("/v1/tenants/{ref}/authority/revocations", post(revoke));
    guarded.merge(own)
}

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

async fn revoke(
    State(state): State<AdminState>,
    Caller(actor): Caller,
    Segments(name): Segments<TenantRef>,
    SecretBody(wanted): SecretBody<RevokedByAuthority>,
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
        let given = bearer(&parts.headers).unwrap_or_default().to_owned();
        if is_admin_key(state, &given) {
            let Actor(actor) = Actor::from_request_parts(parts, state).await?;
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
