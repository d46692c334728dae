//! Enforcement: after any change in the catalogue, end the sessions that no longer stand on it.
//!
//! ```text
//! change committed at revision R
//!   │ floor      every tenant concerned: decisions older than R are no longer believed
//!   │ scan       live token sessions in scope, those still logging in too
//!   │ decide     again, from the catalogue as it is now, once per (token, tenant, role, address, privileged or not);
//!   │            not even that where the tenant lets in nobody any more
//!   │ end        those refused, each as soon as it is; purge idle backends of the people concerned
//!   ▼ wait       until the sessions and their backends are gone: then the caller gets its report
//! ```
//! There is one way for all causes (a rule removed, narrowed or expired, a token revoked, a person or member
//! removed, access switched off, networks tightened): decide again. So no cause can be forgotten.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::{sync::oneshot, time::Instant};
use utoipa::ToSchema;

use super::{
    Access,
    grant::{Denial, Grant, InvalidToken, decide},
    registry::{Latch, SessionHandle},
    signal::EndCause,
};
use crate::{
    catalog::{
        CatalogError,
        types::{AuditEvent, Outcome, PrivilegedRoles, Revision, Tenant},
    },
    names::{PersonId, RoleName, SessionId, TenantRef, TokenId},
};

/// After this long a report is given although a session has not confirmed its end. The parts of an end have
/// deadlines of their own that add up to less.
const CONFIRMATION_MAX: Duration = Duration::from_secs(5);

/// Whom a change in the catalogue concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All people of a tenant, and of its branches.
    Tenant(TenantRef),
    /// One person in a tenant and its branches.
    Member(TenantRef, PersonId),
    /// One person everywhere.
    Person(PersonId),
    /// One token everywhere.
    Token(TokenId),
}

/// What an enforcement did, with times measured from its start.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RevocationReport {
    pub revision: Revision,
    pub sessions_ended: u32,
    pub backends_closed: u32,
    /// Sessions and idle backends whose end was not proven when the report was made.
    pub unconfirmed: u32,
    pub elapsed_ms: f64,
    /// Until the sessions were gone; the rest of `elapsed_ms` went to idle backends.
    pub slowest_ms: f64,
}

/// A request to a worker: close the backends that were opened for these people.
#[derive(Debug)]
pub struct Purge {
    pub tenants: Option<Vec<TenantRef>>,
    pub person: Option<PersonId>,
    /// Told when the backends are gone, or given up on.
    pub done: oneshot::Sender<Purged>,
}

/// What became of the backends that a worker was asked to close.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    pub closed: u32,
    /// Those whose server process may still be there.
    pub unproven: u32,
}

/// How far a scope goes, as the catalogue knows it.
pub(super) struct Reach {
    /// Branches included; `None`: any tenant.
    pub(super) tenants: Option<Vec<TenantRef>>,
    /// `None`: anybody.
    pub(super) person: Option<PersonId>,
    /// The catalogue could not be asked: there may be more.
    pub(super) is_partial: bool,
}

impl Reach {
    /// What the scope itself names: no branches, and for a token nobody.
    fn by_name(scope: &Scope) -> Self {
        let (tenants, person) = match scope {
            Scope::Tenant(tenant) => (Some(vec![tenant.clone()]), None),
            Scope::Member(tenant, person) => (Some(vec![tenant.clone()]), Some(*person)),
            Scope::Person(person) => (None, Some(*person)),
            Scope::Token(_) => (Some(Vec::new()), None),
        };
        Self {
            tenants,
            person,
            is_partial: false,
        }
    }
}

