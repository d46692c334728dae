//! The HTTP API and the command line: everything an administrator does, and what outsiders are refused.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Fixture, eventually,
    fixture::{text, unique_name},
    postgres::{AUTH_ROLE, PASSWORD, TOKEN_ROLE},
    until,
};

#[test]
fn the_whole_job_can_be_done_from_the_command_line() {
    let fixture = Fixture::start();
    let cli = |arguments: &[&str]| fixture.sluice.cli(arguments);
    let tenant = unique_name() + "-cli";
    let home = fixture.sluice.home();
    home.write("password", PASSWORD);
    let (port, ca) = (
        fixture.cluster.port.to_string(),
        home.path("ca.crt").display().to_string(),
    );
    cli(&[
        "tenant",
        "add",
        &tenant,
        "--host",
        "127.0.0.1",
        "--port",
        &port,
        "--database",
        &fixture.database,
        "--login",
        "certificate",
        "--tls",
        "verify-full",
        "--ca",
        &ca,
        "--auth-user",
        AUTH_ROLE,
    ]);
    let password_file = home.path("password").display().to_string();
    cli(&[
        "tenant",
        "secret",
        "set",
        &tenant,
        AUTH_ROLE,
        "--password-file",
        &password_file,
    ]);
    cli(&["person", "add", "cli@example.com"]);
    cli(&["member", "add", &tenant, "cli@example.com"]);
    let shown = cli(&[
        "token",
        "create",
        "cli@example.com",
        "--name",
        "laptop",
        "--expires",
        "30d",
    ]);
    let token = shown
        .split_whitespace()
        .find(|word| word.starts_with("slp_"))
        .expect("a token")
        .to_owned();
    fixture.sluice.keep_secret(&token);
    cli(&["access", "enable", &tenant]);
    cli(&[
        "rule",
        "add",
        &tenant,
        "cli@example.com",
        TOKEN_ROLE,
        "--expires",
        "24h",
    ]);

    let login = fixture
        .role_login(TOKEN_ROLE)
        .user(&format!("{TOKEN_ROLE}.{tenant}"));
    let login = login.password(&token).options("-c jit=true").encrypted();
    let mut client = login.open().unwrap();
    assert_eq!(client.value("select current_user"), TOKEN_ROLE);
    let listed = cli(&["session", "list", "--tenant", &tenant]);
    assert!(
        listed.contains("cli@example.com") && listed.contains(TOKEN_ROLE),
        "{listed}"
    );
    let rules = cli(&["rule", "list", &tenant]);
    assert!(rules.contains("cli@example.com"), "{rules}");

    let removed = cli(&["rule", "remove", &tenant, "cli@example.com", TOKEN_ROLE]);
    assert!(
        removed.starts_with("rule removed; 1 session ended in "),
        "{removed}"
    );
    assert_eq!(client.farewell().code, "57P01");
    assert!(login.open().is_err());
    assert!(cli(&["audit", "list", "--tenant", &tenant]).contains("session.ended"));
    cli(&["audit", "verify"]);
    assert!(cli(&["access", "status", &tenant]).contains("enabled"));
    cli(&["access", "disable", &tenant]);
    assert!(cli(&["access", "status", &tenant]).contains("disabled"));
}

#[test]
fn every_list_is_json_for_programs() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let _client = fixture.token_client(&person).unwrap();
    let tenant = &*fixture.tenant;
    for arguments in [
        &["tenant", "list"][..],
        &["person", "list"],
        &["member", "list", tenant],
        &["token", "list", &person.email],
        &["rule", "list", tenant],
        &["session", "list"],
        &["audit", "list"],
        &["access", "status", tenant],
    ] {
        let output = fixture.sluice.cli(&[arguments, &["--json"]].concat());
        let value: Value =
            serde_json::from_str(&output).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        assert!(
            value.is_object() || value.is_array(),
            "{arguments:?}: {value}"
        );
    }
}

#[test]
fn everything_but_health_needs_the_admin_key() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    for key in [None, Some("another-key-of-somebody"), Some(&*person.token)] {
        let outsider = fixture.sluice.admin.with_key(key);
        for path in ["/v1/tenants", "/v1/people", "/v1/sessions", "/v1/audit"] {
            let answer = outsider.call(Method::GET, path, None);
            assert_eq!(answer.status, 401, "{path} with {key:?}");
        }
        let rule = fixture.rule_path(&person, TOKEN_ROLE);
        // Known, but nobody who manages access (`managers`).
        let is_member = key == Some(&*person.token);
        let refused = if is_member { 403 } else { 401 };
        assert_eq!(outsider.call(Method::DELETE, &rule, None).status, refused);
        for path in ["/health", "/ready"] {
            assert_eq!(outsider.call(Method::GET, path, None).status, 200, "{path}");
        }
    }
    assert!(
        fixture.token_client(&person).is_ok(),
        "the rule was removed after all"
    );
}

