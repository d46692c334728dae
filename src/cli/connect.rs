//! `sluice connect`: what a person may reach with nothing but a token, and the way there.
//!
//! The token goes to psql in its environment, never on a command line or into a connection string.

use std::{
    os::unix::process::CommandExt as _,
    path::{self, PathBuf},
    process::{self, ExitCode},
};

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::{
    client::{Answer, Connection, Received, environment},
    error::CliError,
    output::{self, Table},
    own::{Credentials, refuse_key},
    remote::{Outcome, conclude, worded},
};
use crate::{
    admin::own_values::{OwnAccess, Way, WayState},
    names::{RoleName, TenantRef},
};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  sluice connect\n  sluice connect demo app_readwrite\n  sluice connect demo --psql -- -c select"
)]
pub struct ConnectArgs {
    /// Print the connection string of this tenant; without it, list what you may reach
    tenant: Option<TenantRef>,
    /// As this role; not needed where you may use one only
    role: Option<RoleName>,
    /// Start psql instead of printing; what follows -- is for it
    #[arg(long, requires = "tenant")]
    psql: bool,
    /// File with the certificate authority that vouches for the pooler (libpq's sslrootcert), if it is not a usual one
    #[arg(long, value_name = "FILE", requires = "tenant")]
    ca: Option<PathBuf>,
    /// Arguments of psql
    #[arg(last = true, requires = "psql", value_name = "PSQL ARGUMENTS")]
    arguments: Vec<String>,
    #[command(flatten)]
    credentials: Credentials,
}

impl ConnectArgs {
    /// Lists, prints, or becomes psql.
    pub(super) fn run(self, earlier: Connection) -> ExitCode {
        refuse_key(&earlier);
        conclude(self.outcome(earlier))
    }

    async fn outcome(self, earlier: Connection) -> Result<Outcome, CliError> {
        let json = self.credentials.json(&earlier);
        let (client, token) = self.credentials.open(earlier, environment)?;
        let found = client.get::<OwnAccess>(&["v1", "me", "access"]).await?;
        let Some(tenant) = self.tenant else {
            return Ok(worded(listed(found), json));
        };
        let way = choose(&found.value, &tenant, self.role.as_ref())?;
        let uri = with_authority(&way.uri, self.ca)?;
        if self.psql {
            return Err(become_psql(&uri, &token, &self.arguments));
        }
        let answer = Answer {
            json: serde_json::json!({ "uri": uri }),
            ..found.shown(|_| uri)
        };
        Ok(worded(answer, json))
    }
}

fn listed(found: Received<OwnAccess>) -> Answer {
    found.shown(|found| table(found).to_string())
}

/// The one way that was meant.
fn choose<'a>(
    found: &'a OwnAccess,
    tenant: &TenantRef,
    role: Option<&RoleName>,
) -> Result<&'a Way, CliError> {
    let meant = |way: &&Way| way.tenant == *tenant && role.is_none_or(|role| way.role == *role);
    let ways: Vec<_> = found.access.iter().filter(meant).collect();
    let open: Vec<_> = ways.iter().filter(|way| way.is_open()).collect();
    match (&open[..], &ways[..]) {
        ([way], _) => Ok(way),
        ([], []) => Err(CliError::NoWay(place(tenant, role))),
        ([], [first, ..]) => Err(CliError::WayClosed {
            place: place(tenant, Some(&first.role)),
            message: first.closed().unwrap_or_default().to_owned(),
        }),
        _ => Err(CliError::SeveralRoles {
            tenant: tenant.to_string(),
            roles: output::list(&open.iter().map(|way| &way.role).collect::<Vec<_>>(), ""),
        }),
    }
}

fn place(tenant: &TenantRef, role: Option<&RoleName>) -> String {
    role.map_or_else(
        || tenant.to_string(),
        |role| format!("role {role} of {tenant}"),
    )
}

impl Way {
    fn is_open(&self) -> bool {
        self.closed().is_none()
    }

    /// Why it cannot be used now.
    pub(super) fn closed(&self) -> Option<&str> {
        match &self.state {
            WayState::Open { .. } => None,
            WayState::Closed { message, .. } => Some(message),
        }
    }
}

fn with_authority(uri: &str, ca: Option<PathBuf>) -> Result<String, CliError> {
    let Some(path) = ca else {
        return Ok(uri.to_owned());
    };
    let whole = path::absolute(&path).map_err(|source| CliError::File { path, source })?;
    let whole = utf8_percent_encode(&whole.to_string_lossy(), NON_ALPHANUMERIC).to_string();
    Ok(format!("{uri}&sslrootcert={whole}"))
}

/// Turns this process into psql; returns only if that does not work.
fn become_psql(uri: &str, token: &Zeroizing<String>, arguments: &[String]) -> CliError {
    const PROGRAM: &str = "psql";
    let source = process::Command::new(PROGRAM)
        .arg(format!("--dbname={uri}"))
        .args(arguments)
        .env("PGPASSWORD", token.as_str())
        .env_remove("SLUICE_TOKEN")
        .exec();
    CliError::Program {
        program: PROGRAM.to_owned(),
        source,
    }
}

pub(super) fn table(found: &OwnAccess) -> Table {
    let mut table = Table::new(
        &["TENANT", "ROLE", "DATABASE", "UNTIL", "FROM", "CONNECT"],
        "you may reach nothing yet: ask an administrator of the project for a rule",
    );
    for way in &found.access {
        let (until, from) = match &way.state {
            WayState::Open {
                expires_at,
                networks,
            } => (
                output::instant_from_now(*expires_at),
                output::list(networks, "anywhere"),
            ),
            WayState::Closed { message, .. } => (format!("not now: {message}"), "-".to_owned()),
        };
        table.row([
            way.tenant.to_string(),
            way.role.to_string(),
            way.database.to_string(),
            until,
            from,
            way.uri.clone(),
        ]);
    }
    table
}
