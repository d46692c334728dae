//! Logging in as a client does, step by step, with everything adjustable.

use postgres_protocol::{
    authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256},
    message::frontend,
};
use sha2::{Digest, Sha256};

use super::{
    reply::{Fault, Reply},
    wire::{Client, SocketOptions},
};

pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
pub(crate) const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
/// Protocol version 3.0.
pub(crate) const VERSION: u32 = 3 << 16;

/// Everything a client decides before and during login.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) port: u16,
    pub(crate) socket: SocketOptions,
    pub(crate) encryption: Encryption,
    /// Name that the client believes it talks to.
    pub(crate) server_name: String,
    pub(crate) version: u32,
    /// Startup parameters, `user` among them.
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) password: String,
    /// Sent ahead of everything, as a balancer does.
    pub(crate) proxy_header: Vec<u8>,
    /// Whether to use SCRAM-SHA-256-PLUS when it is offered.
    pub(crate) bind_channel: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    None,
    /// TLS after `SSLRequest`.
    Requested,
    /// TLS from the first byte.
    Direct,
}

impl Login {
    pub(crate) fn new(port: u16, user: &str, password: &str) -> Self {
        Self {
            port,
            socket: SocketOptions::default(),
            encryption: Encryption::None,
            server_name: "localhost".to_owned(),
            version: VERSION,
            parameters: vec![("user".to_owned(), user.to_owned())],
            password: password.to_owned(),
            proxy_header: Vec::new(),
            bind_channel: false,
        }
    }

    pub(crate) fn encryption(mut self, encryption: Encryption) -> Self {
        self.encryption = encryption;
        self
    }

    pub(crate) fn encrypted(self) -> Self {
        self.encryption(Encryption::Requested)
    }

    pub(crate) fn server_name(mut self, name: &str) -> Self {
        self.server_name = name.to_owned();
        self
    }

    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = password.to_owned();
        self
    }

    /// Adds or replaces a startup parameter.
    pub(crate) fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.retain(|(known, _)| known != name);
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn user(self, user: &str) -> Self {
        self.parameter("user", user)
    }

    pub(crate) fn database(self, database: &str) -> Self {
        self.parameter("database", database)
    }

    pub(crate) fn options(self, options: &str) -> Self {
        self.parameter("options", options)
    }

    /// Connects and logs in up to the first `ReadyForQuery`. A connection that ends without an error is an empty fault.
    pub(crate) fn open(&self) -> Result<Client, Fault> {
        let mut client = self.connect();
        client.send(startup(self.version, &self.parameters));
        self.authenticate(&mut client)?;
        Ok(client)
    }

    /// Connects and, where asked for, encrypts; says nothing of PostgreSQL's own yet.
    pub(crate) fn connect(&self) -> Client {
        let mut client = Client::connect_with(self.port, self.socket).unwrap();
        client.send(&self.proxy_header);
        match self.encryption {
            Encryption::None => client,
            Encryption::Requested => {
                client.send(SSL_REQUEST);
                assert_eq!(client.receive_byte(), Some(b'S'), "TLS is not offered");
                client.encrypt(&self.server_name, &[]).unwrap()
            }
            Encryption::Direct => client.encrypt(&self.server_name, &["postgresql"]).unwrap(),
        }
    }

    /// Answers the server's authentication requests until it is ready or has had enough.
    pub(crate) fn authenticate(&self, client: &mut Client) -> Result<(), Fault> {
        loop {
            match client.receive() {
                Reply::CleartextPassword => client.send_messages(|out| {
                    frontend::password_message(self.password.as_bytes(), out).unwrap();
                }),
                Reply::Sasl(mechanisms) => self.scram(client, &mechanisms)?,
                Reply::ReadyForQuery(_) => return Ok(()),
                Reply::Error(fault) => return Err(fault),
                Reply::Closed | Reply::Reset => return Err(Fault::default()),
                _ => {}
            }
        }
    }

    /// Logs in with a proof that is made up, which takes the client no time; answers the refusal.
    pub(crate) fn guess(&self, client: &mut Client) -> Fault {
        client.send(startup(self.version, &self.parameters));
        match client.receive() {
            Reply::CleartextPassword => client.send_messages(|out| {
                frontend::password_message(self.password.as_bytes(), out).unwrap();
            }),
            Reply::Sasl(_) => {
                let first = server_first(client);
                let nonce = first.split(',').next().unwrap();
                let last = format!("c=biws,{nonce},p={}=", "A".repeat(43));
                client.send_messages(|out| frontend::sasl_response(last.as_bytes(), out).unwrap());
            }
            Reply::Error(fault) => return fault,
            other => panic!("expected to be asked, got {other:?}"),
        }
        match client.receive() {
            Reply::Error(fault) => fault,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn scram(&self, client: &mut Client, mechanisms: &[String]) -> Result<(), Fault> {
        let offered = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
        let certificate = client.server_certificate().filter(|_| self.bind_channel);
        let (mechanism, binding) = match certificate {
            Some(certificate) if offered(SCRAM_SHA_256_PLUS) => {
                let hash = Sha256::digest(&certificate).to_vec();
                (
                    SCRAM_SHA_256_PLUS,
                    ChannelBinding::tls_server_end_point(hash),
                )
            }
            _ => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        assert!(
            offered(mechanism),
            "{mechanism} is not offered: {mechanisms:?}"
        );
        let mut scram = ScramSha256::new(self.password.as_bytes(), binding);
        let first = scram.message().to_vec();
        client
            .send_messages(|out| frontend::sasl_initial_response(mechanism, &first, out).unwrap());
        match client.receive() {
            Reply::SaslContinue(data) => scram.update(&data).unwrap(),
            Reply::Error(fault) => return Err(fault),
            other => panic!("expected SASLContinue, got {other:?}"),
        }
        let last = scram.message().to_vec();
        client.send_messages(|out| frontend::sasl_response(&last, out).unwrap());
        match client.receive() {
            Reply::SaslFinal(data) => scram.finish(&data).expect("the server's signature"),
            Reply::Error(fault) => return Err(fault),
            other => panic!("expected SASLFinal, got {other:?}"),
        }
        Ok(())
    }
}

/// Begins SCRAM; answers the server's first message: nonce, salt and iterations.
pub(crate) fn server_first(client: &mut Client) -> String {
    client.send_messages(|out| {
        let first = b"n,,n=,r=abcdefghijklmnopqrstuvwx";
        frontend::sasl_initial_response(SCRAM_SHA_256, first, out).unwrap();
    });
    match client.receive() {
        Reply::SaslContinue(data) => String::from_utf8(data.to_vec()).unwrap(),
        other => panic!("expected SASLContinue, got {other:?}"),
    }
}

/// A startup packet.
pub(crate) fn startup(version: u32, parameters: &[(String, String)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    let mut packet = (body.len() as u32 + 4).to_be_bytes().to_vec();
    packet.append(&mut body);
    packet
}
