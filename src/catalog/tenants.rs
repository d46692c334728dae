//! Tenants and their branches.

use std::{net::IpAddr, sync::Arc};

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use serde_json::{Value, json};
use sqlx::SqliteConnection;

use crate::{
    catalog::{
        Catalog, CatalogError, Changed, What,
        changes::{Effect, change_event},
        columns::now,
        people::NAME_MAX_BYTES,
        tenant_rows::{self, find, find_at, has_branches, require, tenant},
        types::{AuditEvent, Authority, JwtKeys, Tenant, TenantAt, TimeLimit, TokenAccess},
    },
    config::AUTHORITY_DEADLINE_MAX,
    names::TenantRef,
};

/// What a Unix socket's path may have, without the name that PostgreSQL gives it.
const FOLDER_MAX_BYTES: usize = 107 - "/.s.PGSQL.65535".len();

impl Catalog {
    /// The tenant, from memory if it was read before and nothing about it has changed since.
    pub async fn tenant(&self, tenant: &TenantRef) -> Result<Option<Arc<Tenant>>, CatalogError> {
        let found = self.tenant_at(tenant).await?;
        Ok(found.map(|found| found.record))
    }

    /// The tenant, and when it was read: a reader may be slow, and another one overtake it with a newer record.
    pub async fn tenant_at(&self, tenant: &TenantRef) -> Result<Option<TenantAt>, CatalogError> {
        let ticket = match self.shared.tenants.find(tenant) {
            Ok(found) => return Ok(Some(found)),
            Err(ticket) => ticket,
        };
        let mut reader = self.shared.readers.acquire().await?;
        let found = find_at(&mut reader, tenant).await?;
        if let Some(found) = &found {
            self.shared.tenants.remember(ticket, found);
        }
        Ok(found)
    }

    /// All tenants, by ref.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let rows = sqlx::query("SELECT * FROM tenants ORDER BY ref")
            .fetch_all(&mut *reader)
            .await?;
        rows.iter().map(tenant).collect()
    }

    /// The branches of a tenant, by ref.
    pub async fn branches(&self, parent: &TenantRef) -> Result<Vec<Tenant>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let rows = sqlx::query("SELECT * FROM tenants WHERE parent = $1 ORDER BY ref")
            .bind(parent.as_str())
            .fetch_all(&mut *reader)
            .await?;
        rows.iter().map(tenant).collect()
    }

    /// Adds a tenant; the time of its making is the catalogue's.
    pub async fn create_tenant(
        &self,
        new: Tenant,
        actor: &str,
    ) -> Result<Changed<Tenant>, CatalogError> {
        check(&new)?;
        let actor = actor.to_owned();
        self.shared
            .writer
            .change(async move |connection| {
                if find(connection, &new.tenant).await?.is_some() {
                    return Err(CatalogError::exists(What::Tenant, &new.tenant));
                }
                check_parent(connection, &new).await?;
                let new = Tenant {
                    created_at: now(),
                    ..new
                };
                tenant_rows::insert(connection, &new).await?;
                let event = AuditEvent {
                    detail: described(&new),
                    ..tenant_event("tenant.created", &new.tenant, &actor)
                };
                Ok(Effect::one(new, event))
            })
            .await
    }

    /// Replaces everything about a tenant but its ref and the time of its making.
    pub async fn update_tenant(
        &self,
        new: Tenant,
        actor: &str,
    ) -> Result<Changed<Tenant>, CatalogError> {
        check(&new)?;
        let actor = actor.to_owned();
        self.shared
            .writer
            .change(async move |connection| {
                let old = require(connection, &new.tenant).await?;
                let new = Tenant {
                    created_at: old.created_at,
                    ..new
                };
                if new == old {
                    return Ok(Effect::None(new));
                }
                check_parent(connection, &new).await?;
                tenant_rows::update(connection, &new).await?;
                let events = update_events(&old, &new, &actor);
                Ok(Effect::Change(new, events))
            })
            .await
    }

    /// Removes a tenant with its members, rules and role secrets. A tenant with branches is refused.
    pub async fn remove_tenant(
        &self,
        tenant: &TenantRef,
        actor: &str,
    ) -> Result<Changed<()>, CatalogError> {
        let (tenant, actor) = (tenant.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let old = require(connection, &tenant).await?;
                if has_branches(connection, &tenant).await? {
                    return Err(CatalogError::HasBranches { tenant });
                }
                sqlx::query("DELETE FROM tenants WHERE ref = $1")
                    .bind(tenant.as_str())
                    .execute(connection)
                    .await?;
                let event = AuditEvent {
                    detail: described(&old),
                    ..tenant_event("tenant.removed", &tenant, &actor)
                };
                Ok(Effect::one((), event))
            })
            .await
    }
}

