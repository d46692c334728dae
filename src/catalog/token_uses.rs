//! When and from where a token was used last, and whether it was ever used from there before.

use std::net::IpAddr;

use sqlx::SqliteConnection;
use time::OffsetDateTime;

use crate::{
    catalog::{
        columns::milliseconds,
        error::CatalogError,
        refusals::shown,
        tokens,
        types::{AuditEvent, Outcome},
    },
    names::TokenId,
    net::network::own_network,
};

/// A token's last use is written at most as often as this.
const USE_INTERVAL_MS: i64 = 60_000;
/// Addresses that are remembered for one token: those used last.
const ADDRESSES_MAX: i64 = 100;

/// Notes a use. Answers the event to write if the token was in use before, but never from this address.
pub(super) async fn store_use(
    connection: &mut SqliteConnection,
    token: &TokenId,
    at: OffsetDateTime,
    from: IpAddr,
) -> Result<Option<AuditEvent>, CatalogError> {
    sqlx::query(
        "UPDATE tokens SET last_used_at = $2, last_used_from = $3 \
         WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $2 - $4)",
    )
    .bind(token.as_str())
    .bind(milliseconds(at))
    .bind(from.to_canonical().to_string())
    .bind(USE_INTERVAL_MS)
    .execute(&mut *connection)
    .await?;
    let address = shown(&own_network(from));
    let before: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM token_addresses WHERE token = $1")
        .bind(token.as_str())
        .fetch_one(&mut *connection)
        .await?;
    if is_known(connection, token, &address, at).await? {
        return Ok(None);
    }
    // The token may be gone, with its person, since it was used.
    let Some(record) = tokens::find(connection, token).await? else {
        return Ok(None);
    };
    remember(connection, token, &address, at).await?;
    let actor = format!("person:{}", record.person);
    Ok((before > 0).then(|| AuditEvent {
        person: Some(record.person),
        token: Some(token.clone()),
        peer: Some(from.to_canonical().to_string()),
        detail: serde_json::json!({ "name": record.name, "addresses_before": before }),
        ..AuditEvent::new("token.first_use_from_new_address", Outcome::Success, actor)
    }))
}

async fn is_known(
    connection: &mut SqliteConnection,
    token: &TokenId,
    address: &str,
    at: OffsetDateTime,
) -> Result<bool, CatalogError> {
    let known =
        sqlx::query("UPDATE token_addresses SET used_at = $3 WHERE token = $1 AND address = $2")
            .bind(token.as_str())
            .bind(address)
            .bind(milliseconds(at))
            .execute(connection)
            .await?;
    Ok(known.rows_affected() > 0)
}

async fn remember(
    connection: &mut SqliteConnection,
    token: &TokenId,
    address: &str,
    at: OffsetDateTime,
) -> Result<(), CatalogError> {
    sqlx::query("INSERT INTO token_addresses (token, address, used_at) VALUES ($1, $2, $3)")
        .bind(token.as_str())
        .bind(address)
        .bind(milliseconds(at))
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "DELETE FROM token_addresses WHERE token = $1 AND address NOT IN \
         (SELECT address FROM token_addresses WHERE token = $1 ORDER BY used_at DESC LIMIT $2)",
    )
    .bind(token.as_str())
    .bind(ADDRESSES_MAX)
    .execute(connection)
    .await?;
    Ok(())
}
