//! Tenants whose people come with a JSON Web Token of some issuer: who gets in, until when, and what an issuer cannot do.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use crate::support::{
    Client, Fault, Fixture, Login, Person,
    admin::Revocation,
    authority::{Authority, Reaction},
    fixture::unique_name,
    pki,
    postgres::{OTHER_TOKEN_ROLE, TOKEN_ROLE, current},
    sluice::Settings,
    until,
};

const ISSUER: &str = "https://id.example.com";

/// Signs tokens with P-256 and publishes its key.
struct Issuer {
    key: EcdsaKeyPair,
    kid: &'static str,
    published: Authority,
}

impl Issuer {
    fn new() -> Self {
        let issuer = Self {
            key: new_key(),
            kid: "first",
            published: Authority::start(),
        };
        issuer.publish();
        issuer
    }

    fn publish(&self) {
        self.published.react(Reaction::Json(200, self.key_set()));
    }

    fn key_set(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.kid, "use": "sig", "alg": "ES256" }] })
    }

    /// From now on, and unannounced, another key.
    fn rotate(&mut self) {
        self.key = new_key();
        self.kid = "second";
        self.publish();
    }

    /// The tenant's `authority` field that trusts this issuer.
    fn field(&self) -> Value {
        json!({
            "kind": "jwt", "issuer": ISSUER, "audience": "sluice", "algorithms": ["ES256"],
            "keys": { "url": self.published.url() }, "ca": pki::authority().identity.certificate,
        })
    }

    fn fixture(&self) -> Fixture {
        fixture(self.field())
    }

    /// A token for `subject` that is good for `seconds`.
    fn token(&self, subject: &str, seconds: i64) -> String {
        self.sign(&claims(subject, seconds))
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({ "alg": "ES256", "kid": self.kid }), claims)
    }

    fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes());
        format!("{message}.{}", BASE64.encode(signature.unwrap().as_ref()))
    }
}

fn new_key() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap()
}

