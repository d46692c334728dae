//! Backends: how many, for whom, in which order, and for how long.

use std::{
    collections::HashSet,
    thread,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::json;

use crate::support::{
    Client, Fixture,
    login::Login,
    postgres::{AUTH_ROLE, PASSWORD_ROLE, SECRET_ROLE},
    sluice::Settings,
    until,
};

/// A client that holds a backend until its transaction ends.
fn holder(login: &Login) -> Client {
    let mut client = login.open().unwrap();
    client.query("begin").unwrap();
    client
}

fn pid(client: &mut Client) -> String {
    client.value("select pg_backend_pid()")
}

#[test]
fn many_clients_share_few_backends() {
    let fixture = Fixture::with(Settings::default().set("pool.size", 3));
    let mut clients: Vec<Client> = (0..30)
        .map(|_| fixture.password_client().unwrap())
        .collect();
    let pids: HashSet<String> = clients.iter_mut().map(pid).collect();
    assert!(pids.len() <= 3, "{pids:?}");
    assert!(fixture.backends().len() <= 3);
}

#[test]
fn an_idle_client_holds_no_backend_and_one_in_a_transaction_does() {
    let fixture = Fixture::with_one_backend();
    let login = fixture.password_login();
    let mut idle = login.open().unwrap();
    idle.query("select 1").unwrap();
    let mut busy = holder(&login);
    let own = pid(&mut busy);
    idle.start("select pg_backend_pid()");
    assert!(
        idle.is_silent_for(Duration::from_millis(200)),
        "served beside an open transaction"
    );
    assert_eq!(pid(&mut busy), own);
    busy.query("commit").unwrap();
    assert_eq!(idle.answer().unwrap().rows[0][0].as_deref(), Some(&*own));
}

#[test]
fn waiting_clients_are_served_in_the_order_they_came() {
    let fixture = Fixture::with_one_backend();
    let login = fixture.password_login();
    fixture
        .cluster
        .superuser(&fixture.database)
        .query(
            "create table turns (at serial, who int); grant all on turns, turns_at_seq to public",
        )
        .unwrap();
    let mut busy = holder(&login);
    let mut waiting = Vec::new();
    for who in 0..5 {
        let mut client = login.open().unwrap();
        client.start(&format!("insert into turns (who) values ({who})"));
        waiting.push(client);
        until("it waits", || waiting_sessions(&fixture) == who + 1);
    }
    busy.query("commit").unwrap();
    for client in &mut waiting {
        client.answer().unwrap();
    }
    let order = busy.value("select string_agg(who::text, ',' order by at) from turns");
    assert_eq!(order, "0,1,2,3,4");
}

fn waiting_sessions(fixture: &Fixture) -> usize {
    let sessions = fixture.sluice.admin.sessions(&fixture.tenant);
    sessions
        .iter()
        .filter(|session| session["state"] == "waiting")
        .count()
}

#[test]
fn an_operator_sees_each_pool_with_its_backends_and_who_waits() {
    let fixture = Fixture::with_one_backend();
    let person = fixture.granted("first");
    let mut own = fixture.token_client(&person).unwrap();
    own.query("select 1").unwrap();
    let login = fixture.password_login();
    let mut busy = holder(&login);
    let mut waiting = login.open().unwrap();
    waiting.start("select 1");
    until("it waits", || waiting_sessions(&fixture) == 1);

    let path = format!("/v1/pools?tenant={}", fixture.tenant);
    let pools = fixture.sluice.admin.get(&path)["pools"].clone();
    let of_kind = |kind: &str| {
        let pools = pools.as_array().unwrap();
        let found: Vec<_> = pools.iter().filter(|pool| pool["kind"] == kind).collect();
        assert_eq!(found.len(), 1, "{kind}: {pools:?}");
        let pool = found[0];
        let counts = ["size", "idle", "in_use", "changing", "waiting"];
        (
            pool.clone(),
            counts.map(|name| pool[name].as_u64().unwrap()),
        )
    };
    let (pool, counts) = of_kind("password");
    assert_eq!(counts, [1, 0, 1, 0, 1], "{pool}");
    assert!(pool["longest_wait_ms"].as_f64().unwrap() > 0.0, "{pool}");
    let (pool, counts) = of_kind("person");
    assert_eq!(counts, [1, 1, 0, 0, 0], "{pool}");
    assert_eq!(pool["person"], person.id.as_str());
    assert_eq!(pool["longest_wait_ms"], json!(null));

    let shown = fixture
        .sluice
        .cli(&["pool", "list", "--tenant", &fixture.tenant]);
    let email = pool["email"].as_str().unwrap();
    assert!(shown.contains(email), "{shown}");
    let gauge = format!("sluice_clients_waiting{{tenant=\"{}\"}}", fixture.tenant);
    let told = |count: u32| {
        let metrics = fixture.sluice.admin.call(Method::GET, "/metrics", None);
        metrics.text.contains(&format!("{gauge} {count}\n"))
    };
    until("the metrics have who waits", || told(1));
    busy.query("commit").unwrap();
    waiting.answer().unwrap();
    until("nobody waits any more", || told(0));
    assert_eq!(
        fixture.sluice.admin.get("/v1/pools?tenant=other")["pools"],
        json!([])
    );
}

#[test]
fn a_client_that_no_backend_becomes_free_for_is_told_so_in_time() {
    let settings = Settings::default()
        .set("pool.size", 1)
        .set("timeouts.queue", "500ms");
    let fixture = Fixture::with(settings);
    let login = fixture.password_login();
    let mut busy = holder(&login);
    let mut waiting = login.open().unwrap();
    let began = Instant::now();
    let fault = waiting.query("select 1").unwrap_err();
    assert_eq!(fault.code, "53300", "{fault:?}");
    assert!(
        fault
            .message
            .contains("no connection became available within"),
        "{fault:?}"
    );
    // The clock that watches over waiting clients ticks ten times a second.
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert_eq!(busy.value("select 1"), "1");
}

#[test]
fn the_tenants_budget_holds_over_its_pools_and_idle_backends_change_hands() {
    let fixture = Fixture::with_tenant(json!({ "pool_size": 4, "backend_budget": 4 }));
    let password = fixture.password_login();
    let person = fixture.granted("first");
    let token = fixture.token_login(&person);
    // The password pool takes the whole budget and lets it lie idle.
    let mut clients: Vec<Client> = (0..4).map(|_| holder(&password)).collect();
    for client in &mut clients {
        client.query("commit").unwrap();
    }
    assert_eq!(fixture.backends().len(), 4);
    // The other pool needs some: it takes idle ones away.
    let mut people: Vec<Client> = (0..3).map(|_| holder(&token)).collect();
    until("the budget is kept", || fixture.backends().len() <= 4);
    let of_person = fixture
        .backends()
        .iter()
        .filter(|backend| backend.user != PASSWORD_ROLE)
        .count();
    assert_eq!(of_person, 3);
    // Nothing is idle any more: the next release in the tenant serves whoever waits, in whichever pool.
    let mut last = holder(&password);
    let mut waiting = token.open().unwrap();
    waiting.start("select 1");
    assert!(waiting.is_silent_for(Duration::from_millis(200)));
    last.query("commit").unwrap();
    assert_eq!(waiting.answer().unwrap().rows.len(), 1);
    assert!(fixture.backends().len() <= 4);
    for client in &mut people {
        client.query("commit").unwrap();
    }
}

#[test]
fn one_tenants_flood_does_not_change_what_another_sees() {
    let fixture = Fixture::with(Settings::default().set("timeouts.queue", "5s"));
    let flooded = fixture.tenant.clone() + "-flooded";
    fixture.add_tenant(&flooded, json!({ "pool_size": 1, "backend_budget": 1 }));
    let flood = fixture
        .password_login()
        .user(&format!("{PASSWORD_ROLE}.{flooded}"));
    let mut busy = holder(&flood);
    let mut queue: Vec<Client> = (0..50).map(|_| flood.open().unwrap()).collect();
    for client in &mut queue {
        client.start("select 1");
    }
    let mut client = fixture.password_client().unwrap();
    for _ in 0..20 {
        let began = Instant::now();
        client.query("select 1").unwrap();
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    busy.query("commit").unwrap();
}

#[test]
fn a_backend_that_nobody_uses_is_closed() {
    let fixture = Fixture::with(Settings::default().set("pool.idle_timeout", "1s"));
    let mut client = fixture.password_client().unwrap();
    client.query("select 1").unwrap();
    assert_eq!(fixture.backends().len(), 1);
    until("the idle backend is closed", || {
        fixture.backends().is_empty()
    });
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn a_backend_that_is_old_is_replaced() {
    let fixture = Fixture::with(Settings::default().set("pool.lifetime", "1s"));
    let mut client = fixture.password_client().unwrap();
    let first = pid(&mut client);
    until("another backend serves", || pid(&mut client) != first);
    until("the old one is gone", || !fixture.cluster.is_alive(&first));
}

#[test]
fn a_backend_that_dies_while_idle_is_no_clients_problem() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    for _ in 0..10 {
        let victim = pid(&mut client);
        fixture
            .cluster
            .run(&format!("select pg_terminate_backend({victim}, 5000)"));
        assert_ne!(pid(&mut client), victim);
    }
}

#[test]
fn a_backend_that_dies_under_a_client_is_reported_and_the_pool_goes_on() {
    let fixture = Fixture::start();
    let mut client = holder(&fixture.password_login());
    let victim = pid(&mut client);
    fixture
        .cluster
        .run(&format!("select pg_terminate_backend({victim}, 5000)"));
    let fault = client.query("select 1").unwrap_err();
    assert!(
        !fault.code.is_empty(),
        "the client was dropped without a word"
    );
    assert_eq!(fixture.password_client().unwrap().value("select 1"), "1");
}

#[test]
fn clients_of_one_pool_come_together_whichever_thread_took_them_in() {
    let settings = Settings::default()
        .set("pool.size", 1)
        .set("listen.workers", 4);
    let fixture = Fixture::with(settings);
    let login = fixture.password_login();
    let pids: HashSet<String> = thread::scope(|scope| {
        let logins: Vec<_> = (0..24)
            .map(|_| scope.spawn(|| pid(&mut login.open().unwrap())))
            .collect();
        logins
            .into_iter()
            .map(|login| login.join().unwrap())
            .collect()
    });
    assert_eq!(pids.len(), 1, "{pids:?}");
}

#[test]
fn logins_are_decided_while_the_tenants_budget_is_spent_and_waited_for() {
    let fixture = Fixture::with_tenant(json!({ "pool_size": 4, "backend_budget": 1 }));
    let login = fixture.password_login();
    let mut busy = holder(&login);
    let mut waiting = login.open().unwrap();
    waiting.start("select 1");
    fixture.wait_for_state("waiting");
    let of_auth_role = format!(
        "from pg_stat_activity where datname = '{}' and usename = '{AUTH_ROLE}'",
        fixture.database
    );
    let cluster = fixture.cluster;
    cluster.run(&format!(
        "select pg_terminate_backend(pid, 5000) {of_auth_role}"
    ));
    // The pooler has to ask for this role's verifier, on a backend that it does not have yet.
    let began = Instant::now();
    let wrong = fixture.role_login(SECRET_ROLE).password("wrong").open();
    assert_eq!(wrong.err().unwrap().code, "28P01");
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        cluster.value(&format!("select count(*) {of_auth_role}")),
        "1"
    );
    // Nor does the tenant's load take that backend away.
    assert!(waiting.is_silent_for(Duration::from_millis(300)));
    assert_eq!(
        cluster.value(&format!("select count(*) {of_auth_role}")),
        "1"
    );
    busy.query("commit").unwrap();
    assert_eq!(waiting.answer().unwrap().rows.len(), 1);
}

#[test]
fn idle_backends_of_one_tenant_make_room_for_another_when_the_overall_budget_is_spent() {
    let settings = Settings::default()
        .set("pool.overall_budget", 4)
        .set("pool.tenant_budget", 4)
        .set("pool.size", 4)
        .set("listen.workers", 4);
    let fixture = Fixture::with(settings);
    let others: Vec<String> = (0..3).map(|n| format!("{}-{n}", fixture.tenant)).collect();
    for other in &others {
        fixture.add_tenant(other, json!({}));
    }
    let login = fixture.password_login();
    for tenant in others.iter().chain([&fixture.tenant]) {
        let began = Instant::now();
        let login = login.clone().user(&format!("{PASSWORD_ROLE}.{tenant}"));
        let mut clients: Vec<Client> = (0..3).map(|_| login.open().unwrap()).collect();
        for client in &mut clients {
            client.query("begin").unwrap();
        }
        assert!(fixture.backends().len() <= 4);
        for client in &mut clients {
            client.query("commit").unwrap();
        }
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
    }
}
