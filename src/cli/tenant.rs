//! `sluice tenant`: the PostgreSQL services behind the pooler, and the secrets of their roles.

use std::{net::Ipv6Addr, path::PathBuf};

use clap::{Args, Subcommand};
use reqwest::Method;

use super::{
    authority,
    client::{Answer, Client},
    error::CliError,
    input,
    output::{self, Table},
    tenant_options::TenantOptions,
};
use crate::{
    admin::values::{Done, GuardKey, OneTenant, Removed, SecretText, Tenants},
    catalog::types::{Tenant, TenantTimeouts, TokenAccess},
    names::{RoleName, TenantRef},
};

/// What is said of a branch where it has no word of its own.
const AS_ITS_PARENT: &str = "as its parent";

#[derive(Subcommand)]
pub enum TenantAction {
    /// Register a PostgreSQL server as a tenant
    #[command(
        mut_arg("host", |host| host.required(true)),
        after_help = "Example:\n  sluice tenant add demo --host 127.0.0.1 --port 54321 --database app \\\n      --login certificate --tls verify-full --ca server-ca.crt --token-access"
    )]
    Add {
        /// Short id; clients log in as ROLE.REF
        #[arg(value_name = "REF")]
        tenant: TenantRef,
        /// The tenant that this one is a branch of
        #[arg(long, value_name = "REF")]
        parent: Option<TenantRef>,
        /// Enable token access at once
        #[arg(long)]
        token_access: bool,
        #[command(flatten)]
        options: Box<TenantOptions>,
    },
    /// List all tenants
    #[command(after_help = "Example:\n  sluice tenant list")]
    List,
    /// Show everything about one tenant
    #[command(after_help = "Example:\n  sluice tenant show demo")]
    Show {
        #[arg(value_name = "REF")]
        tenant: TenantRef,
    },
    /// Change what is named and leave the rest; an empty value clears what may be empty
    #[command(
        after_help = "Examples:\n  sluice tenant set demo --pool-size 20 --network 192.0.2.0/24\n  sluice tenant set demo --database ''"
    )]
    Set {
        #[arg(value_name = "REF")]
        tenant: TenantRef,
        #[command(flatten)]
        options: Box<TenantOptions>,
    },
    /// Forget a tenant with its rules, members and secrets, and end its sessions
    #[command(after_help = "Example:\n  sluice tenant remove demo")]
    Remove {
        #[arg(value_name = "REF")]
        tenant: TenantRef,
    },
    /// Make the key that `sluice guard` beside the tenant's database shows; an earlier one ends
    #[command(after_help = "Example:\n  sluice tenant guard-key demo")]
    GuardKey {
        #[arg(value_name = "REF")]
        tenant: TenantRef,
    },
    /// The stored password or verifier of a role
    #[command(subcommand)]
    Secret(SecretAction),
}

#[derive(Subcommand)]
pub enum SecretAction {
    /// Store the secret of a role, encrypted
    #[command(
        after_help = "Examples:\n  sluice tenant secret set demo app_user --password-file app_user.password\n  psql -Atc \"select rolpassword from pg_authid where rolname = 'app_user'\" |\n      sluice tenant secret set demo app_user --verifier-file -"
    )]
    Set(RoleSecretOptions),
    /// Forget the secret of a role
    #[command(after_help = "Example:\n  sluice tenant secret remove demo app_user")]
    Remove {
        #[arg(value_name = "REF")]
        tenant: TenantRef,
        role: RoleName,
    },
}

#[derive(Args)]
pub struct RoleSecretOptions {
    #[arg(value_name = "REF")]
    tenant: TenantRef,
    role: RoleName,
    #[command(flatten)]
    file: SecretFile,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct SecretFile {
    /// File with the password; - reads standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// File with the SCRAM-SHA-256$… verifier; - reads standard input
    #[arg(long, value_name = "FILE")]
    verifier_file: Option<PathBuf>,
}

impl TenantAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::Add {
                tenant,
                parent,
                token_access,
                options,
            } => {
                let body = options.addition(tenant, parent, token_access)?;
                let made = client
                    .send::<Done<OneTenant>>(Method::POST, &["v1", "tenants"], &body)
                    .await?;
                Ok(made.shown(|done| format!("tenant added\n{}", describe(&done.value.tenant))))
            }
            Self::List => {
                let found = client.get::<Tenants>(&["v1", "tenants"]).await?;
                Ok(found.shown(|found| table(found).to_string()))
            }
            Self::Show { tenant } => {
                let path = ["v1", "tenants", tenant.as_str()];
                let found = client.get::<OneTenant>(&path).await?;
                Ok(found.shown(|found| describe(&found.tenant)))
            }
            Self::Set { tenant, options } => {
                let path = ["v1", "tenants", tenant.as_str()];
                let body = options.changes()?;
                let set = client
                    .send::<Done<OneTenant>>(Method::PATCH, &path, &body)
                    .await?;
                Ok(set.shown(|done| {
                    format!(
                        "{}\n{}",
                        output::done("tenant set", done),
                        describe(&done.value.tenant)
                    )
                }))
            }
            Self::Remove { tenant } => {
                let path = ["v1", "tenants", tenant.as_str()];
                let gone = client.delete::<Done<Removed>>(&path).await?;
                Ok(gone.shown(|done| output::done("tenant removed", done)))
            }
            Self::GuardKey { tenant } => {
                let path = ["v1", "tenants", tenant.as_str(), "guard-key"];
                let made = client
                    .send::<Done<GuardKey>>(Method::POST, &path, &serde_json::json!({}))
                    .await?;
                Ok(made.shown(|done| done.value.guard_key.to_string()))
            }
            Self::Secret(SecretAction::Set(files)) => files.run(client).await,
            Self::Secret(SecretAction::Remove { tenant, role }) => {
                let path = [
                    "v1",
                    "tenants",
                    tenant.as_str(),
                    "roles",
                    role.as_str(),
                    "secret",
                ];
                let gone = client.delete::<Done<Removed>>(&path).await?;
                Ok(gone.shown(|done| output::done("secret removed", done)))
            }
        }
    }
}

