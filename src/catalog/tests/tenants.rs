//! Tenants, their branches and their role secrets.

use time::macros::datetime;

use super::{super::What, *};

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
        timeouts: TenantTimeouts {
            query: Some(TimeLimit::After(std::time::Duration::from_secs(90))),
            idle: Some(TimeLimit::Off),
            ..TenantTimeouts::default()
        },
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
    let after = fixture.catalog.tenant_at(&demo).await.unwrap().unwrap();
    assert_eq!(after.record.host, "db.example.com");
    assert_eq!(after.revision, updated.revision);
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
            host: "http://foo".to_owned(),
            ..tenant("x")
        },
        Tenant {
            host: "db.example.com:5432".to_owned(),
            ..tenant("x")
        },
        Tenant {
            host: "[::1]".to_owned(),
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
