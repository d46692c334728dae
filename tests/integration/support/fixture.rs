//! What nearly every test starts from: a Sluice with one tenant on the current PostgreSQL.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::{
    login::Login,
    pki,
    postgres::{self, AUTH_ROLE, Activity, Cluster, PASSWORD, PASSWORD_ROLE, TOKEN_ROLE},
    reply::Fault,
    sluice::{Settings, Sluice},
    until,
    wire::Client,
};

/// A Sluice of the test's own with one tenant, whose database is the test's own as well.
pub(crate) struct Fixture {
    pub(crate) cluster: &'static Cluster,
    pub(crate) sluice: Sluice,
    pub(crate) tenant: String,
    pub(crate) database: String,
}

/// Somebody with a token.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) token: String,
    pub(crate) token_id: String,
}

impl Fixture {
    pub(crate) fn start() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        Self::on(postgres::current(), settings, json!({}))
    }

    /// With pools of one backend, so that clients must take turns.
    pub(crate) fn with_one_backend() -> Self {
        Self::with(Settings::default().set("pool.size", 1))
    }

    /// With fields of the tenant changed.
    pub(crate) fn with_tenant(fields: Value) -> Self {
        Self::on(postgres::current(), Settings::default(), fields)
    }

    pub(crate) fn on(cluster: &'static Cluster, settings: Settings, fields: Value) -> Self {
        Self::around(cluster, Sluice::start(settings), fields)
    }

    /// Around a Sluice that runs already.
    pub(crate) fn around(cluster: &'static Cluster, sluice: Sluice, fields: Value) -> Self {
        let name = unique_name();
        cluster.create_database(&name);
        let fixture = Self {
            cluster,
            sluice,
            tenant: name.clone(),
            database: name,
        };
        fixture.add_tenant(&fixture.tenant, fields);
        fixture.sluice.keep_secret(PASSWORD);
        fixture
    }

    /// Registers a tenant on the fixture's cluster and database; `fields` are over the usual ones.
    pub(crate) fn add_tenant(&self, tenant: &str, fields: Value) {
        let mut body = json!({
            "ref": tenant, "name": tenant, "host": "127.0.0.1", "port": self.cluster.port,
            "default_database": self.database, "backend_tls": "verify-full",
            "backend_ca": pki::authority().identity.certificate, "login": "certificate",
            "auth_user": AUTH_ROLE, "token_access": "enabled",
        });
        for (field, value) in fields.as_object().expect("an object") {
            body[field] = value.clone();
        }
        self.sluice.admin.post("/v1/tenants", body);
        self.set_password(tenant, AUTH_ROLE, PASSWORD);
    }

    /// Puts a role's password into the catalogue.
    pub(crate) fn set_password(&self, tenant: &str, role: &str, password: &str) {
        let path = format!("/v1/tenants/{tenant}/roles/{role}/secret");
        self.sluice
            .admin
            .put(&path, json!({ "password": password }));
    }

    /// A person with a token who is a member of the tenant but has no rule.
    pub(crate) fn person(&self, name: &str) -> Person {
        let admin = &self.sluice.admin;
        let email = format!("{name}@example.com");
        let answer = admin.post("/v1/people", json!({ "email": email, "name": name }));
        let id = text(&answer["person"]["id"]);
        let (token_id, token) = self.token(&id, "1d");
        let person = Person {
            id,
            email,
            token,
            token_id,
        };
        self.join(&person, &self.tenant);
        person
    }

    pub(crate) fn join(&self, person: &Person, tenant: &str) {
        let path = format!("/v1/tenants/{tenant}/members/{}", person.id);
        self.sluice.admin.put(&path, json!({ "kind": "member" }));
    }

    /// A person who may use `TOKEN_ROLE` for an hour.
    pub(crate) fn granted(&self, name: &str) -> Person {
        let person = self.person(name);
        self.grant(&person, TOKEN_ROLE, json!({ "expires": "1h" }));
        person
    }

    /// A new token: its public id and the whole of it.
    pub(crate) fn token(&self, person: &str, expires: &str) -> (String, String) {
        let path = format!("/v1/people/{person}/tokens");
        let answer = self
            .sluice
            .admin
            .post(&path, json!({ "name": "test", "expires": expires }));
        let token = text(&answer["secret"]);
        self.sluice.keep_secret(&token);
        (text(&answer["token"]["id"]), token)
    }

    /// A further token of the person with such terms: its id and the whole of it.
    pub(crate) fn limited_token(&self, person: &Person, terms: Value) -> (String, String) {
        let mut body = json!({ "name": "limited", "expires": "1d" });
        for (field, value) in terms.as_object().unwrap() {
            body[field] = value.clone();
        }
        let path = format!("/v1/people/{}/tokens", person.id);
        let made = self.sluice.admin.post(&path, body);
        let token = text(&made["secret"]);
        self.sluice.keep_secret(&token);
        (text(&made["token"]["id"]), token)
    }

    /// Writes the person's rule for `role`, new or changed.
    pub(crate) fn grant(&self, person: &Person, role: &str, terms: Value) -> Value {
        self.sluice.admin.put(&self.rule_path(person, role), terms)
    }

    pub(crate) fn remove_rule(&self, person: &Person, role: &str) -> Value {
        self.sluice.admin.delete(&self.rule_path(person, role))
    }

    pub(crate) fn rule_path(&self, person: &Person, role: &str) -> String {
        format!("/v1/tenants/{}/rules/{}/{role}", self.tenant, person.id)
    }

    /// How the application logs in.
    pub(crate) fn password_login(&self) -> Login {
        self.role_login(PASSWORD_ROLE)
    }

    pub(crate) fn role_login(&self, role: &str) -> Login {
        Login::new(
            self.sluice.port,
            &format!("{role}.{}", self.tenant),
            PASSWORD,
        )
    }

    pub(crate) fn password_client(&self) -> Result<Client, Fault> {
        self.password_login().open()
    }

    /// How a person logs in as `TOKEN_ROLE`.
    pub(crate) fn token_login(&self, person: &Person) -> Login {
        self.token_login_as(person, TOKEN_ROLE)
    }

    pub(crate) fn token_login_as(&self, person: &Person, role: &str) -> Login {
        self.role_login(role)
            .password(&person.token)
            .options("-c jit=true")
            .encrypted()
    }

    pub(crate) fn token_client(&self, person: &Person) -> Result<Client, Fault> {
        self.token_login(person).open()
    }

    /// Backends in the fixture's database.
    pub(crate) fn backends(&self) -> Vec<Activity> {
        self.cluster.backends(&self.database)
    }

    /// Waits until some backend runs a query that holds `text`; answers its row.
    #[track_caller]
    pub(crate) fn running(&self, text: &str) -> Activity {
        super::eventually(&format!("a backend runs {text}"), || {
            let mut backends = self.backends().into_iter();
            backends.find(|backend| backend.state == "active" && backend.query.contains(text))
        })
    }

    /// Waits until a session of the tenant is listed in `state`.
    #[track_caller]
    pub(crate) fn wait_for_state(&self, state: &str) {
        until(&format!("a session is {state}"), || {
            let sessions = self.sluice.admin.sessions(&self.tenant);
            sessions.iter().any(|session| session["state"] == state)
        });
    }
}

/// A name that fits tenants and databases and that no other test of the process has.
pub(crate) fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a string: {value}"))
        .to_owned()
}
