//! `sluice me`: what a person sees and ends of their own, with nothing but a token.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{
    client::{Answer, Client, Connection, environment},
    connect,
    error::CliError,
    output,
    own::{Credentials, refuse_key},
    remote::{conclude, worded},
    session, token,
};
use crate::{
    admin::{
        own_values::OwnAccess,
        values::{Done, Removed, Sessions, Tokens},
    },
    names::SessionId,
};

#[derive(Args)]
pub struct MeArgs {
    #[command(subcommand)]
    action: MeAction,
    #[command(flatten)]
    credentials: Credentials,
}

#[derive(Subcommand)]
enum MeAction {
    /// List the roles that you may use, until when
    #[command(after_help = "Example:\n  sluice me access")]
    Access,
    /// List your open sessions
    #[command(after_help = "Example:\n  sluice me sessions")]
    Sessions,
    /// End one of your sessions
    #[command(after_help = "Example:\n  sluice me end 0197068e-5f3a-7cc1-a1b2-0c9d8e7f6a5b")]
    End {
        /// The id as `me sessions` shows it
        session: SessionId,
    },
    /// List your tokens; never the secrets
    #[command(after_help = "Example:\n  sluice me tokens")]
    Tokens,
    /// Revoke one of your tokens and end the sessions opened with it
    #[command(after_help = "Example:\n  sluice me revoke 4fGh0kLmN9pQ")]
    Revoke {
        /// The id as `me tokens` shows it: the 12 characters after slp_
        token: String,
    },
}

impl MeArgs {
    /// Makes the call and prints what came of it.
    pub(super) fn run(self, earlier: Connection) -> ExitCode {
        refuse_key(&earlier);
        conclude(async {
            let json = self.credentials.json(&earlier);
            let (client, _) = self.credentials.open(earlier, environment)?;
            Ok(worded(self.action.run(&client).await?, json))
        })
    }
}

impl MeAction {
    async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::Access => {
                let found = client.get::<OwnAccess>(&["v1", "me", "access"]).await?;
                Ok(found.shown(|found| connect::table(found).to_string()))
            }
            Self::Sessions => {
                let found = client.get::<Sessions>(&["v1", "me", "sessions"]).await?;
                Ok(found.shown(|found| session::table(found).to_string()))
            }
            Self::End { session: id } => {
                let path = ["v1", "me", "sessions", &id.to_string()];
                let gone = client.delete::<Done<Removed>>(&path).await?;
                Ok(gone.shown(session::ended))
            }
            Self::Tokens => {
                let found = client.get::<Tokens>(&["v1", "me", "tokens"]).await?;
                Ok(found.shown(|found| token::table(found).to_string()))
            }
            Self::Revoke { token: text } => {
                let id = token::id(&text)?;
                let path = ["v1", "me", "tokens", id.as_str()];
                let gone = client.delete::<Done<Removed>>(&path).await?;
                Ok(gone.shown(|done| output::done("token revoked", done)))
            }
        }
    }
}
