//! Token mode: who gets in as whom, and what everybody else is told.

use serde_json::json;

use crate::support::{
    Client, Fixture, Login,
    fixture::text,
    login::startup,
    postgres::{self, PASSWORD_ROLE, SECRET_ROLE, TOKEN_ROLE},
    programs::psql_value,
    until,
};

#[test]
fn a_token_opens_a_session_as_the_granted_role() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    assert_eq!(client.asked, ["cleartext"]);
    assert_eq!(client.value("select current_user"), TOKEN_ROLE);
    assert_eq!(
        psql_value(
            &fixture.token_login(&person).database(&fixture.database),
            "select session_user"
        ),
        TOKEN_ROLE
    );
}

#[test]
fn the_option_is_understood_in_every_spelling_and_consumed() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    for options in [
        "-c jit=true",
        "-cjit=true",
        "--jit=true",
        "-c jit=on",
        "-c jit=YES",
        "-c jit=1",
        "-c work_mem=1MB -c jit=True",
    ] {
        let mut client = fixture
            .token_login(&person)
            .options(options)
            .open()
            .unwrap();
        assert_eq!(client.asked, ["cleartext"], "{options}");
        let source = client.value("select source from pg_settings where name = 'jit'");
        assert_ne!(source, "client", "{options} reached the server");
    }
}

#[test]
fn the_option_turned_off_is_postgresqls_own_setting() {
    let fixture = Fixture::start();
    for value in ["off", "false", "0"] {
        let login = fixture.password_login().options(&format!("-c jit={value}"));
        let mut client = login.encrypted().open().unwrap();
        assert!(client.asked[0].contains("SCRAM"), "{:?}", client.asked);
        assert_eq!(client.value("show jit"), "off");
    }
}

#[test]
fn without_encryption_a_token_login_ends_before_a_password_is_asked_for() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let login = fixture.token_login(&person);
    let mut client = Client::connect(login.port).unwrap();
    client.send(startup(login.version, &login.parameters));
    let (bytes, _) = client.receive_all();
    // One ErrorResponse is all there is; an authentication request would start with 'R'.
    assert_eq!(bytes[0], b'E', "{:?}", String::from_utf8_lossy(&bytes));
    let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
    assert_eq!(bytes.len(), 1 + length);
    let said = String::from_utf8_lossy(&bytes);
    for field in [
        "SFATAL\0",
        "VFATAL\0",
        "C28000\0",
        "Mtemporary access requires an encrypted connection\0",
    ] {
        assert!(said.contains(field), "no {field:?} in {said:?}");
    }
}

#[test]
fn on_the_direct_listener_a_token_needs_no_option_and_passwords_keep_scram() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let direct = |role: &str, secret: &str| {
        Login::new(fixture.sluice.direct_port, role, secret)
            .encrypted()
            .server_name(&format!("db.{}.example.com", fixture.tenant))
    };
    let mut client = direct(TOKEN_ROLE, &person.token).open().unwrap();
    assert_eq!(client.asked, ["cleartext"]);
    assert_eq!(client.value("select current_user"), TOKEN_ROLE);
    let client = direct(PASSWORD_ROLE, postgres::PASSWORD).open().unwrap();
    assert!(client.asked[0].contains("SCRAM"), "{:?}", client.asked);
}

#[test]
fn a_token_is_worth_nothing_as_a_password() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let login = fixture
        .role_login(PASSWORD_ROLE)
        .password(&person.token)
        .encrypted();
    assert_eq!(login.open().err().unwrap().code, "28P01");
}

#[test]
fn the_session_list_names_the_person_the_role_and_the_end_of_the_grant() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let login = fixture
        .token_login(&person)
        .parameter("application_name", "tests");
    let _client = login.open().unwrap();
    let sessions = fixture.sluice.admin.sessions(&fixture.tenant);
    let [session] = &sessions[..] else {
        panic!("{sessions:?}");
    };
    assert_eq!(session["email"], person.email);
    assert_eq!(session["person"], person.id);
    assert_eq!(session["role"], TOKEN_ROLE);
    assert_eq!(session["database"], fixture.database);
    assert_eq!(session["token"], person.token_id);
    assert!(session["expires_at"].is_string(), "{session}");
    let by_person = fixture
        .sluice
        .admin
        .get(&format!("/v1/sessions?person={}", person.id));
    assert_eq!(by_person["sessions"].as_array().unwrap().len(), 1);
}

#[test]
fn the_server_sees_the_person_in_the_application_name() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let login = fixture
        .token_login(&person)
        .parameter("application_name", "tests");
    let mut client = login.open().unwrap();
    client.query("begin").unwrap();
    let seen = &fixture.backends()[0].application_name;
    assert_eq!(*seen, format!("{}/tests", person.email));
}

#[test]
fn a_stored_role_secret_serves_token_sessions_where_certificates_are_not_set_up() {
    let fixture = Fixture::with_tenant(json!({ "login": "role_secret" }));
    fixture.set_password(&fixture.tenant, SECRET_ROLE, postgres::PASSWORD);
    let person = fixture.person("first");
    fixture.grant(&person, SECRET_ROLE, json!({ "expires": "1h" }));
    let mut client = fixture.token_login_as(&person, SECRET_ROLE).open().unwrap();
    let system_user = client.value("select system_user");
    assert_eq!(system_user, format!("scram-sha-256:{SECRET_ROLE}"));
}

#[test]
fn the_use_of_a_token_is_remembered_with_time_and_address() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let _client = fixture.token_client(&person).unwrap();
    until("the token's last use is known", || {
        let answer = fixture
            .sluice
            .admin
            .get(&format!("/v1/people/{}/tokens", person.id));
        let token = &answer["tokens"][0];
        token["last_used_at"].is_string() && text(&token["last_used_from"]) == "127.0.0.1"
    });
}
