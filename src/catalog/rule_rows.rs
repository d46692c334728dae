//! Rules as rows.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    catalog::{
        CatalogError,
        columns::{milliseconds, networks, networks_text, parsed, time, word, worded},
        types::Rule,
    },
    names::{PersonId, RoleName, TenantRef},
};

/// The person's rules for the role: the tenant's own first, then, for a branch, its parent's.
pub(super) async fn find_inherited(
    connection: &mut SqliteConnection,
    (own, parent): (&TenantRef, &TenantRef),
    person: PersonId,
    role: &RoleName,
) -> Result<Vec<Rule>, CatalogError> {
    let rows = sqlx::query(
        "SELECT * FROM rules WHERE person = $1 AND role = $2 AND tenant IN ($3, $4) \
         ORDER BY CASE tenant WHEN $3 THEN 0 ELSE 1 END",
    )
    .bind(person.to_string())
    .bind(role.as_str())
    .bind(own.as_str())
    .bind(parent.as_str())
    .fetch_all(connection)
    .await?;
    rows.iter().map(rule).collect()
}

pub(super) async fn find(
    connection: &mut SqliteConnection,
    tenant: &TenantRef,
    person: PersonId,
    role: &RoleName,
) -> Result<Option<Rule>, CatalogError> {
    let rules = find_inherited(connection, (tenant, tenant), person, role).await?;
    Ok(rules.into_iter().next())
}

pub(super) async fn find_all(
    connection: &mut SqliteConnection,
    tenant: &TenantRef,
    person: PersonId,
) -> Result<Vec<Rule>, CatalogError> {
    let rows = sqlx::query("SELECT * FROM rules WHERE tenant = $1 AND person = $2 ORDER BY role")
        .bind(tenant.as_str())
        .bind(person.to_string())
        .fetch_all(connection)
        .await?;
    rows.iter().map(rule).collect()
}

pub(super) async fn upsert(
    connection: &mut SqliteConnection,
    rule: &Rule,
) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO rules (id, tenant, person, role, expires_at, networks, reach, reason, created_by, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (tenant, person, role) DO UPDATE SET expires_at = excluded.expires_at, \
         networks = excluded.networks, reach = excluded.reach, reason = excluded.reason, \
         created_by = excluded.created_by, created_at = excluded.created_at",
    )
    .bind(rule.id.to_string())
    .bind(rule.tenant.as_str())
    .bind(rule.person.to_string())
    .bind(rule.role.as_str())
    .bind(milliseconds(rule.expires_at))
    .bind(networks_text(&rule.networks))
    .bind(word(rule.reach))
    .bind(&rule.reason)
    .bind(&rule.created_by)
    .bind(milliseconds(rule.created_at))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn delete(
    connection: &mut SqliteConnection,
    rule: &Rule,
) -> Result<(), CatalogError> {
    sqlx::query("DELETE FROM rules WHERE id = $1")
        .bind(rule.id.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) fn rule(row: &SqliteRow) -> Result<Rule, CatalogError> {
    Ok(Rule {
        id: parsed(row, "id")?,
        tenant: parsed(row, "tenant")?,
        person: parsed(row, "person")?,
        role: parsed(row, "role")?,
        expires_at: time(row, "expires_at")?,
        networks: networks(row, "networks")?,
        reach: worded(row, "reach")?,
        reason: row.try_get("reason")?,
        created_by: row.try_get("created_by")?,
        created_at: time(row, "created_at")?,
    })
}
