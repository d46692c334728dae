//! What a session finds on the thread it lives on, and what all threads share.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use rustc_hash::FxHashMap;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{
    Arrival,
    cancel_keys::{CancelKeys, Guesses},
    crowd::{Crowd, Presence},
    even_time::EvenTime,
    lanes::Lanes,
    local::{Local, Now},
    throttle::Throttle,
    verifier::VerifierCache,
    watch::Watch,
};
use crate::{
    access::{Access, certificates::CertificateAuthority},
    catalog::Catalog,
    config::Config,
    memory::give_back,
    metrics::{CancelOutcome, TenantMetrics, Traffic},
    names::{SessionId, TenantRef},
    net::{buffer::BufferPool, ring::Ring, server_tls::ServerTls},
    pool::{Pool, PoolView, Pools},
};

/// How often pools are looked after: what is due there is due in seconds, and there may be thousands.
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(1);

/// What all workers share.
pub struct Process {
    pub config: Arc<ArcSwap<Config>>,
    pub catalog: Catalog,
    pub access: Access,
    pub tls: Option<ServerTls>,
    /// Signs the certificates of token sessions; `None`: tenants with that login cannot be served.
    pub authority: Option<Arc<CertificateAuthority>>,
    /// Seed of the salts shown for roles that do not exist.
    pub mock_seed: [u8; 32],
    pub traffic: Traffic,
    pub cancel_keys: CancelKeys,
    pub guesses: Guesses,
    pub crowd: Crowd,
    pub throttle: Throttle,
    pub even_time: EvenTime,
    pub workers: Vec<mpsc::UnboundedSender<Command>>,
    pub draining: AtomicBool,
    clients: Count,
    tenant_clients: DashMap<TenantRef, Count>,
}

/// A count with a limit, and a place in it that is given back by dropping it.
type Count = Arc<AtomicUsize>;

#[derive(Debug)]
pub(super) struct Place(Count);

impl Place {
    fn take(count: &Count, limit: usize) -> Option<Self> {
        let add = |taken| (taken < limit).then_some(taken + 1);
        count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
            .ok()?;
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What one worker asks of another.
pub enum Command {
    /// Serve this client: you are its home.
    Arrive(Box<Arrival>),
    /// Cancel what this session of yours runs.
    Cancel {
        session: SessionId,
        done: oneshot::Sender<CancelOutcome>,
    },
    /// Say what your pools look like.
    Pools {
        done: oneshot::Sender<Vec<PoolView>>,
    },
}

/// The parts of a [`Process`] that its maker brings.
pub struct Parts {
    pub config: Config,
    pub catalog: Catalog,
    pub access: Access,
    pub tls: Option<ServerTls>,
    pub authority: Option<Arc<CertificateAuthority>>,
    pub workers: Vec<mpsc::UnboundedSender<Command>>,
}

impl Process {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            mock_seed: mock_seed(&parts.config),
            config: Arc::new(ArcSwap::from_pointee(parts.config)),
            crowd: Crowd::default(),
            throttle: Throttle::default(),
            even_time: EvenTime::default(),
            catalog: parts.catalog,
            access: parts.access,
            tls: parts.tls,
            authority: parts.authority,
            traffic: Traffic::new(),
            cancel_keys: CancelKeys::default(),
            guesses: Guesses::default(),
            workers: parts.workers,
            draining: AtomicBool::new(false),
            clients: Count::default(),
            tenant_clients: DashMap::new(),
        }
    }

    pub(super) fn client_place(&self) -> Option<Place> {
        Place::take(&self.clients, self.config.load().limits.clients)
    }

    pub(super) fn tenant_place(&self, tenant: &TenantRef, limit: usize) -> Option<Place> {
        let count = Arc::clone(&*self.tenant_clients.entry(tenant.clone()).or_default());
        Place::take(&count, limit)
    }

    /// Which worker is home to `tenant`: all its pools live there, so that its budget is one thread's business.
    pub(super) fn home(&self, tenant: &TenantRef) -> usize {
        use std::hash::{BuildHasher as _, BuildHasherDefault};
        let hash = BuildHasherDefault::<rustc_hash::FxHasher>::default().hash_one(tenant);
        usize::try_from(hash % self.workers.len().max(1) as u64).unwrap_or(0)
    }

    /// The place of a client at `address` among those that have not logged in.
    pub(super) fn stranger(&self, address: IpAddr) -> Presence {
        let limit = self.config.load().limits.unauthenticated_per_address;
        self.crowd.enter(address, limit)
    }
}

/// The same after every start: a salt that changed would give away that its role does not exist.
fn mock_seed(config: &Config) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"sluice mock salt");
    hash.update(config.catalog.key.expose());
    hash.finalize().into()
}

