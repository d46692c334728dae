//! Tenants, their switch for token access, their members and the secrets of their roles.

use axum::{Extension, Json, extract::State, http::StatusCode};

use super::{
    AdminState,
    auth::{self, Actor, Manager},
    change::harmless,
    error::ApiError,
    extract::{Body, SecretBody, Segments},
    people,
    routes::{Routes, routes},
    tenant_fields,
    values::{
        AccessState, Done, MemberGone, MemberTerms, Members, OneMember, OneTenant, Removed,
        SecretText, TenantFields, Tenants, WantedAccess,
    },
};
use crate::{
    access::Scope,
    catalog::{
        Catalog,
        types::{MemberKind, RoleSecret, Standing, Tenant, TokenAccess},
    },
    doctor::Unavailable,
    names::{PersonId, RoleName, TenantRef},
    protocol::scram::Verifier,
};

pub(super) fn routes() -> Routes {
    routes!(list, add, show, set, remove, set_secret, remove_secret)
}

/// What the tenant's own owners and administrators do as well.
pub(super) fn managed_routes() -> Routes {
    routes!(access, set_access, members, set_member, remove_member)
}

/// The tenant `name`, or the refusal that says that there is none.
pub(super) async fn find(catalog: &Catalog, name: &TenantRef) -> Result<Tenant, ApiError> {
    let found = catalog.tenant(name).await?;
    found.map(|tenant| Tenant::clone(&tenant)).ok_or_else(|| {
        ApiError::missing("tenant", name).with_hint("`sluice tenant list` shows the tenants")
    })
}

/// All tenants.
#[utoipa::path(
    get, path = "/v1/tenants", tag = "Tenants",
    responses((status = 200, description = "In the order of their refs.", body = Tenants)),
)]
async fn list(State(state): State<AdminState>) -> Result<Json<Tenants>, ApiError> {
    let tenants = state.catalog.tenants().await?;
    Ok(Json(Tenants { tenants }))
}

/// Adds a tenant: `ref` and `host` are needed, the rest has cautious defaults.
#[utoipa::path(
    post, path = "/v1/tenants", tag = "Tenants",
    request_body(content = TenantFields, example = json!({ "ref": "shop", "host": "10.20.0.7" })),
    responses(
        (status = 201, description = "The tenant.", body = Done<OneTenant>),
        (status = 404, description = "No such `parent`."),
        (status = 409, description = "`exists`: there is a tenant of this ref."),
        (status = 422, description = "`invalid`: the fields do not go together, or one cannot be."),
    ),
)]
async fn add(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Body(fields): Body<TenantFields>,
) -> Result<(StatusCode, Json<Done<OneTenant>>), ApiError> {
    let tenant = tenant_fields::new_tenant(fields)?;
    check_authority(&state, &tenant)?;
    let made = state.catalog.create_tenant(tenant, &actor).await?;
    Ok((StatusCode::CREATED, Json(harmless(made, one))))
}

/// An authority that may not be asked is refused here, and not at the first login.
fn check_authority(state: &AdminState, tenant: &Tenant) -> Result<(), ApiError> {
    let checked = state.access.check_authority(&tenant.authority);
    checked.map_err(|error| ApiError::invalid(format!("`authority`: {error}")))
}

/// One tenant.
#[utoipa::path(
    get, path = "/v1/tenants/{ref}", tag = "Tenants",
    responses(
        (status = 200, description = "The tenant.", body = OneTenant),
        (status = 404, description = "No such tenant."),
    ),
)]
async fn show(
    State(state): State<AdminState>,
    Segments(name): Segments<TenantRef>,
) -> Result<Json<OneTenant>, ApiError> {
    find(&state.catalog, &name).await.map(one).map(Json)
}

/// Changes what is named in a tenant.
#[utoipa::path(
    patch, path = "/v1/tenants/{ref}", tag = "Tenants",
    request_body(content = TenantFields, example = json!({ "pool_size": 20, "timeouts": { "idle": "10m" } })),
    responses(
        (status = 200, description = "The tenant; sessions that it allows no more are gone.", body = Done<OneTenant>),
        (status = 404, description = "No such tenant."),
        (status = 422, description = "`invalid`: the fields do not go together, or one cannot be."),
    ),
)]
async fn set(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(name): Segments<TenantRef>,
    Body(fields): Body<TenantFields>,
) -> Result<Json<Done<OneTenant>>, ApiError> {
    let order = state.changes.in_order().await;
    let tenant = find(&state.catalog, &name).await?;
    let tenant = tenant_fields::changed(tenant, fields)?;
    check_authority(&state, &tenant)?;
    let changed = state.catalog.update_tenant(tenant, &actor).await?;
    drop(order);
    Ok(Json(
        state.enforced(changed, Scope::Tenant(name), one).await,
    ))
}

