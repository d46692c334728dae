//! The routes under `/v1/projects` with the shapes of Supabase's Management API, so that its clients work here.
//!
//! Times are Unix seconds, networks are split by family, errors carry a `message` at the top. A role without
//! `expires_at` gets the longest time that a rule may have: nothing here holds for ever.

use std::net::IpAddr;

use axum::{Extension, Json, extract::State, http::StatusCode};
use time::OffsetDateTime;

use super::{
    AdminState,
    auth::{self, Actor, Bearer, BearerToken},
    change::harmless,
    compatible_values::{
        Authorisation, AuthorisationRequest, Grants, Invited, ListItem, NewGrants, NewInvitation,
        SwitchState, UserGrants, UserRole, Welcome,
    },
    error::ApiError,
    extract::{Body, SecretBody, Segments},
    invites,
    object::Object,
    people,
    routes::{Routes, routes},
    rules,
    server::Peer,
    tenants,
    values::{Acceptance, Done, Removed, WantedAccess},
};
use crate::{
    access::{AccessError, Denial, Grant, Scope},
    catalog::types::{AuditEvent, InviteStatus, NewInvite, Outcome, Rule},
    names::{InviteId, RoleName, TenantRef, TokenId},
};

/// What those do who manage access: with the admin key, or with their token.
pub(super) fn managed_routes() -> Routes {
    routes!(
        switch,
        set_switch,
        replace,
        list,
        remove,
        invite,
        revoke_invite
    )
}

/// What a person asks about themselves, with their token; and whoever was invited shows the acceptance token.
pub(super) fn open_routes() -> Routes {
    routes!(own, authorise, accept_invite)
}

/// Whether token access is on.
#[utoipa::path(
    get, path = "/v1/projects/{ref}/jit-access", tag = "Compatible",
    responses(
        (status = 200, description = "On, off, or why it cannot be on.", body = SwitchState),
        (status = 404, description = "No such tenant."),
    ),
)]
async fn switch(
    State(state): State<AdminState>,
    Segments(tenant): Segments<TenantRef>,
) -> Result<Json<SwitchState>, ApiError> {
    let found = tenants::access_state(&state, &tenant).await?;
    Ok(Json(SwitchState::found(found)))
}

/// Turns token access on or off.
#[utoipa::path(
    put, path = "/v1/projects/{ref}/jit-access", tag = "Compatible",
    request_body(content = WantedAccess, example = json!({ "state": "enabled" })),
    responses(
        (status = 200, description = "It is done.", body = SwitchState),
        (status = 404, description = "No such tenant."),
        (status = 409, description = "What speaks against turning it, as `error.code` says."),
    ),
)]
async fn set_switch(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(tenant): Segments<TenantRef>,
    Body(wanted): Body<WantedAccess>,
) -> Result<Json<SwitchState>, ApiError> {
    let done = tenants::switch_access(&state, &actor, tenant, wanted.state).await?;
    let all_gone = done.revocation.is_none_or(|report| report.unconfirmed == 0);
    Ok(Json(SwitchState::turned(done.value.state, Some(all_gone))))
}

/// Replaces all rules of a person.
#[utoipa::path(
    put, path = "/v1/projects/{ref}/database/jit", tag = "Compatible",
    request_body(content = NewGrants, example = json!({ "user_id": "ben@example.com", "roles": [{ "role": "app_readwrite" }] })),
    responses(
        (status = 200, description = "The rules that hold now.", body = Done<Grants>),
        (status = 404, description = "No such tenant or person."),
        (status = 422, description = "`invalid`, `not_a_member`, `privileged_role`, `expiry_in_the_past` or `expiry_too_far`"),
    ),
)]
async fn replace(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(tenant): Segments<TenantRef>,
    Body(wanted): Body<NewGrants>,
) -> Result<Json<Done<Grants>>, ApiError> {
    let now = OffsetDateTime::now_utc();
    let rules = wanted.roles.into_iter().map(|role| role.into_rule(now));
    let rules = rules.collect::<Result<Vec<_>, _>>()?;
    let person = people::find(&state.catalog, &wanted.user_id).await?.id;
    let old = state.catalog.rules_of(&tenant, person).await?;
    let new = rules.iter().map(|rule| &rule.role);
    let new = new.filter(|role| old.iter().all(|old| old.role != **role));
    rules::vet(&state, &tenant, new).await?;
    let changed = state
        .catalog
        .replace_rules(&tenant, person, rules, &actor)
        .await?;
    let answer = |rules: Vec<Rule>| Grants {
        user_id: person,
        user_roles: rules.iter().map(UserRole::from).collect(),
    };
    Ok(Json(
        state
            .enforced(changed, Scope::Member(tenant, person), answer)
            .await,
    ))
}

