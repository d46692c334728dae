//! The catalogue on real files.

/// Awaits a call that must fail, and fail in this way.
macro_rules! assert_refused {
    ($outcome:expr, $refusal:pat) => {
        let error = refusal($outcome.await);
        assert!(matches!(error, $refusal), "{error:?}");
    };
}

mod decisions;
mod invites;
mod opening;
mod people;
mod rules;
mod tenants;
mod tokens;
mod trail;
mod writing;

use std::path::PathBuf;

use sqlx::{ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::{Catalog, CatalogError, Token, types::*};
use crate::names::{PersonId, RoleName, TenantRef};

/// A catalogue in a folder of its own.
pub(super) struct Fixture {
    pub(super) catalog: Catalog,
    folder: TempDir,
}

impl Fixture {
    pub(super) async fn open() -> Self {
        Self::open_in(tempfile::tempdir().unwrap()).await
    }

    async fn open_in(folder: TempDir) -> Self {
        let catalog = Catalog::open(&path_in(&folder), &key(7)).await.unwrap();
        Self { catalog, folder }
    }

    pub(super) fn path(&self) -> PathBuf {
        path_in(&self.folder)
    }

    /// Closes the catalogue; its folder stays.
    pub(super) fn closed(self) -> TempDir {
        let Self { catalog, folder } = self;
        drop(catalog);
        folder
    }

    /// Closes the catalogue and opens it again, with whatever was done to the file in between.
    pub(super) async fn reopened(self, meddle: &[&str]) -> Self {
        let folder = self.closed();
        let mut raw = SqliteConnectOptions::new()
            .filename(path_in(&folder))
            .connect()
            .await
            .unwrap();
        for statement in meddle {
            sqlx::query(statement).execute(&mut raw).await.unwrap();
        }
        sqlx::Connection::close(raw).await.unwrap();
        Self::open_in(folder).await
    }

    /// A copy of the whole file as it is now, in a folder of its own.
    pub(super) async fn copied(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        sqlx::query("VACUUM INTO $1")
            .bind(path_in(&folder).to_str().unwrap())
            .execute(&mut self.raw().await)
            .await
            .unwrap();
        Self::open_in(folder).await
    }

    /// Another connection to the same file, as another program would have it.
    pub(super) async fn raw(&self) -> SqliteConnection {
        SqliteConnectOptions::new()
            .filename(self.path())
            .connect()
            .await
            .unwrap()
    }

    pub(super) async fn tenant(&self, name: &str) -> TenantRef {
        let made = self.catalog.create_tenant(tenant(name), "test").await;
        made.unwrap().value.tenant
    }

    pub(super) async fn branch(&self, name: &str, parent: &TenantRef) -> TenantRef {
        let branch = Tenant {
            parent: Some(parent.clone()),
            ..tenant(name)
        };
        let made = self.catalog.create_tenant(branch, "test").await;
        made.unwrap().value.tenant
    }

    pub(super) async fn person(&self, email: &str) -> PersonId {
        let made = self.catalog.create_person(email, "Somebody", "test").await;
        made.unwrap().value.id
    }

    pub(super) async fn member(&self, tenant: &TenantRef, email: &str) -> PersonId {
        let person = self.person(email).await;
        self.catalog
            .set_member(tenant, person, MemberKind::Member, "test")
            .await
            .unwrap();
        person
    }

    pub(super) async fn rule(&self, tenant: &TenantRef, person: PersonId, role: &str) -> Rule {
        let made = self
            .catalog
            .set_rule(tenant, person, new_rule(role), "test")
            .await;
        made.unwrap().value
    }

    pub(super) async fn token(&self, person: PersonId) -> (TokenRecord, Token) {
        let made = self
            .catalog
            .create_token(person, new_token("laptop", 1), "test")
            .await
            .unwrap();
        let (record, text) = made.value;
        (record, Token::parse(&text).unwrap())
    }

    pub(super) async fn kinds(&self) -> Vec<String> {
        let rows = self.catalog.audit_rows(AuditFilter::default()).await;
        let kinds = rows.unwrap().into_iter().rev().map(|row| row.event.kind);
        kinds.collect()
    }
}

pub(super) fn path_in(folder: &TempDir) -> PathBuf {
    folder.path().join("sluice.db")
}

pub(super) fn key(byte: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([byte; 32])
}

/// A tenant on this machine that takes tokens, all else as a new one has it.
pub(crate) fn tenant(name: &str) -> Tenant {
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
        timeouts: TenantTimeouts::default(),
        authority: Authority::Catalogue,
        client_tls: ClientTls::Allow,
        token_access: TokenAccess::Enabled,
        privileged_roles: PrivilegedRoles::Refuse,
        networks: Vec::new(),
        created_at: OffsetDateTime::UNIX_EPOCH,
    }
}

pub(super) fn role(name: &str) -> RoleName {
    RoleName::parse(name).unwrap()
}

pub(super) fn in_hours(hours: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::hours(hours)
}

pub(super) fn new_token(name: &str, hours: i64) -> NewToken {
    NewToken {
        name: name.to_owned(),
        expires_at: in_hours(hours),
        limits: TokenLimits::default(),
    }
}

pub(super) fn new_rule(name: &str) -> NewRule {
    NewRule {
        role: role(name),
        expires_at: in_hours(24),
        networks: Vec::new(),
        reach: RuleReach::Everywhere,
        reason: None,
    }
}

pub(super) fn event(kind: &str) -> AuditEvent {
    AuditEvent::new(kind, Outcome::Success, "test")
}

/// The error of a call that must fail; its value need not be printable.
pub(super) fn refusal<T>(outcome: Result<T, CatalogError>) -> CatalogError {
    match outcome {
        Ok(_) => panic!("this should have been refused"),
        Err(error) => error,
    }
}
