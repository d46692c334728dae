//! Settings follow their client from backend to backend, and no other client sees them.

use bytes::BufMut as _;
use postgres_protocol::message::frontend;
use reqwest::Method;

use crate::support::{
    Client, Fixture, eventually,
    fixture::unique_name,
    postgres::{PASSWORD, PASSWORD_ROLE},
};

/// Two clients of one pool with one backend: whatever one leaves behind the other would see.
fn pair(fixture: &Fixture) -> (Client, Client) {
    (
        fixture.password_client().unwrap(),
        fixture.password_client().unwrap(),
    )
}

#[test]
fn what_a_client_sets_it_finds_again_and_nobody_else_sees() {
    let fixture = Fixture::with_one_backend();
    let (mut one, mut two) = pair(&fixture);
    let initial = two.value("show work_mem");
    one.query("set work_mem = '7MB'").unwrap();
    one.query("select Set_Config('statement_timeout', '12345', false)")
        .unwrap();
    one.query("set transaction_timeout = '90s'").unwrap();
    assert_eq!(two.value("show work_mem"), initial);
    assert_eq!(two.value("show statement_timeout"), "0");
    assert_eq!(two.value("show transaction_timeout"), "0");
    assert_eq!(one.value("show work_mem"), "7MB");
    assert_eq!(one.value("show statement_timeout"), "12345ms");
    assert_eq!(one.value("show transaction_timeout"), "90s");
    one.query("reset work_mem").unwrap();
    two.query("select 1").unwrap();
    assert_eq!(one.value("show work_mem"), initial);
}

#[test]
fn a_setting_that_was_rolled_back_or_local_is_not_kept() {
    let fixture = Fixture::with_one_backend();
    let (mut one, mut two) = pair(&fixture);
    one.query("begin; set work_mem = '9MB'; rollback").unwrap();
    one.query("begin; set local work_mem = '9MB'; commit")
        .unwrap();
    two.query("select 1").unwrap();
    assert_ne!(one.value("show work_mem"), "9MB");
}

#[test]
fn a_role_that_was_set_follows_its_client_only() {
    let fixture = Fixture::with_one_backend();
    let (mut one, mut two) = pair(&fixture);
    let own = two.value("select current_user");
    one.query("set role pg_read_all_settings").unwrap_err();
    one.query(&format!("set role \"{own}\"")).unwrap();
    assert_eq!(two.value("show role"), "none");
    assert_eq!(one.value("show role"), own);
}

#[test]
fn who_a_superuser_has_become_follows_it_and_nobody_else() {
    let fixture = Fixture::with_one_backend();
    let superuser = unique_name();
    fixture.cluster.run(&format!(
        "create role {superuser} login superuser password '{PASSWORD}'"
    ));
    let login = || fixture.role_login(&superuser).open().unwrap();
    let (mut one, mut two) = (login(), login());
    let own = two.value("select session_user");
    one.query("set log_min_duration_statement = 7000; set work_mem = '7MB'")
        .unwrap();
    one.query(&format!("set session authorization {PASSWORD_ROLE}"))
        .unwrap();
    for _ in 0..2 {
        assert_eq!(two.value("select session_user"), own);
        assert_eq!(one.value("select session_user"), PASSWORD_ROLE);
        assert_eq!(one.value("show work_mem"), "7MB");
        assert_eq!(one.value("show is_superuser"), "off");
    }
    one.query("reset session authorization").unwrap();
    two.query("select 1").unwrap();
    assert_eq!(one.value("select session_user"), own);
    assert_eq!(one.value("show work_mem"), "7MB");
    assert_eq!(one.value("show log_min_duration_statement"), "7s");
    fixture.cluster.run(&format!("drop role {superuser}"));
}

#[test]
fn options_at_startup_are_the_clients_first_settings() {
    let fixture = Fixture::with_one_backend();
    let login = fixture
        .password_login()
        .options("-c work_mem=6MB -csearch_path=a,\\ public");
    let mut one = login.open().unwrap();
    let mut two = fixture.password_client().unwrap();
    assert_ne!(two.value("show work_mem"), "6MB");
    assert_eq!(one.value("show work_mem"), "6MB");
    assert_eq!(one.value("show search_path"), "a, public");
    one.query("set work_mem = '7MB'; reset all").unwrap();
    two.query("select 1").unwrap();
    assert_eq!(
        one.value("show work_mem"),
        "6MB",
        "RESET goes back to what the session began with"
    );
}

