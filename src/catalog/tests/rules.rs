//! Rules, and what is told of every change.

use super::{super::What, *};

#[tokio::test]
async fn a_rule_comes_back_as_it_was_given_and_keeps_its_id_when_replaced() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let catalog = &fixture.catalog;
    let first = fixture.rule(&demo, person, "app").await;
    assert_eq!(catalog.rules(&demo).await.unwrap()[0], first);
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
async fn a_change_changes_what_it_names_and_does_not_bring_back_what_was_removed() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let catalog = &fixture.catalog;
    let made = fixture.rule(&demo, person, "app").await;
    let app = role("app");
    let change = RuleChange {
        reach: Some(RuleReach::BranchesOnly),
        ..RuleChange::default()
    };
    let changed = catalog
        .change_rule(&demo, person, &app, change.clone(), "test")
        .await
        .unwrap()
        .value;
    assert_eq!(changed.reach, RuleReach::BranchesOnly);
    assert_eq!((changed.id, changed.expires_at), (made.id, made.expires_at));
    catalog
        .remove_rule(&demo, person, &app, "test")
        .await
        .unwrap();
    assert_refused!(
        catalog.change_rule(&demo, person, &app, change, "test"),
        CatalogError::NotFound {
            what: What::Rule,
            ..
        }
    );
    assert!(catalog.rules(&demo).await.unwrap().is_empty());
}

#[tokio::test]
async fn of_two_additions_of_one_rule_the_first_stands() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let catalog = &fixture.catalog;
    let add = || catalog.add_rule(&demo, person, new_rule("app"), "test");
    let (one, other) = tokio::join!(add(), add());
    let outcomes = [one.map(|_| ()), other.map(|_| ())];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let is_refused = |outcome: &Result<(), CatalogError>| {
        matches!(
            outcome,
            Err(CatalogError::Exists {
                what: What::Rule,
                ..
            })
        )
    };
    assert!(outcomes.iter().any(is_refused), "{outcomes:?}");
    assert_eq!(catalog.rules(&demo).await.unwrap().len(), 1);
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
            what: What::RuleOf,
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
    assert!(catalog.verify_audit(None).await.unwrap().is_intact());
}
