//! The options that `tenant add` and `tenant set` share, and the request they make.

use std::path::{Path, PathBuf};

use clap::Args;
use ipnet::IpNet;

use super::{
    error::CliError,
    input,
    words::{self, Encryption, Login, Privileged, Tls},
};
use crate::{
    admin::values::{TenantFields, TimeoutFields},
    catalog::types::{InvalidLimit, TimeLimit, TokenAccess},
    names::{DatabaseName, NameError, RoleName, TenantRef},
};

#[derive(Args, Default)]
pub struct TenantOptions {
    /// What to call it; the ref unless told
    #[arg(long)]
    name: Option<String>,
    /// Host name or address of the PostgreSQL server, or the folder of its Unix socket
    #[arg(long, value_parser = words::host)]
    host: Option<String>,
    /// Its port [5432]
    #[arg(long, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Database for clients that name none
    #[arg(long, value_name = "NAME")]
    database: Option<String>,

    /// How to encrypt towards the server [verify-full]
    #[arg(long, value_enum, help_heading = "Towards the server")]
    tls: Option<Tls>,
    /// File (PEM) with the authorities that may vouch for the server; '' trusts the public ones
    #[arg(long, value_name = "FILE", help_heading = "Towards the server")]
    ca: Option<PathBuf>,
    /// How token sessions log in to the server [certificate]
    #[arg(long, value_enum, help_heading = "Towards the server")]
    login: Option<Login>,
    /// Role that looks up the password verifiers of the others
    #[arg(long, value_name = "ROLE", help_heading = "Towards the server")]
    auth_user: Option<String>,
    /// Query it runs, with the role's name as $1; '' takes the built-in one
    #[arg(long, value_name = "SQL", help_heading = "Towards the server")]
    auth_query: Option<String>,
    /// Database it runs in
    #[arg(long, value_name = "NAME", help_heading = "Towards the server")]
    auth_database: Option<String>,

    /// Server connections per pool; 0 takes the configured default
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    pool_size: Option<u32>,
    /// Server connections over all pools; 0 takes the configured default
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    backend_budget: Option<u32>,
    /// Clients at once; 0 takes the configured default
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    max_clients: Option<u32>,
    /// How long a query, transaction, idle, idle_in_transaction or queue may last, as in query=30s or idle=off;
    /// query= takes the configured default. May be given several times
    #[arg(long = "timeout", value_name = "NAME=TIME", value_parser = timeout, help_heading = "Limits")]
    timeouts: Vec<(Timeout, Option<TimeLimit>)>,

    /// Whether clients must come with TLS [allow]
    #[arg(long, value_enum, help_heading = "Who may come in")]
    client_tls: Option<Encryption>,
    /// Whether rules may name postgres, superusers and pg_* roles [refuse]
    #[arg(long, value_enum, help_heading = "Who may come in")]
    privileged_roles: Option<Privileged>,
    /// Accept tokens from this network only; may be given several times
    #[arg(long = "network", value_name = "CIDR", value_parser = words::network, help_heading = "Who may come in")]
    networks: Vec<IpNet>,
    /// Accept tokens from anywhere again
    #[arg(long, conflicts_with = "networks", help_heading = "Who may come in")]
    any_network: bool,
}

impl TenantOptions {
    /// The request that makes `tenant`.
    pub(super) fn addition(
        self,
        tenant: TenantRef,
        parent: Option<TenantRef>,
        token_access: bool,
    ) -> Result<TenantFields, CliError> {
        let token_access = token_access.then_some(TokenAccess::Enabled);
        Ok(TenantFields {
            tenant: Some(tenant),
            parent,
            token_access,
            ..self.fields()?
        })
    }

    /// The request that changes what was named.
    pub(super) fn changes(self) -> Result<TenantFields, CliError> {
        let fields = self.fields()?;
        if fields == TenantFields::default() {
            return Err(CliError::NothingToChange);
        }
        Ok(fields)
    }

