//! Sluice as the authority of others: of the peer's pooler and PAM module, played here as they are documented, and of
//! another Sluice.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Fixture, Person,
    admin::{Admin, Revocation},
    postgres::{OTHER_TOKEN_ROLE, TOKEN_ROLE, current},
    sluice::Settings,
};

/// What the peer's pooler makes of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Pooler {
    Allowed,
    /// `EJITUNAUTHORIZED`, 28P01.
    Unauthorized,
    /// 28P01, too: another role than the one asked for.
    OtherRole,
    /// `EJITREQUESTFAILED`, which is what it calls an outage.
    RequestFailed,
}

/// What the peer's PAM module makes of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Pam {
    Success,
    /// Not a token by its looks: compared with the role's local password, and nobody is asked.
    Password,
    NotSetUp,
    Restricted,
    Failed,
}

struct Peer {
    admin: Admin,
    path: String,
}

impl Peer {
    fn of(fixture: &Fixture) -> Self {
        Self {
            admin: fixture.sluice.admin.with_key(None),
            path: format!("/v1/projects/{}/database/jit", fixture.tenant),
        }
    }

    fn url(&self) -> String {
        format!("{}{}", self.admin.url, self.path)
    }

    fn post(&self, token: &str, role: &str, rhost: &str) -> (u16, Value) {
        let body = json!({ "role": role, "rhost": rhost });
        let admin = self.admin.with_key(Some(token));
        let answer = admin.call(Method::POST, &self.path, Some(body));
        (
            answer.status,
            serde_json::from_str(&answer.text).expect("JSON"),
        )
    }

    fn pooler(&self, token: &str, role: &str, rhost: &str) -> Pooler {
        let (status, body) = self.post(token, role, rhost);
        match (status, &body["user_role"]["role"]) {
            (200, Value::String(answered)) if answered == role => Pooler::Allowed,
            (200, Value::String(_)) => Pooler::OtherRole,
            (401 | 403, _) => Pooler::Unauthorized,
            _ => Pooler::RequestFailed,
        }
    }

    fn pam(&self, secret: &str, role: &str, rhost: &str) -> Pam {
        let parts: Vec<&str> = secret.split('.').collect();
        let is_jwt = parts.len() == 3 && parts[..2].iter().all(|part| part.starts_with("eyJ"));
        let is_token = secret.starts_with("sbp_") && secret.len() >= 44;
        if !is_jwt && !is_token {
            return Pam::Password;
        }
        let (status, body) = self.post(secret, role, rhost);
        match status {
            200 if body["user_role"]["role"] == role => Pam::Success,
            406 => Pam::NotSetUp,
            403 => Pam::Restricted,
            _ => Pam::Failed,
        }
    }
}

/// As the peer's PAM module wants a token to begin.
fn for_pam(person: &Person) -> String {
    person.token.replacen("slp_", "sbp_", 1)
}

#[test]
fn the_peers_pooler_and_pam_module_understand_every_answer() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    let peer = Peer::of(&fixture);
    let both = |role: &str, rhost: &str| {
        (
            peer.pooler(&person.token, role, rhost),
            peer.pam(&for_pam(&person), role, rhost),
        )
    };
    const HERE: &str = "192.0.2.7";
    assert_eq!(
        both(TOKEN_ROLE, HERE),
        (Pooler::RequestFailed, Pam::NotSetUp)
    );
    fixture.grant(
        &person,
        TOKEN_ROLE,
        json!({ "expires": "1h", "networks": ["192.0.2.0/24", "2001:db8::/32"] }),
    );
    for rhost in [HERE, "2001:db8::7", "::ffff:192.0.2.7"] {
        assert_eq!(
            both(TOKEN_ROLE, rhost),
            (Pooler::Allowed, Pam::Success),
            "{rhost}"
        );
    }
    assert_eq!(
        both(TOKEN_ROLE, "198.51.100.1"),
        (Pooler::Unauthorized, Pam::Restricted)
    );
    assert_eq!(
        both(OTHER_TOKEN_ROLE, HERE),
        (Pooler::RequestFailed, Pam::NotSetUp)
    );
    for rhost in ["", "db.example.com"] {
        assert_eq!(
            both(TOKEN_ROLE, rhost),
            (Pooler::RequestFailed, Pam::Failed),
            "{rhost}"
        );
    }
    assert_eq!(both("", HERE), (Pooler::RequestFailed, Pam::Failed));
    fixture
        .sluice
        .admin
        .set_token_access(&fixture.tenant, "disabled");
    assert_eq!(
        both(TOKEN_ROLE, HERE),
        (Pooler::Unauthorized, Pam::Restricted)
    );
    fixture
        .sluice
        .admin
        .set_token_access(&fixture.tenant, "enabled");
    fixture
        .sluice
        .admin
        .delete(&format!("/v1/tokens/{}", person.token_id));
    assert_eq!(both(TOKEN_ROLE, HERE), (Pooler::Unauthorized, Pam::Failed));
    // A password that somebody typed is not sent, and one that is sent is nothing.
    assert_eq!(peer.pam("hunter2", TOKEN_ROLE, HERE), Pam::Password);
    assert_eq!(
        peer.pooler("hunter2", TOKEN_ROLE, HERE),
        Pooler::Unauthorized
    );
}

