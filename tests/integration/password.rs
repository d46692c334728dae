//! Password mode: SCRAM towards the client, verifiers from the server or the catalogue, nothing learnt by guessing.

use postgres_protocol::message::frontend;
use serde_json::json;

use crate::support::{
    Fixture, Login, Reply,
    fixture::unique_name,
    login::{server_first, startup},
    postgres::{AUTH_ROLE, PASSWORD, PASSWORD_ROLE},
    programs::{psql_command, psql_value, succeeded},
    until,
};

#[test]
fn a_role_logs_in_with_the_verifier_that_its_server_keeps() {
    let fixture = Fixture::start();
    let mut client = fixture.password_client().unwrap();
    assert_eq!(client.asked, ["SCRAM-SHA-256"]);
    assert_eq!(client.value("select current_user"), PASSWORD_ROLE);
    assert_eq!(
        psql_value(
            &fixture
                .password_login()
                .database(&fixture.database)
                .encrypted(),
            "select 42"
        ),
        "42"
    );
}

#[test]
fn a_role_logs_in_with_the_password_that_the_catalogue_keeps() {
    let fixture = Fixture::with_tenant(json!({ "auth_user": null }));
    fixture.set_password(&fixture.tenant, PASSWORD_ROLE, PASSWORD);
    let mut client = fixture.password_client().unwrap();
    assert_eq!(client.value("select current_user"), PASSWORD_ROLE);
}

#[test]
fn a_role_logs_in_with_the_verifier_that_the_catalogue_keeps() {
    let fixture = Fixture::with_tenant(json!({ "auth_user": null }));
    let verifier = fixture.cluster.value(&format!(
        "select rolpassword from pg_authid where rolname = '{PASSWORD_ROLE}'"
    ));
    let path = format!(
        "/v1/tenants/{}/roles/{PASSWORD_ROLE}/secret",
        fixture.tenant
    );
    fixture
        .sluice
        .admin
        .put(&path, json!({ "verifier": verifier }));
    let mut client = fixture.password_client().unwrap();
    assert_eq!(client.value("select current_user"), PASSWORD_ROLE);
}

#[test]
fn over_tls_scram_is_bound_to_the_channel() {
    let fixture = Fixture::start();
    let mut login = fixture
        .password_login()
        .database(&fixture.database)
        .encrypted();
    login.bind_channel = true;
    let client = login.open().unwrap();
    assert_eq!(client.asked, ["SCRAM-SHA-256-PLUS,SCRAM-SHA-256"]);

    let mut psql = psql_command(&login);
    let output = psql
        .env("PGCHANNELBINDING", "require")
        .args(["-c", "select 1"])
        .output()
        .unwrap();
    assert_eq!(succeeded(&output).trim(), "1");
}

#[test]
fn password_users_keep_scram_whether_or_not_token_access_is_on() {
    let fixture = Fixture::start();
    for state in ["enabled", "disabled"] {
        fixture
            .sluice
            .admin
            .set_token_access(&fixture.tenant, state);
        for login in [
            fixture.password_login(),
            fixture.password_login().encrypted(),
        ] {
            let client = login.open().unwrap();
            assert!(
                client.asked[0].contains("SCRAM-SHA-256"),
                "{state}: {:?}",
                client.asked
            );
        }
    }
}

/// Everything that a failing login is told, with what changes from try to try blanked out.
fn refusal(login: &Login) -> Vec<Reply> {
    let mut client = login.connect();
    client.send(startup(login.version, &login.parameters));
    let mut replies = vec![client.receive()];
    let server_first = server_first(&mut client);
    let nonce = server_first
        .strip_prefix("r=")
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    let salt = server_first
        .split(",s=")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    let shape = server_first.replace(nonce, "NONCE").replace(salt, "SALT");
    replies.push(Reply::CommandComplete(format!(
        "{shape} {} {}",
        nonce.len(),
        salt.len()
    )));
    let last = format!("c=biws,r={nonce},p={}=", "A".repeat(43));
    client.send_messages(|out| frontend::sasl_response(last.as_bytes(), out).unwrap());
    replies.extend(client.receive_to_end());
    replies
}

/// What a login with this user name is told, with the name itself blanked out.
fn anonymous_refusal(fixture: &Fixture, user: &str) -> String {
    let login = fixture.password_login().user(user).encrypted();
    format!("{:?}", refusal(&login)).replace(user, "USER")
}

