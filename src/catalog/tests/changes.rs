//! Each change does what it says, is told in the trail, and is refused for a reason one can act on.

use time::macros::datetime;

use super::{super::What, *};

macro_rules! assert_refused {
    ($outcome:expr, $refusal:pat) => {
        let error = refusal($outcome.await);
        assert!(matches!(error, $refusal), "{error:?}");
    };
}

#[tokio::test]
async fn a_tenant_comes_back_as_it_was_given() {
    let fixture = Fixture::open().await;
    let parent = fixture.tenant("main").await;
    let given = Tenant {
        parent: Some(parent),
        default_database: Some("app".parse().unwrap()),
        backend_tls: BackendTls::VerifyCa,
        backend_ca: Some("-----BEGIN CERTIFICATE-----\n".to_owned()),
        login: BackendLogin::RoleSecret,
        auth_user: Some(role("authenticator")),
        auth_query: Some("SELECT 1".to_owned()),
        auth_database: Some("postgres".parse().unwrap()),
        pool_size: Some(u32::MAX),
        backend_budget: Some(1),
        max_clients: Some(2),
        client_tls: ClientTls::Require,
        token_access: TokenAccess::Disabled,
        privileged_roles: PrivilegedRoles::Allow,
        networks: vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        ..tenant("demo")
    };
    let made = fixture.catalog.create_tenant(given.clone(), "test").await;
    let made = made.unwrap().value;
    assert!(made.created_at > datetime!(2020-01-01 0:00 UTC));
    let given = Tenant {
        created_at: made.created_at,
        ..given
    };
    assert_eq!(made, given);
    let read = fixture
        .catalog
        .tenant(&given.tenant)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(*read, given);
    assert_eq!(fixture.catalog.tenants().await.unwrap()[0], given);
}

#[tokio::test]
async fn an_update_of_a_tenant_is_seen_at_once_and_told_field_by_field() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let before = fixture.catalog.tenant(&demo).await.unwrap().unwrap();
    let new = Tenant {
        host: "db.example.com".to_owned(),
        token_access: TokenAccess::Disabled,
        ..tenant("demo")
    };
    let updated = fixture.catalog.update_tenant(new.clone(), "test").await;
    let updated = updated.unwrap();
    assert_eq!(updated.value.created_at, before.created_at);
    let after = fixture.catalog.tenant(&demo).await.unwrap().unwrap();
    assert_eq!(after.host, "db.example.com");
    let rows = fixture
        .catalog
        .audit_rows(AuditFilter::default())
        .await
        .unwrap();
    assert_eq!(rows[0].event.kind, "access.disabled");
    let expected =
        serde_json::json!({"changed": {"host": {"from": "127.0.0.1", "to": "db.example.com"}}});
    assert_eq!(rows[1].event.detail, expected);

    let again = fixture.catalog.update_tenant(new, "test").await.unwrap();
    assert_eq!(again.revision, updated.revision, "nothing changed");
    assert_eq!(fixture.kinds().await.len(), 3);
}

#[tokio::test]
async fn a_tenant_is_made_once_and_must_make_sense() {
    let fixture = Fixture::open().await;
    fixture.tenant("demo").await;
    let catalog = &fixture.catalog;
    assert_refused!(
        catalog.create_tenant(tenant("demo"), "test"),
        CatalogError::Exists {
            what: What::Tenant,
            ..
        }
    );
    assert_refused!(
        catalog.update_tenant(tenant("other"), "test"),
        CatalogError::NotFound {
            what: What::Tenant,
            ..
        }
    );
    assert_refused!(
        catalog.remove_tenant(&tenant("other").tenant, "test"),
        CatalogError::NotFound {
            what: What::Tenant,
            ..
        }
    );
    for senseless in [
        Tenant {
            host: String::new(),
            ..tenant("x")
        },
        Tenant {
            host: "a b".to_owned(),
            ..tenant("x")
        },
        Tenant {
            port: 0,
            ..tenant("x")
        },
        Tenant {
            pool_size: Some(0),
            ..tenant("x")
        },
        Tenant {
            name: "a\nb".to_owned(),
            ..tenant("x")
        },
    ] {
        assert_refused!(
            catalog.create_tenant(senseless, "test"),
            CatalogError::Invalid { .. }
        );
    }
    assert_eq!(catalog.revision().await.unwrap(), Revision(1));
}

