//! Who calls: whoever holds the admin key, or a person with a token.
//!
//! The admin key opens everything; a token opens what a person may ask about themselves and, where that person is an
//! owner or administrator, the access of that tenant. The key is one for all who run the pooler, so a caller may add
//! who they are in a header: a claim, kept in the audit trail as one. A person is in the trail as who they are.

use axum::{
    Extension,
    extract::{
        FromRequestParts, RawPathParams, Request, State, rejection::RawPathParamsRejection,
    },
    http::{HeaderMap, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    AdminState,
    denied::{self, Call},
    error::ApiError,
    server::Peer,
};
use crate::{
    catalog::{
        Token,
        types::{Standing, TokenRecord},
    },
    names::{PersonId, TenantRef},
};

/// Header with the name of the administrator who calls.
pub const ACTOR_HEADER: &str = "sluice-actor";
pub(super) const ACTOR_MAX_BYTES: usize = 64;

/// What is asked of whoever calls some of the routes, before anything else is looked at.
#[derive(Clone, Copy)]
pub(super) enum Gate {
    AdminKey,
    /// The admin key, or the token of somebody who manages access of the tenant in the path.
    Manager,
}

/// The named parts of the path; what is no text is for the handler to refuse, in our words.
type NamedParts = Result<RawPathParams, RawPathParamsRejection>;

/// Lets the request through if it bears the admin key, and says nothing impossible of who calls.
pub(super) async fn require_admin_key(
    State(state): State<AdminState>,
    Extension(Peer(peer)): Extension<Peer>,
    path: NamedParts,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let Err(refused) = check_admin_key(&state, headers) else {
        return match Actor::of(headers) {
            Ok(_) => next.run(request).await,
            Err(malformed) => malformed.into_response(),
        };
    };
    let call = Call::of(&request, named_tenant(&path), peer);
    // Who tries with a token of their own is known by it.
    let given = bearer(headers).unwrap_or_default();
    let person = match token_record(&state, given).await {
        Ok(record) => Some(record.person),
        Err(_) => None,
    };
    call.note(&state, person, refused.code).await;
    refused.into_response()
}

pub(super) fn check_admin_key(state: &AdminState, headers: &HeaderMap) -> Result<(), ApiError> {
    match bearer(headers) {
        Some(given) if is_admin_key(state, given) => Ok(()),
        Some(given) if Token::parse(given).is_some() => Err(refusal(
            "this call needs the admin key: nobody's own token opens it",
        )),
        Some(_) => Err(refusal("this is not the admin key")),
        None => Err(refusal("this call needs the admin key")),
    }
}

/// Who manages the access of a tenant.
#[derive(Clone, Copy)]
pub(super) enum Manager {
    AdminKey,
    /// One of the tenant's owners and administrators.
    Person {
        id: PersonId,
        standing: Standing,
    },
}

/// Lets the request through if it bears the admin key, or the token of somebody who manages access of the tenant
/// that its path names, and says nothing impossible of who calls.
pub(super) async fn require_manager(
    State(state): State<AdminState>,
    Extension(Peer(peer)): Extension<Peer>,
    path: NamedParts,
    mut request: Request,
    next: Next,
) -> Response {
    let given = bearer(request.headers()).unwrap_or_default();
    let actor = Actor::of(request.headers());
    if is_admin_key(&state, given) {
        if let Err(malformed) = actor {
            return malformed.into_response();
        }
        request.extensions_mut().insert(Manager::AdminKey);
        return next.run(request).await;
    }
    let tenant = named_tenant(&path);
    let call = Call::of(&request, tenant.clone(), peer);
    let (person, allowed) = match token_record(&state, given).await {
        Ok(record) => (
            Some(record.person),
            manager(&state, tenant.as_ref(), &record).await,
        ),
        Err(refused) => (None, Err(refused)),
    };
    let answer = match allowed.and_then(|manager| actor.map(|_| manager)) {
        Ok(manager) => {
            request.extensions_mut().insert(manager);
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    };
    // What is left to those who run the pooler, or to owners, is refused further inside.
    if let Some(reason) = denied::reason(&answer) {
        call.note(&state, person, reason).await;
    }
    answer
}

/// The tenant that a route is about, if what stands there can be one.
fn named_tenant(path: &NamedParts) -> Option<TenantRef> {
    let (_, text) = path.as_ref().ok()?.iter().find(|(name, _)| *name == "ref")?;
    TenantRef::parse(text).ok()
}

async fn token_record(state: &AdminState, given: &str) -> Result<TokenRecord, ApiError> {
    let token = Token::parse(given).ok_or_else(|| {
        refusal("this call needs the admin key, or the token of an owner or administrator")
    })?;
    let record = state.access.known(&token).await?;
    record.ok_or_else(invalid_token)
}

/// The bearer of a token as one who manages the access of `tenant` with it.
async fn manager(
    state: &AdminState,
    tenant: Option<&TenantRef>,
    record: &TokenRecord,
) -> Result<Manager, ApiError> {
    let limits = &record.limits;
    if !limits.is_for_managing() {
        return Err(not_for_managing());
    }
    let (standing, found) = match tenant {
        Some(tenant) => (
            state.catalog.standing(tenant, record.person).await?,
            state.catalog.tenant(tenant).await?,
        ),
        None => (None, None),
    };
    // Told of tenants that do not exist as well: a token must not find out which ones do.
    let standing = standing.filter(|standing| standing.manages_access());
    let standing = standing
        .ok_or_else(|| forbidden("only owners and administrators of a tenant manage its access"))?;
    if found.is_none_or(|found| limits.allow_management(&found).is_err()) {
        return Err(not_for_managing());
    }
    let id = record.person;
    Ok(Manager::Person { id, standing })
}

fn not_for_managing() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "forbidden",
        "this token is not for managing this tenant",
    )
    .with_hint("use a token that has the scope `manage` and is not limited to other tenants")
}

