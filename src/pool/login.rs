//! How a pool's backends log in to the server.

use std::{sync::Arc, time::Duration};

use zeroize::Zeroizing;

use crate::{
    access::certificates::{CertificateAuthority, MintError},
    backend::Credentials,
    names::{PersonId, RuleId, TenantRef},
    names::RoleName,
    protocol::scram::ScramKeys,
};

/// What a pool's credentials are made from, each time a backend is opened.
pub enum Login {
    Keys(ScramKeys),
    Password(Zeroizing<String>),
    /// A certificate minted for the person and role, valid for the login only.
    Certificate {
        authority: Arc<CertificateAuthority>,
        tenant: TenantRef,
        role: RoleName,
        person: PersonId,
        rule: RuleId,
        lifetime: Duration,
    },
}

impl Login {
    /// The credentials for one connection.
    pub fn credentials(&self) -> Result<Credentials, MintError> {
        Ok(match self {
            Self::Keys(keys) => Credentials::Keys(keys.clone()),
            Self::Password(password) => Credentials::Password(password.clone()),
            Self::Certificate { authority, tenant, role, person, rule, lifetime } => {
                Credentials::Certificate(authority.mint(*person, role, rule.0, tenant, *lifetime)?)
            }
        })
    }
}
