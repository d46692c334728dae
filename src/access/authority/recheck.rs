//! Asking again about live sessions: who an authority no longer knows does not stay.
//!
//! ```text
//! sweep (twice a second) ─┬─ unconfirmed for too long ─▶ end: loss of authorization service
//!                               └─ due, and no round of its tenant under way ─▶ round: ask, oldest first
//! ```
//! A round takes half of the tenant's calls, so that logins find a place, and begins nothing more once it has lasted as long
//! as answers are good for: what is left is first in the next one.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{Freshness, Outage, Question, Topic};
use crate::{
    access::{
        Access, Grant, Scope,
        enforce::{Reach, cause_of},
        external::{Standing, Told},
        registry::SessionHandle,
        signal::EndCause,
    },
    names::TenantRef,
};

/// How often it is looked whether anybody is due.
const SWEEP: Duration = Duration::from_millis(500);

/// The sessions that one answer decides about.
struct Subject {
    sessions: Vec<Arc<SessionHandle>>,
    tried_at: Instant,
}

impl Access {
    /// Asks external authorities again about the sessions they have let in, until told to stop.
    pub async fn recheck_external(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way = HashSet::new();
        let mut rounds = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {
                    for (tenant, subjects) in self.due(&under_way) {
                        under_way.insert(tenant.clone());
                        let access = self.clone();
                        rounds.spawn(async move {
                            access.round(&tenant, subjects).await;
                            tenant
                        });
                    }
                    self.inner.authorities.tidy();
                    self.inner.keyrings.tidy();
                }
                Some(done) = rounds.join_next() => match done {
                    Ok(tenant) => {
                        under_way.remove(&tenant);
                    }
                    Err(error) => {
                        tracing::error!(%error, "asking authorities again broke off: this is a bug");
                        // Nobody knows whose it was; a second round at once does no harm.
                        under_way.clear();
                    }
                },
            }
        }
    }

    /// What has to be asked now, by tenant. Sessions that have gone unconfirmed for too long are ended on the way.
    fn due(&self, under_way: &HashSet<TenantRef>) -> Vec<(TenantRef, Vec<Subject>)> {
        let settings = self.inner.authorities.settings();
        let now = Instant::now();
        let mut due = HashMap::<TenantRef, HashMap<Topic, Subject>>::new();
        let external = |session: &SessionHandle| session.identity.kept_token().is_some();
        for session in self.inner.registry.matching(external) {
            let (Some(token), Some(standing)) = (session.identity.kept_token(), session.told())
            else {
                continue;
            };
            if now - standing.asked_at >= settings.recheck + settings.outage {
                session.end(EndCause::AuthorityLost);
                continue;
            }
            let identity = &session.identity;
            if now - standing.tried_at < settings.recheck || under_way.contains(token.tenant()) {
                continue;
            }
            let topic = Question::about(identity, token, &standing.authority).topic();
            let of_tenant = due.entry(token.tenant().clone()).or_default();
            let subject = of_tenant.entry(topic).or_insert_with(|| Subject {
                sessions: Vec::new(),
                tried_at: standing.tried_at,
            });
            subject.tried_at = subject.tried_at.min(standing.tried_at);
            subject.sessions.push(Arc::clone(&session));
        }
        let by_age = |subjects: HashMap<Topic, Subject>| {
            let mut subjects: Vec<_> = subjects.into_values().collect();
            subjects.sort_by_key(|subject| subject.tried_at);
            subjects
        };
        due.into_iter()
            .map(|(tenant, subjects)| (tenant, by_age(subjects)))
            .collect()
    }

    async fn round(&self, tenant: &TenantRef, subjects: Vec<Subject>) {
        let settings = self.inner.authorities.settings();
        let begun = Instant::now();
        let outages = stream::iter(subjects)
            .take_while(|_| std::future::ready(begun.elapsed() < settings.recheck))
            .map(|subject| self.ask_again(subject.sessions))
            .buffer_unordered((settings.calls_per_tenant / 2).max(1))
            .filter_map(std::future::ready)
            .collect::<Vec<_>>()
            .await;
        if let Some(outage) = outages.first() {
            tracing::warn!(%tenant, unanswered = outages.len(), %outage, "the authority cannot be asked about live sessions");
        }
    }

    /// Asks about sessions of one token, role and address, and ends those that are no longer allowed.
    async fn ask_again(&self, sessions: Vec<Arc<SessionHandle>>) -> Option<Outage> {
        let begun = Instant::now();
        let first = sessions.first()?;
        let token = first.identity.kept_token()?;
        let standing = first.told()?;
        let question = Question::about(&first.identity, token, &standing.authority);
        for session in &sessions {
            session.note_tried(begun);
        }
        let (answer, ticket) = match self
            .inner
            .authorities
            .ask(&question, Freshness::Fresh)
            .await
        {
            Ok(answered) => answered,
            Err(outage) => return Some(outage),
        };
        let answer = answer.and_then(|verdict| {
            self.unless_revoked(&question, &verdict, ticket)
                .map(|()| verdict)
        });
        let mut refused = Vec::new();
        for session in &sessions {
            let cause = match &answer {
                Ok(verdict) => {
                    let standing = Told {
                        verdict: verdict.clone(),
                        asked_at: ticket.at,
                        tried_at: ticket.at,
                        ..standing.clone()
                    };
                    self.stand_again(session, standing).await
                }
                Err(denial) => Err(cause_of(*denial)),
            };
            if let Err(cause) = cause {
                refused.push((Arc::clone(session), cause));
            }
        }
        if let Ok(verdict) = &answer
            && refused.is_empty()
        {
            self.inner.authorities.remember(&question, verdict, ticket);
        }
        if !refused.is_empty() {
            self.end_denied(first, refused, begun).await;
        }
        None
    }

    /// Takes a further yes for a session.
    async fn stand_again(&self, session: &SessionHandle, told: Told) -> Result<(), EndCause> {
        let same_person = session
            .grant()
            .is_some_and(|grant| grant.person() == told.verdict.person);
        if !same_person {
            return Err(EndCause::Revoked);
        }
        match self.by_word(session, &told).await {
            Ok(Ok(grant)) => {
                session.stand(Standing::Told(told));
                session.confirm(&grant);
                Ok(())
            }
            Ok(Err(denial)) => Err(cause_of(denial)),
            Err(error) => {
                tracing::error!(%error, "an authority's answer cannot be held against the catalogue");
                Ok(())
            }
        }
    }

    async fn end_denied(
        &self,
        first: &SessionHandle,
        refused: Vec<(Arc<SessionHandle>, EndCause)>,
        begun: Instant,
    ) {
        let person = first.grant().map(Grant::person);
        // One answer may be about sessions of a tenant and of its branches.
        let tenants = refused.iter().map(|(session, _)| &session.identity.tenant);
        let tenants: BTreeSet<_> = tenants.cloned().collect();
        let tenant = first.identity.tenant.clone();
        let reach = Reach {
            tenants: Some(tenants.into_iter().collect()),
            person,
            is_partial: false,
        };
        let revision = first.decided_at();
        let latch = self.inner.registry.end(&refused);
        let report = self.see_off(begun, &latch, &reach, revision).await;
        let scope = match person {
            Some(person) => Scope::Member(tenant, person),
            None => Scope::Tenant(tenant),
        };
        self.report_revocation(&scope, "authority", &report);
    }
}
