//! From a tenant's record in the catalogue to its pools on this worker.

use std::{rc::Rc, sync::Arc};

use super::{error::End, worker::Worker};
use crate::{
    backend::Server,
    catalog::types::Tenant,
    net::{client_tls::ClientTlsConfig, stream::Keepalive},
    pool::{Sizes, TenantPools},
};

/// The pools of `tenant`, made or brought up to date with its record as it is now: the one that a login has begun
/// with may have been changed meanwhile, and must not bring an old server back.
pub(super) async fn pools(worker: &Worker, tenant: &Arc<Tenant>) -> Result<Rc<TenantPools>, End> {
    let now = worker.process.catalog.tenant(&tenant.tenant).await;
    let now = now.map_err(|_| End::CannotVerify)?;
    let tenant = now.as_ref().unwrap_or(tenant);
    let config = worker.process.config.load();
    let sizes = Sizes {
        pool: tenant.pool_size.unwrap_or(config.pool.size),
        budget: tenant.backend_budget.unwrap_or(config.pool.tenant_budget),
        auth_query: config.auth_query.connections,
    };
    worker.pools.tenant(tenant, sizes, || {
        let tls = ClientTlsConfig::new(tenant.backend_tls, tenant.backend_ca.as_deref()).map_err(|error| {
            tracing::warn!(tenant = %tenant.tenant, %error, "the tenant's TLS settings cannot be used");
            End::TenantTls
        })?;
        Ok(Server {
            host: tenant.host.clone(),
            port: tenant.port,
            tls,
            connect_timeout: config.timeouts.backend_connect,
            keepalive: Keepalive {
                idle: config.net.keepalive_idle,
                interval: config.net.keepalive_interval,
                unacknowledged: config.net.backend_unacknowledged,
            },
        })
    })
}
