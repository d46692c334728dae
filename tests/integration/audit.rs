//! The audit trail answers who, when, as which role, from where, and what ended it.

use serde_json::{Value, json};

use crate::support::{
    Fixture, Person, eventually,
    fixture::text,
    postgres::{PASSWORD_ROLE, TOKEN_ROLE},
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

    let database = fixture.sluice.home().path("sluice.db");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(edit_a_row(&format!("sqlite://{}", database.display())));
    let output = fixture
        .sluice
        .command(&["audit", "verify"])
        .output()
        .unwrap();
    assert!(!output.status.success(), "an edit went unnoticed");
}

async fn edit_a_row(url: &str) {
    use sqlx::Connection;
    let mut catalogue = sqlx::SqliteConnection::connect(url).await.unwrap();
    let table = sqlx::query_scalar::<_, String>(
        "select name from sqlite_master where type = 'table' and name like 'audit%'",
    );
    let table = table.fetch_one(&mut catalogue).await.unwrap();
    let edit = format!("update {table} set actor = 'nobody' where seq = 2");
    let edited = sqlx::query(&edit).execute(&mut catalogue).await;
    assert_eq!(edited.unwrap().rows_affected(), 1);
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