/// Removes a tenant with its members, rules and secrets.
#[utoipa::path(
    delete, path = "/v1/tenants/{ref}", tag = "Tenants",
    responses(
        (status = 200, description = "Its sessions are gone.", body = Done<Removed>),
        (status = 404, description = "No such tenant."),
        (status = 409, description = "`has_branches`: remove them first."),
    ),
)]
async fn remove(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(name): Segments<TenantRef>,
) -> Result<Json<Done<Removed>>, ApiError> {
    let changed = state.catalog.remove_tenant(&name, &actor).await?;
    let scope = Scope::Tenant(name);
    Ok(Json(state.enforced(changed, scope, |_| Removed {}).await))
}

/// Whether people may use tokens.
#[utoipa::path(
    get, path = "/v1/tenants/{ref}/access", tag = "Tenants",
    responses(
        (status = 200, description = "On or off.", body = AccessState),
        (status = 404, description = "No such tenant."),
    ),
)]
async fn access(
    State(state): State<AdminState>,
    Segments(name): Segments<TenantRef>,
) -> Result<Json<AccessState>, ApiError> {
    access_state(&state, &name).await.map(Json)
}

/// How the switch stands, and whether the server is one that token sessions can be on.
pub(super) async fn access_state(
    state: &AdminState,
    name: &TenantRef,
) -> Result<AccessState, ApiError> {
    let tenant = find(&state.catalog, name).await?;
    let switch = match enabling_parent(state, &tenant).await? {
        Some(_) => TokenAccess::Enabled,
        None => tenant.token_access,
    };
    Ok(AccessState {
        state: switch,
        unavailable: state.doctor.unavailable(tenant).await?,
    })
}

/// The parent of a branch, if the branch is on because that one is.
async fn enabling_parent(
    state: &AdminState,
    tenant: &Tenant,
) -> Result<Option<TenantRef>, ApiError> {
    let Some(name) = &tenant.parent else {
        return Ok(None);
    };
    let parent = find(&state.catalog, name).await?;
    Ok((parent.token_access == TokenAccess::Enabled).then_some(parent.tenant))
}

/// Turns token access on or off. The rules stay as they are either way.
#[utoipa::path(
    put, path = "/v1/tenants/{ref}/access", tag = "Tenants",
    request_body(content = WantedAccess, example = json!({ "state": "enabled" })),
    responses(
        (status = 200, description = "Once off, all sessions on tokens are gone.", body = Done<AccessState>),
        (status = 404, description = "No such tenant."),
        (status = 409, description = "What speaks against turning it, as `error.code` says."),
    ),
)]
async fn set_access(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(name): Segments<TenantRef>,
    Body(wanted): Body<WantedAccess>,
) -> Result<Json<Done<AccessState>>, ApiError> {
    switch_access(&state, &actor, name, wanted.state)
        .await
        .map(Json)
}

/// Turns token access of a tenant on or off. Its rules stay as they are either way.
pub(super) async fn switch_access(
    state: &AdminState,
    actor: &str,
    name: TenantRef,
    wanted: TokenAccess,
) -> Result<Done<AccessState>, ApiError> {
    let unavailable = match wanted {
        TokenAccess::Enabled => {
            let tenant = find(&state.catalog, &name).await?;
            let found = state.doctor.unavailable(tenant).await?;
            if let Some(reason) = &found
                && reason.reason.is_for_good()
            {
                return Err(never(reason));
            }
            found
        }
        // Whoever turns it off need not wait for a server.
        TokenAccess::Disabled => None,
    };
    let order = state.changes.in_order().await;
    let tenant = Tenant {
        token_access: wanted,
        ..find(&state.catalog, &name).await?
    };
    if wanted == TokenAccess::Disabled
        && let Some(parent) = enabling_parent(state, &tenant).await?
    {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "enabled_by_parent",
            format!("`{parent}` enables token access for all its branches"),
        )
        .with_hint("`sluice access disable` the parent, or take away rules"));
    }
    let changed = state.catalog.update_tenant(tenant, actor).await?;
    drop(order);
    let answer = |tenant: Tenant| AccessState {
        state: tenant.token_access,
        unavailable,
    };
    Ok(state.enforced(changed, Scope::Tenant(name), answer).await)
}

/// It would be on and let nobody in.
fn never(found: &Unavailable) -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        found.reason.word(),
        format!("token access cannot be enabled: {}", found.message),
    )
    .with_hint("`sluice doctor --tenant TENANT` says what to change on the server")
}

/// The people who belong to a tenant.
#[utoipa::path(
    get, path = "/v1/tenants/{ref}/members", tag = "Tenants",
    responses(
        (status = 200, description = "The members.", body = Members),
        (status = 404, description = "No such tenant."),
    ),
)]
async fn members(
    State(state): State<AdminState>,
    Segments(name): Segments<TenantRef>,
) -> Result<Json<Members>, ApiError> {
    find(&state.catalog, &name).await?;
    let members = state.catalog.members(&name).await?;
    Ok(Json(Members { members }))
}

