//! `sluice openapi`: the description of the admin API, for whoever writes a client of it. No pooler needs to run.

use std::process::ExitCode;

use clap::Args;

use super::output::print;
use crate::admin;

/// `sluice openapi` takes no options.
#[derive(Args)]
#[command(after_help = "Example:\n  sluice openapi")]
pub struct OpenapiArgs {}

impl OpenapiArgs {
    /// Prints the document that a running pooler answers at `GET /openapi.json`.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        match print(admin::DOCUMENT.as_bytes()) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }
}
