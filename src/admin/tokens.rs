//! Personal access tokens: made for a person, shown once, revoked by id.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{delete, get},
};
use time::OffsetDateTime;

use super::{
    AdminState,
    auth::Actor,
    change::harmless,
    error::ApiError,
    expiry,
    extract::{Body, Segments},
    people,
    values::{Done, IssuedToken, Removed, TokenTerms, Tokens},
};
use crate::{access::Scope, names::TokenId};

pub(super) fn routes() -> Router<AdminState> {
    Router::new()
        .route("/v1/people/{person}/tokens", get(list).post(create))
        .route("/v1/tokens/{token}", delete(revoke))
}

async fn list(
    State(state): State<AdminState>,
    Segments(person): Segments<String>,
) -> Result<Json<Tokens>, ApiError> {
    let person = people::find(&state.catalog, &person).await?;
    let tokens = state.catalog.tokens(person.id).await?;
    Ok(Json(Tokens { tokens }))
}

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

async fn revoke(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(token): Segments<TokenId>,
) -> Result<Json<Done<Removed>>, ApiError> {
    let changed = state.catalog.revoke_token(&token, &actor).await?;
    let scope = Scope::Token(token);
    Ok(Json(state.enforced(changed, scope, |_| Removed {}).await))
}
