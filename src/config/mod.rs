//! What the operator decides: `pooler.toml`, read once, checked whole, then passed on as plain values.
//!
//! ```text
//! pooler.toml ──▶ file::Config (as written, every key optional, unknown keys refused)
//!                    │ check: defaults, ranges, files that must be there, keys from file or environment
//!                    ▼
//!                 Config (complete; every other module takes its own section of it)
//! ```
//!
//! Whoever holds a [`Config`] need not check again. Relative paths are taken from the folder of the file.

mod check;
mod defaults;
mod document;
mod error;
mod file;
mod key;
mod secret;
mod value;

#[cfg(test)]
mod tests;

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;

pub use check::AUTHORITY_DEADLINE_MAX;
pub use error::{ConfigError, Place, Problem, Suggestion, plain_type};
pub use secret::Secret;

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Listen,
    /// `None`: clients are answered that TLS is not to be had.
    pub tls: Option<Tls>,
    pub net: Net,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub pool: Pool,
    pub token_access: TokenAccessSettings,
    pub authorities: AuthoritySettings,
    pub auth_query: AuthQuery,
    pub catalog: CatalogSettings,
    pub audit: Audit,
    pub admin: Admin,
    pub log: Log,
    /// Files with keys that every user of the machine may read.
    pub exposed_keys: Vec<PathBuf>,
}

impl Config {
    /// The keys of which `new` has other values, and which are read at the start only.
    #[must_use]
    pub fn waiting_for_restart(&self, new: &Self) -> Vec<&'static str> {
        macro_rules! differing {
            ($($section:ident.$key:ident,)+) => {
                [$((
                    concat!(stringify!($section), ".", stringify!($key)),
                    self.$section.$key != new.$section.$key,
                ),)+]
            };
        }
        let plain = differing![
            listen.pooler,
            listen.direct,
            listen.workers,
            listen.proxy_protocol_from,
            listen.public_host,
            listen.public_port,
            net.io_method,
            pool.overall_budget,
            pool.idle_timeout,
            pool.lifetime,
            pool.connect_backoff,
            pool.cleanup,
            pool.statements_per_backend,
            pool.statements_per_pool,
            token_access.min_server_version,
            token_access.ca_certificate,
            token_access.ca_key,
            authorities.plain_http,
            authorities.networks,
            authorities.calls_per_tenant,
            catalog.path,
            admin.listen,
            log.format,
        ];
        let other = [
            ("tls.certificate or tls.key", self.tls != new.tls),
            (
                "catalog.key_file",
                self.catalog.key.expose() != new.catalog.key.expose(),
            ),
        ];
        let all = plain.into_iter().chain(other);
        all.filter(|(_, differs)| *differs)
            .map(|(key, _)| key)
            .collect()
    }

    /// Reads the file at `path`, and the two keys from where it says or from the environment.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|cause| ConfigError::Read {
            path: path.to_owned(),
            cause,
        })?;
        Self::parse(&text, path, &|variable| env::var(variable).ok())
    }

    /// Reads `text` as the content of the file at `path`, which relative paths and errors go by.
    pub fn parse(
        text: &str,
        path: &Path,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let (file, places) = document::read(text, path)?;
        check::pairs(&file, &places)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let key_file = |file: &Option<PathBuf>| file.as_ref().map(|file| folder.join(file));
        let catalog_file = key_file(&file.catalog.key_file);
        let admin_file = key_file(&file.admin.key_file);
        let catalog_key = key::catalog_key(catalog_file.as_deref(), environment, &places)?;
        let admin_key = key::admin_key(admin_file.as_deref(), environment, &places)?;
        let operator_file = key_file(&file.admin.operator_key_file);
        let viewer_file = key_file(&file.admin.viewer_key_file);
        let lesser_key = |file: &Option<PathBuf>, name| {
            let file = file.as_ref();
            file.map(|file| key::lesser_key(file, name, &places))
                .transpose()
        };
        let operator_key = lesser_key(&operator_file, key::OPERATOR_KEY_FILE)?;
        let viewer_key = lesser_key(&viewer_file, key::VIEWER_KEY_FILE)?;
        let mut config = defaults::fill(file, folder, catalog_key, admin_key);
        config.admin.operator_key = operator_key;
        config.admin.viewer_key = viewer_key;
        check::values(&config, &places)?;
        let keys = [
            catalog_file,
            admin_file,
            operator_file,
            viewer_file,
            config.tls.as_ref().map(|tls| tls.key.clone()),
            config.token_access.ca_key.clone(),
        ];
        let exposed = keys
            .into_iter()
            .flatten()
            .filter(|file| key::is_exposed(file));
        Ok(Self {
            exposed_keys: exposed.collect(),
            ..config
        })
    }

    /// Every default, with the two keys that have none.
    #[must_use]
    pub fn new(catalog_key: Secret<[u8; 32]>, admin_key: Secret<String>) -> Self {
        defaults::fill(
            file::Config::default(),
            Path::new(""),
            catalog_key,
            admin_key,
        )
    }
}