impl Access {
    /// Re-decides every live token session in `scope` after the change committed at `revision`, ends those that
    /// no longer hold and returns when they are gone.
    pub async fn enforce(&self, scope: Scope, revision: Revision) -> RevocationReport {
        let start = Instant::now();
        let reach = self.reach(&scope).await;
        self.raise_floors(&scope, &reach, revision);
        self.inner.changes.send_replace(revision);
        let in_scope = self
            .inner
            .registry
            .matching(|session| concerns(session, &scope, reach.tenants.as_deref()));
        let latch = self.end_refused(in_scope).await;
        let report = self.see_off(start, &latch, &reach, revision).await;
        // Logins that never came to a grant have lost nothing.
        if report.sessions_ended + report.unconfirmed > 0 {
            self.report_revocation(&scope, "system", &report);
        }
        report
    }

    /// Ends what is idle within `reach`, and returns when that and the sessions that `latch` waits for are gone;
    /// `start` is when it began.
    pub(super) async fn see_off(
        &self,
        start: Instant,
        latch: &Latch,
        reach: &Reach,
        revision: Revision,
    ) -> RevocationReport {
        let sessions_gone = async {
            let _ = tokio::time::timeout(CONFIRMATION_MAX, latch.wait()).await;
            start.elapsed()
        };
        let (slowest, first) = tokio::join!(sessions_gone, self.purge(reach));
        // A session that was logging in may have had a backend opened meanwhile: now it is gone, that one is idle.
        let second = self.purge(reach).await;
        let (ended, unconfirmed) = (latch.ended(), latch.unconfirmed());
        RevocationReport {
            revision,
            sessions_ended: ended,
            backends_closed: latch.with_backend() + first.closed + second.closed,
            unconfirmed: unconfirmed
                + first.unproven
                + second.unproven
                + u32::from(reach.is_partial),
            elapsed_ms: milliseconds(start.elapsed()),
            slowest_ms: if ended + unconfirmed > 0 {
                milliseconds(slowest)
            } else {
                0.0
            },
        }
    }

    /// Ends one session; `None`: there is none of that id.
    pub async fn end_session(&self, id: SessionId, by: &str) -> Option<RevocationReport> {
        let start = Instant::now();
        let session = self.inner.registry.find(id)?;
        let latch = self
            .inner
            .registry
            .end(&[(Arc::clone(&session), EndCause::Administrator)]);
        let _ = tokio::time::timeout(CONFIRMATION_MAX, latch.wait()).await;
        let elapsed_ms = milliseconds(start.elapsed());
        let report = RevocationReport {
            revision: session.decided_at(),
            sessions_ended: latch.ended(),
            backends_closed: latch.with_backend(),
            unconfirmed: latch.unconfirmed(),
            elapsed_ms,
            slowest_ms: elapsed_ms,
        };
        let event = AuditEvent {
            tenant: Some(session.identity.tenant.clone()),
            person: session.grant().map(Grant::person),
            role: Some(session.identity.role.clone()),
            session: Some(id),
            ..event("session.terminated", by, &report)
        };
        self.inner.catalog.record_later(event);
        Some(report)
    }

    /// Decides again for one session; called by the session itself when its decision is older than the floor.
    pub async fn recheck(&self, session: &SessionHandle) -> Result<(), EndCause> {
        match self.decide_again(session).await {
            Ok(Ok(grant)) => {
                session.confirm(&grant);
                Ok(())
            }
            Ok(Err(denial)) => Err(cause_of(denial)),
            Err(_) => Err(EndCause::AuthorityLost),
        }
    }

    /// Ends those of `sessions` that the catalogue no longer allows. A tenant may have as many people as sessions:
    /// so nobody lives on until the last of them is decided about.
    async fn end_refused(&self, mut sessions: Vec<Arc<SessionHandle>>) -> Arc<Latch> {
        let latch = Arc::<Latch>::default();
        let mut verdicts = Verdicts::default();
        // Servers take longest to end: let them begin, and end the idle sessions meanwhile. Each session is asked once:
        // one that gets a backend meanwhile would make a sort of contradictions, which may panic.
        sessions.sort_by_cached_key(|session| !session.has_backend());
        for session in &sessions {
            if session.identity.external.is_some() && session.standing().is_none() {
                // Nobody has answered for it yet; the catalogue is read after that.
                continue;
            }
            match verdicts.about(self, session).await {
                Err(cause) => self.inner.registry.end_one(session, cause, &latch),
                // A session that is still logging in reads its own decision, which comes after this change.
                Ok(grant) if session.grant().is_some() => session.confirm(grant),
                Ok(_) => {}
            }
        }
        latch
    }

