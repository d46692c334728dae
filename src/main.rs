//! The `sluice` program: what was typed, and what runs then.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice::cli::run()
}
