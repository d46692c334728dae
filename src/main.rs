//! The `sluice` program: what was typed, and what runs then.

use std::process::ExitCode;

// Gives back what thousands of clients took once they have left, where the C library's keeps it (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluice::cli::run()
}