#[test]
fn a_yes_has_all_the_fields_of_the_contract() {
    let fixture = Fixture::start();
    let person = fixture.person("first");
    fixture.grant(
        &person,
        TOKEN_ROLE,
        json!({ "expires": "1h", "networks": ["192.0.2.0/24", "2001:db8::/32"] }),
    );
    let (status, body) = Peer::of(&fixture).post(&person.token, TOKEN_ROLE, "192.0.2.7");
    assert_eq!(status, 200);
    let expires_at = body["user_role"]["expires_at"].as_i64().expect("seconds");
    let in_an_hour = time::OffsetDateTime::now_utc().unix_timestamp() + 3600;
    assert!((in_an_hour - expires_at).abs() < 30, "{expires_at}");
    let expected = json!({
        "user_id": person.id,
        "user_role": {
            "role": TOKEN_ROLE, "expires_at": expires_at, "branches_only": false,
            "allowed_networks": {
                "allowed_cidrs": [{ "cidr": "192.0.2.0/24" }],
                "allowed_cidrs_v6": [{ "cidr": "2001:db8::/32" }],
            },
        },
    });
    assert_eq!(body, expected);
    let (_, refused) = Peer::of(&fixture).post("slp_nothing", TOKEN_ROLE, "192.0.2.7");
    assert!(refused["message"].is_string(), "{refused}");
}

/// Whose tokens and rules are those of the tenant `beyond`, asked for over HTTP.
fn relying(beyond: &Fixture, recheck: &str) -> Fixture {
    let settings = Settings::default()
        .set("authorities.networks", vec!["127.0.0.0/8"])
        .set("authorities.plain_http", "allow")
        .set("authorities.recheck", recheck);
    let url = Peer::of(beyond).url();
    Fixture::on(
        current(),
        settings,
        json!({ "authority": { "kind": "http", "url": url } }),
    )
}

#[test]
fn one_sluice_can_be_the_authority_of_another() {
    let beyond = Fixture::start();
    let person = beyond.granted("first");
    let fixture = relying(&beyond, "1s");
    fixture.sluice.keep_secret(&person.token);
    let mut client = fixture.token_client(&person).unwrap();
    assert_eq!(client.value("select current_user"), TOKEN_ROLE);
    assert!(client.value("select system_user").contains(&person.id));
    let elsewhere = json!({ "expires": "1h", "networks": ["192.0.2.0/24"] });
    beyond.grant(&person, TOKEN_ROLE, elsewhere);
    assert_eq!(
        client.farewell().message,
        "terminating connection due to access revocation"
    );
    let fault = fixture.token_client(&person).err().unwrap();
    assert_eq!(fault.code, "28000");
    let detail = fault.detail.unwrap();
    assert!(
        detail.contains("network address"),
        "the reason is passed on: {detail}"
    );
    beyond.remove_rule(&person, TOKEN_ROLE);
    let fault = fixture.token_client(&person).err().unwrap();
    assert_eq!(fault.detail.as_deref(), Some("No rule grants this role."));
    beyond
        .sluice
        .admin
        .delete(&format!("/v1/tokens/{}", person.token_id));
    assert_eq!(fixture.token_client(&person).err().unwrap().code, "28P01");
}

#[test]
fn an_authority_that_is_asked_about_itself_does_not_go_in_circles() {
    let fixture = Fixture::with(
        Settings::default()
            .set("authorities.networks", vec!["127.0.0.0/8"])
            .set("authorities.plain_http", "allow"),
    );
    let person = fixture.granted("first");
    let admin: &Admin = &fixture.sluice.admin;
    let url = Peer::of(&fixture).url();
    let path = format!("/v1/tenants/{}", fixture.tenant);
    let mut client = fixture.token_client(&person).unwrap();
    let answer = admin.patch(
        &path,
        json!({ "authority": { "kind": "http", "url": url } }),
    );
    assert_eq!(Revocation::of(&answer).sessions_ended, 1);
    assert_eq!(client.farewell().code, "57P01");
    assert_eq!(fixture.token_client(&person).err().unwrap().code, "28P01");
}
