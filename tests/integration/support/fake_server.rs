//! A server of the tests' own making, which says whatever a test wants it to.

use std::{
    io::{Read, Result, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

/// Listens until the test process ends; each connection is a thread that runs the test's script.
pub(crate) struct FakeServer {
    pub(crate) port: u16,
    ended: Arc<AtomicU32>,
}

/// A connection that Sluice has made, as the server sees it.
pub(crate) struct Visit {
    tcp: TcpStream,
    /// How many connections came before this one.
    pub(crate) number: u32,
}

impl FakeServer {
    /// `script` ends early, by way of `?`, when Sluice leaves; then its connection is closed.
    pub(crate) fn start(script: impl Fn(&mut Visit) -> Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ended = Arc::new(AtomicU32::new(0));
        let (script, counter) = (Arc::new(script), Arc::clone(&ended));
        thread::spawn(move || {
            for (number, tcp) in (0..).zip(listener.incoming()) {
                let (script, counter) = (Arc::clone(&script), Arc::clone(&counter));
                let tcp = tcp.unwrap();
                thread::spawn(move || {
                    let mut visit = Visit { tcp, number };
                    let _ = script(&mut visit);
                    drop(visit);
                    counter.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self { port, ended }
    }

    /// How many connections are over.
    pub(crate) fn ended(&self) -> u32 {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Visit {
    /// Takes the startup packet, or a cancel request: the code and what follows it.
    pub(crate) fn first_packet(&mut self) -> Result<(u32, Vec<u8>)> {
        let mut head = [0; 8];
        self.tcp.read_exact(&mut head)?;
        let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        let mut body = vec![0; length - 8];
        self.tcp.read_exact(&mut body)?;
        let code = u32::from_be_bytes(head[4..].try_into().unwrap());
        Ok((code, body))
    }

    /// Lets Sluice in, with `secret` as its cancel key.
    pub(crate) fn let_in(&mut self, secret: &[u8]) -> Result<()> {
        self.first_packet()?;
        self.welcome(secret)
    }

    pub(crate) fn welcome(&mut self, secret: &[u8]) -> Result<()> {
        self.say(b'R', &[0; 4])?;
        self.say(b'S', b"server_version\x0017.1\0")?;
        let mut key = 77_u32.to_be_bytes().to_vec();
        key.extend_from_slice(secret);
        self.say(b'K', &key)?;
        self.say(b'Z', b"I")
    }

    /// The tag of the next message; its body is read and forgotten.
    pub(crate) fn hear(&mut self) -> Result<u8> {
        let mut head = [0; 5];
        self.tcp.read_exact(&mut head)?;
        let length = u64::from(u32::from_be_bytes(head[1..].try_into().unwrap()));
        let mut body = (&mut self.tcp).take(length - 4);
        std::io::copy(&mut body, &mut std::io::sink())?;
        Ok(head[0])
    }

    /// Waits for a message with this tag, a Terminate or the end.
    pub(crate) fn hear_until(&mut self, tag: u8) -> Result<()> {
        loop {
            match self.hear()? {
                b'X' => return Err(std::io::ErrorKind::ConnectionAborted.into()),
                heard if heard == tag => return Ok(()),
                _ => {}
            }
        }
    }

    /// Answers every query with nothing until Sluice leaves.
    pub(crate) fn serve(&mut self) -> Result<()> {
        loop {
            self.hear_until(b'Q')?;
            self.write(b"C\0\0\0\x0dSELECT 0\0Z\0\0\0\x05I")?;
        }
    }

    pub(crate) fn say(&mut self, tag: u8, body: &[u8]) -> Result<()> {
        self.write(&message(tag, body))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.tcp.write_all(bytes)
    }
}

/// A whole message.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}
