//! A session as its own worker sees it: what it is doing since when, and how to reach its backend.
//!
//! Limits of time are not kept with a timer each. The worker's clock ticks a few times a second, and sessions are
//! looked at (`watch`); so starting and stopping a limit costs one store.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;

use crate::{
    access::{Activity, EndCause, SessionHandle},
    catalog::types::{TenantTimeouts, TimeLimit},
    config::Timeouts,
    metrics::CancelOutcome,
    pool::{Backend, Cancels},
};

/// How long before its end a session is told of it.
const NOTICES: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(60)];

/// How long a query may take to end that was cancelled because it took too long. After that the session ends.
const CANCELLED_END_MAX: Duration = Duration::from_secs(5);

/// The clock that limits are measured from may be behind by so much: they end late rather than early.
const GRANULARITY: Duration = Duration::from_millis(100);

/// One session on its home worker.
pub(super) struct Local {
    pub(super) handle: Arc<SessionHandle>,
    /// The tenant's own limits of time, as they were at login.
    own: TenantTimeouts,
    since: Cell<Instant>,
    transaction_since: Cell<Option<Instant>>,
    backend: RefCell<Option<Rc<Cancels>>>,
    cancel_asked: Cell<Asked>,
    overdue: Cell<Overdue>,
    expiry: Cell<Option<Expiry>>,
    notices: Cell<Notices>,
}

/// How many of `NOTICES` have been given, and what the client still has to be told.
#[derive(Debug, Clone, Copy, Default)]
struct Notices {
    given: usize,
    due: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    Yes,
}

/// Whether what the session runs has taken too long and is being cancelled for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    No,
    Since(Instant),
}

/// What a look at the limits has found to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// The query has run for too long.
    Cancel,
}

/// How long something may last, and why the session ends when it does not.
struct Limit {
    since: Option<Instant>,
    length: Option<Duration>,
    cause: EndCause,
}

impl Limit {
    fn end(&self) -> Option<Instant> {
        Some(self.since? + self.length? + GRANULARITY)
    }
}

/// The shortest of the limits that a session may come under.
fn shortest(timeouts: &Timeouts) -> Duration {
    let Timeouts {
        idle,
        idle_in_transaction,
        query,
        transaction,
        ..
    } = timeouts;
    let limits = [idle, idle_in_transaction, query, transaction].into_iter();
    limits
        .flatten()
        .fold(timeouts.queue, |shortest, limit| shortest.min(*limit))
}

/// When a grant runs out, by two clocks: the wall's, and one that cannot be set.
#[derive(Debug, Clone, Copy)]
struct Expiry {
    at_ms: i64,
    boot: Duration,
}

/// The time as every clock of this process has it, read once per tick.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    wall_ms: i64,
    boot: Duration,
}

impl Now {
    pub(super) fn read() -> Self {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanoseconds) = (u64::try_from(boot.tv_sec), u32::try_from(boot.tv_nsec));
        let wall_ns = OffsetDateTime::now_utc().unix_timestamp_nanos();
        Self {
            instant: Instant::now(),
            wall_ms: i64::try_from(wall_ns / 1_000_000).unwrap_or(i64::MAX),
            boot: Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0)),
        }
    }
}

