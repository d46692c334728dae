//! Rules: member → role, until when, from where, on branches only or not.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    AdminState,
    auth::Actor,
    error::ApiError,
    expiry,
    extract::{Body, Params, Segments},
    people,
    routes::{Routes, routes},
    tenants,
    values::{Done, OneRule, Removed, RuleAddition, RuleStatus, RuleTerms, RuleView, Rules},
};
use crate::{
    access::Scope,
    catalog::{
        Catalog, CatalogError, Changed,
        types::{NewRule, Person, PrivilegedRoles, Rule, RuleChange, RuleReach},
    },
    doctor::Standing,
    names::{PersonId, RoleName, TenantRef},
};

pub(super) fn routes() -> Routes {
    routes!(list, add, remove_all, replace, set, remove)
}

/// One rule as a path names it.
type RulePath = (TenantRef, String, RoleName);

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Id or e-mail address.
    person: Option<String>,
}

/// The rules of a tenant.
#[utoipa::path(
    get, path = "/v1/tenants/{ref}/rules", tag = "Rules",
    params(Filter),
    responses(
        (status = 200, description = "Those that have run out as well.", body = Rules),
        (status = 404, description = "No such tenant or person."),
    ),
)]
async fn list(
    State(state): State<AdminState>,
    Segments(tenant): Segments<TenantRef>,
    Params(filter): Params<Filter>,
) -> Result<Json<Rules>, ApiError> {
    tenants::find(&state.catalog, &tenant).await?;
    let mut rules = state.catalog.rules_with_addresses(&tenant).await?;
    if let Some(person) = filter.person {
        let person = people::find(&state.catalog, &person).await?.id;
        rules.retain(|(rule, _)| rule.person == person);
    }
    let rules = rules.into_iter().map(|(rule, email)| view(rule, email));
    Ok(Json(Rules {
        rules: rules.collect(),
    }))
}

/// Adds a rule.
#[utoipa::path(
    post, path = "/v1/tenants/{ref}/rules", tag = "Rules",
    request_body(content = RuleAddition, example = json!({ "person": "anna@example.com", "role": "app_readwrite", "expires": "8h" })),
    responses(
        (status = 201, description = "The rule.", body = Done<OneRule>),
        (status = 404, description = "No such tenant or person."),
        (status = 409, description = "`exists`: the person has a rule for this role that holds."),
        (status = 422, description = "`invalid`, `not_a_member`, `privileged_role`, `expiry_in_the_past` or `expiry_too_far`"),
    ),
)]
async fn add(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments(tenant): Segments<TenantRef>,
    Body(addition): Body<RuleAddition>,
) -> Result<(StatusCode, Json<Done<OneRule>>), ApiError> {
    // Before the order is held: nobody else waits for this tenant's server.
    let missing = vet(&state, &tenant, [&addition.role]).await?;
    // A while counts from now: what the server took to answer is no part of it.
    let now = OffsetDateTime::now_utc();
    let new = NewRule {
        expires_at: expiry::parse(&addition.expires, now)?,
        role: addition.role,
        networks: addition.networks,
        reach: addition.reach,
        reason: addition.reason,
    };
    let person = people::find(&state.catalog, &addition.person).await?;
    let role = new.role.clone();
    let added = state
        .catalog
        .add_rule(&tenant, person.id, new, &actor)
        .await
        .map_err(|error| match error {
            CatalogError::Exists { .. } => already_there(&person, &role),
            other => other.into(),
        })?;
    let done = written(&state, added, tenant, person, &missing).await;
    Ok((StatusCode::CREATED, Json(done)))
}

/// Writes the whole of a rule, new or not.
#[utoipa::path(
    put, path = "/v1/tenants/{ref}/rules/{person}/{role}", tag = "Rules",
    request_body(content = RuleTerms, example = json!({ "expires": "8h", "reason": "ticket 4711" })),
    responses(
        (status = 200, description = "The rule.", body = Done<OneRule>),
        (status = 404, description = "No such tenant or person."),
        (status = 422, description = "`invalid`, `not_a_member`, `privileged_role`, `expiry_in_the_past` or `expiry_too_far`"),
    ),
)]
async fn replace(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments((tenant, person, role)): Segments<RulePath>,
    Body(terms): Body<RuleTerms>,
) -> Result<Json<Done<OneRule>>, ApiError> {
    let expires = terms.expires.ok_or_else(|| {
        ApiError::invalid("`expires` is missing")
            .with_hint("every rule ends: write 24h, 7d or a time")
    })?;
    let person = people::find(&state.catalog, &person).await?;
    let current = current(&state.catalog, &tenant, person.id, &role).await?;
    let missing = match current {
        Some(_) => Vec::new(),
        None => vet(&state, &tenant, [&role]).await?,
    };
    let new = NewRule {
        role,
        expires_at: expiry::parse(&expires, OffsetDateTime::now_utc())?,
        networks: terms.networks.unwrap_or_default(),
        reach: terms.reach.unwrap_or(RuleReach::Everywhere),
        reason: terms.reason.flatten(),
    };
    let changed = state
        .catalog
        .set_rule(&tenant, person.id, new, &actor)
        .await?;
    Ok(Json(
        written(&state, changed, tenant, person, &missing).await,
    ))
}

