//! Clients that go away in the middle of their work: nothing of it stays behind, and the backend serves the next one.

use bytes::{Buf as _, BytesMut};
use postgres_protocol::message::frontend;

use crate::support::{
    Client, Fixture, Reply, eventually, login::startup, messages::unnamed, sluice::Settings, until,
};

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Its process ends: the kernel says FIN.
    Closed,
    /// Its process is killed with unread answers, or its machine restarts: RST.
    Reset,
    /// It says goodbye first.
    Terminate,
}

const WAYS: [Way; 3] = [Way::Closed, Way::Reset, Way::Terminate];

impl Way {
    fn leave(self, mut client: Client) {
        match self {
            Self::Closed => drop(client),
            Self::Reset => client.reset(),
            Self::Terminate => client.send_messages(frontend::terminate),
        }
    }
}

/// Leaves a client of a pool of one in the state that `enter` brings it to, in the middle of a transaction that has
/// inserted a row; the next client must get the same backend, and nothing of the row.
fn keeps_the_backend(ways: &[Way], mut enter: impl FnMut(&Fixture, &mut Client)) {
    let fixture = Fixture::with_one_backend();
    let login = fixture.password_login();
    let mut observer = login.open().unwrap();
    observer.query("create table work (n int)").unwrap();
    let kept = observer.value("select pg_backend_pid()");
    for way in ways {
        let mut client = login.open().unwrap();
        enter(&fixture, &mut client);
        way.leave(client);
        assert_eq!(observer.value("select count(*) from work"), "0", "{way:?}");
        assert_eq!(observer.value("select pg_backend_pid()"), kept, "{way:?}");
        until("its session is forgotten", || {
            fixture.sluice.admin.sessions(&fixture.tenant).len() == 1
        });
        assert_eq!(fixture.backends()[0].state, "idle", "{way:?}");
    }
}

/// A transaction with a row in it.
fn begin(client: &mut Client) {
    client.query("begin").unwrap();
    client.query("insert into work values (1)").unwrap();
}

fn half_of(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut bytes = BytesMut::new();
    write(&mut bytes);
    bytes.truncate(bytes.len() - 3);
    bytes
}

#[test]
fn a_client_that_vanishes_in_a_transaction_leaves_its_backend_clean() {
    keeps_the_backend(&WAYS, |_, client| begin(client));
}

#[test]
fn a_client_that_vanishes_in_a_failed_transaction_leaves_its_backend_clean() {
    keeps_the_backend(&WAYS, |_, client| {
        begin(client);
        client.query("select 1 / 0").unwrap_err();
    });
}

#[test]
fn a_client_that_vanishes_in_a_query_leaves_none_running() {
    keeps_the_backend(&[Way::Closed, Way::Reset], |fixture, client| {
        begin(client);
        client.start("select pg_sleep(600)");
        fixture.running("pg_sleep");
    });
}

#[test]
fn a_client_that_vanishes_with_queries_outstanding_leaves_none_running() {
    keeps_the_backend(&[Way::Closed, Way::Reset], |fixture, client| {
        begin(client);
        for _ in 0..3 {
            client.start("select pg_sleep(600)");
        }
        fixture.running("pg_sleep");
    });
}

#[test]
fn a_client_that_vanishes_in_half_a_query_leaves_its_backend_clean() {
    keeps_the_backend(&[Way::Closed, Way::Reset], |fixture, client| {
        client.send(half_of(|out| {
            frontend::query("insert into work values (2)", out).unwrap();
        }));
        fixture.wait_for_state("active");
    });
}

#[test]
fn a_client_that_vanishes_just_before_the_end_of_a_query_has_not_run_it() {
    keeps_the_backend(&[Way::Closed, Way::Reset], |fixture, client| {
        let mut bytes = BytesMut::new();
        frontend::query("insert into work values (2)", &mut bytes).unwrap();
        client.send(&bytes[..bytes.len() - 1]);
        fixture.wait_for_state("active");
    });
}

#[test]
fn a_client_that_vanishes_in_half_a_bind_leaves_its_backend_clean() {
    keeps_the_backend(&[Way::Closed, Way::Reset], |fixture, client| {
        client.send_messages(|out| unnamed("insert into work values (2)", out));
        client.send(half_of(|out| {
            frontend::parse("", "insert into work values (3)", [], out).unwrap();
        }));
        fixture.wait_for_state("active");
    });
}

#[test]
fn a_client_that_vanishes_in_an_unfinished_pipeline_has_not_committed_it() {
    keeps_the_backend(&WAYS, |_, client| {
        client.send_messages(|out| {
            unnamed("insert into work values (2)", out);
            frontend::flush(out);
        });
        while !matches!(client.receive(), Reply::CommandComplete(_)) {}
    });
}

#[test]
fn a_client_that_vanishes_in_a_pipeline_without_sync_leaves_its_backend_clean() {
    keeps_the_backend(&[Way::Closed, Way::Reset], |fixture, client| {
        begin(client);
        client.send_messages(|out| {
            for _ in 0..3 {
                unnamed("insert into work select 2 from pg_sleep(600)", out);
            }
        });
        fixture.running("pg_sleep");
    });
}

#[test]
fn a_client_that_vanishes_after_an_error_in_a_pipeline_leaves_its_backend_clean() {
    keeps_the_backend(&WAYS, |_, client| {
        client.send_messages(|out| {
            unnamed("insert into work values (2)", out);
            unnamed("select 1 / 0", out);
            frontend::flush(out);
        });
        while !matches!(client.receive(), Reply::Error(_)) {}
    });
}

