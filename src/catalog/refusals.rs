//! Refused logins and calls, counted: the first of its kind is written down at once, those like it within a window are one
//! row at its end. So a flood of refusals costs a bounded number of rows, and no event of anybody else's its place.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ipnet::IpNet;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

use crate::{
    catalog::{Catalog, columns, types::AuditEvent},
    names::{PersonId, TenantRef},
    net::network::own_network,
};

/// How long refusals of one kind are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Kinds counted at a time; beyond, addresses are not told apart, and beyond twice as many, tenants neither.
const KINDS_MAX: usize = 200;

/// Whether a refusal says something that was not said a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Novelty {
    First,
    Repeated,
}

/// What two refusals must share to be counted together.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    event: String,
    tenant: Option<TenantRef>,
    network: Option<IpNet>,
    person: Option<PersonId>,
    reason: Option<String>,
}

/// Refusals of one kind since the one that was written down.
struct Counted {
    event: AuditEvent,
    count: u64,
    first: OffsetDateTime,
    last: OffsetDateTime,
    due: Instant,
}

#[derive(Default)]
pub(super) struct Refusals(Mutex<HashMap<Kind, Counted>>);

impl Catalog {
    /// Queues the `event` of a login or call refused to `address`, if that is known, or counts it if it is like one before.
    pub fn record_refusal(&self, event: AuditEvent, address: impl Into<Option<IpAddr>>) -> Novelty {
        let (refusals, now) = (&self.shared.refusals, Instant::now());
        let told = refusals.tell(event, address, now);
        match told {
            Some(event) => {
                self.record_later(event);
                Novelty::First
            }
            None => Novelty::Repeated,
        }
    }

    /// Queues the counts of windows that are over; called a few times a second.
    pub fn sweep_refusals(&self) {
        self.shared
            .refusals
            .sweep(Instant::now(), |event| self.record_later(event));
    }

    /// Queues all counts: nothing more comes.
    pub fn close_refusals(&self) {
        let end = Instant::now() + WINDOW;
        self.shared
            .refusals
            .sweep(end, |event| self.record_later(event));
    }
}

impl Refusals {
    /// The event, if it is to be written down by itself.
    fn tell(
        &self,
        event: AuditEvent,
        address: impl Into<Option<IpAddr>>,
        now: Instant,
    ) -> Option<AuditEvent> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = Kind::of(&event, address.into()).within(&counted);
        let at = columns::now();
        if let Some(like) = counted.get_mut(&kind) {
            like.count += 1;
            like.last = at;
            like.keep_common(&event);
            return None;
        }
        let like = Counted {
            event: event.clone(),
            count: 0,
            first: at,
            last: at,
            due: now + WINDOW,
        };
        counted.insert(kind, like);
        Some(event)
    }

    fn sweep(&self, now: Instant, mut write: impl FnMut(AuditEvent)) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = counted.extract_if(|_, like| like.due <= now);
        for (kind, like) in over {
            if like.count > 0 {
                write(like.into_event(&kind));
            }
        }
    }
}

impl Kind {
    fn of(event: &AuditEvent, address: Option<IpAddr>) -> Self {
        Self {
            event: event.kind.clone(),
            tenant: event.tenant.clone(),
            network: address.map(own_network),
            person: event.person,
            reason: event.reason.clone(),
        }
    }

    /// This kind, or a coarser one where too many are counted already.
    fn within(self, counted: &HashMap<Self, Counted>) -> Self {
        if counted.len() < KINDS_MAX || counted.contains_key(&self) {
            return self;
        }
        let coarse = Self {
            network: None,
            person: None,
            ..self
        };
        if counted.len() < 2 * KINDS_MAX || counted.contains_key(&coarse) {
            return coarse;
        }
        Self {
            tenant: None,
            ..coarse
        }
    }
}

impl Counted {
    /// Forgets what `event` does not share.
    fn keep_common(&mut self, event: &AuditEvent) {
        let mine = &mut self.event;
        if mine.actor != event.actor {
            "unknown".clone_into(&mut mine.actor);
        }
        if mine.role != event.role {
            mine.role = None;
        }
        if mine.token != event.token {
            mine.token = None;
        }
        if mine.tenant != event.tenant {
            mine.tenant = None;
        }
        if mine.person != event.person {
            mine.person = None;
        }
    }

    /// The row that stands for all but the first.
    fn into_event(self, kind: &Kind) -> AuditEvent {
        let text = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        AuditEvent {
            peer: kind.network.map(|network| shown(&network)),
            detail: serde_json::json!({
                "count": self.count, "first": text(self.first), "last": text(self.last),
            }),
            ..self.event
        }
    }
}

pub(super) fn shown(network: &IpNet) -> String {
    match network {
        IpNet::V4(network) => network.addr().to_string(),
        IpNet::V6(network) => network.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::types::Outcome;

    fn refusal(tenant: &str, reason: &str) -> AuditEvent {
        AuditEvent {
            tenant: Some(TenantRef::parse(tenant).unwrap()),
            reason: Some(reason.to_owned()),
            ..AuditEvent::new("auth.denied", Outcome::Failure, "role:app")
        }
    }

    fn address(last: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + last).to_be_bytes())
    }

    fn swept(refusals: &Refusals, at: Instant) -> Vec<AuditEvent> {
        let mut events = Vec::new();
        refusals.sweep(at, |event| events.push(event));
        events
    }

    #[test]
    fn the_first_of_a_kind_is_told_and_the_rest_is_one_row() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let tell = |reason, from| refusals.tell(refusal("demo", reason), address(from), now);
        assert!(tell("wrong_password", 1).is_some());
        for _ in 0..1_000 {
            assert!(tell("wrong_password", 1).is_none());
        }
        assert!(tell("no_rule", 1).is_some());
        assert!(tell("wrong_password", 2).is_some());
        assert_eq!(swept(&refusals, now).len(), 0);
        let rows = swept(&refusals, now + WINDOW);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].detail["count"], 1_000);
        assert_eq!(rows[0].peer.as_deref(), Some("10.0.0.1"));
        assert!(tell("wrong_password", 1).is_some());
    }

    #[test]
    fn what_many_have_done_is_said_of_none_of_them() {
        let refusals = Refusals::default();
        let now = Instant::now();
        for number in 0..10 * KINDS_MAX as u32 {
            let person = PersonId(uuid::Uuid::from_u128(number.into()));
            let event = AuditEvent {
                person: Some(person),
                actor: format!("person:{person}"),
                ..refusal("demo", "forbidden")
            };
            refusals.tell(event, address(number), now);
        }
        let rows = swept(&refusals, now + WINDOW);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].person, &*rows[0].actor), (None, "unknown"));
    }

    #[test]
    fn a_flood_from_everywhere_costs_a_bounded_number_of_rows() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let mut rows = 0;
        for number in 0..100_000 {
            let event = refusal(&format!("t{}", number % 5_000), "wrong_password");
            rows += usize::from(refusals.tell(event, address(number), now).is_some());
        }
        let later = swept(&refusals, now + WINDOW);
        rows += later.len();
        assert!(rows <= 4 * KINDS_MAX + 2, "{rows} rows");
        let counted: u64 = later
            .iter()
            .map(|row| row.detail["count"].as_u64().unwrap())
            .sum();
        assert!(counted + rows as u64 >= 100_000);
    }
}
