//! Start, reload and end of the process.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::json;

use crate::support::{
    Client, Fixture,
    admin::Admin,
    pki,
    sluice::{ADMIN_KEY, Home, Settings, Sluice, ended_in_order},
    until,
};

#[test]
fn a_stop_sends_idle_clients_away_and_lets_busy_ones_finish() {
    let fixture = Fixture::start();
    let mut idle = fixture.password_client().unwrap();
    idle.query("select 1").unwrap();
    let mut busy = fixture.password_client().unwrap();
    busy.start("select pg_sleep(1), 'finished'");
    fixture.running("pg_sleep");
    let mut in_transaction = fixture.password_client().unwrap();
    in_transaction.query("create table work (n int)").unwrap();
    in_transaction.query("begin").unwrap();

    fixture.sluice.signal("TERM");
    let fault = idle.farewell();
    assert_eq!(fault.code, "57P01", "{fault:?}");
    assert_eq!(
        fault.message,
        "terminating connection due to administrator command"
    );
    in_transaction.query("insert into work values (1)").unwrap();
    in_transaction.query("commit").unwrap();
    assert_eq!(in_transaction.farewell().code, "57P01");
    assert_eq!(
        busy.answer().unwrap().rows[0][1].as_deref(),
        Some("finished")
    );
    assert_eq!(busy.farewell().code, "57P01");
    assert!(ended_in_order(fixture.sluice.wait_for_end()));
    assert!(fixture.backends().is_empty());
    let mut superuser = fixture.cluster.superuser(&fixture.database);
    assert_eq!(superuser.value("select count(*) from work"), "1");
}

#[test]
fn a_stop_does_not_wait_longer_than_its_deadline() {
    let fixture = Fixture::with(Settings::default().set("timeouts.drain", "1s"));
    let mut busy = fixture.password_client().unwrap();
    busy.start("select pg_sleep(600)");
    fixture.running("pg_sleep");
    let began = Instant::now();
    fixture.sluice.signal("TERM");
    assert_eq!(busy.farewell().code, "57P01");
    fixture.sluice.wait_for_end();
    assert!(began.elapsed() >= Duration::from_secs(1));
    until("nothing runs on", || fixture.backends().is_empty());
}

#[test]
fn a_process_that_drains_is_not_ready_and_lets_nobody_in() {
    let fixture = Fixture::start();
    let mut busy = fixture.password_client().unwrap();
    busy.query("begin").unwrap();
    fixture.sluice.signal("TERM");
    until("it is not ready", || !fixture.sluice.admin.is_ready());
    until("nobody is let in", || {
        match Client::connect(fixture.sluice.port) {
            Err(_) => true,
            Ok(_) => fixture.password_login().open().is_err(),
        }
    });
    assert_eq!(busy.value("select 1"), "1");
    busy.query("commit").unwrap();
    assert!(ended_in_order(fixture.sluice.wait_for_end()));
}