fn message(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| BASE64.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

fn claims(subject: &str, seconds: i64) -> Value {
    let exp = time::OffsetDateTime::now_utc().unix_timestamp() + seconds;
    json!({ "iss": ISSUER, "aud": "sluice", "sub": subject, "exp": exp })
}

fn fixture(authority: Value) -> Fixture {
    let settings = Settings::default()
        .set("authorities.networks", vec!["127.0.0.0/8"])
        .set("authorities.deadline", "2s");
    Fixture::on(current(), settings, json!({ "authority": authority }))
}

fn login(fixture: &Fixture, token: &str) -> Login {
    fixture.sluice.keep_secret(token);
    fixture
        .role_login(TOKEN_ROLE)
        .password(token)
        .options("-c jit=true")
        .encrypted()
}

fn open(fixture: &Fixture, token: &str) -> Result<Client, Fault> {
    login(fixture, token).open()
}

#[track_caller]
fn code(fixture: &Fixture, token: &str) -> String {
    open(fixture, token).err().expect("a refusal").code
}

#[test]
fn a_token_of_the_issuer_opens_a_session_for_the_person_it_names() {
    let issuer = Issuer::new();
    let fixture = issuer.fixture();
    let person = fixture.granted("first");
    for subject in [&person.email, &person.id] {
        let mut client = open(&fixture, &issuer.token(subject, 600)).unwrap();
        assert_eq!(client.value("select current_user"), TOKEN_ROLE);
        assert!(client.value("select system_user").contains(&person.id));
        let session = &fixture.sluice.admin.sessions(&fixture.tenant)[0];
        assert_eq!(session["email"], person.email);
        assert!(session["rule"].is_string(), "{session}");
    }
    assert_eq!(issuer.published.asked().len(), 1, "keys are kept");
    assert!(issuer.published.asked()[0].line.starts_with("GET "));
    // On the direct listener the shape decides, as for our own tokens.
    let mut direct = login(&fixture, &issuer.token(&person.email, 600));
    direct.port = fixture.sluice.direct_port;
    assert!(direct.options("").open().is_ok());
}

#[test]
fn the_persons_rules_decide_what_the_token_is_good_for() {
    let issuer = Issuer::new();
    let fixture = issuer.fixture();
    let stranger = open(&fixture, &issuer.token("nobody@example.com", 600))
        .err()
        .unwrap();
    assert_eq!(stranger.code, "28000", "{stranger:?}");
    let person = fixture.person("first");
    let token = issuer.token(&person.email, 600);
    let fault = open(&fixture, &token).err().unwrap();
    assert_eq!(fault.detail.as_deref(), Some("No rule grants this role."));
    fixture.grant(&person, TOKEN_ROLE, json!({ "expires": "1h" }));
    assert!(open(&fixture, &token).is_ok());
    let other = login(&fixture, &token).user(&format!("{OTHER_TOKEN_ROLE}.{}", fixture.tenant));
    assert_eq!(other.open().err().unwrap().code, "28000");
    // The catalogue's own tokens are not this authority's.
    assert_eq!(fixture.token_client(&person).err().unwrap().code, "28P01");
}

#[test]
fn a_session_ends_with_its_token_and_with_all_that_ends_other_sessions() {
    let issuer = Issuer::new();
    let fixture = issuer.fixture();
    let person = fixture.granted("first");
    let mut short = open(&fixture, &issuer.token(&person.email, 4)).unwrap();
    assert_eq!(
        short.farewell().message,
        "terminating connection due to access expiry"
    );

    let admin = &fixture.sluice.admin;
    let tenant = format!("/v1/tenants/{}", fixture.tenant);
    let token = issuer.token(&person.email, 600);
    let ends = |what: &str, end: &dyn Fn() -> Value| {
        let mut client = open(&fixture, &token).unwrap();
        client.query("begin").unwrap();
        let report = Revocation::of(&end());
        assert_eq!(
            (report.sessions_ended, report.unconfirmed),
            (1, 0),
            "{what}: {report:?}"
        );
        assert_eq!(
            client.farewell().message,
            "terminating connection due to access revocation",
            "{what}"
        );
        assert!(open(&fixture, &token).is_err(), "{what}");
    };
    ends("rule removed", &|| fixture.remove_rule(&person, TOKEN_ROLE));
    fixture.grant(&person, TOKEN_ROLE, json!({ "expires": "1h" }));
    ends("access off", &|| {
        admin.set_token_access(&fixture.tenant, "disabled")
    });
    admin.set_token_access(&fixture.tenant, "enabled");
    ends("another audience", &|| {
        let mut other = issuer.field();
        other["audience"] = json!("other");
        admin.patch(&tenant, json!({ "authority": other }))
    });
    admin.patch(&tenant, json!({ "authority": issuer.field() }));
    ends("person removed", &|| {
        admin.delete(&format!("/v1/people/{}", person.id))
    });
}

#[test]
fn what_the_issuer_has_not_signed_for_us_is_a_wrong_password() {
    let issuer = Issuer::new();
    let fixture = issuer.fixture();
    let person = fixture.granted("first");
    let good = claims(&person.email, 600);
    let with = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        issuer.sign(&changed)
    };
    let without = |name: &str| {
        let mut changed = good.clone();
        changed.as_object_mut().unwrap().remove(name);
        issuer.sign(&changed)
    };
    let header = |alg: &str| json!({ "alg": alg, "kid": issuer.kid });
    let public = issuer.key.public_key().as_ref();
    let confused = message(&header("HS256"), &good);
    let confused_signature = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, public),
        confused.as_bytes(),
    );
    let stranger = Issuer::new();
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let wrong = [
        (
            "not signed",
            format!("{}.", message(&header("none"), &good)),
        ),
        (
            "public key as secret",
            format!("{confused}.{}", BASE64.encode(confused_signature.as_ref())),
        ),
        ("another algorithm", issuer.sign_as(&header("RS256"), &good)),
        (
            "unknown key",
            issuer.sign_as(&json!({ "alg": "ES256", "kid": "other" }), &good),
        ),
        ("a stranger's signature", stranger.sign(&good)),
        (
            "asks for more",
            issuer.sign_as(
                &json!({ "alg": "ES256", "kid": issuer.kid, "crit": ["exp"] }),
                &good,
            ),
        ),
        ("expired", with("exp", json!(now - 1))),
        ("not yet", with("nbf", json!(now + 300))),
        ("no end", without("exp")),
        ("no issuer", without("iss")),
        ("no audience", without("aud")),
        ("no subject", without("sub")),
        (
            "another issuer",
            with("iss", json!("https://id.example.org")),
        ),
        ("another audience", with("aud", json!(["other"]))),
        ("no token", "eyJhbGciOiJFUzI1NiJ9".to_owned()),
        ("a catalogue token", person.token),
    ];
    let reference = open(&fixture, "nonsense").err().unwrap();
    assert_eq!(reference.code, "28P01");
    for (what, token) in wrong {
        assert_eq!(
            open(&fixture, &token).err(),
            Some(reference.clone()),
            "{what}"
        );
    }
    assert!(open(&fixture, &issuer.sign(&good)).is_ok());
    until("the log names the flaw", || {
        fixture
            .sluice
            .log()
            .contains("its algorithm is not among the tenant's")
    });
}

#[test]
fn a_new_key_is_fetched_when_a_token_names_it_but_strangers_cannot_make_us_fetch() {
    let mut issuer = Issuer::new();
    let fixture = issuer.fixture();
    let person = fixture.granted("first");
    let old = issuer.token(&person.email, 600);
    assert!(open(&fixture, &old).is_ok());
    for number in 0..20 {
        let header = json!({ "alg": "ES256", "kid": format!("made up {number}") });
        assert_eq!(
            code(&fixture, &issuer.sign_as(&header, &claims("x", 60))),
            "28P01"
        );
    }
    assert_eq!(issuer.published.asked().len(), 1, "fetched for strangers");
    issuer.rotate();
    let token = issuer.token(&person.email, 600);
    // Not at once, but soon.
    until("the new key is known", || open(&fixture, &token).is_ok());
    assert_eq!(issuer.published.asked().len(), 2);
    assert_eq!(code(&fixture, &old), "28P01", "the old key is withdrawn");
}

