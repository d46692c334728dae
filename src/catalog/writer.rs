//! The one thread that writes.
//!
//! ```text
//! change ── awaits a place ──▶ changes ─┐
//! record ── awaits a place ──▶ ┐        ├─▶ writer: one change, or one batch of entries, per transaction
//! record_later ── or dropped ─▶┴ trail ─┘
//! ```
//!
//! It has a thread and a runtime of its own, so it outlives any caller's, and so that the futures it runs
//! need not be `Send`. When both queues have work they take turns: a flood of events delays a revocation by
//! one batch at most, and a mass import never stops logins from being recorded.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use sqlx::{Connection, SqliteConnection};
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    catalog::{
        audit,
        cache::TenantCache,
        changes::{self, Changed, Effect},
        columns,
        entry::{Entry, gap},
        error::CatalogError,
        keys::Keys,
        store::WriterConnection,
        token_uses::store_use,
        types::AuditEvent,
    },
    names::TokenId,
};

/// Changes that may wait; more wait for a place.
const CHANGES_MAX: usize = 256;
/// Audit entries that may wait; beyond, `record` waits and `record_later` drops.
const TRAIL_MAX: usize = 4096;
/// Entries per transaction: enough to share the cost of a commit, few enough not to delay a change.
const BATCH_MAX: usize = 256;
/// How long events wait for company.
const GATHER: Duration = Duration::from_millis(100);

/// The handle to the writer thread.
pub(super) struct Writer {
    changes: mpsc::Sender<Job>,
    trail: mpsc::Sender<Entry>,
    dropped: Arc<AtomicU64>,
    /// Last, because its drop waits for the thread, which ends when the queues above are gone.
    _thread: JoinOnDrop,
}

type Job = Box<dyn for<'l> FnOnce(&'l mut Ledger) -> Pin<Box<dyn Future<Output = ()> + 'l>> + Send>;

/// What the thread owns.
struct Ledger {
    writer: WriterConnection,
    keys: Arc<Keys>,
    tenants: Arc<TenantCache>,
    dropped: Arc<AtomicU64>,
}

struct JoinOnDrop(Option<thread::JoinHandle<()>>);

impl Writer {
    pub(super) fn start(
        writer: WriterConnection,
        keys: Arc<Keys>,
        tenants: Arc<TenantCache>,
    ) -> Result<Self, CatalogError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(CatalogError::WriterNotStarted)?;
        let (changes, changes_due) = mpsc::channel(CHANGES_MAX);
        let (trail, trail_due) = mpsc::channel(TRAIL_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let ledger = Ledger {
            writer,
            keys,
            tenants,
            dropped: Arc::clone(&dropped),
        };
        let thread = thread::Builder::new()
            .name("catalogue".to_owned())
            .spawn(move || runtime.block_on(ledger.serve(changes_due, trail_due)))
            .map_err(CatalogError::WriterNotStarted)?;
        Ok(Self {
            changes,
            trail,
            dropped,
            _thread: JoinOnDrop(Some(thread)),
        })
    }

    /// Runs `work` in a transaction of its own. Once this has a place in the queue, the change is carried out
    /// whether or not the caller still waits.
    pub(super) async fn change<T, F>(&self, work: F) -> Result<Changed<T>, CatalogError>
    where
        T: Send + 'static,
        F: AsyncFnOnce(&mut SqliteConnection) -> Result<Effect<T>, CatalogError> + Send + 'static,
    {
        let (done, outcome) = oneshot::channel();
        let job: Job = Box::new(move |ledger| {
            Box::pin(async move {
                // Nobody may be waiting any more; the change stands all the same.
                let _ = done.send(ledger.change(work).await);
            })
        });
        self.changes
            .send(job)
            .await
            .map_err(|_| CatalogError::Closed)?;
        outcome.await.map_err(|_| CatalogError::Closed)?
    }

    /// Returns when `event` is on disk.
    pub(super) async fn record(&self, event: AuditEvent) -> Result<(), CatalogError> {
        let (done, recorded) = oneshot::channel();
        let entry = Entry::Event {
            at: columns::now(),
            event,
            recorded: Some(done),
        };
        let sent = self.trail.send(entry).await;
        sent.map_err(|_| CatalogError::Closed)?;
        recorded.await.map_err(|_| CatalogError::Closed)?
    }

