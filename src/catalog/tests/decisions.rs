//! The evidence for a decision: complete, of one moment, and never older than a confirmed change.

use std::sync::Arc;

use super::*;
use crate::catalog::verify;

#[tokio::test]
async fn the_evidence_for_a_plain_grant_is_all_there() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let rule = fixture.rule(&demo, person, "app").await;
    fixture.rule(&demo, person, "another_role").await;
    let (record, token) = fixture.token(person).await;
    let evidence = fixture
        .catalog
        .evidence(token.id(), &demo, &role("app"))
        .await
        .unwrap();
    assert_eq!(evidence.revision, fixture.catalog.revision().await.unwrap());
    assert_eq!(evidence.tenant.unwrap().tenant, demo);
    assert_eq!(evidence.parent, None);
    assert_eq!(evidence.token, Some(record));
    assert_eq!(evidence.person.unwrap().id, person);
    assert_eq!(evidence.standing, Some(Standing::Member));
    assert_eq!(evidence.rules, [rule]);
}

#[tokio::test]
async fn each_kind_of_revocation_is_in_the_next_evidence() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    fixture.rule(&demo, person, "app").await;
    let (_, token) = fixture.token(person).await;
    let catalog = &fixture.catalog;
    let app = role("app");
    let evidence = async || {
        let read = catalog.evidence(token.id(), &demo, &app).await.unwrap();
        let proven = catalog.proven_evidence(&token, &demo, &app).await.unwrap();
        // What is remembered is what is there.
        let expected = read.token.as_ref().map(|_| format!("{read:?}"));
        assert_eq!(proven.map(|proven| format!("{proven:?}")), expected);
        read
    };
    assert_eq!(evidence().await.rules.len(), 1);

    let narrowed = NewRule {
        networks: vec!["192.0.2.0/24".parse().unwrap()],
        ..new_rule("app")
    };
    let changed = catalog
        .set_rule(&demo, person, narrowed, "test")
        .await
        .unwrap();
    assert_eq!(evidence().await.rules[0].networks.len(), 1);
    assert_eq!(evidence().await.revision, changed.revision);

    let disabled = Tenant {
        token_access: TokenAccess::Disabled,
        ..tenant("demo")
    };
    catalog.update_tenant(disabled, "test").await.unwrap();
    assert_eq!(
        evidence().await.tenant.unwrap().token_access,
        TokenAccess::Disabled
    );

    catalog.revoke_token(token.id(), "test").await.unwrap();
    assert!(evidence().await.token.unwrap().revoked_at.is_some());

    catalog
        .remove_rule(&demo, person, &app, "test")
        .await
        .unwrap();
    assert!(evidence().await.rules.is_empty());

    catalog.remove_member(&demo, person, "test").await.unwrap();
    assert_eq!(evidence().await.standing, None);

    catalog.remove_person(person, "test").await.unwrap();
    assert!(evidence().await.token.is_none());
    assert!(evidence().await.person.is_none());

    catalog.remove_tenant(&demo, "test").await.unwrap();
    assert!(evidence().await.tenant.is_none());
}

#[tokio::test]
async fn a_branch_has_the_rules_and_members_of_its_parent_besides_its_own() {
    let fixture = Fixture::open().await;
    let main = fixture.tenant("main").await;
    let branch = fixture.branch("branch", &main).await;
    let sibling = fixture.branch("sibling", &main).await;
    let person = fixture.member(&main, "first@example.com").await;
    let inherited = fixture.rule(&main, person, "app").await;
    let own = fixture.rule(&branch, person, "app").await;
    let (_, token) = fixture.token(person).await;
    let catalog = &fixture.catalog;
    let app = role("app");
    let evidence = async |tenant| catalog.evidence(token.id(), tenant, &app).await.unwrap();

    let there = evidence(&branch).await;
    assert_eq!(there.rules, [own, inherited.clone()]);
    assert_eq!(there.standing, Some(Standing::Member));
    assert_eq!(there.parent.unwrap().token_access, TokenAccess::Enabled);
    assert_eq!(evidence(&sibling).await.rules[0], inherited);
    // Nothing flows from a branch to its parent.
    assert_eq!(evidence(&main).await.rules, [inherited]);

    let guest = fixture.member(&branch, "second@example.com").await;
    let (_, guest_token) = fixture.token(guest).await;
    let guest_of = async |tenant| {
        catalog
            .evidence(guest_token.id(), tenant, &app)
            .await
            .unwrap()
    };
    assert_eq!(guest_of(&main).await.standing, None);
    assert_eq!(guest_of(&sibling).await.standing, None);
    assert_eq!(guest_of(&branch).await.standing, Some(Standing::Member));

    let disabled = Tenant {
        token_access: TokenAccess::Disabled,
        ..tenant("main")
    };
    catalog.update_tenant(disabled, "test").await.unwrap();
    let there = evidence(&branch).await;
    assert_eq!(there.parent.unwrap().token_access, TokenAccess::Disabled);
}