#[tokio::test]
async fn branches_are_one_deep_and_keep_their_parent() {
    let fixture = Fixture::open().await;
    let main = fixture.tenant("main").await;
    let branch = fixture.branch("branch", &main).await;
    let catalog = &fixture.catalog;
    assert_eq!(catalog.branches(&main).await.unwrap()[0].tenant, branch);
    assert_refused!(
        catalog.remove_tenant(&main, "test"),
        CatalogError::HasBranches { .. }
    );
    let child_of = |parent: &TenantRef, name: &str| Tenant {
        parent: Some(parent.clone()),
        ..tenant(name)
    };
    assert_refused!(
        catalog.create_tenant(child_of(&branch, "twig"), "test"),
        CatalogError::BranchOfBranch { .. }
    );
    assert_refused!(
        catalog.update_tenant(child_of(&main, "main"), "test"),
        CatalogError::BranchOfBranch { .. }
    );
    let other = fixture.tenant("other").await;
    assert_refused!(
        catalog.update_tenant(child_of(&other, "main"), "test"),
        CatalogError::HasBranches { .. }
    );
    assert_refused!(
        catalog.create_tenant(child_of(&tenant("nowhere").tenant, "twig"), "test"),
        CatalogError::NotFound {
            what: What::Parent,
            ..
        }
    );
    catalog.remove_tenant(&branch, "test").await.unwrap();
    catalog.remove_tenant(&main, "test").await.unwrap();
    assert!(catalog.tenant(&main).await.unwrap().is_none());
}

#[tokio::test]
async fn a_role_secret_is_stored_replaced_and_removed() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let (catalog, app) = (&fixture.catalog, role("app"));
    assert!(catalog.role_secret(&demo, &app).await.unwrap().is_none());
    let password = |text: &str| RoleSecret::Password(Zeroizing::new(text.to_owned()));
    let verifier = RoleSecret::Verifier(Zeroizing::new("SCRAM-SHA-256$4096:a$b:c".to_owned()));
    catalog
        .set_role_secret(&demo, &app, password("first"), "test")
        .await
        .unwrap();
    catalog
        .set_role_secret(&demo, &app, verifier, "test")
        .await
        .unwrap();
    let stored = catalog.role_secret(&demo, &app).await.unwrap().unwrap();
    assert!(matches!(stored, RoleSecret::Verifier(text) if text.ends_with("$b:c")));
    catalog
        .remove_role_secret(&demo, &app, "test")
        .await
        .unwrap();
    assert!(catalog.role_secret(&demo, &app).await.unwrap().is_none());
    assert_refused!(
        catalog.remove_role_secret(&demo, &app, "test"),
        CatalogError::NotFound {
            what: What::RoleSecret,
            ..
        }
    );
    assert_refused!(
        catalog.set_role_secret(&tenant("other").tenant, &app, password("x"), "test"),
        CatalogError::NotFound {
            what: What::Tenant,
            ..
        }
    );
    let md5 = RoleSecret::Verifier(Zeroizing::new("md5abc".to_owned()));
    assert_refused!(
        catalog.set_role_secret(&demo, &app, md5, "test"),
        CatalogError::Invalid { .. }
    );
    assert_refused!(
        catalog.set_role_secret(&demo, &app, password(""), "test"),
        CatalogError::Invalid { .. }
    );
    let kinds = fixture.kinds().await;
    assert_eq!(
        kinds[1..],
        ["role_secret.set", "role_secret.set", "role_secret.removed"]
    );
}

