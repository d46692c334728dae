//! A small blocking PostgreSQL client that can say anything and hides nothing it hears.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Result, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    PATIENCE,
    reply::{Fault, Reply, Status},
    tls::{self, TlsStream},
};

/// A connection to a server: before login, a bare socket with a reader of messages; after it, a session.
pub(crate) struct Client {
    transport: Transport,
    inbox: BytesMut,
    /// What `BackendKeyData` said.
    pub(crate) cancel_key: Option<(u32, Bytes)>,
    /// What `ParameterStatus` said, newest value.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Notices, in order.
    pub(crate) notices: Vec<Fault>,
    /// The authentication requests seen, in order.
    pub(crate) asked: Vec<String>,
    /// What `NegotiateProtocolVersion` said.
    pub(crate) negotiated: Option<(u32, Vec<String>)>,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// How to make the socket.
#[derive(Clone, Copy, Default)]
pub(crate) struct SocketOptions {
    /// Local address to come from; any of 127.0.0.0/8 will do.
    pub(crate) source: Option<Ipv4Addr>,
    /// Size of the receive buffer, for clients that do not read.
    pub(crate) receive_buffer: Option<usize>,
}

/// What came of listening to the server for a while.
pub(crate) enum Heard {
    Message(u8, Bytes),
    /// The connection has ended.
    End,
    Silence,
}

/// What one simple query answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) rows: Vec<Vec<Option<String>>>,
    pub(crate) tags: Vec<String>,
    pub(crate) status: Option<Status>,
}

impl Client {
    pub(crate) fn connect(port: u16) -> Result<Self> {
        Self::connect_with(port, SocketOptions::default())
    }

