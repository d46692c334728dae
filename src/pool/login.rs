//! How a pool's backends log in to the server.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    access::certificates::{CertificateAuthority, MintError, Subject},
    backend::Credentials,
    names::{PersonId, RoleName, TenantRef},
    protocol::scram::ScramKeys,
};

/// What a pool's credentials are made from, each time a backend is opened.
pub enum Login {
    Keys(ScramKeys),
    Password(Zeroizing<String>),
    /// A certificate minted for the person and role on their grant, valid for the login only.
    Certificate {
        authority: Arc<CertificateAuthority>,
        tenant: TenantRef,
        role: RoleName,
        person: PersonId,
        grant: Uuid,
        lifetime: Duration,
    },
    /// The token that the sessions of the pool have shown; `None`: the last of them has left.
    Token(Option<Zeroizing<String>>),
}

impl Login {
    /// The credentials for one connection.
    pub fn credentials(&self) -> Result<Credentials, MintError> {
        Ok(match self {
            Self::Keys(keys) => Credentials::Keys(keys.clone()),
            Self::Password(password) => Credentials::Password(password.clone()),
            Self::Token(Some(token)) => Credentials::Token(token.clone()),
            Self::Token(None) => Credentials::None,
            Self::Certificate {
                authority,
                tenant,
                role,
                person,
                grant,
                lifetime,
            } => {
                let subject = Subject {
                    person: *person,
                    role,
                    grant: *grant,
                    tenant,
                };
                Credentials::Certificate(authority.mint(&subject, *lifetime)?.identity)
            }
        })
    }
}
