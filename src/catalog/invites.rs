//! Invitations: made by whoever manages access, accepted once by the person invited, revoked at any time.
//!
//! ```text
//! created ──▶ pending ── accepted in time ──▶ accepted: a guest, with a token and rules counted from then
//!                │ time over: expired             │
//!                └────────── revoked: gone, with the token and rules that it gave ◀─┘
//! ```

use std::{net::IpAddr, sync::Arc};

use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{
    Catalog, CatalogError, Changed, InviteToken, What,
    changes::{Effect, change_event},
    columns::{
        digest, from_json, hex, json, milliseconds, now, parsed, parsed_optional, time,
        time_optional, truncated,
    },
    guest_tokens,
    keys::Pepper,
    members, people, rule_rows, rules, tenant_rows, tokens,
    types::{
        AcceptedInvite, AuditEvent, Invite, InviteStatus, InvitedRole, NewInvite, Outcome, Person,
        Rule, Standing, Tenant,
    },
};
use crate::names::{InviteId, PersonId, TenantRef, TokenId};

/// Longest time that an invitation may wait for its acceptance.
const INVITE_DAYS_MAX: i64 = 30;
const ROLES_MAX: usize = 50;

/// How many invitations went, and the tokens that they have given.
#[derive(Default)]
pub(super) struct Dropped {
    pub(super) all: u64,
    pub(super) accepted: u64,
    pub(super) tokens: Vec<TokenId>,
}

impl Catalog {
    /// The tenant's invitations, whatever became of them, newest first.
    pub async fn invites(&self, tenant: &TenantRef) -> Result<Vec<Invite>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let rows = sqlx::query(
            "SELECT * FROM invites WHERE tenant = $1 ORDER BY created_at DESC, id DESC",
        )
        .bind(tenant.as_str())
        .fetch_all(&mut *reader)
        .await?;
        rows.iter().map(invite).collect()
    }

    /// Makes an invitation. The second value is its acceptance token: nobody can learn it again.
    pub async fn create_invite(
        &self,
        tenant: &TenantRef,
        new: NewInvite,
        actor: &str,
    ) -> Result<Changed<(Invite, Zeroizing<String>)>, CatalogError> {
        check(&new)?;
        let id = InviteId::generate();
        let token = InviteToken::generate(id)?;
        let invite = Invite {
            id,
            tenant: tenant.clone(),
            email: people::checked_email(&new.email)?,
            roles: new.roles,
            created_by: actor.to_owned(),
            created_at: now(),
            expires_at: truncated(new.expires_at),
            accepted_at: None,
            person: None,
            token_id: None,
            mac: token.mac(self.shared.keys.pepper()),
        };
        let actor = actor.to_owned();
        self.shared
            .writer
            .change(async move |connection| {
                let tenant = tenant_rows::require(connection, &invite.tenant).await?;
                for role in &invite.roles {
                    rules::check_privilege(&tenant, &role.role)?;
                }
                refuse_member(connection, &tenant, &invite.email).await?;
                insert(connection, &invite).await?;
                let event = invite_event("invite.created", &invite, &actor);
                Ok(Effect::one((invite, token.reveal()), event))
            })
            .await
    }

    /// Accepts the invitation of `email` to `tenant`: makes the person if there is none of that address, the rules,
    /// which last from now on, and a token to use them with. The second value is that token: nobody can learn it again.
    /// Good for one time only. Refusals of a token that is right are in the trail.
    pub async fn accept_invite(
        &self,
        tenant: &TenantRef,
        email: &str,
        token: InviteToken,
    ) -> Result<Changed<(AcceptedInvite, Zeroizing<String>)>, CatalogError> {
        // Asked first, so that guesses do not stand in the way of changes.
        let found = {
            let mut reader = self.shared.readers.acquire().await?;
            find(&mut reader, token.id()).await?
        };
        let is_right = token.fits(found.as_ref(), self.shared.keys.pepper());
        let invite = found
            .filter(|invite| is_right && invite.is_for(tenant, email))
            .ok_or(CatalogError::InviteNotValid)?;
        drop(token);
        let id = invite.id;
        let keys = Arc::clone(&self.shared.keys);
        let accepted = self
            .shared
            .writer
            .change(async move |connection| accept(connection, id, keys.pepper()).await)
            .await;
        if let Err(refusal) = &accepted
            && let Some(reason) = reason(refusal)
        {
            // Where it came from is not known here; whoever holds a token that is used up cannot fill the trail with it.
            self.record_refusal(refused_event(&invite, reason), None::<IpAddr>);
        }
        accepted
    }

    /// Revokes an invitation, accepted or not, with the token and the rules that it has given; a guest who has no other
    /// one is none any more. Answers what it said.
    pub async fn revoke_invite(
        &self,
        tenant: &TenantRef,
        id: InviteId,
        actor: &str,
    ) -> Result<Changed<Invite>, CatalogError> {
        let (tenant, actor) = (tenant.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let tenant = tenant_rows::require(connection, &tenant).await?;
                let invite = find(connection, id)
                    .await?
                    .filter(|invite| invite.tenant == tenant.tenant)
                    .ok_or_else(|| CatalogError::missing(What::Invite, id))?;
                sqlx::query("DELETE FROM invites WHERE id = $1")
                    .bind(id.to_string())
                    .execute(&mut *connection)
                    .await?;
                let mut events = vec![invite_event("invite.revoked", &invite, &actor)];
                if let Some(person) = invite.person {
                    let gone = take_back(connection, &tenant, person, &invite.roles).await?;
                    let removed = gone
                        .iter()
                        .map(|rule| rules::rule_event("rule.removed", rule, &actor));
                    events.extend(removed);
                }
                if let Some(token) = invite.token_id.clone() {
                    events.extend(guest_tokens::take_back(connection, token, &actor).await?);
                }
                Ok(Effect::Change(invite, events))
            })
            .await
    }
}

