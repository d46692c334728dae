//! `sluice health`: whether a pooler takes clients, as an exit status for scripts and containers.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use reqwest::{StatusCode, Url};

use super::{client::plain_http, error::CliError};

const TIMEOUT: Duration = Duration::from_secs(3);

/// Options of `sluice health`.
#[derive(Args)]
#[command(after_help = "Example:\n  sluice health --admin-url http://127.0.0.1:6544")]
pub struct HealthArgs {
    /// Address of the admin API
    #[arg(
        long,
        value_name = "URL",
        env = "SLUICE_ADMIN_URL",
        default_value = "http://127.0.0.1:6544",
        value_parser = plain_http
    )]
    admin_url: Url,
}

impl HealthArgs {
    /// Asks `/ready`, which needs no key, and prints the answer; the exit status is 0 if the pooler takes clients.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let asked = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CliError::Runtime)
            .and_then(|runtime| runtime.block_on(self.ask()));
        match asked {
            Ok((status, said)) => {
                println!("{said}");
                ExitCode::from(u8::from(status != StatusCode::OK))
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }

    async fn ask(&self) -> Result<(StatusCode, String), CliError> {
        let mut url = self.admin_url.clone();
        url.set_path("/ready");
        let unreachable = |source: reqwest::Error| CliError::Unreachable {
            url: self.admin_url.to_string(),
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
}
