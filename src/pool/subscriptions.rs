//! LISTEN for clients that share backends: one backend of the pool listens for all of them.
//!
//! It is opened with the first channel and closed with the last, is never lent, and does not count against the size
//! of its pool, only against the budgets. What it hears goes to the clients that asked for the channel.
//!
//! ```text
//! client A ── Subscription {jobs} ────────┐            ┌── LISTEN jobs; LISTEN mail
//! client B ── Subscription {jobs, mail} ──┴─ a round ──┤   listening backend
//!       ▲                                              └── NotificationResponse ─┐
//!       └───── Subscriber: a queue with a limit ◀────────────────────────────────┘
//! ```
//! A *round* brings the backend's channels in line with what is subscribed to. When it is over, all that was notified
//! before it began has been delivered. If the backend is lost nobody knows what has been missed, and its subscribers
//! end, as they would with a connection of their own.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{Backend, CheckoutError, Pool};
use crate::{access::SessionHandle, backend::Notification, protocol::parameters::Settings};

/// How long the server may take for a round.
const ROUND_MAX: Duration = Duration::from_secs(5);

/// The subscriptions of one pool.
#[derive(Default)]
pub(super) struct Subscriptions {
    subscribers: RefCell<BTreeMap<String, Vec<Rc<Subscriber>>>>,
    /// How many rounds were asked for, and how many of them are over.
    asked: Cell<u64>,
    done: Cell<u64>,
    state: Cell<State>,
    /// The application name of whoever listened first: the server sees whom the listening backend serves.
    name: RefCell<Settings>,
    failure: RefCell<Option<CheckoutError>>,
    changed: Notify,
    settled: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Off,
    On,
}

/// What a client listens to; dropped, it listens to nothing.
pub struct Subscription {
    pool: Rc<Pool>,
    subscriber: Rc<Subscriber>,
    channels: BTreeSet<String>,
}

/// What waits for one client to take it.
struct Subscriber {
    handle: Arc<SessionHandle>,
    queue: RefCell<VecDeque<Notification>>,
    bytes: Cell<usize>,
    max_bytes: usize,
    fate: Cell<Fate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Subscribed,
    /// The listening backend is gone.
    Lost,
    /// More was waiting than the limit allows.
    Unread,
}

