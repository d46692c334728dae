//! What a token is good for at most, whatever its person may do. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    catalog::types::Tenant,
    names::{RoleName, TenantRef},
};

/// Tenants or roles that one token may name.
const NAMES_MAX: usize = 100;

/// A kind of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum TokenScope {
    /// Logging in to databases.
    #[serde(rename = "db:connect")]
    Connect,
    /// Managing, by the admin API, what the person may manage.
    #[serde(rename = "manage")]
    Manage,
}

/// The limits of one token. They take away from what its person may do and never add to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenLimits {
    pub scopes: BTreeSet<TokenScope>,
    /// These tenants and their branches only; empty: any.
    #[serde(default)]
    pub tenants: BTreeSet<TenantRef>,
    /// These database roles only; empty: any.
    #[serde(default)]
    pub roles: BTreeSet<RoleName>,
}

/// Which limit of a token is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutsideLimits {
    #[error("not made for this kind of use")]
    Scope,
    #[error("limited to other projects")]
    Tenant,
    #[error("limited to other roles")]
    Role,
}

impl Default for TokenLimits {
    /// Good for logging in anywhere, and for nothing else.
    fn default() -> Self {
        Self {
            scopes: BTreeSet::from([TokenScope::Connect]),
            tenants: BTreeSet::new(),
            roles: BTreeSet::new(),
        }
    }
}

impl TokenLimits {
    /// Whether the token may be used to log in to `tenant` as `role`.
    pub fn allow_login(&self, tenant: &Tenant, role: &RoleName) -> Result<(), OutsideLimits> {
        if !self.scopes.contains(&TokenScope::Connect) {
            return Err(OutsideLimits::Scope);
        }
        if !self.cover(tenant) {
            return Err(OutsideLimits::Tenant);
        }
        if !self.name_role(role) {
            return Err(OutsideLimits::Role);
        }
        Ok(())
    }

    #[must_use]
    pub fn is_for_managing(&self) -> bool {
        self.scopes.contains(&TokenScope::Manage)
    }

    /// Whether the token may be used to manage `tenant`. That its person may is for others to say.
    pub fn allow_management(&self, tenant: &Tenant) -> Result<(), OutsideLimits> {
        if !self.is_for_managing() {
            return Err(OutsideLimits::Scope);
        }
        if !self.cover(tenant) {
            return Err(OutsideLimits::Tenant);
        }
        Ok(())
    }

    /// Whether they leave all that the person may do with databases.
    #[must_use]
    pub fn reach_everything(&self) -> bool {
        self.tenants.is_empty() && self.roles.is_empty()
    }

    /// Whether `role` is one of those that they name, or they name none.
    #[must_use]
    pub fn name_role(&self, role: &RoleName) -> bool {
        self.roles.is_empty() || self.roles.contains(role)
    }

    /// As a rule of a tenant holds on its branches, a token for it does.
    #[must_use]
    pub fn cover(&self, tenant: &Tenant) -> bool {
        let named = |tenant| self.tenants.contains(tenant);
        self.tenants.is_empty()
            || named(&tenant.tenant)
            || tenant.parent.as_ref().is_some_and(named)
    }

    /// What is wrong with them: the field, and how.
    pub(super) fn flaw(&self) -> Option<(&'static str, &'static str)> {
        if self.scopes.is_empty() {
            return Some(("scopes", "must hold db:connect or manage"));
        }
        if self.tenants.len() > NAMES_MAX {
            return Some(("tenants", "holds more than 100 tenants"));
        }
        (self.roles.len() > NAMES_MAX).then_some(("roles", "holds more than 100 roles"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::tenant;

    fn role(name: &str) -> RoleName {
        RoleName::parse(name).unwrap()
    }

    #[test]
    fn unless_told_a_token_logs_in_anywhere_and_manages_nothing() {
        let limits = TokenLimits::default();
        assert_eq!(limits.allow_login(&tenant("demo"), &role("app")), Ok(()));
        assert_eq!(
            limits.allow_management(&tenant("demo")),
            Err(OutsideLimits::Scope)
        );
    }

    #[test]
    fn each_limit_holds_by_itself() {
        let limits = TokenLimits {
            tenants: BTreeSet::from([TenantRef::parse("demo").unwrap()]),
            roles: BTreeSet::from([role("app")]),
            ..TokenLimits::default()
        };
        let demo = tenant("demo");
        assert_eq!(limits.allow_login(&demo, &role("app")), Ok(()));
        assert_eq!(
            limits.allow_login(&demo, &role("other")),
            Err(OutsideLimits::Role)
        );
        assert_eq!(
            limits.allow_login(&tenant("other"), &role("app")),
            Err(OutsideLimits::Tenant)
        );
        let managing = TokenLimits {
            scopes: BTreeSet::from([TokenScope::Manage]),
            ..limits
        };
        assert_eq!(
            managing.allow_login(&demo, &role("app")),
            Err(OutsideLimits::Scope)
        );
        assert_eq!(managing.allow_management(&demo), Ok(()));
        assert_eq!(
            managing.allow_management(&tenant("other")),
            Err(OutsideLimits::Tenant)
        );
    }

    #[test]
    fn a_token_for_a_tenant_is_good_on_its_branches() {
        let limits = TokenLimits {
            tenants: BTreeSet::from([TenantRef::parse("demo").unwrap()]),
            ..TokenLimits::default()
        };
        let branch = Tenant {
            parent: Some(TenantRef::parse("demo").unwrap()),
            ..tenant("branch")
        };
        assert_eq!(limits.allow_login(&branch, &role("app")), Ok(()));
    }

    #[test]
    fn words_are_those_of_the_api() {
        let text = serde_json::to_string(&TokenLimits::default()).unwrap();
        assert_eq!(text, r#"{"scopes":["db:connect"],"tenants":[],"roles":[]}"#);
    }
}