    pub(super) fn record_later(&self, event: AuditEvent) {
        let entry = Entry::Event {
            at: columns::now(),
            event,
            recorded: None,
        };
        if self.trail.try_send(entry).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Last use is a convenience, so it is let go when the queue is full.
    pub(super) fn note_use(&self, token: TokenId, at: OffsetDateTime, from: IpAddr) {
        let _ = self.trail.try_send(Entry::Use { token, at, from });
    }

    pub(super) async fn flush(&self) -> Result<(), CatalogError> {
        let (done, flushed) = oneshot::channel();
        let sent = self.trail.send(Entry::Flush(done)).await;
        sent.map_err(|_| CatalogError::Closed)?;
        flushed.await.map_err(|_| CatalogError::Closed)
    }
}

impl Ledger {
    /// Works until both queues are closed and empty.
    async fn serve(mut self, mut changes: mpsc::Receiver<Job>, mut trail: mpsc::Receiver<Entry>) {
        loop {
            tokio::select! {
                biased;
                Some(job) = changes.recv() => {
                    job(&mut self).await;
                    if let Ok(first) = trail.try_recv() {
                        self.write_from(first, &mut trail).await;
                    }
                }
                Some(first) = trail.recv() => {
                    if first.is_unheard() {
                        self.gather(&mut changes).await;
                    }
                    self.write_from(first, &mut trail).await;
                }
                else => break,
            }
        }
        // Closing folds the write-ahead log into the file; if that fails, the next opening does it.
        let _ = self.writer.connection.close().await;
    }

    /// Lets events that nobody waits for come together: a thousand sessions that end at once are then a few
    /// transactions and wake-ups, not a thousand. Changes do not wait for it.
    async fn gather(&mut self, changes: &mut mpsc::Receiver<Job>) {
        let until = Instant::now() + GATHER;
        while let Ok(Some(job)) = timeout_at(until, changes.recv()).await {
            job(self).await;
        }
    }

    async fn change<T, F>(&mut self, work: F) -> Result<Changed<T>, CatalogError>
    where
        F: AsyncFnOnce(&mut SqliteConnection) -> Result<Effect<T>, CatalogError>,
    {
        self.writer.ensure_usable().await?;
        let connection = &mut self.writer.connection;
        // Takes the write lock at once: a transaction that begins by reading could not be upgraded safely.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        match work(&mut transaction).await? {
            Effect::None(value) => {
                let revision = changes::revision(&mut transaction).await?;
                Ok(Changed { value, revision })
            }
            Effect::Change(value, events) => {
                let revision = changes::raise_revision(&mut transaction).await?;
                let now = columns::now();
                let entries: Vec<_> = events.iter().map(|event| (now, event)).collect();
                audit::append(&mut transaction, &self.keys, &entries).await?;
                let committed = transaction.commit().await;
                // Even if the commit failed: it may have failed after the fact.
                for tenant in events.iter().filter_map(|event| event.tenant.as_ref()) {
                    self.tenants.forget(tenant);
                }
                committed?;
                Ok(Changed { value, revision })
            }
        }
    }

    /// Writes `first` and what else is waiting, up to a batch.
    async fn write_from(&mut self, first: Entry, trail: &mut mpsc::Receiver<Entry>) {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX
            && let Ok(entry) = trail.try_recv()
        {
            batch.push(entry);
        }
        self.write(batch).await;
    }

    /// Writes a batch in one transaction and tells those who wait. What cannot be written counts as dropped.
    async fn write(&mut self, batch: Vec<Entry>) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let stored = self.store(&batch, dropped).await;
        if let Err(error) = &stored {
            let unheard = batch.iter().filter(|entry| entry.is_unheard()).count() as u64;
            self.dropped.fetch_add(dropped + unheard, Ordering::Relaxed);
            tracing::error!(
                error = error as &dyn std::error::Error,
                events = batch.len(),
                "audit events could not be stored"
            );
        }
        for entry in batch {
            entry.tell(stored.is_ok());
        }
    }

    async fn store(&mut self, batch: &[Entry], dropped: u64) -> Result<(), CatalogError> {
        let gap = (dropped > 0).then(|| gap(dropped));
        let now = columns::now();
        self.writer.ensure_usable().await?;
        let connection = &mut self.writer.connection;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let mut noticed = Vec::new();
        for entry in batch {
            if let Entry::Use { token, at, from } = entry {
                let event = store_use(&mut transaction, token, *at, *from).await?;
                noticed.extend(event.map(|event| (*at, event)));
            }
        }
        let gaps = gap.iter().map(|event| (now, event));
        let entries = gaps.chain(batch.iter().filter_map(Entry::event));
        let noticed = noticed.iter().map(|(at, event)| (*at, event));
        let entries: Vec<_> = entries.chain(noticed).collect();
        audit::append(&mut transaction, &self.keys, &entries).await?;
        transaction.commit().await?;
        Ok(())
    }
}

impl Drop for JoinOnDrop {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take()
            && thread.join().is_err()
        {
            tracing::error!("the catalogue's writer thread panicked");
        }
    }
}
