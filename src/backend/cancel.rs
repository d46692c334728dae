//! Cancelling what a server process runs: a connection of its own that says one thing and is closed.

use std::{io, rc::Rc, time::Duration};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Address, Connection, Server,
    connect::{ConnectError, reach},
};
use crate::protocol::{message, startup::SecretKey};

/// How long one cancel may take, the server's closing of the connection included.
const CANCEL_MAX: Duration = Duration::from_secs(2);

/// What a cancel request is aimed at: one server process, where it was reached.
#[derive(Clone)]
pub struct CancelTarget {
    server: Rc<Server>,
    address: Address,
    pid: u32,
    secret: SecretKey,
}

impl CancelTarget {
    /// The process behind `connection`, which was made to `server`; `None`: it cannot be cancelled.
    #[must_use]
    pub fn of(connection: &Connection, server: &Rc<Server>) -> Option<Self> {
        Some(Self {
            server: Rc::clone(server),
            address: connection.address().clone(),
            pid: connection.pid(),
            secret: connection.secret()?.clone(),
        })
    }

    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks the server to cancel what the process runs. Returns after the server has closed the connection, which
    /// it does once the signal is sent; so nothing is in flight any more when this is over. After an error the
    /// signal may be on its way or not.
    pub async fn cancel(&self) -> Result<(), ConnectError> {
        tokio::time::timeout(CANCEL_MAX, self.request())
            .await
            .unwrap_or(Err(ConnectError::TimedOut(CANCEL_MAX)))
    }

    async fn request(&self) -> Result<(), ConnectError> {
        let Server { tls, host, .. } = &*self.server;
        let mut stream = tls
            .connect(reach(&self.address, &self.server).await?, host)
            .await?;
        let mut out = BytesMut::new();
        message::cancel_request(self.pid, self.secret.as_bytes(), &mut out);
        stream.write_all(&out).await.map_err(ConnectError::Broken)?;
        stream.flush().await.map_err(ConnectError::Broken)?;
        match stream.read_u8().await {
            // A server may part without a close_notify, or with a reset: the signal is sent all the same.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(()),
            Ok(_) | Err(_) => Err(ConnectError::Protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{
        catalog::types::BackendTls,
        net::{
            client_tls::ClientTlsConfig,
            stream::{Keepalive, Stream},
        },
    };

    /// A connection to whoever listens, of a server whose name leads elsewhere by now.
    async fn target(listener: &TcpListener) -> CancelTarget {
        let server = Rc::new(Server {
            host: "moved.invalid".to_owned(),
            port: 1,
            tls: ClientTlsConfig::new(BackendTls::Disable, None).unwrap(),
            connect_timeout: Duration::from_secs(1),
            keepalive: Keepalive {
                idle: Duration::from_secs(60),
                interval: Duration::from_secs(15),
                unacknowledged: None,
            },
        });
        let address = listener.local_addr().unwrap();
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut connection = Connection::new(Stream::plain(tcp), Address::Tcp(address));
        assert!(CancelTarget::of(&connection, &server).is_none());
        connection.set_key(7, SecretKey::new(b"four").unwrap());
        CancelTarget::of(&connection, &server).unwrap()
    }

    #[tokio::test]
    async fn a_cancel_goes_where_the_connection_went() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = target(&listener).await;
        let _first = listener.accept().await.unwrap();
        let server = async {
            let (mut cancel, _) = listener.accept().await.unwrap();
            let mut request = [0; 16];
            cancel.read_exact(&mut request).await.unwrap();
            request
        };
        let (sent, request) = tokio::join!(target.cancel(), server);
        sent.unwrap();
        assert_eq!(request[8..12], 7_u32.to_be_bytes());
        assert_eq!(request[12..], *b"four");
    }

    #[tokio::test]
    async fn a_cancel_that_reaches_nobody_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = target(&listener).await;
        drop(listener);
        assert!(target.cancel().await.is_err());
    }
}
