//! The cancel keys that we issued: which session each of them stands for, and who guesses at them.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dashmap::{DashMap, Entry};
use ipnet::IpNet;
use rand::Rng as _;
use tokio::time::Instant;

use crate::{
    memory::Trim as _,
    names::SessionId,
    net::network::own_network,
    protocol::startup::{CancelKey, ProtocolVersion, SecretKey},
};

/// Bytes of the secret for clients that take long ones (protocol 3.2).
const LONG_SECRET_BYTES: usize = 32;

#[derive(Clone, Copy)]
struct Holder {
    session: SessionId,
    worker: usize,
}

/// All live cancel keys of the process.
#[derive(Default)]
pub struct CancelKeys(Arc<Live>);

type Live = DashMap<u32, (SecretKey, Holder)>;

/// A cancel key that is valid, withdrawn by dropping this.
pub(super) struct Issued {
    live: Arc<Live>,
    pid: u32,
}

impl CancelKeys {
    /// Issues a key for `session`, whose home is `worker`; its length is what `version` allows.
    pub(super) fn issue(
        &self,
        session: SessionId,
        worker: usize,
        version: ProtocolVersion,
    ) -> (Issued, CancelKey) {
        let mut random = rand::rng();
        let length = if version.has_long_cancel_keys() {
            LONG_SECRET_BYTES
        } else {
            SecretKey::MIN_BYTES
        };
        let mut secret = vec![0; length];
        loop {
            // A process id is a positive number to drivers.
            let pid = random.random_range(1..=i32::MAX.unsigned_abs());
            random.fill(secret.as_mut_slice());
            let Some(secret) = SecretKey::new(&secret) else {
                continue;
            };
            if let Entry::Vacant(entry) = self.0.entry(pid) {
                entry.insert((secret.clone(), Holder { session, worker }));
                let live = Arc::clone(&self.0);
                return (Issued { live, pid }, CancelKey { pid, secret });
            }
        }
    }

    /// Gives back memory that many sessions have needed.
    pub(super) fn trim(&self) {
        self.0.trim();
    }

    /// The session that `key` stands for, and its home worker.
    pub(super) fn find(&self, key: &CancelKey) -> Option<(SessionId, usize)> {
        let entry = self.0.get(&key.pid)?;
        let (secret, holder) = &*entry;
        (*secret == key.secret).then_some((holder.session, holder.worker))
    }
}

/// How long an address's wrong keys count.
const GUESSING_PERIOD: Duration = Duration::from_secs(60);

/// Addresses that are remembered at once for their wrong keys.
const GUESSERS_MAX: usize = 10_000;

/// How long after a search for what is over there is no other.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Wrong cancel keys, or what else strangers try, counted per address (of IPv6: per network) and period.
#[derive(Default)]
pub struct Guesses {
    by_network: DashMap<IpNet, (Instant, usize)>,
    swept: Mutex<Option<Instant>>,
}

impl Guesses {
    /// Whether `address` has shown `limit` wrong keys in this period: its requests are not even looked at then.
    #[must_use]
    pub fn are_too_many(&self, address: IpAddr, limit: usize, now: Instant) -> bool {
        let guesses = self.by_network.get(&own_network(address));
        guesses.is_some_and(|guesses| is_recent(guesses.0, now) && guesses.1 >= limit)
    }

    /// Counts a wrong key. Where more addresses guess than can be remembered, the newest are not.
    pub fn count(&self, address: IpAddr, now: Instant) {
        let network = own_network(address);
        if let Some(mut guesses) = self.by_network.get_mut(&network) {
            if !is_recent(guesses.0, now) {
                *guesses = (now, 0);
            }
            guesses.1 += 1;
        } else if self.by_network.len() < GUESSERS_MAX || self.make_room(now) {
            self.by_network.entry(network).or_insert((now, 0)).1 += 1;
        }
    }

    /// Forgets what is over; answers whether that has made room. Not for each of a flood of guesses.
    fn make_room(&self, now: Instant) -> bool {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.is_some_and(|swept| now < swept + SWEEP_PERIOD) {
            return false;
        }
        *swept = Some(now);
        self.by_network
            .retain(|_, (since, _)| is_recent(*since, now));
        self.by_network.len() < GUESSERS_MAX
    }
}

fn is_recent(since: Instant, now: Instant) -> bool {
    now < since + GUESSING_PERIOD
}

impl Drop for Issued {
    fn drop(&mut self) {
        self.live.remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_guesses_is_not_looked_at_for_a_while() {
        let guesses = Guesses::default();
        let [guesser, other]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        let now = Instant::now();
        guesses.count(guesser, now);
        assert!(!guesses.are_too_many(guesser, 2, now));
        guesses.count(guesser, now);
        assert!(guesses.are_too_many(guesser, 2, now));
        assert!(!guesses.are_too_many(other, 2, now));
        let later = now + GUESSING_PERIOD;
        assert!(!guesses.are_too_many(guesser, 2, later));
        guesses.count(guesser, later);
        assert!(!guesses.are_too_many(guesser, 2, later));
    }

    #[test]
    fn no_more_addresses_are_remembered_than_there_is_room_for() {
        let guesses = Guesses::default();
        let now = Instant::now();
        let numbered = |number: usize| IpAddr::V4((number as u32).into());
        for number in 0..GUESSERS_MAX + 10 {
            guesses.count(numbered(number), now);
        }
        assert_eq!(guesses.by_network.len(), GUESSERS_MAX);
        // Those who are known are counted all the same, and others once there is room again.
        guesses.count(numbered(0), now);
        assert!(guesses.are_too_many(numbered(0), 2, now));
        let later = now + GUESSING_PERIOD;
        guesses.count(numbered(GUESSERS_MAX), later);
        assert!(guesses.are_too_many(numbered(GUESSERS_MAX), 1, later));
    }

    #[test]
    fn a_key_finds_its_session_and_a_wrong_or_withdrawn_one_finds_none() {
        let keys = CancelKeys::default();
        let session = SessionId::generate();
        let (issued, key) = keys.issue(session, 1, ProtocolVersion::V3_2);
        assert_eq!(key.secret.as_bytes().len(), LONG_SECRET_BYTES);
        assert_eq!(keys.find(&key), Some((session, 1)));
        let wrong = CancelKey {
            pid: key.pid,
            secret: SecretKey::new(&[0; 4]).unwrap(),
        };
        assert_eq!(keys.find(&wrong), None);
        drop(issued);
        assert_eq!(keys.find(&key), None);
    }
}
