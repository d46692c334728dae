//! The audit trail answers who, when, as which role, from where, and what ended it.

use serde_json::{Value, json};

use crate::support::{
    Fixture, Person, eventually,
    fixture::text,
    postgres::{PASSWORD_ROLE, TOKEN_ROLE},
    sluice::Settings,
};

/// The newest row of this kind, once it is there.
#[track_caller]
fn row(fixture: &Fixture, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("an audit row {kind}"), || {
        let rows = fixture.sluice.admin.audit(&fixture.tenant);
        rows.into_iter()
            .find(|row| row["kind"] == kind && fits(row))
    })
}

fn of(person: &Person) -> impl Fn(&Value) -> bool {
    let id = person.id.clone();
    move |row| row["person"] == id.as_str()
}

fn anybodys(_: &Value) -> bool {
    true
}

#[test]
fn a_token_session_leaves_its_start_and_its_end() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let client = fixture.token_client(&person).unwrap();
    let peer = format!("127.0.0.1:{}", client.local_port());
    let start = row(&fixture, "auth.succeeded", of(&person));
    assert_eq!(start["role"], TOKEN_ROLE);
    assert_eq!(start["token"], person.token_id);
    assert_eq!(start["peer"], peer);
    assert_eq!(start["outcome"], "success");
    assert_eq!(start["email"], person.email);
    drop(client);
    let end = row(&fixture, "session.ended", of(&person));
    assert_eq!(end["session"], start["session"]);
}

#[test]
fn a_password_session_leaves_its_start_and_its_end() {
    let fixture = Fixture::start();
    drop(fixture.password_client().unwrap());
    let start = row(&fixture, "auth.succeeded", anybodys);
    assert_eq!(
        (&start["role"], &start["person"]),
        (&json!(PASSWORD_ROLE), &Value::Null)
    );
    let end = row(&fixture, "session.ended", anybodys);
    assert_eq!(end["session"], start["session"]);
}

#[test]
fn a_refused_login_leaves_the_reason() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    fixture.token_client(&person).err().unwrap();
    let denied = row(&fixture, "auth.denied", of(&person));
    assert_eq!(
        (&denied["outcome"], &denied["reason"]),
        (&json!("failure"), &json!("no_rule"))
    );

    fixture
        .password_login()
        .password("wrong")
        .open()
        .err()
        .unwrap();
    row(&fixture, "auth.denied", |row| row["role"] == PASSWORD_ROLE);
}

#[test]
fn a_revocation_leaves_who_did_it_and_what_it_ended() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    fixture.remove_rule(&person, TOKEN_ROLE);
    client.farewell();
    let removed = row(&fixture, "rule.removed", of(&person));
    assert!(!text(&removed["actor"]).is_empty());
    let ended = row(&fixture, "session.ended", of(&person));
    assert!(text(&ended["reason"]).contains("revoked"), "{ended}");
}

#[test]
fn administrative_changes_are_in_the_trail_with_their_actor() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    fixture
        .sluice
        .admin
        .set_token_access(&fixture.tenant, "disabled");
    fixture
        .sluice
        .admin
        .delete(&format!("/v1/tokens/{}", person.token_id));
    let everything = fixture.sluice.admin.get("/v1/audit?limit=1000");
    let rows = everything["rows"].as_array().unwrap();
    for kind in [
        "tenant.created",
        "person.created",
        "token.created",
        "token.revoked",
    ] {
        let row = rows.iter().find(|row| row["kind"] == kind);
        let row = row.unwrap_or_else(|| panic!("no {kind} in {rows:?}"));
        assert!(!text(&row["actor"]).is_empty(), "{row}");
    }
}

#[test]
fn the_trail_is_chained_and_an_edit_shows() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    drop(fixture.token_client(&person).unwrap());
    row(&fixture, "session.ended", of(&person));
    let shown = fixture.sluice.cli(&["audit", "verify"]);
    assert!(!shown.is_empty());

    let edit = "update audit set actor = 'nobody' where seq = 2";
    assert_eq!(change_the_trail(&fixture, edit), 1);
    let output = fixture
        .sluice
        .command(&["audit", "verify"])
        .output()
        .unwrap();
    assert!(!output.status.success(), "an edit went unnoticed");
}

