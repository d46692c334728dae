//! The command line: what can be typed, and what runs then.
//!
//! ```text
//! sluice serve …                      run the pooler
//! sluice demo …                       run everything once, to try it
//! sluice health …                     whether a running pooler takes clients
//! sluice openapi                      the description of the admin API
//! sluice tenant | person | … …        one call to the admin API of a running pooler (`Remote`)
//! sluice connect, sluice me …         the same, by a person with their own token (`own`)
//! ```
//!
//! Exit status: 0 it worked, 1 it did not (standard error says why and what to do), 2 it was typed wrongly.

mod access;
mod audit;
mod authority;
mod client;
mod connect;
pub mod demo;
mod demo_args;
mod direct;
mod doctor;
mod error;
mod health;
mod host;
mod input;
mod invite;
mod me;
mod member;
mod memory;
mod openapi;
mod output;
mod own;
mod person;
mod pool;
mod reload;
mod remote;
mod rule;
pub mod serve;
mod session;
mod tenant;
mod tenant_options;
mod token;
mod words;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use self::client::{Connection, environment};
pub use self::{
    connect::ConnectArgs,
    demo_args::DemoArgs,
    direct::{GuardArgs, VerifyArgs},
    health::HealthArgs,
    me::MeArgs,
    openapi::OpenapiArgs,
    remote::Remote,
};

/// A PostgreSQL connection pooler with token-based access.
#[derive(Parser)]
// Each command that calls the admin API has these options itself; here they are for those who type them first.
#[command(name = "sluice", version, about, mut_args(|option| option.global(false)))]
pub struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the pooler
    Serve(ServeArgs),
    /// Start PostgreSQL, Sluice, a tenant, people and tokens in one go, to try it
    Demo(DemoArgs),
    /// Ask a running pooler whether it takes clients: exit status 0 if it does, else 1
    Health(HealthArgs),
    /// With your own token: list the databases you may reach, or connect to one
    Connect(ConnectArgs),
    /// With your own token: your access, sessions and tokens
    Me(MeArgs),
    /// Beside a PostgreSQL: check the token of somebody who logs in to it directly (for PAM's pam_exec)
    Verify(VerifyArgs),
    /// Beside a PostgreSQL: end direct sessions when access ends
    Guard(GuardArgs),
    /// Print the admin API's description (OpenAPI), for whoever writes a client of it
    Openapi(OpenapiArgs),
    #[command(flatten)]
    Remote(Remote),
}

/// Options of `sluice serve`.
#[derive(Args, Clone)]
#[command(after_help = "Example:\n  sluice serve --config /etc/sluice/pooler.toml")]
pub struct ServeArgs {
    /// The configuration file
    #[arg(
        long,
        short,
        value_name = "FILE",
        env = "SLUICE_CONFIG",
        default_value = "pooler.toml"
    )]
    pub config: PathBuf,

    /// Check the configuration with its keys and certificates and exit: 0 if they are good, else 1. Neither the
    /// catalogue nor a port is opened
    #[arg(long)]
    pub check: bool,
}

/// Does what was typed.
#[must_use]
pub fn run() -> ExitCode {
    let Cli {
        connection,
        command,
    } = Cli::parse();
    if let Err(error) = memory::keep_private() {
        let _ = writeln!(
            io::stderr(),
            "sluice: cannot keep secrets out of core dumps: {error}"
        );
        return ExitCode::FAILURE;
    }
    match command {
        Command::Serve(_)
        | Command::Demo(_)
        | Command::Verify(_)
        | Command::Guard(_)
        | Command::Openapi(_)
            if !connection.is_empty() =>
        Cli::command()
            .error(
                ErrorKind::ArgumentConflict,
                "the options of the admin API have no meaning for `serve`, `demo`, `verify`, `guard` and `openapi`",
            )
            .exit(),
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Health(args) => args.run(connection),
        Command::Verify(args) => args.run(),
        Command::Guard(args) => args.run(),
        Command::Connect(args) => args.run(connection),
        Command::Me(args) => args.run(connection),
        Command::Openapi(args) => args.run(),
        Command::Remote(call) => call.run(connection),
    }
}

#[cfg(test)]
mod tests;