/// Everybody's rules.
#[utoipa::path(
    get, path = "/v1/projects/{ref}/database/jit/list", tag = "Compatible",
    responses(
        (status = 200, description = "Those who have any.", body = UserGrants),
        (status = 404, description = "No such tenant."),
    ),
)]
async fn list(
    State(state): State<AdminState>,
    Segments(tenant): Segments<TenantRef>,
) -> Result<Json<UserGrants>, ApiError> {
    tenants::find(&state.catalog, &tenant).await?;
    let rules = state.catalog.rules_with_addresses(&tenant).await?;
    let invites = state.catalog.invites(&tenant).await?;
    let now = OffsetDateTime::now_utc();
    let people = rules.chunk_by(|(one, _), (other, _)| one.person == other.person);
    let people = people.filter_map(|rules| {
        let (first, email) = rules.first()?;
        let invite = invites
            .iter()
            .find(|invite| invite.person == Some(first.person));
        Some(ListItem {
            user_id: Some(first.person),
            user_roles: rules.iter().map(|(rule, _)| UserRole::from(rule)).collect(),
            primary_email: email.clone(),
            invite_id: invite.map(|invite| invite.id),
            expires_at: None,
        })
    });
    let mut items: Vec<_> = people.collect();
    let pending = invites
        .into_iter()
        .filter(|invite| invite.status(now) == InviteStatus::Pending);
    items.extend(pending.map(ListItem::from));
    Ok(Json(UserGrants { items }))
}

/// Removes all rules of a person.
#[utoipa::path(
    delete, path = "/v1/projects/{ref}/database/jit/{person}", tag = "Compatible",
    responses(
        (status = 200, description = "They are gone.", body = Done<Removed>),
        (status = 404, description = "No such tenant or person, or they have no rule."),
    ),
)]
async fn remove(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments((tenant, person)): Segments<(TenantRef, String)>,
) -> Result<Json<Done<Removed>>, ApiError> {
    rules::remove_all_of(&state, &actor, tenant, &person)
        .await
        .map(Json)
}

/// Invites somebody who is no member.
#[utoipa::path(
    post, path = "/v1/projects/{ref}/database/jit/invite", tag = "Compatible",
    request_body(content = NewInvitation, example = json!({ "email": "guest@example.com", "roles": [{ "role": "app_readwrite" }] })),
    responses(
        (status = 200, description = "The only answer that holds the acceptance token.", body = Done<Invited>),
        (status = 404, description = "No such tenant."),
        (status = 409, description = "`exists`: the address is a member's."),
        (status = 422, description = "`invalid`, `privileged_role`, `expiry_in_the_past` or `expiry_too_far`"),
    ),
)]
async fn invite(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(tenant): Segments<TenantRef>,
    Body(wanted): Body<NewInvitation>,
) -> Result<Json<Done<Invited>>, ApiError> {
    let now = OffsetDateTime::now_utc();
    let roles = wanted.roles.into_iter().map(|role| role.into_invited(now));
    let new = NewInvite {
        email: wanted.email,
        roles: roles.collect::<Result<_, _>>()?,
        expires_at: invites::usual_end(now),
    };
    let made = invites::invite(&state, &tenant, new, &actor).await?;
    Ok(Json(harmless(made, Invited::new)))
}

