//! Failed logins, and who has to pay for them: the address that they come from, never those whose names it tries.
//!
//! ```text
//!                  logged in as this role within the hour? ── yes ──▶ its own bucket ── empty ──▶ wait for a turn
//!   login ──────▶ (address, tenant, role, mode)                            │
//!                             │ no                                         ▼
//!                             └──▶ the address's bucket ── left ────────▶ asked to prove itself
//!                                          └── empty ──▶ refused, unasked
//! ```
//! A bucket holds a minute's failures and fills up within a minute. Only wrong passwords and tokens are taken from it: not
//! what a proven person may not do, and not an outage of ours. When a tenant has more failures than is usual, from wherever,
//! each weighs more on its address; but nobody is ever refused, or slowed down, for what another address does.
//!
//! Whoever shares an address with a guesser keeps getting in as before. A guesser at that very role and address shares turns
//! with them, which are dealt out at random, and each login that succeeds fills the bucket again.

use std::{
    hash::Hash,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use dashmap::DashMap;
use ipnet::IpNet;
use rand::Rng as _;
use tokio::time::{Instant, sleep};

use super::{error::End, route::Mode};
use crate::{
    config::Limits,
    names::{RoleName, TenantRef},
    net::network::own_network,
};

/// What an empty bucket takes to fill up.
const PERIOD: Duration = Duration::from_secs(60);

/// How long an address is known for having logged in.
const ACQUAINTANCE: Duration = Duration::from_secs(60 * 60);

/// How many more failures those have who have logged in before.
const FAMILIAR_FACTOR: u32 = 10;

/// What can be owed at most: logins that began together may fail together.
const DEBT_MAX: Duration = Duration::from_secs(10 * 60);

/// How many failures one counts for while its tenant has too many.
const BESIEGED_FACTOR: u32 = 10;

/// The longest time from one try for a turn to the next.
const TURN: Duration = Duration::from_secs(1);

/// Addresses, and tenants, that are remembered at once for failures; and callers for having logged in. Beyond, the newest are
/// not: whoever wants to fill this has to go on failing from that many addresses, as each is forgotten once its bucket is full.
const DEBTORS_MAX: usize = 10_000;
const FAMILIAR_MAX: usize = 50_000;

/// How often what is over is forgotten.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Who logs in from where as what, in words that are nobody's secret: nothing here depends on what exists.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    network: IpNet,
    tenant: Option<TenantRef>,
    role: RoleName,
    mode: Mode,
}

impl Caller {
    pub(super) fn new(
        address: IpAddr,
        tenant: Option<TenantRef>,
        role: RoleName,
        mode: Mode,
    ) -> Self {
        Self {
            network: own_network(address),
            tenant,
            role,
            mode,
        }
    }
}

/// A bucket, as the moment when it will be full again.
#[derive(Clone, Copy)]
struct Bucket(Instant);

impl Bucket {
    /// Whether nothing is left of a bucket that `cost` can be taken from so often in a period.
    fn is_empty(self, cost: Duration, now: Instant) -> bool {
        self.0 + cost > now + PERIOD
    }

    fn is_full(self, now: Instant) -> bool {
        self.0 <= now
    }

    fn take(&mut self, cost: Duration, now: Instant) {
        self.0 = (self.0.max(now) + cost).min(now + DEBT_MAX);
    }
}

struct Acquaintance {
    since: Instant,
    bucket: Bucket,
}

/// All buckets of the process.
pub struct Throttle {
    addresses: DashMap<IpNet, Bucket>,
    tenants: DashMap<TenantRef, Bucket>,
    familiar: DashMap<Caller, Acquaintance>,
    swept: Mutex<Instant>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            addresses: DashMap::new(),
            tenants: DashMap::new(),
            familiar: DashMap::new(),
            swept: Mutex::new(Instant::now()),
        }
    }
}

/// Whether a caller may try to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody has logged in like this from its address of late.
    Stranger,
    Familiar,
    Wait,
    Refused,
}

/// A login that has been let try.
pub(super) struct Attempt<'a> {
    throttle: &'a Throttle,
    caller: Caller,
    limits: &'a Limits,
    /// Whether it is known that somebody at this address can log in like this.
    pub(super) is_familiar: bool,
}