#[test]
fn a_renewed_certificate_is_shown_to_new_clients_and_old_ones_stay() {
    let fixture = Fixture::start();
    let login = fixture.password_login().encrypted();
    let mut client = login.open().unwrap();
    let before = client.server_certificate().unwrap();

    let renewed = pki::authority().server(&["localhost"]);
    fixture
        .sluice
        .home()
        .write("server.crt", &renewed.certificate);
    fixture.sluice.home().write("server.key", &renewed.key);
    assert_eq!(
        login.open().unwrap().server_certificate().unwrap(),
        before,
        "read without being asked to"
    );
    fixture.sluice.signal("HUP");
    until("the new certificate is shown", || {
        login.connect().server_certificate().unwrap() != before
    });
    assert_eq!(login.open().unwrap().value("select 1"), "1");
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn a_broken_certificate_does_not_replace_the_good_one() {
    let fixture = Fixture::start();
    let login = fixture.password_login().encrypted();
    let mut client = login.open().unwrap();
    fixture.sluice.home().write("server.crt", "no certificate");
    fixture.sluice.signal("HUP");
    until("the refusal is in the log", || {
        fixture.sluice.log().contains("server.crt")
    });
    assert_eq!(login.open().unwrap().value("select 1"), "1");
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn a_reload_takes_new_limits_without_dropping_clients() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    client.query("begin").unwrap();
    fixture
        .sluice
        .rewrite(|settings| settings.set("limits.tenant_clients", 1));
    fixture.sluice.signal("HUP");
    until("the new limit holds", || {
        fixture
            .password_client()
            .is_err_and(|fault| fault.code == "53300")
    });
    client.query("commit").unwrap();
}

#[test]
fn a_changed_admin_key_holds_from_the_reload_on_and_the_former_one_no_more() {
    let fixture = Fixture::start();
    let key = "another-key-of-the-tests-administrator";
    let (former, new) = (
        &fixture.sluice.admin,
        fixture.sluice.admin.with_key(Some(key)),
    );
    let statuses = || {
        let list = |api: &Admin| api.call(Method::GET, "/v1/tenants", None).status;
        (list(former), list(&new))
    };
    assert_eq!(statuses(), (200, 401));
    fixture.sluice.home().write("admin.key", key);
    former.post("/v1/reload", json!(null));
    assert_eq!(statuses(), (401, 200));
    fixture.sluice.home().write("admin.key", ADMIN_KEY);
    new.post("/v1/reload", json!(null));
    assert_eq!(statuses(), (200, 401));
}

#[test]
fn a_broken_configuration_is_refused_at_reload_and_the_old_one_goes_on() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    fixture.sluice.home().write("pooler.toml", "[listen\n");
    let answer = fixture.sluice.admin.call(Method::POST, "/v1/reload", None);
    assert!(answer.status >= 400, "{answer:?}");
    assert!(answer.text.contains("pooler.toml"), "{answer:?}");
    assert_eq!(client.value("select 1"), "1");
    assert!(fixture.password_client().is_ok());
    fixture.sluice.rewrite(|settings| settings);
    fixture.sluice.signal("HUP");
    until("both reloads are in the trail", || {
        let rows = fixture.sluice.admin.get("/v1/audit?kind=node.reloaded");
        let rows = rows["rows"].as_array().unwrap().iter();
        let rows: Vec<_> = rows.map(|row| (&row["outcome"], &row["actor"])).collect();
        rows == [
            (&json!("success"), &json!("system")),
            (&json!("failure"), &json!("admin-key")),
        ]
    });
}

#[test]
fn a_taken_port_is_told_and_nothing_is_started() {
    for key in ["listen.pooler", "listen.direct", "admin.listen"] {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let home = Home::new(&Settings::default().set(key, address.clone()));
        let output = home.serve().output().unwrap();
        assert!(!output.status.success(), "{key}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            told.contains(&address) && told.contains(key.split('.').next().unwrap()),
            "{key}: {told}"
        );
    }
}

#[test]
fn a_second_sluice_on_the_same_port_is_refused_although_threads_share_it() {
    let fixture = Fixture::start();
    let address = format!("127.0.0.1:{}", fixture.sluice.port);
    let home = Home::new(&Settings::default().set("listen.pooler", address.clone()));
    let output = home.serve().output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&address));
    assert!(fixture.password_client().is_ok());
}

#[test]
fn open_files_are_as_many_as_the_system_allows_and_too_few_are_told() {
    let few = Settings::default()
        .set("limits.clients", 100)
        .set("pool.overall_budget", 100);
    let sluice = Sluice::start_with_open_files(few, 256, 4_000);
    let limits = fs::read_to_string(format!("/proc/{}/limits", sluice.pid())).unwrap();
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .unwrap();
    let words: Vec<&str> = files.split_whitespace().collect();
    assert_eq!(words, ["4000", "4000", "files"]);
    assert!(!sluice.log().contains("open files"), "{}", sluice.log());

    let many = Settings::default().set("limits.clients", 5_000);
    let sluice = Sluice::start_with_open_files(many, 256, 4_000);
    until("the lack of open files is told", || {
        let told = "limits.clients and pool.overall_budget need";
        sluice.log().contains(told)
    });
}

#[test]
fn what_the_pooler_holds_in_memory_is_in_no_core_dump_and_open_to_no_other_process() {
    let sluice = Sluice::start_unprivileged(Settings::default());
    let of_process = |name: &str| format!("/proc/{}/{name}", sluice.pid());
    assert_ne!(fs::metadata(of_process("")).unwrap().uid(), 0);

    let limits = fs::read_to_string(of_process("limits")).unwrap();
    let cores = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"))
        .unwrap();
    let words: Vec<&str> = cores.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "bytes"]);
    // The files of a process that can be dumped or traced belong to its user, else to root (proc(5)).
    for name in ["environ", "mem", "fd"] {
        assert_eq!(fs::metadata(of_process(name)).unwrap().uid(), 0, "{name}");
    }
}

#[test]
fn what_a_person_runs_ends_also_when_sluice_is_killed() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    client.start("select pg_sleep(600)");
    fixture.running("pg_sleep");
    fixture.sluice.signal("KILL");
    fixture.sluice.wait_for_end();
    until("nothing runs on", || fixture.backends().is_empty());
}