    pub(crate) fn connect_with(port: u16, options: SocketOptions) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if let Some(size) = options.receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        if let Some(source) = options.source {
            socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
        }
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        let tcp = TcpStream::from(socket);
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            transport: Transport::Plain(tcp),
            inbox: BytesMut::new(),
            cancel_key: None,
            parameters: BTreeMap::new(),
            notices: Vec::new(),
            asked: Vec::new(),
            negotiated: None,
        })
    }

    /// Starts TLS right here, without asking for it.
    pub(crate) fn encrypt(self, name: &str, protocols: &[&str]) -> Result<Self> {
        let Transport::Plain(tcp) = self.transport else {
            panic!("already encrypted");
        };
        let transport = Transport::Tls(Box::new(tls::connect(tcp, name, protocols)?));
        Ok(Self { transport, ..self })
    }

    /// The server's certificate, as DER.
    pub(crate) fn server_certificate(&self) -> Option<Vec<u8>> {
        let Transport::Tls(stream) = &self.transport else {
            return None;
        };
        Some(stream.conn.peer_certificates()?.first()?.to_vec())
    }

    /// Leaves without a goodbye and with a reset, as a killed process or a lost machine does.
    pub(crate) fn reset(self) {
        let socket = SockRef::from(self.socket());
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub(crate) fn local_port(&self) -> u16 {
        self.socket().local_addr().unwrap().port()
    }

    /// Sends bytes. A server that has gone is no error here: reading tells what it did.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.try_send(bytes.as_ref());
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.write_all(bytes),
            Transport::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Sends what `write` puts together: usually several messages of `postgres_protocol::message::frontend`.
    pub(crate) fn send_messages(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let mut bytes = BytesMut::new();
        write(&mut bytes);
        self.send(&bytes);
    }

    /// Sends a simple query and does not wait.
    pub(crate) fn start(&mut self, sql: &str) {
        self.send_messages(|out| frontend::query(sql, out).unwrap());
    }

    /// The single byte that answers `SSLRequest` and `GSSENCRequest`.
    pub(crate) fn receive_byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.read(&mut byte) {
            Ok(1) => Some(byte[0]),
            _ => None,
        }
    }

    /// The next message as it stands on the wire, if one comes within `patience`.
    pub(crate) fn hear(&mut self, patience: Duration) -> Heard {
        self.socket().set_read_timeout(Some(patience)).unwrap();
        loop {
            if let Some((tag, body)) = self.split_message() {
                return Heard::Message(tag, body);
            }
            let mut chunk = [0; 16_384];
            match self.read(&mut chunk) {
                Ok(count) if count > 0 => self.inbox.extend_from_slice(&chunk[..count]),
                Err(error) if is_timeout(&error) => return Heard::Silence,
                Ok(_) | Err(_) => return Heard::End,
            }
        }
    }

    /// The next message. Panics when none comes in time.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Reply {
        loop {
            if let Some(reply) = self.next_in_inbox() {
                self.note(&reply);
                return reply;
            }
            let mut chunk = [0; 16_384];
            match self.read(&mut chunk) {
                Ok(0) => return Reply::Closed,
                Ok(count) => self.inbox.extend_from_slice(&chunk[..count]),
                Err(error) => return ending(&error),
            }
        }
    }

    fn next_in_inbox(&mut self) -> Option<Reply> {
        let (tag, body) = self.split_message()?;
        Some(Reply::read(tag, body))
    }

    fn split_message(&mut self) -> Option<(u8, Bytes)> {
        let length = u32::from_be_bytes(self.inbox.get(1..5)?.try_into().unwrap()) as usize;
        if self.inbox.len() < 1 + length {
            return None;
        }
        let mut message = self.inbox.split_to(1 + length).freeze();
        let tag = message.get_u8();
        message.advance(4);
        Some((tag, message))
    }

    /// Keeps what is true of the session beyond the message.
    fn note(&mut self, reply: &Reply) {
        match reply {
            Reply::ParameterStatus(name, value) => {
                self.parameters.insert(name.clone(), value.clone());
            }
            Reply::BackendKeyData { pid, secret } => self.cancel_key = Some((*pid, secret.clone())),
            Reply::Notice(fault) => self.notices.push(fault.clone()),
            Reply::NegotiateProtocolVersion { newest, options } => {
                self.negotiated = Some((*newest, options.clone()));
            }
            Reply::CleartextPassword => self.asked.push("cleartext".to_owned()),
            Reply::Sasl(mechanisms) => self.asked.push(mechanisms.join(",")),
            _ => {}
        }
    }

    /// Reads a little and forgets it; answers how many bytes, 0 at the end.
    pub(crate) fn receive_some(&mut self) -> usize {
        let mut chunk = [0; 16_384];
        self.read(&mut chunk).unwrap_or(0)
    }

    /// Every byte until the server closes, and how it closed.
    pub(crate) fn receive_all(&mut self) -> (Vec<u8>, Reply) {
        let mut bytes = self.inbox.split().to_vec();
        let mut chunk = [0; 16_384];
        loop {
            match self.read(&mut chunk) {
                Ok(0) => return (bytes, Reply::Closed),
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                Err(error) => return (bytes, ending(&error)),
            }
        }
    }

    /// All messages up to and including the end of the connection.
    pub(crate) fn receive_to_end(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        loop {
            replies.push(self.receive());
            if matches!(replies.last(), Some(Reply::Closed | Reply::Reset)) {
                return replies;
            }
        }
    }

    /// All messages up to the next `ReadyForQuery` or the end of the connection; asynchronous ones are left out.
    #[track_caller]
    pub(crate) fn receive_until_ready(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        loop {
            match self.receive() {
                Reply::Notice(_) | Reply::ParameterStatus(..) => {}
                reply => replies.push(reply),
            }
            let last = replies.last();
            if matches!(
                last,
                Some(Reply::ReadyForQuery(_) | Reply::Closed | Reply::Reset)
            ) {
                return replies;
            }
        }
    }

    /// Runs a simple query to its `ReadyForQuery`; an error, or the end of the connection, is the fault.
    #[track_caller]
    pub(crate) fn query(&mut self, sql: &str) -> std::result::Result<Answer, Fault> {
        self.start(sql);
        self.answer()
    }

    /// Reads on to `ReadyForQuery`.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> std::result::Result<Answer, Fault> {
        let mut answer = Answer::default();
        let mut fault = None;
        for reply in self.receive_until_ready() {
            match reply {
                Reply::DataRow(row) => answer.rows.push(row),
                Reply::CommandComplete(tag) => answer.tags.push(tag),
                Reply::ReadyForQuery(status) => answer.status = Some(status),
                Reply::Error(error) => fault = Some(error),
                Reply::Closed | Reply::Reset if fault.is_none() => fault = Some(Fault::default()),
                _ => {}
            }
        }
        fault.map_or(Ok(answer), Err)
    }

    /// The first column of the first row.
    #[track_caller]
    pub(crate) fn value(&mut self, sql: &str) -> String {
        let answer = self
            .query(sql)
            .unwrap_or_else(|fault| panic!("{sql}: {fault:?}"));
        answer.rows[0][0].clone().expect("a value that is not null")
    }

    /// The FATAL that ends this session, and nothing after it but an orderly close.
    #[track_caller]
    pub(crate) fn farewell(&mut self) -> Fault {
        let replies = self.receive_to_end();
        let faults: Vec<&Fault> = replies
            .iter()
            .filter_map(|reply| match reply {
                Reply::Error(fault) if fault.severity == "FATAL" => Some(fault),
                _ => None,
            })
            .collect();
        let [fault] = faults[..] else {
            panic!("expected one FATAL, got {replies:?}");
        };
        assert_eq!(
            replies.last(),
            Some(&Reply::Closed),
            "not closed in order: {replies:?}"
        );
        let last_message = replies.len().checked_sub(2).map(|index| &replies[index]);
        assert_eq!(
            last_message,
            Some(&Reply::Error(fault.clone())),
            "messages after FATAL"
        );
        fault.clone()
    }

    /// Whether the server has neither closed nor said anything within `time`.
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        self.socket().set_read_timeout(Some(time)).unwrap();
        let mut byte = [0];
        let read = self.socket().peek(&mut byte);
        self.socket().set_read_timeout(Some(PATIENCE)).unwrap();
        self.inbox.is_empty() && read.is_err_and(|error| is_timeout(&error))
    }

    fn socket(&self) -> &TcpStream {
        match &self.transport {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(stream) => &stream.sock,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp.read(buffer),
            Transport::Tls(stream) => stream.read(buffer),
        }
    }
}

#[track_caller]
fn ending(error: &std::io::Error) -> Reply {
    match error.kind() {
        ErrorKind::UnexpectedEof => Reply::Closed,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            Reply::Reset
        }
        _ if is_timeout(error) => panic!("the server has said nothing for {PATIENCE:?}"),
        _ => panic!("reading failed: {error}"),
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
