//! Tokens: made once, shown once, and known afterwards only by their HMAC.

use std::net::IpAddr;

use serde_json::json;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::{
    catalog::{
        Catalog, CatalogError, Changed, Pepper, Token, What,
        changes::{Effect, change_event},
        columns::{
            digest, hex, milliseconds, now, parsed, parsed_optional, time, time_optional, truncated,
        },
        people,
        types::{AuditEvent, TokenRecord},
    },
    names::{PersonId, TokenId},
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
        let rows =
            sqlx::query("SELECT * FROM tokens WHERE person = $1 ORDER BY created_at DESC, id")
                .bind(person.to_string())
                .fetch_all(&mut *reader)
                .await?;
        rows.iter().map(record).collect()
    }

    /// Makes a token. The second value is the whole token: nobody can learn it again.
    pub async fn create_token(
        &self,
        person: PersonId,
        name: &str,
        expires_at: OffsetDateTime,
        actor: &str,
    ) -> Result<Changed<(TokenRecord, Zeroizing<String>)>, CatalogError> {
        check_expiry(expires_at, TOKEN_DAYS_MAX)?;
        let token = Token::generate()?;
        let record = TokenRecord {
            id: token.id().clone(),
            person,
            name: people::checked_name(name)?,
            created_at: now(),
            expires_at: truncated(expires_at),
            revoked_at: None,
            last_used_at: None,
            last_used_from: None,
            mac: token.mac(self.shared.keys.pepper()),
        };
        let actor = actor.to_owned();
        self.shared
            .writer
            .change(async move |connection| {
                people::require(connection, person).await?;
                insert(connection, &record).await?;
                let event = token_event("token.created", &record, &actor);
                Ok(Effect::one((record, token.reveal()), event))
            })
            .await
    }

    /// Revokes a token. Done twice, the first time stands.
    pub async fn revoke_token(
        &self,
        id: &TokenId,
        actor: &str,
    ) -> Result<Changed<TokenRecord>, CatalogError> {
        let (id, actor) = (id.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let record = find(connection, &id).await?;
                let record = record.ok_or_else(|| CatalogError::missing(What::Token, &id))?;
                if record.revoked_at.is_some() {
                    return Ok(Effect::None(record));
                }
                let record = TokenRecord {
                    revoked_at: Some(now()),
                    ..record
                };
                sqlx::query("UPDATE tokens SET revoked_at = $2 WHERE id = $1")
                    .bind(id.as_str())
                    .bind(record.revoked_at.map(milliseconds))
                    .execute(connection)
                    .await?;
                let event = token_event("token.revoked", &record, &actor);
                Ok(Effect::one(record, event))
            })
            .await
    }

    /// Notes that the token was used; written behind the caller's back, at most once a minute a token.
    pub fn touch_token(&self, id: &TokenId, at: OffsetDateTime, from: IpAddr) {
        if self.shared.recent_uses.is_due(id, at) {
            self.shared.writer.note_use(id.clone(), at, from);
        }
    }

    /// What stored tokens are compared under, for those who check a token without a tenant.
    #[must_use]
    pub fn pepper(&self) -> &Pepper {
        self.shared.keys.pepper()
    }
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

async fn insert(
    connection: &mut SqliteConnection,
    record: &TokenRecord,
) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO tokens (id, person, name, mac, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(record.id.as_str())
    .bind(record.person.to_string())
    .bind(&record.name)
    .bind(hex(&record.mac))
    .bind(milliseconds(record.created_at))
    .bind(milliseconds(record.expires_at))
    .execute(connection)
    .await?;
    Ok(())
}

fn record(row: &SqliteRow) -> Result<TokenRecord, CatalogError> {
    Ok(TokenRecord {
        id: parsed(row, "id")?,
        person: parsed(row, "person")?,
        name: row.try_get("name")?,
        created_at: time(row, "created_at")?,
        expires_at: time(row, "expires_at")?,
        revoked_at: time_optional(row, "revoked_at")?,
        last_used_at: time_optional(row, "last_used_at")?,
        last_used_from: parsed_optional(row, "last_used_from")?,
        mac: digest(row, "mac")?,
    })
}

fn token_event(kind: &str, record: &TokenRecord, actor: &str) -> AuditEvent {
    AuditEvent {
        person: Some(record.person),
        token: Some(record.id.clone()),
        detail: json!({ "name": record.name, "expires_at": milliseconds(record.expires_at) / 1000 }),
        ..change_event(kind, actor)
    }
}
