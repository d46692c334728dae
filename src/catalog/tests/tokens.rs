//! What becomes of tokens, and what is remembered of their use.

use sqlx::Row as _;
use time::{Duration, macros::datetime};

use super::*;

/// Addresses that are remembered of one token.
const ADDRESSES_MAX: i64 = 100;

#[tokio::test]
async fn a_token_from_before_limits_logs_in_anywhere_and_manages_nothing() {
    let fixture = Fixture::open().await;
    let person = fixture.person("first@example.com").await;
    let (record, _) = fixture.token(person).await;
    let old = format!(
        "INSERT INTO tokens (id, person, name, mac, created_at, expires_at) SELECT 'abcdefghijkl', person, name, mac, \
         created_at, expires_at FROM tokens WHERE id = '{}'",
        record.id
    );
    let fixture = fixture.reopened(&[old.as_str()]).await;
    let id = "abcdefghijkl".parse().unwrap();
    let found = fixture.catalog.token(&id).await.unwrap().unwrap();
    assert_eq!(found.limits, TokenLimits::default());
    assert_eq!(found.created_by, None);
}

#[tokio::test]
async fn what_changes_in_a_token_is_what_was_named() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.person("first@example.com").await;
    let (made, _) = fixture.token(person).await;
    let catalog = &fixture.catalog;
    let change = TokenChange {
        tenants: Some([demo.clone()].into()),
        ..TokenChange::default()
    };
    let changed = catalog.change_token(&made.id, change.clone(), "test").await;
    let changed = changed.unwrap();
    let expected = TokenRecord {
        limits: TokenLimits {
            tenants: [demo].into(),
            ..made.limits.clone()
        },
        ..made.clone()
    };
    assert_eq!(changed.value, expected);
    let again = catalog
        .change_token(&made.id, change, "test")
        .await
        .unwrap();
    assert_eq!(
        again.revision, changed.revision,
        "nothing was to be changed"
    );
    catalog.revoke_token(&made.id, "test").await.unwrap();
    let rename = TokenChange {
        name: Some("desk".to_owned()),
        ..TokenChange::default()
    };
    assert_refused!(
        catalog.change_token(&made.id, rename, "test"),
        CatalogError::Invalid { .. }
    );
    let overlap = Duration::HOUR;
    assert_refused!(
        catalog.rotate_token(&made.id, overlap, None, "test"),
        CatalogError::Invalid { .. }
    );
}

#[tokio::test]
async fn a_leak_is_believed_of_the_whole_token_only_and_once() {
    let fixture = Fixture::open().await;
    let person = fixture.person("first@example.com").await;
    let ((mine, my_token), (other, _)) = (fixture.token(person).await, fixture.token(person).await);
    let catalog = &fixture.catalog;
    let leaked = async |token: &Token| catalog.revoke_leaked(token, None).await.unwrap();
    let before = catalog.revision().await.unwrap();
    assert!(leaked(&Token::generate().unwrap()).await.is_none());
    assert_eq!(catalog.revision().await.unwrap(), before);
    let revoked = leaked(&my_token).await.unwrap().value;
    assert_eq!(revoked.id, mine.id);
    assert!(revoked.revoked_at.is_some());
    assert!(leaked(&my_token).await.is_none());
    let other = catalog.token(&other.id).await.unwrap().unwrap();
    assert!(other.revoked_at.is_none());
}

#[tokio::test]
async fn the_addresses_of_a_token_are_remembered_up_to_a_limit() {
    let fixture = Fixture::open().await;
    let person = fixture.person("first@example.com").await;
    let (record, _) = fixture.token(person).await;
    let catalog = &fixture.catalog;
    let at = datetime!(2026-03-01 10:00 UTC);
    for number in 0..ADDRESSES_MAX + 20 {
        let address = u32::try_from(0x0a00_0000 + number).unwrap().to_be_bytes();
        catalog.touch_token(&record.id, at + Duration::minutes(number), address.into());
    }
    catalog.flush().await.unwrap();
    let kept = sqlx::query("SELECT COUNT(*) AS kept FROM token_addresses")
        .fetch_one(&mut fixture.raw().await)
        .await
        .unwrap();
    assert_eq!(kept.get::<i64, _>("kept"), ADDRESSES_MAX);
    let noticed = AuditFilter {
        kind: Some("token.first_use_from_new_address".to_owned()),
        limit: Some(1_000),
        ..AuditFilter::default()
    };
    let noticed = catalog.audit_rows(noticed).await.unwrap();
    assert_eq!(noticed.len() as i64, ADDRESSES_MAX + 19);
}

#[tokio::test]
async fn a_fingerprint_that_was_changed_or_taken_away_shows() {
    for meddling in [
        "UPDATE audit SET fingerprint = '0123456789abcdef' WHERE fingerprint IS NOT NULL",
        "UPDATE audit SET fingerprint = NULL",
        "UPDATE audit SET email = fingerprint, fingerprint = NULL WHERE fingerprint IS NOT NULL",
    ] {
        let fixture = Fixture::open().await;
        let person = fixture.person("first@example.com").await;
        fixture.token(person).await;
        let whole = fixture.catalog.verify_audit(None).await.unwrap();
        assert!(whole.is_intact());
        let fixture = fixture.reopened(&[meddling]).await;
        let verdict = fixture.catalog.verify_audit(None).await.unwrap();
        assert!(!verdict.is_intact(), "{meddling}");
    }
}
