//! Limits: how many, and for how long.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::json;

use crate::support::{
    Client, Fixture,
    login::startup,
    postgres::{PASSWORD_ROLE, SWARM_ROLE},
    sluice::Settings,
    until,
    wire::SocketOptions,
};

fn wait_until_nothing_runs(fixture: &Fixture) {
    until("nothing runs on", || {
        let backends = fixture.backends();
        backends.iter().all(|backend| backend.state != "active")
    });
}

#[test]
fn the_tenants_limit_on_clients_is_told_with_its_value() {
    let fixture = Fixture::with_tenant(json!({ "max_clients": 3 }));
    let mut clients: Vec<Client> = (0..3).map(|_| fixture.password_client().unwrap()).collect();
    let fault = fixture.password_client().err().expect("a refusal");
    assert_eq!(fault.code, "53300", "{fault:?}");
    let told = format!("{} {}", fault.message, fault.detail.unwrap_or_default());
    assert!(told.contains('3'), "{told}");
    clients.pop();
    until("the place is free again", || {
        fixture.password_client().is_ok()
    });
}

#[test]
fn the_overall_limit_holds_over_all_tenants() {
    let fixture = Fixture::with(Settings::default().set("limits.clients", 3));
    let other = fixture.tenant.clone() + "-other";
    fixture.add_tenant(&other, json!({}));
    let there = fixture.password_login().user(&format!("app_user.{other}"));
    let _two = [fixture.password_client().unwrap(), there.open().unwrap()];
    let _third = there.open().unwrap();
    let fault = fixture.password_client().err().expect("a refusal");
    assert_eq!(fault.code, "53300", "{fault:?}");
}

#[test]
fn of_one_address_only_the_newest_connections_that_have_not_logged_in_stay() {
    // One thread takes clients in, so that their order is the order of their coming.
    let settings = Settings::default().set("listen.workers", 1);
    let fixture = Fixture::with(settings.set("limits.unauthenticated_per_address", 5));
    let from = |last| SocketOptions {
        source: Some(Ipv4Addr::new(127, 0, 0, last)),
        ..SocketOptions::default()
    };
    let port = fixture.sluice.port;
    let connect = |last| Client::connect_with(port, from(last)).unwrap();
    let mut bystander = connect(3);
    let mut logged_in: Vec<Client> = (0..10)
        .map(|_| {
            let mut login = fixture.role_login(SWARM_ROLE);
            login.socket = from(2);
            login.open().expect("those logged in do not count")
        })
        .collect();
    let mut silent: Vec<Client> = (0..8).map(|_| connect(2)).collect();
    // Who comes late, such as somebody with a password, is not kept out by those who say nothing.
    for oldest in &mut silent[..3] {
        oldest.receive_to_end();
    }
    for newest in &mut silent[3..] {
        assert!(
            newest.is_silent_for(Duration::from_millis(20)),
            "a connection within the limit was closed"
        );
    }
    assert!(
        bystander.is_silent_for(Duration::from_millis(20)),
        "another address is not concerned"
    );
    for client in &mut logged_in {
        assert_eq!(client.value("select 1"), "1");
    }
}

#[test]
fn behind_a_balancer_each_clients_own_address_is_limited() {
    let trusted = toml::Value::Array(vec!["127.0.0.1/32".into()]);
    let settings = Settings::default()
        .set("listen.workers", 1)
        .set("listen.proxy_protocol_from", trusted)
        .set("limits.unauthenticated_per_address", 3);
    let fixture = Fixture::with(settings);
    let connect = |last: u8| {
        let mut client = Client::connect(fixture.sluice.port).unwrap();
        client.send(format!(
            "PROXY TCP4 203.0.113.{last} 192.0.2.1 4711 6543\r\n"
        ));
        client
    };
    let mut quiet: Vec<Client> = (1..=4).map(connect).collect();
    let mut crowd: Vec<Client> = (0..4).map(|_| connect(9)).collect();
    crowd[0].receive_to_end();
    for client in quiet.iter_mut().chain(&mut crowd[1..]) {
        assert!(
            client.is_silent_for(Duration::from_millis(20)),
            "a connection within its address's limit was closed"
        );
    }
}