/// Accepts an invitation: the roles are granted from now on, and the guest is given a token to use them with.
#[utoipa::path(
    post, path = "/v1/projects/{ref}/database/jit/invite/accept", tag = "Compatible",
    request_body(content = Acceptance, example = json!({ "email": "guest@example.com", "token": "sli_…" })),
    responses(
        (status = 200, description = "The guest, and the only answer that holds their token.", body = Done<Welcome>),
        (status = 401, description = "`invalid_invite`: the token, the address or the tenant is wrong."),
        (status = 410, description = "`invite_used` or `invite_expired`"),
        (status = 422, description = "`privileged_role`: the tenant grants it no more."),
    ),
)]
async fn accept_invite(
    State(state): State<AdminState>,
    Segments(tenant): Segments<TenantRef>,
    SecretBody(Object(shown)): SecretBody<Object<Acceptance>>,
) -> Result<Json<Done<Welcome>>, ApiError> {
    let changed = invites::accepted(&state, &tenant, shown).await?;
    let (made, _) = &changed.value;
    let scope = Scope::Member(tenant, made.person.id);
    Ok(Json(state.enforced(changed, scope, Welcome::new).await))
}

/// Revokes an invitation, with the rules and the token that it has given.
#[utoipa::path(
    delete, path = "/v1/projects/{ref}/database/jit/invite/{invite}", tag = "Compatible",
    responses(
        (status = 200, description = "The sessions that lived on it are gone.", body = Done<Removed>),
        (status = 404, description = "No such tenant or invitation."),
    ),
)]
async fn revoke_invite(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments((tenant, invite)): Segments<(TenantRef, InviteId)>,
) -> Result<Json<Done<Removed>>, ApiError> {
    invites::revoked(&state, tenant, invite, &actor)
        .await
        .map(Json)
}

/// The caller's rules: the tenant's own and, for a branch, its parent's.
#[utoipa::path(
    get, path = "/v1/projects/{ref}/database/jit", tag = "Compatible",
    security(("access_token" = [])),
    responses(
        (status = 200, description = "The rules.", body = Grants),
        (status = 406, description = "`no_rule`: there are none."),
    ),
)]
async fn own(
    State(state): State<AdminState>,
    BearerToken(token): BearerToken,
    Segments(tenant): Segments<TenantRef>,
) -> Result<Json<Grants>, ApiError> {
    let token = state.access.known(&token).await?;
    let token = token.ok_or_else(auth::invalid_token)?;
    let (person, limits) = (token.person, token.limits);
    let mut rules = state.catalog.rules_of(&tenant, person).await?;
    let known = state.catalog.tenant(&tenant).await?;
    if let Some(parent) = known.as_ref().and_then(|tenant| tenant.parent.as_ref()) {
        rules.extend(state.catalog.rules_of(parent, person).await?);
    }
    let is_covered = known.is_some_and(|tenant| limits.cover(&tenant));
    rules.retain(|rule| is_covered && limits.name_role(&rule.role));
    if rules.is_empty() {
        // Also where there is no such tenant: a token must not find out which ones exist.
        return Err(refusal(Denial::NoRule));
    }
    Ok(Json(Grants {
        user_id: person,
        user_roles: rules.iter().map(UserRole::from).collect(),
    }))
}

/// Whether the caller's token may use a role now, as the PAM module of a database asks it.
#[utoipa::path(
    post, path = "/v1/projects/{ref}/database/jit", tag = "Compatible",
    request_body(content = AuthorisationRequest, example = json!({ "role": "app_readwrite", "rhost": "192.0.2.7" })), security(("access_token" = [])),
    responses(
        (status = 200, description = "It may.", body = Authorisation),
        (status = 403, description = "There is a rule, but it does not hold here and now; `error.code` says why."),
        (status = 406, description = "`not_a_member` or `no_rule`"),
        (status = 503, description = "`catalogue_unavailable` or `authority_unavailable`: nobody can tell at the moment."),
    ),
)]
async fn authorise(
    State(state): State<AdminState>,
    Extension(Peer(caller)): Extension<Peer>,
    Bearer(secret): Bearer,
    Segments(tenant): Segments<TenantRef>,
    Body(asked): Body<AuthorisationRequest>,
) -> Result<Json<Authorisation>, ApiError> {
    let from = asked
        .rhost
        .parse::<IpAddr>()
        .map_err(|_| ApiError::malformed("`rhost` must be the client's IP address"))?;
    let known = state.catalog.tenant(&tenant).await?;
    let credential = state
        .access
        .credential(known.as_deref(), secret.as_bytes())
        .await?
        .ok_or_else(auth::invalid_token)?;
    drop(secret);
    let from = state.true_client(credential.id(), &tenant, &asked.role, from);
    let decision = state
        .access
        .authorise(&credential, &tenant, &asked.role, from)
        .await;
    let event = AuditEvent {
        // Names that nobody has are not kept: anything could stand there.
        tenant: known.map(|known| known.tenant.clone()),
        role: Some(asked.role),
        peer: Some(from.to_string()),
        detail: serde_json::json!({ "through": "authorise call", "asked_by": caller }),
        ..event(credential.id(), &decision)
    };
    match &decision {
        Ok(_) => state.catalog.record_later(event),
        Err(_) => {
            // Counted by who asks: where a client is said to be is for anybody to make up.
            state.catalog.record_refusal(event, caller);
        }
    }
    match decision {
        Ok(grant) => Ok(Json(Authorisation {
            user_id: grant.person(),
            user_role: UserRole::from(&grant),
        })),
        Err(AccessError::Denied { denial, .. }) => Err(refusal(denial)),
        Err(AccessError::Unavailable(error)) => Err(error.into()),
        Err(AccessError::AuthorityLost(outage)) => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "authority_unavailable",
            outage.to_string(),
        )),
    }
}

