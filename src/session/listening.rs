//! LISTEN of a client that has no backend of its own.
//!
//! Its LISTEN takes effect on whatever backend serves it. When that is to be released the server is asked which
//! channels it listens to (so rollbacks and savepoints need no thought), the client is subscribed to them at its
//! pool, the backend gives them up, and only then the client learns that its transaction is over: nothing that is
//! notified after that can be missed. UNLISTEN names channels that this backend does not have, so its words are
//! read; it counts when its transaction has committed.
//!
//! ```text
//! client    LISTEN jobs ─▶ backend: LISTEN ─▶ (idle) ─▶ pg_listening_channels()? ─▶ UNLISTEN * ─▶ next client
//!                                                              │ subscribe
//! client ◀─ ReadyForQuery ◀──────────────────────────── listening backend: LISTEN
//! client ◀─ NotificationResponse, while it is idle ◀──────────┘
//! ```

use std::{
    collections::{BTreeSet, VecDeque},
    future::Future,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{error::End, session_state::is_cancel};
use crate::{
    access::SessionHandle,
    backend::{ExchangeError, Notification},
    net::buffer::Buffer,
    pool::{Backend, Pool, Subscription, SubscriptionError},
    protocol::{
        parameters::Settings,
        sql::{self, Unlisten},
    },
};

/// How long the server may take to let a backend listen no more.
const UNLISTEN_MAX: Duration = Duration::from_secs(5);

/// What a client listens to, and what its transaction is changing about that.
#[derive(Default)]
pub(super) struct Listening {
    subscription: Option<Box<Subscription>>,
    /// What the UNLISTENs on their way to the server give up.
    sent: VecDeque<Unlisten>,
    /// What those give up that the open transaction has run.
    run: Vec<Unlisten>,
    /// What those give up that have been committed.
    committed: Vec<Unlisten>,
    change: Change,
}

/// What a stretch of work does to what its client listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
enum Change {
    #[default]
    None,
    /// It has notified, perhaps itself.
    Notified,
    Unlistened,
    /// The backend may listen by now.
    Listened,
}

/// Who is to have a notification that comes from a lent backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The client: it has just begun to listen.
    New,
    /// The client, by way of its subscription.
    Subscribed,
    /// Nobody: a function of somebody before has made the backend listen.
    Nobodys,
}

/// The limits of what one client may listen to.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListenLimits {
    pub(super) channels: usize,
    pub(super) notifications_max_bytes: usize,
    /// How long it may take until somebody listens.
    pub(super) wait: Duration,
}

impl Listening {
    /// Whether the client listens to anything that an UNLISTEN could give up.
    pub(super) fn is_subscribed(&self) -> bool {
        self.subscription.is_some()
    }

    /// Reads the text of a statement that goes to the server.
    pub(super) fn read(&mut self, text: &[u8]) {
        if let Ok(text) = std::str::from_utf8(text) {
            self.sent.extend(sql::unlistened(text));
        }
    }

    /// Notes a command tag of the server.
    pub(super) fn tag(&mut self, tag: &[u8]) {
        match tag {
            b"LISTEN" => self.change = self.change.max(Change::Listened),
            _ if self.subscription.is_none() => {}
            b"UNLISTEN" => self.run.extend(self.sent.pop_front()),
            b"DISCARD ALL" => self.run.push(Unlisten::All),
            b"NOTIFY" => self.change = self.change.max(Change::Notified),
            b"ROLLBACK" => self.run.clear(),
            _ => {}
        }
    }

    /// Notes an error of the server: what it skips or rolls back is not given up.
    pub(super) fn error(&mut self) {
        self.sent.clear();
        self.run.clear();
    }

    /// Notes that the server's transaction has ended; answers whether the client must not know yet.
    pub(super) fn transaction_ended(&mut self) -> bool {
        if !self.run.is_empty() {
            self.change = self.change.max(Change::Unlistened);
            self.committed.append(&mut self.run);
        }
        self.change != Change::None
    }

    /// Who is to have a notification that the client's own backend reports.
    pub(super) fn whose(&self, body: &[u8]) -> Whose {
        match Notification::new(body) {
            _ if self.change != Change::Listened => Whose::Nobodys,
            Some(notification) if self.is_new(&notification) => Whose::New,
            Some(_) | None => Whose::Subscribed,
        }
    }

    /// Whether there is something to settle before the backend is released.
    pub(super) fn is_changing(&self) -> bool {
        self.change != Change::None
    }

    fn is_new(&self, notification: &Notification) -> bool {
        let subscription = self.subscription.as_ref();
        !subscription.is_some_and(|known| known.channels().contains(notification.channel()))
    }

