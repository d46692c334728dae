//! Parting from a server for good, with proof: its process is gone when this is over, or the caller is told.
//!
//! ```text
//! Connection ── Terminate ──▶ Parting ── wait for the server's end ──▶ gone
//!                                └────── terminate, wait again ──────▶ gone, or nobody knows
//! ```
//! The server closes the connection when its process ends; nothing else proves that. A process that catches its
//! cancel never comes to read Terminate: for that one there is [`super::Terminator`].

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Address, Connection};
use crate::net::stream::Stream;

/// Terminate: tag and length, no body.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// How long a process that was told may take to end.
const END_MAX: Duration = Duration::from_secs(1);

/// How long a process may take to end that was forced to.
const FORCED_END_MAX: Duration = Duration::from_millis(400);

/// A connection that was told to end, with its server process still there for all we know.
pub struct Parting {
    stream: Stream,
    pub address: Address,
    pub pid: u32,
}

/// Sends Terminate and waits for the server process to end; it is given back if it has not in time.
pub async fn close(connection: Connection) -> Result<(), Parting> {
    let (address, pid) = (connection.address().clone(), connection.pid());
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
    /// Waits for the end of a process that was terminated; answers whether it has come.
    pub async fn is_over(mut self) -> bool {
        let end = read_to_end(&mut self.stream);
        tokio::time::timeout(FORCED_END_MAX, end).await.is_ok()
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
