//! As much time for names that exist as for those that do not.
//!
//! Looking up a role that exists, one that does not, one whose verifier is remembered and one of a tenant that nobody has
//! takes different work, some of it on another machine. So strangers are answered only when a whole number of steps is over.
//! A look-up that was made remembers how many it took; what was not looked up takes as many as others did, at random, a made-up
//! tenant always those of the same real one.
//!
//! ```text
//! asked the server │▓▓▓▓▓▓▓·│▓▓░░░░░░│answer       two steps, remembered
//! knew it already  │▓░░░░░░░│░░░░░░░░│answer       as those remembered of this tenant
//! no such tenant   │▓░░░░░░░│░░░░░░░░│answer       as those remembered of the one that is next to its name's hash
//! ```
//! Nobody is made to wait longer than a little while for what others took: a server that is slow, or made slow, must not
//! slow down whoever need not ask it.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::Rng as _;
use tokio::time::{Instant, sleep_until};

use super::route::Mode;
use crate::names::TenantRef;

/// Longer than what differs without a server being asked (keys derived from a password, rows of the catalogue).
const STEP: Duration = Duration::from_millis(5);

/// What is waited for the sake of evenness at most: half a second.
const STEPS_MAX: u32 = 100;

/// Look-ups remembered of one tenant, and tenants.
const RECENT_MAX: usize = 16;
const TENANTS_MAX: usize = 20_000;

/// What was done to find out about a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// All that there is to do.
    Whole,
    /// Less: something was known already, or misshapen.
    Part,
    /// There is no such tenant.
    None,
}

/// How many steps look-ups have taken of late.
#[derive(Default)]
pub struct EvenTime {
    by_mode: [Mutex<Recent>; 2],
    hasher: RandomState,
}

/// By the hashes of the tenants' names. None is empty.
type Recent = BTreeMap<u64, VecDeque<u32>>;

impl EvenTime {
    /// Waits until a look-up about `tenant` that began at `began` and is done now may be answered.
    pub(super) async fn wait(
        &self,
        tenant: Option<&TenantRef>,
        mode: Mode,
        work: Work,
        began: Instant,
    ) {
        let steps = self.steps(tenant, mode, work, began.elapsed());
        sleep_until(began + STEP * steps).await;
    }

    fn steps(&self, tenant: Option<&TenantRef>, mode: Mode, work: Work, elapsed: Duration) -> u32 {
        let taken = elapsed.as_micros().div_ceil(STEP.as_micros()).max(1);
        let taken = u32::try_from(taken).unwrap_or(u32::MAX);
        let place = self.hasher.hash_one(tenant);
        let recent = &self.by_mode[mode as usize];
        let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        let like = match work {
            Work::Whole => {
                remember(&mut recent, place, taken);
                return taken;
            }
            Work::Part => recent.get(&place),
            Work::None => {
                let mut next = recent.range(place..).chain(recent.range(..place));
                next.next().map(|(_, known)| known)
            }
        };
        let drawn = like.map_or(1, |known| {
            let index = rand::rng().random_range(0..known.len());
            known[index].min(STEPS_MAX)
        });
        taken.max(drawn)
    }
}

fn remember(recent: &mut Recent, place: u64, taken: u32) {
    if recent.len() >= TENANTS_MAX && !recent.contains_key(&place) {
        return;
    }
    let known = recent.entry(place).or_default();
    known.truncate(RECENT_MAX - 1);
    known.push_front(taken);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantRef {
        TenantRef::parse(name).unwrap()
    }

    #[test]
    fn what_was_not_looked_up_takes_as_long_as_what_was() {
        let times = EvenTime::default();
        let steps = |name: &str, work, elapsed| {
            times.steps(Some(&tenant(name)), Mode::Password, work, elapsed)
        };
        assert_eq!(steps("ghost", Work::None, STEP / 5), 1);
        for _ in 0..2 * RECENT_MAX {
            assert_eq!(steps("demo", Work::Whole, STEP * 3 - STEP / 2), 3);
        }
        assert_eq!(steps("demo", Work::Part, STEP / 5), 3);
        assert_eq!(steps("ghost", Work::None, STEP / 5), 3);
        assert_eq!(steps("ghost", Work::None, STEP * 4), 4);
        // Another way of logging in is another look-up.
        let by_token = times.steps(Some(&tenant("ghost")), Mode::Token, Work::None, STEP / 5);
        assert_eq!(by_token, 1);
        let recent = times.by_mode[0].lock().unwrap();
        let known: Vec<usize> = recent.values().map(VecDeque::len).collect();
        assert_eq!(known, [RECENT_MAX]);
    }

    #[test]
    fn a_made_up_tenant_takes_after_the_same_real_one_each_time() {
        let times = EvenTime::default();
        for (name, steps) in [("near", 1), ("far", 7)] {
            let took = STEP * steps - STEP / 2;
            times.steps(Some(&tenant(name)), Mode::Password, Work::Whole, took);
        }
        for ghost in ["one", "two", "three", "four"] {
            let steps = || {
                times.steps(
                    Some(&tenant(ghost)),
                    Mode::Password,
                    Work::None,
                    Duration::ZERO,
                )
            };
            let first = steps();
            assert!((0..20).all(|_| steps() == first), "{ghost}");
        }
    }

    #[test]
    fn a_server_that_takes_its_time_slows_down_nobody_else_by_much() {
        let times = EvenTime::default();
        let slow = STEP * 2 * STEPS_MAX;
        let steps =
            |work, elapsed| times.steps(Some(&tenant("demo")), Mode::Password, work, elapsed);
        assert_eq!(steps(Work::Whole, slow), 2 * STEPS_MAX);
        assert_eq!(steps(Work::Part, Duration::ZERO), STEPS_MAX);
    }

    #[test]
    fn no_more_tenants_are_remembered_than_there_is_room_for() {
        let times = EvenTime::default();
        for number in 0..TENANTS_MAX + 10 {
            let name = tenant(&format!("t{number}"));
            times.steps(Some(&name), Mode::Token, Work::Whole, Duration::ZERO);
        }
        assert_eq!(times.by_mode[1].lock().unwrap().len(), TENANTS_MAX);
    }
}
