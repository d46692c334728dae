//! Rules: which member may use which role of a tenant, until when and from where.

use serde_json::{Value, json};
use sqlx::{Row as _, SqliteConnection};

use crate::{
    catalog::{
        Catalog, CatalogError, Changed, What,
        changes::{Effect, change_event},
        columns::{now, truncated},
        members, people,
        rule_rows::{delete, find, find_all, rule, upsert},
        tenant_rows, tokens,
        types::{AuditEvent, NewRule, PrivilegedRoles, Rule, RuleChange, Tenant},
    },
    names::{PersonId, RoleName, RuleId, TenantRef},
};

/// Furthest that a rule may reach into the future.
pub const RULE_DAYS_MAX: i64 = 90;
const NETWORKS_MAX: usize = 100;
const REASON_MAX_BYTES: usize = 1000;

/// Whether the role is one that the tenant must allow expressly: `postgres`, PostgreSQL's own `pg_*`, and the role with
/// which the pooler reads everybody's password verifiers.
#[must_use]
pub fn is_privileged(tenant: &Tenant, role: &RoleName) -> bool {
    let is_well_known = role.as_str() == "postgres" || role.as_str().starts_with("pg_");
    is_well_known || tenant.auth_user.as_ref() == Some(role)
}

impl Catalog {
    /// All rules of the tenant itself, by person and role.
    pub async fn rules(&self, tenant: &TenantRef) -> Result<Vec<Rule>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let rows = sqlx::query("SELECT * FROM rules WHERE tenant = $1 ORDER BY person, role")
            .bind(tenant.as_str())
            .fetch_all(&mut *reader)
            .await?;
        rows.iter().map(rule).collect()
    }

    /// The same, each with the address of its person.
    pub async fn rules_with_addresses(
        &self,
        tenant: &TenantRef,
    ) -> Result<Vec<(Rule, String)>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let rows = sqlx::query(
            "SELECT rules.*, people.email FROM rules JOIN people ON people.id = rules.person \
             WHERE rules.tenant = $1 ORDER BY rules.person, rules.role",
        )
        .bind(tenant.as_str())
        .fetch_all(&mut *reader)
        .await?;
        rows.iter()
            .map(|row| Ok((rule(row)?, row.try_get("email")?)))
            .collect()
    }

    /// The person's rules of the tenant itself, by role.
    pub async fn rules_of(
        &self,
        tenant: &TenantRef,
        person: PersonId,
    ) -> Result<Vec<Rule>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        find_all(&mut reader, tenant, person).await
    }

    /// The person's rules of all tenants.
    pub async fn rules_of_person(&self, person: PersonId) -> Result<Vec<Rule>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let rows = sqlx::query("SELECT * FROM rules WHERE person = $1 ORDER BY tenant, role")
            .bind(person.to_string())
            .fetch_all(&mut *reader)
            .await?;
        rows.iter().map(rule).collect()
    }

    /// Writes a rule. If the person has one for the role it is replaced and keeps its id.
    pub async fn set_rule(
        &self,
        tenant: &TenantRef,
        person: PersonId,
        new: NewRule,
        actor: &str,
    ) -> Result<Changed<Rule>, CatalogError> {
        check(&new)?;
        let (tenant, actor) = (tenant.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let tenant = require_member(connection, &tenant, person).await?;
                let (rule, event) = store(connection, &tenant, person, new, &actor).await?;
                Ok(Effect::one(rule, event))
            })
            .await
    }

    /// Adds a rule where the person has none for the role, or one that has run out: that allows nothing any more.
    pub async fn add_rule(
        &self,
        tenant: &TenantRef,
        person: PersonId,
        new: NewRule,
        actor: &str,
    ) -> Result<Changed<Rule>, CatalogError> {
        check(&new)?;
        let (tenant, actor) = (tenant.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let tenant = require_member(connection, &tenant, person).await?;
                let old = find(connection, &tenant.tenant, person, &new.role).await?;
                if old.is_some_and(|old| old.expires_at > now()) {
                    return Err(CatalogError::exists(What::Rule, &new.role));
                }
                let (rule, event) = store(connection, &tenant, person, new, &actor).await?;
                Ok(Effect::one(rule, event))
            })
            .await
    }

    /// Changes what is named in a rule and leaves the rest. One that was removed meanwhile does not come back.
    pub async fn change_rule(
        &self,
        tenant: &TenantRef,
        person: PersonId,
        role: &RoleName,
        change: RuleChange,
        actor: &str,
    ) -> Result<Changed<Rule>, CatalogError> {
        let (tenant, role, actor) = (tenant.clone(), role.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let old = find(connection, &tenant, person, &role).await?;
                let old = old.ok_or_else(|| CatalogError::missing(What::Rule, &role))?;
                let new = NewRule {
                    role,
                    expires_at: change.expires_at.unwrap_or(old.expires_at),
                    networks: change.networks.unwrap_or(old.networks),
                    reach: change.reach.unwrap_or(old.reach),
                    reason: change.reason.unwrap_or(old.reason),
                };
                check(&new)?;
                let tenant = require_member(connection, &tenant, person).await?;
                let (rule, event) = store(connection, &tenant, person, new, &actor).await?;
                Ok(Effect::one(rule, event))
            })
            .await
    }

    /// Makes `new` the whole of the person's rules for the tenant. Rules that are replaced keep their ids.
    pub async fn replace_rules(
        &self,
        tenant: &TenantRef,
        person: PersonId,
        new: Vec<NewRule>,
        actor: &str,
    ) -> Result<Changed<Vec<Rule>>, CatalogError> {
        new.iter().try_for_each(check)?;
        check_roles_differ(&new)?;
        let (tenant, actor) = (tenant.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let tenant = require_member(connection, &tenant, person).await?;
                let mut events = Vec::new();
                for old in find_all(connection, &tenant.tenant, person).await? {
                    if new.iter().all(|rule| rule.role != old.role) {
                        delete(connection, &old).await?;
                        events.push(rule_event("rule.removed", &old, &actor));
                    }
                }
                let mut rules = Vec::new();
                for new in new {
                    let (rule, event) = store(connection, &tenant, person, new, &actor).await?;
                    rules.push(rule);
                    events.push(event);
                }
                Ok(if events.is_empty() {
                    Effect::None(rules)
                } else {
                    Effect::Change(rules, events)
                })
            })
            .await
    }

    /// Removes the person's rule for the role, and answers what it said.
    pub async fn remove_rule(
        &self,
        tenant: &TenantRef,
        person: PersonId,
        role: &RoleName,
        actor: &str,
    ) -> Result<Changed<Rule>, CatalogError> {
        let (tenant, role, actor) = (tenant.clone(), role.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let old = find(connection, &tenant, person, &role).await?;
                let old = old.ok_or_else(|| CatalogError::missing(What::Rule, &role))?;
                delete(connection, &old).await?;
                let event = rule_event("rule.removed", &old, &actor);
                Ok(Effect::one(old, event))
            })
            .await
    }

    /// Removes all the person's rules for the tenant, and answers what they said; having none is an error.
    pub async fn remove_rules(
        &self,
        tenant: &TenantRef,
        person: PersonId,
        actor: &str,
    ) -> Result<Changed<Vec<Rule>>, CatalogError> {
        let (tenant, actor) = (tenant.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let old = find_all(connection, &tenant, person).await?;
                if old.is_empty() {
                    return Err(CatalogError::missing(What::RuleOf, person));
                }
                let mut events = Vec::new();
                for rule in &old {
                    delete(connection, rule).await?;
                    events.push(rule_event("rule.removed", rule, &actor));
                }
                Ok(Effect::Change(old, events))
            })
            .await
    }
}