/// Makes a person a member, or one of another kind.
#[utoipa::path(
    put, path = "/v1/tenants/{ref}/members/{person}", tag = "Tenants",
    request_body(content = MemberTerms, example = json!({ "kind": "member" })),
    responses(
        (status = 200, description = "The member.", body = Done<OneMember>),
        (status = 404, description = "No such tenant or person."),
    ),
)]
async fn set_member(
    State(state): State<AdminState>,
    Extension(manager): Extension<Manager>,
    Actor(actor): Actor,
    Segments((name, person)): Segments<(TenantRef, String)>,
    Body(terms): Body<MemberTerms>,
) -> Result<Json<Done<OneMember>>, ApiError> {
    let order = state.changes.in_order().await;
    let person = people::find(&state.catalog, &person).await?.id;
    spare_owners(&state, manager, &name, person, Some(terms.kind)).await?;
    let changed = state
        .catalog
        .set_member(&name, person, terms.kind, &actor)
        .await?;
    drop(order);
    let scope = Scope::Member(name, person);
    Ok(Json(
        state
            .enforced(changed, scope, |member| OneMember { member })
            .await,
    ))
}

/// Ends a membership, and with it the person's rules in the tenant.
#[utoipa::path(
    delete, path = "/v1/tenants/{ref}/members/{person}", tag = "Tenants",
    responses(
        (status = 200, description = "Their sessions are gone.", body = Done<MemberGone>),
        (status = 404, description = "No such tenant, person or member."),
    ),
)]
async fn remove_member(
    State(state): State<AdminState>,
    Extension(manager): Extension<Manager>,
    Actor(actor): Actor,
    Segments((name, person)): Segments<(TenantRef, String)>,
) -> Result<Json<Done<MemberGone>>, ApiError> {
    let order = state.changes.in_order().await;
    let person = people::find(&state.catalog, &person).await?.id;
    spare_owners(&state, manager, &name, person, None).await?;
    let changed = state.catalog.remove_member(&name, person, &actor).await?;
    drop(order);
    let scope = Scope::Member(name, person);
    let answer = |rules_removed| MemberGone { rules_removed };
    Ok(Json(state.enforced(changed, scope, answer).await))
}

/// Owners are made, changed and removed by owners and with the admin key; administrators do the rest.
async fn spare_owners(
    state: &AdminState,
    manager: Manager,
    tenant: &TenantRef,
    person: PersonId,
    wanted: Option<MemberKind>,
) -> Result<(), ApiError> {
    match manager {
        Manager::Key(_)
        | Manager::Person {
            standing: Standing::Owner,
            ..
        } => return Ok(()),
        Manager::Person { .. } => {}
    }
    let standing = state.catalog.standing(tenant, person).await?;
    if standing == Some(Standing::Owner) || wanted == Some(MemberKind::Owner) {
        return Err(auth::forbidden("only an owner makes or unmakes owners"));
    }
    Ok(())
}

/// Stores the secret of a role, encrypted; nothing ever answers it.
#[utoipa::path(
    put, path = "/v1/tenants/{ref}/roles/{role}/secret", tag = "Tenants",
    request_body(content = SecretText, example = json!({ "password": "…" })),
    responses(
        (status = 200, description = "It is stored.", body = Done<Removed>),
        (status = 404, description = "No such tenant."),
        (status = 422, description = "`invalid`: it cannot be a secret."),
    ),
)]
async fn set_secret(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments((name, role)): Segments<(TenantRef, RoleName)>,
    SecretBody(secret): SecretBody<SecretText>,
) -> Result<Json<Done<Removed>>, ApiError> {
    let secret = match secret {
        SecretText::Password(password) if password.is_empty() => {
            return Err(ApiError::invalid("the password is empty"));
        }
        SecretText::Password(password) => RoleSecret::Password(password),
        SecretText::Verifier(verifier) => {
            Verifier::parse(&verifier).map_err(|error| {
                ApiError::invalid(format!("the verifier cannot be used: {error}"))
                    .with_hint("take it from pg_authid.rolpassword; it starts with SCRAM-SHA-256$")
            })?;
            RoleSecret::Verifier(verifier)
        }
    };
    let changed = state
        .catalog
        .set_role_secret(&name, &role, secret, &actor)
        .await?;
    Ok(Json(harmless(changed, |_| Removed {})))
}

/// Forgets the secret of a role.
#[utoipa::path(
    delete, path = "/v1/tenants/{ref}/roles/{role}/secret", tag = "Tenants",
    responses(
        (status = 200, description = "It is gone.", body = Done<Removed>),
        (status = 404, description = "No such tenant or secret."),
    ),
)]
async fn remove_secret(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments((name, role)): Segments<(TenantRef, RoleName)>,
) -> Result<Json<Done<Removed>>, ApiError> {
    let changed = state
        .catalog
        .remove_role_secret(&name, &role, &actor)
        .await?;
    Ok(Json(harmless(changed, |_| Removed {})))
}

const fn one(tenant: Tenant) -> OneTenant {
    OneTenant { tenant }
}
