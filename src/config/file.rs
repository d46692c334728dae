//! `pooler.toml` as it is written: every key optional, nothing checked but its type.
//!
//! Sections and keys are listed here and nowhere else; [`SECTIONS`] is what the search for a misspelt key
//! and the test of `pooler.toml.example` go by.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    AuditedLogins, IoMethod, LogFormat, PlainHttp,
    value::{Address, AddressOrOff, Network, Span, SpanOrOff},
};

macro_rules! sections {
    ($($section:ident: $name:ident { $($key:ident: $value:ty,)+ })+) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct Config {
            $(pub(super) $section: $name,)+
        }

        /// Each section with its keys.
        pub(super) const SECTIONS: &[(&str, &[&str])] = &[
            $((stringify!($section), &[$(stringify!($key)),+]),)+
        ];

        $(
            #[derive(Debug, Default, Deserialize)]
            #[serde(default, deny_unknown_fields, expecting = "a section")]
            pub(super) struct $name {
                $(pub(super) $key: Option<$value>,)+
            }
        )+
    };
}

sections! {
    listen: Listen {
        pooler: Address,
        direct: AddressOrOff,
        workers: usize,
        proxy_protocol_from: Vec<Network>,
        public_host: String,
        public_port: u16,
    }
    tls: Tls {
        certificate: PathBuf,
        key: PathBuf,
    }
    net: Net {
        keepalive_idle: Span,
        keepalive_interval: Span,
        backend_unacknowledged: SpanOrOff,
        io_method: IoMethod,
    }
    limits: Limits {
        clients: usize,
        tenant_clients: usize,
        unauthenticated_per_address: usize,
        wrong_cancel_keys_per_address: usize,
        leak_reports_per_address: usize,
        failed_logins_per_address: usize,
        failed_logins_per_tenant: usize,
    }
    timeouts: Timeouts {
        login: Span,
        queue: Span,
        idle: SpanOrOff,
        idle_in_transaction: SpanOrOff,
        query: SpanOrOff,
        transaction: SpanOrOff,
        write_stall: SpanOrOff,
        backend_connect: Span,
        drain: Span,
    }
    pool: Pool {
        size: u32,
        tenant_budget: u32,
        overall_budget: u32,
        idle_timeout: Span,
        lifetime: Span,
        connect_backoff: Span,
        cleanup: Span,
        statements_per_backend: usize,
        statements_per_pool: usize,
        statements_per_client: usize,
        client_statements_max_bytes: usize,
        channels_per_client: usize,
        client_notifications_max_bytes: usize,
    }
    token_access: TokenAccess {
        min_server_version: u32,
        ca_certificate: PathBuf,
        ca_key: PathBuf,
        certificate_lifetime: Span,
        pooler_networks: Vec<Network>,
    }
    authorities: Authorities {
        plain_http: PlainHttp,
        networks: Vec<Network>,
        deadline: Span,
        calls_per_tenant: usize,
        answer_max_bytes: usize,
        recheck: Span,
        outage: Span,
    }
    auth_query: AuthQuery {
        cache: Span,
        connections: u32,
    }
    catalog: Catalog {
        path: PathBuf,
        key_file: PathBuf,
    }
    audit: Audit {
        retention: SpanOrOff,
        logins: AuditedLogins,
    }
    admin: Admin {
        listen: Address,
        key_file: PathBuf,
        operator_key_file: PathBuf,
        viewer_key_file: PathBuf,
    }
    log: Log {
        level: String,
        format: LogFormat,
    }
}
