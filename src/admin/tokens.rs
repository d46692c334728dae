//! Personal access tokens: made for a person, shown once, changed, rotated and revoked by id.

use axum::{Json, extract::State, http::StatusCode};
use time::{Duration, OffsetDateTime};

use super::{
    AdminState,
    auth::Actor,
    change::harmless,
    error::ApiError,
    expiry,
    extract::{Body, Segments},
    people,
    routes::{Routes, routes},
    values::{
        Done, IssuedToken, OneToken, Removed, RotatedToken, Rotation, TokenFields, TokenTerms,
        TokenView, Tokens, TokensGone,
    },
};
use crate::{
    access::Scope,
    catalog::{
        Catalog, CatalogError, Rotated, What,
        types::{NewToken, TokenChange, TokenLimits, TokenRecord},
    },
    names::TokenId,
};

/// How long a rotated token works on unless told.
const OVERLAP: Duration = Duration::DAY;

pub(super) fn routes() -> Routes {
    routes!(list, create, show, change, rotate)
}

/// What takes access away.
pub(super) fn revocation_routes() -> Routes {
    routes!(revoke_all, revoke)
}

/// The token as it is shown.
pub(super) fn view(catalog: &Catalog, record: TokenRecord) -> TokenView {
    TokenView {
        fingerprint: catalog.fingerprint(&record),
        record,
    }
}

/// A person's tokens, without their secrets.
#[utoipa::path(
    get, path = "/v1/people/{person}/tokens", tag = "Tokens",
    responses(
        (status = 200, description = "Those that have run out as well.", body = Tokens),
        (status = 404, description = "No such person."),
    ),
)]
async fn list(
    State(state): State<AdminState>,
    Segments(person): Segments<String>,
) -> Result<Json<Tokens>, ApiError> {
    let person = people::find(&state.catalog, &person).await?;
    let tokens = state.catalog.tokens(person.id).await?.into_iter();
    Ok(Json(Tokens {
        tokens: tokens.map(|token| view(&state.catalog, token)).collect(),
    }))
}

/// A token, without its secret.
#[utoipa::path(
    get, path = "/v1/tokens/{token}", tag = "Tokens",
    responses(
        (status = 200, description = "The token.", body = OneToken),
        (status = 404, description = "No such token."),
    ),
)]
async fn show(
    State(state): State<AdminState>,
    Segments(token): Segments<TokenId>,
) -> Result<Json<OneToken>, ApiError> {
    let found = state.catalog.token(&token).await?;
    let found = found.ok_or_else(|| CatalogError::NotFound {
        what: What::Token,
        name: token.to_string(),
    })?;
    let token = view(&state.catalog, found);
    Ok(Json(OneToken { token }))
}

/// Makes a token.
#[utoipa::path(
    post, path = "/v1/people/{person}/tokens", tag = "Tokens",
    request_body(content = TokenTerms, example = json!({ "name": "laptop", "expires": "30d" })),
    responses(
        (status = 201, description = "The only answer that holds the whole token.", body = Done<IssuedToken>),
        (status = 404, description = "No such person, or no such tenant."),
        (status = 422, description = "`invalid`, `expiry_in_the_past` or `expiry_too_far`"),
    ),
)]
async fn create(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(person): Segments<String>,
    Body(terms): Body<TokenTerms>,
) -> Result<(StatusCode, Json<Done<IssuedToken>>), ApiError> {
    let person = people::find(&state.catalog, &person).await?;
    let new = NewToken {
        name: terms.name,
        expires_at: expiry::parse(&terms.expires, OffsetDateTime::now_utc())?,
        limits: TokenLimits {
            scopes: terms.scopes.unwrap_or(TokenLimits::default().scopes),
            tenants: terms.tenants,
            roles: terms.roles,
        },
    };
    let made = state.catalog.create_token(person.id, new, &actor).await?;
    let answer = |(token, secret)| IssuedToken {
        token: view(&state.catalog, token),
        secret,
    };
    Ok((StatusCode::CREATED, Json(harmless(made, answer))))
}

