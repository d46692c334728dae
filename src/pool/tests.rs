//! Pools against a server that logs everybody in and then listens only.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
    time::timeout,
};
use zeroize::Zeroizing;

use super::*;
use crate::{
    catalog::{
        self,
        types::{BackendTls, Revision, Tenant as Record, TenantAt},
    },
    config::{self, Config, Secret},
    names::{DatabaseName, PersonId, TenantRef, TokenId},
    net::client_tls::ClientTlsError,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// The server's side: how many connections it has, and how many it has had.
#[derive(Default)]
struct Counts {
    open: Cell<u32>,
    accepted: Cell<u32>,
}

/// One worker's pools and the server they lead to.
struct World {
    config: Config,
    pools: Pools,
    port: u16,
    counts: Rc<Counts>,
}

impl World {
    async fn new(overall: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Rc::<Counts>::default();
        spawn_local(listen(listener, Rc::clone(&counts)));
        let config = Config::new(Secret::new([0; 32]), Secret::new(String::new()));
        let settings = config::Pool {
            overall_budget: overall,
            ..config.pool
        };
        Self {
            config,
            pools: Pools::new(settings, OverallBudget::new(overall), 17),
            port,
            counts,
        }
    }

    fn record(&self) -> TenantAt {
        let record = Record {
            port: self.port,
            backend_tls: BackendTls::Disable,
            ..catalog::tests::tenant("demo")
        };
        TenantAt {
            record: Arc::new(record),
            revision: Revision(1),
        }
    }

    fn tenant(&self, budget: u32) -> Rc<TenantPools> {
        let sizes = Sizes {
            pool: 10,
            budget,
            auth_query: 1,
        };
        let record = self.record();
        let made = self
            .pools
            .tenant(&record, sizes, || self.server(&record.record));
        made.unwrap()
    }

    fn server(&self, tenant: &Record) -> Result<Server, ClientTlsError> {
        Server::of(tenant, &self.config)
    }

    async fn until(&self, open: u32) {
        let reached = async {
            while self.counts.open.get() != open {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reached).await.unwrap();
    }
}

async fn listen(listener: TcpListener, counts: Rc<Counts>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        counts.open.set(counts.open.get() + 1);
        counts.accepted.set(counts.accepted.get() + 1);
        spawn_local(attend(socket, Rc::clone(&counts)));
    }
}

/// Logs a client in and stays until it says goodbye.
async fn attend(mut socket: TcpStream, counts: Rc<Counts>) {
    let length = socket.read_u32().await.unwrap();
    let mut startup = vec![0; length as usize - 4];
    socket.read_exact(&mut startup).await.unwrap();
    let mut greeting = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c".to_vec();
    greeting.extend_from_slice(&counts.accepted.get().to_be_bytes());
    greeting.extend_from_slice(b"fourZ\0\0\0\x05I");
    socket.write_all(&greeting).await.unwrap();
    // The one question that comes: is a person's role a privileged one?
    while socket.read_u8().await.is_ok_and(|tag| tag == b'Q') {
        let length = socket.read_u32().await.unwrap();
        let mut question = vec![0; length as usize - 4];
        socket.read_exact(&mut question).await.unwrap();
        let answer = b"D\0\0\0\x0f\0\x01\0\0\0\x05falseC\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I";
        socket.write_all(answer).await.unwrap();
    }
    counts.open.set(counts.open.get() - 1);
}

fn pool(tenant: &Rc<TenantPools>, role: &str, principal: Principal) -> Rc<Pool> {
    let key = PoolKey {
        tenant: TenantRef::parse("demo").unwrap(),
        database: DatabaseName::postgres(),
        role: RoleName::parse(role).unwrap(),
        principal,
        service: Service::Queries,
    };
    tenant.pool(key, Login::Password(Zeroizing::new(String::new())))
}

async fn take(pool: &Rc<Pool>) -> Checkout {
    timeout(PATIENCE, pool.checkout(PATIENCE))
        .await
        .unwrap()
        .unwrap()
}

/// A client that waits in the queue of `pool`.
async fn wait(pool: &Rc<Pool>) -> tokio::task::JoinHandle<Checkout> {
    let waiting = spawn_local({
        let pool = Rc::clone(pool);
        async move { take(&pool).await }
    });
    while pool.first_waiter().is_none() {
        tokio::task::yield_now().await;
    }
    waiting
}

async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_equal_record_is_no_change_and_another_server_retires_the_pools() {
    local(async {
        let world = World::new(10).await;
        let tenant = world.tenant(10);
        let pool = pool(&tenant, "app", Principal::Password);
        take(&pool).await.release();
        let unasked = || -> Result<Server, ClientTlsError> { panic!("the server was made again") };
        let same = world.pools.tenant(&world.record(), tenant.sizes(), unasked);
        assert!(Rc::ptr_eq(&same.unwrap(), &tenant));
        assert_eq!(world.counts.open.get(), 1);

        let moved = TenantAt {
            record: Arc::new(Record {
                host: "localhost".to_owned(),
                ..(*world.record().record).clone()
            }),
            revision: Revision(2),
        };
        let sizes = tenant.sizes();
        let changed = world
            .pools
            .tenant(&moved, sizes, || world.server(&moved.record));
        assert!(changed.is_ok());
        world.until(0).await;
        // A login that has read the tenant before the change comes last.
        let late = world.pools.tenant(&world.record(), sizes, unasked);
        assert!(late.is_ok());
    })
    .await;
}

fn settings(n: u32) -> Rc<Settings> {
    let one = [("work_mem".to_owned(), n.to_string())];
    Rc::new(one.into_iter().collect())
}

#[tokio::test]
async fn predictions_are_remembered_while_few_are_and_never_in_the_place_of_what_was_asked() {
    local(async {
        let world = World::new(10).await;
        let pool = pool(&world.tenant(10), "app", Principal::Password);
        let parameters = Rc::<ParameterStatuses>::default();
        let is_known = |n: u32| pool.greeting(&settings(n)).is_some();
        pool.remember_greeting(settings(0), Rc::clone(&parameters));
        for n in 1..100 {
            pool.remember_prediction(&settings(n), &parameters);
        }
        assert!(is_known(0) && is_known(1) && !is_known(99));
        pool.remember_greeting(settings(99), parameters);
        assert!(is_known(0) && is_known(99));
    })
    .await;
}

#[tokio::test]
async fn equal_settings_are_shared_and_those_that_nobody_has_are_forgotten() {
    local(async {
        let world = World::new(10).await;
        let pool = pool(&world.tenant(10), "app", Principal::Password);
        let kept = pool.shared_settings(settings(0));
        for n in 1..1000 {
            drop(pool.shared_settings(settings(n)));
        }
        assert!(Rc::ptr_eq(&kept, &pool.shared_settings(settings(0))));
        assert!(pool.settings.borrow().len() < 10);
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_a_lost_cancel_may_hit_is_not_handed_on() {
    local(async {
        let world = World::new(10).await;
        let pool = pool(&world.tenant(10), "app", Principal::Password);
        let mut first = take(&pool).await;
        let pid = first.backend().pid();
        first.backend().cancels().announce().delivered();
        first.release();
        let mut again = take(&pool).await;
        assert_eq!(again.backend().pid(), pid);
        drop(again.backend().cancels().announce());
        again.release();
        assert_ne!(take(&pool).await.backend().pid(), pid);
    })
    .await;
}

#[tokio::test]
async fn what_is_outside_the_budget_does_not_wait_for_it_nor_pay_for_it() {
    local(async {
        let world = World::new(10).await;
        let tenant = world.tenant(1);
        let holder = take(&pool(&tenant, "app", Principal::Password)).await;
        let waiting = wait(&pool(&tenant, "other", Principal::Password)).await;
        let lookups = pool(&tenant, "sluice_auth", Principal::AuthQuery);
        take(&lookups).await.release();
        // Released with somebody waiting elsewhere, it stays what it is.
        assert!(lookups.try_checkout().is_some());
        assert!(!waiting.is_finished());
        holder.release();
        waiting.await.unwrap().release();
    })
    .await;
}

#[tokio::test]
async fn a_place_that_comes_free_serves_the_next_waiter_at_once() {
    local(async {
        let world = World::new(1).await;
        let tenant = world.tenant(10);
        let holder = take(&pool(&tenant, "app", Principal::Password)).await;
        let waiting = wait(&pool(&tenant, "other", Principal::Password)).await;
        holder.release();
        // Nothing ticks here: only the place itself can wake the waiter.
        waiting.await.unwrap().release();
        assert_eq!(world.counts.accepted.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn retiring_a_pool_closes_what_is_idle_and_what_comes_back() {
    local(async {
        let world = World::new(10).await;
        let pool = pool(&world.tenant(10), "app", Principal::Password);
        let (lent, idle) = (take(&pool).await, take(&pool).await);
        idle.release();
        assert_eq!(pool.retire_all().1.await, 0);
        assert_eq!(world.counts.open.get(), 1);
        lent.release();
        world.until(0).await;
    })
    .await;
}

#[tokio::test]
async fn a_token_is_kept_while_somebody_is_there_and_no_longer() {
    local(async {
        let world = World::new(10).await;
        let tenant = world.tenant(10);
        let person = PersonId::generate();
        let principal = Principal::Token(person, TokenId::parse("abcdefghijkl").unwrap());
        let session = pool(&tenant, "app", principal);
        take(&session).await.release();
        let token = Login::Token(Some(Zeroizing::new("slp_".to_owned())));
        drop(tenant.pool(session.key.clone(), token));
        let is_kept = || {
            let pools = tenant.pools.borrow();
            matches!(
                &*pools.values().next().unwrap().login.borrow(),
                Login::Token(Some(_))
            )
        };
        world.pools.keep_house(Instant::now());
        assert!(is_kept());
        // Its idle backend stays; nobody is left who would need another one.
        drop(session);
        world.pools.keep_house(Instant::now());
        assert!(!is_kept());
    })
    .await;
}
