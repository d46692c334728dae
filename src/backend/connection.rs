//! A connection that has logged in, and the pooler's own conversations on it.
//!
//! While a client is attached the relay drives the stream by itself. Between clients the pooler may speak: to
//! apply settings, to ask what is set, to look up a verifier. Those exchanges go through [`Connection::query`].

use std::{hash::BuildHasher as _, io, sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use postgres_protocol::{IsNull, message::frontend};
use rustc_hash::FxBuildHasher;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Address;
use crate::{
    net::stream::Stream,
    protocol::{
        error::ErrorResponse,
        frame::{HEADER_BYTES, Header, backend as tag},
        message,
        pipeline::TransactionStatus,
        reading::Reading,
        startup::SecretKey,
    },
};

/// The largest message that the pooler reads whole for itself. Ours are small; a larger one is hostile.
const MESSAGE_MAX_BYTES: usize = 256 * 1024;

/// How much a server may say in one exchange, or in a login: an answer to us is short, an endless one hostile.
const EXCHANGE_MAX_BYTES: usize = 4 * 1024 * 1024;

/// PostgreSQL reports about fifteen parameters.
const PARAMETERS_MAX: usize = 256;

/// One whole message from the server.
#[derive(Debug)]
pub(super) struct Message {
    pub tag: u8,
    pub body: BytesMut,
}

/// The server's parameters as it reported them (ParameterStatus), in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParameterStatuses {
    list: Vec<(String, String)>,
    reading: Reading,
    told: Told,
}

/// What somebody knows of the server's parameters: a hash of each with its value. Cloned for every session, so it is small
/// and shared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told(Arc<[u32]>);

impl ParameterStatuses {
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.list
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// What they do to the texts of statements.
    #[must_use]
    pub fn reading(&self) -> Reading {
        self.reading
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets `name` if the server reports it at all.
    pub fn overlay(&mut self, name: &str, value: &str) {
        if let Some((_, known)) = self
            .list
            .iter_mut()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
        {
            value.clone_into(known);
            self.changed();
        }
    }

    /// What somebody knows who has been told all of them.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Those that are not as somebody was told.
    pub fn changed_since<'a>(&'a self, told: &'a Told) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.iter().zip(self.told.0.iter());
        all.filter(move |(_, hash)| !told.0.contains(hash))
            .map(|(parameter, _)| parameter)
    }

    fn changed(&mut self) {
        self.reading = Reading::of_reported(self.iter());
        self.told = Told(self.iter().map(hash_of).collect());
    }

    /// Takes the body of a ParameterStatus; `None`: it is malformed, or there are absurdly many.
    pub fn update(&mut self, body: &[u8]) -> Option<()> {
        let mut parts = body.split(|byte| *byte == 0);
        let name = std::str::from_utf8(parts.next()?).ok()?;
        let value = String::from_utf8_lossy(parts.next()?).into_owned();
        if let Some((_, known)) = self.list.iter_mut().find(|(known, _)| known == name) {
            *known = value;
        } else if self.list.len() < PARAMETERS_MAX {
            self.list.push((name.to_owned(), value));
        } else {
            return None;
        }
        self.changed();
        Some(())
    }

    /// The server's major version, e.g. 17; `None`: it does not say.
    #[must_use]
    pub fn server_major(&self) -> Option<u32> {
        let version = self.get("server_version")?;
        version
            .split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    }
}

#[allow(clippy::cast_possible_truncation)] // Half of a hash is one, too.
fn hash_of(parameter: (&str, &str)) -> u32 {
    FxBuildHasher.hash_one(parameter) as u32
}

/// A whole NotificationResponse. Cloned for everybody who listens, its bytes are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub message: Bytes,
    channel_end: usize,
}

impl Notification {
    /// Where the channel starts: behind the header and the notifying server process's id.
    const CHANNEL_START: usize = HEADER_BYTES + 4;

    /// Reads the body of a NotificationResponse; `None`: it is malformed.
    #[must_use]
    pub fn new(body: &[u8]) -> Option<Self> {
        let channel = body.get(4..)?;
        let length = memchr::memchr(0, channel)?;
        std::str::from_utf8(&channel[..length]).ok()?;
        let mut message = BytesMut::with_capacity(HEADER_BYTES + body.len());
        message.put_u8(tag::NOTIFICATION_RESPONSE);
        message.put_i32(i32::try_from(body.len() + 4).ok()?);
        message.put_slice(body);
        Some(Self {
            message: message.freeze(),
            channel_end: Self::CHANNEL_START + length,
        })
    }

    #[must_use]
    pub fn channel(&self) -> &str {
        let channel = &self.message[Self::CHANNEL_START..self.channel_end];
        std::str::from_utf8(channel).unwrap_or_default()
    }
}

