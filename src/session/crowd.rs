//! Clients that have not logged in yet, counted per address.
//!
//! A flood of silent connections must not keep anybody out, least of all the honest client behind the same
//! address. So nobody is turned away: past the limit the *oldest* stranger of the address is let go instead.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use dashmap::DashMap;
use ipnet::IpNet;
use tokio::sync::Notify;

use crate::net::network::own_network;

/// All strangers by their address.
#[derive(Default)]
pub struct Crowd(Arc<Strangers>);

#[derive(Default)]
struct Strangers {
    by_network: DashMap<IpNet, VecDeque<Stranger>>,
    next: AtomicU64,
}

struct Stranger {
    number: u64,
    pushed_out: Arc<Notify>,
}

/// One stranger's place, given up by dropping it: when it has logged in, or left.
pub(super) struct Presence {
    strangers: Arc<Strangers>,
    network: IpNet,
    number: u64,
    pushed_out: Arc<Notify>,
}

impl Crowd {
    /// Lets a client in; if its address has more than `limit` strangers now, the oldest of them goes.
    pub(super) fn enter(&self, address: IpAddr, limit: usize) -> Presence {
        let network = own_network(address);
        let pushed_out = Arc::new(Notify::new());
        let mut strangers = self.0.by_network.entry(network).or_default();
        // Under the entry's lock, so that the numbers of an address stand in order.
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        strangers.push_back(Stranger {
            number,
            pushed_out: Arc::clone(&pushed_out),
        });
        while strangers.len() > limit.max(1) {
            if let Some(oldest) = strangers.pop_front() {
                oldest.pushed_out.notify_one();
            }
        }
        drop(strangers);
        Presence {
            strangers: Arc::clone(&self.0),
            network,
            number,
            pushed_out,
        }
    }
}

impl Presence {
    /// Whether it counts for `address`.
    pub(super) fn is_of(&self, address: IpAddr) -> bool {
        self.network == own_network(address)
    }

    /// Waits until newer strangers push this one out.
    pub(super) async fn pushed_out(&self) {
        self.pushed_out.notified().await;
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let dashmap::Entry::Occupied(mut entry) = self.strangers.by_network.entry(self.network) {
            let strangers = entry.get_mut();
            if let Ok(index) =
                strangers.binary_search_by_key(&self.number, |stranger| stranger.number)
            {
                strangers.remove(index);
            }
            if strangers.is_empty() {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_stranger_of_a_crowded_address_goes() {
        let crowd = Crowd::default();
        let home: IpAddr = "192.0.2.1".parse().unwrap();
        let first = crowd.enter(home, 2);
        let second = crowd.enter(home, 2);
        let other = crowd.enter("192.0.2.2".parse().unwrap(), 2);
        let third = crowd.enter(home, 2);
        first.pushed_out().await;
        drop((first, second, third, other));
        assert!(crowd.0.by_network.is_empty());
    }
}
