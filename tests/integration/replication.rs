//! Replication through the direct listener: a walsender of the client's own, for roles that may.

use std::time::{Duration, Instant};

use postgres_protocol::message::frontend;
use serde_json::json;

use crate::support::{
    Client, Fixture, Reply,
    admin::Revocation,
    login::Login,
    postgres::{self, PASSWORD_ROLE, REPLICA_ROLE, REPLICA_TOKEN_ROLE},
    programs,
    sluice::Settings,
    until,
};

/// How a replica's own program logs in.
fn replica(fixture: &Fixture, mode: &str) -> Login {
    as_role(fixture, REPLICA_ROLE).parameter("replication", mode)
}

fn as_role(fixture: &Fixture, role: &str) -> Login {
    let mut login = fixture.role_login(role);
    login.port = fixture.sluice.direct_port;
    login
}

/// A temporary slot, which goes with its connection, and the stream of its changes.
fn follow(client: &mut Client, slot: &str, plugin: &str, options: &str) {
    client
        .query(&format!(
            "CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL {plugin}"
        ))
        .unwrap();
    client.start(&format!(
        "START_REPLICATION SLOT {slot} LOGICAL 0/0 {options}"
    ));
    assert_eq!(client.receive(), Reply::CopyBoth);
}

/// Reads the stream until a change holds `text`; answers the position that it has come to.
fn read_until(client: &mut Client, text: &[u8]) -> u64 {
    loop {
        let data = match client.receive() {
            Reply::CopyData(data) => data,
            other => panic!("the stream has ended: {other:?}"),
        };
        if data[0] == b'w' && data.windows(text.len()).any(|part| part == text) {
            return u64::from_be_bytes(data[9..17].try_into().unwrap());
        }
    }
}

/// A standby status update: all is flushed up to `position`.
fn confirm(client: &mut Client, position: u64) {
    let mut update = vec![b'r'];
    for _ in 0..3 {
        update.extend_from_slice(&position.to_be_bytes());
    }
    update.extend_from_slice(&[0; 9]);
    client.send_messages(|out| frontend::CopyData::new(&update[..]).unwrap().write(out));
}

#[test]
fn changes_stream_out_and_confirmations_in() {
    let fixture = Fixture::with(Settings::default().set("timeouts.query", "1s"));
    let mut writer = fixture.password_client().unwrap();
    writer.query("create table work (n int)").unwrap();
    let name = &fixture.database;
    fixture
        .cluster
        .superuser(name)
        .query("create publication everything for all tables")
        .unwrap();
    let pgoutput = "(proto_version '1', publication_names 'everything')";
    for (plugin, options) in [("test_decoding", ""), ("pgoutput", pgoutput)] {
        // A connection each: PostgreSQL takes a second logical stream on one for ended, as the first was.
        let mut client = replica(&fixture, "database").open().unwrap();
        let system = client.query("IDENTIFY_SYSTEM").unwrap();
        assert_eq!(system.rows[0][3].as_deref(), Some(&**name));
        follow(&mut client, &format!("{name}_{plugin}"), plugin, options);
        writer.query("insert into work values (42)").unwrap();
        let position = read_until(&mut client, b"42");
        // For longer than a query may take: a stream is none.
        let streaming = Instant::now();
        while streaming.elapsed() < Duration::from_millis(1500) {
            writer.query("insert into work values (42)").unwrap();
            read_until(&mut client, b"42");
        }
        confirm(&mut client, position);
        until("the confirmation has arrived", || {
            let sql = format!(
                "select 1 from pg_replication_slots where slot_name = '{name}_{plugin}'
                and confirmed_flush_lsn >= '0/0'::pg_lsn + {position}"
            );
            !fixture.cluster.run(&sql).is_empty()
        });
        client.send_messages(frontend::copy_done);
        client.receive_until_ready();
        // A walsender with a database runs queries as well.
        assert_eq!(client.value("select 42"), "42");
    }
}

