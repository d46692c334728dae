//! The pools of one worker, by tenant.
//!
//! ```text
//! Pools (one per worker)
//!   └── TenantPools      budget over all pools of the tenant
//!         └── Pool       idle backends (last in, first out), waiters (first in, first out)
//! ```
//! All of it lives on one thread: no lock, no atomic but the overall budget's.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::{sync::Notify, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    Pool, PoolKey,
    budget::{OverallBudget, Request},
    login::Login,
};
use crate::{
    access::{Purge, Purged},
    backend::Server,
    catalog::types::{PrivilegedRoles, Tenant, TenantAt},
    config,
    metrics::TenantMetrics,
    names::TenantRef,
};

/// All pools of one worker.
pub struct Pools {
    tenants: RefCell<FxHashMap<TenantRef, Rc<TenantPools>>>,
    shared: Rc<Shared>,
}

/// What every pool of a worker needs.
pub(super) struct Shared {
    pub(super) settings: config::Pool,
    pub(super) overall: Arc<OverallBudget>,
    /// Connects and closes in progress; waited for at shutdown.
    pub(super) tasks: TaskTracker,
    /// Wakes the task that watches idle backends.
    pub(super) watcher: RefCell<Waker>,
    pub(super) min_server_version: u32,
}

/// Sizes that a tenant may set for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Backends per pool.
    pub pool: u32,
    /// Backends over all pools of the tenant.
    pub budget: u32,
    /// Backends of the pool that asks for verifiers, outside the budget.
    pub auth_query: u32,
}

/// One tenant's pools and their common budget.
pub struct TenantPools {
    pub(super) shared: Rc<Shared>,
    pub(super) metrics: TenantMetrics,
    /// The catalogue's record that the server was made from.
    record: RefCell<TenantAt>,
    server: RefCell<Rc<Server>>,
    sizes: Cell<Sizes>,
    /// Backends and waiters of the pools under the budget.
    pub(super) open: Cell<u32>,
    pub(super) waiting: Cell<usize>,
    /// A backend's place has come free.
    pub(super) freed: Notify,
    /// For an idle backend of somebody else's, while the overall budget is spent.
    pub(super) request: Request,
    pub(super) pools: RefCell<FxHashMap<PoolKey, Rc<Pool>>>,
}

impl Pools {
    #[must_use]
    pub fn new(
        settings: config::Pool,
        overall: Arc<OverallBudget>,
        min_server_version: u32,
    ) -> Self {
        let shared = Shared {
            settings,
            overall,
            tasks: TaskTracker::new(),
            watcher: RefCell::new(Waker::noop().clone()),
            min_server_version,
        };
        Self {
            tenants: RefCell::default(),
            shared: Rc::new(shared),
        }
    }

    /// The pools of `tenant`. Its server is made with `server` at first, and again when the tenant's record has
    /// changed; backends of the old server are then not handed out any more. A record that was read before the one
    /// known, by a login that is slower, changes nothing.
    pub fn tenant<E>(
        &self,
        tenant: &TenantAt,
        sizes: Sizes,
        server: impl FnOnce() -> Result<Server, E>,
    ) -> Result<Rc<TenantPools>, E> {
        let name = &tenant.record.tenant;
        let known = self.tenants.borrow().get(name).cloned();
        if let Some(known) = known {
            if tenant.revision >= known.record.borrow().revision {
                known.sizes.set(sizes);
                let old = known.record.replace(tenant.clone()).record;
                // Cached records come and go: only one with another content is a change.
                if !Arc::ptr_eq(&old, &tenant.record) && old != tenant.record {
                    known.renew(&old, &tenant.record, server()?);
                }
            }
            return Ok(known);
        }
        let pools = Rc::new(TenantPools {
            shared: Rc::clone(&self.shared),
            record: RefCell::new(tenant.clone()),
            server: RefCell::new(Rc::new(server()?)),
            sizes: Cell::new(sizes),
            metrics: TenantMetrics::new(name),
            open: Cell::new(0),
            waiting: Cell::new(0),
            freed: Notify::new(),
            request: Request::default(),
            pools: RefCell::default(),
        });
        self.tenants
            .borrow_mut()
            .insert(name.clone(), Rc::clone(&pools));
        Ok(pools)
    }

    /// Closes the backends that `purge` names and answers after they are gone.
    pub fn purge(&self, purge: Purge) {
        let chosen = self.matching(|pool| {
            let key = &pool.key;
            let person = key.principal.person();
            person.is_some_and(|person| purge.person.is_none_or(|purged| purged == person))
                && purge
                    .tenants
                    .as_ref()
                    .is_none_or(|tenants| tenants.contains(&key.tenant))
        });
        let (counts, quiet): (Vec<_>, Vec<_>) = chosen.iter().map(|pool| pool.retire_all()).unzip();
        self.shared.tasks.spawn_local(async move {
            let unproven: u32 = futures_util::future::join_all(quiet).await.iter().sum();
            let idle = u32::try_from(counts.iter().sum::<usize>()).unwrap_or(u32::MAX);
            let _ = purge.done.send(Purged {
                closed: idle.saturating_sub(unproven),
                unproven,
            });
        });
    }

