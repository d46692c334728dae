//! What holds where the file says nothing: each default once. `pooler.toml.example` shows the same values
//! (a test compares them).

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use super::{
    Admin, AuthQuery, CatalogSettings, Config, Limits, Listen, Log, LogFormat, Pool, Secret,
    Timeouts, TokenAccessSettings,
};

const POOLER_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 6543);
/// 0: one worker per core.
const WORKERS: usize = 0;

const CLIENTS: usize = 20_000;
const TENANT_CLIENTS: usize = 10_000;
const UNAUTHENTICATED_PER_ADDRESS: usize = 1_000;

const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Option<Duration> = None;
const IDLE_IN_TRANSACTION_TIMEOUT: Option<Duration> = None;
const QUERY_TIMEOUT: Option<Duration> = None;
const TRANSACTION_TIMEOUT: Option<Duration> = None;
const BACKEND_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

const POOL_SIZE: u32 = 20;
const TENANT_BUDGET: u32 = 60;
const OVERALL_BUDGET: u32 = 2_000;
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const POOL_LIFETIME: Duration = Duration::from_secs(60 * 60);
const POOL_CONNECT_BACKOFF: Duration = Duration::from_secs(1);

const MIN_SERVER_VERSION: u32 = 17;
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(5 * 60);

const AUTH_QUERY_CACHE: Duration = Duration::from_secs(10);
const AUTH_QUERY_CONNECTIONS: u32 = 2;

const CATALOG_PATH: &str = "sluice.db";
const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6544);

const LOG_LEVEL: &str = "info";
const LOG_FORMAT: LogFormat = LogFormat::Text;

impl Config {
    /// Every default, with the two keys that have none.
    #[must_use]
    pub fn new(catalog_key: Secret<[u8; 32]>, admin_key: Secret<String>) -> Self {
        Self {
            listen: Listen {
                pooler: POOLER_ADDRESS,
                direct: None,
                workers: resolve_workers(WORKERS),
                proxy_protocol_from: Vec::new(),
            },
            tls: None,
            limits: Limits {
                clients: CLIENTS,
                tenant_clients: TENANT_CLIENTS,
                unauthenticated_per_address: UNAUTHENTICATED_PER_ADDRESS,
            },
            timeouts: Timeouts {
                login: LOGIN_TIMEOUT,
                queue: QUEUE_TIMEOUT,
                idle: IDLE_TIMEOUT,
                idle_in_transaction: IDLE_IN_TRANSACTION_TIMEOUT,
                query: QUERY_TIMEOUT,
                transaction: TRANSACTION_TIMEOUT,
                backend_connect: BACKEND_CONNECT_TIMEOUT,
                drain: DRAIN_TIMEOUT,
            },
            pool: Pool {
                size: POOL_SIZE,
                tenant_budget: TENANT_BUDGET,
                overall_budget: OVERALL_BUDGET,
                idle_timeout: POOL_IDLE_TIMEOUT,
                lifetime: POOL_LIFETIME,
                connect_backoff: POOL_CONNECT_BACKOFF,
            },
            token_access: TokenAccessSettings {
                min_server_version: MIN_SERVER_VERSION,
                ca_certificate: None,
                ca_key: None,
                certificate_lifetime: CERTIFICATE_LIFETIME,
            },
            auth_query: AuthQuery {
                cache: AUTH_QUERY_CACHE,
                connections: AUTH_QUERY_CONNECTIONS,
            },
            catalog: CatalogSettings {
                path: CATALOG_PATH.into(),
                key: catalog_key,
            },
            admin: Admin {
                listen: ADMIN_ADDRESS,
                key: admin_key,
            },
            log: Log {
                level: LOG_LEVEL.to_owned(),
                format: LOG_FORMAT,
            },
        }
    }
}

/// As many workers as asked for; 0 means one per core.
pub(super) fn resolve_workers(asked: usize) -> usize {
    match asked {
        0 => thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}