impl Local {
    pub(super) fn new(handle: Arc<SessionHandle>, own: TenantTimeouts, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            handle,
            own,
            overdue: Cell::new(Overdue::No),
            since: Cell::new(now),
            transaction_since: Cell::new(None),
            backend: RefCell::new(None),
            cancel_asked: Cell::new(Asked::No),
            expiry: Cell::new(None),
            notices: Cell::default(),
        })
    }

    /// Ready once the session has to end, whatever it is doing.
    pub(super) fn poll_end(&self, context: &mut Context<'_>) -> Poll<EndCause> {
        match self.handle.poll_end(context) {
            Poll::Ready(EndCause::Drain) => Poll::Pending,
            other => other,
        }
    }

    /// Ready once the session has to end, given that no transaction is open.
    pub(super) fn poll_end_or_drain(&self, context: &mut Context<'_>) -> Poll<EndCause> {
        self.handle.poll_end(context)
    }

    /// Notes what the session does from `now` on.
    pub(super) fn enter(&self, activity: Activity, now: Instant) {
        self.handle.set_activity(activity);
        self.since.set(now);
        if activity != Activity::Active {
            self.overdue.set(Overdue::No);
        }
    }

    /// Whether an error that says that a query was cancelled is about a query that took too long.
    pub(super) fn is_overdue(&self) -> bool {
        self.overdue.get() != Overdue::No
    }

    /// The limits of time that hold for this session.
    pub(super) fn timeouts(&self, configured: &Timeouts) -> Timeouts {
        let own = &self.own;
        let limit =
            |own: Option<TimeLimit>, configured| own.map_or(configured, TimeLimit::duration);
        Timeouts {
            queue: own
                .queue
                .and_then(TimeLimit::duration)
                .unwrap_or(configured.queue),
            idle: limit(own.idle, configured.idle),
            idle_in_transaction: limit(own.idle_in_transaction, configured.idle_in_transaction),
            query: limit(own.query, configured.query),
            transaction: limit(own.transaction, configured.transaction),
            ..configured.clone()
        }
    }

    /// Notes that the client has sent more for its backend to do.
    pub(super) fn work(&self, now: Instant) {
        self.enter(Activity::Active, now);
        if self.transaction_since.get().is_none() {
            self.transaction_since.set(Some(now));
        }
    }

    /// Notes that no transaction is open, although a backend is still attached.
    pub(super) fn rest(&self, now: Instant) {
        self.enter(Activity::Idle, now);
        self.transaction_since.set(None);
    }

    /// Notes the backend that serves the session from `now` on.
    pub(super) fn attach(&self, backend: &Backend, now: Instant) {
        self.handle.set_backend_pid(backend.pid());
        self.transaction_since.set(Some(now));
        self.cancel_asked.set(Asked::No);
        self.backend.replace(Some(Rc::clone(backend.cancels())));
    }

    /// Notes that the backend has left.
    pub(super) fn detach(&self) {
        self.handle.set_backend_pid(0);
        self.transaction_since.set(None);
        self.backend.replace(None);
    }

    /// Cancels what the session runs: on its backend, or by taking it out of the queue. Returns when the request
    /// has taken effect or come to nothing.
    pub(super) async fn cancel(&self) -> CancelOutcome {
        let target = self
            .backend
            .borrow()
            .as_ref()
            .and_then(|cancels| Some((cancels.target()?.clone(), cancels.announce())));
        match target {
            Some((process, barrier)) => match process.cancel().await {
                Ok(()) => {
                    barrier.delivered();
                    CancelOutcome::Forwarded
                }
                Err(error) => {
                    tracing::warn!(session = %self.handle.id, %error, "cannot forward a cancel request");
                    CancelOutcome::Failed
                }
            },
            None if self.handle.activity() == Activity::Waiting => {
                self.cancel_asked.set(Asked::Yes);
                self.handle.nudge();
                CancelOutcome::Dequeued
            }
            None => CancelOutcome::Idle,
        }
    }

    /// Puts off a cancel request that cannot be answered yet.
    pub(super) fn put_off_cancel(&self) {
        self.cancel_asked.set(Asked::Yes);
    }

    /// Whether a cancel request has come while the session waits for a backend; asked once.
    pub(super) fn take_cancel(&self) -> bool {
        self.cancel_asked.replace(Asked::No) == Asked::Yes
    }

    /// How long the grant still lasts, if the client has to be told so now; asked once.
    pub(super) fn take_notice(&self) -> Option<Duration> {
        let notices = self.notices.get();
        self.notices.set(Notices {
            due: None,
            ..notices
        });
        notices.due
    }

    /// Looks at the session's limits, and says when they have to be looked at again.
    pub(super) fn look(&self, now: Now, configured: &Timeouts) -> (Due, Instant) {
        let timeouts = self.timeouts(configured);
        let due = match self.over(now, &timeouts) {
            Some(EndCause::QueryTimeout) => self.cancel_overdue(now.instant),
            Some(cause) => {
                self.handle.end(cause);
                Due::Nothing
            }
            None => Due::Nothing,
        };
        (due, self.again_at(now.instant, &timeouts))
    }

    /// The first moment at which a limit may be over: one of what the session does now, or the shortest of what it may
    /// begin from `now` on.
    pub(super) fn again_at(&self, now: Instant, timeouts: &Timeouts) -> Instant {
        let soonest = now + shortest(timeouts);
        let running = self.limits(timeouts).map(|limit| limit.end()).into_iter();
        running.flatten().fold(soonest, Instant::min)
    }

    /// A query that takes too long is cancelled, as PostgreSQL does it; only if that does not help the session ends.
    fn cancel_overdue(&self, now: Instant) -> Due {
        match self.overdue.get() {
            Overdue::No => {
                self.overdue.set(Overdue::Since(now));
                return Due::Cancel;
            }
            Overdue::Since(since) if since + CANCELLED_END_MAX <= now => {
                self.handle.end(EndCause::QueryTimeout);
            }
            Overdue::Since(_) => {}
        }
        Due::Nothing
    }

    fn over(&self, now: Now, timeouts: &Timeouts) -> Option<EndCause> {
        if let Some(left) = self.left_of_grant(now) {
            if left.is_zero() {
                return Some(EndCause::Expired);
            }
            self.note_expiry(left);
        }
        let limits = self.limits(timeouts);
        let passed = |limit: &Limit| limit.end().is_some_and(|end| end <= now.instant);
        limits
            .iter()
            .find(|limit| passed(limit))
            .map(|limit| limit.cause)
    }

    /// The limits that what the session does now is under; the one that says more is the first.
    fn limits(&self, timeouts: &Timeouts) -> [Limit; 2] {
        let (length, cause) = match self.handle.activity() {
            Activity::Idle => (timeouts.idle, EndCause::IdleTimeout),
            Activity::Waiting => (Some(timeouts.queue), EndCause::QueueTimeout),
            Activity::Active => (timeouts.query, EndCause::QueryTimeout),
            Activity::IdleInTransaction => (
                timeouts.idle_in_transaction,
                EndCause::IdleInTransactionTimeout,
            ),
            Activity::Login | Activity::Ending => (None, EndCause::TransactionTimeout),
        };
        let activity = Limit {
            since: Some(self.since.get()),
            length,
            cause,
        };
        let transaction = Limit {
            since: self.transaction_since.get(),
            length: timeouts.transaction,
            cause: EndCause::TransactionTimeout,
        };
        [activity, transaction]
    }

    /// Time until the grant runs out by whichever clock is first; `None`: it never does.
    fn left_of_grant(&self, now: Now) -> Option<Duration> {
        let at_ms = self.handle.expires_at_ms()?;
        let by_wall = Duration::from_millis(u64::try_from(at_ms - now.wall_ms).unwrap_or(0));
        let expiry = match self.expiry.get() {
            Some(expiry) if expiry.at_ms == at_ms => expiry,
            _ => {
                self.notices.set(Notices::default());
                Expiry {
                    at_ms,
                    boot: now.boot + by_wall,
                }
            }
        };
        self.expiry.set(Some(expiry));
        Some(by_wall.min(expiry.boot.saturating_sub(now.boot)))
    }

    fn note_expiry(&self, left: Duration) {
        let given = NOTICES.iter().filter(|before| left <= **before).count();
        if given > self.notices.get().given {
            // In whole seconds: what is left of the second is spent on the way.
            let due = Some(Duration::from_secs(left.as_secs()));
            self.notices.set(Notices { given, due });
            self.handle.nudge();
        }
    }
}
