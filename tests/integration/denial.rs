//! Token mode: who does not get in, and what they are told.

use std::net::Ipv4Addr;

use postgres_protocol::message::frontend;
use serde_json::json;

use crate::support::{
    Client, Fault, Fixture, Login,
    admin::Revocation,
    fixture::unique_name,
    login::startup,
    postgres::{
        self, AUTH_ROLE, OTHER_TOKEN_ROLE, PASSWORD, PASSWORD_ROLE, SECRET_ROLE, TOKEN_ROLE,
    },
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
fn wrong_tokens_are_told_what_a_wrong_password_is_told() {
    let fixture = Fixture::start();
    let person = fixture.granted("first");
    let stranger = fixture.granted("second");
    let checksum_broken = &person.token[..person.token.len() - 1];
    let swapped = format!("{}{}", &person.token[..16], &stranger.token[16..]);
    let mut told = Vec::new();
    for wrong in ["no token at all", checksum_broken, &swapped, "slp_"] {
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
            frontend::password_message(b"wrong", out).unwrap();
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
    // Who may look up verifiers has everybody's.
    for role in ["postgres", "pg_read_all_data", AUTH_ROLE] {
        let path = fixture.rule_path(&person, role);
        let answer = fixture.sluice.admin.call(
            reqwest::Method::PUT,
            &path,
            Some(json!({ "expires": "1h" })),
        );
        assert_eq!(answer.status, 422, "{role}: {answer:?}");
        assert_eq!(answer.error().0, "privileged_role");
    }
}

#[test]
fn a_rule_for_a_role_that_the_server_lacks_is_made_with_a_warning() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let missing = unique_name();
    let path = format!("/v1/tenants/{}/rules", fixture.tenant);
    let add = |role: &str, reach: &str| {
        let rule = json!({ "person": person.id, "role": role, "expires": "1h", "reach": reach });
        fixture.sluice.admin.post(&path, rule)["warning"].clone()
    };
    let warning = add(&missing, "everywhere");
    let warning = warning.as_str().unwrap();
    assert!(
        warning.contains(&format!("has no role `{missing}`")),
        "{warning}"
    );
    assert!(add(TOKEN_ROLE, "everywhere").is_null());
    // Branches have servers of their own.
    assert!(add(&unique_name(), "branches_only").is_null());
    let terms = json!({ "expires": "1h" });
    let put = fixture.grant(&person, &unique_name(), terms);
    assert!(put["warning"].is_string(), "{put}");
    let email = &person.email;
    let role = unique_name();
    let shown = fixture.sluice.cli(&[
        "rule",
        "add",
        &fixture.tenant,
        email,
        &role,
        "--expires",
        "1h",
    ]);
    assert!(
        shown.contains(&format!(
            "warning: the server of `{}` has no role `{role}`",
            fixture.tenant
        )),
        "{shown}"
    );
}

#[test]
fn a_role_whose_password_is_kept_tells_about_itself_and_others() {
    let fixture = Fixture::with_tenant(json!({ "login": "role_secret", "auth_user": null }));
    let person = fixture.person("first");
    let powerful = unique_name();
    fixture.cluster.run(&format!(
        "create role {powerful} login createrole password '{PASSWORD}'"
    ));
    let add = |role: &str| {
        let path = format!("/v1/tenants/{}/rules", fixture.tenant);
        let rule = json!({ "person": person.id, "role": role, "expires": "1h" });
        let admin = &fixture.sluice.admin;
        admin.call(reqwest::Method::POST, &path, Some(rule))
    };
    fixture.set_password(&fixture.tenant, &powerful, PASSWORD);
    assert_eq!(add(&powerful).error().0, "privileged_role");
    fixture.set_password(&fixture.tenant, SECRET_ROLE, PASSWORD);
    assert!(add(SECRET_ROLE).value()["warning"].is_null());
    assert!(add(&unique_name()).value()["warning"].is_string());
}

/// Attributes that make a role a privileged one, whatever its name.
const POWERS: [&str; 3] = ["superuser", "replication", "createrole"];

#[test]
fn roles_that_the_server_calls_privileged_are_not_granted() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let admin = &fixture.sluice.admin;
    for power in POWERS {
        let role = unique_name();
        let above = format!("{role}_above");
        fixture.cluster.run(&format!(
            "create role {above} {power}; create role {role} login in role jit_assumable, {above}"
        ));
        for role in [&role, &above] {
            let rules = format!("/v1/tenants/{}/rules", fixture.tenant);
            let jit = format!("/v1/projects/{}/database/jit", fixture.tenant);
            let asked = [
                (
                    reqwest::Method::POST,
                    rules,
                    json!({ "person": person.id, "role": role, "expires": "1h" }),
                ),
                (
                    reqwest::Method::PUT,
                    fixture.rule_path(&person, role),
                    json!({ "expires": "1h" }),
                ),
                (
                    reqwest::Method::PUT,
                    jit.clone(),
                    json!({ "user_id": person.id, "roles": [{ "role": role }] }),
                ),
                (
                    reqwest::Method::POST,
                    format!("{jit}/invite"),
                    json!({ "email": "guest@example.com", "roles": [{ "role": role }] }),
                ),
            ];
            for (method, path, body) in asked {
                let refused = admin.call(method, &path, Some(body));
                assert_eq!(refused.status, 422, "{power}, {path}: {refused:?}");
                assert_eq!(refused.error().0, "privileged_role");
            }
        }
    }
    let tenant = format!("/v1/tenants/{}", fixture.tenant);
    admin.patch(&tenant, json!({ "privileged_roles": "allow" }));
    let role = unique_name();
    fixture.cluster.run(&format!(
        "create role {role} login createrole in role jit_assumable"
    ));
    fixture.grant(&person, &role, json!({ "expires": "1h" }));
    assert!(fixture.token_login_as(&person, &role).open().is_ok());
}

