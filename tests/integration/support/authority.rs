//! An external authority that says what the test wants: HTTP over TLS, written out by hand so that it can be broken.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    runtime::Runtime,
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use super::{pki, until};

/// A `user_id` as authorities know it; no person of the catalogue.
pub(crate) const USER: &str = "5f0c0d1e-0000-4000-8000-000000000001";

/// What the authority does with a question.
#[derive(Clone)]
pub(crate) enum Reaction {
    Json(u16, Value),
    /// Sent as it is, in place of an HTTP response.
    Raw(Vec<u8>),
    /// Says nothing and keeps the connection.
    Silent,
    Hangup,
}

/// A question as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `POST /path HTTP/1.1`.
    pub(crate) line: String,
    /// `name: value`, names in lower case.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Value,
}

pub(crate) struct Authority {
    port: u16,
    script: Arc<Script>,
    /// `false`: questions are taken in and decided, but not answered yet.
    flows: watch::Sender<bool>,
}

struct Script {
    reaction: Mutex<Reaction>,
    asked: Mutex<Vec<Asked>>,
}

impl Authority {
    /// Begins with a yes for `role` that has no limits.
    pub(crate) fn allowing(role: &str) -> Self {
        let authority = Self::start();
        authority.react(yes(json!({ "role": role })));
        authority
    }

    pub(crate) fn start() -> Self {
        let script = Arc::new(Script {
            reaction: Mutex::new(Reaction::Hangup),
            asked: Mutex::default(),
        });
        let (flows, flowing) = watch::channel(true);
        let (listener, acceptor) = runtime()
            .block_on(async { (TcpListener::bind("127.0.0.1:0").await.unwrap(), acceptor()) });
        let port = listener.local_addr().unwrap().port();
        let serving = Arc::clone(&script);
        runtime().spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (script, acceptor, flowing) =
                    (serving.clone(), acceptor.clone(), flowing.clone());
                tokio::spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        serve(BufReader::new(tls), &script, flowing).await;
                    }
                });
            }
        });
        Self {
            port,
            script,
            flows,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!(
            "https://localhost:{}/v1/projects/demo/database/jit",
            self.port
        )
    }

    /// The tenant's `authority` field that leads here.
    pub(crate) fn field(&self) -> Value {
        json!({ "kind": "http", "url": self.url(), "ca": pki::authority().identity.certificate })
    }

    /// What happens to questions that are asked from now on.
    pub(crate) fn react(&self, reaction: Reaction) {
        *self.script.reaction.lock().unwrap() = reaction;
    }

    /// Keeps questions waiting until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.flows.send_replace(false);
    }

    pub(crate) fn release(&self) {
        self.flows.send_replace(true);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().unwrap().clone()
    }

    #[track_caller]
    pub(crate) fn wait_for_questions(&self, count: usize) {
        until(
            &format!("the authority has been asked {count} times"),
            || self.asked().len() >= count,
        );
    }
}

/// A 200 with this `user_role`.
pub(crate) fn yes(role: Value) -> Reaction {
    Reaction::Json(200, json!({ "user_id": USER, "user_role": role }))
}

async fn serve(
    mut stream: BufReader<impl AsyncRead + AsyncWrite + Unpin>,
    script: &Script,
    mut flowing: watch::Receiver<bool>,
) {
    while let Some(asked) = read(&mut stream).await {
        // Decided now, told later.
        let reaction = script.reaction.lock().unwrap().clone();
        script.asked.lock().unwrap().push(asked);
        if flowing.wait_for(|flowing| *flowing).await.is_err() {
            return;
        }
        let sent = match reaction {
            Reaction::Json(status, body) => response(status, &body),
            Reaction::Raw(bytes) => bytes,
            Reaction::Silent => return tokio::time::sleep(Duration::from_secs(600)).await,
            Reaction::Hangup => return,
        };
        if stream.write_all(&sent).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

fn response(status: u16, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    format!("{head}{body}").into_bytes()
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().lines();
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<String> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| format!("{}: {value}", name.to_lowercase()))
        .collect();
    let length = headers
        .iter()
        .find_map(|header| header.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked {
        line,
        headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

fn acceptor() -> TlsAcceptor {
    let identity = pki::authority().server(&["localhost"]);
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    })
}