/// The caller is known and may not do this.
pub(super) fn forbidden(message: &'static str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)
        .with_hint("ask an owner of the tenant, or whoever runs the pooler")
}

/// The key is that of the configuration as it is now: one that was changed opens nothing after a reload.
pub(super) fn is_admin_key(state: &AdminState, given: &str) -> bool {
    same(given, state.doctor.config.load().admin.key.expose())
}

/// Compares digests, so that the time taken tells nothing about the key, not even its length.
fn same(given: &str, key: &str) -> bool {
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    digest(given).ct_eq(&digest(key)).into()
}

pub(super) fn refusal(message: &'static str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).with_hint(
        "send `Authorization: Bearer KEY`; the key is the one of [admin] in the configuration",
    )
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| credentials.trim())
}

/// Who calls, for the audit trail: `person:id`, or who the bearer of the admin key says they are, `admin-key` or
/// `admin-key:name`.
pub(super) struct Actor(pub(super) String);

/// Whether [`ACTOR_HEADER`] may have this value.
#[must_use]
pub fn is_actor(name: &str) -> bool {
    (1..=ACTOR_MAX_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Actor {
    /// Whoever bears the admin key, as they say.
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let Some(name) = headers.get(ACTOR_HEADER) else {
            return Ok(Self("admin-key".to_owned()));
        };
        match name.to_str().ok().filter(|name| is_actor(name)) {
            Some(name) => Ok(Self(format!("admin-key:{name}"))),
            None => Err(ApiError::malformed(format!(
                "{ACTOR_HEADER} takes 1 to {ACTOR_MAX_BYTES} visible ASCII characters without spaces"
            ))),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Actor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.extensions.get() {
            Some(Manager::Person { id, .. }) => Ok(Self(format!("person:{id}"))),
            Some(Manager::AdminKey) | None => Self::of(&parts.headers),
        }
    }
}

/// The personal access token that a call bears: well-formed, not checked yet.
pub(super) struct BearerToken(pub(super) Token);

impl<S: Send + Sync> FromRequestParts<S> for BearerToken {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        bearer(&parts.headers)
            .and_then(Token::parse)
            .map(Self)
            .ok_or_else(invalid_token)
    }
}

/// A person who calls about themselves, with a valid token of theirs.
pub(super) struct Oneself(pub(super) TokenRecord);

impl Oneself {
    /// For the audit trail.
    pub(super) fn actor(&self) -> String {
        format!("person:{}", self.0.person)
    }
}

impl FromRequestParts<AdminState> for Oneself {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, ApiError> {
        let BearerToken(token) = BearerToken::from_request_parts(parts, state).await?;
        let record = state.access.known(&token).await?;
        record.map(Self).ok_or_else(invalid_token)
    }
}

/// Whatever a call bears in place of a key: its shape is for others to judge.
pub(super) struct Bearer(pub(super) Zeroizing<String>);

impl<S: Send + Sync> FromRequestParts<S> for Bearer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        bearer(&parts.headers)
            .map(|secret| Self(Zeroizing::new(secret.to_owned())))
            .ok_or_else(invalid_token)
    }
}

/// One answer for every token that is not valid, so that nothing is given away.
pub(super) fn invalid_token() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "invalid_token",
        "the token is not valid",
    )
    .with_hint(
        "send `Authorization: Bearer slp_…` with a token that is neither expired nor revoked",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bearer_scheme_is_needed_in_any_case() {
        let headers = |value: &str| {
            let value = value.parse().unwrap();
            HeaderMap::from_iter([(header::AUTHORIZATION, value)])
        };
        assert_eq!(bearer(&headers("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("Basic abc")), None);
        assert_eq!(bearer(&headers("abc")), None);
    }

    #[test]
    fn a_key_is_the_same_only_if_all_of_it_is() {
        assert!(same("0123456789abcdef", "0123456789abcdef"));
        assert!(!same("0123456789abcde", "0123456789abcdef"));
        assert!(!same("", "0123456789abcdef"));
    }
}
