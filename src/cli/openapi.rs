//! `sluice openapi`: the description of the admin API, for whoever writes a client of it. No pooler needs to run.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;

use crate::admin;

/// `sluice openapi` takes no options.
#[derive(Args)]
#[command(after_help = "Example:\n  sluice openapi")]
pub struct OpenapiArgs {}

impl OpenapiArgs {
    /// Prints the document that a running pooler answers at `GET /openapi.json`.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let printed = io::stdout().write_all(admin::DOCUMENT.as_bytes());
        match printed {
            Ok(()) => ExitCode::SUCCESS,
            // A reader that has seen enough (`| head`) is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }
}
