//! `sluice token`: personal access tokens.

use clap::Subcommand;
use reqwest::Method;
use time::OffsetDateTime;

use super::{
    client::{Answer, Client},
    error::CliError,
    output::{self, Table},
    words,
};
use crate::{
    admin::values::{Done, IssuedToken, Removed, TokenTerms, Tokens},
    catalog::types::TokenRecord,
    names::TokenId,
};

#[derive(Subcommand)]
pub enum TokenAction {
    /// Make a token for a person and show it, this once only
    #[command(
        after_help = "Example:\n  sluice token create first@example.com --name laptop --expires 30d"
    )]
    Create {
        /// Id or e-mail address
        person: String,
        /// What the token is for
        #[arg(long)]
        name: String,
        /// When it ends: a while (24h, 30d) or a time (2026-05-25T18:00:00Z)
        #[arg(long, default_value = "30d", value_name = "WHEN", value_parser = words::expiry, allow_hyphen_values = true)]
        expires: String,
    },
    /// List a person's tokens; never the secrets
    #[command(after_help = "Example:\n  sluice token list first@example.com")]
    List {
        /// Id or e-mail address
        person: String,
    },
    /// Revoke a token and end the sessions opened with it
    #[command(after_help = "Example:\n  sluice token revoke 4fGh0kLmN9pQ")]
    Revoke {
        /// The id as `token list` shows it: the 12 characters after slp_
        token: String,
    },
}

impl TokenAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::Create {
                person,
                name,
                expires,
            } => {
                let body = TokenTerms { name, expires };
                let path = ["v1", "people", &person, "tokens"];
                let made = client
                    .send::<Done<IssuedToken>>(Method::POST, &path, &body)
                    .await?;
                Ok(made.shown(|done| issued(&done.value)))
            }
            Self::List { person } => {
                let found = client
                    .get::<Tokens>(&["v1", "people", &person, "tokens"])
                    .await?;
                Ok(found.shown(|found| table(found).to_string()))
            }
            Self::Revoke { token } => {
                let token = id(&token)?;
                let gone = client
                    .delete::<Done<Removed>>(&["v1", "tokens", token.as_str()])
                    .await?;
                Ok(gone.shown(|done| output::done("token revoked", done)))
            }
        }
    }
}

/// The id that was typed, or the one in a whole token. Not parsed by clap, which would repeat what it refuses.
fn id(text: &str) -> Result<TokenId, CliError> {
    let id = text
        .strip_prefix("slp_")
        .map_or(Some(text), |rest| rest.get(..12));
    id.filter(|id| id.len() == 12)
        .and_then(|id| id.parse().ok())
        .ok_or(CliError::NotATokenId)
}

fn issued(made: &IssuedToken) -> String {
    format!(
        "{}\n\nKeep it now, it cannot be shown again. Id {}, ends {}.",
        *made.secret,
        made.token.id,
        output::instant_from_now(made.token.expires_at)
    )
}

fn table(found: &Tokens) -> Table {
    let mut table = Table::new(
        &["ID", "NAME", "STATUS", "EXPIRES", "LAST USED", "FROM"],
        "no tokens yet; make one with `sluice token create PERSON --name NAME`",
    );
    for token in &found.tokens {
        table.row([
            token.id.to_string(),
            token.name.clone(),
            status(token).to_owned(),
            output::instant_from_now(token.expires_at),
            output::or_dash(token.last_used_at.map(output::instant_from_now)),
            output::or_dash(token.last_used_from),
        ]);
    }
    table
}

fn status(token: &TokenRecord) -> &'static str {
    if token.revoked_at.is_some() {
        "revoked"
    } else if token.expires_at <= OffsetDateTime::now_utc() {
        "expired"
    } else {
        "active"
    }
}
