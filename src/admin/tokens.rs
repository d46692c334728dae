//! Personal access tokens: made for a person, shown once, revoked by id.

use axum::{Json, extract::State, http::StatusCode};
use time::OffsetDateTime;
use utoipa_axum::routes;

use super::{
    AdminState,
    auth::Actor,
    change::harmless,
    error::ApiError,
    expiry,
    extract::{Body, Segments},
    openapi::Routes,
    people,
    values::{Done, IssuedToken, Removed, TokenTerms, Tokens},
};
use crate::{access::Scope, names::TokenId};

pub(super) fn routes() -> Routes {
    Routes::default()
        .routes(routes!(list, create))
        .routes(routes!(revoke))
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
    let tokens = state.catalog.tokens(person.id).await?;
    Ok(Json(Tokens { tokens }))
}

/// Makes a token.
#[utoipa::path(
    post, path = "/v1/people/{person}/tokens", tag = "Tokens",
    request_body = TokenTerms,
    responses(
        (status = 201, description = "The only answer that holds the whole token.", body = Done<IssuedToken>),
        (status = 404, description = "No such person."),
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
    let expires_at = expiry::parse(&terms.expires, OffsetDateTime::now_utc())?;
    let made = state
        .catalog
        .create_token(person.id, &terms.name, expires_at, &actor)
        .await?;
    let answer = |(token, secret)| IssuedToken { token, secret };
    Ok((StatusCode::CREATED, Json(harmless(made, answer))))
}

/// Revokes a token.
#[utoipa::path(
    delete, path = "/v1/tokens/{token}", tag = "Tokens",
    responses(
        (status = 200, description = "The sessions that lived on it are gone.", body = Done<Removed>),
        (status = 404, description = "No such token, or it is revoked already."),
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
