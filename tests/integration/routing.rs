//! Which tenant, database and role a client means, and the settings it asks for at startup.

use serde_json::json;

use crate::support::{
    Fixture, Login,
    fixture::unique_name,
    login::Encryption,
    postgres::{PASSWORD, PASSWORD_ROLE},
};

#[test]
fn the_user_name_is_role_dot_ref_and_the_last_dot_decides() {
    let fixture = Fixture::start();
    let role = format!("dotted.{}", unique_name());
    fixture.cluster.run(&format!(
        "create role \"{role}\" login password '{PASSWORD}'"
    ));
    let mut client = fixture.role_login(&role).open().unwrap();
    assert_eq!(client.value("select current_user"), role);
}

#[test]
fn a_reference_option_names_the_tenant_of_a_plain_role() {
    let fixture = Fixture::start();
    let login = Login::new(fixture.sluice.port, PASSWORD_ROLE, PASSWORD);
    let tenant = &fixture.tenant;
    for options in [
        format!("reference={tenant}"),
        format!("-c reference={tenant}"),
        format!("-c work_mem=1MB reference={tenant}"),
    ] {
        let mut client = login.clone().options(&options).open().unwrap();
        assert_eq!(
            client.value("select current_user"),
            PASSWORD_ROLE,
            "{options}"
        );
    }
}

#[test]
fn the_server_name_of_the_encryption_names_the_tenant_of_a_plain_role() {
    let fixture = Fixture::start();
    let login = Login::new(fixture.sluice.port, PASSWORD_ROLE, PASSWORD);
    let tenant = &fixture.tenant;
    for name in [
        format!("{tenant}.pooler.example.com"),
        format!("db.{tenant}.example.com"),
    ] {
        for encryption in [Encryption::Requested, Encryption::Direct] {
            let login = login.clone().encryption(encryption).server_name(&name);
            let mut client = login.open().unwrap();
            assert_eq!(client.value("select current_user"), PASSWORD_ROLE, "{name}");
        }
    }
}

#[test]
fn a_client_that_names_no_tenant_is_told_so_as_if_its_password_were_wrong() {
    let fixture = Fixture::start();
    let fault = Login::new(fixture.sluice.port, PASSWORD_ROLE, PASSWORD)
        .open()
        .err()
        .unwrap();
    assert_eq!(fault.code, "28P01", "{fault:?}");
    assert!(fault.hint.is_some(), "{fault:?}");
}

#[test]
fn the_database_is_the_clients_or_the_tenants() {
    let fixture = Fixture::start();
    let mut default = fixture.password_client().unwrap();
    assert_eq!(default.value("select current_database()"), fixture.database);
    let mut named = fixture
        .password_login()
        .database("postgres")
        .open()
        .unwrap();
    assert_eq!(named.value("select current_database()"), "postgres");
    let fault = fixture.password_login().database("missing").open();
    // Known at login or at the first query; either way PostgreSQL's own code.
    let fault = fault
        .and_then(|mut client| client.query("select 1"))
        .err()
        .unwrap();
    assert_eq!(fault.code, "3D000", "{fault:?}");
}

#[test]
fn startup_options_take_every_form_that_libpq_takes() {
    let fixture = Fixture::start();
    let options =
        r"-c DateStyle=SQL,\ DMY -cwork_mem=1234kB --statement-timeout=77s -c lock_timeout=5s";
    let mut client = fixture.password_login().options(options).open().unwrap();
    assert_eq!(client.value("show datestyle"), "SQL, DMY");
    assert_eq!(client.value("show work_mem"), "1234kB");
    assert_eq!(client.value("show statement_timeout"), "77s");
    assert_eq!(client.value("show lock_timeout"), "5s");
}

#[test]
fn startup_options_reach_no_other_client() {
    let fixture = Fixture::with_tenant(json!({ "pool_size": 1 }));
    let login = fixture.password_login();
    let mut first = login.clone().options("-c work_mem=1234kB").open().unwrap();
    let mut second = login.clone().options("-c work_mem=4321kB").open().unwrap();
    let mut third = login.open().unwrap();
    let untouched = third.value("select boot_val || unit from pg_settings where name = 'work_mem'");
    assert_eq!(untouched, "4096kB");
    for _ in 0..3 {
        assert_eq!(first.value("show work_mem"), "1234kB");
        assert_eq!(second.value("show work_mem"), "4321kB");
        assert_eq!(third.value("show work_mem"), "4MB");
    }
}

#[test]
fn an_unknown_switch_in_the_options_is_an_error_that_names_it() {
    let fixture = Fixture::start();
    let fault = fixture
        .password_login()
        .options("-Z 1")
        .open()
        .err()
        .unwrap();
    assert!(fault.message.contains("-Z"), "{fault:?}");
}

#[test]
fn parameters_of_the_startup_packet_are_reported_and_set() {
    let fixture = Fixture::start();
    let login = fixture
        .password_login()
        .parameter("application_name", "tests")
        .parameter("TimeZone", "Asia/Tokyo");
    let mut client = login.open().unwrap();
    assert_eq!(client.parameters["application_name"], "tests");
    assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo");
    assert_eq!(client.value("show timezone"), "Asia/Tokyo");
    assert_eq!(client.value("show application_name"), "tests");
    for name in [
        "server_version",
        "client_encoding",
        "standard_conforming_strings",
    ] {
        assert!(
            client.parameters.contains_key(name),
            "{name} is not reported"
        );
    }
}

#[test]
fn replication_is_refused_with_the_reason() {
    let fixture = Fixture::start();
    let fault = fixture
        .password_login()
        .parameter("replication", "database")
        .open()
        .err()
        .unwrap();
    assert_eq!(fault.code, "0A000", "{fault:?}");
    assert!(fault.message.contains("replication"), "{fault:?}");
}