#[test]
fn a_wrong_password_and_unknown_roles_and_tenants_are_told_the_same_in_every_byte() {
    let fixture = Fixture::start();
    let tenant = &fixture.tenant;
    let wrong = anonymous_refusal(&fixture, &format!("{PASSWORD_ROLE}.{tenant}"));
    assert!(
        wrong.contains("28P01") && wrong.contains("password authentication failed"),
        "{wrong}"
    );
    for unknown in [
        format!("nobody_here.{tenant}"),
        format!("{PASSWORD_ROLE}.no-such-tenant"),
    ] {
        assert_eq!(anonymous_refusal(&fixture, &unknown), wrong, "{unknown}");
    }
}

#[test]
fn an_unknown_role_is_shown_the_same_salt_every_time() {
    let fixture = Fixture::start();
    let salt = |user: &str| {
        let login = fixture.password_login().user(user);
        let mut client = login.connect();
        client.send(startup(login.version, &login.parameters));
        client.receive();
        let first = server_first(&mut client);
        first.split(",s=").nth(1).unwrap().to_owned()
    };
    let ghost = format!("ghost.{}", fixture.tenant);
    assert_eq!(salt(&ghost), salt(&ghost));
    assert_ne!(salt(&ghost), salt(&format!("phantom.{}", fixture.tenant)));
}

#[test]
fn an_expired_password_is_refused() {
    let fixture = Fixture::start();
    let role = unique_name();
    let create = "login password 'secret' valid until '2020-01-01'";
    fixture.cluster.run(&format!("create role {role} {create}"));
    let login = fixture.role_login(&role).password("secret");
    let fault = login.open().err().unwrap();
    assert_eq!(fault.code, "28P01", "{fault:?}");
    // The same password, valid again: so it was the date.
    fixture
        .cluster
        .run(&format!("alter role {role} valid until 'infinity'"));
    until("the role may log in again", || login.open().is_ok());
}

#[test]
fn a_changed_password_takes_effect() {
    let fixture = Fixture::start();
    let role = unique_name();
    fixture
        .cluster
        .run(&format!("create role {role} login password 'before'"));
    let old = fixture.role_login(&role).password("before");
    let new = fixture.role_login(&role).password("after");
    assert_eq!(old.open().unwrap().value("select current_user"), role);
    fixture
        .cluster
        .run(&format!("alter role {role} password 'after'"));
    until("the new password is taken", || {
        new.open()
            .is_ok_and(|mut client| client.query("select 1").is_ok())
    });
    assert_eq!(old.open().err().unwrap().code, "28P01");
}

#[test]
fn hostile_names_and_settings_do_not_reach_the_query_for_verifiers() {
    let fixture = Fixture::start();
    let mut superuser = fixture.cluster.superuser(&fixture.database);
    // A table that answers everybody's verifier with the one of a known password, were it ever looked at.
    superuser
        .query(&format!(
            "create schema trap; grant usage on schema trap to public;
             create table trap.pg_authid as select * from pg_catalog.pg_authid;
             update trap.pg_authid set rolpassword = (select rolpassword from pg_catalog.pg_authid
               where rolname = '{PASSWORD_ROLE}');
             create view trap.pg_shadow as select rolname usename, rolpassword passwd from trap.pg_authid;
             grant select on all tables in schema trap to public;
             create role trapped_{0} login password 'unknown to the client'",
            fixture.tenant
        ))
        .unwrap();
    let victim = format!("trapped_{}", fixture.tenant);
    let login = fixture.role_login(&victim).options("-c search_path=trap");
    assert_eq!(login.open().err().unwrap().code, "28P01");

    for role in [
        "' or true --",
        "x'; drop table pg_authid; --",
        "\"quoted\"",
        AUTH_ROLE,
    ] {
        let fault = fixture
            .role_login(role)
            .password("wrong")
            .open()
            .err()
            .unwrap();
        assert_eq!(fault.code, "28P01", "{role}: {fault:?}");
    }
}

#[test]
fn a_role_without_the_right_to_log_in_is_refused() {
    let fixture = Fixture::start();
    let role = unique_name();
    fixture
        .cluster
        .run(&format!("create role {role} nologin password '{PASSWORD}'"));
    let refused = fixture
        .role_login(&role)
        .open()
        .and_then(|mut client| client.query("select 1"));
    assert!(refused.is_err());
}

#[test]
fn a_tenant_that_requires_encryption_refuses_plaintext() {
    let fixture = Fixture::with_tenant(json!({ "client_tls": "require" }));
    let login = fixture.password_login();
    let fault = login.open().err().unwrap();
    assert_eq!(fault.code, "28000", "{fault:?}");
    assert!(fault.message.contains("encrypted connection"), "{fault:?}");
    // Somebody who has proven nothing does not even learn that there is such a tenant.
    assert_eq!(
        login.clone().password("wrong").open().err().unwrap().code,
        "28P01"
    );
    assert!(login.encrypted().open().is_ok());
}