#[tokio::test]
async fn an_address_belongs_to_one_person_in_whatever_case() {
    let fixture = Fixture::open().await;
    let catalog = &fixture.catalog;
    let made = catalog
        .create_person(" First@Example.com ", "First", "test")
        .await;
    let made = made.unwrap().value;
    assert_eq!(made.email, "first@example.com");
    let found = catalog.person_by_email("FIRST@example.com").await.unwrap();
    assert_eq!(found.as_ref(), Some(&made));
    assert_eq!(catalog.person(made.id).await.unwrap(), found);
    assert_refused!(
        catalog.create_person("first@EXAMPLE.com", "Again", "test"),
        CatalogError::Exists {
            what: What::Person,
            ..
        }
    );
    for email in [
        "",
        "first",
        "@example.com",
        "first@",
        "a@b@c",
        "a b@c",
        &"a@".repeat(200),
    ] {
        assert_refused!(
            catalog.create_person(email, "First", "test"),
            CatalogError::Invalid { field: "email", .. }
        );
    }
    assert_refused!(
        catalog.create_person("second@example.com", " ", "test"),
        CatalogError::Invalid { field: "name", .. }
    );
}

#[tokio::test]
async fn a_person_leaves_with_tokens_memberships_and_rules() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    fixture.rule(&demo, person, "app").await;
    let (record, _) = fixture.token(person).await;
    let catalog = &fixture.catalog;
    let removed = catalog.remove_person(person, "test").await.unwrap().value;
    assert_eq!(removed.email, "first@example.com");
    assert!(catalog.token(&record.id).await.unwrap().is_none());
    assert!(catalog.members(&demo).await.unwrap().is_empty());
    assert!(catalog.rules(&demo).await.unwrap().is_empty());
    assert_refused!(
        catalog.remove_person(person, "test"),
        CatalogError::NotFound {
            what: What::Person,
            ..
        }
    );
}

#[tokio::test]
async fn a_member_leaves_with_the_rules_that_the_membership_carried() {
    let fixture = Fixture::open().await;
    let main = fixture.tenant("main").await;
    let (left, kept) = (
        fixture.branch("left", &main).await,
        fixture.branch("kept", &main).await,
    );
    let person = fixture.member(&main, "first@example.com").await;
    let catalog = &fixture.catalog;
    catalog
        .set_member(&kept, person, MemberKind::Member, "test")
        .await
        .unwrap();
    for tenant in [&main, &left, &kept] {
        fixture.rule(tenant, person, "app").await;
    }
    catalog.remove_member(&main, person, "test").await.unwrap();
    assert!(catalog.rules(&main).await.unwrap().is_empty());
    assert!(catalog.rules(&left).await.unwrap().is_empty());
    assert_eq!(catalog.rules(&kept).await.unwrap().len(), 1);
    let rows = catalog.audit_rows(AuditFilter::default()).await.unwrap();
    assert_eq!(rows[0].event.detail["rules_removed"], 2);
    assert_refused!(
        catalog.remove_member(&main, person, "test"),
        CatalogError::NotFound {
            what: What::Member,
            ..
        }
    );
}

#[tokio::test]
async fn a_member_changes_in_kind_only() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let catalog = &fixture.catalog;
    let before = catalog.members(&demo).await.unwrap();
    let set = |kind| catalog.set_member(&demo, person, kind, "test");
    let owner = set(MemberKind::Owner).await.unwrap();
    assert_eq!(owner.value.created_at, before[0].created_at);
    assert_eq!(catalog.memberships(person).await.unwrap(), [owner.value]);
    let again = set(MemberKind::Owner).await.unwrap();
    assert_eq!(again.revision, owner.revision);
    let nobody = PersonId::generate();
    assert_refused!(
        catalog.set_member(&demo, nobody, MemberKind::Owner, "test"),
        CatalogError::NotFound {
            what: What::Person,
            ..
        }
    );
}

