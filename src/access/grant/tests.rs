use std::{net::IpAddr, sync::Arc};

use time::Duration;

use super::*;
use crate::catalog::{self, types::*};

fn tenant() -> Tenant {
    catalog::tests::tenant("demo")
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
