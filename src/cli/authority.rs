//! `sluice authority`: who decides about a tenant's tokens.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jsonwebtoken::jwk::JwkSet;
use reqwest::Method;

use super::{
    client::{Answer, Client},
    error::CliError,
    input, output,
};
use crate::{
    admin::values::{Done, OneTenant, TenantFields, WebhookKey},
    catalog::types::{
        Authority, AuthorityUrl, HttpAuthority, JwtAlgorithm, JwtAuthority, JwtKeys, TimeLimit,
    },
    names::TenantRef,
};

#[derive(Subcommand)]
pub enum AuthorityAction {
    /// Let the catalogue decide: its people, tokens and rules
    #[command(after_help = "Example:\n  sluice authority catalogue demo")]
    Catalogue { tenant: TenantRef },
    /// Let whoever decides for its parent decide for a branch too; how a branch begins
    #[command(after_help = "Example:\n  sluice authority parent demo-branch")]
    Parent {
        #[arg(value_name = "BRANCH")]
        tenant: TenantRef,
    },
    /// Let an HTTP service decide, by the contract of docs/api.md. Ends the sessions that another authority has let in
    #[command(
        after_help = "Example:\n  sluice authority http demo --url https://auth.example.com/v1/projects/demo/database/jit"
    )]
    Http(Box<HttpOptions>),
    /// Let JSON Web Tokens of an issuer (OpenID Connect) prove who it is, and the catalogue's rules decide
    #[command(
        after_help = "Example:\n  sluice authority jwt demo --issuer https://id.example.com --audience sluice --algorithm ES256 \\\n      --jwks-url https://id.example.com/jwks.json --subject-claim email"
    )]
    Jwt(Box<JwtOptions>),
    /// Make the key with which the tenant's HTTP service revokes at once; shown once, replaces any other
    #[command(after_help = "Example:\n  sluice authority webhook-key demo")]
    WebhookKey { tenant: TenantRef },
}

#[derive(Args)]
pub struct HttpOptions {
    tenant: TenantRef,
    /// Where to ask; {ref} in it stands for the ref of the tenant, or branch, that somebody logs in to
    #[arg(long, value_parser = url)]
    url: AuthorityUrl,
    /// File (PEM) with the certificate authorities that may vouch for it; the public ones unless told
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How long an answer may take; as configured unless told
    #[arg(long, value_name = "TIME")]
    deadline: Option<TimeLimit>,
}

#[derive(Args)]
pub struct JwtOptions {
    tenant: TenantRef,
    /// What `iss` must be
    #[arg(long)]
    issuer: String,
    /// What `aud` must hold
    #[arg(long)]
    audience: String,
    /// Signatures that will do; may be given several times
    #[arg(long = "algorithm", required = true, value_name = "ALG", value_parser = algorithm)]
    algorithms: Vec<JwtAlgorithm>,
    #[command(flatten)]
    keys: KeyOptions,
    /// File (PEM) with the certificate authorities that may vouch for the address of the keys; the public ones unless told
    #[arg(long, value_name = "FILE", requires = "jwks_url")]
    ca: Option<PathBuf>,
    /// The claim that names the person, by their id here or their e-mail address
    #[arg(long, value_name = "NAME", default_value = "sub")]
    subject_claim: String,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct KeyOptions {
    /// Where the issuer publishes its keys
    #[arg(long, value_parser = url)]
    jwks_url: Option<AuthorityUrl>,
    /// File with the issuer's keys (a JSON Web Key Set)
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
}

impl AuthorityAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::Catalogue { tenant } => set(client, tenant, Authority::Catalogue).await,
            Self::Parent { tenant } => set(client, tenant, Authority::Parent).await,
            Self::Http(options) => {
                let http = HttpAuthority {
                    url: options.url,
                    ca: options.ca.as_deref().map(input::text_file).transpose()?,
                    deadline: options.deadline,
                };
                set(client, options.tenant, Authority::Http(http.into())).await
            }
            Self::Jwt(options) => {
                let keys = match (options.keys.jwks_url, options.keys.jwks) {
                    (Some(url), _) => JwtKeys::Url(url),
                    (None, Some(path)) => JwtKeys::Jwks(key_set(&path)?),
                    (None, None) => return Err(CliError::NothingToChange),
                };
                let jwt = JwtAuthority {
                    issuer: options.issuer,
                    audience: options.audience,
                    algorithms: options.algorithms,
                    keys,
                    ca: options.ca.as_deref().map(input::text_file).transpose()?,
                    subject_claim: options.subject_claim,
                };
                set(client, options.tenant, Authority::Jwt(jwt.into())).await
            }
            Self::WebhookKey { tenant } => {
                let path = ["v1", "tenants", tenant.as_str(), "authority", "webhook-key"];
                let made = client
                    .send::<Done<WebhookKey>>(Method::POST, &path, &serde_json::json!({}))
                    .await?;
                Ok(made.shown(|done| done.value.key.to_string()))
            }
        }
    }
}

fn url(text: &str) -> Result<AuthorityUrl, String> {
    AuthorityUrl::try_from(text.to_owned()).map_err(|error| error.to_string())
}

fn algorithm(text: &str) -> Result<JwtAlgorithm, String> {
    let known = serde_json::from_value(text.into());
    known.map_err(|_| {
        "write RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA".to_owned()
    })
}

fn key_set(path: &Path) -> Result<JwkSet, CliError> {
    let text = input::text_file(path)?;
    serde_json::from_str(&text).map_err(|_| CliError::NotAKeySet {
        path: path.to_owned(),
    })
}

async fn set(client: &Client, tenant: TenantRef, authority: Authority) -> Result<Answer, CliError> {
    let path = ["v1", "tenants", tenant.as_str()];
    let body = TenantFields {
        authority: Some(authority),
        ..TenantFields::default()
    };
    let set = client
        .send::<Done<OneTenant>>(Method::PATCH, &path, &body)
        .await?;
    Ok(set.shown(|done| {
        let what = format!(
            "authority of {tenant} is {}",
            described(&done.value.tenant.authority)
        );
        output::done(&what, done)
    }))
}

/// In a few words, for people.
pub(super) fn described(authority: &Authority) -> String {
    match authority {
        Authority::Catalogue => "the catalogue".to_owned(),
        Authority::Parent => "as its parent".to_owned(),
        Authority::Http(http) => http.url.to_string(),
        Authority::Jwt(jwt) => format!("JSON Web Tokens of {}", jwt.issuer),
    }
}
