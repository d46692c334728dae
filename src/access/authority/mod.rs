//! External authorities: HTTP services that decide about a tenant's tokens in place of the catalogue.
//!
//! ```text
//! login ───▶ remembered? ─ no ─▶ a place among the tenant's calls ─▶ call ─▶ answer ─┐
//! recheck (every few seconds) ──────────▶ ┘                                          │
//!                                             yes within limits │ no │ no answer ◀───┘
//! webhook ─▶ forget what was remembered, distrust answers under way, end sessions
//! ```
//! An answer is one half of a grant; the other is the tenant's own record (switch, networks, privileged roles), which is
//! read after it (see `grant`). No answer is never a refusal: nobody is counted as having failed to log in.
//!
//! Calls are made on the runtime that the authorities were made on, so that no worker's sessions wait for TLS.

mod contract;
mod memory;
mod recheck;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use reqwest::{
    Url,
    header::{ACCEPT, HeaderValue},
};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

pub use self::memory::Revoked;
pub(super) use self::{
    contract::Verdict,
    memory::{Ticket, Topic},
};
use self::{
    contract::{Answer, Request},
    memory::Memory,
};
use super::{grant::Denial, registry::Identity};
use crate::{
    catalog::{
        ExternalToken,
        types::{AuthorityUrl, HttpAuthority, TimeLimit},
    },
    config::AuthoritySettings,
    metrics::{AuthorityOutcome, authority_asked},
    names::{RoleName, TenantRef},
    net::outbound::{Outbound, OutboundError, OutboundPolicy},
};

/// After so many calls in a row without an answer, an authority counts as silent until one is answered.
const SILENT_MAX: u32 = 3;

/// Why an authority has given no answer.
#[derive(Debug, thiserror::Error)]
pub enum Outage {
    #[error(transparent)]
    Call(#[from] OutboundError),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("unexpected status {0}")]
    Status(u16),
    #[error("the answer does not follow the contract")]
    Malformed,
    #[error("the last attempt has failed a moment ago")]
    Pausing,
}

/// A question about one token.
pub(super) struct Question<'a> {
    pub(super) authority: &'a Arc<HttpAuthority>,
    pub(super) token: &'a Arc<ExternalToken>,
    /// Which somebody wants to use.
    pub(super) tenant: &'a TenantRef,
    pub(super) role: &'a RoleName,
    pub(super) from: IpAddr,
}

impl<'a> Question<'a> {
    /// About a session that has shown `token`.
    pub(super) fn about(
        identity: &'a Identity,
        token: &'a Arc<ExternalToken>,
        authority: &'a Arc<HttpAuthority>,
    ) -> Self {
        Self {
            authority,
            token,
            tenant: &identity.tenant,
            role: &identity.role,
            from: identity.peer.ip(),
        }
    }

    /// Whose authority is asked: branches may leave it to their parent, and share what it has said.
    fn owner(&self) -> &TenantRef {
        self.token.tenant()
    }

    fn topic(&self) -> Topic {
        Topic {
            url: self.authority.url.about(self.tenant),
            token: *self.token.mac(),
            role: self.role.clone(),
            from: self.from,
        }
    }
}

/// Whether a remembered answer will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    Recent,
    Fresh,
}

/// All tenants' external authorities.
pub(super) struct Authorities {
    settings: ArcSwap<AuthoritySettings>,
    policy: Arc<OutboundPolicy>,
    askers: DashMap<TenantRef, Arc<Asker>>,
    runtime: Handle,
}

/// One tenant's authority: how it is reached, and what it has said.
struct Asker {
    authority: Arc<HttpAuthority>,
    outbound: Outbound,
    /// One permit for each call that may be under way, of so many.
    places: Semaphore,
    calls: usize,
    /// Calls in a row that came to nothing in time.
    silent: AtomicU32,
    /// Outlives a change of the authority's address.
    memory: Arc<Mutex<Memory>>,
}

