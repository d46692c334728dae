//! Token mode: who gets in as whom, and what everybody else is told.

use std::net::Ipv4Addr;

use serde_json::json;

use crate::support::{
    Client, Fault, Fixture, Login,
    fixture::{text, unique_name},
    login::startup,
    postgres::{self, OTHER_TOKEN_ROLE, PASSWORD_ROLE, SECRET_ROLE, TOKEN_ROLE},
    programs::psql_value,
    sluice::Settings,
    until,
};

/// Asserts that the caller, who has proven who he is, is told why he is not let in.
#[track_caller]
fn denied(result: Result<Client, Fault>, role: &str, reason: &str) {
    let fault = result.err().expect("a refusal");
    assert_eq!(fault.code, "28000", "{fault:?}");
    assert_eq!(
        fault.message,
        format!("temporary access denied for role \"{role}\"")
    );
    let detail = fault.detail.clone().unwrap_or_default();
    assert!(
        detail.to_lowercase().contains(reason),
        "no word of {reason}: {fault:?}"
    );
    assert!(fault.hint.is_some(), "{fault:?}");
}

#[test]
fn a_token_opens_a_session_as_the_granted_role() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    assert_eq!(client.asked, ["cleartext"]);
    assert_eq!(client.value("select current_user"), TOKEN_ROLE);
    assert_eq!(
        psql_value(&fixture.token_login(&person), "select session_user"),
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
fn wrong_tokens_are_told_what_a_wrong_password_is_told() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let stranger = fixture.granted("second");
    let checksum_broken = &person.token[..person.token.len() - 1];
    let swapped = format!("{}{}", &person.token[..16], &stranger.token[16..]);
    let mut told = Vec::new();
    for wrong in ["", "no token at all", checksum_broken, &swapped, "slp_"] {
        let login = fixture.token_login(&person).password(wrong);
        told.push((login.open().err().unwrap(), wrong));
    }
    let unknown_role = fixture
        .role_login("nobody_here")
        .encrypted()
        .options("-c jit=true");
    told.push((
        unknown_role.password("wrong").open().err().unwrap(),
        "an unknown role",
    ));
    for (fault, wrong) in &told {
        assert_eq!(fault.code, "28P01", "{wrong}: {fault:?}");
        assert!(
            fault
                .message
                .starts_with("password authentication failed for user \""),
            "{fault:?}"
        );
        assert_eq!(fault.detail, None, "{wrong}");
        assert_eq!(fault.hint, told[0].0.hint, "{wrong}");
    }
}

#[test]
fn an_unknown_tenant_asks_for_a_token_as_a_known_one_does() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let known = fixture.token_login(&person).password("wrong");
    let unknown = known.clone().user(&format!("{TOKEN_ROLE}.no-such-tenant"));
    let transcript = |login: &Login| {
        let mut client = login.connect();
        client.send(startup(login.version, &login.parameters));
        client.send_messages(|out| {
            postgres_protocol::message::frontend::password_message(b"wrong", out).unwrap();
        });
        let (bytes, _) = client.receive_all();
        let user = &login
            .parameters
            .iter()
            .find(|(name, _)| name == "user")
            .unwrap()
            .1;
        String::from_utf8_lossy(&bytes[..9]).into_owned()
            + &String::from_utf8_lossy(&bytes[14..]).replace(user.as_str(), "USER")
    };
    assert_eq!(transcript(&known), transcript(&unknown));
}

#[test]
fn somebody_without_a_rule_for_the_role_is_denied() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let other = fixture.token_login_as(&person, OTHER_TOKEN_ROLE);
    denied(other.open(), OTHER_TOKEN_ROLE, "rule");
}

#[test]
fn a_person_who_is_no_member_is_denied() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let path = format!("/v1/tenants/{}/members/{}", fixture.tenant, person.id);
    fixture.sluice.admin.delete(&path);
    denied(fixture.token_client(&person), TOKEN_ROLE, "member");
}

#[test]
fn an_expired_rule_is_denied() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    fixture.grant(&person, TOKEN_ROLE, json!({ "expires": "1s" }));
    until("the rule has expired", || {
        fixture.token_client(&person).is_err()
    });
    denied(fixture.token_client(&person), TOKEN_ROLE, "expired");
}

#[test]
fn an_address_outside_the_rules_networks_is_denied() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let terms = json!({ "expires": "1h", "networks": ["127.0.0.8/29"] });
    fixture.grant(&person, TOKEN_ROLE, terms);
    denied(fixture.token_client(&person), TOKEN_ROLE, "network");
    let mut login = fixture.token_login(&person);
    login.socket.source = Some(Ipv4Addr::new(127, 0, 0, 9));
    assert_eq!(login.open().unwrap().value("select 1"), "1");
}