    async fn decide_again(
        &self,
        session: &SessionHandle,
    ) -> Result<Result<Grant, Denial>, CatalogError> {
        let identity = &session.identity;
        let Some(token) = &identity.token else {
            return Ok(Err(Denial::InvalidToken(InvalidToken::Unknown)));
        };
        if let Some(standing) = session.standing() {
            return self.by_standing(session, &standing).await;
        }
        let evidence = self
            .inner
            .catalog
            .evidence(token, &identity.tenant, &identity.role)
            .await?;
        if let Err(denial) = Powers::of(session).allowed_by(evidence.tenant.as_deref()) {
            return Ok(Err(denial));
        }
        Ok(decide(
            &evidence,
            &identity.role,
            identity.peer.ip(),
            OffsetDateTime::now_utc(),
        ))
    }

    pub(super) async fn reach(&self, scope: &Scope) -> Reach {
        let mut reach = Reach::by_name(scope);
        let completed = match scope {
            Scope::Tenant(tenant) | Scope::Member(tenant, _) => {
                let branches = self.inner.catalog.branches(tenant).await;
                branches.map(|branches| {
                    let branches = branches.into_iter().map(|branch| branch.tenant);
                    reach.tenants.get_or_insert_default().extend(branches);
                })
            }
            Scope::Person(_) => Ok(()),
            Scope::Token(token) => {
                let record = self.inner.catalog.token(token).await;
                record.map(|record| {
                    if let Some(record) = record {
                        (reach.tenants, reach.person) = (None, Some(record.person));
                    }
                })
            }
        };
        if let Err(error) = completed {
            tracing::error!(%error, "a revocation may miss somebody: the catalogue cannot be read");
            reach.is_partial = true;
        }
        reach
    }

    fn raise_floors(&self, scope: &Scope, reach: &Reach, revision: Revision) {
        for tenant in reach.tenants.iter().flatten() {
            self.raise_floor(tenant, revision);
        }
        if let Scope::Person(_) = scope {
            // Whom a JSON Web Token names is not known before its login is done.
            self.raise_all_floors(revision);
        }
        if reach.is_partial {
            // Whoever is missed now is decided again before their next transaction.
            self.raise_all_floors(revision);
        }
    }

    /// Has every worker close the idle backends within `reach`.
    async fn purge(&self, reach: &Reach) -> Purged {
        let answers = self.inner.workers.iter().map(|worker| {
            let (done, answer) = oneshot::channel();
            let purge = Purge {
                tenants: reach.tenants.clone(),
                person: reach.person,
                done,
            };
            let sent = worker.send(purge).is_ok();
            async move {
                // A worker that is gone has closed all its backends.
                if !sent {
                    return Purged::default();
                }
                match tokio::time::timeout(CONFIRMATION_MAX, answer).await {
                    Ok(answer) => answer.unwrap_or_default(),
                    Err(_) => Purged {
                        closed: 0,
                        unproven: 1,
                    },
                }
            }
        });
        let answers = futures_util::future::join_all(answers).await;
        answers
            .into_iter()
            .fold(Purged::default(), |all, one| Purged {
                closed: all.closed + one.closed,
                unproven: all.unproven + one.unproven,
            })
    }

    pub(super) fn report_revocation(&self, scope: &Scope, actor: &str, report: &RevocationReport) {
        crate::metrics::revoked(
            report.sessions_ended,
            Duration::from_secs_f64(report.elapsed_ms / 1_000.0),
        );
        let (tenant, person, token) = match scope {
            Scope::Tenant(tenant) => (Some(tenant.clone()), None, None),
            Scope::Member(tenant, person) => (Some(tenant.clone()), Some(*person), None),
            Scope::Person(person) => (None, Some(*person), None),
            Scope::Token(token) => (None, None, Some(token.clone())),
        };
        self.inner.catalog.record_later(AuditEvent {
            tenant,
            person,
            token,
            ..event("access.revoked", actor, report)
        });
    }
}