#[test]
fn other_state_of_a_session_never_reaches_the_next_client() {
    let fixture = Fixture::with_one_backend();
    let (mut one, mut two) = pair(&fixture);
    for leak in [
        "create temp table leak(a int)",
        "select 1 as a into temporary leak",
        "select pg_advisory_lock(42)",
        "listen leak",
        "prepare leak as select 1",
        "do $$ begin execute 'listen leak'; perform pg_advisory_lock(43); end $$",
        "begin; declare leak cursor with hold for select 1; commit",
    ] {
        one.query(leak).unwrap();
        let seen =
            "select (select count(*) from pg_class where relname = 'leak' and relpersistence = 't')
            + (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
            + (select count(*) from pg_listening_channels())
            + (select count(*) from pg_prepared_statements where name = 'leak')
            + (select count(*) from pg_cursors where name = 'leak')";
        assert_eq!(two.value(seen), "0", "left behind by: {leak}");
    }
}

#[test]
fn what_was_kept_from_the_next_client_is_counted_and_logged_once_per_client_and_kind() {
    let fixture = Fixture::with_one_backend();
    let (mut one, mut two) = pair(&fixture);
    let own = two.value("select current_user");
    let leaks = [
        ("temp_table", "create temp table leak(a int)"),
        ("advisory_lock", "select pg_advisory_lock(42)"),
        (
            "hold_cursor",
            "begin; declare leak cursor with hold for select 1; commit",
        ),
        ("settings", "set work_mem = '7MB'"),
        ("role", &format!("set role \"{own}\"")),
    ];
    for (kind, leak) in leaks {
        assert_eq!(leaks_counted(&fixture, kind), 0, "{kind}");
        for _ in 0..2 {
            one.query(leak).unwrap();
        }
        two.query("select 1").unwrap();
        assert_eq!(leaks_counted(&fixture, kind), 1, "{kind}");
        two.query(leak).unwrap();
        one.query("select 1").unwrap();
        assert_eq!(leaks_counted(&fixture, kind), 2, "{kind}");
    }
    let log = fixture.sluice.log();
    assert_eq!(log.matches("kind=\"temp_table\"").count(), 2, "{log}");
}

fn leaks_counted(fixture: &Fixture, kind: &str) -> u32 {
    let answer = fixture.sluice.admin.call(Method::GET, "/metrics", None);
    let label = format!("sluice_leaks_total{{kind=\"{kind}\"}} ");
    let count = answer
        .text
        .lines()
        .find_map(|line| line.strip_prefix(&label));
    count
        .unwrap_or_else(|| panic!("no {label} in {}", answer.text))
        .parse()
        .unwrap()
}

#[test]
fn what_ends_with_its_transaction_does_not_cost_the_backend_its_statements() {
    let fixture = Fixture::with_one_backend();
    let (mut one, _) = pair(&fixture);
    let prepared = "select count(*) from pg_prepared_statements";
    one.send_messages(|out| {
        frontend::parse("s", "select 1", [], out).unwrap();
        frontend::sync(out);
    });
    one.receive_until_ready();
    for harmless in [
        "begin; declare c cursor for select 1; fetch c; commit",
        "begin; create temp table t(a int) on commit drop; commit",
        "select pg_advisory_xact_lock(1)",
        "do $$ begin perform 1; end $$",
    ] {
        one.query(harmless).unwrap();
        assert_eq!(one.value(prepared), "1", "{harmless}");
    }
}

#[test]
fn a_setting_of_the_applications_own_follows_its_client_and_reaches_no_other() {
    let fixture = Fixture::with_one_backend();
    let (mut one, mut two) = pair(&fixture);
    let user = "select coalesce(current_setting('app.owner', true), '')";
    for set in [
        "set app.owner = 'one'",
        "select set_config('app.owner', 'one', false)",
        "select set_config('app.' || 'owner', 'one', false)",
    ] {
        one.query(set).unwrap();
        assert_eq!(two.value(user), "", "{set}");
    }
    one.query("set app.owner = 'one'").unwrap();
    two.query("set app.owner = 'two'").unwrap();
    for _ in 0..2 {
        assert_eq!(one.value(user), "one");
        assert_eq!(two.value(user), "two");
    }
    one.query("reset app.owner").unwrap();
    assert_eq!(one.value(user), "");
    assert_eq!(two.value(user), "two");
}

#[test]
fn what_an_execute_leaves_behind_is_seen_although_it_does_not_say_what_it_runs() {
    let fixture = Fixture::with_one_backend();
    let (mut one, mut two) = pair(&fixture);
    let locks =
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";
    one.query("prepare remember(text) as select set_config('work_mem', $1, false), set_config('app.owner', $1, false)")
        .unwrap();
    one.query("prepare lock as select pg_advisory_lock(42)")
        .unwrap();
    let initial = two.value("show work_mem");
    one.query("execute remember('7MB')").unwrap();
    assert_eq!(two.value("show work_mem"), initial);
    let owner = "select coalesce(current_setting('app.owner', true), '')";
    assert_eq!(two.value(owner), "");
    assert_eq!(one.value("show work_mem"), "7MB");
    assert_eq!(one.value(owner), "7MB");
    one.query("execute lock").unwrap();
    assert_eq!(two.value(locks), "0");
}

#[test]
fn what_a_function_call_leaves_behind_is_seen() {
    let fixture = Fixture::with_one_backend();
    let (mut one, mut two) = pair(&fixture);
    let initial = two.value("show work_mem");
    let set_config: u32 = one
        .value("select 'set_config'::regproc::oid")
        .parse()
        .unwrap();
    one.send_messages(|out| {
        let arguments: [&[u8]; 3] = [b"work_mem", b"7MB", b"f"];
        let lengths: usize = arguments.iter().map(|argument| 4 + argument.len()).sum();
        out.put_u8(b'F');
        out.put_u32(u32::try_from(4 + 4 + 4 + 2 + lengths + 2).unwrap());
        out.put_u32(set_config);
        // All arguments as text, and three of them.
        out.put_slice(&[0, 1, 0, 0, 0, 3]);
        for argument in arguments {
            out.put_u32(u32::try_from(argument.len()).unwrap());
            out.put_slice(argument);
        }
        out.put_u16(0);
    });
    one.receive_until_ready();
    assert_eq!(two.value("show work_mem"), initial);
    assert_eq!(one.value("show work_mem"), "7MB");
}

#[test]
fn temporary_objects_of_any_kind_and_spelling_never_reach_the_next_client() {
    let fixture = Fixture::with_one_backend();
    let (mut one, mut two) = pair(&fixture);
    for leak in [
        "create table pg_temp.leak(a int)",
        "create temp/* */table leak(a int)",
        "create function pg_temp.leak() returns int language sql as 'select 1'",
        "create type pg_temp.leak as (a int)",
    ] {
        one.query(leak).unwrap();
        let seen = "select count(*) from pg_depend where refclassid = 'pg_namespace'::regclass and refobjid = pg_my_temp_schema()";
        assert_eq!(two.value(seen), "0", "left behind by: {leak}");
    }
}

#[test]
fn a_statement_timeout_that_is_too_short_for_the_pooler_is_kept_all_the_same() {
    let fixture = Fixture::with_one_backend();
    let (mut one, mut two) = pair(&fixture);
    one.query("set statement_timeout = '1ms'").unwrap();
    // A query of the client's own may be too slow for that, too.
    let shown = eventually("a query within its limit", || {
        one.query("show statement_timeout").ok()
    });
    assert_eq!(shown.rows[0][0].as_deref(), Some("1ms"));
    assert_eq!(two.value("show statement_timeout"), "0");
    let fault = one.query("select pg_sleep(5)").unwrap_err();
    assert_eq!(fault.code, "57014");
    eventually("the limit to be lifted", || {
        one.query("set statement_timeout = 0").ok()
    });
    assert_eq!(one.value("show statement_timeout"), "0");
}

#[test]
fn a_client_is_told_of_a_setting_that_goes_back_to_what_it_began_with() {
    let fixture = Fixture::with_one_backend();
    let login = fixture
        .password_login()
        .parameter("TimeZone", "Asia/Tokyo")
        .parameter("application_name", "first");
    let mut client = login.open().unwrap();
    client.query("set application_name = 'second'").unwrap();
    client.query("reset all").unwrap();
    for (name, value) in [("TimeZone", "Asia/Tokyo"), ("application_name", "first")] {
        assert_eq!(client.value(&format!("show {name}")), value);
        assert_eq!(client.parameters[name], value, "what it was told");
    }
}

#[test]
fn a_client_is_told_what_another_backend_makes_of_its_settings() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    let initial = client.value("show datestyle");
    fixture.cluster.run(&format!(
        "alter database \"{}\" set datestyle = 'German, DMY'",
        fixture.database
    ));
    let mut rival = fixture.password_client().unwrap();
    rival.query("begin").unwrap();
    assert_eq!(client.value("show datestyle"), "German, DMY");
    assert_eq!(client.parameters["DateStyle"], "German, DMY");
    assert_eq!(rival.value("show datestyle"), initial);
    assert_eq!(rival.parameters["DateStyle"], initial);
}

#[test]
fn on_the_session_mode_listener_a_reset_goes_back_to_what_the_client_began_with() {
    let fixture = Fixture::with_one_backend();
    let mut login = fixture
        .password_login()
        .options("-c work_mem=6MB -c app.owner=me")
        .parameter("TimeZone", "Asia/Tokyo");
    login.port = fixture.sluice.direct_port;
    let mut client = login.open().unwrap();
    for reset in ["reset all", "discard all", "reset timezone; reset work_mem"] {
        client.query("set statement_timeout = '9s'").unwrap();
        client.query(reset).unwrap();
        assert_eq!(client.value("show timezone"), "Asia/Tokyo", "{reset}");
        assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo", "{reset}");
        assert_eq!(client.value("show work_mem"), "6MB", "{reset}");
        assert_eq!(client.value("show app.owner"), "me", "{reset}");
    }
    assert_eq!(client.value("show statement_timeout"), "9s", "not reset");
}
