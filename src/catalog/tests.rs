//! The catalogue on real files.

use super::types::*;
use crate::names::TenantRef;

pub(super) fn tenant(name: &str) -> Tenant {
    Tenant {
        tenant: TenantRef::parse(name).unwrap(),
        name: name.to_owned(),
        parent: None,
        host: "127.0.0.1".to_owned(),
        port: 5432,
        default_database: None,
        backend_tls: BackendTls::VerifyFull,
        backend_ca: None,
        login: BackendLogin::Certificate,
        auth_user: None,
        auth_query: None,
        auth_database: None,
        pool_size: None,
        backend_budget: None,
        max_clients: None,
        client_tls: ClientTls::Allow,
        token_access: TokenAccess::Enabled,
        privileged_roles: PrivilegedRoles::Refuse,
        networks: Vec::new(),
        created_at: time::OffsetDateTime::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn a_new_catalogue_takes_a_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let key = zeroize::Zeroizing::new([7; 32]);
    let catalog = super::Catalog::open(&folder.path().join("sluice.db"), &key)
        .await
        .unwrap();
    let creation = catalog.create_tenant(tenant("demo"), "test");
    fn assert_send<T: Send>(future: T) -> T {
        future
    }
    let changed = assert_send(creation).await.unwrap();
    assert_eq!(changed.revision, Revision(1));
    let person = catalog
        .create_person("First@Example.com", "First", "test")
        .await
        .unwrap()
        .value;
    catalog
        .set_member(
            &tenant("demo").tenant,
            person.id,
            MemberKind::Member,
            "test",
        )
        .await
        .unwrap();
    let soon = time::OffsetDateTime::now_utc() + time::Duration::hours(1);
    let made = catalog
        .create_token(person.id, "laptop", soon, "test")
        .await
        .unwrap()
        .value;
    let role = crate::names::RoleName::parse("app").unwrap();
    let rule = NewRule {
        role: role.clone(),
        expires_at: soon,
        networks: vec![],
        reach: RuleReach::Everywhere,
        reason: None,
    };
    assert_send(catalog.set_rule(&tenant("demo").tenant, person.id, rule, "test"))
        .await
        .unwrap();
    let tenant = tenant("demo").tenant;
    let evidence = assert_send(catalog.evidence(&made.0.id, &tenant, &role))
        .await
        .unwrap();
    assert_eq!(evidence.rules.len(), 1);
    assert_eq!(evidence.revision, Revision(5));
    assert!(catalog.verify_token(&super::Token::parse(&made.1).unwrap(), &evidence));
    assert!(
        assert_send(catalog.verify_audit())
            .await
            .unwrap()
            .is_intact()
    );
}