#[tokio::test]
async fn a_token_expires_within_a_year_and_is_revoked_once() {
    let fixture = Fixture::open().await;
    let person = fixture.person("first@example.com").await;
    let catalog = &fixture.catalog;
    let create = |name, hours| catalog.create_token(person, name, in_hours(hours), "test");
    assert_refused!(create("laptop", -1), CatalogError::ExpiryInThePast);
    assert_refused!(
        create("laptop", 367 * 24),
        CatalogError::ExpiryTooFar { max_days: 366 }
    );
    assert_refused!(create("", 1), CatalogError::Invalid { field: "name", .. });
    let nobody = PersonId::generate();
    assert_refused!(
        catalog.create_token(nobody, "laptop", in_hours(1), "test"),
        CatalogError::NotFound {
            what: What::Person,
            ..
        }
    );
    let made = create("laptop", 365 * 24).await.unwrap().value.0;
    assert_eq!(
        catalog.tokens(person).await.unwrap().as_slice(),
        [made.clone()]
    );
    let revoked = catalog.revoke_token(&made.id, "test").await.unwrap();
    assert!(revoked.value.revoked_at.is_some());
    assert_eq!(
        catalog.token(&made.id).await.unwrap().as_ref(),
        Some(&revoked.value)
    );
    let again = catalog.revoke_token(&made.id, "test").await.unwrap();
    assert_eq!(
        (again.value, again.revision),
        (revoked.value, revoked.revision)
    );
    let unknown = "abcdefghijkl".parse().unwrap();
    assert_refused!(
        catalog.revoke_token(&unknown, "test"),
        CatalogError::NotFound {
            what: What::Token,
            ..
        }
    );
}

#[tokio::test]
async fn the_last_use_of_a_token_is_noted_once_a_minute() {
    let fixture = Fixture::open().await;
    let person = fixture.person("first@example.com").await;
    let (record, _) = fixture.token(person).await;
    let catalog = &fixture.catalog;
    let at = datetime!(2026-03-01 10:00 UTC);
    for (seconds, from) in [(0, "192.0.2.1"), (30, "192.0.2.2"), (60, "2001:db8::3")] {
        catalog.touch_token(
            &record.id,
            at + Duration::seconds(seconds),
            from.parse().unwrap(),
        );
        catalog.flush().await.unwrap();
        let used = catalog.token(&record.id).await.unwrap().unwrap();
        let noted = if seconds == 30 {
            (0, "192.0.2.1")
        } else {
            (seconds, from)
        };
        assert_eq!(used.last_used_at, Some(at + Duration::seconds(noted.0)));
        assert_eq!(used.last_used_from, Some(noted.1.parse().unwrap()));
    }
    assert_eq!(
        catalog.revision().await.unwrap(),
        Revision(2),
        "use is no change"
    );
}

#[tokio::test]
async fn a_rule_comes_back_as_it_was_given_and_keeps_its_id_when_replaced() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let catalog = &fixture.catalog;
    let first = fixture.rule(&demo, person, "app").await;
    assert_eq!(
        catalog.rules(&demo).await.unwrap().as_slice(),
        [first.clone()]
    );
    let narrowed = NewRule {
        expires_at: in_hours(1),
        networks: vec!["192.0.2.0/24".parse().unwrap()],
        reach: RuleReach::BranchesOnly,
        reason: Some("incident 4711, \"urgent\"".to_owned()),
        ..new_rule("app")
    };
    let second = catalog
        .set_rule(&demo, person, narrowed.clone(), "another")
        .await
        .unwrap()
        .value;
    assert_eq!(second.id, first.id);
    assert_eq!(second.networks, narrowed.networks);
    assert_eq!(second.created_by, "another");
    assert_eq!(catalog.rules_of(&demo, person).await.unwrap(), [second]);
    let rows = catalog.audit_rows(AuditFilter::default()).await.unwrap();
    assert_eq!(rows[0].event.kind, "rule.changed");
    assert_eq!(rows[0].event.actor, "another");
    assert_eq!(rows[0].event.detail["before"]["reach"], "everywhere");
    assert_eq!(rows[0].event.detail["now"]["reach"], "branches_only");
}

#[tokio::test]
async fn replacing_the_set_of_rules_tells_each_that_came_stayed_or_went() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let catalog = &fixture.catalog;
    let kept = fixture.rule(&demo, person, "kept").await;
    fixture.rule(&demo, person, "gone").await;
    let before = fixture.kinds().await.len();
    let replace = |rules| catalog.replace_rules(&demo, person, rules, "test");
    let rules = replace(vec![new_rule("kept"), new_rule("new")])
        .await
        .unwrap();
    assert_eq!(rules.value[0].id, kept.id);
    assert_eq!(catalog.rules_of(&demo, person).await.unwrap(), rules.value);
    assert_eq!(
        fixture.kinds().await[before..],
        ["rule.removed", "rule.changed", "rule.created"]
    );
    assert_refused!(
        replace(vec![new_rule("a"), new_rule("b"), new_rule("a")]),
        CatalogError::RoleTwice { .. }
    );
    assert_refused!(
        replace(vec![new_rule("a"), new_rule("pg_a")]),
        CatalogError::PrivilegedRole { .. }
    );
    assert_eq!(catalog.rules_of(&demo, person).await.unwrap(), rules.value);
    replace(Vec::new()).await.unwrap();
    assert!(catalog.rules_of(&demo, person).await.unwrap().is_empty());
}

