//! Choices as they are typed, and the catalogue's values that they stand for.

use std::{net::IpAddr, time::Duration};

use clap::ValueEnum;
use ipnet::IpNet;
use time::OffsetDateTime;

use crate::{
    admin::{
        expiry::{self, ExpiryError},
        networks::{self, NotANetwork},
    },
    catalog::types::{BackendLogin, BackendTls, ClientTls, MemberKind, PrivilegedRoles},
};

#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    Owner,
    Administrator,
    Member,
}

impl From<Kind> for MemberKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Owner => Self::Owner,
            Kind::Administrator => Self::Administrator,
            Kind::Member => Self::Member,
        }
    }
}

/// As libpq's `sslmode`.
#[derive(Clone, Copy, ValueEnum)]
pub enum Tls {
    /// Never encrypt
    Disable,
    /// Encrypt, trust any server
    Require,
    /// Encrypt, and check who signed the server's certificate
    VerifyCa,
    /// Encrypt, and check who signed the certificate and that it names the host
    VerifyFull,
}

impl From<Tls> for BackendTls {
    fn from(tls: Tls) -> Self {
        match tls {
            Tls::Disable => Self::Disable,
            Tls::Require => Self::Require,
            Tls::VerifyCa => Self::VerifyCa,
            Tls::VerifyFull => Self::VerifyFull,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Login {
    /// A client certificate made for the person and role; PostgreSQL sees who it is
    Certificate,
    /// The role's password, kept with `sluice tenant secret set`
    #[value(name = "role_secret", alias = "role-secret")]
    RoleSecret,
    /// The person's own token, for servers whose PAM checks tokens (needs verify-ca or verify-full)
    #[value(name = "passthrough")]
    PassThrough,
}

impl From<Login> for BackendLogin {
    fn from(login: Login) -> Self {
        match login {
            Login::Certificate => Self::Certificate,
            Login::RoleSecret => Self::RoleSecret,
            Login::PassThrough => Self::PassThrough,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Encryption {
    /// Clients may come without TLS (never with a token)
    Allow,
    /// Clients without TLS are refused
    Require,
}

impl From<Encryption> for ClientTls {
    fn from(encryption: Encryption) -> Self {
        match encryption {
            Encryption::Allow => Self::Allow,
            Encryption::Require => Self::Require,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Privileged {
    /// No rule may name postgres, a superuser or a pg_* role
    Refuse,
    /// Rules may name any role
    Allow,
}

impl From<Privileged> for PrivilegedRoles {
    fn from(privileged: Privileged) -> Self {
        match privileged {
            Privileged::Refuse => Self::Refuse,
            Privileged::Allow => Self::Allow,
        }
    }
}

/// When something is to end, as it was typed: the pooler reads it by its own clock. What it could not read is
/// refused before anything is sent.
pub(super) fn expiry(text: &str) -> Result<String, ExpiryError> {
    expiry::parse(text, OffsetDateTime::now_utc()).map(|_| text.to_owned())
}

/// How long something is to last, as it was typed.
pub(super) fn lasting(text: &str) -> Result<String, ExpiryError> {
    expiry::lasting(text).map(|_| text.to_owned())
}

/// How long something is to last on, or `0`; read by the pooler as well.
pub(super) fn overlap(text: &str) -> Result<String, ExpiryError> {
    expiry::overlap(text).map(|_| text.to_owned())
}

/// A while: `5s`, `2min`.
pub(super) fn span(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

/// A network as people write it: `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, NotANetwork> {
    let network = networks::parse(text)?;
    if text.parse::<IpNet>().is_ok_and(|typed| typed != network) {
        eprintln!("note: {text} is taken as {network}");
    }
    Ok(network)
}

/// A host name or address alone, or a folder. The catalogue checks it as well; this says it before anything is sent.
pub(super) fn host(text: &str) -> Result<String, String> {
    if !text.starts_with('/')
        && text.parse::<IpAddr>().is_err()
        && text.contains(['/', ':', '[', '@'])
    {
        return Err(
            "write the host name or address alone, or the folder of a Unix socket from / on, and use --port for the port"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_comes_without_scheme_and_port() {
        for good in [
            "db.example.com",
            "192.0.2.1",
            "::1",
            "localhost",
            "/run/postgresql",
        ] {
            assert_eq!(host(good).as_deref(), Ok(good));
        }
        for bad in ["http://foo", "h:5432", "[::1]", "user@h", "192.0.2.1:5432"] {
            assert!(host(bad).unwrap_err().contains("use --port"), "{bad}");
        }
    }
}
