//! Tokens: made once, shown once, and known afterwards only by their HMAC.

use std::net::IpAddr;

use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::{
    catalog::{
        Catalog, CatalogError, Changed, Pepper, Token, What,
        changes::{Effect, change_event},
        columns::{
            digest, from_json, hex, json as column, milliseconds, now, parsed, parsed_optional,
            time, time_optional, truncated,
        },
        people, tenant_rows,
        types::{AuditEvent, NewToken, TokenLimits, TokenRecord},
    },
    names::{Fingerprint, PersonId, TokenId},
};

/// Longest life of a token: a year, leap years included.
const TOKEN_DAYS_MAX: i64 = 366;

impl Catalog {
    pub async fn token(&self, id: &TokenId) -> Result<Option<TokenRecord>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        find(&mut reader, id).await
    }

    /// The person's tokens, revoked and expired ones as well, newest first.
    pub async fn tokens(&self, person: PersonId) -> Result<Vec<TokenRecord>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        find_all(&mut reader, person).await
    }

    /// Makes a token. The second value is the whole token: nobody can learn it again.
    pub async fn create_token(
        &self,
        person: PersonId,
        new: NewToken,
        actor: &str,
    ) -> Result<Changed<(TokenRecord, Zeroizing<String>)>, CatalogError> {
        check_token_expiry(new.expires_at)?;
        let (record, token) = make(person, new, actor, self.shared.keys.pepper())?;
        let actor = actor.to_owned();
        self.shared
            .writer
            .change(async move |connection| {
                people::require(connection, person).await?;
                check_limits(connection, &record.limits).await?;
                insert(connection, &record).await?;
                let event = token_event("token.created", &record, &actor);
                Ok(Effect::one((record, token.reveal()), event))
            })
            .await
    }

    /// Notes that the token was used; written behind the caller's back, at most once a minute for each address.
    pub fn touch_token(&self, id: &TokenId, at: OffsetDateTime, from: IpAddr) {
        if self.shared.recent_uses.is_due(id, from, at) {
            self.shared.writer.note_use(id.clone(), at, from);
        }
    }

    /// What stored tokens are compared under, for those who check a token without a tenant.
    #[must_use]
    pub fn pepper(&self) -> &Pepper {
        self.shared.keys.pepper()
    }

    /// What the audit trail calls the token.
    #[must_use]
    pub fn fingerprint(&self, record: &TokenRecord) -> Fingerprint {
        self.shared.keys.fingerprint(&record.mac)
    }
}

/// A new token of the person, not stored yet.
pub(super) fn make(
    person: PersonId,
    new: NewToken,
    actor: &str,
    pepper: &Pepper,
) -> Result<(TokenRecord, Token), CatalogError> {
    let token = Token::generate()?;
    let record = TokenRecord {
        id: token.id().clone(),
        person,
        name: people::checked_name(&new.name)?,
        limits: new.limits,
        created_at: now(),
        created_by: Some(actor.to_owned()),
        expires_at: truncated(new.expires_at),
        revoked_at: None,
        revoked_by: None,
        replaced_by: None,
        last_used_at: None,
        last_used_from: None,
        mac: token.mac(pepper),
    };
    Ok((record, token))
}

