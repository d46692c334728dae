//! A server on Sluice's own machine, reached through the folder of its Unix socket.

use std::{fs, path::PathBuf, sync::OnceLock};

use reqwest::Method;
use serde_json::json;

use crate::{
    cancel::a_query_is_cancelled,
    support::{
        Client, Fixture,
        admin::Revocation,
        fixture::unique_name,
        postgres::{self, Cluster, SECRET_ROLE},
        sluice::Settings,
        until,
    },
};

/// A server that lets roles in through its socket with their passwords, and through nothing else.
fn start() -> &'static Cluster {
    let cluster = postgres::own();
    let rules = "local all all scram-sha-256\nhost all postgres 127.0.0.1/32 scram-sha-256\n";
    cluster.write_file("pg_hba.conf", rules);
    cluster.reload();
    cluster
}

/// Around such a server that tests share.
fn fixture() -> Fixture {
    static CLUSTER: OnceLock<&'static Cluster> = OnceLock::new();
    fixture_on(CLUSTER.get_or_init(start))
}

fn fixture_on(cluster: &'static Cluster) -> Fixture {
    let folder = data(cluster).display().to_string();
    let fields = json!({
        "host": folder, "backend_tls": "disable", "backend_ca": null, "login": "role_secret",
    });
    let fixture = Fixture::on(cluster, Settings::default(), fields);
    fixture.set_password(&fixture.tenant, SECRET_ROLE, postgres::PASSWORD);
    fixture
}

/// Where the server has its socket.
fn data(cluster: &Cluster) -> PathBuf {
    cluster.folder().join("data")
}

#[test]
fn passwords_and_tokens_work_through_it() {
    let fixture = fixture();
    let person = fixture.person("first");
    fixture.grant(&person, SECRET_ROLE, json!({ "expires": "1h" }));
    for login in [
        fixture.password_login(),
        fixture.token_login_as(&person, SECRET_ROLE),
    ] {
        let mut client = login.open().unwrap();
        assert_eq!(client.value("select inet_client_addr() is null"), "t");
        let answer = client.query("select repeat('x', 1000) from generate_series(1, 20000)");
        assert_eq!(answer.unwrap().rows.len(), 20_000);
        let megabyte = "m".repeat(1024 * 1024);
        let length = client.value(&format!("select length('{megabyte}')"));
        assert_eq!(length, megabyte.len().to_string());
        a_query_is_cancelled(&fixture, &mut client);
    }
}

#[test]
fn a_revocation_ends_what_runs_behind_it() {
    let fixture = fixture();
    let person = fixture.person("first");
    // A few are cancelled, many are terminated.
    for count in [1, 8] {
        fixture.grant(&person, SECRET_ROLE, json!({ "expires": "1h" }));
        let login = fixture.token_login_as(&person, SECRET_ROLE);
        let mut clients: Vec<Client> = (0..count).map(|_| login.open().unwrap()).collect();
        for client in &mut clients {
            client.start("select pg_sleep(600)");
        }
        until("all of them run", || fixture.backends().len() == count);
        let report = Revocation::of(&fixture.remove_rule(&person, SECRET_ROLE));
        assert_eq!(report.sessions_ended as usize, count, "{report:?}");
        assert_eq!(report.unconfirmed, 0, "{report:?}");
        assert!(fixture.backends().is_empty());
        for client in &mut clients {
            assert_eq!(client.farewell().code, "57P01");
        }
    }
}

#[test]
fn a_socket_that_is_away_and_back_is_waited_for() {
    // Of its own: nobody else is to find the socket away.
    let fixture = fixture_on(start());
    let mut client = fixture.password_client().unwrap();
    client.query("select 1").unwrap();
    let data = data(fixture.cluster);
    let (socket, away) = (
        data.join(format!(".s.PGSQL.{}", fixture.cluster.port)),
        data.join("away"),
    );
    fs::rename(&socket, &away).unwrap();
    fixture
        .cluster
        .run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app_user'");
    until("no backend is left", || fixture.backends().is_empty());
    client.start("select 2");
    fixture.wait_for_state("waiting");
    fs::rename(&away, &socket).unwrap();
    assert_eq!(client.answer().unwrap().rows[0][0].as_deref(), Some("2"));
}

#[test]
fn the_doctor_finds_nothing_wrong_with_what_does_not_leave_the_machine() {
    let fixture = fixture();
    let person = fixture.person("first");
    fixture.grant(&person, SECRET_ROLE, json!({ "expires": "1h" }));
    let shown = fixture.sluice.cli(&["doctor", "--tenant", &fixture.tenant]);
    assert!(shown.contains("through a Unix socket"), "{shown}");
}

#[test]
fn what_cannot_be_reached_through_a_socket_is_refused_with_what_to_do() {
    let fixture = Fixture::start();
    let long = format!("/{}", "x".repeat(100));
    let add = |host: &str, fields: [(&str, &str); 2]| {
        let mut body = json!({ "ref": unique_name(), "host": host });
        for (field, value) in fields {
            body[field] = json!(value);
        }
        let admin = &fixture.sluice.admin;
        let refused = admin.call(Method::POST, "/v1/tenants", Some(body));
        assert_eq!(refused.status, 422, "{refused:?}");
        refused.error().1
    };
    let plain = [("backend_tls", "disable"), ("login", "role_secret")];
    for (host, fields, what) in [
        (
            "/run/postgresql",
            [("backend_tls", "require"), plain[1]],
            "does not encrypt",
        ),
        (
            "/run/postgresql",
            [plain[0], ("login", "certificate")],
            "does not encrypt",
        ),
        ("run/postgresql", plain, "folder of a Unix socket"),
        (&*long, plain, "longer than the path"),
    ] {
        let said = add(host, fields);
        assert!(said.contains(what), "{host}: {said}");
    }
}