async fn require_member(
    connection: &mut SqliteConnection,
    tenant: &TenantRef,
    person: PersonId,
) -> Result<Tenant, CatalogError> {
    let found = tenant_rows::require(connection, tenant).await?;
    people::require(connection, person).await?;
    match members::standing(connection, tenant_rows::lineage(&found), person).await? {
        Some(_) => Ok(found),
        None => Err(CatalogError::NotAMember {
            tenant: tenant.clone(),
            person,
        }),
    }
}

pub(super) fn check_privilege(tenant: &Tenant, role: &RoleName) -> Result<(), CatalogError> {
    if is_privileged(tenant, role) && tenant.privileged_roles == PrivilegedRoles::Refuse {
        return Err(CatalogError::PrivilegedRole {
            tenant: tenant.tenant.clone(),
            role: role.clone(),
        });
    }
    Ok(())
}

/// Writes the rule anew; of an older one for the role only the id stays.
pub(super) async fn store(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    person: PersonId,
    new: NewRule,
    actor: &str,
) -> Result<(Rule, AuditEvent), CatalogError> {
    check_privilege(tenant, &new.role)?;
    let old = find(connection, &tenant.tenant, person, &new.role).await?;
    let rule = Rule {
        id: old.as_ref().map_or_else(RuleId::generate, |old| old.id),
        tenant: tenant.tenant.clone(),
        person,
        role: new.role,
        expires_at: truncated(new.expires_at),
        networks: new.networks,
        reach: new.reach,
        reason: new.reason,
        created_by: actor.to_owned(),
        created_at: now(),
    };
    upsert(connection, &rule).await?;
    let event = match old {
        None => rule_event("rule.created", &rule, actor),
        Some(old) => AuditEvent {
            detail: json!({ "before": described(&old), "now": described(&rule) }),
            ..rule_event("rule.changed", &rule, actor)
        },
    };
    Ok((rule, event))
}

pub(super) fn check(rule: &NewRule) -> Result<(), CatalogError> {
    tokens::check_expiry(rule.expires_at, RULE_DAYS_MAX)?;
    let invalid = |field, problem| Err(CatalogError::Invalid { field, problem });
    if rule.networks.len() > NETWORKS_MAX {
        return invalid("networks", "are more than 100");
    }
    if rule
        .reason
        .as_ref()
        .is_some_and(|reason| reason.len() > REASON_MAX_BYTES)
    {
        return invalid("reason", "is longer than 1000 bytes");
    }
    Ok(())
}

pub(super) fn check_roles_differ(rules: &[NewRule]) -> Result<(), CatalogError> {
    for (at, rule) in rules.iter().enumerate() {
        if rules
            .iter()
            .skip(at + 1)
            .any(|other| other.role == rule.role)
        {
            return Err(CatalogError::RoleTwice {
                role: rule.role.clone(),
            });
        }
    }
    Ok(())
}

pub(super) fn rule_event(kind: &str, rule: &Rule, actor: &str) -> AuditEvent {
    AuditEvent {
        tenant: Some(rule.tenant.clone()),
        person: Some(rule.person),
        role: Some(rule.role.clone()),
        detail: described(rule),
        ..change_event(kind, actor)
    }
}

/// What the rule says, without the names that the audit row has anyway.
fn described(rule: &Rule) -> Value {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(rule) else {
        return Value::Null;
    };
    for named in ["tenant", "person", "role", "created_by", "created_at"] {
        fields.remove(named);
    }
    Value::Object(fields)
}