#[test]
fn a_client_that_vanishes_in_a_copy_in_has_loaded_nothing() {
    keeps_the_backend(&WAYS, |_, client| {
        client.start("copy work from stdin");
        assert_eq!(client.receive(), Reply::CopyIn);
        client.send_messages(|out| copy_data(out, b"1\n2\n"));
    });
}

#[test]
fn a_client_that_vanishes_in_half_a_row_of_a_copy_in_has_loaded_nothing() {
    keeps_the_backend(&[Way::Closed, Way::Reset], |_, client| {
        begin(client);
        client.start("copy work from stdin");
        assert_eq!(client.receive(), Reply::CopyIn);
        client.send(half_of(|out| copy_data(out, &[b'1'; 100_000])));
    });
}

#[test]
fn a_client_that_vanishes_in_an_extended_copy_in_has_loaded_nothing() {
    keeps_the_backend(&WAYS, |_, client| {
        client.send_messages(|out| {
            unnamed("copy work from stdin", out);
            frontend::sync(out);
        });
        while client.receive() != Reply::CopyIn {}
        client.send_messages(|out| copy_data(out, b"1\n2\n"));
    });
}

#[test]
fn a_client_that_vanishes_in_a_copy_out_stops_it() {
    keeps_the_backend(&[Way::Closed, Way::Reset], |_, client| {
        begin(client);
        client.start("copy (select repeat('x', 1000), generate_series(1, 1000000000)) to stdout");
        while !matches!(client.receive(), Reply::CopyData(_)) {}
    });
}

#[test]
fn a_client_that_vanishes_in_a_row_larger_than_any_buffer_leaves_its_backend_clean() {
    keeps_the_backend(&[Way::Closed, Way::Reset], |_, client| {
        client.start("select repeat('x', 100000000)");
        client.receive();
    });
}

#[test]
fn what_a_vanished_client_has_set_and_prepared_is_gone() {
    let fixture = Fixture::with_one_backend();
    let login = fixture.password_login();
    let mut next = login.open().unwrap();
    let kept = next.value("select pg_backend_pid()");
    let mut client = login.open().unwrap();
    client.query("begin").unwrap();
    client
        .query(
            "set search_path = nowhere; set timezone = 'Asia/Tokyo'; prepare p as select 1; \
             create temporary table t (n int); select pg_advisory_lock(7)",
        )
        .unwrap();
    client.start("select pg_sleep(600)");
    fixture.running("pg_sleep");
    drop(client);
    assert_eq!(next.value("select pg_backend_pid()"), kept);
    assert_ne!(next.value("show search_path"), "nowhere");
    assert_ne!(next.value("show timezone"), "Asia/Tokyo");
    let left = "select (select count(*) from pg_prepared_statements where from_sql)
        + (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
        + (select count(*) from pg_class where relname = 't')";
    assert_eq!(next.value(left), "0");
    assert_eq!(
        login.open().unwrap().parameters["TimeZone"],
        next.parameters["TimeZone"]
    );
}

#[test]
fn a_query_that_does_not_give_up_in_time_takes_its_backend_with_it() {
    let settings = Settings::default()
        .set("pool.size", 1)
        .set("pool.cleanup", "500ms");
    let fixture = Fixture::with(settings);
    let login = fixture.password_login();
    let mut client = login.open().unwrap();
    let pid = client.value("select pg_backend_pid()");
    client.start(
        "do $$ begin loop begin perform pg_sleep(600); exception when query_canceled then null; \
         end; end loop; end $$",
    );
    fixture.running("pg_sleep");
    drop(client);
    let mut next = login.open().unwrap();
    assert_ne!(next.value("select pg_backend_pid()"), pid);
    until("the process is gone", || !fixture.cluster.is_alive(&pid));
}

#[test]
fn a_client_that_vanishes_while_it_waits_gives_up_its_place() {
    let fixture = Fixture::with_one_backend();
    let login = fixture.password_login();
    let mut busy = login.open().unwrap();
    busy.query("create table work (n int)").unwrap();
    let pid = busy.value("select pg_backend_pid()");
    for way in WAYS {
        busy.query("begin").unwrap();
        let mut client = login.open().unwrap();
        client.start("insert into work values (1)");
        fixture.wait_for_state("waiting");
        way.leave(client);
        until("its session is forgotten", || {
            fixture.sluice.admin.sessions(&fixture.tenant).len() == 1
        });
        busy.query("commit").unwrap();
        assert_eq!(busy.value("select count(*) from work"), "0", "{way:?}");
        assert_eq!(busy.value("select pg_backend_pid()"), pid, "{way:?}");
    }
}

#[test]
fn a_client_that_vanishes_during_login_leaves_nothing() {
    let fixture = Fixture::with(Settings::default().set("limits.clients", 1));
    let login = fixture.password_login();
    for way in [Way::Closed, Way::Reset] {
        let silent = login.connect();
        let mut asked = login.connect();
        asked.send(startup(login.version, &login.parameters));
        assert!(matches!(asked.receive(), Reply::Sasl(_)));
        let mut half = login.connect();
        let packet = startup(login.version, &login.parameters);
        half.send(&packet[..packet.len() / 2]);
        for client in [silent, asked, half] {
            way.leave(client);
        }
        // Its place among the clients is free again.
        let mut next = eventually("the place is free", || login.open().ok());
        assert_eq!(next.value("select 1"), "1");
        drop(next);
        until("no session is left", || {
            fixture.sluice.admin.sessions(&fixture.tenant).is_empty()
        });
    }
}

fn copy_data(out: &mut BytesMut, data: &[u8]) {
    frontend::CopyData::new(data.chunk()).unwrap().write(out);
}
