//! Choices as they are typed, and the catalogue's values that they stand for.

use std::net::IpAddr;

use clap::ValueEnum;
use ipnet::IpNet;

use crate::catalog::types::{BackendLogin, BackendTls, ClientTls, MemberKind, PrivilegedRoles};

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
    RoleSecret,
}

impl From<Login> for BackendLogin {
    fn from(login: Login) -> Self {
        match login {
            Login::Certificate => Self::Certificate,
            Login::RoleSecret => Self::RoleSecret,
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

/// A network as people write it: `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    text.parse()
        .map_err(|_| "write a network (10.0.0.0/8, 2001:db8::/32) or one address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_a_network_of_one() {
        assert_eq!(network("192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
        assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert!(network("office").is_err());
    }
}
