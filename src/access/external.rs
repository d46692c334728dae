//! Sessions whose token an external authority decides about: letting them in, and revoking at its word.
//!
//! ```text
//! session registers ─▶ authority answers ─▶ tenant's record is read ─▶ grant bound to the session ─▶ revoked since?
//! webhook:             revocation noted ─▶ registry scanned
//! ```
//! In this order either the scan finds the session with its grant, or the session finds the revocation.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError},
};

use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    Access, AccessError, RevocationReport, Scope,
    authority::{Freshness, Outage, Question, Revoked, Ticket, Verdict},
    enforce::{Powers, Reach},
    grant::{self, Denial, Grant, InvalidToken, Moment},
    jwt::Proven,
    registry::SessionHandle,
    signal::EndCause,
};
use crate::{
    catalog::{
        CatalogError, ExternalToken,
        types::{Authority, HttpAuthority, JwtKeys, Tenant},
    },
    config::AuthoritySettings,
    names::{PersonId, RoleName, TenantRef, TokenId},
    net::outbound::OutboundError,
};

/// What somebody wants to use, from where.
pub(super) struct Asked<'a> {
    pub(super) tenant: &'a TenantRef,
    pub(super) role: &'a RoleName,
    pub(super) from: IpAddr,
    pub(super) token: Option<&'a TokenId>,
    pub(super) powers: Powers,
}

impl<'a> Asked<'a> {
    /// What a session has asked for.
    pub(super) fn by(session: &'a SessionHandle) -> Self {
        let identity = &session.identity;
        Self {
            tenant: &identity.tenant,
            role: &identity.role,
            from: identity.peer.ip(),
            token: identity.token.as_ref(),
            powers: Powers::of(session),
        }
    }
}

/// What a session stands on, beside the tenant's record.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    Told(Told),
    Proven(Proven),
}

/// What the authority has said of a session, and when it was asked.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) authority: Arc<HttpAuthority>,
    pub(super) verdict: Verdict,
    pub(super) asked_at: Instant,
    /// When it was last tried to ask.
    pub(super) tried_at: Instant,
}

impl Access {
    /// Takes changed settings into use; where calls may go changes at the next start only.
    pub fn configure_authorities(&self, settings: AuthoritySettings) {
        self.inner.authorities.configure(settings);
    }

    /// Whether the operator lets a tenant have this authority.
    pub fn check_authority(&self, authority: &Authority) -> Result<(), OutboundError> {
        let authorities = &self.inner.authorities;
        match authority {
            Authority::Catalogue | Authority::Parent => Ok(()),
            Authority::Http(http) => authorities.check(&http.url, http.ca.as_deref()),
            Authority::Jwt(jwt) => match &jwt.keys {
                JwtKeys::Url(url) => authorities.check(url, jwt.ca.as_deref()),
                JwtKeys::Jwks(_) => Ok(()),
            },
        }
    }

    /// The name that a token of the tenant's external authority has here; `None`: it cannot be a token.
    #[must_use]
    pub fn external_token(&self, tenant: &TenantRef, text: &str) -> Option<ExternalToken> {
        ExternalToken::new(text, tenant, self.inner.catalog.pepper())
    }

    /// Asks the tenant's authority about the token of a registered session, and binds the grant to it.
    pub(super) async fn admit_external(
        &self,
        session: &SessionHandle,
        token: &Arc<ExternalToken>,
        authority: &Arc<HttpAuthority>,
    ) -> Result<Grant, AccessError> {
        let question = Question::about(&session.identity, token, authority);
        let authorities = &self.inner.authorities;
        let (answer, ticket) = authorities.ask(&question, Freshness::Recent).await?;
        let denied = |denial, person| AccessError::Denied { denial, person };
        let verdict = answer.map_err(|denial| denied(denial, None))?;
        let denied = |denial| denied(denial, Some(verdict.person));
        let told = Told {
            authority: Arc::clone(authority),
            verdict: verdict.clone(),
            asked_at: ticket.at,
            tried_at: ticket.at,
        };
        let grant = self.by_word(session, &told).await?.map_err(denied)?;
        session.stand(Standing::Told(told));
        session.confirm(&grant);
        self.unless_revoked(&question, &verdict, ticket)
            .map_err(denied)?;
        authorities.remember(&question, &verdict, ticket);
        Ok(grant)
    }

    pub(super) fn unless_revoked(
        &self,
        question: &Question<'_>,
        verdict: &Verdict,
        ticket: Ticket,
    ) -> Result<(), Denial> {
        if self.inner.authorities.is_revoked(question, verdict, ticket) {
            return Err(Denial::Revoked);
        }
        Ok(())
    }