/// Where clients come in, and how many threads serve them.
#[derive(Debug, Clone)]
pub struct Listen {
    pub pooler: SocketAddr,
    /// The listener of `db.{ref}` names, where a token needs no startup option.
    pub direct: Option<SocketAddr>,
    /// At least one.
    pub workers: usize,
    /// Networks whose connections start with a PROXY header; empty: none.
    pub proxy_protocol_from: Vec<IpNet>,
    /// The name that people reach the pooler by.
    pub public_host: String,
    /// 0: as `pooler` has it.
    pub public_port: u16,
}

impl Listen {
    /// The port that people reach the pooler on.
    #[must_use]
    pub fn public_port(&self) -> u16 {
        match self.public_port {
            0 => self.pooler.port(),
            port => port,
        }
    }
}

/// The certificate shown to clients, and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// How sockets are served, and how soon the kernel finds out that a peer has vanished without a word. Of connections made
/// from then on.
#[derive(Debug, Clone)]
pub struct Net {
    /// Silence before the first keepalive probe, in whole seconds.
    pub keepalive_idle: Duration,
    /// Between probes, in whole seconds.
    pub keepalive_interval: Duration,
    /// How long what a server was sent may stay unacknowledged, or cannot be sent because it does not read. (For
    /// clients: `Timeouts::write_stall`.)
    pub backend_unacknowledged: Option<Duration>,
    pub io_method: IoMethod,
}

/// How clients and servers are read from and written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoMethod {
    /// Under load through io_uring, where the kernel has it.
    Auto,
    /// Through io_uring, whatever the load.
    IoUring,
    Epoll,
}

/// How many clients there may be at once.
#[derive(Debug, Clone)]
pub struct Limits {
    pub clients: usize,
    /// Of one tenant that has no limit of its own.
    pub tenant_clients: usize,
    /// Connections of one address that have not logged in yet.
    pub unauthenticated_per_address: usize,
    /// Wrong cancel keys that one address may show in a minute.
    pub wrong_cancel_keys_per_address: usize,
    /// Reports of leaked tokens that one address may make in a minute.
    pub leak_reports_per_address: usize,
    /// Failed logins that one address may have in a minute.
    pub failed_logins_per_address: usize,
    /// Failed logins of one tenant in a minute, after which each weighs more on its address.
    pub failed_logins_per_tenant: usize,
}

/// How long anything may take; `None` is written `"off"`.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From accept to the first `ReadyForQuery`.
    pub login: Duration,
    /// Waiting for a backend.
    pub queue: Duration,
    pub idle: Option<Duration>,
    pub idle_in_transaction: Option<Duration>,
    pub query: Option<Duration>,
    pub transaction: Option<Duration>,
    /// A client that takes in nothing of what it is sent.
    pub write_stall: Option<Duration>,
    /// Connecting and logging in to a tenant's PostgreSQL.
    pub backend_connect: Duration,
    /// From the request to stop until what is left is cut off.
    pub drain: Duration,
}

