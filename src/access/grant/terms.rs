//! The terms on which a role may be used: those of the tenant for everybody, those of a rule or of an authority's word for one
//! person.

use std::net::IpAddr;

use ipnet::IpNet;
use time::OffsetDateTime;

use super::Denial;
use crate::{
    catalog::{
        is_privileged,
        types::{Authority, Evidence, PrivilegedRoles, Rule, RuleReach, Tenant, TokenAccess},
    },
    names::RoleName,
};

/// The rule that lets the person use `role` now; `from` is `None` where it is not asked whether the address is right.
pub(super) fn standing_rule<'a>(
    evidence: &'a Evidence,
    tenant: &Tenant,
    role: &RoleName,
    from: Option<IpAddr>,
    now: OffsetDateTime,
) -> Result<&'a Rule, Denial> {
    if !is_enabled(evidence, tenant) {
        return Err(Denial::NotEnabled);
    }
    if evidence.standing.is_none() {
        return Err(Denial::NotAMember);
    }
    within_tenant(evidence, tenant, role, from)?;
    best_rule(&evidence.rules, tenant, from, now)
}

/// What the tenant itself allows, to anybody.
pub(super) fn within_tenant(
    evidence: &Evidence,
    tenant: &Tenant,
    role: &RoleName,
    from: Option<IpAddr>,
) -> Result<(), Denial> {
    if is_privileged(tenant, role) && tenant.privileged_roles == PrivilegedRoles::Refuse {
        return Err(Denial::PrivilegedRole);
    }
    if !within(evidence.networks(tenant), from) {
        return Err(Denial::ProjectNetwork);
    }
    Ok(())
}

pub(super) fn is_enabled(evidence: &Evidence, tenant: &Tenant) -> bool {
    let parent = evidence.parent.as_deref();
    tenant.token_access == TokenAccess::Enabled
        || parent.is_some_and(|parent| parent.token_access == TokenAccess::Enabled)
}

impl Evidence {
    pub(super) fn authority<'a>(&'a self, tenant: &'a Tenant) -> &'a Authority {
        tenant.answering(self.parent.as_deref())
    }

    /// Where tokens are accepted from: a branch that does not say has its parent's networks, for the switch of the parent
    /// opens branches to come, too.
    fn networks<'a>(&'a self, tenant: &'a Tenant) -> &'a [IpNet] {
        match &self.parent {
            Some(parent) if tenant.networks.is_empty() => &parent.networks,
            _ => &tenant.networks,
        }
    }
}

fn best_rule<'a>(
    rules: &'a [Rule],
    tenant: &Tenant,
    from: Option<IpAddr>,
    now: OffsetDateTime,
) -> Result<&'a Rule, Denial> {
    let mut refusal = Denial::NoRule;
    let mut best: Option<&Rule> = None;
    for rule in rules {
        match within_limits(
            rule.expires_at,
            rule.reach,
            &rule.networks,
            tenant,
            from,
            now,
        ) {
            Ok(()) if best.is_none_or(|other| other.expires_at < rule.expires_at) => {
                best = Some(rule)
            }
            Ok(()) => {}
            Err(reason) => refusal = reason,
        }
    }
    best.ok_or(refusal)
}

/// Whether something that lasts until `expires_at`, on such tenants and in these networks, holds here and now.
pub(super) fn within_limits(
    expires_at: OffsetDateTime,
    reach: RuleReach,
    networks: &[IpNet],
    tenant: &Tenant,
    from: Option<IpAddr>,
    now: OffsetDateTime,
) -> Result<(), Denial> {
    if expires_at <= now {
        return Err(Denial::RuleExpired);
    }
    if reach == RuleReach::BranchesOnly && tenant.parent.is_none() {
        return Err(Denial::BranchesOnly);
    }
    if !within(networks, from) {
        return Err(Denial::Network);
    }
    Ok(())
}

/// Whether `address`, if one is to be judged, is in one of `networks`; no networks: anywhere. An IPv4 address that
/// comes mapped into IPv6 is judged as the IPv4 address it is.
fn within(networks: &[IpNet], address: Option<IpAddr>) -> bool {
    let Some(address) = address.map(|address| address.to_canonical()) else {
        return true;
    };
    networks.is_empty() || networks.iter().any(|network| network.contains(&address))
}
