//! Failed logins, and who has to pay for them: the address that they come from, never those whose names it tries.
//!
//! ```text
//!                       logged in as this role from there of late?
//!                             │ yes                      │ no
//!                             ▼                          ▼
//!   password ──────▶   a bucket of its own     the address's bucket  ── left ──▶ the password is looked at
//!   wrong token ───▶          └──────────── empty ───────┘           ── left ──▶ the client is told that it is wrong
//!                                             ▼
//!                                    wait for a turn ── none in time ──▶ refused
//!   right token ───▶ let in
//! ```
//! A bucket holds a minute's failures and fills up within a minute. Only wrong passwords and tokens are taken from it: not
//! what a proven person may not do, and not an outage of ours. When a tenant has more failures than is usual, from wherever,
//! each weighs more on its address; but nobody is ever refused, or slowed down, for what another address does.
//!
//! Whoever shares an address with a guesser keeps getting in: tokens, because nobody can guess one, so that there is no need
//! to look at few of them only; passwords, because who has logged in from there has a bucket apart. What is left are
//! passwords that are new to an address where somebody guesses, and guesses at the very role. Until a client has proven
//! itself it looks like any other, so there they take turns, which are dealt out at random.

use std::{
    collections::HashMap,
    hash::Hash,
    mem,
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

/// What can be owed at most beyond an empty bucket.
const DEBT_MAX: Duration = PERIOD;

/// How many more failures those have who have logged in before.
const FAMILIAR_FACTOR: u32 = 10;

/// How many failures one counts for while its tenant has too many.
const BESIEGED_FACTOR: u32 = 10;

/// The longest time from one try for a turn to the next, and of all tries together.
const TURN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(3);

/// Addresses, and tenants, that are remembered at once for failures. Beyond, the newest are not: whoever wants to fill this
/// has to go on failing from that many addresses, as each is forgotten once its bucket is full.
const DEBTORS_MAX: usize = 10_000;

/// Those who have logged in are known for one to two of these: nightly jobs, too.
const GENERATION: Duration = Duration::from_secs(24 * 60 * 60);

/// Callers that one tenant has in a generation. When more come the next one begins, so that those are forgotten that have
/// not come for longest, and none of another tenant.
const GENERATION_MAX: usize = 500;

/// How often buckets that are full are forgotten.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Who logs in from where as what, in words that are nobody's secret: nothing here depends on what exists.
#[derive(Clone)]
pub(super) struct Caller {
    tenant: Option<TenantRef>,
    face: Face,
}

/// What a caller is known by within its tenant.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Face {
    network: IpNet,
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
        let network = own_network(address);
        let face = Face {
            network,
            role,
            mode,
        };
        Self { tenant, face }
    }
}

/// A bucket, as the moment when it will be full again.
#[derive(Debug, Clone, Copy)]
struct Bucket(Instant);

impl Bucket {
    fn has(self, cost: Duration, now: Instant) -> bool {
        self.0 + cost <= now + PERIOD
    }

    fn is_full(self, now: Instant) -> bool {
        self.0 <= now
    }

    fn take(&mut self, cost: Duration, now: Instant) {
        self.0 = (self.0.max(now) + cost).min(now + PERIOD + DEBT_MAX);
    }

    fn give_back(&mut self, cost: Duration) {
        self.0 = self.0.checked_sub(cost).unwrap_or(self.0);
    }
}

/// Who has logged in to one tenant of late, in two generations: so forgetting the older one costs nothing.
#[derive(Default)]
struct Acquaintances {
    young: HashMap<Face, Bucket>,
    old: HashMap<Face, Bucket>,
}

impl Acquaintances {
    fn find(&self, face: &Face) -> Option<Bucket> {
        let found = self.young.get(face).or_else(|| self.old.get(face));
        found.copied()
    }

    fn find_mut(&mut self, face: &Face) -> Option<&mut Bucket> {
        let found = self.young.get_mut(face);
        found.or_else(|| self.old.get_mut(face))
    }

    /// With a full bucket from now on.
    fn greet(&mut self, face: &Face, now: Instant) {
        if let Some(bucket) = self.young.get_mut(face) {
            *bucket = Bucket(now);
            return;
        }
        if self.young.len() >= GENERATION_MAX {
            self.age();
        }
        self.young.insert(face.clone(), Bucket(now));
    }

