//! Pools of backends: who gets one, when, and what must be true before it is handed on.
//!
//! A [`Checkout`] is a backend on loan. [`Checkout::release`] gives it back, clean; a checkout that is merely
//! dropped is discarded: its server process is cancelled and closed at once, for nobody can say what state it
//! is in.

mod backend;
mod budget;
mod checkout;
mod closing;
mod epoch;
mod key;
mod login;
mod outage;
mod pools;
mod reclaim;
mod subscriptions;
mod terminating;
mod turns;
mod view;
mod waiter;

#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use rand::Rng as _;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::Instant;

pub use self::{
    backend::{Backend, CancelBarrier, Cancels},
    budget::OverallBudget,
    checkout::Checkout,
    key::{PoolKey, Principal, Service},
    login::Login,
    pools::{Pools, Sizes, TenantPools},
    reclaim::{Half, Remains},
    subscriptions::{Subscription, SubscriptionError},
    view::{PoolKind, PoolView},
};
use self::{
    epoch::Epochs,
    outage::Outage,
    pools::TenantPools as Tenant,
    subscriptions::Subscriptions,
    terminating::Doomed,
    waiter::{Waiter, Waiting},
};
use crate::{
    access::{Denial, certificates::MintError},
    backend::{self as server, ConnectError, Connection, ParameterStatuses, Server},
    names::RoleName,
    protocol::{parameters::Settings, prepared::Statements},
};

/// Has a server notice in the middle of a query that we are gone (PostgreSQL 14, so every server that takes tokens): what a
/// person runs must not go on when nobody is left to end it.
const OUTLIVES_NOBODY: (&str, &str) = ("client_connection_check_interval", "2s");

/// An idle backend that has been unused for this long is looked at before it is handed out, with a system call.
///
/// What happens to it is noticed without that as soon as the thread asks its reactor, which under load it does every few hundred
/// microseconds. One call a second costs nothing, and leaves a server that goes away no time at all for a backend that is seldom used.
const PEEK_AFTER: Duration = Duration::from_secs(1);

/// How many greetings a pool remembers; a client with other settings costs one look at a backend.
const GREETINGS_MAX: usize = 256;

/// Among so many a greeting that no backend was needed for is remembered, too: it is soon made again, and applications may have
/// a name for each of their processes.
const PREDICTIONS_MAX: usize = 8;

/// Why there is no backend.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckoutError {
    #[error(transparent)]
    Connect(Rc<ConnectError>),
    #[error("cannot make a certificate: {0}")]
    Mint(Rc<MintError>),
    #[error("role {role} is refused: {denial}")]
    Denied { role: RoleName, denial: Denial },
}

/// The backends of one key.
pub struct Pool {
    pub key: PoolKey,
    tenant: Rc<Tenant>,
    login: RefCell<Login>,
    /// Last in, first out, so that the ones that are not needed grow old.
    #[allow(clippy::vec_box)] // The box goes to a session and comes back as it is.
    idle: RefCell<Vec<Box<Backend>>>,
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
    /// Backends that have a place: idle, checked out, connecting or closing.
    open: Cell<u32>,
    connecting: Cell<usize>,
    closing: Cell<usize>,
    /// Closing ones that run something.
    stopping: Cell<u32>,
    doomed: RefCell<Vec<Doomed>>,
    is_terminating: Cell<bool>,
    /// Backends of an older epoch are not handed out any more.
    epochs: Epochs,
    outage: RefCell<Option<Outage>>,
    parameters: RefCell<Option<Rc<ParameterStatuses>>>,
    /// The server calls a person's role a superuser, or one that replicates or makes roles.
    is_privileged: Cell<bool>,
    greetings: RefCell<FxHashMap<Rc<Settings>, Rc<ParameterStatuses>>>,
    settings: RefCell<FxHashSet<Rc<Settings>>>,
    statements: RefCell<Statements>,
    subscriptions: Subscriptions,
}

impl Pool {
    fn new(key: PoolKey, tenant: Rc<Tenant>, login: Login) -> Self {
        let statements = Statements::new(tenant.shared.settings.statements_per_pool);
        Self {
            statements: RefCell::new(statements),
            key,
            tenant,
            login: RefCell::new(login),
            idle: RefCell::default(),
            waiters: RefCell::default(),
            open: Cell::new(0),
            connecting: Cell::new(0),
            closing: Cell::new(0),
            stopping: Cell::new(0),
            doomed: RefCell::default(),
            is_terminating: Cell::new(false),
            epochs: Epochs::default(),
            outage: RefCell::default(),
            parameters: RefCell::default(),
            is_privileged: Cell::default(),
            greetings: RefCell::default(),
            settings: RefCell::default(),
            subscriptions: Subscriptions::default(),
        }
    }

