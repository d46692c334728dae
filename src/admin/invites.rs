//! Invitations: people who are no members are given roles for a while that begins when they accept.

use axum::{Json, extract::State, http::StatusCode};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::{
    AdminState,
    auth::Actor,
    change::harmless,
    error::ApiError,
    expiry,
    extract::{Body, SecretBody, Segments},
    object::Object,
    own,
    routes::{Routes, routes},
    rules, tenants, tokens,
    values::{
        Acceptance, Accepted, Done, Invitation, InvitationRole, InviteView, Invites, IssuedInvite,
        Removed,
    },
};
use crate::{
    access::Scope,
    catalog::{
        CatalogError, Changed, InviteToken,
        types::{AcceptedInvite, Invite, InvitedRole, NewInvite},
    },
    names::{InviteId, TenantRef},
};

/// How long an invitation waits for its acceptance unless it says otherwise.
const WAITS: Duration = Duration::days(7);

pub(super) fn routes() -> Routes {
    routes!(list, create, revoke)
}

/// Without a key: whoever was invited shows the acceptance token.
pub(super) fn open_routes() -> Routes {
    routes!(accept)
}

/// The invitations to a tenant, newest first.
#[utoipa::path(
    get, path = "/v1/tenants/{ref}/invites", tag = "Invitations",
    responses(
        (status = 200, description = "Those that were accepted or have expired as well.", body = Invites),
        (status = 404, description = "No such tenant."),
    ),
)]
async fn list(
    State(state): State<AdminState>,
    Segments(tenant): Segments<TenantRef>,
) -> Result<Json<Invites>, ApiError> {
    tenants::find(&state.catalog, &tenant).await?;
    let invites = state.catalog.invites(&tenant).await?;
    Ok(Json(Invites {
        invites: invites.into_iter().map(view).collect(),
    }))
}

/// Invites somebody who is no member.
#[utoipa::path(
    post, path = "/v1/tenants/{ref}/invites", tag = "Invitations",
    request_body(content = Invitation, example = json!({ "email": "guest@example.com", "roles": [{ "role": "app_readwrite", "lasts": "8h" }] })),
    responses(
        (status = 201, description = "The only answer that holds the acceptance token.", body = Done<IssuedInvite>),
        (status = 404, description = "No such tenant."),
        (status = 409, description = "`exists`: the address is a member's."),
        (status = 422, description = "`invalid`, `privileged_role`, `expiry_in_the_past` or `expiry_too_far`"),
    ),
)]
async fn create(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(tenant): Segments<TenantRef>,
    Body(wanted): Body<Invitation>,
) -> Result<(StatusCode, Json<Done<IssuedInvite>>), ApiError> {
    let now = OffsetDateTime::now_utc();
    let roles = wanted.roles.into_iter().map(invited);
    let new = NewInvite {
        email: wanted.email,
        roles: roles.collect::<Result<_, _>>()?,
        expires_at: match wanted.expires {
            Some(text) => expiry::parse(&text, now)?,
            None => usual_end(now),
        },
    };
    let made = invite(&state, &tenant, new, &actor).await?;
    let answer = |(invite, token)| IssuedInvite {
        invite: view(invite),
        token,
    };
    Ok((StatusCode::CREATED, Json(harmless(made, answer))))
}

/// Accepts an invitation: the roles are granted from now on, and the guest is given a token to use them with.
#[utoipa::path(
    post, path = "/v1/tenants/{ref}/invites/accept", tag = "Invitations",
    request_body(content = Acceptance, example = json!({ "email": "guest@example.com", "token": "sli_…" })),
    responses(
        (status = 201, description = "The guest, and the only answer that holds their token.", body = Done<Accepted>),
        (status = 401, description = "`invalid_invite`: the token, the address or the tenant is wrong."),
        (status = 410, description = "`invite_used` or `invite_expired`"),
        (status = 422, description = "`privileged_role`: the tenant grants it no more."),
    ),
)]
async fn accept(
    State(state): State<AdminState>,
    Segments(tenant): Segments<TenantRef>,
    SecretBody(Object(shown)): SecretBody<Object<Acceptance>>,
) -> Result<(StatusCode, Json<Done<Accepted>>), ApiError> {
    let changed = accepted(&state, &tenant, shown).await?;
    let (made, _) = &changed.value;
    let scope = Scope::Member(tenant, made.person.id);
    // The token is answered this once: better without the way than not at all.
    let access = own::ways(&state, &made.token).await.unwrap_or_default();
    let answer = |(made, secret): (AcceptedInvite, _)| {
        let email = &made.person.email;
        let rules = made.rules.into_iter();
        Accepted {
            rules: rules.map(|rule| rules::view(rule, email.clone())).collect(),
            token: tokens::view(&state.catalog, made.token),
            person: made.person,
            secret,
            access,
        }
    };
    let done = state.enforced(changed, scope, answer).await;
    Ok((StatusCode::CREATED, Json(done)))
}

/// Revokes an invitation, with the rules and the token that it has given.
#[utoipa::path(
    delete, path = "/v1/tenants/{ref}/invites/{invite}", tag = "Invitations",
    responses(
        (status = 200, description = "The sessions that lived on it are gone.", body = Done<Removed>),
        (status = 404, description = "No such tenant or invitation."),
    ),
)]
async fn revoke(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments((tenant, invite)): Segments<(TenantRef, InviteId)>,
) -> Result<Json<Done<Removed>>, ApiError> {
    revoked(&state, tenant, invite, &actor).await.map(Json)
}

/// Makes an invitation, also for a route of another shape.
pub(super) async fn invite(
    state: &AdminState,
    tenant: &TenantRef,
    new: NewInvite,
    actor: &str,
) -> Result<Changed<(Invite, Zeroizing<String>)>, ApiError> {
    rules::vet(state, tenant, new.roles.iter().map(|role| &role.role)).await?;
    Ok(state.catalog.create_invite(tenant, new, actor).await?)
}

/// When an invitation that says nothing of its end can be accepted no more.
pub(super) fn usual_end(now: OffsetDateTime) -> OffsetDateTime {
    now + WAITS
}

pub(super) async fn accepted(
    state: &AdminState,
    tenant: &TenantRef,
    shown: Acceptance,
) -> Result<Changed<(AcceptedInvite, Zeroizing<String>)>, ApiError> {
    let token = InviteToken::parse(&shown.token).ok_or(CatalogError::InviteNotValid)?;
    let accepted = state.catalog.accept_invite(tenant, &shown.email, token);
    Ok(accepted.await?)
}

pub(super) async fn revoked(
    state: &AdminState,
    tenant: TenantRef,
    invite: InviteId,
    actor: &str,
) -> Result<Done<Removed>, ApiError> {
    let changed = state.catalog.revoke_invite(&tenant, invite, actor).await?;
    Ok(match changed.value.person {
        Some(person) => {
            let scope = Scope::Member(tenant, person);
            state.enforced(changed, scope, |_| Removed {}).await
        }
        None => harmless(changed, |_| Removed {}),
    })
}

fn invited(role: InvitationRole) -> Result<InvitedRole, ApiError> {
    Ok(InvitedRole {
        role: role.role,
        lasts: expiry::lasting(&role.lasts)
            .map_err(|error| ApiError::invalid(format!("lasts: {error}")))?,
        networks: role.networks,
        reach: role.reach,
        reason: role.reason,
    })
}

fn view(invite: Invite) -> InviteView {
    InviteView {
        status: invite.status(OffsetDateTime::now_utc()),
        invite,
    }
}