    /// What follows from what a session stands on and the catalogue as it is now.
    pub(super) async fn by_standing(
        &self,
        session: &SessionHandle,
        standing: &Standing,
    ) -> Result<Result<Grant, Denial>, CatalogError> {
        match standing {
            Standing::Told(told) => self.by_word(session, told).await,
            Standing::Proven(proven) => self.by_proof(&Asked::by(session), proven).await,
        }
    }

    /// What follows from an authority's word and the tenant's record as it is now.
    pub(super) async fn by_word(
        &self,
        session: &SessionHandle,
        told: &Told,
    ) -> Result<Result<Grant, Denial>, CatalogError> {
        let decide = |at: &Moment<'_>| grant::decide_by_word(at, told);
        self.by_evidence(&Asked::by(session), told.verdict.person, decide)
            .await
    }

    /// What follows from a proof of who it is and the catalogue as it is now.
    pub(super) async fn by_proof(
        &self,
        asked: &Asked<'_>,
        proven: &Proven,
    ) -> Result<Result<Grant, Denial>, CatalogError> {
        let decide = |at: &Moment<'_>| grant::decide_by_proof(at, proven);
        self.by_evidence(asked, proven.person, decide).await
    }

    async fn by_evidence(
        &self,
        asked: &Asked<'_>,
        person: PersonId,
        decide: impl FnOnce(&Moment<'_>) -> Result<Grant, Denial>,
    ) -> Result<Result<Grant, Denial>, CatalogError> {
        let Some(token) = asked.token else {
            return Ok(Err(Denial::InvalidToken(InvalidToken::Unknown)));
        };
        let evidence = self
            .inner
            .catalog
            .evidence_of_person(person, asked.tenant, asked.role)
            .await?;
        if let Err(denial) = asked.powers.allowed_by(evidence.tenant.as_deref()) {
            return Ok(Err(denial));
        }
        Ok(decide(&Moment {
            evidence: &evidence,
            token,
            role: asked.role,
            from: asked.from,
            now: OffsetDateTime::now_utc(),
        }))
    }

    /// Ends the sessions that the tenant's external authority has revoked, those on branches that leave it to that one as
    /// well, and returns when they are gone. Answers to questions from before this count for nothing.
    pub async fn revoke_external(
        &self,
        tenant: &Tenant,
        revoked: Revoked,
        actor: &str,
    ) -> Result<RevocationReport, CatalogError> {
        let start = Instant::now();
        let revision = self.inner.catalog.revision().await?;
        self.inner
            .authorities
            .revoke(&tenant.tenant, revoked.clone());
        let concerned = self.inner.registry.matching(|session| {
            let identity = &session.identity;
            identity.kept_token().is_some_and(|token| {
                let person = session.grant().map(Grant::person);
                *token.tenant() == tenant.tenant
                    && revoked.concerns(person, token.id(), &identity.role)
            })
        });
        let refused: Vec<_> = concerned
            .into_iter()
            .map(|session| (session, EndCause::Revoked))
            .collect();
        let latch = self.inner.registry.end(&refused);
        let reach = Reach {
            person: revoked.person,
            ..self.reach(&Scope::Tenant(tenant.tenant.clone())).await
        };
        let report = self.see_off(start, &latch, &reach, revision).await;
        let scope = match revoked {
            Revoked {
                token: Some(token), ..
            } => Scope::Token(token),
            Revoked {
                person: Some(person),
                ..
            } => Scope::Member(tenant.tenant.clone(), person),
            Revoked { .. } => Scope::Tenant(tenant.tenant.clone()),
        };
        self.report_revocation(&scope, actor, &report);
        Ok(report)
    }
}

impl SessionHandle {
    /// Notes what the authority has said of the session.
    pub(super) fn stand(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(standing));
    }

    /// Notes that the authority is being asked about the session again.
    pub(super) fn note_tried(&self, at: Instant) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Standing::Told(told)) = standing.as_deref_mut() {
            told.tried_at = at;
        }
    }

    /// What an authority has said of it.
    pub(super) fn told(&self) -> Option<Told> {
        match self.standing()? {
            Standing::Told(told) => Some(told),
            Standing::Proven(_) => None,
        }
    }

    pub(super) fn standing(&self) -> Option<Standing> {
        self.standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_deref()
            .cloned()
    }
}

impl From<Outage> for AccessError {
    fn from(outage: Outage) -> Self {
        Self::AuthorityLost(outage)
    }
}
