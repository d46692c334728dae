//! `sluice authority`: who decides about a tenant's tokens.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;

use super::{
    client::{Answer, Client},
    error::CliError,
    input, output,
};
use crate::{
    admin::values::{Done, OneTenant, TenantFields, WebhookKey},
    catalog::types::{Authority, AuthorityUrl, HttpAuthority, TimeLimit},
    names::TenantRef,
};

#[derive(Subcommand)]
pub enum AuthorityAction {
    /// Let the catalogue decide: its people, tokens and rules
    #[command(after_help = "Example:\n  sluice authority catalogue demo")]
    Catalogue { tenant: TenantRef },
    /// Let an HTTP service decide, by the contract of docs/api.md. Ends the sessions that another authority has let in
    #[command(
        after_help = "Example:\n  sluice authority http demo --url https://auth.example.com/v1/projects/demo/database/jit"
    )]
    Http(Box<HttpOptions>),
    /// Make the key with which the tenant's HTTP service revokes at once; shown once, replaces any other
    #[command(after_help = "Example:\n  sluice authority webhook-key demo")]
    WebhookKey { tenant: TenantRef },
}

#[derive(Args)]
pub struct HttpOptions {
    tenant: TenantRef,
    /// Where to ask
    #[arg(long, value_parser = url)]
    url: AuthorityUrl,
    /// File (PEM) with the certificate authorities that may vouch for it; the public ones unless told
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How long an answer may take; as configured unless told
    #[arg(long, value_name = "TIME")]
    deadline: Option<TimeLimit>,
}

impl AuthorityAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::Catalogue { tenant } => set(client, tenant, Authority::Catalogue).await,
            Self::Http(options) => {
                let http = HttpAuthority {
                    url: options.url,
                    ca: options.ca.as_deref().map(input::text_file).transpose()?,
                    deadline: options.deadline,
                };
                set(client, options.tenant, Authority::Http(http.into())).await
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
        Authority::Http(http) => http.url.to_string(),
    }
}
