//! What two sessions must share to share backends.

use std::fmt;

use crate::{
    access::Grant,
    names::{DatabaseName, PersonId, RoleName, TenantRef},
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
}