    /// Moves what waits for the client to `out`, as much as a buffer takes.
    pub(super) fn deliver(&self, out: &mut Buffer) -> Result<(), End> {
        let Some(subscription) = &self.subscription else {
            return Ok(());
        };
        // Where nothing fits, nobody takes the next one, and only this finds out.
        subscription.check()?;
        while !out.is_full()
            && let Some(notification) = subscription.next()?
        {
            out.put(&notification.message);
        }
        Ok(())
    }

    /// Ends a stretch of work, after which `backend` listens to `heard` and has reported `reported`: subscribes the
    /// client to what it listens to now. Puts into `out` what it is to be told of what was notified meanwhile.
    pub(super) async fn settle(
        &mut self,
        backend: &mut Backend,
        heard: Vec<String>,
        reported: Vec<Notification>,
        subscriber: &Subscriber<'_>,
        out: &mut Buffer,
    ) -> Result<(), End> {
        let change = std::mem::take(&mut self.change);
        self.sent.clear();
        if let Some(subscription) = &self.subscription
            && change == Change::Notified
            && heard.is_empty()
        {
            within(subscriber.limits.wait, subscription.round()).await?;
            return self.deliver(out);
        }
        let channels = self.channels_after(&heard);
        if self.subscription.is_none() && channels.is_empty() {
            return Ok(());
        }
        if channels.len() > subscriber.limits.channels {
            return Err(End::TooManyChannels {
                limit: subscriber.limits.channels,
            });
        }
        let encoding = backend.connection.parameters.get("client_encoding");
        if !channels.is_empty() && encoding != Some("UTF8") {
            return Err(End::ListenEncoding);
        }
        let is_new: Vec<_> = reported
            .into_iter()
            .filter(|one| self.is_new(one))
            .collect();
        let before = self
            .subscription
            .as_ref()
            .map(|known| known.channels().clone());
        let mut subscription = match self.subscription.take() {
            Some(subscription) => subscription,
            None => Box::new(subscriber.subscription()),
        };
        let is_empty = channels.is_empty();
        within(subscriber.limits.wait, subscription.listen(channels)).await?;
        for notification in is_new {
            out.put(&notification.message);
        }
        if !heard.is_empty() {
            let reported = unlisten(backend).await?;
            let known = before.unwrap_or_default();
            let late = reported.into_iter();
            let late: Vec<_> = late.filter(|one| !known.contains(one.channel())).collect();
            if !late.is_empty() {
                // Some of these may have come by way of the subscription as well.
                within(subscriber.limits.wait, subscription.round()).await?;
            }
            for notification in late {
                subscription.forget(&notification);
                out.put(&notification.message);
            }
        }
        self.subscription = Some(subscription);
        self.deliver(out)?;
        if is_empty {
            self.subscription = None;
        }
        Ok(())
    }

    fn channels_after(&mut self, heard: &[String]) -> BTreeSet<String> {
        let before = self
            .subscription
            .as_ref()
            .map(|known| known.channels().clone());
        let mut channels = before.unwrap_or_default();
        for given_up in self.committed.drain(..) {
            match given_up {
                Unlisten::All => channels.clear(),
                Unlisten::Channel(channel) => {
                    channels.remove(&channel);
                }
            }
        }
        channels.extend(heard.iter().cloned());
        channels
    }
}

/// Who subscribes.
pub(super) struct Subscriber<'a> {
    pub(super) pool: &'a Rc<Pool>,
    pub(super) handle: &'a Arc<SessionHandle>,
    pub(super) settings: &'a Settings,
    pub(super) limits: ListenLimits,
}

impl Subscriber<'_> {
    fn subscription(&self) -> Subscription {
        let max_bytes = self.limits.notifications_max_bytes;
        Subscription::new(self.pool, Arc::clone(self.handle), self.settings, max_bytes)
    }
}

/// Has `backend` listen to nothing any more; answers what was notified until then.
async fn unlisten(backend: &mut Backend) -> Result<Vec<Notification>, End> {
    let mut reply = backend.connection.query("UNLISTEN *", UNLISTEN_MAX).await?;
    if reply.error.as_deref().is_some_and(is_cancel) {
        // The client's, of a query that had ended.
        reply = backend.connection.query("UNLISTEN *", UNLISTEN_MAX).await?;
    }
    match reply.error {
        Some(error) => Err(End::Exchange(ExchangeError::Refused(error))),
        None => Ok(reply.notifications),
    }
}

async fn within(
    limit: Duration,
    wait: impl Future<Output = Result<(), SubscriptionError>>,
) -> Result<(), End> {
    let done = tokio::time::timeout(limit, wait).await;
    Ok(done.unwrap_or(Err(SubscriptionError::Busy))?)
}
