//! `sluice token`: personal access tokens.

use std::collections::BTreeSet;

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use time::OffsetDateTime;

use super::{
    client::{Answer, Client},
    error::CliError,
    output::{self, Table},
    words,
};
use crate::{
    admin::values::{
        Done, IssuedToken, OneToken, Removed, RotatedToken, Rotation, TokenFields, TokenTerms,
        TokenView, Tokens, TokensGone,
    },
    catalog::types::{TokenLimits, TokenRecord, TokenScope},
    names::{RoleName, TenantRef, TokenId},
};

#[derive(Subcommand)]
pub enum TokenAction {
    /// Make a token for a person and show it, this once only
    #[command(
        after_help = "Examples:\n  sluice token create first@example.com --name laptop --expires 30d\n  sluice token create first@example.com --name reports --tenant demo --role app_readonly"
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
        #[command(flatten)]
        limits: Limits,
    },
    /// List a person's tokens; never the secrets
    #[command(after_help = "Example:\n  sluice token list first@example.com")]
    List {
        /// Id or e-mail address
        person: String,
    },
    /// Show one token, with the fingerprint by which `audit list` finds its uses
    #[command(after_help = "Example:\n  sluice token show 4fGh0kLmN9pQ")]
    Show {
        /// The id as `token list` shows it: the 12 characters after slp_
        token: String,
    },
    /// Change what a token is good for. Sessions that no longer fit are ended
    #[command(after_help = "Example:\n  sluice token set 4fGh0kLmN9pQ --tenant demo --expires 1d")]
    Set(Changes),
    /// Make a new token in place of one, which works on for a while
    #[command(
        after_help = "Examples:\n  sluice token rotate 4fGh0kLmN9pQ\n  sluice token rotate 4fGh0kLmN9pQ --overlap 0"
    )]
    Rotate {
        /// The id as `token list` shows it: the 12 characters after slp_
        token: String,
        /// How long the old one works on (1h, 2d); 0 ends it and its sessions at once
        #[arg(long, default_value = "24h", value_name = "WHILE", value_parser = words::overlap, allow_hyphen_values = true)]
        overlap: String,
        /// When the new one ends; unless told it lasts as long as the old one was made for
        #[arg(long, value_name = "WHEN", value_parser = words::expiry, allow_hyphen_values = true)]
        expires: Option<String>,
    },
    /// Revoke a token, or all of a person, and end the sessions opened with it
    #[command(
        after_help = "Examples:\n  sluice token revoke 4fGh0kLmN9pQ\n  sluice token revoke --all first@example.com"
    )]
    Revoke {
        /// The id as `token list` shows it: the 12 characters after slp_
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        token: Option<String>,
        /// All tokens of this person: id or e-mail address
        #[arg(long, value_name = "PERSON")]
        all: Option<String>,
    },
}

/// What a token is to be good for at most.
#[derive(Args)]
pub struct Limits {
    /// What for; may be given several times [default: connect]
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<Scope>,
    /// For this tenant and its branches only; may be given several times
    #[arg(long = "tenant", value_name = "TENANT")]
    tenants: Vec<TenantRef>,
    /// For this database role only; may be given several times
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<RoleName>,
}

#[derive(Args)]
pub struct Changes {
    /// The id as `token list` shows it: the 12 characters after slp_
    token: String,
    /// What the token is for
    #[arg(long)]
    name: Option<String>,
    /// When it ends: a while from now (24h, 30d) or a time (2026-05-25T18:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = words::expiry, allow_hyphen_values = true)]
    expires: Option<String>,
    #[command(flatten)]
    limits: Limits,
    /// For any tenant again
    #[arg(long, conflicts_with = "tenants")]
    any_tenant: bool,
    /// For any role again
    #[arg(long, conflicts_with = "roles")]
    any_role: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scope {
    /// Log in to databases
    #[value(alias = "db:connect")]
    Connect,
    /// Manage what the person may manage, by the admin API
    Manage,
}

impl From<Scope> for TokenScope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Connect => Self::Connect,
            Scope::Manage => Self::Manage,
        }
    }
}

impl TokenAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::Create {
                person,
                name,
                expires,
                limits,
            } => {
                let body = TokenTerms {
                    name,
                    expires,
                    scopes: limits.scopes(),
                    tenants: limits.tenants.into_iter().collect(),
                    roles: limits.roles.into_iter().collect(),
                };
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
            Self::Show { token } => {
                let token = id(&token)?;
                let found = client
                    .get::<OneToken>(&["v1", "tokens", token.as_str()])
                    .await?;
                Ok(found.shown(|found| facts(&found.token)))
            }
            Self::Set(changes) => changes.run(client).await,
            Self::Rotate {
                token,
                overlap,
                expires,
            } => {
                let token = id(&token)?;
                let path = ["v1", "tokens", token.as_str(), "rotate"];
                let body = Rotation {
                    overlap: Some(overlap),
                    expires,
                };
                let made = client
                    .send::<Done<RotatedToken>>(Method::POST, &path, &body)
                    .await?;
                Ok(made.shown(rotated))
            }
            Self::Revoke {
                all: Some(person), ..
            } => {
                let gone = client
                    .delete::<Done<TokensGone>>(&["v1", "people", &person, "tokens"])
                    .await?;
                Ok(gone.shown(|done| {
                    let revoked = output::count(done.value.tokens_revoked as u64, "token");
                    output::done(&format!("{revoked} revoked"), done)
                }))
            }
            Self::Revoke { token, all: None } => {
                let token = id(&token.unwrap_or_default())?;
                let gone = client
                    .delete::<Done<Removed>>(&["v1", "tokens", token.as_str()])
                    .await?;
                Ok(gone.shown(|done| output::done("token revoked", done)))
            }
        }
    }
}