impl Invite {
    fn is_for(&self, tenant: &TenantRef, email: &str) -> bool {
        self.tenant == *tenant && self.email == people::folded_email(email)
    }
}

/// Removes what a person was invited to the tenant for, accepted or under way.
pub(super) async fn drop_all(
    connection: &mut SqliteConnection,
    tenant: &TenantRef,
    person: PersonId,
) -> Result<Dropped, CatalogError> {
    let rows = sqlx::query(
        "DELETE FROM invites WHERE tenant = $1 AND (person = $2 OR email = ( \
           SELECT email FROM people WHERE id = $2)) RETURNING accepted_at IS NOT NULL AS accepted, token_id",
    )
    .bind(tenant.as_str())
    .bind(person.to_string())
    .fetch_all(connection)
    .await?;
    let mut dropped = Dropped::default();
    for row in rows {
        dropped.all += 1;
        dropped.accepted += u64::from(row.try_get::<bool, _>("accepted")?);
        dropped
            .tokens
            .extend(parsed_optional::<TokenId>(&row, "token_id")?);
    }
    Ok(dropped)
}

/// Inside the one transaction that writes at a time: of two acceptances the second finds the first.
async fn accept(
    connection: &mut SqliteConnection,
    id: InviteId,
    pepper: &Pepper,
) -> Result<Effect<(AcceptedInvite, Zeroizing<String>)>, CatalogError> {
    let found = find(connection, id).await?;
    let invite = found.ok_or(CatalogError::InviteNotValid)?;
    let at = now();
    match invite.status(at) {
        InviteStatus::Pending => {}
        InviteStatus::Accepted => return Err(CatalogError::InviteUsed),
        InviteStatus::Expired => return Err(CatalogError::InviteExpired),
    }
    let tenant = tenant_rows::require(connection, &invite.tenant).await?;
    let (person, created) = guest(connection, &invite.email, at).await?;
    let actor = format!("person:{}", person.id);
    let mut given = Vec::new();
    let mut made = Vec::new();
    for role in &invite.roles {
        let new = role.rule(at);
        // The author of the rule is who has invited.
        let by = &invite.created_by;
        let (rule, event) = rules::store(connection, &tenant, person.id, new, by).await?;
        made.push(rule);
        given.push(AuditEvent {
            actor: actor.clone(),
            ..event
        });
    }
    let (record, token) = guest_tokens::give(connection, pepper, &invite, person.id, &made).await?;
    given.push(tokens::token_event("token.created", &record, &actor));
    let invite = Invite {
        accepted_at: Some(at),
        person: Some(person.id),
        token_id: Some(record.id.clone()),
        ..invite
    };
    note_acceptance(connection, &invite).await?;
    let accepted = invite_event("invite.accepted", &invite, &actor);
    let events = created.into_iter().chain([accepted]).chain(given);
    let events = events.collect();
    let accepted = AcceptedInvite {
        invite,
        person,
        rules: made,
        token: record,
    };
    Ok(Effect::Change((accepted, token.reveal()), events))
}

/// Whoever has this address, made if there is nobody yet: then the event tells of it.
async fn guest(
    connection: &mut SqliteConnection,
    email: &str,
    at: OffsetDateTime,
) -> Result<(Person, Option<AuditEvent>), CatalogError> {
    if let Some(person) = people::find_by_email(connection, email).await? {
        return Ok((person, None));
    }
    let person = Person {
        id: PersonId::generate(),
        email: email.to_owned(),
        name: email.to_owned(),
        created_at: at,
    };
    people::insert(connection, &person).await?;
    let actor = format!("person:{}", person.id);
    let event = people::person_event("person.created", &person, &actor);
    Ok((person, Some(event)))
}