impl Throttle {
    /// Lets a login begin, or refuses it before anything is looked up. The caller has a deadline for the wait.
    pub(super) async fn admit<'a>(
        &'a self,
        caller: Caller,
        limits: &'a Limits,
    ) -> Result<Attempt<'a>, End> {
        loop {
            let is_familiar = match self.standing(&caller, limits, Instant::now()) {
                Standing::Stranger => false,
                Standing::Familiar => true,
                Standing::Refused => return Err(End::TooManyFailures),
                Standing::Wait => {
                    let wait = rand::rng().random_range(Duration::ZERO..TURN);
                    sleep(wait).await;
                    continue;
                }
            };
            return Ok(Attempt {
                throttle: self,
                caller,
                limits,
                is_familiar,
            });
        }
    }

    fn standing(&self, caller: &Caller, limits: &Limits, now: Instant) -> Standing {
        let known = self.familiar.get(caller);
        if let Some(known) = known.filter(|known| now < known.since + ACQUAINTANCE) {
            return match known.bucket.is_empty(familiar_cost(limits), now) {
                true => Standing::Wait,
                false => Standing::Familiar,
            };
        }
        let cost = cost(limits.failed_logins_per_address);
        match self.addresses.get(&caller.network) {
            Some(bucket) if bucket.is_empty(cost, now) => Standing::Refused,
            Some(_) | None => Standing::Stranger,
        }
    }

    fn failed(&self, caller: &Caller, limits: &Limits, now: Instant) {
        let tenant_cost = cost(limits.failed_logins_per_tenant);
        let tenant = caller.tenant.as_ref();
        let is_besieged = tenant
            .and_then(|tenant| self.tenants.get(tenant))
            .is_some_and(|bucket| bucket.is_empty(tenant_cost, now));
        // Besieged it is already: what more comes must not make it last.
        if let Some(tenant) = tenant.filter(|_| !is_besieged) {
            take(&self.tenants, tenant, tenant_cost, now);
        }
        if let Some(mut known) = self.familiar.get_mut(caller) {
            return known.bucket.take(familiar_cost(limits), now);
        }
        let weight = if is_besieged { BESIEGED_FACTOR } else { 1 };
        let cost = cost(limits.failed_logins_per_address) * weight;
        take(&self.addresses, &caller.network, cost, now);
    }

    fn succeeded(&self, caller: &Caller, now: Instant) {
        let known = Acquaintance {
            since: now,
            bucket: Bucket(now),
        };
        if let Some(mut before) = self.familiar.get_mut(caller) {
            *before = known;
        } else if self.familiar.len() < FAMILIAR_MAX {
            self.familiar.insert(caller.clone(), known);
        }
    }

    /// Forgets what is over; called a few times a second.
    pub(super) fn sweep(&self, now: Instant) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if now < *swept + SWEEP_PERIOD {
            return;
        }
        *swept = now;
        drop(swept);
        self.addresses.retain(|_, bucket| !bucket.is_full(now));
        self.tenants.retain(|_, bucket| !bucket.is_full(now));
        self.familiar
            .retain(|_, known| now < known.since + ACQUAINTANCE);
    }
}

impl Attempt<'_> {
    /// What has come of it.
    pub(super) fn note<T>(&self, outcome: &Result<T, End>) {
        match outcome {
            Ok(_) => self.throttle.succeeded(&self.caller, Instant::now()),
            Err(end) if end.is_wrong_guess() => {
                self.throttle
                    .failed(&self.caller, self.limits, Instant::now());
            }
            Err(_) => {}
        }
    }
}

/// What one of `limit` failures in a period takes from the bucket.
fn cost(limit: usize) -> Duration {
    PERIOD / u32::try_from(limit.max(1)).unwrap_or(u32::MAX)
}

fn familiar_cost(limits: &Limits) -> Duration {
    cost(limits.failed_logins_per_address) / FAMILIAR_FACTOR
}