/// Why a client cannot be told of notifications (any more).
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubscriptionError {
    #[error("the listening backend is lost")]
    Lost,
    #[error("more than {limit} bytes of notifications are unread")]
    Unread { limit: usize },
    #[error("the budget has no place for a listening backend")]
    Busy,
    #[error("no backend to listen with: {0}")]
    NoBackend(#[from] CheckoutError),
}

impl Subscription {
    /// For the session of `handle`, which may leave `max_bytes` of notifications unread.
    #[must_use]
    pub fn new(
        pool: &Rc<Pool>,
        handle: Arc<SessionHandle>,
        settings: &Settings,
        max_bytes: usize,
    ) -> Self {
        if pool.subscriptions.state.get() == State::Off {
            let name = settings.get("application_name");
            let name = name.map(|name| ("application_name".to_owned(), name.to_owned()));
            pool.subscriptions.name.replace(name.into_iter().collect());
        }
        Self {
            pool: Rc::clone(pool),
            subscriber: Rc::new(Subscriber {
                handle,
                queue: RefCell::default(),
                bytes: Cell::new(0),
                max_bytes,
                fate: Cell::new(Fate::Subscribed),
            }),
            channels: BTreeSet::new(),
        }
    }

    #[must_use]
    pub fn channels(&self) -> &BTreeSet<String> {
        &self.channels
    }

    /// Listens to `channels` and to no others from now on; when this is over the server knows.
    pub async fn listen(&mut self, channels: BTreeSet<String>) -> Result<(), SubscriptionError> {
        self.replace(channels);
        self.round().await
    }

    /// Waits until all that was notified before is delivered.
    pub async fn round(&self) -> Result<(), SubscriptionError> {
        let subscriptions = &self.pool.subscriptions;
        if subscriptions.is_unused() {
            return self.check();
        }
        let round = subscriptions.ask();
        if subscriptions.state.replace(State::On) == State::Off {
            subscriptions.failure.replace(None);
            let tasks = &self.pool.tenant.shared.tasks;
            tasks.spawn_local(attend(Rc::clone(&self.pool)));
        }
        loop {
            let settled = subscriptions.settled.notified();
            match self.check() {
                Err(SubscriptionError::Lost) => {
                    let failure = subscriptions.failure.borrow().clone();
                    return Err(failure.map_or(SubscriptionError::Lost, Into::into));
                }
                other => other?,
            }
            if subscriptions.done.get() >= round {
                return Ok(());
            }
            settled.await;
        }
    }

    /// The next notification for the client.
    pub fn next(&self) -> Result<Option<Notification>, SubscriptionError> {
        self.check()?;
        let next = self.subscriber.queue.borrow_mut().pop_front();
        if let Some(notification) = &next {
            let bytes = &self.subscriber.bytes;
            bytes.set(bytes.get() - notification.message.len());
        }
        Ok(next)
    }

    /// Drops one notification equal to `other` that waits for the client.
    pub fn forget(&self, other: &Notification) {
        let mut queue = self.subscriber.queue.borrow_mut();
        if let Some(index) = queue.iter().position(|waiting| waiting == other) {
            queue.remove(index);
            let bytes = &self.subscriber.bytes;
            bytes.set(bytes.get() - other.message.len());
        }
    }

    /// Whether the client can still be told.
    pub fn check(&self) -> Result<(), SubscriptionError> {
        match self.subscriber.fate.get() {
            Fate::Subscribed => Ok(()),
            Fate::Lost => Err(SubscriptionError::Lost),
            Fate::Unread => Err(SubscriptionError::Unread {
                limit: self.subscriber.max_bytes,
            }),
        }
    }

    fn replace(&mut self, channels: BTreeSet<String>) {
        let mut subscribers = self.pool.subscriptions.subscribers.borrow_mut();
        for gone in self.channels.difference(&channels) {
            if let Some(of_channel) = subscribers.get_mut(gone) {
                of_channel.retain(|other| !Rc::ptr_eq(other, &self.subscriber));
                if of_channel.is_empty() {
                    subscribers.remove(gone);
                }
            }
        }
        for new in channels.difference(&self.channels) {
            let of_channel = subscribers.entry(new.clone()).or_default();
            of_channel.push(Rc::clone(&self.subscriber));
        }
        drop(subscribers);
        self.channels = channels;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.replace(BTreeSet::new());
        self.pool.subscriptions.ask();
    }
}

impl Subscriber {
    fn put(&self, notification: &Notification) {
        if self.fate.get() != Fate::Subscribed {
            return;
        }
        let bytes = self.bytes.get() + notification.message.len();
        if bytes > self.max_bytes {
            self.queue.borrow_mut().clear();
            self.fate.set(Fate::Unread);
        } else {
            self.bytes.set(bytes);
            self.queue.borrow_mut().push_back(notification.clone());
        }
        self.handle.nudge();
    }

    fn lose(&self) {
        if self.fate.get() == Fate::Subscribed {
            self.fate.set(Fate::Lost);
        }
        self.handle.nudge();
    }
}

impl Subscriptions {
    /// Ends the listening backend with the others of its pool.
    pub(super) fn retire(&self) {
        self.changed.notify_one();
    }

    /// Asks for a round and answers which one it is.
    fn ask(&self) -> u64 {
        self.asked.set(self.asked.get() + 1);
        self.changed.notify_one();
        self.asked.get()
    }

    fn is_unused(&self) -> bool {
        self.subscribers.borrow().is_empty()
    }

    async fn unused(&self) {
        while !self.is_unused() {
            self.changed.notified().await;
        }
    }

    fn deliver(&self, notification: &Notification) {
        let subscribers = self.subscribers.borrow();
        let of_channel = subscribers.get(notification.channel()).into_iter();
        for subscriber in of_channel.flatten() {
            subscriber.put(notification);
        }
    }

    /// What makes a backend that listens to `heard` listen to what is subscribed to, and no more.
    fn difference(&self, heard: &mut BTreeSet<String>) -> String {
        let wanted: BTreeSet<String> = self.subscribers.borrow().keys().cloned().collect();
        let mut sql = String::new();
        for (command, channels) in [
            ("UNLISTEN", heard.difference(&wanted)),
            ("LISTEN", wanted.difference(heard)),
        ] {
            for channel in channels {
                let _ = write!(sql, "{command} \"{}\";", channel.replace('"', "\"\""));
            }
        }
        *heard = wanted;
        sql
    }

    /// Nobody listens any more; what is subscribed to is lost.
    fn end(&self, failure: Option<CheckoutError>) {
        self.state.set(State::Off);
        self.failure.replace(failure);
        for subscriber in self.subscribers.borrow().values().flatten() {
            subscriber.lose();
        }
        self.subscribers.borrow_mut().clear();
        self.done.set(self.asked.get());
        self.settled.notify_waiters();
    }
}

/// Why the listening backend ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Unused,
    Retired,
    Lost,
}

