//! Who may use which role, and the guarantee that nobody does for longer than they may.
//!
//! A token and the catalogue's evidence become a [`Grant`] here and nowhere else. Every session stands in the
//! [`Registry`]; a change in the catalogue is enforced on it by deciding again (see `enforce`).

mod authority;
pub mod certificate_files;
pub mod certificates;
mod enforce;
mod external;
mod grant;
mod jwt;
mod own;
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
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};
use zeroize::Zeroizing;

use self::{authority::Authorities, enforce::Powers, external::Asked, jwt::Keyrings};
pub use self::{
    authority::{Outage, Revoked},
    enforce::{Purge, Purged, RevocationReport, Scope},
    grant::{Denial, Grant, InvalidToken, Reachable},
    own::Opening,
    registry::{Activity, External, Identity, Registration, Registry, SessionHandle, SessionView},
    signal::EndCause,
};
use crate::{
    catalog::{
        self, Catalog, CatalogError, ExternalToken, Token,
        types::{Authority, HttpAuthority, JwtAuthority, Revision, Tenant, TokenRecord},
    },
    config::AuthoritySettings,
    names::{PersonId, RoleName, TenantRef, TokenId},
    net::outbound::OutboundPolicy,
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
    #[error("the tenant's authority has not answered: {0}")]
    AuthorityLost(Outage),
}

/// What a client shows to prove who it is, in the shape that its tenant's authority gives it.
pub enum Credential {
    Token(Token),
    External {
        token: Arc<ExternalToken>,
        authority: Arc<HttpAuthority>,
    },
    Jwt {
        token: ExternalToken,
        authority: Arc<JwtAuthority>,
    },
}

impl Credential {
    /// The name by which sessions, audit and revocations speak of it.
    #[must_use]
    pub fn id(&self) -> &TokenId {
        match self {
            Self::Token(token) => token.id(),
            Self::External { token, .. } => token.id(),
            Self::Jwt { token, .. } => token.id(),
        }
    }

    /// The whole of it, for a server that checks it as well.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        match self {
            Self::Token(token) => token.reveal(),
            Self::External { token, .. } => Zeroizing::new(token.expose().to_owned()),
            Self::Jwt { token, .. } => Zeroizing::new(token.expose().to_owned()),
        }
    }

    /// What a session keeps of it, if it is not one of ours.
    #[must_use]
    pub fn external(&self) -> Option<External> {
        match self {
            Self::Token(_) => None,
            Self::External { token, .. } => Some(External::Http(Arc::clone(token))),
            Self::Jwt { .. } => Some(External::Jwt),
        }
    }
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
    authorities: Authorities,
    keyrings: Keyrings,
    floors: DashMap<TenantRef, Floor>,
    /// The last change that is being enforced.
    changes: watch::Sender<Revision>,
    workers: Vec<mpsc::UnboundedSender<Purge>>,
}

