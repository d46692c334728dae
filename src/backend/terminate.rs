//! Ending server processes from outside, through one more process of the same role: what it sends cannot be caught,
//! and one connection does for many where each cancel request would need its own.

use std::time::Duration;

use super::{
    Address, Connection, Credentials, PARAMETERS, Server, close,
    connect::{self, ConnectError},
    connection::ExchangeError,
};
use crate::names::{DatabaseName, RoleName};

/// How long the server may take to send its signals.
const SIGNALS_MAX: Duration = Duration::from_secs(1);

/// Ends the processes `$1`, those that are of our own role in our own database.
const TERMINATE: &str = "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity \
    where pid = any ($1::pg_catalog.int4[]) and usename = current_user and datname = pg_catalog.current_database()";

/// A connection whose only use is to end other server processes.
pub struct Terminator(Connection);

/// Why server processes could not be terminated.
#[derive(Debug, thiserror::Error)]
pub enum TerminateError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}

impl Terminator {
    /// Connects to the server at `address`, as the role whose processes are to be ended.
    pub async fn connect(
        server: &Server,
        address: &Address,
        role: &RoleName,
        database: &DatabaseName,
        credentials: &Credentials,
    ) -> Result<Self, TerminateError> {
        let attempt = connect::connect(
            server,
            Some(address),
            role,
            database,
            PARAMETERS,
            credentials,
        );
        let limit = server.connect_timeout;
        let connection = tokio::time::timeout(limit, attempt)
            .await
            .unwrap_or(Err(ConnectError::TimedOut(limit)))?;
        Ok(Self(connection))
    }

    /// Returns when each of `pids` has been sent its signal.
    pub async fn end(&mut self, pids: &[u32]) -> Result<(), TerminateError> {
        let pids = pids.iter().map(u32::to_string).collect::<Vec<_>>();
        let pids = format!("{{{}}}", pids.join(","));
        let reply = self.0.query_with(TERMINATE, &[&pids], SIGNALS_MAX).await?;
        match reply.error {
            Some(error) => Err(ExchangeError::Refused(error).into()),
            None => Ok(()),
        }
    }

    /// Answers whether its own process is gone: it acted for the same person as those that it ended.
    pub async fn close(self) -> bool {
        close(self.0).await.is_ok()
    }
}