    fn fields(self) -> Result<TenantFields, CliError> {
        let networks = (self.any_network || !self.networks.is_empty()).then_some(self.networks);
        Ok(TenantFields {
            name: self.name,
            host: self.host,
            port: self.port,
            default_database: name(self.database, DatabaseName::parse)?,
            backend_tls: self.tls.map(Into::into),
            backend_ca: self.ca.map(|path| authorities(&path)).transpose()?,
            login: self.login.map(Into::into),
            auth_user: name(self.auth_user, RoleName::parse)?,
            auth_query: self
                .auth_query
                .map(|query| Some(query).filter(|query| !query.is_empty())),
            auth_database: name(self.auth_database, DatabaseName::parse)?,
            pool_size: self.pool_size.map(or_configured),
            backend_budget: self.backend_budget.map(or_configured),
            max_clients: self.max_clients.map(or_configured),
            timeouts: timeouts(self.timeouts),
            client_tls: self.client_tls.map(Into::into),
            privileged_roles: self.privileged_roles.map(Into::into),
            networks,
            ..TenantFields::default()
        })
    }
}

/// A name, or `Some(None)` where an empty text asks to clear it.
fn name<T>(
    text: Option<String>,
    parse: impl FnOnce(&str) -> Result<T, NameError>,
) -> Result<Option<Option<T>>, CliError> {
    match text.as_deref() {
        None => Ok(None),
        Some("") => Ok(Some(None)),
        Some(text) => Ok(Some(Some(parse(text)?))),
    }
}

fn authorities(path: &Path) -> Result<Option<String>, CliError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    input::text_file(path).map(Some)
}

/// What a tenant may limit the time of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timeout {
    Queue,
    Idle,
    IdleInTransaction,
    Query,
    Transaction,
}

/// Reads `query=30s`; without a time, the configured one holds again.
fn timeout(text: &str) -> Result<(Timeout, Option<TimeLimit>), String> {
    let (name, limit) = text
        .split_once('=')
        .ok_or("write NAME=TIME, as in query=30s")?;
    let name = match name {
        "queue" => Timeout::Queue,
        "idle" => Timeout::Idle,
        "idle_in_transaction" => Timeout::IdleInTransaction,
        "query" => Timeout::Query,
        "transaction" => Timeout::Transaction,
        _ => {
            return Err(
                "the name is one of query, transaction, idle, idle_in_transaction and queue".into(),
            );
        }
    };
    match limit {
        "" => Ok((name, None)),
        _ => limit
            .parse()
            .map(|limit| (name, Some(limit)))
            .map_err(|error: InvalidLimit| error.to_string()),
    }
}

fn timeouts(given: Vec<(Timeout, Option<TimeLimit>)>) -> TimeoutFields {
    let mut fields = TimeoutFields::default();
    for (name, limit) in given {
        let field = match name {
            Timeout::Queue => &mut fields.queue,
            Timeout::Idle => &mut fields.idle,
            Timeout::IdleInTransaction => &mut fields.idle_in_transaction,
            Timeout::Query => &mut fields.query,
            Timeout::Transaction => &mut fields.transaction,
        };
        *field = Some(limit);
    }
    fields
}

fn or_configured(number: u32) -> Option<u32> {
    Some(number).filter(|&number| number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_not_sent_and_what_is_empty_is_cleared() {
        let options = TenantOptions {
            database: Some(String::new()),
            pool_size: Some(0),
            max_clients: Some(7),
            timeouts: vec![timeout("query=30s").unwrap(), timeout("idle=").unwrap()],
            ..TenantOptions::default()
        };
        let sent = serde_json::to_value(options.changes().unwrap()).unwrap();
        assert_eq!(
            sent,
            serde_json::json!({"default_database": null, "pool_size": null, "max_clients": 7,
                "timeouts": {"query": "30s", "idle": null}})
        );
    }

    #[test]
    fn a_timeout_is_a_name_and_a_time() {
        for wrong in ["query", "login=3s", "query=soon", "query=0s"] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_change_of_nothing_is_refused() {
        let refused = TenantOptions::default().changes();
        assert!(matches!(refused, Err(CliError::NothingToChange)));
    }
}