    /// An idle backend at once, if there is one and nobody waits before us.
    #[must_use]
    pub fn try_checkout(self: &Rc<Self>) -> Option<Checkout> {
        if !self.waiters.borrow().is_empty() {
            return None;
        }
        let backend = self.pop_idle()?;
        Some(self.lend(backend))
    }

    /// A backend, after waiting for it if need be. Cancel-safe: dropped, it leaves the queue. The deadline is the
    /// caller's; `patience` is how long the server may have been away before that is an error at once.
    pub async fn checkout(self: &Rc<Self>, patience: Duration) -> Result<Checkout, CheckoutError> {
        if let Some(checkout) = self.try_checkout() {
            return Ok(checkout);
        }
        if self.is_backing_off()
            && let Some(error) = self.hopeless(patience)
        {
            return Err(error);
        }
        let waiter = Waiter::new(patience);
        self.enter_queue(&waiter);
        let waiting = Waiting {
            pool: Rc::clone(self),
            waiter,
        };
        self.tenant.serve_longest_waiter();
        waiting.await.map(|backend| self.lend(backend))
    }

    /// What the server reported at login; `None`: no backend has been opened yet.
    #[must_use]
    pub fn parameters(&self) -> Option<Rc<ParameterStatuses>> {
        self.parameters.borrow().clone()
    }

    /// What a client with `settings` is told of the server's parameters, if it has been found out before.
    #[must_use]
    pub fn greeting(&self, settings: &Settings) -> Option<Rc<ParameterStatuses>> {
        self.greetings.borrow().get(settings).cloned()
    }

    pub fn remember_greeting(&self, settings: Rc<Settings>, parameters: Rc<ParameterStatuses>) {
        let mut greetings = self.greetings.borrow_mut();
        if greetings.len() >= GREETINGS_MAX {
            greetings.clear();
        }
        greetings.insert(settings, parameters);
    }

    /// The same for what was found out without a backend.
    pub fn remember_prediction(&self, settings: &Rc<Settings>, parameters: &Rc<ParameterStatuses>) {
        let mut greetings = self.greetings.borrow_mut();
        if greetings.len() < PREDICTIONS_MAX {
            greetings.insert(Rc::clone(settings), Rc::clone(parameters));
        }
    }

    /// The one copy of `settings` that all sessions of this pool share: at checkout they are compared by address.
    #[must_use]
    pub fn shared_settings(&self, settings: Rc<Settings>) -> Rc<Settings> {
        let mut known = self.settings.borrow_mut();
        if let Some(known) = known.get(&settings) {
            return Rc::clone(known);
        }
        if known.len() == known.capacity() {
            known.retain(|settings| Rc::strong_count(settings) > 1);
            let left = known.len();
            known.reserve(left);
        }
        known.insert(Rc::clone(&settings));
        settings
    }

    #[must_use]
    pub fn tenant(&self) -> &Rc<TenantPools> {
        &self.tenant
    }

    /// The statements that clients of this pool have prepared.
    #[must_use]
    pub fn statements(&self) -> &RefCell<Statements> {
        &self.statements
    }

    fn statements_per_backend(&self) -> usize {
        self.tenant.shared.settings.statements_per_backend
    }

    fn set_login(&self, login: Login) {
        self.login.replace(login);
        self.forget_refused_credentials();
    }

    /// Wipes the token that backends log in with once nobody is left who has shown it.
    fn forget_token(self: &Rc<Self>) {
        // The map that holds the pool, whoever walks it, and each backend's place. Everybody else is or serves a session.
        let others = 2 + self.open.get() as usize;
        if Rc::strong_count(self) > others {
            return;
        }
        if let Login::Token(token) = &mut *self.login.borrow_mut() {
            *token = None;
        }
    }

    fn size(&self) -> u32 {
        let sizes = self.tenant.sizes();
        if self.is_budgeted() {
            sizes.pool
        } else {
            sizes.auth_query
        }
    }

    /// The pooler's own look-ups must not wait behind the tenant's load.
    fn is_budgeted(&self) -> bool {
        self.key.principal != Principal::AuthQuery
    }