/// Changes what is named in a token.
#[utoipa::path(
    patch, path = "/v1/tokens/{token}", tag = "Tokens",
    request_body(content = TokenFields, example = json!({ "name": "desk" })),
    responses(
        (status = 200, description = "The token; sessions that no longer fit it are gone.", body = Done<OneToken>),
        (status = 404, description = "No such token, or no such tenant."),
        (status = 422, description = "`invalid`, `expiry_in_the_past` or `expiry_too_far`"),
    ),
)]
async fn change(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(token): Segments<TokenId>,
    Body(fields): Body<TokenFields>,
) -> Result<Json<Done<OneToken>>, ApiError> {
    let change = TokenChange {
        name: fields.name,
        expires_at: parsed(fields.expires.as_deref())?,
        scopes: fields.scopes,
        tenants: fields.tenants,
        roles: fields.roles,
    };
    let changed = state.catalog.change_token(&token, change, &actor).await?;
    let answer = |record| OneToken {
        token: view(&state.catalog, record),
    };
    let scope = Scope::Token(token);
    Ok(Json(state.enforced(changed, scope, answer).await))
}

/// Makes a token in place of another.
#[utoipa::path(
    post, path = "/v1/tokens/{token}/rotate", tag = "Tokens",
    request_body(content = Rotation, example = json!({ "overlap": "1h" })),
    responses(
        (status = 201, description = "The only answer that holds the whole new token.", body = Done<RotatedToken>),
        (status = 404, description = "No such token."),
        (status = 422, description = "`invalid`, `expiry_in_the_past` or `expiry_too_far`"),
    ),
)]
async fn rotate(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(token): Segments<TokenId>,
    Body(terms): Body<Rotation>,
) -> Result<(StatusCode, Json<Done<RotatedToken>>), ApiError> {
    let overlap = terms.overlap.as_deref().map(expiry::overlap).transpose();
    let overlap = overlap.map_err(|error| ApiError::invalid(format!("overlap: {error}")))?;
    let expires_at = parsed(terms.expires.as_deref())?;
    let changed = state
        .catalog
        .rotate_token(&token, overlap.unwrap_or(OVERLAP), expires_at, &actor)
        .await?;
    let answer = |Rotated { old, new, secret }| RotatedToken {
        token: view(&state.catalog, new),
        secret,
        replaced: view(&state.catalog, old),
    };
    // Its sessions end with it, now or when the overlap is over.
    let done = state.enforced(changed, Scope::Token(token), answer).await;
    Ok((StatusCode::CREATED, Json(done)))
}

/// Revokes a token.
#[utoipa::path(
    delete, path = "/v1/tokens/{token}", tag = "Tokens",
    responses(
        (status = 200, description = "The sessions that lived on it are gone.", body = Done<Removed>),
        (status = 404, description = "No such token."),
    ),
)]
async fn revoke(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(token): Segments<TokenId>,
) -> Result<Json<Done<Removed>>, ApiError> {
    let changed = state.catalog.revoke_token(&token, &actor).await?;
    let scope = Scope::Token(token);
    Ok(Json(state.enforced(changed, scope, |_| Removed {}).await))
}

/// Revokes all of a person's tokens.
#[utoipa::path(
    delete, path = "/v1/people/{person}/tokens", tag = "Tokens",
    responses(
        (status = 200, description = "The sessions that lived on them are gone.", body = Done<TokensGone>),
        (status = 404, description = "No such person."),
    ),
)]
async fn revoke_all(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(person): Segments<String>,
) -> Result<Json<Done<TokensGone>>, ApiError> {
    let person = people::find(&state.catalog, &person).await?.id;
    let changed = state.catalog.revoke_tokens(person, &actor).await?;
    let answer = |revoked: Vec<_>| TokensGone {
        tokens_revoked: revoked.len(),
    };
    let scope = Scope::Person(person);
    Ok(Json(state.enforced(changed, scope, answer).await))
}

fn parsed(expires: Option<&str>) -> Result<Option<OffsetDateTime>, ApiError> {
    let now = OffsetDateTime::now_utc();
    let parsed = expires.map(|text| expiry::parse(text, now)).transpose();
    Ok(parsed?)
}