/// Changes what is named in a rule.
#[utoipa::path(
    patch, path = "/v1/tenants/{ref}/rules/{person}/{role}", tag = "Rules",
    request_body(content = RuleTerms, example = json!({ "networks": ["10.0.0.0/8"] })),
    responses(
        (status = 200, description = "The rule; sessions that no longer fit it are gone.", body = Done<OneRule>),
        (status = 404, description = "No such tenant, person or rule."),
        (status = 422, description = "`invalid`, `not_a_member`, `privileged_role`, `expiry_in_the_past` or `expiry_too_far`"),
    ),
)]
async fn set(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments((tenant, person, role)): Segments<RulePath>,
    Body(terms): Body<RuleTerms>,
) -> Result<Json<Done<OneRule>>, ApiError> {
    let now = OffsetDateTime::now_utc();
    let expires_at = terms
        .expires
        .map(|text| expiry::parse(&text, now))
        .transpose()?;
    let person = people::find(&state.catalog, &person).await?;
    let change = RuleChange {
        expires_at,
        networks: terms.networks,
        reach: terms.reach,
        reason: terms.reason,
    };
    let changed = state
        .catalog
        .change_rule(&tenant, person.id, &role, change, &actor)
        .await
        .map_err(|error| match error {
            CatalogError::NotFound { .. } => ApiError::missing("rule", &role)
                .with_hint("`sluice rule list TENANT` shows the rules, `rule add` makes one"),
            other => other.into(),
        })?;
    Ok(Json(written(&state, changed, tenant, person, &[]).await))
}

/// Removes a rule.
#[utoipa::path(
    delete, path = "/v1/tenants/{ref}/rules/{person}/{role}", tag = "Rules",
    responses(
        (status = 200, description = "The sessions that lived on it are gone.", body = Done<Removed>),
        (status = 404, description = "No such tenant, person or rule."),
    ),
)]
async fn remove(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments((tenant, person, role)): Segments<RulePath>,
) -> Result<Json<Done<Removed>>, ApiError> {
    let person = people::find(&state.catalog, &person).await?.id;
    let changed = state
        .catalog
        .remove_rule(&tenant, person, &role, &actor)
        .await?;
    let scope = Scope::Member(tenant, person);
    Ok(Json(state.enforced(changed, scope, |_| Removed {}).await))
}

/// Removes all rules that a person has in a tenant.
#[utoipa::path(
    delete, path = "/v1/tenants/{ref}/rules/{person}", tag = "Rules",
    responses(
        (status = 200, description = "The sessions that lived on them are gone.", body = Done<Removed>),
        (status = 404, description = "No such tenant or person, or they have no rule."),
    ),
)]
async fn remove_all(
    State(state): State<AdminState>,
    Actor(actor): Actor,
    Segments((tenant, person)): Segments<(TenantRef, String)>,
) -> Result<Json<Done<Removed>>, ApiError> {
    remove_all_of(&state, &actor, tenant, &person)
        .await
        .map(Json)
}

/// Removes all rules that `person`, by id or e-mail address, has in a tenant.
pub(super) async fn remove_all_of(
    state: &AdminState,
    actor: &str,
    tenant: TenantRef,
    person: &str,
) -> Result<Done<Removed>, ApiError> {
    let person = people::find(&state.catalog, person).await?.id;
    let changed = state.catalog.remove_rules(&tenant, person, actor).await?;
    let scope = Scope::Member(tenant, person);
    Ok(state.enforced(changed, scope, |_| Removed {}).await)
}

/// Refuses roles that the tenant's server calls superuser, `REPLICATION` or `CREATEROLE`, unless the tenant allows
/// such; answers which ones the server lacks. Asked about roles that are new to somebody only, for a rule that is narrowed
/// must not wait for a server. One that does not answer is no reason to refuse: it will say the same at the login.
pub(super) async fn vet(
    state: &AdminState,
    tenant: &TenantRef,
    roles: impl IntoIterator<Item = &RoleName>,
) -> Result<Vec<RoleName>, ApiError> {
    let found = tenants::find(&state.catalog, tenant).await?;
    let roles: Vec<_> = roles.into_iter().cloned().collect();
    if roles.is_empty() {
        return Ok(Vec::new());
    }
    let allows = found.privileged_roles == PrivilegedRoles::Allow;
    let standing = state.doctor.standing(found, roles).await;
    let Standing {
        privileged,
        missing,
    } = standing.unwrap_or_default();
    match privileged.into_iter().next() {
        Some(role) if !allows => Err(CatalogError::PrivilegedRole {
            tenant: tenant.clone(),
            role,
        }
        .into()),
        _ => Ok(missing),
    }
}

async fn current(
    catalog: &Catalog,
    tenant: &TenantRef,
    person: PersonId,
    role: &RoleName,
) -> Result<Option<Rule>, ApiError> {
    let rules = catalog.rules_of(tenant, person).await?;
    Ok(rules.into_iter().find(|rule| rule.role == *role))
}

/// The answer to a change of a rule, once the sessions that no longer fit are gone; `missing` are roles that the server
/// lacks.
async fn written(
    state: &AdminState,
    changed: Changed<Rule>,
    tenant: TenantRef,
    person: Person,
    missing: &[RoleName],
) -> Done<OneRule> {
    let warning = missing.first().map(|role| {
        format!("the server of `{tenant}` has no role `{role}`: until it has, nobody gets in as it")
    });
    let scope = Scope::Member(tenant, person.id);
    let answer = |rule: Rule| OneRule {
        // Of the servers of branches nothing is known.
        warning: warning.filter(|_| rule.reach == RuleReach::Everywhere),
        rule: view(rule, person.email),
    };
    state.enforced(changed, scope, answer).await
}

fn already_there(person: &Person, role: &RoleName) -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        "exists",
        format!("{} has a rule for role `{role}` already", person.email),
    )
    .with_hint("`sluice rule set` (PATCH) changes it")
}

pub(super) fn view(rule: Rule, email: String) -> RuleView {
    let status = if rule.expires_at > OffsetDateTime::now_utc() {
        RuleStatus::Active
    } else {
        RuleStatus::Expired
    };
    RuleView {
        rule,
        email,
        status,
    }
}