fn check(tenant: &Tenant) -> Result<(), CatalogError> {
    let invalid = |field, problem| Err(CatalogError::Invalid { field, problem });
    if tenant.name.len() > NAME_MAX_BYTES || tenant.name.contains(char::is_control) {
        return invalid(
            "name",
            "must be 200 bytes at most, without control characters",
        );
    }
    if tenant.host.is_empty()
        || tenant
            .host
            .contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return invalid("host", "is not a host name or address");
    }
    if tenant.is_on_unix_socket() {
        if tenant.host.len() > FOLDER_MAX_BYTES {
            return invalid("host", "is longer than the path of a Unix socket can be");
        }
    } else if tenant.host.parse::<IpAddr>().is_err() && tenant.host.contains(['/', ':', '[', '@']) {
        return invalid(
            "host",
            "must be a host name or address alone, or the folder of a Unix socket: use --port (`port`) for the port",
        );
    }
    if tenant.port == 0 {
        return invalid("port", "must not be 0");
    }
    for (field, limit) in [
        ("pool_size", tenant.pool_size),
        ("backend_budget", tenant.backend_budget),
        ("max_clients", tenant.max_clients),
    ] {
        if limit == Some(0) {
            return invalid(field, "must not be 0");
        }
    }
    if tenant.timeouts.queue == Some(TimeLimit::Off) {
        return invalid("timeouts.queue", "cannot be off");
    }
    check_authority(&tenant.authority)
}

fn check_authority(authority: &Authority) -> Result<(), CatalogError> {
    let invalid = |field, problem| Err(CatalogError::Invalid { field, problem });
    match authority {
        // Whether there is a parent is looked at with the parent.
        Authority::Catalogue | Authority::Parent => {}
        Authority::Http(http) => {
            let deadline = http.deadline.map(TimeLimit::duration);
            if deadline
                .is_some_and(|limit| limit.is_none_or(|limit| limit > AUTHORITY_DEADLINE_MAX))
            {
                return invalid("authority.deadline", "must be 1 minute at most");
            }
        }
        Authority::Jwt(jwt) => {
            for (field, text) in [
                ("authority.issuer", &jwt.issuer),
                ("authority.audience", &jwt.audience),
                ("authority.subject_claim", &jwt.subject_claim),
            ] {
                if text.is_empty() {
                    return invalid(field, "must not be empty");
                }
            }
            if jwt.algorithms.is_empty() {
                return invalid("authority.algorithms", "must name at least one");
            }
            if let JwtKeys::Jwks(set) = &jwt.keys
                && (set.keys.is_empty() || set.keys.iter().any(|key| !is_public(key)))
            {
                return invalid(
                    "authority.keys",
                    "must hold public keys (RSA, EC or OKP), and no others",
                );
            }
        }
    }
    Ok(())
}

/// A shared secret has no place among keys that anybody may know.
fn is_public(key: &Jwk) -> bool {
    matches!(
        key.algorithm,
        AlgorithmParameters::RSA(_)
            | AlgorithmParameters::EllipticCurve(_)
            | AlgorithmParameters::OctetKeyPair(_)
    )
}

/// A branch belongs to a tenant that exists and is no branch, so a tenant with branches cannot become one.
async fn check_parent(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
) -> Result<(), CatalogError> {
    let Some(parent) = &tenant.parent else {
        if tenant.authority == Authority::Parent {
            return Err(CatalogError::Invalid {
                field: "authority",
                problem: "cannot be the parent's: the tenant is no branch",
            });
        }
        return Ok(());
    };
    if *parent == tenant.tenant {
        return Err(CatalogError::BranchOfBranch {
            parent: parent.clone(),
        });
    }
    let found = find(connection, parent).await?;
    let found = found.ok_or_else(|| CatalogError::missing(What::Parent, parent))?;
    if found.parent.is_some() {
        return Err(CatalogError::BranchOfBranch {
            parent: parent.clone(),
        });
    }
    if has_branches(connection, &tenant.tenant).await? {
        return Err(CatalogError::HasBranches {
            tenant: tenant.tenant.clone(),
        });
    }
    Ok(())
}

/// One row for what changed, and one of its own for the switch that people look for.
fn update_events(old: &Tenant, new: &Tenant, actor: &str) -> Vec<AuditEvent> {
    let mut events = Vec::new();
    let changes = changes(old, new);
    if !changes.is_empty() {
        events.push(AuditEvent {
            detail: json!({ "changed": changes }),
            ..tenant_event("tenant.updated", &new.tenant, actor)
        });
    }
    if old.token_access != new.token_access {
        let kind = match new.token_access {
            TokenAccess::Enabled => "access.enabled",
            TokenAccess::Disabled => "access.disabled",
        };
        events.push(tenant_event(kind, &new.tenant, actor));
    }
    events
}

fn tenant_event(kind: &str, tenant: &TenantRef, actor: &str) -> AuditEvent {
    AuditEvent {
        tenant: Some(tenant.clone()),
        ..change_event(kind, actor)
    }
}

/// The fields that differ, as `field: {from, to}`; the token switch has a row of its own.
fn changes(old: &Tenant, new: &Tenant) -> serde_json::Map<String, Value> {
    let (Value::Object(old), Value::Object(new)) = (described(old), described(new)) else {
        return serde_json::Map::new();
    };
    new.into_iter()
        .filter(|(field, _)| field != "token_access")
        .filter_map(|(field, to)| {
            let from = old.get(&field).cloned().unwrap_or(Value::Null);
            (from != to).then(|| (field, json!({ "from": from, "to": to })))
        })
        .collect()
}

fn described(tenant: &Tenant) -> Value {
    serde_json::to_value(tenant).unwrap_or(Value::Null)
}