impl RoleSecretOptions {
    async fn run(self, client: &Client) -> Result<Answer, CliError> {
        let body = match (&self.file.password_file, &self.file.verifier_file) {
            (_, Some(path)) => SecretText::Verifier(input::secret_file(path)?),
            (Some(path), None) => SecretText::Password(input::secret_file(path)?),
            (None, None) => return Err(CliError::NothingToChange),
        };
        let (tenant, role) = (self.tenant.as_str(), self.role.as_str());
        let path = ["v1", "tenants", tenant, "roles", role, "secret"];
        let set = client
            .send::<Done<Removed>>(Method::PUT, &path, &body)
            .await?;
        Ok(set.shown(|done| output::done(&format!("secret of {} stored", self.role), done)))
    }
}

fn table(found: &Tenants) -> Table {
    let mut table = Table::new(
        &[
            "REF",
            "NAME",
            "SERVER",
            "TLS",
            "LOGIN",
            "TOKEN ACCESS",
            "BRANCH OF",
        ],
        "no tenants yet; add one with `sluice tenant add REF --host HOST`",
    );
    for tenant in &found.tenants {
        table.row([
            tenant.tenant.to_string(),
            tenant.name.clone(),
            server(tenant),
            output::word(&tenant.backend_tls),
            output::word(&tenant.login),
            token_access(tenant),
            output::or_dash(tenant.parent.as_ref()),
        ]);
    }
    table
}

/// A branch is on where its parent is.
fn token_access(tenant: &Tenant) -> String {
    match (tenant.token_access, &tenant.parent) {
        (TokenAccess::Disabled, Some(_)) => AS_ITS_PARENT.to_owned(),
        (own, _) => output::word(&own),
    }
}

fn describe(tenant: &Tenant) -> String {
    let configured =
        |value: Option<u32>| value.map_or_else(|| "as configured".to_owned(), |n| n.to_string());
    let any_network = match &tenant.parent {
        Some(_) => AS_ITS_PARENT,
        None => "any",
    };
    output::facts(&[
        ("ref", tenant.tenant.to_string()),
        ("name", tenant.name.clone()),
        ("branch of", output::or_dash(tenant.parent.as_ref())),
        ("server", server(tenant)),
        (
            "database",
            tenant
                .default_database
                .as_ref()
                .map_or_else(|| "the one asked for".to_owned(), ToString::to_string),
        ),
        ("tls to server", output::word(&tenant.backend_tls)),
        (
            "trusted ca",
            if tenant.backend_ca.is_some() {
                "own".to_owned()
            } else {
                "public ones".to_owned()
            },
        ),
        ("login", output::word(&tenant.login)),
        ("auth user", output::or_dash(tenant.auth_user.as_ref())),
        (
            "auth query",
            tenant
                .auth_query
                .clone()
                .unwrap_or_else(|| "built-in".to_owned()),
        ),
        (
            "auth database",
            output::or_dash(tenant.auth_database.as_ref()),
        ),
        ("pool size", configured(tenant.pool_size)),
        ("backend budget", configured(tenant.backend_budget)),
        ("max clients", configured(tenant.max_clients)),
        ("timeouts", timeouts(&tenant.timeouts)),
        ("client tls", output::word(&tenant.client_tls)),
        ("token access", token_access(tenant)),
        ("authority", authority::described(&tenant.authority)),
        ("privileged roles", output::word(&tenant.privileged_roles)),
        (
            "token networks",
            output::list(&tenant.networks, any_network),
        ),
        ("added", output::instant(tenant.created_at)),
    ])
}

/// The tenant's own limits of time as they would be typed.
fn timeouts(own: &TenantTimeouts) -> String {
    let limits = [
        ("queue", own.queue),
        ("idle", own.idle),
        ("idle_in_transaction", own.idle_in_transaction),
        ("query", own.query),
        ("transaction", own.transaction),
    ];
    let set = limits
        .into_iter()
        .filter_map(|(name, limit)| limit.map(|limit| format!("{name}={limit}")));
    output::list(&set.collect::<Vec<_>>(), "as configured")
}

fn server(tenant: &Tenant) -> String {
    if tenant.host.parse::<Ipv6Addr>().is_ok() {
        format!("[{}]:{}", tenant.host, tenant.port)
    } else {
        format!("{}:{}", tenant.host, tenant.port)
    }
}
