//! What holds where the file says nothing: each default once. `pooler.toml.example` shows the same values
//! (a test compares them).

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    Admin, Audit, AuditedLogins, AuthQuery, AuthoritySettings, CatalogSettings, Config, IoMethod,
    Limits, Listen, Log, LogFormat, Net, PlainHttp, Pool, Secret, Timeouts, Tls,
    TokenAccessSettings, file,
    value::{Network, Span, SpanOrOff},
};

const POOLER_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 6543);
const DIRECT_ADDRESS: Option<SocketAddr> = None;
/// 0: one worker per core.
const WORKERS: usize = 0;
const PUBLIC_HOST: &str = "localhost";
/// 0: the port of `pooler`.
const PUBLIC_PORT: u16 = 0;

const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// The kernel counts a live peer that does not read as well: a server takes no more rows of a COPY while it waits for a
/// lock.
const BACKEND_UNACKNOWLEDGED: Option<Duration> = Some(Duration::from_secs(120));
const IO_METHOD: IoMethod = IoMethod::Auto;

const CLIENTS: usize = 20_000;
const TENANT_CLIENTS: usize = 10_000;
const UNAUTHENTICATED_PER_ADDRESS: usize = 1_000;
const WRONG_CANCEL_KEYS_PER_ADDRESS: usize = 100;
const LEAK_REPORTS_PER_ADDRESS: usize = 60;
const FAILED_LOGINS_PER_ADDRESS: usize = 100;
const FAILED_LOGINS_PER_TENANT: usize = 1_000;

const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Option<Duration> = None;
const IDLE_IN_TRANSACTION_TIMEOUT: Option<Duration> = None;
const QUERY_TIMEOUT: Option<Duration> = None;
const TRANSACTION_TIMEOUT: Option<Duration> = None;
const WRITE_STALL_TIMEOUT: Option<Duration> = Some(Duration::from_secs(60));
const BACKEND_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

const POOL_SIZE: u32 = 20;
const TENANT_BUDGET: u32 = 60;
const OVERALL_BUDGET: u32 = 2_000;
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const POOL_LIFETIME: Duration = Duration::from_secs(60 * 60);
const POOL_CONNECT_BACKOFF: Duration = Duration::from_secs(1);
const POOL_CLEANUP: Duration = Duration::from_secs(5);
const STATEMENTS_PER_BACKEND: usize = 500;
const STATEMENTS_PER_POOL: usize = 5_000;
const STATEMENTS_PER_CLIENT: usize = 5_000;
const CLIENT_STATEMENTS_MAX_BYTES: usize = 16 * 1024 * 1024;
const CHANNELS_PER_CLIENT: usize = 1_000;
const CLIENT_NOTIFICATIONS_MAX_BYTES: usize = 4 * 1024 * 1024;

const MIN_SERVER_VERSION: u32 = 17;
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(5 * 60);

const PLAIN_HTTP: PlainHttp = PlainHttp::Refuse;
const AUTHORITY_DEADLINE: Duration = Duration::from_secs(5);
const AUTHORITY_CALLS_PER_TENANT: usize = 16;
const AUTHORITY_ANSWER_MAX_BYTES: usize = 64 * 1024;
const AUTHORITY_RECHECK: Duration = Duration::from_secs(10);
const AUTHORITY_OUTAGE: Duration = Duration::from_secs(60);

const AUTH_QUERY_CACHE: Duration = Duration::from_secs(10);
const AUTH_QUERY_CONNECTIONS: u32 = 2;

const CATALOG_PATH: &str = "sluice.db";
/// A year, and time to notice.
const AUDIT_RETENTION: Option<Duration> = Some(Duration::from_secs(400 * 24 * 60 * 60));
const AUDITED_LOGINS: AuditedLogins = AuditedLogins::Queued;
const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6544);

const LOG_LEVEL: &str = "info";
const LOG_FORMAT: LogFormat = LogFormat::Text;

