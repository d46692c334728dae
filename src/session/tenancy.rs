//! From a tenant's record in the catalogue to its pools on this worker.

use std::{rc::Rc, sync::Arc};

use super::{error::End, worker::Worker};
use crate::{
    backend::Server,
    catalog::types::Tenant,
    net::client_tls::ClientTlsConfig,
    pool::{Sizes, TenantPools},
};

/// The pools of `tenant`, made or brought up to date with its record.
pub(super) fn pools(worker: &Worker, tenant: &Arc<Tenant>) -> Result<Rc<TenantPools>, End> {
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
        })
    })
}
