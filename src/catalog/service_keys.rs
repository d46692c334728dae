//! What a service beside a tenant shows when it calls us: a key of its own, kept as its HMAC.

use sqlx::Row as _;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{
    Catalog, CatalogError, Changed,
    changes::{Effect, change_event},
    columns::{hex, unhex},
    tenant_rows,
    token::random_base62,
    types::AuditEvent,
};
use crate::names::TenantRef;

const SECRET_CHARACTERS: usize = 43;

/// Whose key it is. A tenant has at most one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKey {
    /// The guard's beside the tenant's database, which asks about sessions.
    Guard,
    /// The external authority's, which revokes at once.
    Webhook,
}

impl ServiceKey {
    fn prefix(self) -> &'static str {
        match self {
            Self::Guard => "slg_",
            Self::Webhook => "slw_",
        }
    }

    fn table(self) -> &'static str {
        match self {
            Self::Guard => "guard_keys",
            Self::Webhook => "webhook_keys",
        }
    }

    fn created(self) -> &'static str {
        match self {
            Self::Guard => "guard_key.created",
            Self::Webhook => "webhook_key.created",
        }
    }

    /// Keeps the HMAC of one kind from being good for another.
    fn domain(self) -> &'static [u8] {
        match self {
            Self::Guard => b"guard\0",
            Self::Webhook => b"webhook\0",
        }
    }
}

impl Catalog {
    /// Makes a new key in place of any other of its kind; nobody can learn it again.
    pub async fn make_service_key(
        &self,
        kind: ServiceKey,
        tenant: &TenantRef,
        actor: &str,
    ) -> Result<Changed<Zeroizing<String>>, CatalogError> {
        let secret = random_base62(SECRET_CHARACTERS)?;
        let key = Zeroizing::new(format!("{}{}", kind.prefix(), &*secret));
        let mac = hex(&self.service_mac(kind, tenant, &key));
        let (tenant, actor) = (tenant.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                tenant_rows::require(connection, &tenant).await?;
                sqlx::query(&format!(
                    "INSERT INTO {} (tenant, mac) VALUES ($1, $2) \
                     ON CONFLICT (tenant) DO UPDATE SET mac = excluded.mac",
                    kind.table()
                ))
                .bind(tenant.as_str())
                .bind(mac)
                .execute(connection)
                .await?;
                let event = AuditEvent {
                    tenant: Some(tenant),
                    ..change_event(kind.created(), &actor)
                };
                Ok(Effect::one(key, event))
            })
            .await
    }

    /// Whether `key` is the tenant's of that kind. Does the same work when it has none.
    pub async fn is_service_key(
        &self,
        kind: ServiceKey,
        tenant: &TenantRef,
        key: &str,
    ) -> Result<bool, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let row = sqlx::query(&format!(
            "SELECT mac FROM {} WHERE tenant = $1",
            kind.table()
        ))
        .bind(tenant.as_str())
        .fetch_optional(&mut *reader)
        .await?;
        let stored = row.map(|row| row.try_get::<String, _>("mac")).transpose()?;
        let stored = stored.as_deref().and_then(unhex);
        let same = self
            .service_mac(kind, tenant, key)
            .ct_eq(&stored.unwrap_or_default());
        Ok(bool::from(same) & stored.is_some())
    }

    fn service_mac(&self, kind: ServiceKey, tenant: &TenantRef, key: &str) -> [u8; 32] {
        // No ref holds a zero byte, so the parts cannot be mistaken for others.
        let parts = [
            kind.domain(),
            tenant.as_str().as_bytes(),
            b"\0",
            key.as_bytes(),
        ];
        self.shared.keys.pepper().mac(&parts)
    }
}