impl Authorities {
    /// Calls are made on `runtime`, to where `policy` allows.
    pub(super) fn new(
        settings: AuthoritySettings,
        policy: Arc<OutboundPolicy>,
        runtime: Handle,
    ) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            policy,
            askers: DashMap::new(),
            runtime,
        }
    }

    pub(super) fn configure(&self, settings: AuthoritySettings) {
        self.settings.store(Arc::new(settings));
    }

    pub(super) fn settings(&self) -> Arc<AuthoritySettings> {
        self.settings.load_full()
    }

    /// Whether the operator lets an authority be at this address, and its certificate authorities can be read.
    pub(super) fn check(&self, url: &AuthorityUrl, ca: Option<&str>) -> Result<(), OutboundError> {
        self.policy.check(url.url())?;
        Outbound::new(Arc::clone(&self.policy), ca).map(drop)
    }

    /// What the authority says, and when it was asked.
    pub(super) async fn ask(
        &self,
        question: &Question<'_>,
        freshness: Freshness,
    ) -> Result<(Result<Verdict, Denial>, Ticket), Outage> {
        let settings = self.settings();
        let asker = self.asker(question, settings.calls_per_tenant)?;
        let topic = question.topic();
        let recent = asker.memory().find(&topic, settings.recheck);
        if let Some((verdict, ticket)) = recent.filter(|_| freshness == Freshness::Recent) {
            return Ok((Ok(verdict), ticket));
        }
        let ticket = asker.memory().ticket();
        let answer = asker.answer(question, &settings, &self.runtime).await;
        if !matches!(answer, Err(Outage::Pausing)) {
            authority_asked(outcome(&answer), ticket.at.elapsed());
        }
        match answer? {
            Answer::Allowed(verdict) => Ok((Ok(verdict), ticket)),
            Answer::Refused(denial) => {
                asker.memory().forget(&topic);
                Ok((Err(denial), ticket))
            }
        }
    }

    /// Keeps a yes that somebody was let in on, for further logins.
    pub(super) fn remember(&self, question: &Question<'_>, verdict: &Verdict, ticket: Ticket) {
        if let Some(asker) = self.askers.get(question.owner()) {
            let topic = question.topic();
            asker
                .memory()
                .remember(topic, question.token.id(), verdict, ticket);
        }
    }

    /// Whether what was asked with `ticket` has been revoked since.
    pub(super) fn is_revoked(
        &self,
        question: &Question<'_>,
        verdict: &Verdict,
        ticket: Ticket,
    ) -> bool {
        let memory = self
            .askers
            .get(question.owner())
            .map(|asker| Arc::clone(&asker.memory));
        memory.is_some_and(|memory| {
            locked(&memory).is_revoked(
                ticket,
                Some(verdict.person),
                question.token.id(),
                question.role,
            )
        })
    }

    /// Forgets what `revoked` concerns, and distrusts the answers to questions that were asked before.
    pub(super) fn revoke(&self, tenant: &TenantRef, revoked: Revoked) {
        // Without an asker nothing was asked; whoever asks from now on does so after the revocation.
        if let Some(asker) = self.askers.get(tenant) {
            asker.memory().revoke(revoked);
        }
    }

    fn asker(&self, question: &Question<'_>, calls: usize) -> Result<Arc<Asker>, OutboundError> {
        let mut known = self.askers.entry(question.owner().clone());
        if let dashmap::Entry::Occupied(entry) = &known
            && entry.get().authority == *question.authority
            && entry.get().calls == calls
        {
            return Ok(Arc::clone(entry.get()));
        }
        let memory = match &mut known {
            dashmap::Entry::Occupied(entry) => Arc::clone(&entry.get().memory),
            dashmap::Entry::Vacant(_) => Arc::default(),
        };
        let authority = question.authority;
        let asker = Arc::new(Asker {
            outbound: Outbound::new(Arc::clone(&self.policy), authority.ca.as_deref())?,
            authority: Arc::clone(authority),
            places: Semaphore::new(calls),
            calls,
            silent: AtomicU32::new(0),
            memory,
        });
        known.insert(Arc::clone(&asker));
        Ok(asker)
    }

    /// Drops answers that are too old, and what is known of authorities that nobody asks any more.
    fn tidy(&self) {
        let max_age = self.settings().recheck;
        self.askers.retain(|_, asker| {
            let mut memory = asker.memory();
            memory.tidy(max_age);
            memory.is_in_use()
        });
    }
}

impl Asker {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        locked(&self.memory)
    }

    async fn answer(
        self: &Arc<Self>,
        question: &Question<'_>,
        settings: &AuthoritySettings,
        runtime: &Handle,
    ) -> Result<Answer, Outage> {
        let deadline = self.authority.deadline.and_then(TimeLimit::duration);
        let deadline = deadline.unwrap_or(settings.deadline);
        let call = Arc::clone(self).call(
            self.authority.url.about(question.tenant),
            Arc::clone(question.token),
            question.role.clone(),
            question.from,
            Limits {
                deadline,
                answer_max_bytes: settings.answer_max_bytes,
            },
        );
        // Ended with whoever waits for it.
        let call = AbortOnDropHandle::new(runtime.spawn(call));
        match call.await {
            Ok(answer) => answer,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down.
            Err(_) => Err(Outage::TimedOut(deadline)),
        }
    }

    async fn call(
        self: Arc<Self>,
        url: Url,
        token: Arc<ExternalToken>,
        role: RoleName,
        from: IpAddr,
        limits: Limits,
    ) -> Result<Answer, Outage> {
        let until = Instant::now() + limits.deadline;
        let too_late = |_| Outage::TimedOut(limits.deadline);
        self.unless_silent(self.places.available_permits())?;
        // Never closed, so that there is a place sooner or later.
        let _place = timeout_at(until, self.places.acquire())
            .await
            .map_err(too_late)?;
        self.unless_silent(self.places.available_permits() + 1)?;
        let request = Request {
            role: &role,
            rhost: from.to_canonical().to_string(),
        };
        let response = self.outbound.call(
            &url,
            |client| {
                client
                    .post(url.clone())
                    .bearer_auth(token.expose())
                    .header(ACCEPT, HeaderValue::from_static("application/json"))
                    .json(&request)
            },
            limits.answer_max_bytes,
        );
        let answered = timeout_at(until, response).await;
        match &answered {
            Ok(_) => self.silent.store(0, Relaxed),
            Err(_) => _ = self.silent.fetch_add(1, Relaxed),
        }
        let response = answered.map_err(too_late)??;
        contract::read(response.status, &response.body, &role)
    }

    /// Refuses a call to an authority that has been silent lately, unless half of the places are `free`: those who try
    /// anew find out when it is back, and the others need not wait for what will not come.
    fn unless_silent(&self, free: usize) -> Result<(), Outage> {
        if self.silent.load(Relaxed) >= SILENT_MAX && free * 2 <= self.calls {
            return Err(Outage::Pausing);
        }
        Ok(())
    }
}

/// What one call may take.
struct Limits {
    /// A wait for its turn included.
    deadline: Duration,
    answer_max_bytes: usize,
}

fn outcome(answer: &Result<Answer, Outage>) -> AuthorityOutcome {
    match answer {
        Ok(Answer::Allowed(_)) => AuthorityOutcome::Allowed,
        Ok(Answer::Refused(_)) => AuthorityOutcome::Refused,
        Err(_) => AuthorityOutcome::Unavailable,
    }
}

/// Nothing in it can be left half done by a panic.
fn locked(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}
