//! What a person may ask and do about themselves, with a token of theirs and no administrator.
//!
//! A token with limits shows as much as it opens: memberships, access and sessions within them, and of tokens itself.

use axum::{Json, extract::State};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    AdminState,
    auth::{self, Oneself},
    error::ApiError,
    extract::Segments,
    own_values::{Me, OwnAccess, Way, WayState},
    routes::{Routes, routes},
    tokens::view,
    values::{Done, Removed, Sessions, Tokens},
};
use crate::{
    access::{Opening, Scope, SessionView},
    catalog::types::TokenRecord,
    config::Listen,
    names::{DatabaseName, SessionId, TokenId},
};

/// What stands for itself anywhere in an address.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(super) fn routes() -> Routes {
    routes!(me, access, sessions, end_session, tokens, revoke_token)
}

/// Who calls, with which token.
#[utoipa::path(
    get, path = "/v1/me", tag = "Oneself",
    security(("access_token" = [])),
    responses((status = 200, description = "The caller.", body = Me)),
)]
async fn me(
    State(state): State<AdminState>,
    Oneself(token): Oneself,
) -> Result<Json<Me>, ApiError> {
    let person = state.catalog.person(token.person).await?;
    let mut memberships = Vec::new();
    for membership in state.catalog.memberships(token.person).await? {
        let tenant = state.catalog.tenant(&membership.tenant).await?;
        if tenant.is_some_and(|tenant| token.limits.cover(&tenant)) {
            memberships.push(membership);
        }
    }
    Ok(Json(Me {
        // Gone a moment ago, with all their tokens.
        person: person.ok_or_else(auth::invalid_token)?,
        memberships,
        token: view(&state.catalog, token),
    }))
}

/// What the caller may reach, and the way there.
#[utoipa::path(
    get, path = "/v1/me/access", tag = "Oneself",
    security(("access_token" = [])),
    responses((status = 200, description = "Every role that a rule lets them use.", body = OwnAccess)),
)]
async fn access(
    State(state): State<AdminState>,
    Oneself(token): Oneself,
) -> Result<Json<OwnAccess>, ApiError> {
    let access = ways(&state, &token).await?;
    Ok(Json(OwnAccess { access }))
}

/// What the token opens, and the way there.
pub(super) async fn ways(state: &AdminState, token: &TokenRecord) -> Result<Vec<Way>, ApiError> {
    let openings = state.access.openings(token).await?;
    let config = state.doctor.config.load();
    let ways = openings
        .into_iter()
        .map(|opening| way(opening, &config.listen));
    Ok(ways.collect())
}

fn way(opening: Opening, listen: &Listen) -> Way {
    let Opening {
        tenant,
        role,
        outcome,
    } = opening;
    let database = tenant.default_database.clone();
    let database = database.unwrap_or_else(DatabaseName::postgres);
    let (host, port) = (listen.public_host.clone(), listen.public_port());
    let encoded = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
    Way {
        uri: format!(
            "postgresql://{}.{}@{host}:{port}/{}?sslmode=verify-full&options=-c%20jit%3Dtrue",
            encoded(role.as_str()),
            tenant.tenant,
            encoded(database.as_str()),
        ),
        tenant: tenant.tenant.clone(),
        name: tenant.name.clone(),
        role,
        database,
        host,
        port,
        state: match outcome {
            Ok(reach) => WayState::Open {
                expires_at: reach.expires_at,
                networks: reach.networks,
            },
            Err(denial) => WayState::Closed {
                reason: denial.reason().to_owned(),
                message: denial.to_string(),
            },
        },
    }
}

/// The caller's open sessions.
#[utoipa::path(
    get, path = "/v1/me/sessions", tag = "Oneself",
    security(("access_token" = [])),
    responses((status = 200, description = "The sessions.", body = Sessions)),
)]
async fn sessions(
    State(state): State<AdminState>,
    oneself: Oneself,
) -> Result<Json<Sessions>, ApiError> {
    let mut own = Vec::new();
    for session in state.access.sessions() {
        if is_own(&state, &oneself, &session).await? {
            own.push(session);
        }
    }
    Ok(Json(Sessions { sessions: own }))
}

/// Whether it is the caller's, and their token is good for what it uses.
async fn is_own(
    state: &AdminState,
    Oneself(token): &Oneself,
    session: &SessionView,
) -> Result<bool, ApiError> {
    if session.person != Some(token.person) {
        return Ok(false);
    }
    if token.limits.reach_everything() {
        return Ok(true);
    }
    let tenant = state.catalog.tenant(&session.tenant).await?;
    let is_covered = tenant.is_some_and(|tenant| token.limits.cover(&tenant));
    Ok(is_covered && token.limits.name_role(&session.role))
}

/// Ends one of the caller's sessions.
#[utoipa::path(
    delete, path = "/v1/me/sessions/{session}", tag = "Oneself",
    security(("access_token" = [])),
    responses(
        (status = 200, description = "It is gone.", body = Done<Removed>),
        (status = 404, description = "No such session of theirs."),
    ),
)]
async fn end_session(
    State(state): State<AdminState>,
    oneself: Oneself,
    Segments(id): Segments<SessionId>,
) -> Result<Json<Done<Removed>>, ApiError> {
    // Somebody else's session is told like one that is not there.
    let missing = || ApiError::missing("open session of yours", id);
    let session = state.access.registry().find(id).ok_or_else(missing)?;
    if !is_own(&state, &oneself, &SessionView::from(&*session)).await? {
        return Err(missing());
    }
    let report = state.access.end_session(id, &oneself.actor()).await;
    let report = report.ok_or_else(missing)?;
    Ok(Json(Done {
        value: Removed {},
        revision: report.revision,
        revocation: Some(report),
    }))
}

/// The caller's tokens, without their secrets.
#[utoipa::path(
    get, path = "/v1/me/tokens", tag = "Oneself",
    security(("access_token" = [])),
    responses((status = 200, description = "Those that have run out as well.", body = Tokens)),
)]
async fn tokens(
    State(state): State<AdminState>,
    Oneself(token): Oneself,
) -> Result<Json<Tokens>, ApiError> {
    let mut tokens = state.catalog.tokens(token.person).await?;
    tokens.retain(|other| token.limits.reach_everything() || other.id == token.id);
    let tokens = tokens.into_iter();
    Ok(Json(Tokens {
        tokens: tokens.map(|token| view(&state.catalog, token)).collect(),
    }))
}

/// Revokes one of the caller's tokens.
#[utoipa::path(
    delete, path = "/v1/me/tokens/{token}", tag = "Oneself",
    security(("access_token" = [])),
    responses(
        (status = 200, description = "The sessions that lived on it are gone.", body = Done<Removed>),
        (status = 404, description = "No such token of theirs."),
    ),
)]
async fn revoke_token(
    State(state): State<AdminState>,
    oneself: Oneself,
    Segments(id): Segments<TokenId>,
) -> Result<Json<Done<Removed>>, ApiError> {
    let Oneself(token) = &oneself;
    let is_visible = token.limits.reach_everything() || token.id == id;
    let other = state.catalog.token(&id).await?;
    if !is_visible || other.is_none_or(|other| other.person != token.person) {
        return Err(ApiError::missing("token of yours", &id)
            .with_hint("`sluice me tokens` shows your tokens"));
    }
    let changed = state.catalog.revoke_token(&id, &oneself.actor()).await?;
    let scope = Scope::Token(id);
    Ok(Json(state.enforced(changed, scope, |_| Removed {}).await))
}
