//! Tenants and their branches.

use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::{
    Row, SqliteConnection,
    query::Query,
    sqlite::{Sqlite, SqliteArguments, SqliteRow},
};

use crate::{
    catalog::{
        Catalog, CatalogError, Changed, What,
        changes::{Effect, change_event},
        columns::{
            milliseconds, networks, networks_text, now, number, number_optional, parsed,
            parsed_optional, time, word, worded,
        },
        types::{AuditEvent, Tenant, TokenAccess},
    },
    names::TenantRef,
};

impl Catalog {
    /// The tenant, from memory if it was read before and nothing about it has changed since.
    pub async fn tenant(&self, tenant: &TenantRef) -> Result<Option<Arc<Tenant>>, CatalogError> {
        let ticket = match self.shared.tenants.find(tenant) {
            Ok(found) => return Ok(Some(found)),
            Err(ticket) => ticket,
        };
        let mut reader = self.shared.readers.acquire().await?;
        let found = find(&mut reader, tenant).await?.map(Arc::new);
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
                bound(INSERT, &new).execute(connection).await?;
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
                bound(UPDATE, &new).execute(connection).await?;
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

const INSERT: &str = "INSERT INTO tenants (ref, name, parent, host, port, default_database, backend_tls, \
    backend_ca, login, auth_user, auth_query, auth_database, pool_size, backend_budget, max_clients, client_tls, \
    token_access, privileged_roles, networks, created_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)";

const UPDATE: &str = "UPDATE tenants SET name = $2, parent = $3, host = $4, port = $5, default_database = $6, \
    backend_tls = $7, backend_ca = $8, login = $9, auth_user = $10, auth_query = $11, auth_database = $12, \
    pool_size = $13, backend_budget = $14, max_clients = $15, client_tls = $16, token_access = $17, \
    privileged_roles = $18, networks = $19, created_at = $20 WHERE ref = $1";

pub(super) async fn find(
    connection: &mut SqliteConnection,
    name: &TenantRef,
) -> Result<Option<Tenant>, CatalogError> {
    let row = sqlx::query("SELECT * FROM tenants WHERE ref = $1")
        .bind(name.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(tenant).transpose()
}

pub(super) async fn require(
    connection: &mut SqliteConnection,
    name: &TenantRef,
) -> Result<Tenant, CatalogError> {
    find(connection, name)
        .await?
        .ok_or_else(|| CatalogError::missing(What::Tenant, name))
}

/// The tenant and its parent; for a tenant that is no branch, itself twice.
pub(super) fn lineage(tenant: &Tenant) -> (&TenantRef, &TenantRef) {
    (
        &tenant.tenant,
        tenant.parent.as_ref().unwrap_or(&tenant.tenant),
    )
}

fn bound<'q>(sql: &'q str, tenant: &'q Tenant) -> Query<'q, Sqlite, SqliteArguments<'q>> {
    sqlx::query(sql)
        .bind(tenant.tenant.as_str())
        .bind(&tenant.name)
        .bind(tenant.parent.as_ref().map(TenantRef::as_str))
        .bind(&tenant.host)
        .bind(i64::from(tenant.port))
        .bind(tenant.default_database.as_ref().map(|name| name.as_str()))
        .bind(word(tenant.backend_tls))
        .bind(&tenant.backend_ca)
        .bind(word(tenant.login))
        .bind(tenant.auth_user.as_ref().map(|name| name.as_str()))
        .bind(&tenant.auth_query)
        .bind(tenant.auth_database.as_ref().map(|name| name.as_str()))
        .bind(tenant.pool_size.map(i64::from))
        .bind(tenant.backend_budget.map(i64::from))
        .bind(tenant.max_clients.map(i64::from))
        .bind(word(tenant.client_tls))
        .bind(word(tenant.token_access))
        .bind(word(tenant.privileged_roles))
        .bind(networks_text(&tenant.networks))
        .bind(milliseconds(tenant.created_at))
}

fn tenant(row: &SqliteRow) -> Result<Tenant, CatalogError> {
    Ok(Tenant {
        tenant: parsed(row, "ref")?,
        name: row.try_get("name")?,
        parent: parsed_optional(row, "parent")?,
        host: row.try_get("host")?,
        port: number(row, "port")?,
        default_database: parsed_optional(row, "default_database")?,
        backend_tls: worded(row, "backend_tls")?,
        backend_ca: row.try_get("backend_ca")?,
        login: worded(row, "login")?,
        auth_user: parsed_optional(row, "auth_user")?,
        auth_query: row.try_get("auth_query")?,
        auth_database: parsed_optional(row, "auth_database")?,
        pool_size: number_optional(row, "pool_size")?,
        backend_budget: number_optional(row, "backend_budget")?,
        max_clients: number_optional(row, "max_clients")?,
        client_tls: worded(row, "client_tls")?,
        token_access: worded(row, "token_access")?,
        privileged_roles: worded(row, "privileged_roles")?,
        networks: networks(row, "networks")?,
        created_at: time(row, "created_at")?,
    })
}

fn check(tenant: &Tenant) -> Result<(), CatalogError> {
    let invalid = |field, problem| Err(CatalogError::Invalid { field, problem });
    if tenant.host.is_empty()
        || tenant
            .host
            .contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return invalid("host", "is not a host name or address");
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
    Ok(())
}

/// A branch belongs to a tenant that exists and is no branch, so a tenant with branches cannot become one.
async fn check_parent(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
) -> Result<(), CatalogError> {
    let Some(parent) = &tenant.parent else {
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

async fn has_branches(
    connection: &mut SqliteConnection,
    tenant: &TenantRef,
) -> Result<bool, CatalogError> {
    let row = sqlx::query("SELECT 1 FROM tenants WHERE parent = $1 LIMIT 1")
        .bind(tenant.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(row.is_some())
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
