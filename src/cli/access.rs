//! `sluice access`: the switch for token access of a tenant.

use clap::Subcommand;
use reqwest::Method;

use super::{
    client::{Answer, Client},
    error::CliError,
    output,
};
use crate::{
    admin::values::{AccessState, Done, WantedAccess},
    catalog::types::TokenAccess,
    names::TenantRef,
};

#[derive(Subcommand)]
pub enum AccessAction {
    /// Let members with a rule log in with their tokens (the tenant's branches included)
    #[command(after_help = "Example:\n  sluice access enable demo")]
    Enable { tenant: TenantRef },
    /// Refuse all tokens and end all token sessions. Rules are kept and hold again once enabled
    #[command(after_help = "Example:\n  sluice access disable demo")]
    Disable { tenant: TenantRef },
    /// Say whether token access is enabled, and whether the server is one that it can work with
    #[command(after_help = "Example:\n  sluice access status demo")]
    Status { tenant: TenantRef },
}

impl AccessAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::Enable { tenant } => switch(client, &tenant, TokenAccess::Enabled).await,
            Self::Disable { tenant } => switch(client, &tenant, TokenAccess::Disabled).await,
            Self::Status { tenant } => {
                let path = ["v1", "tenants", tenant.as_str(), "access"];
                let found = client.get::<AccessState>(&path).await?;
                Ok(found.shown(|found| sentence(&tenant, found)))
            }
        }
    }
}

async fn switch(
    client: &Client,
    tenant: &TenantRef,
    state: TokenAccess,
) -> Result<Answer, CliError> {
    let path = ["v1", "tenants", tenant.as_str(), "access"];
    let set = client
        .send::<Done<AccessState>>(Method::PUT, &path, &WantedAccess { state })
        .await?;
    Ok(set.shown(|done| output::done(&sentence(tenant, &done.value), done)))
}

fn sentence(tenant: &TenantRef, found: &AccessState) -> String {
    let said = format!("token access of {tenant} is {}", output::word(&found.state));
    match &found.unavailable {
        None => said,
        Some(why) => format!("{said}, but not available: {}", output::tame(&why.message)),
    }
}