#[test]
fn a_password_that_a_person_gives_their_role_outlives_no_rule() {
    let fixture = Fixture::start();
    let (role, own) = (unique_name(), "one-of-my-own");
    fixture
        .cluster
        .run(&format!("create role {role} login in role jit_assumable"));
    let person = fixture.person("first");
    fixture.grant(&person, &role, json!({ "expires": "1h" }));
    let mut client = fixture.token_login_as(&person, &role).open().unwrap();
    let change = format!("alter role {role} password '{own}'");
    client.query(&change).unwrap();
    fixture.remove_rule(&person, &role);
    let pooled = fixture.role_login(&role).password(own).encrypted().open();
    let refused = pooled.err().unwrap();
    assert!(refused.message.contains("certificate"), "{refused:?}");
    let direct = Login::new(fixture.cluster.port, &role, own).database(&fixture.database);
    let refused = direct.encrypted().open().err().unwrap();
    assert!(refused.message.contains("certificate"), "{refused:?}");
}

#[test]
fn a_role_that_has_become_privileged_since_is_denied_at_the_login() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    for power in POWERS {
        let role = unique_name();
        fixture
            .cluster
            .run(&format!("create role {role} login in role jit_assumable"));
        fixture.grant(&person, &role, json!({ "expires": "1h" }));
        fixture.cluster.run(&format!("alter role {role} {power}"));
        denied(
            fixture.token_login_as(&person, &role).open(),
            &role,
            "privileged",
        );
    }
}

#[test]
fn refusing_privileged_roles_ends_the_sessions_and_backends_of_such_roles() {
    let fixture = Fixture::with_tenant(json!({ "privileged_roles": "allow" }));
    let person = fixture.granted("first");
    let (superuser, maker) = (unique_name(), unique_name());
    fixture.cluster.run(&format!(
        "create role {superuser} login superuser in role jit_assumable;
         create role {maker} login createrole in role jit_assumable"
    ));
    let open = |role: &str| {
        fixture.grant(&person, role, json!({ "expires": "1h" }));
        let mut client = fixture.token_login_as(&person, role).open().unwrap();
        assert_eq!(client.value("select session_user"), role);
        client
    };
    let mut idle = open(&superuser);
    let mut busy = open(&superuser);
    busy.query("begin").unwrap();
    let mut of_maker = open(&maker);
    let mut kept = open(TOKEN_ROLE);
    let tenant = format!("/v1/tenants/{}", fixture.tenant);
    let refuse = json!({ "privileged_roles": "refuse" });
    let answer = fixture.sluice.admin.patch(&tenant, refuse);
    let report = Revocation::of(&answer);
    assert_eq!((report.sessions_ended, report.unconfirmed), (3, 0));
    assert!(
        fixture
            .backends()
            .iter()
            .all(|backend| backend.user == TOKEN_ROLE)
    );
    for client in [&mut idle, &mut busy, &mut of_maker] {
        assert_eq!(client.farewell().code, "57P01");
    }
    assert_eq!(kept.value("select 1"), "1");
    let again = fixture.token_login_as(&person, &superuser).open();
    denied(again, &superuser, "privileged");
}