pub(super) async fn find(
    connection: &mut SqliteConnection,
    id: &TokenId,
) -> Result<Option<TokenRecord>, CatalogError> {
    let row = sqlx::query("SELECT * FROM tokens WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(record).transpose()
}

pub(super) async fn find_all(
    connection: &mut SqliteConnection,
    person: PersonId,
) -> Result<Vec<TokenRecord>, CatalogError> {
    let rows = sqlx::query("SELECT * FROM tokens WHERE person = $1 ORDER BY created_at DESC, id")
        .bind(person.to_string())
        .fetch_all(connection)
        .await?;
    rows.iter().map(record).collect()
}

pub(super) async fn require(
    connection: &mut SqliteConnection,
    id: &TokenId,
) -> Result<TokenRecord, CatalogError> {
    let record = find(connection, id).await?;
    record.ok_or_else(|| CatalogError::missing(What::Token, id))
}

pub(super) fn check_token_expiry(expires_at: OffsetDateTime) -> Result<(), CatalogError> {
    check_expiry(expires_at, TOKEN_DAYS_MAX)
}

/// An expiry lies ahead, and not further than `max_days`.
pub(super) fn check_expiry(expires_at: OffsetDateTime, max_days: i64) -> Result<(), CatalogError> {
    let now = OffsetDateTime::now_utc();
    if expires_at <= now {
        return Err(CatalogError::ExpiryInThePast);
    }
    if expires_at - now > Duration::days(max_days) {
        return Err(CatalogError::ExpiryTooFar { max_days });
    }
    Ok(())
}

/// Limits that can be, and whose tenants there are: one that is misspelt would be found out at the first login only.
pub(super) async fn check_limits(
    connection: &mut SqliteConnection,
    limits: &TokenLimits,
) -> Result<(), CatalogError> {
    if let Some((field, problem)) = limits.flaw() {
        return Err(CatalogError::Invalid { field, problem });
    }
    for tenant in &limits.tenants {
        tenant_rows::require(connection, tenant).await?;
    }
    Ok(())
}

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    record: &TokenRecord,
) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO tokens (id, person, name, mac, limits, created_at, created_by, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(record.id.as_str())
    .bind(record.person.to_string())
    .bind(&record.name)
    .bind(hex(&record.mac))
    .bind(column(&record.limits))
    .bind(milliseconds(record.created_at))
    .bind(&record.created_by)
    .bind(milliseconds(record.expires_at))
    .execute(connection)
    .await?;
    Ok(())
}

/// Stores all that may change in a token but its use.
pub(super) async fn update(
    connection: &mut SqliteConnection,
    record: &TokenRecord,
) -> Result<(), CatalogError> {
    sqlx::query(
        "UPDATE tokens SET name = $2, limits = $3, expires_at = $4, revoked_at = $5, revoked_by = $6, \
         replaced_by = $7 WHERE id = $1",
    )
    .bind(record.id.as_str())
    .bind(&record.name)
    .bind(column(&record.limits))
    .bind(milliseconds(record.expires_at))
    .bind(record.revoked_at.map(milliseconds))
    .bind(&record.revoked_by)
    .bind(record.replaced_by.as_ref().map(TokenId::as_str))
    .execute(connection)
    .await?;
    Ok(())
}

fn record(row: &SqliteRow) -> Result<TokenRecord, CatalogError> {
    Ok(TokenRecord {
        id: parsed(row, "id")?,
        person: parsed(row, "person")?,
        name: row.try_get("name")?,
        limits: from_json(row, "limits")?,
        created_at: time(row, "created_at")?,
        created_by: row.try_get("created_by")?,
        expires_at: time(row, "expires_at")?,
        revoked_at: time_optional(row, "revoked_at")?,
        revoked_by: row.try_get("revoked_by")?,
        replaced_by: parsed_optional(row, "replaced_by")?,
        last_used_at: time_optional(row, "last_used_at")?,
        last_used_from: parsed_optional(row, "last_used_from")?,
        mac: digest(row, "mac")?,
    })
}

pub(super) fn token_event(kind: &str, record: &TokenRecord, actor: &str) -> AuditEvent {
    AuditEvent {
        person: Some(record.person),
        token: Some(record.id.clone()),
        detail: terms(record),
        ..change_event(kind, actor)
    }
}

/// What a token is good for, as the trail has it.
pub(super) fn terms(record: &TokenRecord) -> Value {
    json!({
        "name": record.name,
        "expires_at": milliseconds(record.expires_at) / 1000,
        "scopes": record.limits.scopes,
        "tenants": record.limits.tenants,
        "roles": record.limits.roles,
    })
}