    fn lend(self: &Rc<Self>, backend: Box<Backend>) -> Checkout {
        Checkout {
            pool: Rc::clone(self),
            backend: Some(backend),
        }
    }

    fn pop_idle(self: &Rc<Self>) -> Option<Box<Backend>> {
        loop {
            let mut backend = self.idle.borrow_mut().pop()?;
            let is_gone = if backend.idle_since.elapsed() < PEEK_AFTER {
                self.has_spoken(&mut backend)
            } else {
                backend.connection.stream_mut().peek_closed()
            };
            if !is_gone {
                return Some(backend);
            }
            self.discard(backend);
        }
    }

    /// Takes back a backend that no client uses any more.
    fn take_back(self: &Rc<Self>, mut backend: Box<Backend>) {
        if !self.epochs.is_current(&backend.epoch) || backend.may_be_hit() {
            return self.discard(backend);
        }
        if !backend.is_clean(self.statements_per_backend()) {
            return self.cleanse(backend);
        }
        backend.idle_since = Instant::now();
        if backend.retire_at <= backend.idle_since {
            return self.discard(backend);
        }
        self.hand_on(backend);
    }

    fn hand_on(self: &Rc<Self>, mut backend: Box<Backend>) {
        if self.tenant.has_longer_waiting_sibling(self) {
            return self.discard(backend);
        }
        // A server that shuts down says so right behind its last answer.
        if self.has_spoken(&mut backend) {
            return self.discard(backend);
        }
        while let Some(waiter) = self.next_waiter() {
            match waiter.serve(Ok(backend)) {
                Err(Ok(returned)) => backend = returned,
                Err(Err(_)) | Ok(()) => return,
            }
        }
        self.idle.borrow_mut().push(backend);
    }

    /// Whether a backend that nobody uses has said something or left, as far as this thread's reactor knows: without
    /// a system call, but for what it has just learnt. From now on the watcher is woken when it does.
    fn has_spoken(&self, backend: &mut Backend) -> bool {
        let shared = &self.tenant.shared;
        let spoken = shared.watch(|context| backend.connection.stream_mut().poll_spoken(context));
        spoken.is_ready()
    }

    fn cleanse(self: &Rc<Self>, mut backend: Box<Backend>) {
        if !backend.pipeline.is_releasable() {
            return self.discard(backend);
        }
        let pool = Rc::clone(self);
        let transit = backend.epoch.transit();
        let limit = self.tenant.shared.settings.cleanup;
        self.tenant.shared.tasks.spawn_local(async move {
            let statements_max = pool.statements_per_backend();
            if backend.cleanse(statements_max, limit).await {
                pool.take_back(backend);
            } else {
                pool.discard(backend);
            }
            drop(transit);
        });
    }

    /// When the first waiter came for whom no connection is being opened yet.
    fn first_uncovered(&self) -> Option<Instant> {
        self.waiters
            .borrow()
            .get(self.connecting.get())
            .map(|waiter| waiter.since)
    }

    fn uncovered(&self) -> usize {
        self.waiters
            .borrow()
            .len()
            .saturating_sub(self.connecting.get())
    }

    fn may_grow(&self) -> bool {
        self.open.get() < self.size() && !self.is_backing_off()
    }

    /// Begins to open one more backend; `false`: not now.
    fn open_one(self: &Rc<Self>) -> bool {
        if self.tenant.shared.tasks.is_closed() {
            return false;
        }
        let Some(place) = self.tenant.reserve(self) else {
            return false;
        };
        self.connecting.set(self.connecting.get() + 1);
        let pool = Rc::clone(self);
        let epoch = self.epochs.current();
        let transit = epoch.transit();
        self.tenant.shared.tasks.spawn_local(async move {
            let result = pool.connect().await;
            pool.connecting.set(pool.connecting.get() - 1);
            match result {
                Ok((connection, server)) => {
                    pool.outage.replace(None);
                    let retire_at = pool.retirement();
                    let mut backend = Backend::new(connection, server, place, epoch, retire_at);
                    backend.settings = pool.key.service.settings();
                    pool.take_back(Box::new(backend));
                }
                Err(error) => pool.failed(error, place),
            }
            drop(transit);
        });
        true
    }