/// One thread and what lives on it.
pub struct Worker {
    pub index: usize,
    pub process: Arc<Process>,
    pub pools: Pools,
    pub buffers: BufferPool,
    /// What is done here for clients, from accept to end.
    pub sessions: TaskTracker,
    /// Each tenant's clients have a lane; so have, together, those who have not logged in.
    lanes: Rc<Lanes<Option<TenantRef>>>,
    pub(super) verifiers: VerifierCache,
    watch: Watch,
    metrics: RefCell<FxHashMap<TenantRef, Rc<TenantMetrics>>>,
    clock: Cell<Instant>,
    /// When the pools were last looked after.
    house_kept: Cell<Instant>,
    /// Bytes from and to clients since the last tick: the metrics that they go to are shared by all threads.
    received: Cell<u64>,
    sent: Cell<u64>,
}

impl Worker {
    #[must_use]
    pub fn new(
        index: usize,
        process: Arc<Process>,
        pools: Pools,
        buffers: BufferPool,
        lanes: Rc<Lanes<Option<TenantRef>>>,
    ) -> Rc<Self> {
        Rc::new(Self {
            index,
            process,
            pools,
            buffers,
            sessions: TaskTracker::new(),
            lanes,
            verifiers: VerifierCache::default(),
            watch: Watch::new(Instant::now()),
            metrics: RefCell::default(),
            clock: Cell::new(Instant::now()),
            house_kept: Cell::new(Instant::now()),
            received: Cell::default(),
            sent: Cell::default(),
        })
    }

    /// Does `part` of what is done for a client of `tenant`, in turn with the other tenants.
    pub fn serve(&self, tenant: Option<TenantRef>, part: impl Future<Output = ()> + 'static) {
        self.lanes.spawn(tenant, self.sessions.track_future(part));
    }

    /// The time as of the last tick: good enough for limits, and free.
    pub(super) fn now(&self) -> Instant {
        self.clock.get()
    }

    /// How long somebody who logs in waits for a server that is away, with time left to be told. One that has never
    /// been reached is rather set up wrong than on its way back.
    pub(super) fn login_patience(&self, pool: &Pool) -> Duration {
        match pool.parameters() {
            Some(_) => self.process.config.load().timeouts.login / 2,
            None => Duration::ZERO,
        }
    }

    /// Counts what a transaction has brought from its client, and to it.
    pub(super) fn count_bytes(&self, received: u64, sent: u64) {
        self.received.set(self.received.get() + received);
        self.sent.set(self.sent.get() + sent);
    }

    /// Looks after the sessions and pools of this worker; called a few times a second.
    pub fn tick(self: &Rc<Self>) {
        let now = Now::read();
        self.clock.set(now.instant);
        self.process.traffic.received(self.received.take());
        self.process.traffic.sent(self.sent.take());
        let config = self.process.config.load();
        self.watch.look(now, &config.timeouts, |overdue| {
            let local = Rc::clone(overdue);
            self.sessions
                .spawn_local(async move { local.cancel().await });
        });
        self.pools.tick();
        if self.house_kept.get() + HOUSEKEEPING_PERIOD <= now.instant {
            self.house_kept.set(now.instant);
            self.pools.keep_house(now.instant);
            self.lanes.trim();
            self.watch.trim();
            Ring::trim();
            if self.index == 0 {
                self.process.cancel_keys.trim();
                self.process.access.registry().trim();
            }
            give_back();
        }
        self.buffers.trim();
        if self.index == 0 {
            self.process.catalog.sweep_refusals();
            self.process.throttle.sweep(now.instant);
        }
    }

    /// Cancels what `session` runs, if it lives here.
    pub async fn cancel(&self, session: SessionId) -> CancelOutcome {
        match self.watch.get(session) {
            Some(local) => local.cancel().await,
            None => CancelOutcome::Idle,
        }
    }

    pub(super) fn metrics(&self, tenant: &TenantRef) -> Rc<TenantMetrics> {
        let mut known = self.metrics.borrow_mut();
        Rc::clone(
            known
                .entry(tenant.clone())
                .or_insert_with(|| Rc::new(TenantMetrics::new(tenant))),
        )
    }

    pub(super) fn enroll(self: &Rc<Self>, local: Rc<Local>) -> Enrolled {
        let config = self.process.config.load();
        self.watch
            .add(Rc::clone(&local), self.now(), &config.timeouts);
        Enrolled {
            worker: Rc::clone(self),
            local,
        }
    }
}

/// A session's place among those its worker looks after, given up by dropping it.
pub(super) struct Enrolled {
    worker: Rc<Worker>,
    pub(super) local: Rc<Local>,
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.worker.watch.remove(&self.local);
    }
}
