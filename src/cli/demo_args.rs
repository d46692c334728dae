//! What `sluice demo` may be told.

use std::path::PathBuf;

use clap::Args;

/// Options of `sluice demo`; a port of 0 means a free one.
#[derive(Args, Clone)]
#[command(after_help = "Example:\n  sluice demo --port 7543 --data ./demo-data")]
pub struct DemoArgs {
    /// Keep everything in this folder and find it there next time (else a temporary folder, removed at the end)
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Write host, ports, passwords and tokens to this file as JSON once everything is up
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,

    /// Port of the pooler; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 6543)]
    pub port: u16,

    /// Port of the direct listener, where no tenant is named in the user name; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 5432)]
    pub direct_port: u16,

    /// Port of the admin API; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 6544)]
    pub admin_port: u16,

    /// Server connections per pool
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub pool_size: u32,

    /// Register this many more tenants on the same PostgreSQL server
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub tenants: u32,

    /// Use this running server (superuser URL, PostgreSQL 17 or newer) instead of starting one
    #[arg(long, value_name = "URL")]
    pub postgres: Option<String>,

    /// Take the whole tour (log in, see who, revoke, gone) and exit 0 if all of it went well, else 1
    #[arg(long)]
    pub check: bool,
}
