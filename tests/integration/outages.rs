//! Servers that end, restart, stay away or hang: who notices, and what they are told.

use std::{
    collections::HashSet,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::timeout;

use crate::support::{
    Client, Fixture, PATIENCE,
    postgres::{self, PASSWORD, PASSWORD_ROLE, SECRET_ROLE},
    sluice::{Settings, signal},
    until,
};

fn fixture(settings: Settings) -> Fixture {
    Fixture::on(postgres::own(), settings, json!({}))
}

#[test]
fn clients_between_transactions_notice_nothing_of_a_restart_but_a_pause() {
    let fixture = fixture(Settings::default());
    let login = fixture.password_login();
    let mut plain = login.open().unwrap();
    let mut special = login.open().unwrap();
    special.query("set search_path = elsewhere").unwrap();
    for mode in ["fast", "immediate"] {
        plain.query("select 1").unwrap();
        fixture.cluster.restart(mode);
        assert_eq!(special.value("show search_path"), "elsewhere", "{mode}");
        assert_eq!(plain.value("select 1"), "1", "{mode}");
    }
}

#[test]
fn who_asks_while_the_server_is_down_is_served_when_it_is_back() {
    let fixture = fixture(Settings::default().set("pool.size", 2));
    let login = fixture.password_login();
    let mut clients: Vec<Client> = (0..6).map(|_| login.open().unwrap()).collect();
    fixture.cluster.stop("fast");
    for client in &mut clients {
        client.start("select 'served'");
    }
    // Longer than the back-off: several attempts have failed by then.
    assert!(clients[0].is_silent_for(Duration::from_secs(2)));
    fixture.cluster.start_again();
    for client in &mut clients {
        let answer = client.answer().unwrap();
        assert_eq!(answer.rows[0][0].as_deref(), Some("served"));
    }
}

#[test]
fn clients_inside_a_transaction_are_told_what_the_server_said() {
    let fixture = fixture(Settings::default());
    for (mode, codes) in [
        ("fast", ["57P01", "57P01"]),
        ("immediate", ["57P02", "08006"]),
    ] {
        let mut client = fixture.password_client().unwrap();
        client.query("begin").unwrap();
        fixture.cluster.stop(mode);
        let fault = client.farewell();
        assert!(codes.contains(&fault.code.as_str()), "{mode}: {fault:?}");
        fixture.cluster.start_again();
        assert_eq!(fixture.password_client().unwrap().value("select 1"), "1");
    }
}

#[test]
fn a_server_that_stays_away_is_the_reason_told_and_later_at_once() {
    let settings = Settings::default()
        .set("timeouts.queue", "2s")
        .set("pool.connect_backoff", "500ms");
    let fixture = fixture(settings);
    let login = fixture.password_login();
    let mut clients: Vec<Client> = (0..4).map(|_| login.open().unwrap()).collect();
    fixture.cluster.stop("fast");
    let began = Instant::now();
    let mut waits = Vec::new();
    for client in &mut clients {
        let fault = client.query("select 1").unwrap_err();
        assert_eq!(fault.code, "08006", "{fault:?}");
        assert_eq!(fault.detail.as_deref(), Some("It cannot be reached."));
        waits.push(began.elapsed());
    }
    assert!(waits[0] >= Duration::from_millis(1500), "{waits:?}");
    assert!(waits[3] - waits[0] < Duration::from_secs(2), "{waits:?}");
    fixture.cluster.start_again();
    until("logins work again", || login.open().is_ok());
}

#[test]
fn what_waiting_cannot_change_is_told_at_once() {
    let fixture = Fixture::start();
    let cluster = fixture.cluster;
    let doomed = format!("{}_doomed", fixture.database);
    cluster.create_database(&doomed);
    let mut client = fixture.password_login().database(&doomed).open().unwrap();
    client.query("select 1").unwrap();
    cluster.run(&format!("drop database {doomed} with (force)"));
    let began = Instant::now();
    assert_eq!(client.query("select 1").unwrap_err().code, "3D000");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

/// A server that lets everybody in, answers one query, and says right behind the answer that it shuts down.
fn short_lived_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = |mut socket: TcpStream| -> std::io::Result<()> {
        let mut head = [0; 4];
        socket.read_exact(&mut head)?;
        socket.read_exact(&mut vec![0; u32::from_be_bytes(head) as usize - 4])?;
        socket.write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07fourZ\0\0\0\x05I")?;
        socket.read_exact(&mut [0])?;
        socket.read_exact(&mut head)?;
        socket.read_exact(&mut vec![0; u32::from_be_bytes(head) as usize - 4])?;
        socket.write_all(
            b"C\0\0\0\x0dSELECT 0\0Z\0\0\0\x05IE\0\0\0\x23SFATAL\0VFATAL\0C57P01\0Mgoodbye\0\0",
        )
    };
    thread::spawn(move || {
        for socket in listener.incoming() {
            let _ = serve(socket.unwrap());
        }
    });
    port
}

#[test]
fn a_goodbye_right_behind_the_last_answer_is_no_clients_problem() {
    let fixture = Fixture::start();
    let tenant = format!("{}-short", fixture.tenant);
    let fields = json!({
        "port": short_lived_server(), "backend_tls": "disable", "backend_ca": null, "login": "role_secret",
    });
    fixture.add_tenant(&tenant, fields);
    fixture.set_password(&tenant, PASSWORD_ROLE, PASSWORD);
    let login = fixture.password_login();
    let mut client = login
        .user(&format!("{PASSWORD_ROLE}.{tenant}"))
        .open()
        .unwrap();
    for _ in 0..20 {
        assert_eq!(client.query("select").unwrap().tags, ["SELECT 0"]);
    }
}

/// Stops every process of the fixture's server, clients' and postmaster, as a machine that hangs does.
fn hang(fixture: &Fixture) -> Vec<u32> {
    let rows = fixture.cluster.run(
        "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
    );
    let mut pids: Vec<u32> = rows
        .into_iter()
        .map(|row| row[0].as_ref().unwrap().parse().unwrap())
        .collect();
    pids.push(fixture.cluster.postmaster());
    for pid in &pids {
        signal(*pid, "STOP");
    }
    pids
}

#[test]
fn a_server_that_hangs_holds_nobody_for_longer_than_the_limits_say() {
    let settings = Settings::default()
        .set("pool.size", 1)
        .set("pool.cleanup", "500ms")
        .set("timeouts.queue", "2s")
        .set("timeouts.backend_connect", "3s");
    let fixture = fixture(settings);
    let login = fixture.password_login();
    let mut running = login.open().unwrap();
    let mut waiting = login.open().unwrap();
    let other = fixture.role_login(SECRET_ROLE);
    drop(other.open().unwrap());
    let mut inside = other.open().unwrap();
    inside.query("begin").unwrap();
    let mut patient = other.open().unwrap();
    let pids = hang(&fixture);
    running.start("select 'late'");
    waiting.start("select 1");
    let began = Instant::now();
    let fault = waiting.answer().unwrap_err();
    assert_eq!(fault.code, "53300", "{fault:?}");
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    // Of a client that leaves now nobody can say that its backend is clean; nor can another one be opened.
    drop(inside);
    let fault = patient.query("select 1").unwrap_err();
    assert!(
        ["53300", "08006"].contains(&fault.code.as_str()),
        "{fault:?}"
    );
    for pid in pids {
        signal(pid, "CONT");
    }
    assert_eq!(
        running.answer().unwrap().rows[0][0].as_deref(),
        Some("late")
    );
    until("the server lets us in again", || {
        other
            .open()
            .is_ok_and(|mut client| client.query("select 1").is_ok())
    });
}

#[test]
fn a_server_that_takes_nothing_more_is_given_up_in_time() {
    let fixture = fixture(Settings::default().set("net.backend_unacknowledged", "1s"));
    let mut client = fixture.password_client().unwrap();
    let pid = client.value("select pg_backend_pid()");
    signal(pid.parse().unwrap(), "STOP");
    let mut bytes = b"Q\0\x7f\xff\xff".to_vec();
    bytes.resize(8 << 20, b' ');
    client.send(&bytes);
    let fault = client.farewell();
    signal(pid.parse().unwrap(), "CONT");
    assert_eq!(fault.code, "08006", "{fault:?}");
    assert_eq!(fixture.password_client().unwrap().value("select 1"), "1");
}

#[test]
fn a_client_that_takes_nothing_more_is_given_up_in_time_and_its_backend_kept() {
    let settings = Settings::default()
        .set("pool.size", 1)
        .set("timeouts.write_stall", "1s")
        .set("pool.cleanup", "1m");
    let fixture = Fixture::with(settings);
    let mut next = fixture.password_client().unwrap();
    let pid = next.value("select pg_backend_pid()");
    let mut stalled = fixture.password_client().unwrap();
    // More than the kernel takes for it. What it leaves is read to its end, for a minute if the machine is busy.
    stalled.start("select repeat('x', 40000000)");
    assert_eq!(next.value("select pg_backend_pid()"), pid);
    drop(stalled);
}

/// What became of the rows that the writers have tried to write, by number.
#[derive(Default)]
struct Ledger {
    next: AtomicI64,
    committed: Mutex<HashSet<i64>>,
    unknown: Mutex<HashSet<i64>>,
    over: AtomicBool,
}

impl Ledger {
    /// Writes rows until it is over; a connection that breaks is replaced.
    async fn write(self: Arc<Self>, settings: String) {
        while !self.over.load(Ordering::Relaxed) {
            let connecting = tokio_postgres::connect(&settings, tokio_postgres::NoTls);
            let connected = timeout(PATIENCE, connecting)
                .await
                .expect("a login is stuck");
            let Ok((mut client, connection)) = connected else {
                tokio::task::yield_now().await;
                continue;
            };
            let driver = tokio::spawn(connection);
            while timeout(PATIENCE, self.write_one(&mut client))
                .await
                .expect("a client is stuck")
            {}
            drop(client);
            let _ = driver.await;
        }
    }

    /// Writes one row; `false`: the connection is gone, or all is over.
    async fn write_one(&self, client: &mut tokio_postgres::Client) -> bool {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Ok(row) = client.query_one("select $1::int8 * 2", &[&number]).await else {
            return false;
        };
        assert_eq!(row.get::<_, i64>(0), number * 2, "somebody else's answer");
        let Ok(transaction) = client.transaction().await else {
            return false;
        };
        let inserted = transaction
            .execute("insert into ledger values ($1)", &[&number])
            .await;
        if inserted.is_err() {
            return false;
        }
        let written = if transaction.commit().await.is_ok() {
            &self.committed
        } else {
            &self.unknown
        };
        written.lock().unwrap().insert(number);
        !self.over.load(Ordering::Relaxed)
    }
}

#[test]
fn restarts_under_load_lose_nothing_that_was_committed_and_leave_nobody_stuck() {
    let fixture = fixture(Settings::default().set("pool.size", 10));
    // The tests' servers answer a COMMIT before it is written; this one must not.
    let durable = format!("alter role {PASSWORD_ROLE} set synchronous_commit = on");
    fixture.cluster.run(&durable);
    let mut client = fixture.password_client().unwrap();
    client.query("create table ledger (number int8)").unwrap();
    let settings = format!(
        "host=127.0.0.1 port={} user={} password='{PASSWORD}'",
        fixture.sluice.port,
        fixture.password_login().parameters[0].1,
    );
    let ledger = Arc::new(Ledger::default());
    let writers = thread::spawn({
        let ledger = Arc::clone(&ledger);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let writers =
                    (0..64).map(|_| tokio::spawn(Arc::clone(&ledger).write(settings.clone())));
                for writer in writers.collect::<Vec<_>>() {
                    writer.await.unwrap();
                }
            });
        }
    });
    let restarts = std::env::var("SLUICE_RESTARTS").map_or(2, |count| count.parse().unwrap());
    for restart in 0..restarts {
        let before = ledger.committed.lock().unwrap().len();
        until("rows are written", || {
            writers.is_finished() || ledger.committed.lock().unwrap().len() > before + 10
        });
        fixture.cluster.restart(["fast", "immediate"][restart % 2]);
    }
    let before = ledger.committed.lock().unwrap().len();
    until("rows are written after the last restart", || {
        writers.is_finished() || ledger.committed.lock().unwrap().len() > before + 10
    });
    ledger.over.store(true, Ordering::Relaxed);
    writers.join().unwrap();
    let stored = client.query("select number from ledger").unwrap().rows;
    let numbers = || {
        stored
            .iter()
            .map(|row| row[0].as_ref().unwrap().parse::<i64>().unwrap())
    };
    let distinct: HashSet<i64> = numbers().collect();
    assert_eq!(distinct.len(), stored.len(), "a row was written twice");
    let (committed, unknown) = (
        ledger.committed.lock().unwrap(),
        ledger.unknown.lock().unwrap(),
    );
    assert!(committed.is_subset(&distinct), "a committed row is lost");
    let known: HashSet<i64> = committed.union(&unknown).copied().collect();
    assert!(
        distinct.is_subset(&known),
        "a row that was given up is there"
    );
    until("the writers' sessions are over", || {
        fixture.sluice.admin.sessions(&fixture.tenant).len() == 1
    });
}