#[test]
fn the_tenants_networks_hold_for_every_token() {
    let fixture = Fixture::with_tenant(json!({ "networks": ["127.0.0.8/29"] }));
    let person = fixture.granted("first");
    denied(fixture.token_client(&person), TOKEN_ROLE, "network");
    assert!(
        fixture.password_client().is_ok(),
        "password users are not concerned"
    );
}

#[test]
fn the_address_behind_a_trusted_balancer_is_the_one_that_counts() {
    let trusted = toml::Value::Array(vec!["127.0.0.1/32".into()]);
    let fixture = Fixture::with(Settings::default().set("listen.proxy_protocol_from", trusted));
    let person = fixture.person("first");
    fixture.grant(
        &person,
        TOKEN_ROLE,
        json!({ "expires": "1h", "networks": ["203.0.113.0/24"] }),
    );
    let mut login = fixture.token_login(&person);
    login.proxy_header = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 6543\r\n".to_vec();
    assert!(login.open().is_ok());
    login.proxy_header = b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 6543\r\n".to_vec();
    denied(login.open(), TOKEN_ROLE, "network");
}

#[test]
fn a_rule_for_branches_only_holds_on_branches_only() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    fixture.grant(
        &person,
        TOKEN_ROLE,
        json!({ "expires": "1h", "reach": "branches_only" }),
    );
    denied(fixture.token_client(&person), TOKEN_ROLE, "branch");
    let branch = unique_name();
    fixture.add_tenant(&branch, json!({ "parent": fixture.tenant }));
    let login = fixture
        .token_login(&person)
        .user(&format!("{TOKEN_ROLE}.{branch}"));
    assert_eq!(
        login.open().unwrap().value("select current_user"),
        TOKEN_ROLE
    );
}

#[test]
fn token_access_that_is_off_is_denied_and_back_on_restores_the_rules() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    fixture
        .sluice
        .admin
        .set_token_access(&fixture.tenant, "disabled");
    denied(fixture.token_client(&person), TOKEN_ROLE, "");
    assert!(
        fixture.password_client().is_ok(),
        "password users are not concerned"
    );
    fixture
        .sluice
        .admin
        .set_token_access(&fixture.tenant, "enabled");
    assert!(fixture.token_client(&person).is_ok());
}

#[test]
fn a_revoked_or_expired_token_opens_nothing_while_another_of_the_person_does() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let (second_id, second) = fixture.token(&person.id, "1d");
    let (_, short) = fixture.token(&person.id, "1s");
    fixture
        .sluice
        .admin
        .delete(&format!("/v1/tokens/{second_id}"));
    let with = |token: &str| fixture.token_login(&person).password(token).open();
    assert!(with(&second).is_err());
    until("the short token has expired", || with(&short).is_err());
    assert!(with(&person.token).is_ok());
}

#[test]
fn a_server_older_than_17_takes_password_users_and_no_tokens() {
    let fixture = Fixture::on(postgres::old(), Settings::default(), json!({}));
    let person = fixture.granted("first");
    denied(fixture.token_client(&person), TOKEN_ROLE, "17");
    let mut client = fixture.password_client().unwrap();
    assert_eq!(client.value("select current_user"), PASSWORD_ROLE);
}

#[test]
fn privileged_roles_are_granted_only_where_the_tenant_allows_it() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    for role in ["postgres", "pg_read_all_data"] {
        let path = fixture.rule_path(&person, role);
        let answer = fixture.sluice.admin.call(
            reqwest::Method::PUT,
            &path,
            Some(json!({ "expires": "1h" })),
        );
        assert!((400..500).contains(&answer.status), "{role}: {answer:?}");
    }
    let superuser = unique_name();
    fixture.cluster.run(&format!(
        "create role {superuser} login superuser in role jit_assumable"
    ));
    let path = fixture.rule_path(&person, &superuser);
    let answer = fixture.sluice.admin.call(
        reqwest::Method::PUT,
        &path,
        Some(json!({ "expires": "1h" })),
    );
    if answer.status < 300 {
        // The API need not ask the server who is a superuser; then the login is where it shows.
        let login = fixture.token_login_as(&person, &superuser);
        let opened = login.open().and_then(|mut client| client.query("select 1"));
        assert_eq!(opened.expect_err("a refusal").code, "28000");
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
fn a_token_put_into_the_wrong_field_stays_out_of_the_log() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    // The log is searched for every token when the fixture goes.
    let login = fixture.token_login(&person);
    let _ = login.clone().user(&person.token).open();
    let _ = login
        .clone()
        .user(&format!("{}.{}", person.token, fixture.tenant))
        .open();
    let _ = login
        .clone()
        .user(&format!("{TOKEN_ROLE}.{}", person.token))
        .open();
    let _ = login
        .clone()
        .database(&person.token)
        .open()
        .and_then(|mut c| c.query("select 1"));
    let _ = login
        .clone()
        .options(&format!("-c jit=true -c {}=1", person.token))
        .open();
    let _ = login.options(&format!("reference={}", person.token)).open();
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