/// What came of one exchange with the server.
#[derive(Debug, Default)]
pub struct Reply {
    pub rows: Vec<Vec<Option<String>>>,
    pub error: Option<Box<ErrorResponse>>,
    /// What was notified meanwhile.
    pub notifications: Vec<Notification>,
    /// The byte of the ReadyForQuery that ended it.
    pub status: u8,
}

/// Why an exchange has no reply. The connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("the connection to the server broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the server did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("the server's answer does not follow the protocol")]
    Protocol,
    #[error("the text cannot be sent to a server: {0}")]
    Text(#[from] message::MessageError),
    #[error("the server reported: {}", .0.message)]
    Refused(Box<ErrorResponse>),
}

/// A logged-in connection to a PostgreSQL server.
pub struct Connection {
    stream: Stream,
    address: Address,
    pid: u32,
    secret: Option<SecretKey>,
    pub parameters: ParameterStatuses,
    buffer: BytesMut,
    /// How many bytes of `EXCHANGE_MAX_BYTES` are left for the server.
    allowance: usize,
}

impl Connection {
    pub(super) fn new(stream: Stream, address: Address) -> Self {
        Self {
            stream,
            address,
            pid: 0,
            secret: None,
            parameters: ParameterStatuses::default(),
            buffer: BytesMut::new(),
            allowance: EXCHANGE_MAX_BYTES,
        }
    }

    pub(super) fn set_key(&mut self, pid: u32, secret: SecretKey) {
        self.pid = pid;
        self.secret = Some(secret);
    }