    /// A connection, and the server that it was opened to.
    async fn connect(&self) -> Result<(Connection, Rc<Server>), CheckoutError> {
        let credentials = self
            .login
            .borrow()
            .credentials()
            .map_err(|error| CheckoutError::Mint(Rc::new(error)))?;
        let server = self.tenant.server();
        let mut startup = self.key.service.startup();
        if self.key.principal.person().is_some() {
            startup.push(OUTLIVES_NOBODY);
        }
        let mut connection = server
            .connect(&self.key.role, &self.key.database, &startup, &credentials)
            .await
            .map_err(|error| CheckoutError::Connect(Rc::new(error)))?;
        self.learn_powers(&mut connection, &server).await?;
        if let Err(denied) = self.allows(&connection.parameters) {
            // It has done nothing yet: a process that does not end by itself would be a wonder.
            let _ = server::close(connection).await;
            return Err(denied);
        }
        if self.parameters.borrow().as_deref() != Some(&connection.parameters) {
            self.parameters
                .replace(Some(Rc::new(connection.parameters.clone())));
            self.greetings.borrow_mut().clear();
        }
        Ok((connection, server))
    }

    /// Asks the server what a person's role is. A walsender is asked nothing: who has one can replicate.
    async fn learn_powers(
        &self,
        connection: &mut Connection,
        server: &Server,
    ) -> Result<(), CheckoutError> {
        if self.key.principal.person().is_none() {
            return Ok(());
        }
        let is_privileged = match self.key.service {
            Service::Queries => server::is_privileged(connection, server.connect_timeout)
                .await
                .map_err(|error| CheckoutError::Connect(Rc::new(error)))?,
            Service::Walsender { .. } => true,
        };
        self.is_privileged.set(is_privileged);
        Ok(())
    }

    /// Whether the server says that a person's role has powers beyond its own tables.
    pub fn is_privileged(&self) -> bool {
        self.is_privileged.get()
    }

    /// Whether what the server itself says speaks against a person's session: it is too old, or the role is a
    /// privileged one.
    pub fn allows(&self, parameters: &ParameterStatuses) -> Result<(), CheckoutError> {
        if self.key.principal.person().is_none() {
            return Ok(());
        }
        let needed = self.tenant.shared.min_server_version;
        let denial = match parameters.server_major() {
            Some(version) if version < needed => Denial::ServerTooOld { version, needed },
            Some(_) | None
                if (self.is_privileged() || parameters.get("is_superuser") == Some("on"))
                    && !self.tenant.allows_privileged_roles() =>
            {
                Denial::PrivilegedRole
            }
            Some(_) | None => return Ok(()),
        };
        let role = self.key.role.clone();
        Err(CheckoutError::Denied { role, denial })
    }

    /// Lifetimes are spread over ±10 %, so that backends opened together do not close together.
    fn retirement(&self) -> Instant {
        let lifetime = self.tenant.shared.settings.lifetime;
        Instant::now() + lifetime.mul_f64(rand::rng().random_range(0.9..1.1))
    }

    fn enter_queue(&self, waiter: &Rc<Waiter>) {
        self.waiters.borrow_mut().push_back(Rc::clone(waiter));
        self.tenant.count_waiters(self, 1);
    }

    fn leave_queue(&self, waiter: &Rc<Waiter>) {
        let mut waiters = self.waiters.borrow_mut();
        if let Some(index) = waiters.iter().position(|other| Rc::ptr_eq(other, waiter)) {
            waiters.remove(index);
            self.tenant.count_waiters(self, -1);
        }
    }

    fn next_waiter(&self) -> Option<Rc<Waiter>> {
        let waiter = self.waiters.borrow_mut().pop_front()?;
        self.tenant.count_waiters(self, -1);
        Some(waiter)
    }

    /// Takes those out of the queue whom `told` answers something for their patience.
    fn remove_waiters<T>(&self, told: impl Fn(Duration) -> Option<T>) -> Vec<(Rc<Waiter>, T)> {
        let mut removed = Vec::new();
        self.waiters.borrow_mut().retain(|waiter| {
            let told = told(waiter.patience);
            let stays = told.is_none();
            removed.extend(told.map(|told| (Rc::clone(waiter), told)));
            stays
        });
        let count = isize::try_from(removed.len()).unwrap_or(isize::MAX);
        self.tenant.count_waiters(self, -count);
        removed
    }

    /// How long the first in the queue has waited.
    fn first_waiter(&self) -> Option<Instant> {
        self.waiters.borrow().front().map(|waiter| waiter.since)
    }

    fn is_in_use(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1 || self.open.get() > 0
    }
}
