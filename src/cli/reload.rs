//! `sluice reload`: have a running pooler read its configuration again.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    client::Connection,
    error::CliError,
    remote::{self, Outcome},
};

/// Options of `sluice reload`.
#[derive(Args)]
#[command(after_help = "Example:\n  sluice reload")]
pub struct ReloadArgs {
    #[command(flatten)]
    connection: Connection,
}

impl ReloadArgs {
    pub(super) async fn outcome(self, earlier: Connection) -> Result<Outcome, CliError> {
        remote::outcome(self.connection.or(earlier), async |client| {
            let path = ["v1", "reload"];
            let done = client
                .send::<Value>(Method::POST, &path, &json!({}))
                .await?;
            Ok(done.shown(|_| "configuration reloaded".to_owned()))
        })
        .await
    }
}
