//! Calls of a person about themselves: their token in place of the admin key.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, error::ErrorKind};
use zeroize::Zeroizing;

use super::{
    Cli,
    client::{Address, Client, Connection},
    error::CliError,
    input,
};
use crate::catalog::Token;

const TOKEN_VARIABLE: &str = "SLUICE_TOKEN";

/// Where the API is, and who calls. The token itself is never an argument: `ps` would show it to everybody.
#[derive(Args)]
#[command(next_help_heading = "Your own access")]
pub(super) struct Credentials {
    #[command(flatten)]
    address: Address,

    /// File that holds your token; goes before the environment's [env: SLUICE_TOKEN]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Print the answer as JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
}

impl Credentials {
    /// Somebody's own client, with the token that it shows.
    pub(super) fn open(
        self,
        earlier: Connection,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<(Client, Zeroizing<String>), CliError> {
        let text = match &self.token_file {
            Some(path) => input::secret_file(path)?,
            None => environment(TOKEN_VARIABLE)
                .map(Zeroizing::new)
                .ok_or(CliError::NoToken)?,
        };
        let token = Token::parse(text.trim()).ok_or(CliError::NotAToken)?;
        let token = token.reveal();
        let address = self.address.or(earlier.address()).resolve(environment)?;
        Ok((Client::new(address, &token)?, token))
    }

    pub(super) fn json(&self, earlier: &Connection) -> bool {
        self.json || earlier.json
    }
}

/// The admin key was named for a call that does not take it.
pub(super) fn refuse_key(earlier: &Connection) {
    if earlier.has_key() {
        Cli::command()
            .error(
                ErrorKind::ArgumentConflict,
                "`connect` and `me` are for your own token (SLUICE_TOKEN or --token-file), not for the admin key",
            )
            .exit();
    }
}
