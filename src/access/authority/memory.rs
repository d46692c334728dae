//! What is remembered of one authority: its recent answers, and what was revoked since.
//!
//! An answer holds for as long as the configuration says, and never beyond a revocation that came after its *question*:
//! the authority may have decided before it knew. So each question takes a ticket, and an answer is believed only if nothing
//! that concerns it was revoked since.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use reqwest::Url;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::contract::Verdict;
use crate::{
    config::AUTHORITY_DEADLINE_MAX,
    names::{PersonId, RoleName, TokenId},
};

const DECISIONS_MAX: usize = 10_000;
const REVOCATIONS_MAX: usize = 1_000;
/// Longer than any answer takes.
const REVOCATION_KEPT: Duration = Duration::from_secs(2 * AUTHORITY_DEADLINE_MAX.as_secs());

/// Whom a revocation concerns: all that is named must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    pub person: Option<PersonId>,
    pub token: Option<TokenId>,
    pub role: Option<RoleName>,
}

impl Revoked {
    /// `person` is `None` where nobody knows yet who it is.
    pub(in crate::access) fn concerns(
        &self,
        person: Option<PersonId>,
        token: &TokenId,
        role: &RoleName,
    ) -> bool {
        self.person.is_none_or(|revoked| person == Some(revoked))
            && self.token.as_ref().is_none_or(|revoked| revoked == token)
            && self.role.as_ref().is_none_or(|revoked| revoked == role)
    }
}

/// When a question was asked.
#[derive(Debug, Clone, Copy)]
pub(in crate::access) struct Ticket {
    number: u64,
    pub(in crate::access) at: Instant,
}

/// What an answer is an answer to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::access) struct Topic {
    /// Who was asked.
    pub(in crate::access) url: Url,
    /// The token's keyed hash.
    pub(in crate::access) token: [u8; 32],
    pub(in crate::access) role: RoleName,
    pub(in crate::access) from: IpAddr,
}

#[derive(Default)]
pub(super) struct Memory {
    decisions: HashMap<Topic, Decision>,
    revocations: VecDeque<(u64, Instant, Revoked)>,
    /// Counts revocations.
    number: u64,
    /// When something was asked last.
    used_at: Option<Instant>,
    /// Questions before this are too old for what is remembered of revocations.
    floor: u64,
}

struct Decision {
    token: TokenId,
    verdict: Verdict,
    ticket: Ticket,
}

impl Memory {
    pub(super) fn ticket(&mut self) -> Ticket {
        let at = Instant::now();
        self.used_at = Some(at);
        Ticket {
            number: self.number,
            at,
        }
    }

    /// Whether an answer may still be on its way, or what was answered may still be used.
    pub(super) fn is_in_use(&self) -> bool {
        let recently = |at: Instant| at.elapsed() < REVOCATION_KEPT;
        !self.decisions.is_empty() || self.used_at.is_some_and(recently)
    }

    /// What was answered to the same question, if it is not older than `max_age`.
    pub(super) fn find(&self, topic: &Topic, max_age: Duration) -> Option<(Verdict, Ticket)> {
        let Decision {
            token,
            verdict,
            ticket,
        } = self.decisions.get(topic)?;
        let now = OffsetDateTime::now_utc();
        let holds = ticket.at.elapsed() < max_age
            && verdict.expires_at.is_none_or(|end| end > now)
            && !self.is_revoked(*ticket, Some(verdict.person), token, &topic.role);
        holds.then(|| (verdict.clone(), *ticket))
    }

    pub(super) fn remember(
        &mut self,
        topic: Topic,
        token: &TokenId,
        verdict: &Verdict,
        ticket: Ticket,
    ) {
        if self.is_revoked(ticket, Some(verdict.person), token, &topic.role) {
            return;
        }
        if self.decisions.len() >= DECISIONS_MAX {
            self.decisions.clear();
        }
        let decision = Decision {
            token: token.clone(),
            verdict: verdict.clone(),
            ticket,
        };
        self.decisions.insert(topic, decision);
    }

    pub(super) fn forget(&mut self, topic: &Topic) {
        self.decisions.remove(topic);
    }