/// Changes the trail, the table `audit`, behind Sluice's back. Answers how many rows were changed.
fn change_the_trail(fixture: &Fixture, sql: &str) -> u64 {
    use sqlx::Connection;
    let database = fixture.sluice.home().path("sluice.db");
    let url = format!("sqlite://{}", database.display());
    let change = async {
        let mut catalogue = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let changed = sqlx::query(sql).execute(&mut catalogue).await;
        changed.unwrap().rows_affected()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(change)
}

#[test]
fn where_logins_must_be_on_record_nobody_gets_in_unrecorded() {
    let fixture = Fixture::with(Settings::default().set("audit.logins", "required"));
    let mut client = fixture.password_client().unwrap();
    let seen = fixture.sluice.admin.audit(&fixture.tenant);
    assert!(
        seen.iter().any(|row| row["kind"] == "auth.succeeded"),
        "{seen:?}"
    );

    let full =
        "create trigger no_room before insert on audit begin select raise(fail, 'disk full'); end";
    change_the_trail(&fixture, full);
    let fault = fixture.password_client().err().expect("a refusal");
    assert_eq!(fault.code, "57P03");
    assert_eq!(fault.message, "cannot record the login at the moment");
    assert_eq!(client.value("select 1"), "1", "who is in stays in");
    change_the_trail(&fixture, "drop trigger no_room");
    assert!(fixture.password_client().is_ok());
}

#[test]
fn the_command_line_answers_who_did_what() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    drop(fixture.token_client(&person).unwrap());
    row(&fixture, "session.ended", of(&person));
    let shown = fixture
        .sluice
        .cli(&["audit", "list", "--tenant", &fixture.tenant]);
    for word in ["auth.succeeded", "session.ended", &person.email, TOKEN_ROLE] {
        assert!(shown.contains(word), "no {word} in {shown}");
    }
}

/// Who was in, as the command line says it: person or dash, and until when.
fn who(fixture: &Fixture, at: &str) -> Vec<(String, Value)> {
    let arguments = [
        "audit",
        "who",
        "--tenant",
        &fixture.tenant,
        "--at",
        at,
        "--json",
    ];
    let found: Value = serde_json::from_str(&fixture.sluice.cli(&arguments)).unwrap();
    let sessions = found["sessions"].as_array().unwrap().iter();
    let one = |session: &Value| {
        let email = session["start"]["email"].as_str().unwrap_or("-");
        (email.to_owned(), session["end"].clone())
    };
    sessions.map(one).collect()
}

fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    now.format(&time::format_description::well_known::Rfc3339)
        .unwrap()
}

#[test]
fn who_was_in_is_known_for_every_moment_also_after_a_crash() {
    let fixture = Fixture::start();
    let first = fixture.granted("first");
    let second = fixture.granted("second");
    let empty = now();
    let mut leaving = fixture.token_client(&first).unwrap();
    let _staying = fixture.token_client(&second).unwrap();
    row(&fixture, "auth.succeeded", of(&second));
    let both = now();
    fixture.remove_rule(&first, TOKEN_ROLE);
    leaving.farewell();
    row(&fixture, "session.ended", of(&first));
    let one = now();

    let names = |at| -> Vec<String> { who(&fixture, at).into_iter().map(|one| one.0).collect() };
    assert_eq!(names(&empty), [] as [String; 0]);
    assert_eq!(names(&both), [first.email.clone(), second.email.clone()]);
    let ends = who(&fixture, &both);
    assert_eq!(ends[0].1["reason"], "revoked");
    assert_eq!(ends[1].1, json!({ "state": "open" }));
    assert_eq!(names(&one), std::slice::from_ref(&second.email));

    fixture.sluice.signal("KILL");
    fixture.sluice.wait_for_end();
    let down = now();
    fixture.sluice.start_again();
    let ends = who(&fixture, &down);
    assert_eq!(ends[0].0, second.email);
    assert_eq!(ends[0].1["state"], "not_recorded");
    assert!(text(&ends[0].1["before"]) > down, "{ends:?}");
    assert_eq!(names(&now()), [] as [String; 0]);

    let arguments = ["audit", "who", "--tenant", &fixture.tenant, "--at", &both];
    let shown = fixture.sluice.cli(&arguments);
    for word in [
        &first.email,
        "(revoked)",
        "(Sluice had stopped)",
        TOKEN_ROLE,
        "127.0.0.1:",
    ] {
        assert!(shown.contains(word), "no {word} in {shown}");
    }
}

#[test]
fn a_timeline_tells_one_persons_story_in_order() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    fixture.granted("second");
    let mut client = fixture.token_client(&person).unwrap();
    fixture.remove_rule(&person, TOKEN_ROLE);
    client.farewell();
    row(&fixture, "session.ended", of(&person));
    let arguments = ["audit", "timeline", &person.email, "--since", "1h"];
    let shown = fixture.sluice.cli(&arguments);
    let mut rest = shown.as_str();
    for kind in [
        "person.created",
        "token.created",
        "member.set",
        "rule.created",
        "auth.succeeded",
        "rule.removed",
    ] {
        rest = rest
            .split_once(kind)
            .unwrap_or_else(|| panic!("no {kind} at its place in {shown}"))
            .1;
    }
    assert!(shown.contains("session.ended"), "{shown}");
    assert!(!shown.contains("second"), "{shown}");
}