fn take<K: Eq + Hash + Clone>(
    buckets: &DashMap<K, Bucket>,
    whose: &K,
    cost: Duration,
    now: Instant,
) {
    if let Some(mut bucket) = buckets.get_mut(whose) {
        bucket.take(cost, now);
    } else if buckets.len() < DEBTORS_MAX {
        buckets.insert(whose.clone(), Bucket(now + cost));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(address: &str, role: &str) -> Caller {
        Caller::new(
            address.parse().unwrap(),
            Some(TenantRef::parse("demo").unwrap()),
            RoleName::parse(role).unwrap(),
            Mode::Password,
        )
    }

    fn limits() -> Limits {
        Limits {
            clients: 1,
            tenant_clients: 1,
            unauthenticated_per_address: 1,
            wrong_cancel_keys_per_address: 1,
            leak_reports_per_address: 1,
            failed_logins_per_address: 10,
            failed_logins_per_tenant: 30,
        }
    }

    fn fail(throttle: &Throttle, caller: &Caller, times: usize, now: Instant) {
        for _ in 0..times {
            throttle.failed(caller, &limits(), now);
        }
    }

    #[test]
    fn an_address_is_refused_for_its_own_failures_until_they_are_paid_off() {
        let throttle = Throttle::default();
        let now = Instant::now();
        let standing =
            |address, role, now| throttle.standing(&caller(address, role), &limits(), now);
        fail(&throttle, &caller("192.0.2.1", "app"), 9, now);
        assert_eq!(standing("192.0.2.1", "app", now), Standing::Stranger);
        fail(&throttle, &caller("192.0.2.1", "app"), 1, now);
        assert_eq!(standing("192.0.2.1", "app", now), Standing::Refused);
        assert_eq!(standing("192.0.2.1", "other", now), Standing::Refused);
        assert_eq!(standing("192.0.2.2", "app", now), Standing::Stranger);
        let later = now + PERIOD / 10;
        assert_eq!(standing("192.0.2.1", "app", later), Standing::Stranger);
        fail(&throttle, &caller("192.0.2.1", "app"), 1, later);
        assert_eq!(standing("192.0.2.1", "app", later), Standing::Refused);
        fail(&throttle, &caller("2001:db8::1", "app"), 10, now);
        assert_eq!(standing("2001:db8::ffff", "app", now), Standing::Refused);
        assert_eq!(standing("2001:db8:0:1::1", "app", now), Standing::Stranger);
    }

    #[test]
    fn who_has_logged_in_pays_for_no_neighbour_and_waits_but_is_never_refused() {
        let throttle = Throttle::default();
        let now = Instant::now();
        let (app, guesser) = (caller("192.0.2.1", "app"), caller("192.0.2.1", "other"));
        throttle.succeeded(&app, now);
        fail(&throttle, &guesser, 1_000, now);
        let standing = |caller, now| throttle.standing(caller, &limits(), now);
        assert_eq!(standing(&guesser, now), Standing::Refused);
        assert_eq!(standing(&app, now), Standing::Familiar);
        fail(&throttle, &app, 100, now);
        assert_eq!(standing(&app, now), Standing::Wait);
        assert_eq!(standing(&app, now + TURN), Standing::Familiar);
        throttle.succeeded(&app, now);
        assert_eq!(standing(&app, now), Standing::Familiar);
        let forgotten = now + ACQUAINTANCE;
        throttle.sweep(forgotten);
        assert!(throttle.familiar.is_empty() && throttle.tenants.is_empty());
        assert_eq!(standing(&guesser, forgotten), Standing::Stranger);
    }

    #[test]
    fn what_others_do_to_a_tenant_makes_failures_dearer_and_refuses_nobody() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for number in 0..30 {
            let address = format!("198.51.100.{number}");
            fail(&throttle, &caller(&address, "app"), 1, now);
        }
        let fresh = caller("192.0.2.1", "app");
        assert_eq!(
            throttle.standing(&fresh, &limits(), now),
            Standing::Stranger
        );
        fail(&throttle, &fresh, 1, now);
        assert_eq!(throttle.standing(&fresh, &limits(), now), Standing::Refused);
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for number in 0..DEBTORS_MAX as u32 + 10 {
            let address = IpAddr::V4(number.into()).to_string();
            fail(&throttle, &caller(&address, "app"), 1, now);
        }
        assert_eq!(throttle.addresses.len(), DEBTORS_MAX);
        for number in 0..FAMILIAR_MAX as u32 + 10 {
            let address = IpAddr::V4(number.into()).to_string();
            throttle.succeeded(&caller(&address, "app"), now);
        }
        assert_eq!(throttle.familiar.len(), FAMILIAR_MAX);
        throttle.sweep(now + ACQUAINTANCE);
        assert!(throttle.addresses.is_empty() && throttle.familiar.is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_for_a_turn_gets_one() {
        let throttle = Throttle::default();
        let limits = limits();
        let app = caller("192.0.2.1", "app");
        throttle.succeeded(&app, Instant::now());
        fail(&throttle, &app, 100, Instant::now());
        let began = Instant::now();
        let attempt = throttle.admit(app, &limits).await;
        assert!(attempt.is_ok_and(|attempt| attempt.is_familiar));
        assert!(began.elapsed() > Duration::ZERO);
    }
}