#[tokio::test]
async fn a_branchs_own_word_about_a_member_goes_first() {
    let fixture = Fixture::open().await;
    let main = fixture.tenant("main").await;
    let branch = fixture.branch("branch", &main).await;
    let person = fixture.member(&main, "first@example.com").await;
    let (_, token) = fixture.token(person).await;
    let catalog = &fixture.catalog;
    catalog
        .set_member(&branch, person, MemberKind::Owner, "test")
        .await
        .unwrap();
    let member = async |tenant| {
        let evidence = catalog.evidence(token.id(), tenant, &role("app")).await;
        evidence.unwrap().standing
    };
    assert_eq!(member(&branch).await, Some(Standing::Owner));
    assert_eq!(member(&main).await, Some(Standing::Member));
}

#[tokio::test]
async fn nothing_is_known_of_strangers() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let stranger = Token::generate().unwrap();
    let catalog = &fixture.catalog;
    for tenant in [demo, tenant("nowhere").tenant] {
        let evidence = catalog
            .evidence(stranger.id(), &tenant, &role("app"))
            .await
            .unwrap();
        assert!(evidence.token.is_none() && evidence.person.is_none());
        assert!(evidence.standing.is_none() && evidence.rules.is_empty());
        for _ in 0..2 {
            let app = role("app");
            let proven = catalog.proven_evidence(&stranger, &tenant, &app);
            assert!(proven.await.unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn evidence_is_read_again_only_after_a_change_whoever_makes_it() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let (_, token) = fixture.token(person).await;
    let catalog = &fixture.catalog;
    let app = role("app");
    let proven = async || catalog.proven_evidence(&token, &demo, &app).await;
    let proven = async || proven().await.unwrap().unwrap();
    let first = proven().await;
    assert!(Arc::ptr_eq(&first, &proven().await));
    // The trail is no part of it.
    let event = AuditEvent::new("auth.succeeded", Outcome::Success, "test");
    catalog.record(event).await.unwrap();
    assert!(Arc::ptr_eq(&first, &proven().await));
    fixture.rule(&demo, person, "app").await;
    assert_eq!(proven().await.rules.len(), 1);
    // As another process would, that has the file open as well.
    let mut raw = fixture.raw().await;
    for change in [
        "BEGIN IMMEDIATE",
        "DELETE FROM rules",
        "UPDATE catalogue SET revision = revision + 1",
        "COMMIT",
    ] {
        sqlx::query(change).execute(&mut raw).await.unwrap();
    }
    assert!(proven().await.rules.is_empty());
}

#[tokio::test]
async fn only_the_very_token_is_verified() {
    let fixture = Fixture::open().await;
    let person = fixture.person("first@example.com").await;
    let ((mine, my_token), (other, other_token)) =
        (fixture.token(person).await, fixture.token(person).await);
    let pepper = fixture.catalog.pepper();
    assert!(verify(Some(&mine), &my_token, pepper));
    assert!(!verify(Some(&other), &my_token, pepper));
    assert!(!verify(Some(&mine), &other_token, pepper));
    assert!(!verify(None, &my_token, pepper));
    // A record whose id was exchanged in the file is of no use.
    let exchanged = TokenRecord {
        id: other.id,
        ..mine
    };
    assert!(!verify(Some(&exchanged), &my_token, pepper));
    assert!(!verify(Some(&exchanged), &other_token, pepper));
}

#[tokio::test]
async fn another_pepper_knows_no_token() {
    let (fixture, folder) = (Fixture::open().await, tempfile::tempdir().unwrap());
    let person = fixture.person("first@example.com").await;
    let (record, token) = fixture.token(person).await;
    let other = Catalog::open(&folder.path().join("other.db"), &key(8))
        .await
        .unwrap();
    assert!(verify(Some(&record), &token, fixture.catalog.pepper()));
    assert!(!verify(Some(&record), &token, other.pepper()));
}

#[tokio::test]
async fn the_evidence_is_of_one_moment_while_others_write() {
    const CHANGES: i64 = 60;
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let (_, token) = fixture.token(person).await;
    let catalog = &fixture.catalog;
    let first = catalog.revision().await.unwrap().0 + 1;
    // Each rule says which revision it makes, so that a mixture of two moments shows.
    let write = async {
        for revision in first..first + CHANGES {
            let rule = NewRule {
                reason: Some(revision.to_string()),
                ..new_rule("app")
            };
            let changed = catalog.set_rule(&demo, person, rule, "test").await.unwrap();
            assert_eq!(changed.revision.0, revision);
        }
    };
    let read = async {
        loop {
            let evidence = catalog.evidence(token.id(), &demo, &role("app")).await;
            let evidence = evidence.unwrap();
            let said = evidence.rules.first().and_then(|rule| rule.reason.clone());
            let expected = (evidence.revision.0 >= first).then(|| evidence.revision.0.to_string());
            assert_eq!(said, expected);
            if evidence.revision.0 == first + CHANGES - 1 {
                break;
            }
        }
    };
    tokio::join!(write, read);
}
