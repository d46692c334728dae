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
//! no such tenant   │▓░░░░░░░│░░░░░░░░│answer       as those remembered of one that its name is hashed to
//! ```

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

/// Look-ups remembered of one tenant, and tenants.
const RECENT_MAX: usize = 32;
const TENANTS_MAX: usize = 1_000;

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
    recent: Mutex<BTreeMap<TenantRef, [VecDeque<u32>; 2]>>,
    hasher: RandomState,
}

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
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let like = match (work, tenant) {
            (Work::Whole, Some(tenant)) => {
                if recent.len() < TENANTS_MAX || recent.contains_key(tenant) {
                    let known = recent.entry(tenant.clone()).or_default();
                    let known = &mut known[mode as usize];
                    known.truncate(RECENT_MAX - 1);
                    known.push_front(taken);
                }
                return taken;
            }
            (Work::Part, Some(tenant)) => recent.get(tenant).map(|known| &known[mode as usize]),
            (Work::None, tenant) | (_, tenant @ None) => {
                let all = recent.values().map(|known| &known[mode as usize]);
                let all: Vec<_> = all.filter(|known| !known.is_empty()).collect();
                let named = self.hasher.hash_one(tenant);
                let index = named.checked_rem(all.len() as u64);
                index.and_then(|index| all.get(usize::try_from(index).ok()?).copied())
            }
        };
        let like = like.filter(|known| !known.is_empty());
        let drawn = like.map_or(1, |known| known[rand::rng().random_range(0..known.len())]);
        taken.max(drawn)
    }
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
        let recent = times.recent.lock().unwrap();
        assert_eq!(recent[&tenant("demo")][0].len(), RECENT_MAX);
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
    fn no_more_tenants_are_remembered_than_there_is_room_for() {
        let times = EvenTime::default();
        for number in 0..TENANTS_MAX + 10 {
            let name = tenant(&format!("t{number}"));
            times.steps(Some(&name), Mode::Token, Work::Whole, Duration::ZERO);
        }
        assert_eq!(times.recent.lock().unwrap().len(), TENANTS_MAX);
    }
}
