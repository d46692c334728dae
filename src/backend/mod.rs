//! One connection to one PostgreSQL: connect and log in, speak for the pooler, cancel, and part for good.

mod cancel;
mod close;
mod connect;
mod connection;
mod terminate;

use std::time::Duration;

pub use self::{
    cancel::CancelTarget,
    close::{Parting, close},
    connect::{ConnectError, Credentials},
    connection::{Connection, ExchangeError, ParameterStatuses, Reply},
    terminate::{TerminateError, Terminator},
};
use crate::{
    names::{DatabaseName, RoleName},
    net::client_tls::ClientTlsConfig,
};

/// Where a tenant's PostgreSQL is, and how to speak to it.
#[derive(Clone)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub tls: ClientTlsConfig,
    /// From the first packet to ReadyForQuery.
    pub connect_timeout: Duration,
}

impl Server {
    /// Opens a connection as `role` to `database`, within the connect timeout.
    pub async fn connect(
        &self,
        role: &RoleName,
        database: &DatabaseName,
        credentials: &Credentials,
    ) -> Result<Connection, ConnectError> {
        let attempt = connect::connect(self, None, role, database, credentials);
        match tokio::time::timeout(self.connect_timeout, attempt).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::TimedOut(self.connect_timeout)),
        }
    }
}
