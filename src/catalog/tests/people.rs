//! People, their memberships and their tokens.

use time::macros::datetime;

use super::{super::What, *};

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
        "first@exam\u{200b}ple.com",
        "\u{202e}first@example.com",
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
    assert_refused!(
        catalog.create_person("second@example.com", "Second\u{202e}", "test"),
        CatalogError::Invalid { field: "name", .. }
    );
}

#[tokio::test]
async fn an_address_is_nobody_elses_whose_letters_have_the_same_lower_case() {
    let fixture = Fixture::open().await;
    let catalog = &fixture.catalog;
    fixture.person("kim@example.com").await;
    // The sign of kelvin: its lower case is k.
    let other = "\u{212a}im@example.com";
    assert_eq!(catalog.person_by_email(other).await.unwrap(), None);
    let made = catalog.create_person(other, "Kim", "test").await.unwrap();
    let found = catalog.person_by_email(other).await.unwrap();
    assert_eq!(found, Some(made.value));
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
    let create = |name, hours| catalog.create_token(person, new_token(name, hours), "test");
    assert_refused!(create("laptop", -1), CatalogError::ExpiryInThePast);
    assert_refused!(
        create("laptop", 367 * 24),
        CatalogError::ExpiryTooFar { max_days: 366 }
    );
    assert_refused!(create("", 1), CatalogError::Invalid { field: "name", .. });
    let nobody = PersonId::generate();
    assert_refused!(
        catalog.create_token(nobody, new_token("laptop", 1), "test"),
        CatalogError::NotFound {
            what: What::Person,
            ..
        }
    );
    let made = create("laptop", 365 * 24).await.unwrap().value.0;
    assert_eq!(catalog.tokens(person).await.unwrap()[0], made);
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