#[test]
fn an_export_is_all_rows_of_the_time_asked_for_one_a_line() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let since = now();
    drop(fixture.token_client(&person).unwrap());
    row(&fixture, "session.ended", of(&person));
    let lines = |arguments: &[&str]| -> Vec<Value> {
        let exported = fixture
            .sluice
            .cli(&[&["audit", "export"], arguments].concat());
        let lines = exported.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let all = lines(&[]);
    assert_eq!(all[0]["seq"], 1);
    for pair in all.windows(2) {
        assert_eq!(pair[0]["hash"], pair[1]["prev_hash"], "{pair:?}");
    }
    let kinds =
        |rows: &[Value]| -> Vec<String> { rows.iter().map(|row| text(&row["kind"])).collect() };
    let some = lines(&["--since", &since, "--tenant", &fixture.tenant]);
    assert_eq!(kinds(&some), ["auth.succeeded", "session.ended"]);
    assert_eq!(lines(&["--until", "1d"]), [] as [Value; 0]);
    let ends = lines(&["--person", &person.id, "--kind", "session.ended"]);
    assert_eq!(kinds(&ends), ["session.ended"]);
}

#[test]
fn a_reader_that_has_seen_enough_of_what_is_printed_is_no_failure_but_a_full_disk_is() {
    let fixture = Fixture::start();
    for arguments in [
        &["audit", "export"][..],
        &["audit", "list"],
        &["openapi"],
        &["health"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = fixture.sluice.command(arguments);
        let output = command.stdout(writer).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.success() && said.is_empty(),
            "{arguments:?}: {said}"
        );
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut command = fixture.sluice.command(arguments);
        let output = command.stdout(full.unwrap()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            said.starts_with("error: cannot write: No space left on device"),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn a_signed_checkpoint_is_held_against_the_trail() {
    let fixture = Fixture::start();
    let sluice = &fixture.sluice;
    let printed = sluice.cli(&["audit", "checkpoint"]);
    let checkpoint = printed.trim_end();
    let verify = |checkpoint: &str| {
        let arguments = ["audit", "verify", "--checkpoint", checkpoint];
        let output = sluice.command(&arguments).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), said)
    };
    let (status, said) = verify(checkpoint);
    assert_eq!(status, Some(0), "{said}");
    let logged = eventually("a checkpoint in the log", || {
        let log = sluice.log();
        let mut words = log.split_whitespace();
        words.find_map(|word| word.strip_prefix("checkpoint=").map(str::to_owned))
    });
    assert_eq!(logged.split(':').count(), 3, "{logged}");
    assert_eq!(verify(&logged).0, Some(0), "{logged}");
    let (row, signature) = checkpoint.rsplit_once(':').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let (status, said) = verify(&format!("{row}:{other}{}", &signature[1..]));
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("was not signed with this trail's key"),
        "{said}"
    );
    let key = sluice.cli(&["audit", "checkpoint", "--key"]);
    assert!(key.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{key}");
}

#[test]
fn the_end_of_a_session_says_what_it_did_and_how_fast_a_revocation_was() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    client.query("begin").unwrap();
    client.query("select 1").unwrap();
    fixture.remove_rule(&person, TOKEN_ROLE);
    client.farewell();
    let ended = row(&fixture, "session.ended", of(&person));
    let detail = &ended["detail"];
    assert!(detail["bytes_in"].as_u64().unwrap() > 0, "{ended}");
    assert!(detail["bytes_out"].as_u64().unwrap() > 0, "{ended}");
    let fatal = detail["revoke_to_fatal_ms"].as_f64().unwrap();
    let gone = detail["revoke_to_backend_gone_ms"].as_f64().unwrap();
    assert!(fatal > 0.0 && gone > 0.0, "{ended}");

    let other = fixture.granted("second");
    drop(fixture.token_client(&other).unwrap());
    let ended = row(&fixture, "session.ended", of(&other));
    assert_eq!(ended["detail"]["revoke_to_fatal_ms"], Value::Null);
}

#[test]
fn a_flood_of_refused_logins_is_one_row_of_the_trail_and_one_line_of_the_log() {
    let fixture = Fixture::start();
    let wrong = fixture.password_login().password("wrong");
    for _ in 0..30 {
        wrong.open().err().unwrap();
    }
    row(&fixture, "auth.denied", anybodys);
    let denied = |rows: Vec<Value>| -> Vec<Value> {
        let denied = rows.into_iter().filter(|row| row["kind"] == "auth.denied");
        denied.collect()
    };
    assert_eq!(denied(fixture.sluice.admin.audit(&fixture.tenant)).len(), 1);
    let log = fixture.sluice.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("login refused"))
        .collect();
    let asked = format!("tenant={} role=\"{PASSWORD_ROLE}\"", fixture.tenant);
    assert!(lines.len() == 1 && lines[0].contains(&asked), "{lines:?}");

    // Nothing that was counted is lost when Sluice stops.
    fixture.sluice.stop();
    fixture.sluice.start_again();
    let rows = denied(fixture.sluice.admin.audit(&fixture.tenant));
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[0]["detail"]["count"], 29, "{rows:?}");
    let shown = fixture
        .sluice
        .cli(&["audit", "list", "--kind", "auth.denied"]);
    assert!(shown.contains("refused (wrong_password) × 29"), "{shown}");
}
