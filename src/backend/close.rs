//! Parting from a server for good, with proof: its process is gone when this is over, or the caller is told.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Connection;

/// Terminate: tag and length, no body.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// Sends Terminate and waits until the server has closed the connection, which it does when its process ends;
/// `false`: it has not within `limit`.
///
/// What the server still sends is read and dropped: a process that cannot get rid of its rows does not end.
pub async fn close(mut connection: Connection, limit: Duration) -> bool {
    let part = async {
        let stream = connection.stream_mut();
        // A failed write means that the server has left already.
        if stream.write_all(TERMINATE).await.is_ok() {
            let _ = stream.shutdown().await;
        }
        let mut sink = BytesMut::with_capacity(16 * 1024);
        while stream.read_buf(&mut sink).await.is_ok_and(|read| read > 0) {
            sink.clear();
        }
    };
    tokio::time::timeout(limit, part).await.is_ok()
}
