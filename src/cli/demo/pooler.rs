//! The pooler of the demo: a configuration file, and `sluice serve` of this same program as a child process.

use std::{env, io, time::Duration};

use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    authority::{CA_CERTIFICATE, CA_KEY, SLUICE_CERTIFICATE, SLUICE_KEY},
    folder::{Folder, FolderError},
    ports::Ports,
    process::{Process, ProcessError},
    user::User,
};
use crate::cli::{client::Client, error::CliError};

const READY_TIMEOUT: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(20);
/// What all pools together may take of the 300 connections that the demo's PostgreSQL has.
const OVERALL_BUDGET: u32 = 250;
const TENANT_BUDGET: u32 = 60;

#[derive(Debug, thiserror::Error)]
pub(super) enum PoolerError {
    #[error("cannot tell where this program is: {0}")]
    Program(#[source] io::Error),
    #[error(transparent)]
    Admin(#[from] CliError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

pub(super) struct Pooler {
    process: Process,
    client: Client,
}

impl Pooler {
    /// Starts the pooler on `ports` and waits until it takes clients.
    pub(super) async fn start(
        folder: &Folder,
        ports: &Ports,
        pool_size: u32,
    ) -> Result<Self, PoolerError> {
        folder.write_secret("admin.key", &folder.secrets().admin_key)?;
        folder.write_secret("catalog.key", &folder.secrets().catalog_key)?;
        let file = folder.write("pooler.toml", &configuration(ports, pool_size))?;

        let program = env::current_exe().map_err(PoolerError::Program)?;
        let mut command = User::Ourselves.command(program, "TERM");
        command
            .args(["serve", "--config"])
            .arg(file)
            // These go before the files that the configuration names.
            .env_remove("SLUICE_ADMIN_KEY")
            .env_remove("SLUICE_CATALOG_KEY");
        let log = folder.path().join("sluice.log");
        let mut process = Process::start("sluice serve", command, log, Signal::TERM)?;
        let url = ports.admin_url();
        process
            .until_ready(READY_TIMEOUT, until_ready(&url))
            .await?;
        let client = Client::new(&url, &folder.secrets().admin_key)?;
        Ok(Self { process, client })
    }

    /// The admin API of this pooler.
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub(super) async fn ended(&mut self) -> ProcessError {
        self.process.ended().await
    }

    pub(super) async fn stop(self) {
        self.process.stop().await;
    }
}

/// Paths are relative to the file, so none of them needs quoting.
fn configuration(ports: &Ports, pool_size: u32) -> String {
    format!(
        r#"# Written by `sluice demo`, anew at every start.
[listen]
pooler = "127.0.0.1:{pooler}"
direct = "127.0.0.1:{direct}"

[tls]
certificate = "{SLUICE_CERTIFICATE}"
key = "{SLUICE_KEY}"

[pool]
size = {pool_size}
tenant_budget = {tenant_budget}
overall_budget = {OVERALL_BUDGET}

[timeouts]
drain = "5s"

[token_access]
ca_certificate = "{CA_CERTIFICATE}"
ca_key = "{CA_KEY}"

[catalog]
path = "sluice.db"
key_file = "catalog.key"

[admin]
listen = "127.0.0.1:{admin}"
key_file = "admin.key"
"#,
        pooler = ports.pooler,
        direct = ports.direct,
        admin = ports.admin,
        tenant_budget = TENANT_BUDGET.max(pool_size),
    )
}

/// Asks until the pooler says that it takes clients.
async fn until_ready(admin_url: &str) {
    let url = format!("{admin_url}/ready");
    loop {
        if reqwest::get(&url)
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            return;
        }
        sleep(READY_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_says_which_ports_and_how_many_backends() {
        let ports = Ports {
            pooler: 7001,
            direct: 7002,
            admin: 7003,
            postgres: 7004,
        };
        let text: toml::Table = configuration(&ports, 100).parse().unwrap();
        assert_eq!(text["listen"]["direct"].as_str(), Some("127.0.0.1:7002"));
        assert_eq!(text["pool"]["size"].as_integer(), Some(100));
        assert_eq!(text["pool"]["tenant_budget"].as_integer(), Some(100));
    }
}
