//! Grants and refusals: what follows from the evidence in the catalogue.
//!
//! `decide` is a pure function of the evidence and the clock. A [`Grant`] has no other maker, so whoever holds
//! one knows that a rule allowed it.

use std::net::IpAddr;

use ipnet::IpNet;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{authority::Verdict, external::Told, jwt::Proven};
use crate::{
    catalog::types::{
        Authority, Evidence, OutsideLimits, Person, PrivilegedRoles, Revision, Rule, RuleReach,
        Tenant, TokenAccess, TokenRecord,
    },
    catalog::{RULE_DAYS_MAX, is_privileged},
    names::{PersonId, RoleName, RuleId, TenantRef, TokenId},
};

/// Live proof that this person may use this role of this tenant until then.
#[derive(Debug, Clone)]
pub struct Grant {
    person: PersonId,
    email: String,
    tenant: TenantRef,
    role: RoleName,
    /// `None`: an external authority allows it, no rule of ours.
    rule: Option<RuleId>,
    token: TokenId,
    networks: Vec<IpNet>,
    reach: RuleReach,
    expires_at: OffsetDateTime,
    revision: Revision,
    /// Another token was made in place of this one, which works on for a while.
    replaced_by: Option<TokenId>,
}

impl Grant {
    #[must_use]
    pub fn person(&self) -> PersonId {
        self.person
    }

    #[must_use]
    pub fn email(&self) -> &str {
        &self.email
    }

    #[must_use]
    pub fn tenant(&self) -> &TenantRef {
        &self.tenant
    }

    #[must_use]
    pub fn role(&self) -> &RoleName {
        &self.role
    }

    #[must_use]
    pub fn rule(&self) -> Option<RuleId> {
        self.rule
    }

    /// What certificates name the grant by: its rule, or the nil id where an external authority allows it.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.rule.map_or(Uuid::nil(), |rule| rule.0)
    }

    #[must_use]
    pub fn token(&self) -> &TokenId {
        &self.token
    }

    /// The token that was made in place of the one that was shown.
    #[must_use]
    pub fn replaced_by(&self) -> Option<&TokenId> {
        self.replaced_by.as_ref()
    }

    /// Networks of the rule; empty: anywhere.
    #[must_use]
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    #[must_use]
    pub fn reach(&self) -> RuleReach {
        self.reach
    }

    /// When the grant ends by itself: the earlier of the rule's and the token's expiry.
    #[must_use]
    pub fn expires_at(&self) -> OffsetDateTime {
        self.expires_at
    }

    /// The catalogue's revision that the grant was decided at.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }
}

/// Why a token does not open a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No such token, a wrong secret, an expired or a revoked one: one answer, so that nothing is given away.
    #[error("the token is not valid")]
    InvalidToken(InvalidToken),
    #[error("the token is {0}")]
    OutsideToken(OutsideLimits),
    /// Who is asked there knows nothing of our tokens.
    #[error("the project takes the tokens of another authority")]
    OtherAuthority,
    #[error("token access is not enabled for this database")]
    NotEnabled,
    #[error("the person is not a member of this project")]
    NotAMember,
    #[error("no rule grants this role")]
    NoRule,
    /// What the authority does not say more of, or not in our words.
    #[error("the project's authority does not allow this here and now")]
    Restricted,
    #[error("the access was revoked during the login")]
    Revoked,
    #[error("the rule for this role has expired")]
    RuleExpired,
    #[error("the rule does not allow the client's network address")]
    Network,
    #[error("the project does not allow token access from the client's network address")]
    ProjectNetwork,
    #[error("the rule holds on branches only")]
    BranchesOnly,
    #[error("the role is privileged and the project does not allow token access to such roles")]
    PrivilegedRole,
    #[error(
        "the server runs PostgreSQL {version}, older than the {needed} that token access needs"
    )]
    ServerTooOld { version: u32, needed: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidToken {
    Unknown,
    Expired,
    Revoked,
    /// The tenant does not exist: told like an unknown token.
    Tenant,
    /// The authority has answered for another role than the one asked for.
    OtherRole,
}

impl Denial {
    /// Whether the tenant says so to everybody, whatever their tokens, rules and addresses.
    pub(super) fn is_for_everybody(self) -> bool {
        matches!(
            self,
            Self::NotEnabled | Self::InvalidToken(InvalidToken::Tenant)
        )
    }

    /// The machine-readable reason for audit and API.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidToken(InvalidToken::Unknown) => "unknown_token",
            Self::InvalidToken(InvalidToken::Expired) => "token_expired",
            Self::InvalidToken(InvalidToken::Revoked) => "token_revoked",
            Self::InvalidToken(InvalidToken::Tenant) => "unknown_tenant",
            Self::InvalidToken(InvalidToken::OtherRole) => "other_role",
            Self::OutsideToken(OutsideLimits::Scope) => "token_scope",
            Self::OutsideToken(OutsideLimits::Tenant) => "token_tenant",
            Self::OutsideToken(OutsideLimits::Role) => "token_role",
            Self::OtherAuthority => "other_authority",
            Self::NotEnabled => "access_disabled",
            Self::NotAMember => "not_a_member",
            Self::NoRule => "no_rule",
            Self::Restricted => "restricted",
            Self::Revoked => "revoked",
            Self::RuleExpired => "rule_expired",
            Self::Network => "network",
            Self::ProjectNetwork => "project_network",
            Self::BranchesOnly => "branches_only",
            Self::PrivilegedRole => "privileged_role",
            Self::ServerTooOld { .. } => "server_too_old",
        }
    }
}

