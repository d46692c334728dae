//! Connecting to a tenant's PostgreSQL: reach it, encrypt, say who we are, prove it, read its parameters.
//!
//! Four steps in reading order, under one deadline that the caller sets. Nothing the server sends is trusted:
//! every length is checked, and a message that does not belong in its step ends the attempt.

use std::io;

use bytes::BytesMut;
use postgres_protocol::authentication::{
    md5_hash,
    sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, lookup_host},
};
use zeroize::Zeroizing;

use super::{
    Address, Server,
    address::socket_file,
    connection::{Connection, ExchangeError, Message},
};
use crate::{
    names::{DatabaseName, RoleName},
    net::{
        client_tls::{ClientIdentity, ClientTlsError},
        stream::{Stream, connect_unix, tune},
    },
    protocol::{
        error::ErrorResponse,
        frame::backend as tag,
        message,
        scram::{ClientWithKeys, ScramError, ScramKeys},
        startup::{ProtocolVersion, SecretKey},
    },
};

/// How much work a server may ask of us to prove a password: about a second's. Its default is 4096.
const ITERATIONS_MAX: u32 = 1_000_000;

/// How a connection proves that it may act for its role.
pub enum Credentials {
    /// The keys that a client's own SCRAM login gave us.
    Keys(ScramKeys),
    Password(Zeroizing<String>),
    Certificate(ClientIdentity),
    /// Somebody's token: told as it is, and to a server that has proven who it is only.
    Token(Zeroizing<String>),
    /// None at all: to find out what the server asks for.
    None,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot resolve the host name: {0}")]
    Resolve(#[source] io::Error),
    #[error("cannot connect: {0}")]
    Unreachable(#[source] io::Error),
    #[error("no connection within {0:?}")]
    TimedOut(std::time::Duration),
    #[error("TLS: {0}")]
    Tls(#[from] ClientTlsError),
    #[error("the connection broke during login: {0}")]
    Broken(#[source] io::Error),
    #[error("the server refused: {}", .0.message)]
    Refused(Box<ErrorResponse>),
    #[error("the server asks for an authentication method that our credentials do not fit")]
    Method,
    #[error("SCRAM with the server: {0}")]
    Scram(#[from] ScramError),
    #[error("SCRAM with the server: {0}")]
    ScramPassword(#[source] io::Error),
    #[error("SCRAM with the server: it asks for more than {ITERATIONS_MAX} iterations")]
    Iterations,
    #[error("a token is told to no server that has not proven who it is")]
    Unverified,
    #[error("the server's answer does not follow the protocol")]
    Protocol,
}

/// Opens a connection to `server`, at `address` if one is given, as `role`. Without a deadline of its own.
pub(super) async fn connect(
    server: &Server,
    address: Option<&Address>,
    role: &RoleName,
    database: &DatabaseName,
    parameters: &[(&str, &str)],
    credentials: &Credentials,
) -> Result<Connection, ConnectError> {
    if matches!(credentials, Credentials::Token(_)) && !server.tls.is_verified() {
        return Err(ConnectError::Unverified);
    }
    let (tcp, address) = match address {
        Some(address) => (reach(address, server).await?, address.clone()),
        None => find(server).await?,
    };
    let stream = encrypt(server, tcp, credentials).await?;
    let mut connection = Connection::new(stream.settle(), address);
    let mut out = BytesMut::new();
    let who = [("user", role.as_str()), ("database", database.as_str())];
    let startup = who.iter().chain(parameters).copied();
    message::startup(ProtocolVersion::V3_0, startup, &mut out)
        .map_err(|_| ConnectError::Protocol)?;
    send(&mut connection, &out).await?;
    authenticate(&mut connection, role, credentials).await?;
    read_parameters(&mut connection).await?;
    Ok(connection)
}

/// A connected and tuned socket to the first address of the server that answers.
async fn find(server: &Server) -> Result<(TcpStream, Address), ConnectError> {
    if let Some(file) = socket_file(&server.host, server.port) {
        let address = Address::File(file);
        return Ok((reach(&address, server).await?, address));
    }
    let addresses = lookup_host((server.host.as_str(), server.port))
        .await
        .map_err(ConnectError::Resolve)?;
    let nowhere = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    let mut last = ConnectError::Unreachable(nowhere);
    for address in addresses.map(Address::Tcp) {
        match reach(&address, server).await {
            Ok(tcp) => return Ok((tcp, address)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A connected and tuned socket to `address`.
pub(super) async fn reach(address: &Address, server: &Server) -> Result<TcpStream, ConnectError> {
    let connected = async {
        match address {
            Address::Tcp(address) => {
                let tcp = TcpStream::connect(address).await?;
                tune(&tcp, &server.keepalive)?;
                Ok(tcp)
            }
            Address::File(file) => connect_unix(file).await,
        }
    };
    connected.await.map_err(ConnectError::Unreachable)
}

async fn encrypt(
    server: &Server,
    tcp: TcpStream,
    credentials: &Credentials,
) -> Result<Stream, ConnectError> {
    let stream = match credentials {
        Credentials::Certificate(identity) => {
            server
                .tls
                .with_identity(identity)?
                .connect(tcp, &server.host)
                .await?
        }
        Credentials::Keys(_)
        | Credentials::Password(_)
        | Credentials::Token(_)
        | Credentials::None => server.tls.connect(tcp, &server.host).await?,
    };
    Ok(stream)
}

async fn authenticate(
    connection: &mut Connection,
    role: &RoleName,
    credentials: &Credentials,
) -> Result<(), ConnectError> {
    loop {
        let message = receive(connection).await?;
        if message.tag != tag::AUTHENTICATION {
            return Err(ConnectError::Protocol);
        }
        let (kind, rest) = message
            .body
            .split_first_chunk::<4>()
            .ok_or(ConnectError::Protocol)?;
        let mut out = BytesMut::new();
        match u32::from_be_bytes(*kind) {
            0 => return Ok(()),
            3 => {
                // In clear only inside TLS: a password never goes over the wire readable.
                let (Credentials::Password(password) | Credentials::Token(password)) = credentials
                else {
                    return Err(ConnectError::Method);
                };
                if !connection.stream().is_encrypted() {
                    return Err(ConnectError::Method);
                }
                message::password(password.as_bytes(), &mut out)
                    .map_err(|_| ConnectError::Protocol)?;
            }
            5 => {
                let Credentials::Password(password) = credentials else {
                    return Err(ConnectError::Method);
                };
                let salt = rest.try_into().map_err(|_| ConnectError::Protocol)?;
                let hash = md5_hash(role.as_str().as_bytes(), password.as_bytes(), salt);
                message::password(hash.as_bytes(), &mut out).map_err(|_| ConnectError::Protocol)?;
            }
            10 if offers_scram(rest) => {
                scram(connection, credentials).await?;
                continue;
            }
            _ => return Err(ConnectError::Method),
        }
        send(connection, &out).await?;
    }
}

fn offers_scram(mechanisms: &[u8]) -> bool {
    mechanisms
        .split(|byte| *byte == 0)
        .any(|mechanism| mechanism == SCRAM_SHA_256.as_bytes())
}

async fn scram(connection: &mut Connection, credentials: &Credentials) -> Result<(), ConnectError> {
    match credentials {
        Credentials::Keys(keys) => {
            let (client, first) = ClientWithKeys::new(keys.clone());
            let server_first = sasl_initial(connection, first.as_bytes()).await?;
            let (wait, last) = client.respond(&server_first)?;
            let server_final = sasl_response(connection, last.as_bytes()).await?;
            Ok(wait.verify(&server_final)?)
        }
        Credentials::Password(password) => {
            let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
            let server_first = sasl_initial(connection, client.message()).await?;
            client = answer(client, server_first).await?;
            let server_final = sasl_response(connection, client.message()).await?;
            client
                .finish(&server_final)
                .map_err(ConnectError::ScramPassword)
        }
        Credentials::Certificate(_) | Credentials::Token(_) | Credentials::None => {
            Err(ConnectError::Method)
        }
    }
}

/// The client's answer to the server's challenge. Deriving keys from a password takes a millisecond or more of CPU,
/// as much as the server asks for: elsewhere, so that this worker's other sessions do not wait.
async fn answer(mut client: ScramSha256, challenge: BytesMut) -> Result<ScramSha256, ConnectError> {
    if iterations(&challenge).is_some_and(|count| count > ITERATIONS_MAX) {
        return Err(ConnectError::Iterations);
    }
    let derive = move || client.update(&challenge).map(|()| client);
    match tokio::task::spawn_blocking(derive).await {
        Ok(answered) => answered.map_err(ConnectError::ScramPassword),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The iteration count of a server-first-message (RFC 5802, section 7: `r=…,s=…,i=4096`).
fn iterations(challenge: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(challenge).ok()?;
    let mut attributes = text.split(',');
    attributes
        .find_map(|attribute| attribute.strip_prefix("i="))?
        .parse()
        .ok()
}

async fn sasl_initial(
    connection: &mut Connection,
    response: &[u8],
) -> Result<BytesMut, ConnectError> {
    let mut out = BytesMut::new();
    message::sasl_initial(SCRAM_SHA_256, response, &mut out).map_err(|_| ConnectError::Protocol)?;
    send(connection, &out).await?;
    receive_sasl(connection, 11).await
}

async fn sasl_response(
    connection: &mut Connection,
    response: &[u8],
) -> Result<BytesMut, ConnectError> {
    let mut out = BytesMut::new();
    message::sasl_response(response, &mut out);
    send(connection, &out).await?;
    receive_sasl(connection, 12).await
}

async fn receive_sasl(connection: &mut Connection, kind: u32) -> Result<BytesMut, ConnectError> {
    let mut message = receive(connection).await?;
    if message.tag != tag::AUTHENTICATION || message.body.get(..4) != Some(&kind.to_be_bytes()) {
        return Err(ConnectError::Protocol);
    }
    Ok(message.body.split_off(4))
}

/// Reads up to the first ReadyForQuery: the server's parameters and our cancel key.
async fn read_parameters(connection: &mut Connection) -> Result<(), ConnectError> {
    loop {
        let message = receive(connection).await?;
        match message.tag {
            tag::PARAMETER_STATUS => connection
                .parameters
                .update(&message.body)
                .ok_or(ConnectError::Protocol)?,
            tag::BACKEND_KEY_DATA => {
                let (pid, secret) = message
                    .body
                    .split_first_chunk::<4>()
                    .ok_or(ConnectError::Protocol)?;
                let secret = SecretKey::new(secret).ok_or(ConnectError::Protocol)?;
                connection.set_key(u32::from_be_bytes(*pid), secret);
            }
            tag::READY_FOR_QUERY if message.body[..] == *b"I" => break,
            tag::NEGOTIATE_PROTOCOL_VERSION => {}
            _ => return Err(ConnectError::Protocol),
        }
    }
    match connection.take_unasked().await {
        // A server that goes on without being asked would have its words taken for later answers.
        Ok(()) if connection.has_more() => Err(ConnectError::Protocol),
        Ok(()) => Ok(()),
        Err(ExchangeError::Broken(error)) => Err(ConnectError::Broken(error)),
        Err(_) => Err(ConnectError::Protocol),
    }
}

async fn send(connection: &mut Connection, bytes: &[u8]) -> Result<(), ConnectError> {
    let stream = connection.stream_mut();
    stream
        .write_all(bytes)
        .await
        .map_err(ConnectError::Broken)?;
    stream.flush().await.map_err(ConnectError::Broken)
}

/// The next message; notices are passed over and an error is the end.
async fn receive(connection: &mut Connection) -> Result<Message, ConnectError> {
    loop {
        let message = connection.receive().await.map_err(ConnectError::Broken)?;
        match message.tag {
            tag::ERROR_RESPONSE => {
                return Err(ConnectError::Refused(Box::new(ErrorResponse::parse(
                    &message.body,
                ))));
            }
            tag::NOTICE_RESPONSE => {}
            _ => return Ok(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_iteration_count_is_read_from_the_servers_challenge() {
        assert_eq!(iterations(b"r=abc,s=QSXCR+Q6sek8bf92,i=4096"), Some(4096));
        assert_eq!(iterations(b"r=abc,s=QSXCR+Q6sek8bf92"), None);
        assert_eq!(iterations(b"r=abc,s=QSXCR+Q6sek8bf92,i=99999999999"), None);
        assert_eq!(iterations(b"\xff"), None);
    }

    #[tokio::test]
    async fn a_server_that_asks_for_endless_work_is_refused() {
        let client = ScramSha256::new(b"password", ChannelBinding::unsupported());
        let challenge = BytesMut::from(&b"r=abc,s=QSXCR+Q6sek8bf92,i=2147483647"[..]);
        let answered = answer(client, challenge).await;
        assert!(matches!(answered, Err(ConnectError::Iterations)));
    }
}