#[test]
fn bad_requests_are_told_what_is_wrong_and_change_nothing() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let rule = fixture.rule_path(&person, TOKEN_ROLE);
    let tenant = format!("/v1/tenants/{}", fixture.tenant);
    let cases = [
        (
            Method::PUT,
            &*rule,
            json!({ "expires": "3600" }),
            422,
            "unit",
        ),
        (Method::PUT, &rule, json!({ "expires": "91d" }), 422, "90"),
        (
            Method::PUT,
            &rule,
            json!({ "expires": "2020-01-01T00:00:00Z" }),
            422,
            "past",
        ),
        (
            Method::PUT,
            &rule,
            json!({ "expires": "1h", "network": [] }),
            400,
            "network",
        ),
        (
            Method::PUT,
            &rule,
            json!({ "expires": "1h", "networks": ["everywhere"] }),
            400,
            "10.0.0.0/8, 2001:db8::/32",
        ),
        (
            Method::POST,
            "/v1/people",
            json!({ "email": person.email }),
            409,
            "first@example.com",
        ),
        (
            Method::PUT,
            "/v1/tenants/missing/access",
            json!({ "state": "enabled" }),
            404,
            "missing",
        ),
        (
            Method::PATCH,
            &tenant,
            json!({ "host": 5 }),
            400,
            "`host` must be text",
        ),
        (
            Method::POST,
            "/v1/tenants",
            json!({ "ref": "UPPER CASE" }),
            400,
            "tenant ref",
        ),
    ];
    for (method, path, body, status, word) in cases {
        let answer = fixture
            .sluice
            .admin
            .call(method.clone(), path, Some(body.clone()));
        let sort = if status == 400 {
            [400, 422]
        } else {
            [status, status]
        };
        assert!(
            sort.contains(&answer.status),
            "{method} {path} {body}: {answer:?}"
        );
        assert!(
            answer.error().1.contains(word),
            "no word of {word}: {answer:?}"
        );
    }
    let rules = fixture.sluice.admin.get(&format!("{tenant}/rules"));
    assert_eq!(rules["rules"], json!([]));
}

#[test]
fn metrics_count_what_happens() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let mut client = fixture.token_client(&person).unwrap();
    client.query("select 1").unwrap();
    let metrics = || {
        fixture
            .sluice
            .admin
            .call(Method::GET, "/metrics", None)
            .text
    };
    let clients = format!("sluice_clients{{tenant=\"{}\"}} ", fixture.tenant);
    until("one client is counted", || {
        metrics().contains(&format!("{clients}1\n"))
    });
    let logins = metrics().lines().any(|line| {
        line.starts_with("sluice_logins_total{")
            && line.contains("method=\"token\"")
            && line.ends_with(" 1")
    });
    assert!(logins, "{}", metrics());
    fixture.remove_rule(&person, TOKEN_ROLE);
    client.farewell();
    until("the client is counted out", || {
        metrics().contains(&format!("{clients}0\n"))
    });
    assert!(
        metrics().contains("sluice_revocations_total 1\n"),
        "{}",
        metrics()
    );
    for line in metrics().lines() {
        assert!(
            !line.contains(&*person.email) && !line.contains(&person.token[16..]),
            "{line}"
        );
    }
}

#[test]
fn unknown_tenants_are_no_label_of_a_metric() {
    let fixture = Fixture::start();
    let login = fixture.password_login().user("app_user.no-such-tenant");
    assert!(login.open().is_err());
    // The client is told first, and then it is counted.
    let metrics = eventually("the login is counted", || {
        let answer = fixture.sluice.admin.call(Method::GET, "/metrics", None);
        answer
            .text
            .contains("sluice_logins_total")
            .then_some(answer.text)
    });
    assert!(!metrics.contains("no-such-tenant"), "{metrics}");
}

#[test]
fn a_tenant_that_is_pointed_elsewhere_serves_new_clients_from_there() {
    let fixture = Fixture::start();
    let path = format!("/v1/tenants/{}", fixture.tenant);
    fixture
        .sluice
        .admin
        .patch(&path, json!({ "default_database": "postgres" }));
    let mut client = fixture.password_client().unwrap();
    assert_eq!(client.value("select current_database()"), "postgres");
    let shown = fixture.sluice.admin.get(&path);
    assert_eq!(text(&shown["tenant"]["default_database"]), "postgres");
}
