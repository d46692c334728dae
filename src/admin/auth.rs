//! Who calls: whoever holds the admin key, or a person with a token.
//!
//! The admin key opens everything, two others less (see `Rank`); a token opens what a person may ask about themselves and,
//! where that person is an owner or administrator, the access of that tenant. A key is one for all who run the pooler, so a
//! caller may add who they are in a header: a claim, kept in the audit trail as one. A person is in the trail as who they are.

use axum::{
    Extension,
    extract::{FromRequestParts, RawPathParams, Request, State, rejection::RawPathParamsRejection},
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

/// What a key of the configuration opens: each what the one before it does, and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Reads everything, and changes nothing.
    Viewer,
    /// Gives and takes access: what managers do, for every tenant, and the ends of sessions and tokens.
    Operator,
    Admin,
}

impl Rank {
    const ALL: [Self; 3] = [Self::Admin, Self::Operator, Self::Viewer];

    /// What callers with such a key are in the trail as.
    fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer-key",
            Self::Operator => "operator-key",
            Self::Admin => "admin-key",
        }
    }

    /// The rank of the configuration's key that was given. The configuration is the one of now: a key that was changed
    /// opens nothing after a reload.
    pub(super) fn of(state: &AdminState, given: &str) -> Option<Self> {
        let config = state.doctor.config.load();
        let admin = &config.admin;
        let is_given = |rank: &Self| {
            let key = match rank {
                Self::Viewer => admin.viewer_key.as_ref(),
                Self::Operator => admin.operator_key.as_ref(),
                Self::Admin => Some(&admin.key),
            };
            key.is_some_and(|key| same(given, key.expose()))
        };
        Self::ALL.into_iter().find(is_given)
    }
}

/// What is asked of whoever calls some of the routes, before anything else is looked at. To look, any key will do.
#[derive(Clone, Copy)]
pub(super) enum Gate {
    AdminKey,
    /// The operator's key will do as well.
    Operator,
    /// So it will here, or the token of somebody who manages access of the tenant in the path.
    Manager,
}

impl Gate {
    /// The least key that opens a route for calls of this method.
    pub(super) fn rank(self, is_safe: bool) -> Rank {
        match self {
            _ if is_safe => Rank::Viewer,
            Self::AdminKey => Rank::Admin,
            Self::Operator | Self::Manager => Rank::Operator,
        }
    }
}

/// The named parts of the path; what is no text is for the handler to refuse, in our words.
type NamedParts = Result<RawPathParams, RawPathParamsRejection>;

/// Lets the request through if it bears a key that opens the gate, and says nothing impossible of who calls.
pub(super) async fn require_key(
    State((state, gate)): State<(AdminState, Gate)>,
    Extension(Peer(peer)): Extension<Peer>,
    path: NamedParts,
    mut request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let given = bearer(headers).unwrap_or_default();
    let call = Call::of(&request, named_tenant(&path), peer);
    let Some(rank) = Rank::of(&state, given) else {
        let refused = no_key(headers);
        // Who tries with a token of their own is known by it.
        let person = match token_record(&state, given).await {
            Ok(record) => Some(record.person),
            Err(_) => None,
        };
        let actor = person.map(Actor::person);
        call.note(&state, person, actor, refused.code).await;
        return refused.into_response();
    };
    let actor = match Actor::of(headers, rank) {
        Ok(actor) => actor,
        Err(malformed) => return malformed.into_response(),
    };
    if rank < gate.rank(request.method().is_safe()) {
        let refused = lesser_key();
        call.note(&state, None, Some(actor), refused.code).await;
        return refused.into_response();
    }
    request.extensions_mut().insert(Manager::Key(rank));
    next.run(request).await
}

/// Some key of the configuration: what is behind it may be read by all who have one.
pub(super) fn require_any_key(state: &AdminState, headers: &HeaderMap) -> Result<(), ApiError> {
    let given = bearer(headers).unwrap_or_default();
    Rank::of(state, given)
        .map(|_| ())
        .ok_or_else(|| no_key(headers))
}

fn no_key(headers: &HeaderMap) -> ApiError {
    match bearer(headers) {
        Some(given) if Token::parse(given).is_some() => {
            refusal("this call needs the admin key: nobody's own token opens it")
        }
        Some(_) => refusal("this is not the admin key"),
        None => refusal("this call needs the admin key"),
    }
}

fn lesser_key() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "forbidden",
        "this key does not open this call",
    )
    .with_hint("the viewer's key reads only, the operator's gives and takes access; the rest needs the admin key")
}

/// Who manages the access of a tenant.
#[derive(Clone, Copy)]
pub(super) enum Manager {
    /// Whoever has a key of the configuration that will do.
    Key(Rank),
    /// One of the tenant's owners and administrators.
    Person { id: PersonId, standing: Standing },
}

/// Lets the request through if it bears a key that opens it, or the token of somebody who manages access of the tenant
/// that its path names, and says nothing impossible of who calls.
pub(super) async fn require_manager(
    state: State<(AdminState, Gate)>,
    peer: Extension<Peer>,
    path: NamedParts,
    mut request: Request,
    next: Next,
) -> Response {
    let given = bearer(request.headers()).unwrap_or_default();
    if Rank::of(&state.0.0, given).is_some() {
        return require_key(state, peer, path, request, next).await;
    }
    let (State((state, _)), Extension(Peer(peer))) = (state, peer);
    let tenant = named_tenant(&path);
    let call = Call::of(&request, tenant.clone(), peer);
    let (person, allowed) = match token_record(&state, given).await {
        Ok(record) => (
            Some(record.person),
            manager(&state, tenant.as_ref(), &record).await,
        ),
        Err(refused) => (None, Err(refused)),
    };
    // A person is in the trail as who they are; what else they say must be possible all the same.
    let said = Actor::of(request.headers(), Rank::Viewer);
    let answer = match allowed.and_then(|manager| said.map(|_| manager)) {
        Ok(manager) => {
            request.extensions_mut().insert(manager);
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    };
    // What is left to those who run the pooler, or to owners, is refused further inside.
    if let Some(reason) = denied::reason(&answer) {
        let actor = person.map(Actor::person);
        call.note(&state, person, actor, reason).await;
    }
    answer
}

/// The tenant that a route is about, if what stands there can be one.
fn named_tenant(path: &NamedParts) -> Option<TenantRef> {
    let (_, text) = path
        .as_ref()
        .ok()?
        .iter()
        .find(|(name, _)| *name == "ref")?;
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

/// Who calls, for the audit trail: `person:id`, or who the bearer of a key says they are, `admin-key` or `admin-key:name`
/// (`operator-key`, `viewer-key`).
pub(super) struct Actor(pub(super) String);

/// Whether [`ACTOR_HEADER`] may have this value.
#[must_use]
pub fn is_actor(name: &str) -> bool {
    (1..=ACTOR_MAX_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Actor {
    pub(super) fn person(id: PersonId) -> Self {
        Self(format!("person:{id}"))
    }

    /// Whoever bears the key of this rank, as they say.
    fn of(headers: &HeaderMap, rank: Rank) -> Result<Self, ApiError> {
        let key = rank.name();
        let Some(name) = headers.get(ACTOR_HEADER) else {
            return Ok(Self(key.to_owned()));
        };
        match name.to_str().ok().filter(|name| is_actor(name)) {
            Some(name) => Ok(Self(format!("{key}:{name}"))),
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
            Some(Manager::Person { id, .. }) => Ok(Self::person(*id)),
            Some(Manager::Key(rank)) => Self::of(&parts.headers, *rank),
            None => Self::of(&parts.headers, Rank::Admin),
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
