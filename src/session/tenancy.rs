//! From a tenant's record in the catalogue to its pools on this worker.

use std::rc::Rc;

use super::{error::End, worker::Worker};
use crate::{
    backend::Server,
    names::TenantRef,
    net::client_tls::ClientTlsConfig,
    pool::{Sizes, TenantPools},
};

/// The pools of `tenant`, made or brought up to date with its record as it is now: the one that a login has begun
/// with may have been changed meanwhile. A tenant removed meanwhile has none.
pub(super) async fn pools(worker: &Worker, tenant: &TenantRef) -> Result<Rc<TenantPools>, End> {
    let known = worker.process.catalog.tenant_at(tenant).await;
    let known = known.ok().flatten().ok_or(End::CannotVerify)?;
    let tenant = &known.record;
    let config = worker.process.config.load();
    let sizes = Sizes {
        pool: tenant.pool_size.unwrap_or(config.pool.size),
        budget: tenant.backend_budget.unwrap_or(config.pool.tenant_budget),
        auth_query: config.auth_query.connections,
    };
    worker.pools.tenant(&known, sizes, || {
        let tls = ClientTlsConfig::new(tenant.backend_tls, tenant.backend_ca.as_deref()).map_err(|error| {
            tracing::warn!(tenant = %tenant.tenant, %error, "the tenant's TLS settings cannot be used");
            End::TenantTls
        })?;
        Ok(Server {
            host: tenant.host.clone(),
            port: tenant.port,
            tls,
            connect_timeout: config.timeouts.backend_connect,
        })
    })
}