/// How many backends there may be, and how long each is kept.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Per pool, for tenants that have no size of their own.
    pub size: u32,
    /// Over all pools of one tenant that has no budget of its own.
    pub tenant_budget: u32,
    pub overall_budget: u32,
    pub idle_timeout: Duration,
    pub lifetime: Duration,
    /// How long a failed connect is answered from memory.
    pub connect_backoff: Duration,
    /// What a backend may take to become clean once its client has left.
    pub cleanup: Duration,
    /// Prepared statements that one backend keeps.
    pub statements_per_backend: usize,
    /// Prepared statements that one pool remembers, beyond those in use.
    pub statements_per_pool: usize,
    /// Prepared statements of one client.
    pub statements_per_client: usize,
    /// Bytes of the texts and names of one client's prepared statements.
    pub client_statements_max_bytes: usize,
    /// Channels that one client may listen to.
    pub channels_per_client: usize,
    /// Notifications that one client may leave unread.
    pub client_notifications_max_bytes: usize,
}

/// Logins with a personal access token.
#[derive(Debug, Clone)]
pub struct TokenAccessSettings {
    /// The oldest major version of PostgreSQL that takes token sessions.
    pub min_server_version: u32,
    /// The authority that signs the certificates of token sessions; there if `ca_key` is.
    pub ca_certificate: Option<PathBuf>,
    pub ca_key: Option<PathBuf>,
    pub certificate_lifetime: Duration,
    /// Where poolers of this catalogue connect from, for servers that have tokens checked by the authorise call.
    pub pooler_networks: Vec<IpNet>,
}

/// Asking the external authorities of tenants.
#[derive(Debug, Clone)]
pub struct AuthoritySettings {
    pub plain_http: PlainHttp,
    /// Where authorities may be, beside public addresses.
    pub networks: Vec<IpNet>,
    /// For one answer, of authorities that have no deadline of their own.
    pub deadline: Duration,
    /// Calls at once; more wait.
    pub calls_per_tenant: usize,
    pub answer_max_bytes: usize,
    /// How old an answer may be: older ones are good for no login, and live sessions are asked about again.
    pub recheck: Duration,
    /// How long live sessions outlast an authority that cannot be asked.
    pub outage: Duration,
}

/// Whether an authority may be asked without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlainHttp {
    Refuse,
    Allow,
}

/// Asking a tenant's PostgreSQL for a role's password verifier.
#[derive(Debug, Clone)]
pub struct AuthQuery {
    /// How long an answer is good for.
    pub cache: Duration,
    /// Connections per tenant that ask.
    pub connections: u32,
}

/// The store of tenants, people, tokens, rules and audit events.
#[derive(Debug, Clone)]
pub struct CatalogSettings {
    pub path: PathBuf,
    /// The master key: encrypts role secrets and peppers tokens.
    pub key: Secret<[u8; 32]>,
}

/// The trail of logins, ends of sessions and changes.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Rows older than this are removed; `None`: none is.
    pub retention: Option<Duration>,
    pub logins: AuditedLogins,
}

/// When a login is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditedLogins {
    /// A moment later: nobody waits for the disk, and nobody is kept out when it cannot be written to.
    Queued,
    /// Before the client may send its first query, or it is not let in.
    Required,
}

/// The HTTP API for administrators.
#[derive(Debug, Clone)]
pub struct Admin {
    pub listen: SocketAddr,
    /// Opens everything.
    pub key: Secret<String>,
    /// Reads everything, and gives and takes access.
    pub operator_key: Option<Secret<String>>,
    /// Reads everything.
    pub viewer_key: Option<Secret<String>>,
}

/// What is logged, and in which form.
#[derive(Debug, Clone)]
pub struct Log {
    /// A filter in the syntax of `tracing`: `info`, or `warn,sluice::session=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}
