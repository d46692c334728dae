//! Parting from a server for good, with proof: its process is gone when this is over, or the caller is told.
//!
//! ```text
//! Connection ── Terminate ──▶ Parting ── wait for the server's end ──▶ gone
//!                                └────── terminate, wait again ──────▶ gone, or nobody knows
//! ```
//! The server closes the connection when its process ends; nothing else proves that.

use std::{net::SocketAddr, time::Duration};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Connection, Credentials, Server,
    connect::{self, ConnectError},
    connection::ExchangeError,
};
use crate::{
    names::{DatabaseName, RoleName},
    net::stream::Stream,
};

/// Terminate: tag and length, no body.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// How long a process that was told may take to end.
const END_MAX: Duration = Duration::from_secs(1);

/// How long it may take to have a process ended through another one.
const FORCE_MAX: Duration = Duration::from_millis(1500);

/// How long a process may take to end that was forced to.
const FORCED_END_MAX: Duration = Duration::from_millis(400);

/// Ends the process `$1`, if it is one of our own role's in our own database.
const FORCE: &str = "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity \
    where pid = $1::pg_catalog.int4 and usename = current_user and datname = pg_catalog.current_database()";

/// A connection that was told to end, with its server process still there for all we know.
pub struct Parting {
    stream: Stream,
    address: SocketAddr,
    pid: u32,
}

/// Why a server process could not be forced to end.
#[derive(Debug, thiserror::Error)]
pub enum ForceError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// Sends Terminate and waits for the server process to end; it is given back if it has not in time.
pub async fn close(connection: Connection) -> Result<(), Parting> {
    let (address, pid) = (connection.address(), connection.pid());
    let mut parting = Parting {
        stream: connection.into_stream(),
        address,
        pid,
    };
    match tokio::time::timeout(END_MAX, say_goodbye(&mut parting.stream)).await {
        Ok(()) => Ok(()),
        Err(_) => Err(parting),
    }
}

impl Parting {
    /// Has the process ended by another one of the same role. `Ok`: whether both are gone.
    ///
    /// A process that catches its cancel never comes to read Terminate; what this sends cannot be caught.
    pub async fn force(
        mut self,
        server: &Server,
        role: &RoleName,
        database: &DatabaseName,
        credentials: &Credentials,
    ) -> Result<bool, ForceError> {
        let forced = async {
            let at = Some(self.address);
            let mut other = connect::connect(server, at, role, database, credentials).await?;
            let pid = self.pid.to_string();
            let reply = other.query_with(FORCE, &[&pid], FORCE_MAX).await?;
            match reply.error {
                Some(error) => Err(ExchangeError::Refused(error).into()),
                None => Ok(other),
            }
        };
        let mut other = tokio::time::timeout(FORCE_MAX, forced)
            .await
            .unwrap_or(Err(ForceError::TimedOut(FORCE_MAX)))?;
        // The other one acts for the same person: it has to be gone as well.
        let both = async {
            tokio::join!(
                read_to_end(&mut self.stream),
                say_goodbye(other.stream_mut())
            )
        };
        let gone = tokio::time::timeout(FORCED_END_MAX, both).await;
        Ok(gone.is_ok())
    }
}

/// Sends Terminate and waits for the server's end.
async fn say_goodbye(stream: &mut Stream) {
    // A failed write means that the server has left already.
    if stream.write_all(TERMINATE).await.is_ok() {
        let _ = stream.shutdown().await;
    }
    read_to_end(stream).await;
}

/// Reads and drops what the server still sends: a process that cannot get rid of its rows does not end.
async fn read_to_end(stream: &mut Stream) {
    let mut sink = BytesMut::with_capacity(16 * 1024);
    while stream.read_buf(&mut sink).await.is_ok_and(|read| read > 0) {
        sink.clear();
    }
}