/// Decides from `evidence`, whose token has been verified, whether `role` may be used from `from` at `now`.
///
/// Of several rules (a branch may have its own beside its parent's) the one that allows it longest is taken; if
/// none allows it, the refusal is that of the rule that came nearest.
pub(super) fn decide(
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
pub(super) fn reachable(
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
pub(super) struct Moment<'a> {
    pub(super) evidence: &'a Evidence,
    pub(super) token: &'a TokenId,
    pub(super) role: &'a RoleName,
    pub(super) from: IpAddr,
    pub(super) now: OffsetDateTime,
}

/// Decides from what an external authority has told, and from the tenant's own record in `evidence`, which was read
/// after that. What the tenant itself limits holds whatever its authority says.
pub(super) fn decide_by_word(at: &Moment<'_>, told: &Told) -> Result<Grant, Denial> {
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
pub(super) fn decide_by_proof(at: &Moment<'_>, proven: &Proven) -> Result<Grant, Denial> {
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

/// The rule that lets the person use `role` now; `from` is `None` where it is not asked whether the address is right.
fn standing_rule<'a>(
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
fn within_tenant(
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

fn is_enabled(evidence: &Evidence, tenant: &Tenant) -> bool {
    let parent = evidence.parent.as_deref();
    tenant.token_access == TokenAccess::Enabled
        || parent.is_some_and(|parent| parent.token_access == TokenAccess::Enabled)
}

impl Evidence {
    fn authority<'a>(&'a self, tenant: &'a Tenant) -> &'a Authority {
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
fn within_limits(
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::catalog::types::*;

    fn tenant() -> Tenant {
        Tenant {
            tenant: TenantRef::parse("demo").unwrap(),
            name: "Demo".into(),
            parent: None,
            host: "localhost".into(),
            port: 5432,
            default_database: None,
            backend_tls: BackendTls::Disable,
            backend_ca: None,
            login: BackendLogin::RoleSecret,
            auth_user: None,
            auth_query: None,
            auth_database: None,
            pool_size: None,
            backend_budget: None,
            max_clients: None,
            timeouts: TenantTimeouts::default(),
            authority: Authority::Catalogue,
            client_tls: ClientTls::Allow,
            token_access: TokenAccess::Enabled,
            privileged_roles: PrivilegedRoles::Refuse,
            networks: Vec::new(),
            created_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn role() -> RoleName {
        RoleName::parse("app").unwrap()
    }

    fn home() -> IpAddr {
        "192.0.2.7".parse().unwrap()
    }

    fn evidence(now: OffsetDateTime) -> Evidence {
        let person = Person {
            id: PersonId::generate(),
            email: "a@example.com".into(),
            name: "A".into(),
            created_at: now,
        };
        let token = TokenRecord {
            id: TokenId::parse("abcdefghijkl").unwrap(),
            person: person.id,
            name: "t".into(),
            limits: TokenLimits::default(),
            created_at: now,
            created_by: None,
            expires_at: now + Duration::hours(2),
            revoked_at: None,
            revoked_by: None,
            replaced_by: None,
            last_used_at: None,
            last_used_from: None,
            mac: [0; 32],
        };
        let rule = Rule {
            id: RuleId::generate(),
            tenant: TenantRef::parse("demo").unwrap(),
            person: person.id,
            role: role(),
            expires_at: now + Duration::hours(1),
            networks: Vec::new(),
            reach: RuleReach::Everywhere,
            reason: None,
            created_by: "test".into(),
            created_at: now,
        };
        Evidence {
            revision: Revision(7),
            tenant: Some(Arc::new(tenant())),
            parent: None,
            token: Some(token),
            person: Some(person),
            standing: Some(Standing::Member),
            rules: vec![rule],
        }
    }

    fn with_tenant(mut evidence: Evidence, change: impl FnOnce(&mut Tenant)) -> Evidence {
        let mut changed = tenant();
        change(&mut changed);
        evidence.tenant = Some(Arc::new(changed));
        evidence
    }

    #[test]
    fn a_rule_grants_until_the_earlier_of_its_own_and_the_tokens_expiry() {
        let now = OffsetDateTime::now_utc();
        let mut evidence = evidence(now);
        let grant = decide(&evidence, &role(), home(), now).unwrap();
        assert_eq!(grant.expires_at(), now + Duration::hours(1));
        assert_eq!(grant.revision(), Revision(7));
        evidence.token.as_mut().unwrap().expires_at = now + Duration::minutes(5);
        let grant = decide(&evidence, &role(), home(), now).unwrap();
        assert_eq!(grant.expires_at(), now + Duration::minutes(5));
    }

    #[test]
    fn each_missing_piece_has_its_own_refusal() {
        let now = OffsetDateTime::now_utc();
        let whole = evidence(now);

        let cases: [(&str, Evidence); 9] = [
            (
                "unknown_token",
                Evidence {
                    token: None,
                    ..whole.clone()
                },
            ),
            (
                "unknown_tenant",
                Evidence {
                    tenant: None,
                    ..whole.clone()
                },
            ),
            (
                "not_a_member",
                Evidence {
                    standing: None,
                    ..whole.clone()
                },
            ),
            (
                "no_rule",
                Evidence {
                    rules: Vec::new(),
                    ..whole.clone()
                },
            ),
            (
                "access_disabled",
                with_tenant(whole.clone(), |t| t.token_access = TokenAccess::Disabled),
            ),
            (
                "project_network",
                with_tenant(whole.clone(), |t| {
                    t.networks = vec!["10.0.0.0/8".parse().unwrap()]
                }),
            ),
            (
                "network",
                changed_rule(&whole, |r| r.networks = vec!["10.0.0.0/8".parse().unwrap()]),
            ),
            ("rule_expired", changed_rule(&whole, |r| r.expires_at = now)),
            (
                "branches_only",
                changed_rule(&whole, |r| r.reach = RuleReach::BranchesOnly),
            ),
        ];
        for (reason, evidence) in cases {
            let denial = decide(&evidence, &role(), home(), now).unwrap_err();
            assert_eq!(denial.reason(), reason);
            // One person's denial must not be taken for that of all others.
            let for_everybody = ["unknown_tenant", "access_disabled"].contains(&reason);
            assert_eq!(denial.is_for_everybody(), for_everybody, "{reason}");
        }
    }

    #[test]
    fn what_a_token_is_limited_to_is_all_that_it_opens() {
        let now = OffsetDateTime::now_utc();
        let limited = |change: &dyn Fn(&mut TokenLimits)| {
            let mut evidence = evidence(now);
            change(&mut evidence.token.as_mut().unwrap().limits);
            decide(&evidence, &role(), home(), now).map_err(|denial| denial.reason())
        };
        let tenant = |name| [TenantRef::parse(name).unwrap()].into();
        assert!(limited(&|limits| limits.tenants = tenant("demo")).is_ok());
        assert!(limited(&|limits| limits.roles = [role()].into()).is_ok());
        assert_eq!(
            limited(&|limits| limits.tenants = tenant("other")).unwrap_err(),
            "token_tenant"
        );
        let other = RoleName::parse("other").unwrap();
        assert_eq!(
            limited(&|limits| limits.roles = [other.clone()].into()).unwrap_err(),
            "token_role"
        );
        assert_eq!(
            limited(&|limits| limits.scopes = [TokenScope::Manage].into()).unwrap_err(),
            "token_scope"
        );
    }

    #[test]
    fn what_is_reachable_holds_from_the_right_address_only() {
        let now = OffsetDateTime::now_utc();
        let elsewhere = changed_rule(&evidence(now), |r| {
            r.networks = vec!["10.0.0.0/8".parse().unwrap()]
        });
        let reach = reachable(&elsewhere, &role(), now).unwrap();
        assert_eq!(reach.networks.len(), 1);
        assert_eq!(
            decide(&elsewhere, &role(), home(), now).unwrap_err(),
            Denial::Network
        );
        let over = changed_rule(&elsewhere, |r| r.expires_at = now);
        assert_eq!(
            reachable(&over, &role(), now).unwrap_err(),
            Denial::RuleExpired
        );
    }

    fn changed_rule(evidence: &Evidence, change: impl FnOnce(&mut Rule)) -> Evidence {
        let mut evidence = evidence.clone();
        change(&mut evidence.rules[0]);
        evidence
    }

    #[test]
    fn a_branch_takes_its_parents_switch_and_branch_rules() {
        let now = OffsetDateTime::now_utc();
        let mut evidence = with_tenant(evidence(now), |t| {
            t.parent = Some(TenantRef::parse("main").unwrap());
            t.token_access = TokenAccess::Disabled;
        });
        evidence.rules[0].reach = RuleReach::BranchesOnly;
        assert_eq!(
            decide(&evidence, &role(), home(), now).unwrap_err(),
            Denial::NotEnabled
        );
        evidence.parent = Some(Arc::new(tenant()));
        assert!(decide(&evidence, &role(), home(), now).is_ok());
    }

    #[test]
    fn a_branch_that_says_nothing_of_networks_has_its_parents() {
        let now = OffsetDateTime::now_utc();
        let branch = |networks: &[&str]| {
            let evidence = with_tenant(evidence(now), |t| {
                t.parent = Some(TenantRef::parse("main").unwrap());
                t.networks = networks.iter().map(|net| net.parse().unwrap()).collect();
            });
            let parent = Tenant {
                networks: vec!["198.51.100.0/24".parse().unwrap()],
                ..tenant()
            };
            Evidence {
                parent: Some(Arc::new(parent)),
                ..evidence
            }
        };
        let decided = |evidence: &Evidence| decide(evidence, &role(), home(), now);
        assert_eq!(decided(&branch(&[])).unwrap_err(), Denial::ProjectNetwork);
        assert!(decided(&branch(&["192.0.2.0/24"])).is_ok());
        assert!(decided(&branch(&["0.0.0.0/0", "::/0"])).is_ok());
    }

    #[test]
    fn a_branch_has_its_parents_authority_if_it_says_so() {
        let now = OffsetDateTime::now_utc();
        let mut evidence = with_tenant(evidence(now), |t| {
            t.parent = Some(TenantRef::parse("main").unwrap());
            t.authority = Authority::Parent;
        });
        let decided = |evidence: &Evidence| decide(evidence, &role(), home(), now).map(drop);
        let refused = Err(Denial::OtherAuthority);
        assert_eq!(decided(&evidence), refused);
        evidence.parent = Some(Arc::new(tenant()));
        assert_eq!(decided(&evidence), Ok(()));
        let elsewhere = Authority::Http(Arc::new(HttpAuthority {
            url: AuthorityUrl::try_from("https://auth.example.com/".to_owned()).unwrap(),
            ca: None,
            deadline: None,
        }));
        evidence.parent = Some(Arc::new(Tenant {
            authority: elsewhere,
            ..tenant()
        }));
        assert_eq!(decided(&evidence), refused);
    }

    #[test]
    fn an_ipv4_client_on_an_ipv6_socket_is_judged_as_ipv4() {
        let now = OffsetDateTime::now_utc();
        let evidence = changed_rule(&evidence(now), |r| {
            r.networks = vec!["192.0.2.0/24".parse().unwrap()]
        });
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        assert!(decide(&evidence, &role(), mapped, now).is_ok());
    }

    #[test]
    fn privileged_roles_need_the_tenants_word() {
        let now = OffsetDateTime::now_utc();
        let postgres = RoleName::parse("postgres").unwrap();
        let evidence = evidence(now);
        assert_eq!(
            decide(&evidence, &postgres, home(), now).unwrap_err(),
            Denial::PrivilegedRole
        );
        let verifiers = with_tenant(evidence.clone(), |t| t.auth_user = Some(role()));
        assert_eq!(
            decide(&verifiers, &role(), home(), now).unwrap_err(),
            Denial::PrivilegedRole
        );
        let allowed = with_tenant(evidence, |t| t.privileged_roles = PrivilegedRoles::Allow);
        assert!(decide(&allowed, &postgres, home(), now).is_ok());
    }
}
