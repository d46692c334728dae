//! What opening accepts, refuses and leaves alone.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let fixture = fixture.reopened(&[]).await;
    assert!(fixture.catalog.tenant(&demo).await.unwrap().is_some());
    assert_eq!(fixture.catalog.revision().await.unwrap(), Revision(1));
    assert!(
        fixture
            .catalog
            .verify_audit(None)
            .await
            .unwrap()
            .is_intact()
    );
}

#[tokio::test]
async fn opening_twice_migrates_once() {
    let fixture = Fixture::open().await;
    let fixture = fixture.reopened(&[]).await.reopened(&[]).await;
    let mut raw = fixture.raw().await;
    let (migrations,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM _sqlx_migrations")
        .fetch_one(&mut raw)
        .await
        .unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let files = fs::read_dir(folder).unwrap().count();
    assert_eq!(usize::try_from(migrations).unwrap(), files);
}

/// The trail's table has been made anew since: what is in it must not change, or its hashes do not fit any more.
#[tokio::test]
async fn a_trail_of_the_old_shape_is_taken_over_as_it_is() {
    let fixture = Fixture::open().await;
    fixture.tenant("demo").await;
    let person = fixture.person("ada@example.com").await;
    let event = AuditEvent {
        person: Some(person),
        detail: serde_json::json!({ "method": "token" }),
        ..AuditEvent::new("auth.succeeded", Outcome::Success, "person")
    };
    fixture.catalog.record(event).await.unwrap();
    let all = AuditFilter::default();
    let rows = fixture.catalog.audit_rows(all.clone()).await.unwrap();
    let fixture = fixture
        .reopened(&[
            "CREATE TABLE old (seq BIGINT NOT NULL PRIMARY KEY, id TEXT NOT NULL, time BIGINT NOT NULL, kind TEXT NOT NULL, \
             outcome TEXT NOT NULL, reason TEXT, actor TEXT NOT NULL, tenant TEXT, person TEXT, role TEXT, session TEXT, \
             token TEXT, peer TEXT, detail TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL, email TEXT, \
             fingerprint TEXT)",
            "INSERT INTO old SELECT * FROM audit",
            "DROP TABLE audit",
            "ALTER TABLE old RENAME TO audit",
            "DELETE FROM _sqlx_migrations WHERE version = 100",
        ])
        .await;
    assert!(rows.len() >= 3, "{rows:?}");
    assert_eq!(fixture.catalog.audit_rows(all).await.unwrap(), rows);
    let verdict = fixture.catalog.verify_audit(None).await.unwrap();
    assert!(verdict.is_intact(), "{verdict:?}");
}

#[tokio::test]
async fn another_master_key_is_refused_and_the_right_one_still_opens() {
    let fixture = Fixture::open().await;
    fixture.tenant("demo").await;
    let folder = fixture.closed();
    let error = refusal(Catalog::open(&path_in(&folder), &key(8)).await);
    assert!(
        matches!(error, CatalogError::WrongMasterKey { .. }),
        "{error}"
    );
    Fixture::open_in(folder).await;
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/sluice.db");
    let error = refusal(Catalog::open(&path, &key(7)).await);
    assert!(
        matches!(error, CatalogError::FolderMissing { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("missing does not exist"),
        "{error}"
    );
    assert!(!folder.path().join("missing").exists());
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let text = "Dear diary, ".repeat(200);
    fs::write(&path, &text).unwrap();
    let error = refusal(Catalog::open(&path, &key(7)).await);
    assert!(
        matches!(error, CatalogError::NotACatalogue { .. }),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    let error = refusal(Catalog::open(folder.path(), &key(7)).await);
    assert!(
        matches!(error, CatalogError::NotACatalogue { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut other = options.connect().await.unwrap();
    sqlx::query("CREATE TABLE songs (title TEXT)")
        .execute(&mut other)
        .await
        .unwrap();
    sqlx::Connection::close(other).await.unwrap();
    let before = fs::read(&path).unwrap();
    let error = refusal(Catalog::open(&path, &key(7)).await);
    assert!(
        matches!(error, CatalogError::NotACatalogue { .. }),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_catalogue_of_a_newer_version_is_refused() {
    let fixture = Fixture::open().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'from the future', TRUE, x'00', 1)",
    )
    .execute(&mut fixture.raw().await)
    .await
    .unwrap();
    let folder = fixture.closed();
    let error = refusal(Catalog::open(&path_in(&folder), &key(7)).await);
    assert!(matches!(error, CatalogError::NewerSchema { .. }), "{error}");
}

#[tokio::test]
async fn a_catalogue_that_lost_its_key_check_is_not_taken_for_a_new_one() {
    let fixture = Fixture::open().await;
    fixture.tenant("demo").await;
    sqlx::query("DELETE FROM catalogue")
        .execute(&mut fixture.raw().await)
        .await
        .unwrap();
    let folder = fixture.closed();
    let error = refusal(Catalog::open(&path_in(&folder), &key(7)).await);
    assert!(matches!(error, CatalogError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_catalogue_that_is_open_is_not_opened_again_until_it_is_closed() {
    let fixture = Fixture::open().await;
    let error = refusal(Catalog::open(&fixture.path(), &key(7)).await);
    assert!(matches!(error, CatalogError::InUse { .. }), "{error}");
    fixture.tenant("demo").await;
    fixture.reopened(&[]).await;
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let fixture = Fixture::open().await;
    fixture.tenant("demo").await;
    let mut files = 0;
    for file in fs::read_dir(fixture.folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}", file.file_name());
        files += 1;
    }
    assert_eq!(files, 4, "the database, its log, its index and its lock");
}

#[tokio::test]
async fn no_secret_is_ever_in_the_files() {
    let fixture = Fixture::open().await;
    let demo = fixture.tenant("demo").await;
    let person = fixture.member(&demo, "first@example.com").await;
    let (_, token) = fixture.token(person).await;
    let password = "canary-password-5d1f";
    let verifier = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy";
    for (name, secret) in [
        (
            "app",
            RoleSecret::Password(Zeroizing::new(password.to_owned())),
        ),
        (
            "web",
            RoleSecret::Verifier(Zeroizing::new(verifier.to_owned())),
        ),
    ] {
        fixture
            .catalog
            .set_role_secret(&demo, &role(name), secret, "test")
            .await
            .unwrap();
    }
    let secret_half = token.reveal()[16..59].to_owned();
    for needle in [password, &verifier[20..], &secret_half] {
        for file in fs::read_dir(fixture.folder.path()).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            let found = bytes
                .windows(needle.len())
                .any(|at| at == needle.as_bytes());
            assert!(!found, "a secret is in the files");
        }
    }
    // The search would find it: the public half is there.
    let log = fs::read(fixture.path().with_extension("db-wal")).unwrap();
    let id = token.id().as_str().as_bytes();
    assert!(log.windows(id.len()).any(|at| at == id));
}
