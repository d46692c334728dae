//! What becomes of a token: changed, rotated, revoked, reported as leaked.
//!
//! ```text
//! rotate      the old token ends with the overlap (at once without one) and names the new one, which is good for
//!             the same and lasts as long as the old one was made for
//! leaked      revoked by whoever shows the whole of it, once; what is no token of ours leaves no trace
//! ```

use serde_json::json;
use sqlx::SqliteConnection;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::{
    catalog::{
        Catalog, CatalogError, Changed, Token,
        changes::Effect,
        columns::{milliseconds, now, truncated},
        people, token,
        tokens::{
            check_limits, check_token_expiry, find, find_all, insert, make, require, terms,
            token_event, update,
        },
        types::{AuditEvent, NewToken, TokenChange, TokenRecord},
    },
    names::{PersonId, TokenId},
};

/// A token in place of another.
pub struct Rotated {
    pub old: TokenRecord,
    pub new: TokenRecord,
    /// The whole new token: nobody can learn it again.
    pub secret: Zeroizing<String>,
}

impl Catalog {
    /// Changes the token's name, expiry or limits. It must not be revoked or expired.
    pub async fn change_token(
        &self,
        id: &TokenId,
        change: TokenChange,
        actor: &str,
    ) -> Result<Changed<TokenRecord>, CatalogError> {
        change.expires_at.map(check_token_expiry).transpose()?;
        let name = change
            .name
            .as_deref()
            .map(people::checked_name)
            .transpose()?;
        let (id, actor) = (id.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let old = require_alive(connection, &id).await?;
                let mut record = old.clone();
                record.name = name.unwrap_or(record.name);
                record.expires_at = change.expires_at.map_or(record.expires_at, truncated);
                let limits = &mut record.limits;
                replace(&mut limits.scopes, change.scopes);
                replace(&mut limits.tenants, change.tenants);
                replace(&mut limits.roles, change.roles);
                if record == old {
                    return Ok(Effect::None(record));
                }
                check_limits(connection, &record.limits).await?;
                update(connection, &record).await?;
                let mut event = token_event("token.changed", &record, &actor);
                event.detail["before"] = terms(&old);
                Ok(Effect::one(record, event))
            })
            .await
    }

    /// Makes a token in place of another, which works on for `overlap`; with none, it is revoked.
    pub async fn rotate_token(
        &self,
        id: &TokenId,
        overlap: Duration,
        expires_at: Option<OffsetDateTime>,
        actor: &str,
    ) -> Result<Changed<Rotated>, CatalogError> {
        expires_at.map(check_token_expiry).transpose()?;
        let (id, actor) = (id.clone(), actor.to_owned());
        let keys = std::sync::Arc::clone(&self.shared.keys);
        self.shared
            .writer
            .change(async move |connection| {
                let mut old = require_alive(connection, &id).await?;
                if old.replaced_by.is_some() {
                    return Err(invalid(
                        "was rotated already: rotate the one that replaced it",
                    ));
                }
                let now = now();
                let as_long = now + (old.expires_at - old.created_at);
                let new = NewToken {
                    name: old.name.clone(),
                    expires_at: expires_at.unwrap_or(as_long),
                    limits: old.limits.clone(),
                };
                check_token_expiry(new.expires_at)?;
                let (new, token) = make(old.person, new, &actor, keys.pepper())?;
                old.replaced_by = Some(new.id.clone());
                if overlap.is_positive() {
                    let end = now.checked_add(overlap).unwrap_or(old.expires_at);
                    old.expires_at = old.expires_at.min(truncated(end));
                } else {
                    revoke(&mut old, &actor);
                }
                insert(connection, &new).await?;
                update(connection, &old).await?;
                let mut rotated = token_event("token.rotated", &old, &actor);
                rotated.detail["replaced_by"] = json!(new.id);
                rotated.detail["ends_at"] = json!(milliseconds(end_of(&old)) / 1000);
                let created = token_event("token.created", &new, &actor);
                let secret = token.reveal();
                Ok(Effect::Change(
                    Rotated { old, new, secret },
                    vec![rotated, created],
                ))
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
                let mut record = require(connection, &id).await?;
                if record.revoked_at.is_some() {
                    return Ok(Effect::None(record));
                }
                revoke(&mut record, &actor);
                update(connection, &record).await?;
                let event = token_event("token.revoked", &record, &actor);
                Ok(Effect::one(record, event))
            })
            .await
    }

    /// Revokes all of the person's tokens. Answers those that were not revoked before.
    pub async fn revoke_tokens(
        &self,
        person: PersonId,
        actor: &str,
    ) -> Result<Changed<Vec<TokenRecord>>, CatalogError> {
        let actor = actor.to_owned();
        self.shared
            .writer
            .change(async move |connection| {
                people::require(connection, person).await?;
                let mut records = find_all(connection, person).await?;
                records.retain(|record| record.revoked_at.is_none());
                let mut events = Vec::new();
                for record in &mut records {
                    revoke(record, &actor);
                    update(connection, record).await?;
                    events.push(token_event("token.revoked", record, &actor));
                }
                Ok(match events.is_empty() {
                    true => Effect::None(records),
                    false => Effect::Change(records, events),
                })
            })
            .await
    }

    /// Revokes a token that was found where it should not be. `None`: it is none of ours, or was revoked before.
    pub async fn revoke_leaked(
        &self,
        token: &Token,
        reporter: Option<String>,
    ) -> Result<Option<Changed<TokenRecord>>, CatalogError> {
        const ACTOR: &str = "leak-report";
        let known = self.token(token.id()).await?;
        if !token::verify(known.as_ref(), token, self.shared.keys.pepper()) {
            return Ok(None);
        }
        let id = token.id().clone();
        let changed = self
            .shared
            .writer
            .change(async move |connection| {
                let Some(mut record) = find(connection, &id).await? else {
                    return Ok(Effect::None(None));
                };
                if record.revoked_at.is_some() {
                    return Ok(Effect::None(None));
                }
                revoke(&mut record, ACTOR);
                update(connection, &record).await?;
                let event = AuditEvent {
                    peer: reporter,
                    ..token_event("token.leaked", &record, ACTOR)
                };
                Ok(Effect::one(Some(record), event))
            })
            .await?;
        let revision = changed.revision;
        Ok(changed.value.map(|value| Changed { value, revision }))
    }
}

/// A token that opens something, or would if its limits let it.
async fn require_alive(
    connection: &mut SqliteConnection,
    id: &TokenId,
) -> Result<TokenRecord, CatalogError> {
    let record = require(connection, id).await?;
    if record.revoked_at.is_some() {
        return Err(invalid("is revoked: make a new one"));
    }
    if record.expires_at <= now() {
        return Err(invalid("has expired: make a new one"));
    }
    Ok(record)
}

fn invalid(problem: &'static str) -> CatalogError {
    CatalogError::Invalid {
        field: "the token",
        problem,
    }
}

pub(super) fn revoke(record: &mut TokenRecord, actor: &str) {
    record.revoked_at = Some(now());
    record.revoked_by = Some(actor.to_owned());
}

fn end_of(record: &TokenRecord) -> OffsetDateTime {
    record.revoked_at.unwrap_or(record.expires_at)
}

fn replace<T>(value: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *value = new;
    }
}
