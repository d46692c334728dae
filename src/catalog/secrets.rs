//! The passwords and verifiers of roles, sealed before they reach the storage.

use serde_json::json;
use sqlx::Row;

use crate::{
    catalog::{
        Catalog, CatalogError, Changed, What,
        changes::{Effect, change_event},
        keys::secret_kind,
        tenant_rows,
        types::{AuditEvent, RoleSecret},
    },
    names::{RoleName, TenantRef},
};

/// How PostgreSQL begins a verifier of the only kind that we speak (`pg_authid.rolpassword`).
const VERIFIER_PREFIX: &str = "SCRAM-SHA-256$";

impl Catalog {
    /// The stored secret of `role`, if there is one. [`CatalogError::SecretUnreadable`]: it was stored with another master key.
    pub async fn role_secret(
        &self,
        tenant: &TenantRef,
        role: &RoleName,
    ) -> Result<Option<RoleSecret>, CatalogError> {
        let Some(revision) = self.shared.present.revision() else {
            return self.read_role_secret(tenant, role).await;
        };
        let (known, key) = (&self.shared.role_secrets, (tenant.clone(), role.clone()));
        if let Some(secret) = known.find(revision, &key) {
            return Ok(Some(secret));
        }
        let secret = self.read_role_secret(tenant, role).await?;
        if let Some(secret) = &secret {
            known.remember(revision, key, secret.clone());
        }
        Ok(secret)
    }

    async fn read_role_secret(
        &self,
        tenant: &TenantRef,
        role: &RoleName,
    ) -> Result<Option<RoleSecret>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let row =
            sqlx::query("SELECT kind, sealed FROM role_secrets WHERE tenant = $1 AND role = $2")
                .bind(tenant.as_str())
                .bind(role.as_str())
                .fetch_optional(&mut *reader)
                .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let (kind, sealed) = (row.try_get("kind")?, row.try_get("sealed")?);
        self.shared.keys.open(tenant, role, kind, sealed).map(Some)
    }

    /// Stores the role's secret in place of any other.
    pub async fn set_role_secret(
        &self,
        tenant: &TenantRef,
        role: &RoleName,
        secret: RoleSecret,
        actor: &str,
    ) -> Result<Changed<()>, CatalogError> {
        check(&secret)?;
        let sealed = self.shared.keys.seal(tenant, role, &secret)?;
        let kind = secret_kind(&secret);
        let (tenant, role, actor) = (tenant.clone(), role.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                tenant_rows::require(connection, &tenant).await?;
                sqlx::query(
                    "INSERT INTO role_secrets (tenant, role, kind, sealed) VALUES ($1, $2, $3, $4) \
                     ON CONFLICT (tenant, role) DO UPDATE SET kind = excluded.kind, sealed = excluded.sealed",
                )
                .bind(tenant.as_str())
                .bind(role.as_str())
                .bind(kind)
                .bind(sealed)
                .execute(connection)
                .await?;
                let event = AuditEvent {
                    tenant: Some(tenant),
                    role: Some(role),
                    detail: json!({ "secret": kind }),
                    ..change_event("role_secret.set", &actor)
                };
                Ok(Effect::one((), event))
            })
            .await
    }

    /// Forgets the stored secret of `role`; [`CatalogError::NotFound`] where there is none.
    pub async fn remove_role_secret(
        &self,
        tenant: &TenantRef,
        role: &RoleName,
        actor: &str,
    ) -> Result<Changed<()>, CatalogError> {
        let (tenant, role, actor) = (tenant.clone(), role.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                let done = sqlx::query("DELETE FROM role_secrets WHERE tenant = $1 AND role = $2")
                    .bind(tenant.as_str())
                    .bind(role.as_str())
                    .execute(connection)
                    .await?;
                if done.rows_affected() == 0 {
                    return Err(CatalogError::missing(What::RoleSecret, &role));
                }
                let event = AuditEvent {
                    tenant: Some(tenant),
                    role: Some(role),
                    ..change_event("role_secret.removed", &actor)
                };
                Ok(Effect::one((), event))
            })
            .await
    }
}

fn check(secret: &RoleSecret) -> Result<(), CatalogError> {
    let invalid = |field, problem| Err(CatalogError::Invalid { field, problem });
    match secret {
        RoleSecret::Password(text) if text.is_empty() => invalid("password", "must not be empty"),
        RoleSecret::Verifier(text) if !text.starts_with(VERIFIER_PREFIX) => {
            invalid("verifier", "must be a SCRAM-SHA-256 verifier")
        }
        RoleSecret::Password(_) | RoleSecret::Verifier(_) => Ok(()),
    }
}
