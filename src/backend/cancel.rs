//! Cancelling what a server process runs: a connection of its own that says one thing and is closed.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Server,
    connect::{ConnectError, reach},
};
use crate::protocol::{message, startup::SecretKey};

/// How long one cancel may take, the server's closing of the connection included.
const CANCEL_MAX: Duration = Duration::from_secs(2);

/// Asks `server` to cancel what process `pid` runs. Returns after the server has closed the connection, which it
/// does once the signal is sent; so nothing is in flight any more when this is over.
pub async fn cancel(server: &Server, pid: u32, secret: &SecretKey) -> Result<(), ConnectError> {
    let attempt = async {
        let mut stream = server
            .tls
            .connect(reach(server).await?, &server.host)
            .await?;
        let mut out = BytesMut::new();
        message::cancel_request(pid, secret.as_bytes(), &mut out);
        stream.write_all(&out).await.map_err(ConnectError::Broken)?;
        stream.flush().await.map_err(ConnectError::Broken)?;
        match stream.read_u8().await {
            // A server may part without a close_notify, or with a reset: the signal is sent all the same.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(()),
            Ok(_) | Err(_) => Err(ConnectError::Protocol),
        }
    };
    tokio::time::timeout(CANCEL_MAX, attempt)
        .await
        .unwrap_or(Err(ConnectError::TimedOut(CANCEL_MAX)))
}