    /// Watches idle backends for as long as the worker lives: one that speaks or leaves is discarded.
    pub async fn watch_idle(&self) -> std::convert::Infallible {
        std::future::poll_fn(|context| {
            self.shared.watcher.borrow_mut().clone_from(context.waker());
            for pool in self.matching(|_| true) {
                pool.drop_broken_idle(context);
            }
            Poll::Pending
        })
        .await
    }

    /// Serves those whom nobody else wakes; called a few times a second.
    pub fn tick(&self) {
        self.meet_requests();
        for tenant in self.tenants.borrow().values() {
            // Waiters held up by the overall budget.
            tenant.serve_longest_waiter();
            tenant.freed.notify_waiters();
        }
    }

    /// Housekeeping, called about once a second: idle timeout, lifetime, empty pools, what the metrics say.
    pub fn keep_house(&self, now: Instant) {
        for pool in self.matching(|_| true) {
            pool.forget_token();
            pool.expire_idle(now);
        }
        for tenant in self.tenants.borrow().values() {
            tenant.pools.borrow_mut().retain(|_, pool| pool.is_in_use());
            tenant.tell_load();
        }
        self.tenants
            .borrow_mut()
            .retain(|_, tenant| tenant.is_in_use());
    }

    /// Gives up idle backends that others ask for, the one that has been idle longest first.
    fn meet_requests(&self) {
        while self.shared.overall.has_requests() {
            let idle = self.matching(|pool| pool.oldest_idle().is_some());
            let oldest = idle.iter().min_by_key(|pool| pool.oldest_idle());
            // A request that this worker cannot meet is left for another one.
            let Some(oldest) = oldest else { return };
            if !self.shared.overall.take_request() || !oldest.give_up_idle() {
                return;
            }
        }
    }

    /// Closes every idle backend and waits for all connects and closes to end.
    pub async fn shut_down(&self, limit: Duration) {
        let quiet: Vec<_> = self
            .matching(|_| true)
            .iter()
            .map(|pool| pool.retire_all().1)
            .collect();
        let retired = futures_util::future::join_all(quiet);
        let _ = tokio::time::timeout(limit, retired).await;
        self.shared.tasks.close();
        let _ = tokio::time::timeout(limit, self.shared.tasks.wait()).await;
    }

    pub(super) fn matching(&self, chosen: impl Fn(&Pool) -> bool) -> Vec<Rc<Pool>> {
        let tenants = self.tenants.borrow();
        let pools = tenants
            .values()
            .flat_map(|tenant| tenant.pools.borrow().values().cloned().collect::<Vec<_>>());
        pools.filter(|pool| chosen(pool)).collect()
    }
}

impl TenantPools {
    /// The pool of `key`; made with `login` if there is none yet, else its login is renewed.
    pub fn pool(self: &Rc<Self>, key: PoolKey, login: Login) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some(pool) = pools.get(&key) {
            pool.set_login(login);
            return Rc::clone(pool);
        }
        let pool = Rc::new(Pool::new(key.clone(), Rc::clone(self), login));
        pools.insert(key, Rc::clone(&pool));
        pool
    }

    #[must_use]
    pub fn server(&self) -> Rc<Server> {
        Rc::clone(&self.server.borrow())
    }

    fn renew(&self, old: &Tenant, tenant: &Tenant, server: Server) {
        let same_server = (&old.host, old.port, old.backend_tls, &old.backend_ca)
            == (
                &tenant.host,
                tenant.port,
                tenant.backend_tls,
                &tenant.backend_ca,
            );
        self.server.replace(Rc::new(server));
        if same_server {
            return;
        }
        let pools: Vec<_> = self.pools.borrow().values().cloned().collect();
        for pool in pools {
            // Nobody waits for the old server's connections to close.
            drop(pool.retire_all());
        }
    }

    fn tell_load(&self) {
        let pools = self.pools.borrow();
        let idle = pools.values().map(|pool| pool.idle.borrow().len()).sum();
        self.metrics.load(self.waiting.get(), idle);
    }

    pub(super) fn allows_privileged_roles(&self) -> bool {
        self.record.borrow().record.privileged_roles == PrivilegedRoles::Allow
    }

    pub(super) fn sizes(&self) -> Sizes {
        self.sizes.get()
    }

    fn is_in_use(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1 || !self.pools.borrow().is_empty()
    }
}

impl Shared {
    /// Registers the watcher with an idle backend; ready: the backend has spoken or left.
    pub(super) fn watch<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        poll(&mut Context::from_waker(&self.watcher.borrow()))
    }
}
