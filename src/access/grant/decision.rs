//! The three ways to a [`Grant`]: by a token of ours, by an issuer's proof, and by an external authority's word.

use std::net::IpAddr;

use ipnet::IpNet;
use time::{Duration, OffsetDateTime};

use super::{
    Denial, Grant, InvalidToken,
    terms::{is_enabled, standing_rule, within_limits, within_tenant},
};
use crate::{
    access::{authority::Verdict, external::Told, jwt::Proven},
    catalog::{
        RULE_DAYS_MAX,
        types::{Authority, Evidence, Person, Tenant, TokenRecord},
    },
    names::{RoleName, TokenId},
};

/// Decides from `evidence`, whose token has been verified, whether `role` may be used from `from` at `now`.
///
/// Of several rules (a branch may have its own beside its parent's) the one that allows it longest is taken; if
/// none allows it, the refusal is that of the rule that came nearest.
pub(in crate::access) fn decide(
    evidence: &Evidence,
    role: &RoleName,
    from: IpAddr,
    now: OffsetDateTime,
) -> Result<Grant, Denial> {
    let (token, person, tenant) = by_token(evidence, role, now)?;
    let at = Moment {
        evidence,
        token: &token.id,
        role,
        from,
        now,
    };
    let grant = by_rule(&at, tenant, person, token.expires_at)?;
    Ok(Grant {
        replaced_by: token.replaced_by.clone(),
        ..grant
    })
}

/// What a person may use from the right address. No grant: nobody has come from anywhere yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    pub expires_at: OffsetDateTime,
    /// Of the rule; empty: anywhere.
    pub networks: Vec<IpNet>,
}

/// Decides like [`decide`], but for whether the address is right.
pub(in crate::access) fn reachable(
    evidence: &Evidence,
    role: &RoleName,
    now: OffsetDateTime,
) -> Result<Reachable, Denial> {
    let (token, _, tenant) = by_token(evidence, role, now)?;
    let rule = standing_rule(evidence, tenant, role, None, now)?;
    Ok(Reachable {
        expires_at: rule.expires_at.min(token.expires_at),
        networks: rule.networks.clone(),
    })
}

/// Whose token it is and for which tenant, if it is good for `role` there.
fn by_token<'a>(
    evidence: &'a Evidence,
    role: &RoleName,
    now: OffsetDateTime,
) -> Result<(&'a TokenRecord, &'a Person, &'a Tenant), Denial> {
    let (Some(token), Some(person)) = (&evidence.token, &evidence.person) else {
        return Err(Denial::InvalidToken(InvalidToken::Unknown));
    };
    if token.revoked_at.is_some() {
        return Err(Denial::InvalidToken(InvalidToken::Revoked));
    }
    if token.expires_at <= now {
        return Err(Denial::InvalidToken(InvalidToken::Expired));
    }
    let tenant = evidence
        .tenant
        .as_deref()
        .ok_or(Denial::InvalidToken(InvalidToken::Tenant))?;
    if evidence.authority(tenant) != &Authority::Catalogue {
        return Err(Denial::OtherAuthority);
    }
    token
        .limits
        .allow_login(tenant, role)
        .map_err(Denial::OutsideToken)?;
    Ok((token, person, tenant))
}

/// What is asked for, and the evidence of one moment to decide it by.
pub(in crate::access) struct Moment<'a> {
    pub(in crate::access) evidence: &'a Evidence,
    pub(in crate::access) token: &'a TokenId,
    pub(in crate::access) role: &'a RoleName,
    pub(in crate::access) from: IpAddr,
    pub(in crate::access) now: OffsetDateTime,
}

/// Decides from what an external authority has told, and from the tenant's own record in `evidence`, which was read
/// after that. What the tenant itself limits holds whatever its authority says.
pub(in crate::access) fn decide_by_word(at: &Moment<'_>, told: &Told) -> Result<Grant, Denial> {
    let Moment {
        evidence,
        token,
        role,
        from,
        now,
    } = *at;
    let tenant = evidence
        .tenant
        .as_deref()
        .ok_or(Denial::InvalidToken(InvalidToken::Tenant))?;
    let authority = evidence.authority(tenant);
    if !matches!(authority, Authority::Http(authority) if *authority == told.authority) {
        // Another one is in charge by now.
        return Err(Denial::Revoked);
    }
    if !is_enabled(evidence, tenant) {
        return Err(Denial::NotEnabled);
    }
    within_tenant(evidence, tenant, role, Some(from))?;
    let Verdict {
        person,
        expires_at,
        networks,
        reach,
    } = &told.verdict;
    let longest = now + Duration::days(RULE_DAYS_MAX);
    let expires_at = expires_at.map_or(longest, |at| at.min(longest));
    within_limits(expires_at, *reach, networks, tenant, Some(from), now)?;
    let known = evidence.person.as_ref();
    Ok(Grant {
        person: *person,
        email: known.map_or_else(|| person.to_string(), |person| person.email.clone()),
        tenant: tenant.tenant.clone(),
        role: role.clone(),
        rule: None,
        token: token.clone(),
        networks: networks.clone(),
        reach: *reach,
        expires_at,
        revision: evidence.revision,
        replaced_by: None,
    })
}

/// Decides by the catalogue's rules for a person who has proven who they are, until their proof runs out.
pub(in crate::access) fn decide_by_proof(
    at: &Moment<'_>,
    proven: &Proven,
) -> Result<Grant, Denial> {
    let tenant = at
        .evidence
        .tenant
        .as_deref()
        .ok_or(Denial::InvalidToken(InvalidToken::Tenant))?;
    let authority = at.evidence.authority(tenant);
    if !matches!(authority, Authority::Jwt(authority) if *authority == proven.authority) {
        return Err(Denial::Revoked);
    }
    if proven.expires_at <= at.now {
        return Err(Denial::InvalidToken(InvalidToken::Expired));
    }
    let person = at.evidence.person.as_ref().ok_or(Denial::NotAMember)?;
    by_rule(at, tenant, person, proven.expires_at)
}

/// Decides by the rules in the evidence for `person`, whose token has been verified and is good until `token_end`.
fn by_rule(
    at: &Moment<'_>,
    tenant: &Tenant,
    person: &Person,
    token_end: OffsetDateTime,
) -> Result<Grant, Denial> {
    let rule = standing_rule(at.evidence, tenant, at.role, Some(at.from), at.now)?;
    Ok(Grant {
        person: person.id,
        email: person.email.clone(),
        tenant: tenant.tenant.clone(),
        role: at.role.clone(),
        rule: Some(rule.id),
        token: at.token.clone(),
        networks: rule.networks.clone(),
        reach: rule.reach,
        expires_at: rule.expires_at.min(token_end),
        revision: at.evidence.revision,
        replaced_by: None,
    })
}