    /// Whether the server has said more than has been read. After an exchange it can only be a notification.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.buffer.is_empty()
    }

    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    pub fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// The address that the server was reached at.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The server process's id, as `pg_backend_pid()` answers it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What a CancelRequest to this server process must show.
    #[must_use]
    pub fn secret(&self) -> Option<&SecretKey> {
        self.secret.as_ref()
    }

    /// Runs `sql` as one simple query and reads the whole answer.
    pub async fn query(&mut self, sql: &str, limit: Duration) -> Result<Reply, ExchangeError> {
        let mut out = BytesMut::new();
        message::query(sql, &mut out)?;
        self.exchange(&out, limit).await
    }

    /// Runs `sql` with `parameters` as text, bound and never part of the statement.
    pub async fn query_with(
        &mut self,
        sql: &str,
        parameters: &[&str],
        limit: Duration,
    ) -> Result<Reply, ExchangeError> {
        let mut out = BytesMut::new();
        frontend::parse("", sql, [], &mut out)?;
        let bind = |value: &&str, out: &mut BytesMut| {
            out.extend_from_slice(value.as_bytes());
            Ok(IsNull::No)
        };
        frontend::bind("", "", [], parameters, bind, [], &mut out)
            .map_err(|_| ExchangeError::Protocol)?;
        frontend::execute("", 0, &mut out)?;
        frontend::sync(&mut out);
        self.exchange(&out, limit).await
    }

    /// Closes prepared statements. One that does not exist is no error.
    pub async fn close_statements(
        &mut self,
        names: impl Iterator<Item = &str>,
        limit: Duration,
    ) -> Result<Reply, ExchangeError> {
        let mut out = BytesMut::new();
        for name in names {
            frontend::close(b'S', name, &mut out)?;
        }
        frontend::sync(&mut out);
        self.exchange(&out, limit).await
    }

    async fn exchange(&mut self, request: &[u8], limit: Duration) -> Result<Reply, ExchangeError> {
        self.allowance = EXCHANGE_MAX_BYTES;
        let answer = async {
            self.stream.write_all(request).await?;
            self.stream.flush().await?;
            self.read_reply().await
        };
        tokio::time::timeout(limit, answer)
            .await
            .map_err(|_| ExchangeError::TimedOut(limit))?
    }

    /// Reads up to the next ReadyForQuery.
    async fn read_reply(&mut self) -> Result<Reply, ExchangeError> {
        let mut reply = Reply::default();
        loop {
            let message = self.receive().await?;
            match message.tag {
                tag::DATA_ROW => reply
                    .rows
                    .push(read_row(&message.body).ok_or(ExchangeError::Protocol)?),
                tag::ERROR_RESPONSE => {
                    reply.error = Some(Box::new(ErrorResponse::parse(&message.body)))
                }
                tag::PARAMETER_STATUS => self
                    .parameters
                    .update(&message.body)
                    .ok_or(ExchangeError::Protocol)?,
                tag::NOTIFICATION_RESPONSE => reply
                    .notifications
                    .push(Notification::new(&message.body).ok_or(ExchangeError::Protocol)?),
                tag::READY_FOR_QUERY => {
                    reply.status = read_status(&message.body).ok_or(ExchangeError::Protocol)?;
                    self.take_unasked().await?;
                    return Ok(reply);
                }
                tag::BIND_COMPLETE
                | tag::CLOSE_COMPLETE
                | tag::COMMAND_COMPLETE
                | tag::EMPTY_QUERY_RESPONSE
                | tag::NO_DATA
                | tag::NOTICE_RESPONSE
                | tag::PARSE_COMPLETE
                | tag::ROW_DESCRIPTION => {}
                _ => return Err(ExchangeError::Protocol),
            }
        }
    }

    /// Takes in what has come behind an answer and may come unasked: a parameter that a reload has changed, a notice, the
    /// server's goodbye, which is an error. A notification is left for the next exchange.
    pub(super) async fn take_unasked(&mut self) -> Result<(), ExchangeError> {
        while let Some(next) = self.buffer.first()
            && *next != tag::NOTIFICATION_RESPONSE
        {
            let message = self.receive().await?;
            match message.tag {
                tag::PARAMETER_STATUS => self
                    .parameters
                    .update(&message.body)
                    .ok_or(ExchangeError::Protocol)?,
                tag::NOTICE_RESPONSE => {}
                tag::ERROR_RESPONSE => {
                    let goodbye = ErrorResponse::parse(&message.body).message;
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, goodbye).into());
                }
                _ => return Err(ExchangeError::Protocol),
            }
        }
        Ok(())
    }

    /// The next message on a connection that only listens; `None`: it was no notification. Cancel-safe.
    pub async fn hear(&mut self) -> Result<Option<Notification>, ExchangeError> {
        self.allowance = EXCHANGE_MAX_BYTES;
        let message = self.receive().await?;
        match message.tag {
            tag::NOTIFICATION_RESPONSE => Notification::new(&message.body)
                .map(Some)
                .ok_or(ExchangeError::Protocol),
            tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS => Ok(None),
            _ => Err(ExchangeError::Protocol),
        }
    }

    /// The next whole message. Cancel-safe: what has come stays buffered.
    pub(super) async fn receive(&mut self) -> io::Result<Message> {
        loop {
            let header = Header::parse(&self.buffer).map_err(invalid_data)?;
            if let Some(header) = header {
                if header.body_bytes > MESSAGE_MAX_BYTES {
                    return Err(invalid_data("a message of the server is too long"));
                }
                if header.message_bytes() > self.allowance {
                    return Err(invalid_data("the server's answer is too long"));
                }
                if self.buffer.len() >= header.message_bytes() {
                    self.allowance -= header.message_bytes();
                    let mut body = self.buffer.split_to(header.message_bytes());
                    body.advance(HEADER_BYTES);
                    if self.buffer.is_empty() {
                        // An idle connection holds no memory for reading.
                        self.buffer = BytesMut::new();
                    }
                    return Ok(Message {
                        tag: header.tag,
                        body,
                    });
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn invalid_data(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}

/// The transaction status in the body of a ReadyForQuery; `None`: it is malformed.
pub(super) fn read_status(body: &[u8]) -> Option<u8> {
    match *body {
        [status] => TransactionStatus::from_byte(status).map(|_| status),
        _ => None,
    }
}

/// The columns of a DataRow as text; `None`: it is malformed.
fn read_row(mut body: &[u8]) -> Option<Vec<Option<String>>> {
    let columns = usize::from(body.try_get_u16().ok()?);
    let mut row = Vec::with_capacity(columns.min(64));
    for _ in 0..columns {
        let length = body.try_get_i32().ok()?;
        let value = if length == -1 {
            None
        } else {
            let (value, rest) = body.split_at_checked(usize::try_from(length).ok()?)?;
            body = rest;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        row.push(value);
    }
    body.is_empty().then_some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_whole_or_not_at_all() {
        let row = b"\0\x02\0\0\0\x01a\xff\xff\xff\xff";
        assert_eq!(read_row(row), Some(vec![Some("a".to_owned()), None]));
        for end in 0..row.len() {
            assert_eq!(read_row(&row[..end]), None);
        }
        assert_eq!(read_row(b"\0\x01\xff\xff\xff\x00"), None);
        assert_eq!(read_row(b"\0\x01\0\0\0\x01ab"), None);
    }

    #[test]
    fn a_notification_is_kept_as_it_came() {
        let body = b"\0\0\0\x07jobs\0payload\0";
        let notification = Notification::new(body).unwrap();
        assert_eq!(notification.channel(), "jobs");
        assert_eq!(notification.message[..5], *b"A\0\0\0\x15");
        assert_eq!(notification.message[5..], *body);
        assert_eq!(Notification::new(b"\0\0\0\x07jobs"), None);
    }

    #[test]
    fn the_major_version_is_read_from_any_form_of_server_version() {
        for (text, major) in [
            ("17.10", 17),
            ("18beta1", 18),
            ("15.18 (Debian 15.18-0+deb12u1)", 15),
        ] {
            let mut parameters = ParameterStatuses::default();
            parameters
                .update(format!("server_version\0{text}\0").as_bytes())
                .unwrap();
            assert_eq!(parameters.server_major(), Some(major));
        }
    }
}