    fn age(&mut self) {
        self.old = mem::take(&mut self.young);
    }
}

/// All buckets of the process.
pub struct Throttle {
    addresses: DashMap<IpNet, Bucket>,
    tenants: DashMap<TenantRef, Bucket>,
    /// Of tenants that exist: nobody else is logged in to.
    familiar: DashMap<TenantRef, Acquaintances>,
    tidied: Mutex<Tidied>,
}

/// When what was over was forgotten last.
struct Tidied {
    swept: Instant,
    aged: Instant,
}

impl Default for Throttle {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            addresses: DashMap::new(),
            tenants: DashMap::new(),
            familiar: DashMap::new(),
            tidied: Mutex::new(Tidied {
                swept: now,
                aged: now,
            }),
        }
    }
}

/// What one failure takes from the buckets.
#[derive(Clone, Copy)]
struct Prices {
    address: Duration,
    tenant: Duration,
}

impl Prices {
    fn of(limits: &Limits) -> Self {
        let price = |limit: usize| PERIOD / u32::try_from(limit.max(1)).unwrap_or(u32::MAX);
        Self {
            address: price(limits.failed_logins_per_address),
            tenant: price(limits.failed_logins_per_tenant),
        }
    }

    fn familiar(self) -> Duration {
        self.address / FAMILIAR_FACTOR
    }
}

/// Whether it is known that somebody at a caller's address can log in like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Familiar,
    Stranger,
}

/// A login on its way.
pub(super) struct Attempt<'a> {
    throttle: &'a Throttle,
    caller: Caller,
    prices: Prices,
}

/// A caller that may be asked to prove itself.
pub(super) struct Admission {
    pub(super) standing: Standing,
    /// How long that took.
    pub(super) waited: Duration,
}

/// Leave to try one password, or to tell that a token is wrong. It is paid for, unless it is given back.
#[must_use]
pub(super) struct Turn<'a> {
    attempt: &'a Attempt<'a>,
    payer: Payer,
    pub(super) waited: Duration,
}

/// Whose bucket a turn was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payer {
    Caller,
    Address(Duration),
    /// More addresses fail than are remembered.
    Nobody,
}

impl Throttle {
    pub(super) fn attempt(&self, caller: Caller, limits: &Limits) -> Attempt<'_> {
        Attempt {
            throttle: self,
            caller,
            prices: Prices::of(limits),
        }
    }

    /// Somebody has proven to be this caller.
    pub(super) fn greet(&self, caller: &Caller) {
        let Some(tenant) = &caller.tenant else { return };
        let now = Instant::now();
        if let Some(mut known) = self.familiar.get_mut(tenant) {
            return known.greet(&caller.face, now);
        }
        let mut known = self.familiar.entry(tenant.clone()).or_default();
        known.greet(&caller.face, now);
    }

    /// Forgets what is over; called a few times a second.
    pub(super) fn sweep(&self, now: Instant) {
        let mut tidied = self.tidied.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= tidied.swept + SWEEP_PERIOD {
            tidied.swept = now;
            self.addresses.retain(|_, bucket| !bucket.is_full(now));
            self.tenants.retain(|_, bucket| !bucket.is_full(now));
        }
        if now >= tidied.aged + GENERATION {
            tidied.aged = now;
            self.familiar.retain(|_, known| {
                known.age();
                !known.old.is_empty()
            });
        }
    }

    fn familiar_bucket(&self, caller: &Caller) -> Option<Bucket> {
        let known = self.familiar.get(caller.tenant.as_ref()?)?;
        known.find(&caller.face)
    }
}

