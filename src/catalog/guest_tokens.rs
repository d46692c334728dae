//! The token that an acceptance gives: without one of their own, a guest could log in nowhere.
//!
//! It opens what the invitation gave and nothing else: these roles of this tenant, until the last of them ends. It is
//! revoked with the invitation, so that whoever has it gets nothing from a later one for the same person.

use std::collections::BTreeSet;

use sqlx::SqliteConnection;

use super::{
    CatalogError, Pepper, Token,
    token_changes::revoke,
    tokens::{self, token_event},
    types::{AuditEvent, Invite, NewToken, Rule, TokenLimits, TokenRecord},
};
use crate::names::{PersonId, TokenId};

/// Makes it for `person`, who has accepted `invite` and has `rules` by it.
pub(super) async fn give(
    connection: &mut SqliteConnection,
    pepper: &Pepper,
    invite: &Invite,
    person: PersonId,
    rules: &[Rule],
) -> Result<(TokenRecord, Token), CatalogError> {
    let ends = rules.iter().map(|rule| rule.expires_at).max();
    let new = NewToken {
        name: format!("invitation to {}", invite.tenant),
        // An invitation has one role at least.
        expires_at: ends.unwrap_or(invite.expires_at),
        limits: TokenLimits {
            tenants: BTreeSet::from([invite.tenant.clone()]),
            roles: rules.iter().map(|rule| rule.role.clone()).collect(),
            ..TokenLimits::default()
        },
    };
    let (record, token) = tokens::make(person, new, &format!("person:{person}"), pepper)?;
    tokens::insert(connection, &record).await?;
    Ok((record, token))
}

/// Revokes it, and what it was rotated to. Answers what the trail is to tell.
pub(super) async fn take_back(
    connection: &mut SqliteConnection,
    given: TokenId,
    actor: &str,
) -> Result<Vec<AuditEvent>, CatalogError> {
    let mut events = Vec::new();
    let mut next = Some(given);
    while let Some(id) = next {
        let Some(mut record) = tokens::find(connection, &id).await? else {
            break;
        };
        if record.revoked_at.is_none() {
            revoke(&mut record, actor);
            tokens::update(connection, &record).await?;
            events.push(token_event("token.revoked", &record, actor));
        }
        next = record.replaced_by;
    }
    Ok(events)
}
