//! What the guard beside a tenant's database shows when it asks about sessions: a key of its own, kept as its HMAC.

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

const PREFIX: &str = "slg_";
const SECRET_CHARACTERS: usize = 43;

impl Catalog {
    /// Makes a new key in place of any other; nobody can learn it again.
    pub async fn make_guard_key(
        &self,
        tenant: &TenantRef,
        actor: &str,
    ) -> Result<Changed<Zeroizing<String>>, CatalogError> {
        let key = Zeroizing::new(format!("{PREFIX}{}", &*random_base62(SECRET_CHARACTERS)?));
        let mac = hex(&self.guard_mac(tenant, &key));
        let (tenant, actor) = (tenant.clone(), actor.to_owned());
        self.shared
            .writer
            .change(async move |connection| {
                tenant_rows::require(connection, &tenant).await?;
                sqlx::query(
                    "INSERT INTO guard_keys (tenant, mac) VALUES ($1, $2) \
                     ON CONFLICT (tenant) DO UPDATE SET mac = excluded.mac",
                )
                .bind(tenant.as_str())
                .bind(mac)
                .execute(connection)
                .await?;
                let event = AuditEvent {
                    tenant: Some(tenant),
                    ..change_event("guard_key.created", &actor)
                };
                Ok(Effect::one(key, event))
            })
            .await
    }

    /// Whether `key` is the tenant's. Does the same work when it has none.
    pub async fn is_guard_key(&self, tenant: &TenantRef, key: &str) -> Result<bool, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let row = sqlx::query("SELECT mac FROM guard_keys WHERE tenant = $1")
            .bind(tenant.as_str())
            .fetch_optional(&mut *reader)
            .await?;
        let stored = row.map(|row| row.try_get::<String, _>("mac")).transpose()?;
        let stored = stored.as_deref().and_then(unhex);
        let same = self
            .guard_mac(tenant, key)
            .ct_eq(&stored.unwrap_or_default());
        Ok(bool::from(same) & stored.is_some())
    }

    fn guard_mac(&self, tenant: &TenantRef, key: &str) -> [u8; 32] {
        // No ref holds a zero byte, so the parts cannot be mistaken for others.
        let parts = [
            b"guard\0",
            tenant.as_str().as_bytes(),
            b"\0",
            key.as_bytes(),
        ];
        self.shared.keys.pepper().mac(&parts)
    }
}
