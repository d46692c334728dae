//! Who may use which role, and the guarantee that nobody does for longer than they may.
//!
//! A token and the catalogue's evidence become a [`Grant`] here and nowhere else. Every session stands in the
//! [`Registry`]; a change in the catalogue is enforced on it by deciding again (see `enforce`).

pub mod certificate_files;
pub mod certificates;
mod enforce;
mod grant;
mod registry;
mod signal;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use dashmap::DashMap;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

pub use self::{
    enforce::{Purge, Purged, RevocationReport, Scope},
    grant::{Denial, Grant, InvalidToken},
    registry::{Activity, Identity, Registration, Registry, SessionHandle, SessionView},
    signal::EndCause,
};
use crate::{
    catalog::{
        self, Catalog, CatalogError, Token,
        types::{Revision, Tenant},
    },
    names::{PersonId, RoleName, TenantRef, TokenId},
};

/// Why a login with a token came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// `person`: whose token it is, if its secret was right.
    #[error("{denial}")]
    Denied {
        denial: Denial,
        person: Option<PersonId>,
    },
    /// The question could not be answered; never counted as a failed login.
    #[error("the catalogue cannot be read: {0}")]
    Unavailable(#[from] CatalogError),
}

/// A tenant's revision floor: decisions older than this are not believed.
pub type Floor = Arc<AtomicI64>;

/// The authority over tokens, with every session it let in.
#[derive(Clone)]
pub struct Access {
    inner: Arc<Inner>,
}

struct Inner {
    catalog: Catalog,
    registry: Arc<Registry>,
    floors: DashMap<TenantRef, Floor>,
    /// The last change that is being enforced.
    changes: watch::Sender<Revision>,
    workers: Vec<mpsc::UnboundedSender<Purge>>,
}

impl Access {
    /// An authority over `catalog` that asks `workers` to close backends when access ends.
    #[must_use]
    pub fn new(catalog: Catalog, workers: Vec<mpsc::UnboundedSender<Purge>>) -> Self {
        let inner = Inner {
            catalog,
            registry: Arc::default(),
            floors: DashMap::new(),
            changes: watch::Sender::default(),
            workers,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }

    /// Decides whether `token` may use `role` of `tenant` from `from` now. For a session, register it first.
    pub async fn authorise(
        &self,
        token: &Token,
        tenant: &TenantRef,
        role: &RoleName,
        from: IpAddr,
    ) -> Result<Grant, AccessError> {
        let evidence = self
            .inner
            .catalog
            .evidence(token.id(), tenant, role)
            .await?;
        if !self.inner.catalog.verify_token(token, &evidence) {
            let denial = Denial::InvalidToken(InvalidToken::Unknown);
            return Err(AccessError::Denied {
                denial,
                person: None,
            });
        }
        let now = OffsetDateTime::now_utc();
        let person = evidence.person.as_ref().map(|person| person.id);
        let grant = grant::decide(&evidence, role, from, now)
            .map_err(|denial| AccessError::Denied { denial, person })?;
        self.inner.catalog.touch_token(token.id(), now, from);
        Ok(grant)
    }

    /// Authorises the login of a registered session and binds the grant to it.
    pub async fn admit(
        &self,
        session: &SessionHandle,
        token: &Token,
    ) -> Result<Grant, AccessError> {
        let identity = &session.identity;
        let grant = self
            .authorise(token, &identity.tenant, &identity.role, identity.peer.ip())
            .await?;
        session.confirm(&grant);
        Ok(grant)
    }

    /// Whether a session that the token's secret has opened elsewhere may go on.
    pub async fn may_go_on(
        &self,
        token: &TokenId,
        tenant: &TenantRef,
        role: &RoleName,
        from: IpAddr,
    ) -> Result<Grant, AccessError> {
        let evidence = self.inner.catalog.evidence(token, tenant, role).await?;
        let person = evidence.person.as_ref().map(|person| person.id);
        grant::decide(&evidence, role, from, OffsetDateTime::now_utc())
            .map_err(|denial| AccessError::Denied { denial, person })
    }

    /// Tells of every change that may end access, once it is in the catalogue.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.inner.changes.subscribe()
    }

    /// Where the client is that somebody's session here was opened from, with this token and as this role. A server
    /// that has the token checked again when the pooler logs in sees the pooler's address only.
    #[must_use]
    pub fn client_behind(
        &self,
        token: &TokenId,
        tenant: &TenantRef,
        role: &RoleName,
    ) -> Option<IpAddr> {
        let sessions = self.inner.registry.matching(|session| {
            let identity = &session.identity;
            session.grant().is_some()
                && identity.token.as_ref() == Some(token)
                && identity.tenant == *tenant
                && identity.role == *role
        });
        sessions.first().map(|session| session.identity.peer.ip())
    }

    /// Whether anybody may use `role` of `tenant` with a token at the moment.
    pub async fn is_granted(&self, tenant: &Tenant, role: &RoleName) -> Result<bool, CatalogError> {
        let now = OffsetDateTime::now_utc();
        for owner in std::iter::once(&tenant.tenant).chain(&tenant.parent) {
            let rules = self.inner.catalog.rules(owner).await?;
            if rules
                .iter()
                .any(|rule| rule.role == *role && rule.expires_at > now)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whose token this is, if it is valid, whatever it may reach.
    pub async fn authenticate(&self, token: &Token) -> Result<Option<PersonId>, CatalogError> {
        let Some(record) = self.inner.catalog.token(token.id()).await? else {
            return Ok(None);
        };
        let valid = record.revoked_at.is_none()
            && record.expires_at > OffsetDateTime::now_utc()
            && catalog::verify(Some(&record), token, self.inner.catalog.pepper());
        Ok(valid.then_some(record.person))
    }

    /// The floor of `tenant`, to be compared with a session's decision at every checkout.
    #[must_use]
    pub fn floor(&self, tenant: &TenantRef) -> Floor {
        Arc::clone(&self.inner.floors.entry(tenant.clone()).or_default())
    }

    fn raise_floor(&self, tenant: &TenantRef, revision: Revision) {
        self.floor(tenant).fetch_max(revision.0, Ordering::AcqRel);
    }

    fn raise_all_floors(&self, revision: Revision) {
        for floor in &self.inner.floors {
            floor.fetch_max(revision.0, Ordering::AcqRel);
        }
    }

    /// All sessions, oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionView> {
        let mut sessions = self.inner.registry.matching(|_| true);
        sessions.sort_by_key(|session| session.id);
        sessions
            .iter()
            .map(|session| SessionView::from(&**session))
            .collect()
    }
}