impl Attempt<'_> {
    /// Waits until the caller may be asked to prove itself. The wait ends by itself.
    pub(super) async fn admit(&self) -> Result<Admission, End> {
        let (standing, waited) = in_turn(|now| self.standing(now)).await?;
        Ok(Admission { standing, waited })
    }

    /// Waits for the caller's turn. The wait ends by itself.
    pub(super) async fn take_turn(&self) -> Result<Turn<'_>, End> {
        let (payer, waited) = in_turn(|now| self.pay(now)).await?;
        Ok(Turn {
            attempt: self,
            payer,
            waited,
        })
    }

    /// The caller has proven itself.
    pub(super) fn succeeded(&self) {
        self.throttle.greet(&self.caller);
    }

    /// `None`: there is nothing left for this caller.
    fn standing(&self, now: Instant) -> Option<Standing> {
        if let Some(bucket) = self.throttle.familiar_bucket(&self.caller) {
            let is_left = bucket.has(self.prices.familiar(), now);
            return is_left.then_some(Standing::Familiar);
        }
        let bucket = self.throttle.addresses.get(&self.caller.face.network);
        let is_left = bucket.is_none_or(|bucket| bucket.has(self.prices.address, now));
        is_left.then_some(Standing::Stranger)
    }

    /// Takes what a failure costs from whoever pays for this caller's. `None`: there is nothing left.
    fn pay(&self, now: Instant) -> Option<Payer> {
        let Caller { tenant, face } = &self.caller;
        if let Some(tenant) = tenant
            && let Some(mut known) = self.throttle.familiar.get_mut(tenant)
            && let Some(bucket) = known.find_mut(face)
        {
            let price = self.prices.familiar();
            return take(bucket, price, price, now).then_some(Payer::Caller);
        }
        let price = self.prices.address;
        let weight = if self.is_besieged(now) {
            BESIEGED_FACTOR
        } else {
            1
        };
        let addresses = &self.throttle.addresses;
        if let Some(mut bucket) = addresses.get_mut(&face.network) {
            let is_left = take(&mut bucket, price, price * weight, now);
            return is_left.then_some(Payer::Address(price * weight));
        }
        if addresses.len() >= DEBTORS_MAX {
            return Some(Payer::Nobody);
        }
        let mut bucket = addresses.entry(face.network).or_insert(Bucket(now));
        let is_left = take(&mut bucket, price, price * weight, now);
        is_left.then_some(Payer::Address(price * weight))
    }

    /// Whether the tenant has more failures than is usual.
    fn is_besieged(&self, now: Instant) -> bool {
        let bucket =
            (self.caller.tenant.as_ref()).and_then(|tenant| self.throttle.tenants.get(tenant));
        bucket.is_some_and(|bucket| !bucket.has(self.prices.tenant, now))
    }

    /// Counts a failure with the tenant. While it is besieged, what more comes must not make that last.
    fn count_failure(&self, now: Instant) {
        let Some(tenant) = &self.caller.tenant else {
            return;
        };
        let (price, tenants) = (self.prices.tenant, &self.throttle.tenants);
        if let Some(mut bucket) = tenants.get_mut(tenant) {
            take(&mut bucket, price, price, now);
        } else if tenants.len() < DEBTORS_MAX {
            tenants.insert(tenant.clone(), Bucket(now + price));
        }
    }
}

impl Turn<'_> {
    /// What was tried was wrong.
    pub(super) fn was_wrong(self) {
        self.attempt.count_failure(Instant::now());
    }

    /// What was tried was right.
    pub(super) fn was_right(self) {
        let attempt = self.attempt;
        self.give_back();
        attempt.succeeded();
    }

    /// It was no guess.
    pub(super) fn give_back(self) {
        let Attempt {
            throttle,
            caller,
            prices,
        } = self.attempt;
        match self.payer {
            Payer::Caller => {
                if let Some(tenant) = &caller.tenant
                    && let Some(mut known) = throttle.familiar.get_mut(tenant)
                    && let Some(bucket) = known.find_mut(&caller.face)
                {
                    bucket.give_back(prices.familiar());
                }
            }
            Payer::Address(paid) => {
                if let Some(mut bucket) = throttle.addresses.get_mut(&caller.face.network) {
                    bucket.give_back(paid);
                }
            }
            Payer::Nobody => {}
        }
    }
}

/// Tries at random until `turn` answers something; answers how long that took as well.
async fn in_turn<T>(turn: impl Fn(Instant) -> Option<T>) -> Result<(T, Duration), End> {
    let began = Instant::now();
    loop {
        let now = Instant::now();
        if let Some(turn) = turn(now) {
            return Ok((turn, now - began));
        }
        if now >= began + PATIENCE {
            return Err(End::TooManyFailures);
        }
        let wait = rand::rng().random_range(Duration::ZERO..TURN);
        sleep(wait).await;
    }
}

/// Takes `cost` from a bucket that has `price` left.
fn take(bucket: &mut Bucket, price: Duration, cost: Duration, now: Instant) -> bool {
    let is_left = bucket.has(price, now);
    if is_left {
        bucket.take(cost, now);
    }
    is_left
}

#[cfg(test)]
mod tests;