#[test]
fn an_idle_client_is_sent_away_in_time() {
    let fixture = Fixture::with(Settings::default().set("timeouts.idle", "1s"));
    let mut client = fixture.password_client().unwrap();
    client
        .query("select pg_sleep(1.5)")
        .expect("a busy client is not idle");
    let began = Instant::now();
    let fault = client.farewell();
    assert_eq!(fault.code, "57P05", "{fault:?}");
    assert!(began.elapsed() > Duration::from_millis(900));
}

#[test]
fn a_client_idle_in_its_transaction_is_sent_away_and_its_work_undone() {
    let fixture = Fixture::with(Settings::default().set("timeouts.idle_in_transaction", "1s"));
    let mut client = fixture.password_client().unwrap();
    client.query("create table work (n int)").unwrap();
    assert!(
        client.is_silent_for(Duration::from_millis(1500)),
        "an idle client is not concerned"
    );
    client.query("begin").unwrap();
    client.query("insert into work values (1)").unwrap();
    assert_eq!(client.farewell().code, "25P03");
    let mut next = fixture.password_client().unwrap();
    assert_eq!(next.value("select count(*) from work"), "0");
    assert!(
        fixture
            .backends()
            .iter()
            .all(|backend| backend.state != "idle in transaction")
    );
}

#[test]
fn a_query_that_takes_too_long_is_cancelled() {
    let fixture = Fixture::with(Settings::default().set("timeouts.query", "1s"));
    let mut client = fixture.password_client().unwrap();
    let fault = client.query("select pg_sleep(600)").unwrap_err();
    assert_eq!((&*fault.severity, &*fault.code), ("ERROR", "57014"));
    assert_eq!(
        fault.message,
        "canceling statement due to statement timeout"
    );
    // As with PostgreSQL's own limit the session goes on, an open transaction as a failed one.
    assert_eq!(client.value("select 1"), "1");
    client.query("begin").unwrap();
    client.query("select pg_sleep(600)").unwrap_err();
    assert_eq!(client.query("select 1").unwrap_err().code, "25P02");
    client.query("rollback").unwrap();
    wait_until_nothing_runs(&fixture);
}

#[test]
fn a_query_that_its_client_cancels_in_time_is_not_said_to_have_taken_too_long() {
    let fixture = Fixture::with(Settings::default().set("timeouts.query", "10s"));
    let mut client = fixture.password_client().unwrap();
    client.start("select pg_sleep(600)");
    fixture.running("pg_sleep");
    crate::cancel::cancel(fixture.sluice.port, client.cancel_key.as_ref().unwrap());
    let fault = client.answer().unwrap_err();
    assert_eq!(fault.message, "canceling statement due to user request");
}

#[test]
fn a_query_that_does_not_heed_its_cancel_is_ended_with_its_session() {
    let fixture = Fixture::with(Settings::default().set("timeouts.query", "1s"));
    let mut client = fixture.password_client().unwrap();
    client.start(
        "do $$ begin loop begin perform pg_sleep(600); exception when query_canceled then null; end; end loop; end $$",
    );
    let fault = client.farewell();
    assert_eq!((&*fault.severity, &*fault.code), ("FATAL", "57014"));
    wait_until_nothing_runs(&fixture);
}

#[test]
fn a_transaction_that_takes_too_long_is_ended_although_it_is_never_idle() {
    let fixture = Fixture::with(Settings::default().set("timeouts.transaction", "1s"));
    let mut client = fixture.password_client().unwrap();
    client.query("begin").unwrap();
    client.start(&"select pg_sleep(0.1);".repeat(100));
    let fault = client.farewell();
    assert_eq!(fault.code, "25P04", "{fault:?}");
    assert_eq!(
        fault.message,
        "terminating connection due to transaction timeout"
    );
}

#[test]
fn who_waits_too_long_for_a_backend_is_told_for_how_long() {
    let settings = Settings::default().set("pool.size", 1);
    let fixture = Fixture::with(settings.set("timeouts.queue", "1s"));
    let mut busy = fixture.password_client().unwrap();
    busy.query("begin").unwrap();
    let mut waiting = fixture.password_client().unwrap();
    waiting.start("select 1");
    let fault = waiting.farewell();
    assert_eq!(fault.code, "53300");
    assert_eq!(fault.message, "no connection became available within 1s");
}