#[test]
fn a_walsender_is_its_clients_own_with_its_settings_and_ends_with_it() {
    let fixture = Fixture::start();
    let walsenders = || {
        let sql = "select application_name from pg_stat_activity where backend_type = 'walsender' order by 1";
        let rows = fixture.cluster.run(sql).into_iter();
        let ours = |name: &String| name.starts_with(&fixture.database);
        rows.filter_map(|row| row[0].clone())
            .filter(ours)
            .collect::<Vec<_>>()
    };
    let open = |mode: &str, name: &str| {
        let name = format!("{}-{name}", fixture.database);
        let login = replica(&fixture, mode).parameter("application_name", &name);
        let mut client = login.options("-c datestyle=german").open().unwrap();
        client.query("IDENTIFY_SYSTEM").unwrap();
        client
    };
    let mut clients = [
        open("database", "a"),
        open("true", "b"),
        open("database", "a"),
    ];
    let named = |name: &str| format!("{}-{name}", fixture.database);
    assert_eq!(walsenders(), [named("a"), named("a"), named("b")]);
    assert_eq!(clients[0].parameters["DateStyle"], "German, DMY");
    assert_eq!(clients[1].value("SHOW datestyle"), "German, DMY");
    clients[0].send_messages(frontend::terminate);
    until("its walsender has ended", || {
        walsenders() == [named("a"), named("b")]
    });
    drop(clients);
    until("all walsenders have ended", || walsenders().is_empty());
}

#[test]
fn who_may_not_replicate_is_told_so() {
    let fixture = Fixture::start();
    let refused = as_role(&fixture, PASSWORD_ROLE).parameter("replication", "database");
    let fault = refused.open().err().expect("a refusal");
    assert_eq!(fault.code, "42501", "{fault:?}");

    let mut pooled = replica(&fixture, "database");
    pooled.port = fixture.sluice.port;
    let fault = pooled.open().err().expect("a refusal");
    assert_eq!(fault.code, "0A000", "{fault:?}");
    assert!(fault.message.contains("transaction mode"), "{fault:?}");
}

#[test]
fn a_token_replicates_only_where_privileged_roles_are_allowed_and_only_while_it_may() {
    let fixture = Fixture::with_tenant(json!({ "privileged_roles": "allow" }));
    let path = format!("/v1/tenants/{}", fixture.tenant);
    let set = |powers: &str| {
        let fields = json!({ "privileged_roles": powers });
        fixture.sluice.admin.patch(&path, fields)
    };
    let person = fixture.person("first");
    fixture.grant(&person, REPLICA_TOKEN_ROLE, json!({ "expires": "1h" }));
    set("refuse");
    let mut login = fixture
        .token_login_as(&person, REPLICA_TOKEN_ROLE)
        .parameter("replication", "database");
    login.port = fixture.sluice.direct_port;
    let fault = login.open().err().expect("a refusal");
    assert_eq!(fault.code, "28000", "{fault:?}");

    set("allow");
    let mut ended = login.open().unwrap();
    let report = Revocation::of(&set("refuse"));
    assert_eq!((report.sessions_ended, report.unconfirmed), (1, 0));
    assert_eq!(ended.farewell().code, "57P01");
    set("allow");
    let mut client = login.open().unwrap();
    follow(
        &mut client,
        &format!("{}_token", fixture.database),
        "test_decoding",
        "",
    );
    fixture.remove_rule(&person, REPLICA_TOKEN_ROLE);
    let replies = client.receive_to_end();
    let told = |reply: &Reply| matches!(reply, Reply::Error(fault) if fault.code == "57P01");
    assert!(replies.iter().any(told), "{replies:?}");
    let sql = format!(
        "select 1 from pg_stat_activity where backend_type = 'walsender' and datname = '{}'",
        fixture.database
    );
    assert!(
        fixture.cluster.run(&sql).is_empty(),
        "the walsender lives on"
    );
}

#[test]
fn a_base_backup_comes_through() {
    // The program on the PATH may be older than the current server, which it then refuses.
    let fixture = Fixture::on(postgres::old(), Settings::default(), json!({}));
    let folder = tempfile::tempdir().unwrap();
    let login = as_role(&fixture, REPLICA_ROLE);
    let mut command = programs::program("pg_basebackup", &login);
    let output = command
        .args([
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
            "-D",
        ])
        .arg(folder.path().join("copy"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert!(folder.path().join("copy/backup_manifest").exists());
}
