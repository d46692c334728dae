//! Bad input gets a clear error, a non-zero exit status, and nothing is bound or lost.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, process::Output};

use crate::support::sluice::{Home, Settings, program, source};

/// What `serve` says to a configuration changed by `change`, which it must refuse without binding anything.
#[track_caller]
fn refused(change: impl FnOnce(&Home, String) -> String) -> String {
    let settings = Settings::default();
    let home = Home::new(&settings);
    let text = change(&home, settings.text());
    home.write("pooler.toml", &text);
    let output = home.serve().output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    told
}

fn line_of(text: &str, wanted: &str) -> usize {
    1 + text.lines().position(|line| line.contains(wanted)).unwrap()
}

#[test]
fn a_misspelt_key_is_named_with_file_line_and_the_nearest_key() {
    let mut line = 0;
    let told = refused(|_, text| {
        let text = text.replace("pooler = ", "poler = ");
        line = line_of(&text, "poler");
        text
    });
    assert!(told.contains(&format!("pooler.toml:{line}")), "{told}");
    assert!(
        told.contains("poler") && told.contains("did you mean pooler"),
        "{told}"
    );
}

#[test]
fn a_misspelt_section_is_named_with_the_nearest_one() {
    let told = refused(|_, text| text.replace("[listen]", "[listne]"));
    assert!(
        told.contains("listne") && told.contains("[listen]"),
        "{told}"
    );
}

#[test]
fn broken_toml_is_told_with_its_line() {
    let told = refused(|_, text| format!("{text}\n[limits\n"));
    assert!(
        told.contains("pooler.toml:") && told.contains("TOML"),
        "{told}"
    );
}

#[test]
fn a_value_that_makes_no_sense_is_told_with_its_key() {
    for (line, key) in [
        ("[timeouts]\nlogin = \"soon\"", "login"),
        ("[timeouts]\nlogin = 15", "login"),
        ("[limits]\nclients = -1", "clients"),
        ("[limits]\nclients = 0", "clients"),
        ("[log]\nformat = \"loud\"", "format"),
    ] {
        let told = refused(|_, text| format!("{text}\n{line}\n"));
        assert!(
            told.contains(key) && told.contains("pooler.toml:"),
            "{line}: {told}"
        );
    }
}

#[test]
fn a_missing_certificate_is_told_with_its_file() {
    for name in ["server.crt", "server.key", "ca.crt", "ca.key"] {
        let told = refused(|home, text| {
            fs::remove_file(home.path(name)).unwrap();
            text
        });
        assert!(told.contains(name), "{told}");
    }
}

#[test]
fn a_certificate_that_is_none_is_told_with_its_file() {
    for name in ["server.crt", "server.key", "ca.crt", "ca.key"] {
        let told = refused(|home, text| {
            home.write(name, "-----BEGIN NOTHING-----\n");
            text
        });
        assert!(told.contains(name), "{told}");
    }
}

#[test]
fn a_key_that_belongs_to_another_certificate_is_refused() {
    let told = refused(|home, text| {
        let other = crate::support::pki::authority().server(&["localhost"]);
        home.write("server.key", &other.key);
        text
    });
    assert!(told.contains("server.key"), "{told}");
}

#[test]
fn missing_secrets_are_told_with_how_to_make_them() {
    for key in ["catalog.key", "admin.key"] {
        let told = refused(|home, text| {
            fs::remove_file(home.path(key)).unwrap();
            text
        });
        assert!(told.contains(key), "{told}");
    }
    let told = refused(|_, text| text.replace("key_file = \"catalog.key\"", ""));
    assert!(
        told.contains("SLUICE_CATALOG_KEY") && told.contains("openssl rand -hex 32"),
        "{told}"
    );
}

#[test]
fn a_catalogue_that_cannot_be_reached_says_what_to_do() {
    let told = refused(|_, text| text.replace("\"sluice.db\"", "\"no/such/folder/sluice.db\""));
    assert!(told.contains("no/such/folder"), "{told}");
}

#[test]
fn nothing_is_bound_before_all_of_the_configuration_is_good() {
    // The port is taken *and* the certificate missing: a program that binds first would tell of the port.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings =
        Settings::default().set("listen.pooler", taken.local_addr().unwrap().to_string());
    let home = Home::new(&settings);
    fs::remove_file(home.path("server.crt")).unwrap();
    let output = home.serve().output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("server.crt"));
}

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

#[test]
fn a_missing_configuration_file_is_told_with_its_name() {
    let output = run(&["serve", "--config", "/no/such/pooler.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/pooler.toml"));
}

#[test]
fn a_configuration_can_be_checked_without_starting() {
    let home = Home::new(&Settings::default());
    let output = home.serve().arg("--check").output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    home.write("pooler.toml", "[listen]\npoler = 1\n");
    let output = home.serve().arg("--check").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_key_that_everybody_can_read_is_pointed_out() {
    let home = Home::new(&Settings::default());
    let warnings = |mode| {
        for name in ["catalog.key", "admin.key", "server.key", "ca.key"] {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(home.path(name), permissions).unwrap();
        }
        let output = home.serve().arg("--check").output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(warnings(0o644).matches("warning: ").count(), 4);
    assert_eq!(warnings(0o640), "");
}

#[test]
fn the_example_configuration_is_good_once_the_keys_are_given() {
    let home = Home::new(&Settings::default());
    let example = fs::read_to_string(source("pooler.toml.example")).unwrap();
    home.write("pooler.toml", &example);
    let mut check = home.serve();
    check
        .arg("--check")
        .env("SLUICE_ADMIN_KEY", "a-key-of-the-administrator");
    let output = check
        .env("SLUICE_CATALOG_KEY", "0".repeat(64))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_command_typed_wrongly_is_told_apart_from_one_that_failed() {
    assert_eq!(run(&["serve", "--no-such-option"]).status.code(), Some(2));
    assert_eq!(run(&["no-such-command"]).status.code(), Some(2));
    let unreachable = run(&[
        "tenant",
        "list",
        "--admin-url",
        "http://127.0.0.1:1",
        "--admin-key",
        "any-key-of-16-characters",
    ]);
    assert_eq!(unreachable.status.code(), Some(1));
    let told = String::from_utf8_lossy(&unreachable.stderr);
    assert!(told.contains("127.0.0.1:1"), "{told}");
}
