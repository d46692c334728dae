//! The routes under `/v1/projects` with the shapes of Supabase's Management API, so that its clients work here.
//!
//! Times are Unix seconds, networks are split by family, errors carry a `message` at the top. A role without
//! `expires_at` gets the longest time that a rule may have: nothing here holds for ever.

use std::net::IpAddr;

use axum::{Json, extract::State, http::StatusCode};
use time::OffsetDateTime;
use utoipa_axum::routes;

use super::{
    AdminState,
    auth::{self, Actor, Bearer, BearerToken},
    compatible_values::{
        Authorisation, AuthorisationRequest, Grants, ListItem, NewGrants, SwitchState, UserGrants,
        UserRole,
    },
    error::ApiError,
    extract::{Body, Segments},
    openapi::Routes,
    people, tenants,
    values::{Done, Removed, Switch},
};
use crate::{
    access::{AccessError, Denial, Grant, Scope},
    catalog::types::{AuditEvent, Outcome, Rule},
    names::{RoleName, TenantRef, TokenId},
};

/// What administrators do, with the admin key.
pub(super) fn routes() -> Routes {
    Routes::default()
        .routes(routes!(switch, set_switch))
        .routes(routes!(replace))
        .routes(routes!(list))
        .routes(routes!(remove))
}

/// What a person asks about themselves, with their token.
pub(super) fn own_routes() -> Routes {
    Routes::default().routes(routes!(own, authorise))
}

/// Whether token access is on.
#[utoipa::path(
    get, path = "/v1/projects/{ref}/jit-access", tag = "Compatible",
    responses(
        (status = 200, description = "On or off.", body = SwitchState),
        (status = 404, description = "No such tenant."),
    ),
)]
async fn switch(
    State(state): State<AdminState>,
    Segments(tenant): Segments<TenantRef>,
) -> Result<Json<SwitchState>, ApiError> {
    let tenant = tenants::find(&state.catalog, &tenant).await?;
    Ok(Json(SwitchState {
        state: tenant.token_access,
        applied: None,
    }))
}

/// Turns token access on or off.
#[utoipa::path(
    put, path = "/v1/projects/{ref}/jit-access", tag = "Compatible",
    request_body = Switch,
    responses(
        (status = 200, description = "It is done.", body = SwitchState),
        (status = 404, description = "No such tenant."),
    ),
)]
async fn set_switch(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(tenant): Segments<TenantRef>,
    Body(wanted): Body<Switch>,
) -> Result<Json<SwitchState>, ApiError> {
    let done = tenants::switch_access(&state, &actor, tenant, wanted.state).await?;
    let all_gone = done.revocation.is_none_or(|report| report.unconfirmed == 0);
    Ok(Json(SwitchState {
        state: done.value.state,
        applied: Some(all_gone),
    }))
}

/// Replaces all rules of a person.
#[utoipa::path(
    put, path = "/v1/projects/{ref}/database/jit", tag = "Compatible",
    request_body = NewGrants,
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
    let rules = state.catalog.rules(&tenant).await?;
    let members = state.catalog.members(&tenant).await?;
    let items = members.into_iter().filter_map(|member| {
        let own = rules.iter().filter(|rule| rule.person == member.person);
        let user_roles: Vec<_> = own.map(UserRole::from).collect();
        (!user_roles.is_empty()).then_some(ListItem {
            user_id: member.person,
            user_roles,
            primary_email: member.email,
        })
    });
    Ok(Json(UserGrants {
        items: items.collect(),
    }))
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
    let person = people::find(&state.catalog, &person).await?.id;
    let changed = state.catalog.remove_rules(&tenant, person, &actor).await?;
    let scope = Scope::Member(tenant, person);
    Ok(Json(state.enforced(changed, scope, |_| Removed {}).await))
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
    let person = state
        .access
        .authenticate(&token)
        .await?
        .ok_or_else(auth::invalid_token)?;
    let mut rules = state.catalog.rules_of(&tenant, person).await?;
    let known = state.catalog.tenant(&tenant).await?;
    if let Some(parent) = known.as_ref().and_then(|tenant| tenant.parent.as_ref()) {
        rules.extend(state.catalog.rules_of(parent, person).await?);
    }
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
    request_body = AuthorisationRequest, security(("access_token" = [])),
    responses(
        (status = 200, description = "It may.", body = Authorisation),
        (status = 403, description = "There is a rule, but it does not hold here and now; `error.code` says why."),
        (status = 406, description = "`not_a_member` or `no_rule`"),
        (status = 503, description = "`catalogue_unavailable` or `authority_unavailable`: nobody can tell at the moment."),
    ),
)]
async fn authorise(
    State(state): State<AdminState>,
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
        .ok_or_else(auth::invalid_token)?;
    drop(secret);
    let from = state.true_client(credential.id(), &tenant, &asked.role, from);
    let decision = state
        .access
        .authorise(&credential, &tenant, &asked.role, from)
        .await;
    let event = event(credential.id(), &tenant, &asked.role, from, &decision);
    match &decision {
        Ok(_) => state.catalog.record_later(event),
        Err(_) => {
            state.catalog.record_refusal(event, from);
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

fn event(
    token: &TokenId,
    tenant: &TenantRef,
    role: &RoleName,
    from: IpAddr,
    decision: &Result<Grant, AccessError>,
) -> AuditEvent {
    let (kind, outcome) = match decision {
        Ok(_) => ("auth.succeeded", Outcome::Success),
        Err(_) => ("auth.denied", Outcome::Failure),
    };
    let person = decision.as_ref().ok().map(Grant::person);
    let actor = person.map_or_else(|| "unknown".to_owned(), |person| format!("person:{person}"));
    AuditEvent {
        reason: match decision {
            Ok(_) => None,
            Err(AccessError::Denied { denial, .. }) => Some(denial.reason().to_owned()),
            Err(AccessError::Unavailable(_)) => Some("catalogue_unavailable".to_owned()),
            Err(AccessError::AuthorityLost(_)) => Some("authority_unavailable".to_owned()),
        },
        tenant: Some(tenant.clone()),
        person,
        role: Some(role.clone()),
        token: Some(token.clone()),
        peer: Some(from.to_string()),
        detail: serde_json::json!({ "through": "authorise call" }),
        ..AuditEvent::new(kind, outcome, actor)
    }
}

/// 401: not a valid token. 406: nothing was ever set up for this. 403: it was, but does not hold here and now.
fn refusal(denial: Denial) -> ApiError {
    let status = match denial {
        Denial::InvalidToken(_) => return auth::invalid_token(),
        Denial::NotAMember | Denial::NoRule => StatusCode::NOT_ACCEPTABLE,
        Denial::NotEnabled
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
