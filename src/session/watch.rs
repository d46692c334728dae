//! The sessions of one worker, each looked at as often as its limits of time need it.
//!
//! Who lives on a grant is looked at with every tick of the worker's clock: a grant runs out by clocks that can be set,
//! and may be shortened by another thread. What all others do, they began after the last look; so none of their limits
//! can be over before the shortest of them has passed, and ten thousand idle clients cost next to nothing.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::local::{Due, Local, Now};
use crate::{config::Timeouts, memory::Trim as _, names::SessionId};

/// Others are looked at this often at least: their limits may be made shorter in the configuration.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// The sessions that a worker looks after.
pub(super) struct Watch {
    granted: RefCell<Group>,
    others: RefCell<Group>,
    /// When `others` have to be looked at again.
    again_at: Cell<Instant>,
}

type Group = FxHashMap<SessionId, Rc<Local>>;

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            granted: RefCell::default(),
            others: RefCell::default(),
            again_at: Cell::new(now),
        }
    }

    pub(super) fn add(&self, local: Rc<Local>, now: Instant, configured: &Timeouts) {
        let again_at = local.again_at(now, &local.timeouts(configured));
        self.again_at.set(self.again_at.get().min(again_at));
        let mut group = self.group(&local).borrow_mut();
        group.insert(local.handle.id, Rc::clone(&local));
    }

    pub(super) fn remove(&self, local: &Local) {
        self.group(local).borrow_mut().remove(&local.handle.id);
    }

    pub(super) fn get(&self, session: SessionId) -> Option<Rc<Local>> {
        let find = |group: &RefCell<Group>| group.borrow().get(&session).cloned();
        find(&self.granted).or_else(|| find(&self.others))
    }

    /// Looks at those whose limits may be over by `now`; `overdue` gets those of whom something is to be cancelled.
    pub(super) fn look(
        &self,
        now: Now,
        configured: &Timeouts,
        mut overdue: impl FnMut(&Rc<Local>),
    ) {
        let mut look_at = |group: &RefCell<Group>| {
            let mut next = now.instant + LOOK_PERIOD;
            for local in group.borrow().values() {
                let (due, again_at) = local.look(now, configured);
                next = next.min(again_at);
                if due == Due::Cancel {
                    overdue(local);
                }
            }
            next
        };
        look_at(&self.granted);
        if self.again_at.get() <= now.instant {
            self.again_at.set(look_at(&self.others));
        }
    }

    /// Gives back memory that many sessions have needed.
    pub(super) fn trim(&self) {
        self.granted.borrow_mut().trim();
        self.others.borrow_mut().trim();
    }

    fn group(&self, local: &Local) -> &RefCell<Group> {
        match local.handle.grant() {
            Some(_) => &self.granted,
            None => &self.others,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        access::{Activity, EndCause, Identity, Registration, Registry},
        catalog::types::TenantTimeouts,
        config::{Config, Secret},
    };

    /// One session that is watched since `now`.
    struct Watched {
        watch: Watch,
        registration: Registration,
        local: Rc<Local>,
        limits: Timeouts,
        now: Now,
    }

    impl Watched {
        fn new(limits: Timeouts) -> Self {
            let identity = Identity {
                tenant: "shop".parse().unwrap(),
                role: "app".parse().unwrap(),
                database: "postgres".parse().unwrap(),
                peer: "127.0.0.1:5".parse().unwrap(),
                tls: None,
                application_name: String::new(),
                token: None,
                external: None,
            };
            let registration = Arc::new(Registry::default()).register(identity);
            let now = Now::read();
            let handle = registration.handle().clone();
            let local = Local::new(handle, TenantTimeouts::default(), now.instant);
            let watch = Watch::new(now.instant);
            watch.add(Rc::clone(&local), now.instant, &limits);
            local.enter(Activity::Idle, now.instant);
            Self {
                watch,
                registration,
                local,
                limits,
                now,
            }
        }

        /// How many are overdue so many milliseconds later.
        fn look_after(&self, milliseconds: u64) -> usize {
            let mut now = self.now;
            now.instant += Duration::from_millis(milliseconds);
            let mut overdue = 0;
            self.watch.look(now, &self.limits, |_| overdue += 1);
            overdue
        }

        fn end(&self) -> Option<EndCause> {
            self.registration.handle().end_cause()
        }
    }

    fn limits(change: impl FnOnce(&mut Timeouts)) -> Timeouts {
        let mut timeouts = Config::new(Secret::new([0; 32]), Secret::new(String::new())).timeouts;
        change(&mut timeouts);
        timeouts
    }

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn a_limit_ends_the_session_when_it_is_over_and_not_before() {
        let session = Watched::new(limits(|limits| limits.idle = seconds(5)));
        for tick in 0..51 {
            session.look_after(100 * tick);
            assert_eq!(session.end(), None, "after {tick} ticks");
        }
        session.look_after(5_100);
        assert_eq!(session.end(), Some(EndCause::IdleTimeout));
    }

    #[test]
    fn what_begins_after_a_look_is_not_late_for_it() {
        let session = Watched::new(limits(|limits| {
            limits.idle = seconds(3_600);
            limits.query = Some(Duration::from_millis(300));
        }));
        session.look_after(0);
        session.local.work(session.now.instant);
        assert_eq!(session.look_after(300), 0);
        assert_eq!(session.look_after(400), 1);
        // Cancelled once, and ended if that does not help.
        assert_eq!(session.look_after(500), 0);
        session.look_after(5_500);
        assert_eq!(session.end(), Some(EndCause::QueryTimeout));
    }

    #[test]
    fn who_comes_later_is_not_looked_at_too_late() {
        let session = Watched::new(limits(|limits| limits.idle = seconds(3_600)));
        session.look_after(0);
        let soon = limits(|limits| limits.idle = Some(Duration::from_millis(200)));
        let now = session.now.instant;
        session.watch.add(Rc::clone(&session.local), now, &soon);
        let session = Watched {
            limits: soon,
            ..session
        };
        session.look_after(300);
        assert_eq!(session.end(), Some(EndCause::IdleTimeout));
    }

    #[test]
    fn idle_sessions_are_not_looked_at_with_every_tick() {
        let session = Watched::new(limits(|limits| limits.idle = None));
        session.look_after(0);
        let session = Watched {
            limits: limits(|limits| limits.idle = Some(Duration::from_millis(10))),
            ..session
        };
        session.look_after(900);
        assert_eq!(session.end(), None);
        session.look_after(1_000);
        assert_eq!(session.end(), Some(EndCause::IdleTimeout));
    }
}
