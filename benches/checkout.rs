//! What it costs to get a backend and to give it back: with one idle, and with ten clients for each.
#![allow(clippy::expect_used)]

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use sluice::{
    backend::Server,
    catalog::types::{Revision, TenantAt},
    config::{self, Config, Secret},
    names::{DatabaseName, RoleName, TenantRef},
    pool::{Checkout, Login, OverallBudget, Pool, PoolKey, Pools, Principal, Service, Sizes},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::{LocalSet, spawn_local},
};
use zeroize::Zeroizing;

const SIZE: u32 = 20;
const CLIENTS: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(5);

/// Logs everybody in and then listens only.
async fn serve(listener: TcpListener) {
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        spawn_local(attend(socket));
    }
}

async fn attend(mut socket: TcpStream) -> std::io::Result<()> {
    let length = socket.read_u32().await?;
    let mut startup = vec![0; length as usize - 4];
    socket.read_exact(&mut startup).await?;
    socket
        .write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01fourZ\0\0\0\x05I")
        .await?;
    socket.read_u8().await.map(drop)
}

/// A pool before a server of its own.
async fn pool() -> Rc<Pool> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    spawn_local(serve(listener));
    let config = Config::new(Secret::new([0; 32]), Secret::new(String::new()));
    let settings = config::Pool {
        overall_budget: SIZE,
        ..config.pool
    };
    let pools = Pools::new(settings, OverallBudget::new(SIZE), 17);
    let record = serde_json::json!({
        "ref": "demo", "name": "demo", "host": "127.0.0.1", "port": port, "backend_tls": "disable",
        "login": "role_secret", "client_tls": "allow", "token_access": "enabled", "privileged_roles": "refuse",
        "networks": [], "created_at": "2026-01-01T00:00:00Z",
    });
    let tenant = TenantAt {
        record: Arc::new(serde_json::from_value(record).expect("a tenant")),
        revision: Revision(1),
    };
    let sizes = Sizes {
        pool: SIZE,
        budget: SIZE,
        auth_query: 1,
    };
    let made = pools.tenant(&tenant, sizes, || Server::of(&tenant.record, &config));
    let tenant = made.expect("no certificate is read");
    let key = PoolKey {
        tenant: TenantRef::parse("demo").expect("a ref"),
        database: DatabaseName::postgres(),
        role: RoleName::parse("app").expect("a role"),
        principal: Principal::Password,
        service: Service::Queries,
    };
    tenant.pool(key, Login::Password(Zeroizing::new(String::new())))
}

async fn take(pool: &Rc<Pool>) -> Checkout {
    pool.checkout(PATIENCE).await.expect("a backend")
}

/// Opens all of the pool's backends.
async fn fill(pool: &Rc<Pool>) {
    let mut all = Vec::new();
    for _ in 0..SIZE {
        all.push(take(pool).await);
    }
    all.into_iter().for_each(Checkout::release);
}

fn runtime() -> (Runtime, LocalSet) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    (runtime.expect("a runtime"), LocalSet::new())
}

fn checkouts(criterion: &mut Criterion) {
    let (runtime, local) = runtime();
    let pool = local.block_on(&runtime, async {
        let pool = pool().await;
        fill(&pool).await;
        pool
    });
    let mut group = criterion.benchmark_group("checkout");
    group.bench_function("of an idle backend, and its release", |bencher| {
        bencher.iter_custom(|count| {
            local.block_on(&runtime, async {
                let since = Instant::now();
                for _ in 0..count {
                    take(&pool).await.release();
                }
                since.elapsed()
            })
        });
    });
    group.bench_function("after a wait behind nine others", |bencher| {
        bencher.iter_custom(|count| {
            local.block_on(&runtime, async {
                let since = Instant::now();
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|client| spawn_local(work(Rc::clone(&pool), share(count, client))))
                    .collect();
                for client in clients {
                    client.await.expect("a client");
                }
                since.elapsed()
            })
        });
    });
    group.finish();
}

/// How many of `count` checkouts are this client's.
fn share(count: u64, client: u64) -> u64 {
    count / CLIENTS + u64::from(client < count % CLIENTS)
}

/// A client that is served again and again, and holds its backend while others come to wait.
async fn work(pool: Rc<Pool>, count: u64) {
    for _ in 0..count {
        let checkout = take(&pool).await;
        tokio::task::yield_now().await;
        checkout.release();
    }
}

criterion_group!(benches, checkouts);
criterion_main!(benches);
