//! One connection to one PostgreSQL: connect and log in, speak for the pooler, cancel, and part for good.

mod address;
mod cancel;
mod close;
mod connect;
mod connection;
mod powers;
mod terminate;

use std::time::Duration;

pub use self::{
    address::Address,
    cancel::CancelTarget,
    close::{Parting, close},
    connect::{ConnectError, Credentials},
    connection::{Connection, ExchangeError, Notification, ParameterStatuses, Reply, Told},
    powers::{is_privileged, privileged_sql},
    terminate::{TerminateError, Terminator},
};
use crate::{
    catalog::types::Tenant,
    config::Config,
    names::{DatabaseName, RoleName},
    net::{
        client_tls::{ClientTlsConfig, ClientTlsError},
        stream::Keepalive,
    },
};

/// What the pooler's own connections say of themselves.
pub const PARAMETERS: &[(&str, &str)] =
    &[("application_name", "sluice"), ("client_encoding", "UTF8")];

/// Where a tenant's PostgreSQL is, and how to speak to it.
#[derive(Clone)]
pub struct Server {
    /// A host name or address; or the folder of a Unix socket, from the root on.
    pub host: String,
    pub port: u16,
    pub tls: ClientTlsConfig,
    /// From the first packet to ReadyForQuery.
    pub connect_timeout: Duration,
    pub keepalive: Keepalive,
}

impl Server {
    /// The server that `tenant` names, reached as `config` has it.
    pub fn of(tenant: &Tenant, config: &Config) -> Result<Self, ClientTlsError> {
        Ok(Self {
            host: tenant.host.clone(),
            port: tenant.port,
            tls: ClientTlsConfig::new(tenant.backend_tls, tenant.backend_ca.as_deref())?,
            connect_timeout: config.timeouts.backend_connect,
            keepalive: Keepalive {
                idle: config.net.keepalive_idle,
                interval: config.net.keepalive_interval,
                unacknowledged: config.net.backend_unacknowledged,
            },
        })
    }

    /// Opens a connection as `role` to `database`, with further startup `parameters`, within the connect timeout.
    pub async fn connect(
        &self,
        role: &RoleName,
        database: &DatabaseName,
        parameters: &[(&str, &str)],
        credentials: &Credentials,
    ) -> Result<Connection, ConnectError> {
        let attempt = connect::connect(self, None, role, database, parameters, credentials);
        match tokio::time::timeout(self.connect_timeout, attempt).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::TimedOut(self.connect_timeout)),
        }
    }
}