impl Limits {
    fn scopes(&self) -> Option<BTreeSet<TokenScope>> {
        let scopes: BTreeSet<_> = self.scopes.iter().map(|scope| (*scope).into()).collect();
        (!scopes.is_empty()).then_some(scopes)
    }
}

impl Changes {
    async fn run(self, client: &Client) -> Result<Answer, CliError> {
        let token = id(&self.token)?;
        let fields = TokenFields {
            scopes: self.limits.scopes(),
            tenants: named(self.limits.tenants, self.any_tenant),
            roles: named(self.limits.roles, self.any_role),
            name: self.name,
            expires: self.expires,
        };
        if fields == TokenFields::default() {
            return Err(CliError::NothingToChange);
        }
        let path = ["v1", "tokens", token.as_str()];
        let set = client
            .send::<Done<OneToken>>(Method::PATCH, &path, &fields)
            .await?;
        Ok(set.shown(|done| {
            let said = output::done("token changed", done);
            format!("{said}\n{}", facts(&done.value.token))
        }))
    }
}

/// What was named; nothing, if any will do again; `None`, if nothing was said of it.
fn named<T: Ord>(names: Vec<T>, any: bool) -> Option<BTreeSet<T>> {
    (any || !names.is_empty()).then(|| names.into_iter().collect())
}

/// The id that was typed, or the one in a whole token. Not parsed by clap, which would repeat what it refuses.
pub(super) fn id(text: &str) -> Result<TokenId, CliError> {
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
        made.token.record.id,
        output::instant_from_now(made.token.record.expires_at)
    )
}

fn rotated(done: &Done<RotatedToken>) -> String {
    let RotatedToken {
        token,
        secret,
        replaced,
    } = &done.value;
    let old = &replaced.record;
    let end = match old.revoked_at {
        Some(_) => output::done(&format!("{} is revoked", old.id), done),
        None => format!(
            "{} works on until {}",
            old.id,
            output::instant_from_now(old.expires_at)
        ),
    };
    format!(
        "{}\n\nKeep it now, it cannot be shown again. Id {}, ends {}.\n{end}.",
        **secret,
        token.record.id,
        output::instant_from_now(token.record.expires_at)
    )
}

pub(super) fn table(found: &Tokens) -> Table {
    let mut table = Table::new(
        &[
            "ID",
            "NAME",
            "STATUS",
            "GOOD FOR",
            "EXPIRES",
            "LAST USED",
            "FROM",
        ],
        "no tokens yet; make one with `sluice token create PERSON --name NAME`",
    );
    for TokenView { record: token, .. } in &found.tokens {
        table.row([
            token.id.to_string(),
            token.name.clone(),
            status(token).to_owned(),
            good_for(&token.limits),
            output::instant_from_now(token.expires_at),
            output::or_dash(token.last_used_at.map(output::instant_from_now)),
            output::or_dash(token.last_used_from),
        ]);
    }
    table
}

fn facts(view: &TokenView) -> String {
    let token = &view.record;
    output::facts(&[
        ("id", token.id.to_string()),
        ("name", token.name.clone()),
        ("person", token.person.to_string()),
        ("status", status(token).to_owned()),
        ("good for", good_for(&token.limits)),
        (
            "made",
            by(Some(token.created_at), token.created_by.as_ref()),
        ),
        ("expires", output::instant_from_now(token.expires_at)),
        ("revoked", by(token.revoked_at, token.revoked_by.as_ref())),
        ("replaced by", output::or_dash(token.replaced_by.as_ref())),
        (
            "last used",
            output::or_dash(token.last_used_at.map(output::instant_from_now)),
        ),
        ("from", output::or_dash(token.last_used_from)),
        ("fingerprint", view.fingerprint.to_string()),
    ])
}

fn by(at: Option<OffsetDateTime>, actor: Option<&String>) -> String {
    let at = output::or_dash(at.map(output::instant_from_now));
    match actor {
        Some(actor) => format!("{at} by {actor}"),
        None => at,
    }
}

/// `db:connect to demo as app, other`.
fn good_for(limits: &TokenLimits) -> String {
    let scopes: Vec<_> = limits.scopes.iter().map(output::word).collect();
    let mut text = scopes.join(", ");
    let tenants: Vec<_> = limits.tenants.iter().collect();
    let roles: Vec<_> = limits.roles.iter().collect();
    if !tenants.is_empty() {
        text += &format!(" to {}", output::list(&tenants, ""));
    }
    if !roles.is_empty() {
        text += &format!(" as {}", output::list(&roles, ""));
    }
    text
}

fn status(token: &TokenRecord) -> &'static str {
    if token.revoked_at.is_some() {
        "revoked"
    } else if token.expires_at <= OffsetDateTime::now_utc() {
        "expired"
    } else if token.replaced_by.is_some() {
        "replaced"
    } else {
        "active"
    }
}
