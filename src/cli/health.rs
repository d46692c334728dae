//! `sluice health`: whether a pooler takes clients, as an exit status for scripts and containers.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use reqwest::StatusCode;

use super::{
    client::{Address, Connection},
    environment,
    error::CliError,
    output::print,
};

const TIMEOUT: Duration = Duration::from_secs(3);

/// Options of `sluice health`.
#[derive(Args)]
#[command(after_help = "Example:\n  sluice health --admin-url http://127.0.0.1:6544")]
pub struct HealthArgs {
    #[command(flatten)]
    address: Address,
}

impl HealthArgs {
    /// Asks `/ready`, which needs no key, and prints the answer; the exit status is 0 if the pooler takes clients.
    #[must_use]
    pub fn run(self, earlier: Connection) -> ExitCode {
        let address = self.address.or(earlier.address());
        let asked = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CliError::Runtime)
            .and_then(|runtime| runtime.block_on(ask(address)));
        let printed = asked.and_then(|(status, said)| {
            print(format!("{said}\n").as_bytes())?;
            Ok(ExitCode::from(u8::from(status != StatusCode::OK)))
        });
        match printed {
            Ok(status) => status,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

async fn ask(address: Address) -> Result<(StatusCode, String), CliError> {
    let mut url = address.resolve(environment)?;
    let base = url.to_string();
    url.set_path("/ready");
    let unreachable = |source: reqwest::Error| CliError::Unreachable {
        url: base.clone(),
        source: source.without_url(),
    };
    let http = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .build()
        .map_err(CliError::Setup)?;
    let answer = http.get(url).send().await.map_err(unreachable)?;
    let status = answer.status();
    Ok((status, answer.text().await.map_err(unreachable)?))
}