impl AdminState {
    /// Where the client is: behind a pooler of ours, whose logins a server has checked as well, or at `rhost`.
    fn true_client(
        &self,
        token: &TokenId,
        tenant: &TenantRef,
        role: &RoleName,
        rhost: IpAddr,
    ) -> IpAddr {
        let rhost = rhost.to_canonical();
        let poolers = &self.doctor.config.load().token_access.pooler_networks;
        if !poolers.iter().any(|network| network.contains(&rhost)) {
            return rhost;
        }
        let client = self.access.client_behind(token, tenant, role);
        client.unwrap_or(rhost)
    }
}

/// What the trail keeps of a decision, whoever it is about.
fn event(token: &TokenId, decision: &Result<Grant, AccessError>) -> AuditEvent {
    let (kind, outcome, reason) = match decision {
        Ok(_) => ("auth.succeeded", Outcome::Success, None),
        Err(error) => ("auth.denied", Outcome::Failure, Some(reason(error))),
    };
    let person = match decision {
        Ok(grant) => Some(grant.person()),
        Err(AccessError::Denied { person, .. }) => *person,
        Err(AccessError::Unavailable(_) | AccessError::AuthorityLost(_)) => None,
    };
    // Whoever has the id alone does not get rows in its name.
    let is_proven = match decision {
        Ok(_) => true,
        Err(AccessError::Denied { denial, person }) => {
            person.is_some() || !matches!(denial, Denial::InvalidToken(_))
        }
        Err(AccessError::Unavailable(_) | AccessError::AuthorityLost(_)) => false,
    };
    let actor = person.map_or_else(|| "unknown".to_owned(), |person| format!("person:{person}"));
    AuditEvent {
        reason: reason.map(str::to_owned),
        person,
        token: is_proven.then(|| token.clone()),
        ..AuditEvent::new(kind, outcome, actor)
    }
}

fn reason(error: &AccessError) -> &'static str {
    match error {
        AccessError::Denied { denial, .. } => denial.reason(),
        AccessError::Unavailable(_) => "catalogue_unavailable",
        AccessError::AuthorityLost(_) => "authority_unavailable",
    }
}

/// 401: not a valid token. 406: nothing was ever set up for this. 403: it was, but does not hold here and now.
fn refusal(denial: Denial) -> ApiError {
    let status = match denial {
        Denial::InvalidToken(_) => return auth::invalid_token(),
        Denial::NotAMember | Denial::NoRule => StatusCode::NOT_ACCEPTABLE,
        Denial::OtherAuthority
        | Denial::NotEnabled
        | Denial::OutsideToken(_)
        | Denial::Restricted
        | Denial::Revoked
        | Denial::RuleExpired
        | Denial::Network
        | Denial::ProjectNetwork
        | Denial::BranchesOnly
        | Denial::PrivilegedRole
        | Denial::ServerTooOld { .. } => StatusCode::FORBIDDEN,
    };
    ApiError::new(status, denial.reason(), denial.to_string())
}
