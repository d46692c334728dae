//! What two sessions must share to share backends.

use std::{fmt, rc::Rc};

use crate::{
    access::Grant,
    backend,
    names::{DatabaseName, PersonId, RoleName, TenantRef},
    protocol::{options::is_setting, parameters::Settings, startup::Replication},
};

/// Who the sessions of a pool act for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Anybody who knows the role's password.
    Password,
    /// One person, proven by a grant.
    Person(PersonId),
    /// The pooler itself, asking for password verifiers.
    AuthQuery,
}

impl Principal {
    #[must_use]
    pub fn of(grant: &Grant) -> Self {
        Self::Person(grant.person())
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password => f.write_str("password"),
            Self::Person(person) => write!(f, "person:{person}"),
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