/// The life of a listening backend.
async fn attend(pool: Rc<Pool>) {
    let subscriptions = &pool.subscriptions;
    let place = tokio::select! {
        place = pool.tenant.place_beside(&pool) => place,
        () = subscriptions.unused() => return subscriptions.end(None),
    };
    let epoch = pool.epochs.current();
    let transit = epoch.transit();
    let (connection, server) = match pool.connect().await {
        Ok(connected) => connected,
        Err(error) => {
            tracing::warn!(tenant = %pool.key.tenant, role = %pool.key.role, %error, "cannot open a backend to listen with");
            return subscriptions.end(Some(error));
        }
    };
    let mut backend = Box::new(Backend::new(
        connection,
        server,
        place,
        epoch,
        Instant::now(),
    ));
    let ending = listen(&pool, &mut backend).await;
    subscriptions.end(None);
    if ending == Ending::Lost {
        tracing::warn!(
            tenant = %pool.key.tenant, role = %pool.key.role,
            "the listening backend is lost: its clients may have missed notifications and are ended"
        );
    }
    let closed = pool.close(backend).await;
    if !closed.is_gone {
        transit.mark_unproven();
    }
}

async fn listen(pool: &Rc<Pool>, backend: &mut Backend) -> Ending {
    let subscriptions = &pool.subscriptions;
    let name = subscriptions.name.borrow().clone();
    let mut sql = name.statements_from(&Settings::default());
    if !sql.is_empty() {
        sql.push(';');
    }
    let mut heard = BTreeSet::new();
    loop {
        if !pool.epochs.is_current(&backend.epoch) {
            return Ending::Retired;
        }
        if subscriptions.is_unused() {
            return Ending::Unused;
        }
        let round = subscriptions.asked.get();
        if subscriptions.done.get() < round {
            sql.push_str(&subscriptions.difference(&mut heard));
            let Ok(reply) = backend.connection.query(&sql, ROUND_MAX).await else {
                return Ending::Lost;
            };
            if let Some(error) = reply.error {
                tracing::warn!(tenant = %pool.key.tenant, error = error.message, "cannot listen");
                return Ending::Lost;
            }
            sql.clear();
            reply
                .notifications
                .iter()
                .for_each(|one| subscriptions.deliver(one));
            subscriptions.done.set(round);
            subscriptions.settled.notify_waiters();
            continue;
        }
        tokio::select! {
            () = subscriptions.changed.notified() => {}
            heard = backend.connection.hear() => match heard {
                Ok(Some(notification)) => subscriptions.deliver(&notification),
                Ok(None) => {}
                Err(_) => return Ending::Lost,
            }
        }
    }
}
