//! Tenants as rows.

use std::sync::Arc;

use sqlx::{
    Row, SqliteConnection,
    query::Query,
    sqlite::{Sqlite, SqliteArguments, SqliteRow},
};

use crate::{
    catalog::{
        CatalogError, What,
        columns::{
            from_json, json, milliseconds, networks, networks_text, number, number_optional,
            parsed, parsed_optional, time, word, worded,
        },
        types::{Revision, Tenant, TenantAt},
    },
    names::TenantRef,
};

const INSERT: &str = "INSERT INTO tenants (ref, name, parent, host, port, default_database, backend_tls, \
    backend_ca, login, auth_user, auth_query, auth_database, pool_size, backend_budget, max_clients, client_tls, \
    token_access, privileged_roles, networks, created_at, timeouts, authority) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)";

const UPDATE: &str = "UPDATE tenants SET name = $2, parent = $3, host = $4, port = $5, default_database = $6, \
    backend_tls = $7, backend_ca = $8, login = $9, auth_user = $10, auth_query = $11, auth_database = $12, \
    pool_size = $13, backend_budget = $14, max_clients = $15, client_tls = $16, token_access = $17, \
    privileged_roles = $18, networks = $19, created_at = $20, timeouts = $21, authority = $22 WHERE ref = $1";

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

/// The tenant and the revision of the catalogue that it was read at, both in one statement: of one moment.
pub(super) async fn find_at(
    connection: &mut SqliteConnection,
    name: &TenantRef,
) -> Result<Option<TenantAt>, CatalogError> {
    let row = sqlx::query(
        "SELECT tenants.*, catalogue.revision FROM tenants, catalogue WHERE ref = $1 AND id = 1",
    )
    .bind(name.as_str())
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(TenantAt {
        record: Arc::new(tenant(&row)?),
        revision: Revision(row.try_get("revision")?),
    }))
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

pub(super) async fn has_branches(
    connection: &mut SqliteConnection,
    tenant: &TenantRef,
) -> Result<bool, CatalogError> {
    let row = sqlx::query("SELECT 1 FROM tenants WHERE parent = $1 LIMIT 1")
        .bind(tenant.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(row.is_some())
}

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
) -> Result<(), CatalogError> {
    bound(INSERT, tenant).execute(connection).await?;
    Ok(())
}

pub(super) async fn update(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
) -> Result<(), CatalogError> {
    bound(UPDATE, tenant).execute(connection).await?;
    Ok(())
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
        .bind(json(&tenant.timeouts))
        .bind(json(&tenant.authority))
}

pub(super) fn tenant(row: &SqliteRow) -> Result<Tenant, CatalogError> {
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
        timeouts: from_json(row, "timeouts")?,
        authority: from_json(row, "authority")?,
        client_tls: worded(row, "client_tls")?,
        token_access: worded(row, "token_access")?,
        privileged_roles: worded(row, "privileged_roles")?,
        networks: networks(row, "networks")?,
        created_at: time(row, "created_at")?,
    })
}