/// The configuration that `file` asks for, with the defaults where it is silent.
pub(super) fn fill(
    file: file::Config,
    folder: &Path,
    catalog_key: Secret<[u8; 32]>,
    admin_key: Secret<String>,
) -> Config {
    let path = |path: PathBuf| folder.join(path);
    let tls = file.tls;
    Config {
        listen: listen(file.listen),
        tls: (tls.certificate.zip(tls.key)).map(|(certificate, key)| Tls {
            certificate: path(certificate),
            key: path(key),
        }),
        net: net(&file.net),
        limits: limits(&file.limits),
        timeouts: timeouts(&file.timeouts),
        pool: pool(&file.pool),
        token_access: TokenAccessSettings {
            min_server_version: (file.token_access.min_server_version)
                .unwrap_or(MIN_SERVER_VERSION),
            ca_certificate: file.token_access.ca_certificate.map(path),
            ca_key: file.token_access.ca_key.map(path),
            certificate_lifetime: span(
                file.token_access.certificate_lifetime,
                CERTIFICATE_LIFETIME,
            ),
            pooler_networks: networks(file.token_access.pooler_networks),
        },
        authorities: authorities(file.authorities),
        auth_query: AuthQuery {
            cache: span(file.auth_query.cache, AUTH_QUERY_CACHE),
            connections: file
                .auth_query
                .connections
                .unwrap_or(AUTH_QUERY_CONNECTIONS),
        },
        catalog: CatalogSettings {
            path: path(file.catalog.path.unwrap_or_else(|| CATALOG_PATH.into())),
            key: catalog_key,
        },
        audit: Audit {
            retention: span_or_off(file.audit.retention, AUDIT_RETENTION),
            logins: file.audit.logins.unwrap_or(AUDITED_LOGINS),
        },
        admin: Admin {
            listen: file.admin.listen.map_or(ADMIN_ADDRESS, |address| address.0),
            key: admin_key,
            operator_key: None,
            viewer_key: None,
        },
        log: Log {
            level: file.log.level.unwrap_or_else(|| LOG_LEVEL.to_owned()),
            format: file.log.format.unwrap_or(LOG_FORMAT),
        },
        exposed_keys: Vec::new(),
    }
}

fn networks(given: Option<Vec<Network>>) -> Vec<IpNet> {
    let given = given.unwrap_or_default().into_iter();
    given.map(|network| network.0).collect()
}

fn authorities(file: file::Authorities) -> AuthoritySettings {
    AuthoritySettings {
        plain_http: file.plain_http.unwrap_or(PLAIN_HTTP),
        networks: networks(file.networks),
        deadline: span(file.deadline, AUTHORITY_DEADLINE),
        calls_per_tenant: file.calls_per_tenant.unwrap_or(AUTHORITY_CALLS_PER_TENANT),
        answer_max_bytes: file.answer_max_bytes.unwrap_or(AUTHORITY_ANSWER_MAX_BYTES),
        recheck: span(file.recheck, AUTHORITY_RECHECK),
        outage: span(file.outage, AUTHORITY_OUTAGE),
    }
}

fn listen(file: file::Listen) -> Listen {
    Listen {
        pooler: file.pooler.map_or(POOLER_ADDRESS, |address| address.0),
        direct: file.direct.map_or(DIRECT_ADDRESS, |address| address.0),
        workers: workers(file.workers.unwrap_or(WORKERS)),
        proxy_protocol_from: networks(file.proxy_protocol_from),
        public_host: file.public_host.unwrap_or_else(|| PUBLIC_HOST.to_owned()),
        public_port: file.public_port.unwrap_or(PUBLIC_PORT),
    }
}

fn net(file: &file::Net) -> Net {
    Net {
        keepalive_idle: span(file.keepalive_idle, KEEPALIVE_IDLE),
        keepalive_interval: span(file.keepalive_interval, KEEPALIVE_INTERVAL),
        backend_unacknowledged: span_or_off(file.backend_unacknowledged, BACKEND_UNACKNOWLEDGED),
        io_method: file.io_method.unwrap_or(IO_METHOD),
    }
}