#[tokio::test]
async fn removing_rules_answers_what_they_said() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let catalog = &fixture.catalog;
    let rules = [
        fixture.rule(&demo, person, "a").await,
        fixture.rule(&demo, person, "b").await,
        fixture.rule(&demo, person, "c").await,
    ];
    let one = catalog
        .remove_rule(&demo, person, &role("b"), "test")
        .await
        .unwrap();
    assert_eq!(one.value, rules[1]);
    assert_refused!(
        catalog.remove_rule(&demo, person, &role("b"), "test"),
        CatalogError::NotFound {
            what: What::Rule,
            ..
        }
    );
    let rest = catalog.remove_rules(&demo, person, "test").await.unwrap();
    assert_eq!(rest.value, [rules[0].clone(), rules[2].clone()]);
    assert_eq!(rest.revision.0, one.revision.0 + 1);
    assert_refused!(
        catalog.remove_rules(&demo, person, "test"),
        CatalogError::NotFound {
            what: What::Rule,
            ..
        }
    );
}

#[tokio::test]
async fn a_rule_needs_a_member_an_unprivileged_role_and_an_expiry_within_90_days() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let member = fixture.member(&demo, "first@example.com").await;
    let stranger = fixture.person("second@example.com").await;
    let catalog = &fixture.catalog;
    let set = |person, rule| catalog.set_rule(&demo, person, rule, "test");
    let until = |hours| NewRule {
        expires_at: in_hours(hours),
        ..new_rule("app")
    };
    assert_refused!(
        set(stranger, new_rule("app")),
        CatalogError::NotAMember { .. }
    );
    assert_refused!(
        set(PersonId::generate(), new_rule("app")),
        CatalogError::NotFound {
            what: What::Person,
            ..
        }
    );
    assert_refused!(set(member, until(-1)), CatalogError::ExpiryInThePast);
    assert_refused!(
        set(member, until(90 * 24 + 1)),
        CatalogError::ExpiryTooFar { max_days: 90 }
    );
    set(member, until(90 * 24)).await.unwrap();
    for privileged in ["postgres", "pg_read_all_data"] {
        assert_refused!(
            set(member, new_rule(privileged)),
            CatalogError::PrivilegedRole { .. }
        );
    }
    let lenient = Tenant {
        privileged_roles: PrivilegedRoles::Allow,
        ..tenant("demo")
    };
    catalog.update_tenant(lenient, "test").await.unwrap();
    set(member, new_rule("postgres")).await.unwrap();
}

#[tokio::test]
async fn every_change_raises_the_revision_by_one_and_is_told_with_its_actor() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    fixture.rule(&demo, person, "app").await;
    let (record, _) = fixture.token(person).await;
    let catalog = &fixture.catalog;
    catalog.revoke_token(&record.id, "test").await.unwrap();
    catalog
        .remove_rule(&demo, person, &role("app"), "test")
        .await
        .unwrap();
    catalog.remove_member(&demo, person, "test").await.unwrap();
    catalog.remove_person(person, "test").await.unwrap();
    let last = catalog.remove_tenant(&demo, "test").await.unwrap();
    assert_eq!(
        fixture.kinds().await,
        [
            "tenant.created",
            "person.created",
            "member.set",
            "rule.created",
            "token.created",
            "token.revoked",
            "rule.removed",
            "member.removed",
            "person.removed",
            "tenant.removed",
        ]
    );
    assert_eq!(last.revision, Revision(10));
    let rows = catalog.audit_rows(AuditFilter::default()).await.unwrap();
    assert!(rows.iter().all(|row| row.event.actor == "test"));
    assert!(catalog.verify_audit().await.unwrap().is_intact());
}
