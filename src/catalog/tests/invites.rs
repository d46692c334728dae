//! Invitations: what an acceptance makes, and what goes with them.

use std::collections::BTreeSet;

use super::{
    super::{InviteToken, What},
    *,
};

use crate::names::InviteId;

const GUEST: &str = "guest@example.com";

fn invited(roles: &[&str]) -> NewInvite {
    let role = |name: &&str| InvitedRole {
        role: role(name),
        lasts: std::time::Duration::from_secs(3600),
        networks: Vec::new(),
        reach: RuleReach::Everywhere,
        reason: None,
    };
    NewInvite {
        email: GUEST.to_owned(),
        roles: roles.iter().map(role).collect(),
        expires_at: in_hours(1),
    }
}

/// Makes an invitation and accepts it.
async fn accepted(fixture: &Fixture, tenant: &TenantRef, roles: &[&str]) -> AcceptedInvite {
    let made = fixture
        .catalog
        .create_invite(tenant, invited(roles), "test")
        .await
        .unwrap();
    let token = InviteToken::parse(&made.value.1).unwrap();
    let done = fixture.catalog.accept_invite(tenant, GUEST, token).await;
    done.unwrap().value.0
}

#[tokio::test]
async fn a_guest_of_the_parent_is_one_of_its_branches_and_a_member_is_no_guest() {
    let fixture = Fixture::open().await;
    let main = fixture.tenant("main").await;
    let branch = fixture.branch("branch", &main).await;
    let other = fixture.tenant("other").await;
    let guest = accepted(&fixture, &main, &["app"]).await.person.id;
    let catalog = &fixture.catalog;
    for (tenant, standing) in [
        (&main, Some(Standing::Guest)),
        (&branch, Some(Standing::Guest)),
        (&other, None),
    ] {
        assert_eq!(catalog.standing(tenant, guest).await.unwrap(), standing);
    }
    let set = catalog.set_member(&main, guest, MemberKind::Administrator, "test");
    set.await.unwrap();
    let standing = catalog.standing(&branch, guest).await.unwrap();
    assert_eq!(standing, Some(Standing::Administrator));
    let nowhere = TenantRef::parse("nowhere").unwrap();
    assert_eq!(catalog.standing(&nowhere, guest).await.unwrap(), None);
}

#[tokio::test]
async fn revoking_takes_back_what_the_invitation_gave_and_the_last_one_everything() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let first = accepted(&fixture, &demo, &["a", "b"]).await;
    let second = accepted(&fixture, &demo, &["c"]).await;
    let guest = first.person.id;
    assert_eq!(second.person.id, guest);
    // Somebody has given the guest another role since.
    fixture.rule(&demo, guest, "d").await;
    let catalog = &fixture.catalog;
    let left = async || {
        let rules = catalog.rules_of(&demo, guest).await.unwrap();
        let roles = rules.iter().map(|rule| rule.role.to_string());
        roles.collect::<Vec<_>>()
    };
    let revoke = |invite: InviteId| catalog.revoke_invite(&demo, invite, "test");
    revoke(first.invite.id).await.unwrap();
    assert_eq!(left().await, ["c", "d"]);
    revoke(second.invite.id).await.unwrap();
    assert!(left().await.is_empty());
    assert_eq!(catalog.standing(&demo, guest).await.unwrap(), None);
    assert_refused!(
        revoke(second.invite.id),
        CatalogError::NotFound {
            what: What::Invite,
            ..
        }
    );
}

#[tokio::test]
async fn the_token_goes_with_the_invitation() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let catalog = &fixture.catalog;
    let first = accepted(&fixture, &demo, &["a", "b"]).await;
    let second = accepted(&fixture, &demo, &["c"]).await;
    let limits = TokenLimits {
        tenants: BTreeSet::from([demo.clone()]),
        roles: BTreeSet::from([role("a"), role("b")]),
        ..TokenLimits::default()
    };
    assert_eq!(first.token.limits, limits);
    assert_eq!(first.token.expires_at, first.rules[0].expires_at);
    let hour = Duration::HOUR;
    let rotated = catalog.rotate_token(&first.token.id, hour, None, "test");
    let rotated = rotated.await.unwrap().value.new;
    let is_revoked = async |token: &TokenRecord| {
        let found = catalog.token(&token.id).await.unwrap().unwrap();
        found.revoked_at.is_some()
    };
    let revoked = catalog.revoke_invite(&demo, first.invite.id, "test");
    revoked.await.unwrap();
    assert!(is_revoked(&first.token).await);
    assert!(is_revoked(&rotated).await, "what it was rotated to as well");
    assert!(!is_revoked(&second.token).await);
    let removed = catalog.remove_member(&demo, second.person.id, "test");
    removed.await.unwrap();
    assert!(is_revoked(&second.token).await);
}

#[tokio::test]
async fn an_invitation_does_not_bring_back_who_was_removed() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let catalog = &fixture.catalog;
    let pending = async || {
        let made = catalog
            .create_invite(&demo, invited(&["app"]), "test")
            .await;
        InviteToken::parse(&made.unwrap().value.1).unwrap()
    };
    let guest = accepted(&fixture, &demo, &["app"]).await.person.id;
    let token = pending().await;
    catalog.remove_member(&demo, guest, "test").await.unwrap();
    assert_refused!(
        catalog.accept_invite(&demo, GUEST, token),
        CatalogError::InviteNotValid
    );
    assert_refused!(
        catalog.remove_member(&demo, guest, "test"),
        CatalogError::NotFound { .. }
    );
    let token = pending().await;
    catalog.remove_person(guest, "test").await.unwrap();
    assert_refused!(
        catalog.accept_invite(&demo, GUEST, token),
        CatalogError::InviteNotValid
    );
}

#[tokio::test]
async fn a_tenant_that_allows_less_since_gives_less() {
    let fixture = Fixture::open().await;
    let generous = Tenant {
        privileged_roles: PrivilegedRoles::Allow,
        ..tenant("demo")
    };
    let catalog = &fixture.catalog;
    let demo = generous.tenant.clone();
    catalog.create_tenant(generous, "test").await.unwrap();
    let made = catalog
        .create_invite(&demo, invited(&["postgres"]), "test")
        .await;
    let token = InviteToken::parse(&made.unwrap().value.1).unwrap();
    catalog.update_tenant(tenant("demo"), "test").await.unwrap();
    assert_refused!(
        catalog.accept_invite(&demo, GUEST, token),
        CatalogError::PrivilegedRole { .. }
    );
    assert!(catalog.person_by_email(GUEST).await.unwrap().is_none());
}