#[test]
fn an_issuer_that_is_away_locks_nobody_out() {
    let issuer = Issuer::new();
    let fixture = issuer.fixture();
    let person = fixture.granted("first");
    let token = issuer.token(&person.email, 600);
    for reaction in [
        Reaction::Json(500, issuer.key_set()),
        Reaction::Json(200, json!({ "keys": "none" })),
        Reaction::Raw(
            b"HTTP/1.1 302 Found\r\nlocation: https://localhost/\r\ncontent-length: 0\r\n\r\n"
                .to_vec(),
        ),
        Reaction::Hangup,
    ] {
        issuer.published.react(reaction);
        assert_eq!(code(&fixture, &token), "57P03");
    }
    assert!(fixture.password_client().is_ok());
    issuer.publish();
    until("the issuer is asked again", || {
        open(&fixture, &token).is_ok()
    });
    // With its keys known, nobody needs it.
    issuer.published.react(Reaction::Hangup);
    assert!(open(&fixture, &token).is_ok());
}

#[test]
fn keys_may_be_given_instead_of_fetched() {
    let issuer = Issuer::new();
    let mut field = issuer.field();
    field["keys"] = json!({ "jwks": issuer.key_set() });
    field["subject_claim"] = json!("email");
    let fixture = fixture(field.clone());
    let person = fixture.granted("first");
    let by_email = |verified: bool| {
        let mut claims = claims("auth0|4711", 600);
        claims["email"] = json!(person.email);
        claims["email_verified"] = json!(verified);
        issuer.sign(&claims)
    };
    assert!(open(&fixture, &by_email(true)).is_ok());
    assert_eq!(
        code(&fixture, &by_email(false)),
        "28P01",
        "anybody can type an address"
    );
    assert_eq!(issuer.published.asked().len(), 0);

    let path = format!("/v1/tenants/{}", fixture.tenant);
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut authority = field.clone();
        change(&mut authority);
        let answer = fixture.sluice.admin.call(
            reqwest::Method::PATCH,
            &path,
            Some(json!({ "authority": authority })),
        );
        assert!(matches!(answer.status, 400 | 422), "{answer:?}");
    };
    refused(&|authority| authority["algorithms"] = json!([]));
    refused(&|authority| authority["algorithms"] = json!(["HS256"]));
    refused(&|authority| authority["algorithms"] = json!(["none"]));
    refused(&|authority| authority["issuer"] = json!(""));
    refused(&|authority| authority["audience"] = json!(""));
    refused(&|authority| authority["keys"] = json!({ "jwks": { "keys": [] } }));
    refused(&|authority| {
        authority["keys"] = json!({ "jwks": { "keys": [{ "kty": "oct", "k": "c2VjcmV0" }] } })
    });
    refused(&|authority| authority["keys"] = json!({ "url": "https://169.254.169.254/jwks" }));
    refused(&|authority| authority["keys"] = json!({ "url": "http://id.example.com/jwks" }));
}

#[test]
fn the_parents_issuer_is_trusted_on_its_branches_too() {
    let issuer = Issuer::new();
    let fixture = issuer.fixture();
    let person = fixture.granted("first");
    let branch = unique_name();
    fixture.add_tenant(&branch, json!({ "parent": fixture.tenant }));
    let token = issuer.token(&person.email, 600);
    let user = format!("{TOKEN_ROLE}.{branch}");
    let mut client = login(&fixture, &token).user(&user).open().unwrap();
    assert_eq!(client.value("select current_user"), TOKEN_ROLE);
    assert!(open(&fixture, &token).is_ok());
    assert_eq!(issuer.published.asked().len(), 1, "keys are fetched once");
    let report = Revocation::of(&fixture.remove_rule(&person, TOKEN_ROLE));
    assert_eq!((report.sessions_ended, report.unconfirmed), (1, 0));
    assert_eq!(client.farewell().code, "57P01");
}

#[test]
fn the_command_line_trusts_an_issuer() {
    let issuer = Issuer::new();
    let fixture = fixture(json!({ "kind": "catalogue" }));
    let person: Person = fixture.granted("first");
    let home = fixture.sluice.home();
    home.write("jwks.json", &issuer.key_set().to_string());
    let file = home.path("jwks.json");
    let said = fixture.sluice.cli(&[
        "authority",
        "jwt",
        &fixture.tenant,
        "--issuer",
        ISSUER,
        "--audience",
        "sluice",
        "--algorithm",
        "ES256",
        "--jwks",
        file.to_str().unwrap(),
    ]);
    assert!(said.contains(ISSUER), "{said}");
    let mut client = open(&fixture, &issuer.token(&person.email, 600)).unwrap();
    assert_eq!(client.value("select 1"), "1");
}