    /// From now on, no answer to an earlier question counts for whom this concerns.
    pub(super) fn revoke(&mut self, revoked: Revoked) {
        self.number += 1;
        self.decisions.retain(|topic, decision| {
            !revoked.concerns(Some(decision.verdict.person), &decision.token, &topic.role)
        });
        let now = Instant::now();
        self.revocations.push_back((self.number, now, revoked));
        while let Some((number, at, _)) = self.revocations.front() {
            if self.revocations.len() <= REVOCATIONS_MAX && now - *at < REVOCATION_KEPT {
                break;
            }
            self.floor = *number;
            self.revocations.pop_front();
        }
    }

    /// Whether what was asked with `ticket` has been revoked since.
    pub(super) fn is_revoked(
        &self,
        ticket: Ticket,
        person: Option<PersonId>,
        token: &TokenId,
        role: &RoleName,
    ) -> bool {
        ticket.number < self.floor
            || self
                .revocations
                .iter()
                .rev()
                .take_while(|(number, ..)| *number > ticket.number)
                .any(|(_, _, revoked)| revoked.concerns(person, token, role))
    }

    /// Drops answers that nobody may use any more.
    pub(super) fn tidy(&mut self, max_age: Duration) {
        self.decisions
            .retain(|_, decision| decision.ticket.at.elapsed() < max_age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::types::RuleReach;

    const AGE: Duration = Duration::from_secs(10);

    fn topic(role: &str) -> Topic {
        Topic {
            url: Url::parse("https://auth.example.com/").unwrap(),
            token: [1; 32],
            role: RoleName::parse(role).unwrap(),
            from: "192.0.2.1".parse().unwrap(),
        }
    }

    fn token() -> TokenId {
        TokenId::parse("abcdefghijkl").unwrap()
    }

    fn verdict() -> Verdict {
        Verdict {
            person: PersonId(uuid::Uuid::from_u128(7)),
            expires_at: None,
            networks: Vec::new(),
            reach: RuleReach::Everywhere,
        }
    }

    fn of_person() -> Revoked {
        Revoked {
            person: Some(verdict().person),
            ..Revoked::default()
        }
    }

    #[tokio::test]
    async fn an_answer_is_found_until_it_is_too_old() {
        let mut memory = Memory::default();
        let ticket = memory.ticket();
        memory.remember(topic("app"), &token(), &verdict(), ticket);
        assert!(memory.find(&topic("app"), AGE).is_some());
        assert!(memory.find(&topic("other"), AGE).is_none());
        assert!(memory.find(&topic("app"), Duration::ZERO).is_none());
        memory.tidy(Duration::ZERO);
        assert!(memory.decisions.is_empty());
    }

    #[tokio::test]
    async fn an_answer_to_a_question_from_before_the_revocation_is_not_believed() {
        let mut memory = Memory::default();
        let before = memory.ticket();
        memory.revoke(of_person());
        let person = Some(verdict().person);
        assert!(memory.is_revoked(before, person, &token(), &topic("app").role));
        let after = memory.ticket();
        assert!(!memory.is_revoked(after, person, &token(), &topic("app").role));
        let other = Some(PersonId(uuid::Uuid::from_u128(8)));
        assert!(!memory.is_revoked(before, other, &token(), &topic("app").role));
        memory.remember(topic("app"), &token(), &verdict(), before);
        assert!(memory.find(&topic("app"), AGE).is_none());
    }

    #[tokio::test]
    async fn a_revocation_forgets_the_answers_it_concerns_and_no_others() {
        let mut memory = Memory::default();
        for role in ["app", "other"] {
            let ticket = memory.ticket();
            memory.remember(topic(role), &token(), &verdict(), ticket);
        }
        memory.revoke(Revoked {
            role: Some(topic("app").role),
            ..of_person()
        });
        assert!(memory.find(&topic("app"), AGE).is_none());
        assert!(memory.find(&topic("other"), AGE).is_some());
    }

    #[tokio::test]
    async fn a_flood_of_revocations_makes_old_questions_count_for_nobody() {
        let mut memory = Memory::default();
        let before = memory.ticket();
        let nobody = Revoked {
            person: Some(PersonId(uuid::Uuid::from_u128(9))),
            ..Revoked::default()
        };
        for _ in 0..=REVOCATIONS_MAX {
            memory.revoke(nobody.clone());
        }
        assert!(memory.revocations.len() <= REVOCATIONS_MAX);
        assert!(memory.is_revoked(before, Some(verdict().person), &token(), &topic("app").role));
        let after = memory.ticket();
        assert!(!memory.is_revoked(after, Some(verdict().person), &token(), &topic("app").role));
    }
}
