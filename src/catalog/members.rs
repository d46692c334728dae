//! Membership: which people belong to which tenant. A member of a tenant is one of its branches as well.

use serde_json::json;
use sqlx::{Connection as _, Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    catalog::{
        Catalog, CatalogError, Changed, What,
        changes::{Effect, change_event},
        columns::{milliseconds, now, parsed, time, word, worded},
        guest_tokens, invites, people, tenant_rows,
        types::{AuditEvent, Member, MemberKind, Standing},
    },
    names::{PersonId, TenantRef},
};

impl Catalog {
    /// The tenant's own members, by address; those of a branch's parent are not among them.
    pub async fn members(&self, tenant: &TenantRef) -> Result<Vec<Member>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let rows = sqlx::query(
            "SELECT members.*, people.email FROM members JOIN people ON people.id = members.person \
             WHERE members.tenant = $1 ORDER BY people.email",
        )
        .bind(tenant.as_str())
        .fetch_all(&mut *reader)
        .await?;
        rows.iter().map(member).collect()
    }

    /// Where the person is a member, by tenant.
    pub async fn memberships(&self, person: PersonId) -> Result<Vec<Member>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let rows = sqlx::query(
            "SELECT members.*, people.email FROM members JOIN people ON people.id = members.person \
             WHERE members.person = $1 ORDER BY members.tenant",
        )
        .bind(person.to_string())
        .fetch_all(&mut *reader)
        .await?;
        rows.iter().map(member).collect()
    }

    /// Makes the person a member, or a member of another kind.
    pub async fn set_member(
        &self,
        tenant: &TenantRef,
        person: PersonId,
        kind: MemberKind,
        actor: &str,
    ) -> Result<Changed<Member>, CatalogError> {
        let (tenant, actor) = (tenant.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                tenant_rows::require(connection, &tenant).await?;
                people::require(connection, person).await?;
                let old = find(connection, &tenant, person).await?;
                if let Some(old) = &old
                    && old.kind == kind
                {
                    return Ok(Effect::None(old.clone()));
                }
                let new = store(connection, &tenant, person, kind).await?;
                let before = old.map(|old| old.kind);
                let event = AuditEvent {
                    detail: json!({ "member": kind, "before": before }),
                    ..member_event("member.set", &tenant, person, &actor)
                };
                Ok(Effect::one(new, event))
            })
            .await
    }

    /// What the person is to the tenant; `None` as well where there is no such tenant.
    pub async fn standing(
        &self,
        tenant: &TenantRef,
        person: PersonId,
    ) -> Result<Option<Standing>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let mut transaction = reader.begin().await?;
        let found = tenant_rows::find(&mut transaction, tenant).await?;
        let standing = match &found {
            Some(found) => standing(&mut transaction, tenant_rows::lineage(found), person).await?,
            None => None,
        };
        transaction.commit().await?;
        Ok(standing)
    }

    /// Ends what a member or guest is to the tenant, and with it their invitations and the tokens that these gave, their
    /// rules for the tenant and those for branches that they do not belong to otherwise. Answers how many rules went.
    pub async fn remove_member(
        &self,
        tenant: &TenantRef,
        person: PersonId,
        actor: &str,
    ) -> Result<Changed<u64>, CatalogError> {
        let (tenant, actor) = (tenant.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let done = sqlx::query("DELETE FROM members WHERE tenant = $1 AND person = $2")
                    .bind(tenant.as_str())
                    .bind(person.to_string())
                    .execute(&mut *connection)
                    .await?;
                let invites = invites::drop_all(connection, &tenant, person).await?;
                if done.rows_affected() + invites.accepted == 0 {
                    return Err(CatalogError::missing(What::Member, person));
                }
                let rules = drop_rules(connection, &tenant, person).await?;
                let event = AuditEvent {
                    detail: json!({ "rules_removed": rules, "invites_revoked": invites.all }),
                    ..member_event("member.removed", &tenant, person, &actor)
                };
                let mut events = vec![event];
                for token in invites.tokens {
                    events.extend(guest_tokens::take_back(connection, token, &actor).await?);
                }
                Ok(Effect::Change(rules, events))
            })
            .await
    }
}

/// What the person is to the tenant or, for a branch, to its parent; the branch's own word goes first, and a
/// member is no guest.
pub(super) async fn standing(
    connection: &mut SqliteConnection,
    (own, parent): (&TenantRef, &TenantRef),
    person: PersonId,
) -> Result<Option<Standing>, CatalogError> {
    let row = sqlx::query(
        "SELECT kind, CASE tenant WHEN $2 THEN 0 ELSE 1 END AS distance FROM members \
           WHERE person = $1 AND tenant IN ($2, $3) \
         UNION ALL SELECT 'guest', 2 FROM invites \
           WHERE person = $1 AND tenant IN ($2, $3) AND accepted_at IS NOT NULL \
         ORDER BY distance LIMIT 1",
    )
    .bind(person.to_string())
    .bind(own.as_str())
    .bind(parent.as_str())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(|row| worded(row, "kind")).transpose()
}

async fn find(
    connection: &mut SqliteConnection,
    tenant: &TenantRef,
    person: PersonId,
) -> Result<Option<Member>, CatalogError> {
    let row = sqlx::query(
        "SELECT members.*, people.email FROM members JOIN people ON people.id = members.person \
         WHERE members.tenant = $1 AND members.person = $2",
    )
    .bind(tenant.as_str())
    .bind(person.to_string())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(member).transpose()
}

async fn store(
    connection: &mut SqliteConnection,
    tenant: &TenantRef,
    person: PersonId,
    kind: MemberKind,
) -> Result<Member, CatalogError> {
    sqlx::query(
        "INSERT INTO members (tenant, person, kind, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (tenant, person) DO UPDATE SET kind = excluded.kind",
    )
    .bind(tenant.as_str())
    .bind(person.to_string())
    .bind(word(kind))
    .bind(milliseconds(now()))
    .execute(&mut *connection)
    .await?;
    let stored = find(connection, tenant, person).await?;
    stored.ok_or_else(|| CatalogError::missing(What::Member, person))
}

/// Takes away the rules of somebody who is nothing to the tenant any more.
pub(super) async fn drop_rules(
    connection: &mut SqliteConnection,
    tenant: &TenantRef,
    person: PersonId,
) -> Result<u64, CatalogError> {
    let done = sqlx::query(
        "DELETE FROM rules WHERE person = $2 AND (tenant = $1 OR tenant IN ( \
           SELECT ref FROM tenants WHERE parent = $1 \
           AND ref NOT IN (SELECT tenant FROM members WHERE person = $2 \
             UNION SELECT tenant FROM invites WHERE person = $2 AND accepted_at IS NOT NULL)))",
    )
    .bind(tenant.as_str())
    .bind(person.to_string())
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

fn member(row: &SqliteRow) -> Result<Member, CatalogError> {
    Ok(Member {
        tenant: parsed(row, "tenant")?,
        person: parsed(row, "person")?,
        email: row.try_get("email")?,
        kind: worded(row, "kind")?,
        created_at: time(row, "created_at")?,
    })
}

fn member_event(kind: &str, tenant: &TenantRef, person: PersonId, actor: &str) -> AuditEvent {
    AuditEvent {
        tenant: Some(tenant.clone()),
        person: Some(person),
        ..change_event(kind, actor)
    }
}