#[test]
fn a_tenants_own_limits_of_time_come_before_the_configured_ones() {
    let settings = Settings::default()
        .set("pool.size", 1)
        .set("timeouts.query", "1s")
        .set("timeouts.idle", "1s");
    let fixture = Fixture::with(settings);
    let own = json!({ "query": "off", "idle": "off", "transaction": "2s", "idle_in_transaction": "1s", "queue": "2s" });
    let path = format!("/v1/tenants/{}", fixture.tenant);
    fixture
        .sluice
        .admin
        .patch(&path, json!({ "timeouts": own }));
    let other = format!("{}-other", fixture.tenant);
    fixture.add_tenant(&other, json!({}));
    let mut client = fixture.password_client().unwrap();
    assert!(client.is_silent_for(Duration::from_millis(1500)));
    client.query("select pg_sleep(1.5)").unwrap();
    let fault = client.query("select pg_sleep(600)").unwrap_err();
    assert_eq!(fault.code, "25P04", "{fault:?}");
    let mut busy = fixture.password_client().unwrap();
    busy.query("begin").unwrap();
    assert_eq!(busy.farewell().code, "25P03");
    let mut busy = fixture.password_client().unwrap();
    busy.start("select pg_sleep(600)");
    fixture.running("pg_sleep");
    let mut waiting = fixture.password_client().unwrap();
    waiting.start("select 1");
    let ends = [busy.farewell(), waiting.answer().err().unwrap_or_default()];
    assert_eq!(ends[0].code, "25P04", "{ends:?}");

    let login = fixture.password_login().user(&format!("app_user.{other}"));
    let mut client = login.open().unwrap();
    assert_eq!(
        client.query("select pg_sleep(600)").unwrap_err().code,
        "57014"
    );
    assert_eq!(
        client.farewell().code,
        "57P05",
        "another tenant has its own"
    );
}

#[test]
fn a_tenants_limits_of_time_are_set_and_shown_by_command() {
    let fixture = Fixture::start();
    let set = |timeout: &str| {
        fixture
            .sluice
            .cli(&["tenant", "set", &fixture.tenant, "--timeout", timeout]);
        fixture.sluice.cli(&["tenant", "show", &fixture.tenant])
    };
    assert!(set("query=30s").contains("query=30s"));
    assert!(set("idle=off").contains("idle=off, query=30s"));
    assert!(!set("query=").contains("query=30s"));
    let refused = fixture.sluice.admin.call(
        Method::PATCH,
        &format!("/v1/tenants/{}", fixture.tenant),
        Some(json!({ "timeouts": { "query": "soon" } })),
    );
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.text.contains("timeouts.query"), "{refused:?}");
}

#[test]
fn a_message_longer_than_a_login_needs_is_refused_unread() {
    let fixture = Fixture::start();
    let login = fixture.password_login();
    for length in [100_000_u32, 0x7fff_ffff, 3] {
        let mut client = login.connect();
        client.send(startup(login.version, &login.parameters));
        client.receive();
        client.send(b"p");
        client.send(length.to_be_bytes());
        assert_eq!(client.farewell().code, "08P01", "{length}");
    }
}

#[test]
fn the_limits_that_postgresql_has_for_a_role_hold_for_that_role_alone() {
    let fixture = Fixture::start();
    for setting in ["statement_timeout", "idle_in_transaction_session_timeout"] {
        fixture.cluster.run(&format!(
            "alter role {PASSWORD_ROLE} in database {} set {setting} = '300ms'",
            fixture.database
        ));
    }
    let mut limited = fixture.password_client().unwrap();
    let fault = limited.query("select pg_sleep(60)").unwrap_err();
    assert_eq!(fault.code, "57014", "{fault:?}");
    limited.query("begin").unwrap();
    let fault = limited.farewell();
    assert_eq!((&*fault.severity, &*fault.code), ("FATAL", "25P03"));
    let mut other = fixture.role_login(SWARM_ROLE).open().unwrap();
    other.query("begin").unwrap();
    assert!(other.is_silent_for(Duration::from_millis(500)));
    assert!(other.query("select pg_sleep(0.5)").is_ok());
}