async fn note_acceptance(
    connection: &mut SqliteConnection,
    invite: &Invite,
) -> Result<(), CatalogError> {
    sqlx::query("UPDATE invites SET accepted_at = $2, person = $3, token_id = $4 WHERE id = $1")
        .bind(invite.id.to_string())
        .bind(invite.accepted_at.map(milliseconds))
        .bind(invite.person.map(|person| person.to_string()))
        .bind(invite.token_id.as_ref().map(TokenId::as_str))
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes the rules back that an invitation gave, or all if it was the last thing that tied the person to the tenant.
async fn take_back(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    person: PersonId,
    roles: &[InvitedRole],
) -> Result<Vec<Rule>, CatalogError> {
    let mut gone = rule_rows::find_all(connection, &tenant.tenant, person).await?;
    let own = (&tenant.tenant, &tenant.tenant);
    if members::standing(connection, own, person).await?.is_none() {
        members::drop_rules(connection, &tenant.tenant, person).await?;
        return Ok(gone);
    }
    gone.retain(|rule| roles.iter().any(|invited| invited.role == rule.role));
    for rule in &gone {
        rule_rows::delete(connection, rule).await?;
    }
    Ok(gone)
}

/// Members have rules, no invitations.
async fn refuse_member(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    email: &str,
) -> Result<(), CatalogError> {
    let Some(person) = people::find_by_email(connection, email).await? else {
        return Ok(());
    };
    let lineage = tenant_rows::lineage(tenant);
    match members::standing(connection, lineage, person.id).await? {
        None | Some(Standing::Guest) => Ok(()),
        Some(Standing::Owner | Standing::Administrator | Standing::Member) => {
            Err(CatalogError::MemberAlready {
                tenant: tenant.tenant.clone(),
                email: email.to_owned(),
            })
        }
    }
}

fn check(new: &NewInvite) -> Result<(), CatalogError> {
    let invalid = |problem| CatalogError::Invalid {
        field: "roles",
        problem,
    };
    if new.roles.is_empty() {
        return Err(invalid("must name at least one role"));
    }
    if new.roles.len() > ROLES_MAX {
        return Err(invalid("are more than 50"));
    }
    tokens::check_expiry(new.expires_at, INVITE_DAYS_MAX)?;
    let at = now();
    let granted: Vec<_> = new.roles.iter().map(|role| role.rule(at)).collect();
    granted.iter().try_for_each(rules::check)?;
    rules::check_roles_differ(&granted)
}

async fn find(
    connection: &mut SqliteConnection,
    id: InviteId,
) -> Result<Option<Invite>, CatalogError> {
    let row = sqlx::query("SELECT * FROM invites WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(invite).transpose()
}

async fn insert(connection: &mut SqliteConnection, invite: &Invite) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO invites (id, tenant, email, mac, roles, created_by, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(invite.id.to_string())
    .bind(invite.tenant.as_str())
    .bind(&invite.email)
    .bind(hex(&invite.mac))
    .bind(json(&invite.roles))
    .bind(&invite.created_by)
    .bind(milliseconds(invite.created_at))
    .bind(milliseconds(invite.expires_at))
    .execute(connection)
    .await?;
    Ok(())
}

fn invite(row: &SqliteRow) -> Result<Invite, CatalogError> {
    Ok(Invite {
        id: parsed(row, "id")?,
        tenant: parsed(row, "tenant")?,
        email: row.try_get("email")?,
        roles: from_json(row, "roles")?,
        created_by: row.try_get("created_by")?,
        created_at: time(row, "created_at")?,
        expires_at: time(row, "expires_at")?,
        accepted_at: time_optional(row, "accepted_at")?,
        person: parsed_optional(row, "person")?,
        token_id: parsed_optional(row, "token_id")?,
        mac: digest(row, "mac")?,
    })
}

fn invite_event(kind: &str, invite: &Invite, actor: &str) -> AuditEvent {
    AuditEvent {
        tenant: Some(invite.tenant.clone()),
        person: invite.person,
        detail: described(invite),
        ..change_event(kind, actor)
    }
}

fn refused_event(invite: &Invite, reason: &str) -> AuditEvent {
    AuditEvent {
        outcome: Outcome::Failure,
        reason: Some(reason.to_owned()),
        ..invite_event("invite.refused", invite, "unknown")
    }
}

/// Why an acceptance with the right token came to nothing; `None`: it is nothing of the invitation's.
fn reason(refusal: &CatalogError) -> Option<&'static str> {
    match refusal {
        CatalogError::InviteUsed => Some("invite_used"),
        CatalogError::InviteExpired => Some("invite_expired"),
        CatalogError::InviteNotValid => Some("invite_revoked"),
        CatalogError::PrivilegedRole { .. } => Some("privileged_role"),
        _ => None,
    }
}

fn described(invite: &Invite) -> Value {
    json!({
        "invite": invite.id,
        "email": invite.email,
        "roles": invite.roles,
        "expires_at": milliseconds(invite.expires_at) / 1000,
    })
}
