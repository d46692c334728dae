//! What two sessions must share to share backends.

use std::{fmt, rc::Rc};

use crate::{
    access::Grant,
    backend,
    catalog::types::BackendLogin,
    names::{DatabaseName, PersonId, RoleName, TenantRef, TokenId},
    protocol::{options::is_setting, parameters::Settings, startup::Replication},
};

/// Who the sessions of a pool act for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Anybody who knows the role's password.
    Password,
    /// One person, proven by a grant.
    Person(PersonId),
    /// One person with one of their tokens, where the token itself logs in: what becomes of one token must not reach
    /// the sessions of another.
    Token(PersonId, TokenId),
    /// The pooler itself, asking for password verifiers.
    AuthQuery,
}

impl Principal {
    /// Whom the sessions of `grant` act for at a server where people log in by `login`.
    #[must_use]
    pub fn of(grant: &Grant, login: BackendLogin) -> Self {
        match login {
            BackendLogin::Certificate | BackendLogin::RoleSecret => Self::Person(grant.person()),
            BackendLogin::PassThrough => Self::Token(grant.person(), grant.token().clone()),
        }
    }

    /// The person, if it is one.
    #[must_use]
    pub fn person(&self) -> Option<PersonId> {
        match self {
            Self::Person(person) | Self::Token(person, _) => Some(*person),
            Self::Password | Self::AuthQuery => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password => f.write_str("password"),
            Self::Person(person) | Self::Token(person, _) => write!(f, "person:{person}"),
            Self::AuthQuery => f.write_str("auth-query"),
        }
    }
}

/// Backends are shared by sessions of one key and by no others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub tenant: TenantRef,
    pub database: DatabaseName,
    pub role: RoleName,
    pub principal: Principal,
    pub service: Service,
}

/// What the backends of a pool are for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Service {
    Queries,
    /// A walsender takes its settings with its startup packet only, and serves one client.
    Walsender {
        replication: Replication,
        settings: Rc<Settings>,
    },
}

impl Service {
    /// Whether a backend that has served a client may serve another one.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        *self == Self::Queries
    }

    /// What a backend asks for in its startup packet, beside role and database.
    pub(super) fn startup(&self) -> Vec<(&str, &str)> {
        match self {
            Self::Queries => backend::PARAMETERS.to_vec(),
            Self::Walsender {
                replication,
                settings,
            } => {
                let asked = ("replication", replication.as_str());
                let settings = settings.iter().filter(|(name, _)| is_setting(name));
                settings.chain([asked]).collect()
            }
        }
    }

    /// The settings that a backend has from its startup packet.
    pub(super) fn settings(&self) -> Rc<Settings> {
        match self {
            Self::Queries => Rc::default(),
            Self::Walsender { settings, .. } => Rc::clone(settings),
        }
    }
}