fn event(kind: &str, actor: &str, report: &RevocationReport) -> AuditEvent {
    let outcome = match report.unconfirmed {
        0 => Outcome::Success,
        _ => Outcome::Failure,
    };
    AuditEvent {
        detail: serde_json::json!(report),
        ..AuditEvent::new(kind, outcome, actor)
    }
}

/// Whether `session` may be concerned. One whose person is not known yet always may: its decision is being made.
fn concerns(session: &SessionHandle, scope: &Scope, tenants: Option<&[TenantRef]>) -> bool {
    let Some(token) = &session.identity.token else {
        return false;
    };
    let in_tenants = tenants.is_none_or(|tenants| tenants.contains(&session.identity.tenant));
    let is_person = |person| session.grant().is_none_or(|grant| grant.person() == person);
    match scope {
        Scope::Tenant(_) => in_tenants,
        Scope::Member(_, person) => in_tenants && is_person(*person),
        Scope::Person(person) => is_person(*person),
        Scope::Token(revoked) => token == revoked,
    }
}

/// What one enforcement has decided so far.
#[derive(Default)]
struct Verdicts {
    each: HashMap<Question, Result<Grant, EndCause>>,
    /// Tenants that let in nobody, with the cause of every end there.
    closed: HashMap<TenantRef, EndCause>,
}

/// What a decision depends on, the moment apart.
#[derive(PartialEq, Eq, Hash)]
struct Question {
    token: Option<TokenId>,
    tenant: TenantRef,
    role: RoleName,
    from: IpAddr,
    is_privileged: bool,
}

impl Verdicts {
    /// Whether `session` may go on; decided unless that is known already.
    async fn about(
        &mut self,
        access: &Access,
        session: &SessionHandle,
    ) -> Result<&Grant, EndCause> {
        let identity = &session.identity;
        if let Some(cause) = self.closed.get(&identity.tenant) {
            return Err(*cause);
        }
        let question = Question {
            token: identity.token.clone(),
            tenant: identity.tenant.clone(),
            role: identity.role.clone(),
            from: identity.peer.ip(),
            is_privileged: session.is_privileged(),
        };
        let verdict = match self.each.entry(question) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(open) => open.insert(match access.decide_again(session).await {
                Ok(Ok(grant)) => Ok(grant),
                Ok(Err(denial)) => {
                    if denial.is_for_everybody() {
                        self.closed
                            .insert(identity.tenant.clone(), cause_of(denial));
                    }
                    Err(cause_of(denial))
                }
                Err(_) => Err(EndCause::AuthorityLost),
            }),
        };
        verdict.as_ref().map_err(|cause| *cause)
    }
}

/// What the server has told of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Powers {
    Privileged,
    /// None that anybody has been told of.
    Usual,
}

impl Powers {
    pub(super) fn of(session: &SessionHandle) -> Self {
        if session.is_privileged() {
            Self::Privileged
        } else {
            Self::Usual
        }
    }

    /// Whether the tenant still allows token sessions with such powers.
    pub(super) fn allowed_by(self, tenant: Option<&Tenant>) -> Result<(), Denial> {
        let refused =
            tenant.is_some_and(|tenant| tenant.privileged_roles == PrivilegedRoles::Refuse);
        match self {
            Self::Privileged if refused => Err(Denial::PrivilegedRole),
            Self::Privileged | Self::Usual => Ok(()),
        }
    }
}

pub(super) fn cause_of(denial: Denial) -> EndCause {
    match denial {
        Denial::RuleExpired | Denial::InvalidToken(InvalidToken::Expired) => EndCause::Expired,
        _ => EndCause::Revoked,
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