fn limits(file: &file::Limits) -> Limits {
    Limits {
        clients: file.clients.unwrap_or(CLIENTS),
        tenant_clients: file.tenant_clients.unwrap_or(TENANT_CLIENTS),
        unauthenticated_per_address: (file.unauthenticated_per_address)
            .unwrap_or(UNAUTHENTICATED_PER_ADDRESS),
        wrong_cancel_keys_per_address: (file.wrong_cancel_keys_per_address)
            .unwrap_or(WRONG_CANCEL_KEYS_PER_ADDRESS),
        leak_reports_per_address: (file.leak_reports_per_address)
            .unwrap_or(LEAK_REPORTS_PER_ADDRESS),
        failed_logins_per_address: (file.failed_logins_per_address)
            .unwrap_or(FAILED_LOGINS_PER_ADDRESS),
        failed_logins_per_tenant: (file.failed_logins_per_tenant)
            .unwrap_or(FAILED_LOGINS_PER_TENANT),
    }
}

fn timeouts(file: &file::Timeouts) -> Timeouts {
    Timeouts {
        login: span(file.login, LOGIN_TIMEOUT),
        queue: span(file.queue, QUEUE_TIMEOUT),
        idle: span_or_off(file.idle, IDLE_TIMEOUT),
        idle_in_transaction: span_or_off(file.idle_in_transaction, IDLE_IN_TRANSACTION_TIMEOUT),
        query: span_or_off(file.query, QUERY_TIMEOUT),
        transaction: span_or_off(file.transaction, TRANSACTION_TIMEOUT),
        write_stall: span_or_off(file.write_stall, WRITE_STALL_TIMEOUT),
        backend_connect: span(file.backend_connect, BACKEND_CONNECT_TIMEOUT),
        drain: span(file.drain, DRAIN_TIMEOUT),
    }
}

fn pool(file: &file::Pool) -> Pool {
    Pool {
        size: file.size.unwrap_or(POOL_SIZE),
        tenant_budget: file.tenant_budget.unwrap_or(TENANT_BUDGET),
        overall_budget: file.overall_budget.unwrap_or(OVERALL_BUDGET),
        idle_timeout: span(file.idle_timeout, POOL_IDLE_TIMEOUT),
        lifetime: span(file.lifetime, POOL_LIFETIME),
        connect_backoff: span(file.connect_backoff, POOL_CONNECT_BACKOFF),
        cleanup: span(file.cleanup, POOL_CLEANUP),
        statements_per_backend: file
            .statements_per_backend
            .unwrap_or(STATEMENTS_PER_BACKEND),
        statements_per_pool: file.statements_per_pool.unwrap_or(STATEMENTS_PER_POOL),
        statements_per_client: file.statements_per_client.unwrap_or(STATEMENTS_PER_CLIENT),
        client_statements_max_bytes: file
            .client_statements_max_bytes
            .unwrap_or(CLIENT_STATEMENTS_MAX_BYTES),
        channels_per_client: file.channels_per_client.unwrap_or(CHANNELS_PER_CLIENT),
        client_notifications_max_bytes: file
            .client_notifications_max_bytes
            .unwrap_or(CLIENT_NOTIFICATIONS_MAX_BYTES),
    }
}

fn span(written: Option<Span>, default: Duration) -> Duration {
    written.map_or(default, |span| span.0)
}

fn span_or_off(written: Option<SpanOrOff>, default: Option<Duration>) -> Option<Duration> {
    written.map_or(default, |span| span.0)
}

/// As many workers as asked for; 0 means one per core.
fn workers(asked: usize) -> usize {
    match asked {
        0 => thread::available_parallelism().map_or(1, usize::from),
        asked => asked,
    }
}