impl Access {
    /// An authority over `catalog` that asks `workers` to close backends when access ends. External authorities are
    /// asked on the runtime that this is called on.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        workers: Vec<mpsc::UnboundedSender<Purge>>,
        settings: AuthoritySettings,
    ) -> Self {
        let policy = Arc::new(OutboundPolicy {
            plain_http: settings.plain_http,
            networks: settings.networks.clone(),
        });
        let runtime = Handle::current();
        let inner = Inner {
            catalog,
            keyrings: Keyrings::new(Arc::clone(&policy), runtime.clone()),
            authorities: Authorities::new(settings, policy, runtime),
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

    /// Decides whether a credential may use `role` of `tenant` from `from` now. For a session there is [`Self::admit`].
    pub async fn authorise(
        &self,
        credential: &Credential,
        tenant: &TenantRef,
        role: &RoleName,
        from: IpAddr,
    ) -> Result<Grant, AccessError> {
        match credential {
            Credential::Token(token) => self.authorise_token(token, tenant, role, from).await,
            Credential::Jwt { token, authority } => {
                let asked = Asked {
                    tenant,
                    role,
                    from,
                    token: Some(token.id()),
                    powers: Powers::Usual,
                };
                let (grant, _) = self.authorise_jwt(&asked, token, authority).await?;
                Ok(grant)
            }
            // We are not asked for what somebody else decides: that could go in circles.
            Credential::External { .. } => Err(AccessError::Denied {
                denial: Denial::InvalidToken(InvalidToken::Unknown),
                person: None,
            }),
        }
    }

    async fn authorise_token(
        &self,
        token: &Token,
        tenant: &TenantRef,
        role: &RoleName,
        from: IpAddr,
    ) -> Result<Grant, AccessError> {
        let evidence = self
            .inner
            .catalog
            .proven_evidence(token, tenant, role)
            .await?;
        let Some(evidence) = evidence else {
            let denial = Denial::InvalidToken(InvalidToken::Unknown);
            return Err(AccessError::Denied {
                denial,
                person: None,
            });
        };
        let now = OffsetDateTime::now_utc();
        let person = evidence.person.as_ref().map(|person| person.id);
        let grant = grant::decide(&evidence, role, from, now)
            .map_err(|denial| AccessError::Denied { denial, person })?;
        self.inner.catalog.touch_token(token.id(), now, from);
        Ok(grant)
    }

    /// What a client has shown in place of a password, if it has the shape of what `tenant` takes.
    pub async fn credential(
        &self,
        tenant: Option<&Tenant>,
        secret: &[u8],
    ) -> Result<Option<Credential>, CatalogError> {
        let parent = match tenant {
            Some(tenant) => self.deciding_parent(tenant).await?,
            None => None,
        };
        let Ok(text) = std::str::from_utf8(secret) else {
            return Ok(None);
        };
        Ok(self.read_credential(parent.as_deref().or(tenant), text))
    }

    /// The parent, for a branch that leaves it to that one who answers for its tokens.
    async fn deciding_parent(&self, tenant: &Tenant) -> Result<Option<Arc<Tenant>>, CatalogError> {
        match (&tenant.authority, &tenant.parent) {
            (Authority::Parent, Some(parent)) => self.inner.catalog.tenant(parent).await,
            _ => Ok(None),
        }
    }

    /// `tenant`: whose authority answers.
    fn read_credential(&self, tenant: Option<&Tenant>, text: &str) -> Option<Credential> {
        match tenant.map(|tenant| (tenant, &tenant.authority)) {
            None | Some((_, Authority::Catalogue)) => Token::parse(text).map(Credential::Token),
            Some((tenant, Authority::Http(authority))) => {
                let token = ExternalToken::new(text, &tenant.tenant, self.inner.catalog.pepper())?;
                Some(Credential::External {
                    token: Arc::new(token),
                    authority: Arc::clone(authority),
                })
            }
            Some((tenant, Authority::Jwt(authority))) => {
                let token = ExternalToken::new(text, &tenant.tenant, self.inner.catalog.pepper());
                Some(Credential::Jwt {
                    token: token.filter(|token| jwt::is_jwt(token.expose()))?,
                    authority: Arc::clone(authority),
                })
            }
            // The parent went away meanwhile.
            Some((_, Authority::Parent)) => None,
        }
    }

    /// Authorises the login of a registered session and binds the grant to it.
    pub async fn admit(
        &self,
        session: &SessionHandle,
        credential: &Credential,
    ) -> Result<Grant, AccessError> {
        let identity = &session.identity;
        let token = match credential {
            Credential::Token(token) => token,
            Credential::External { token, authority } => {
                return self.admit_external(session, token, authority).await;
            }
            Credential::Jwt { token, authority } => {
                return self.admit_jwt(session, token, authority).await;
            }
        };
        let grant = self
            .authorise_token(token, &identity.tenant, &identity.role, identity.peer.ip())
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
    ) -> Result<Result<Grant, Denial>, CatalogError> {
        let evidence = self.inner.catalog.evidence(token, tenant, role).await?;
        let now = OffsetDateTime::now_utc();
        Ok(grant::decide(&evidence, role, from, now))
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
    ///
    /// What an external authority would say is not known: there, token mode has to be asked for.
    pub async fn is_granted(&self, tenant: &Tenant, role: &RoleName) -> Result<bool, CatalogError> {
        let parent = self.deciding_parent(tenant).await?;
        if matches!(tenant.answering(parent.as_deref()), Authority::Http(_)) {
            return Ok(false);
        }
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
        Ok(self.known(token).await?.map(|record| record.person))
    }

    /// The record of a token that is valid; what it is good for is in its limits. Does the same work for a stranger.
    pub async fn known(&self, token: &Token) -> Result<Option<TokenRecord>, CatalogError> {
        let catalog = &self.inner.catalog;
        let record = catalog.token(token.id()).await?;
        let verified = catalog::verify(record.as_ref(), token, catalog.pepper());
        let now = OffsetDateTime::now_utc();
        Ok(record
            .filter(|record| verified && record.revoked_at.is_none() && record.expires_at > now))
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
