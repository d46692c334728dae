//! `sluice doctor`: it finds what is wrong with a server, says what to add, and what it says helps.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::{Value, json};

use crate::support::{
    Fixture, Person,
    fixture::text,
    ports::free_port,
    postgres::{self, AUTH_ROLE, Cluster, OTHER_TOKEN_ROLE, PASSWORD, SECRET_ROLE, TOKEN_ROLE},
    sluice::Settings,
};

/// Lines that tests change the others around.
const CONTROL: &str = "host all postgres 127.0.0.0/8 scram-sha-256";
const CERTIFICATE: &str = "hostssl all +jit_assumable 127.0.0.1/32 cert clientname=DN map=jit";
const SHUT: &str = "host all +jit_assumable all reject\nlocal all +jit_assumable reject";
const PASSWORDS: &str = "host all all 127.0.0.0/8 scram-sha-256";

/// A tenant on a server whose files the test may change; one test at a time.
struct Clinic {
    fixture: Fixture,
    person: Person,
    _turn: MutexGuard<'static, ()>,
}

/// What the doctor said.
struct Diagnosis {
    findings: Vec<Value>,
    verdict: String,
    is_success: bool,
}

impl Clinic {
    /// With a server that is set up as the documentation says, and one granted role.
    fn open() -> Self {
        Self::with_tenant(json!({}))
    }

    fn with_tenant(fields: Value) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        static CLUSTER: OnceLock<&'static Cluster> = OnceLock::new();
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = CLUSTER.get_or_init(postgres::own);
        let fixture = Fixture::on(cluster, Settings::default(), fields);
        let database = &fixture.database;
        cluster
            .superuser(database)
            .query(&format!(
                "grant select on pg_hba_file_rules, pg_ident_file_mappings to {AUTH_ROLE};
                 grant execute on function pg_hba_file_rules(), pg_ident_file_mappings() to {AUTH_ROLE}"
            ))
            .unwrap();
        let person = fixture.granted("patient");
        let clinic = Self {
            fixture,
            person,
            _turn: turn,
        };
        clinic.files(&[CONTROL, CERTIFICATE, SHUT, PASSWORDS], &clinic.map());
        clinic
    }

    /// The line of pg_ident.conf for this tenant.
    fn map(&self) -> String {
        let tenant = &self.fixture.tenant;
        format!(
            r#"jit "/^O={tenant},OU=g-[0-9a-f]{{32}},OU=r-([a-z_][a-z0-9_$]*),UID=[A-Za-z0-9._@-]{{1,200}}$" \1"#
        )
    }

    fn files(&self, rules: &[&str], map: &str) {
        let cluster = self.fixture.cluster;
        cluster.write_file("pg_hba.conf", &(rules.join("\n") + "\n"));
        cluster.write_file("pg_ident.conf", &format!("{map}\n"));
        cluster.reload();
    }

    fn examine(&self) -> Diagnosis {
        let arguments = ["doctor", "--tenant", &self.fixture.tenant, "--json"];
        let output = self.fixture.sluice.command(&arguments).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        Diagnosis {
            findings: report["findings"].as_array().unwrap().clone(),
            verdict: text(&report["verdict"]),
            is_success: output.status.success(),
        }
    }

    fn run(&self, sql: &str) {
        self.fixture.cluster.run(sql);
    }
}

impl Diagnosis {
    /// The finding about `topic` that says `words`.
    #[track_caller]
    fn finding(&self, topic: &str, words: &str) -> &Value {
        let found = self.findings.iter().find(|finding| {
            finding["topic"] == topic && finding["message"].as_str().unwrap().contains(words)
        });
        found.unwrap_or_else(|| panic!("no {topic} finding says {words:?}: {:#?}", self.findings))
    }

    #[track_caller]
    fn says(&self, topic: &str, verdict: &str, words: &str) {
        assert_eq!(self.finding(topic, words)["verdict"], verdict, "{words}");
    }

    #[track_caller]
    fn is(&self, verdict: &str) {
        assert_eq!(self.verdict, verdict, "{:#?}", self.findings);
        let is_good = matches!(verdict, "ok" | "warning");
        assert_eq!(self.is_success, is_good, "the exit status of {verdict}");
    }

    /// The lines that a finding wants added.
    #[track_caller]
    fn lines(&self, topic: &str, words: &str, to: &str) -> String {
        let finding = self.finding(topic, words);
        let mut additions = finding["add"].as_array().into_iter().flatten();
        let addition = additions.find(|addition| text(&addition["to"]).contains(to));
        let addition = addition.unwrap_or_else(|| panic!("nothing to add to {to}: {finding:#}"));
        let lines = addition["lines"].as_array().unwrap().iter().map(text);
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn a_server_set_up_as_documented_has_nothing_to_be_said_against_it() {
    let clinic = Clinic::open();
    let diagnosis = clinic.examine();
    diagnosis.is("ok");
    for topic in [
        "tls",
        "version",
        "clock",
        "auth-query",
        "host-rules",
        "ident-map",
        "side-doors",
        "powers",
        "login",
        "logging",
    ] {
        diagnosis.says(topic, "ok", "");
    }
    let shown = clinic
        .fixture
        .sluice
        .cli(&["doctor", "--tenant", &clinic.fixture.tenant]);
    let last = shown.lines().last().unwrap();
    assert_eq!(last, format!("{}: ok", clinic.fixture.tenant));
}

#[test]
fn a_password_line_before_the_certificates_is_found_and_the_lines_told_mend_it() {
    let clinic = Clinic::open();
    clinic.files(&[CONTROL, PASSWORDS, CERTIFICATE, SHUT], &clinic.map());
    let diagnosis = clinic.examine();
    diagnosis.is("failed");
    let words = "meet pg_hba.conf line 2 first, which says scram-sha-256";
    let lines = diagnosis.lines("host-rules", words, "before pg_hba.conf line 2");
    diagnosis.says("login", "failed", "does not get in with a certificate");

    clinic.files(&[CONTROL, &lines, PASSWORDS], &clinic.map());
    clinic.examine().is("ok");
}

#[test]
fn a_server_that_knows_nothing_of_certificates_is_mended_by_what_is_told() {
    let clinic = Clinic::open();
    clinic.run("create role app_new login");
    clinic
        .fixture
        .grant(&clinic.person, "app_new", json!({"expires": "1h"}));
    clinic.fixture.remove_rule(&clinic.person, TOKEN_ROLE);
    clinic.files(&[CONTROL, PASSWORDS], "");
    let diagnosis = clinic.examine();
    diagnosis.is("failed");
    let lines = diagnosis.lines("host-rules", "meet pg_hba.conf line 2 first", "pg_hba.conf");
    let sql = diagnosis.lines("host-rules", "is not in the group jit_assumable", "SQL");
    let join = sql.lines().last().unwrap();
    clinic.run(join);
    clinic.files(&[CONTROL, &lines, PASSWORDS], "");
    let diagnosis = clinic.examine();
    diagnosis.is("failed");
    let map = diagnosis.lines(
        "ident-map",
        "does not turn our certificate",
        "pg_ident.conf",
    );
    clinic.files(&[CONTROL, &lines, PASSWORDS], &map);
    clinic.examine().is("ok");
    clinic.fixture.remove_rule(&clinic.person, "app_new");
    clinic.run("drop role app_new");
}

#[test]
fn an_expression_that_takes_more_than_it_should_is_unsafe() {
    let clinic = Clinic::open();
    let tenant = &clinic.fixture.tenant;
    let files = [CONTROL, CERTIFICATE, SHUT, PASSWORDS];
    let cases = [
        (
            r#"jit "/^O=[a-z0-9]+,OU=g-[0-9a-f]{32},OU=r-([a-z_][a-z0-9_$]*),UID=[A-Za-z0-9._@-]{1,200}$" \1"#.to_owned(),
            "another tenant's certificate",
        ),
        (
            format!(r#"jit "/O={tenant},OU=g-[0-9a-f]{{32}},OU=r-([a-z_][a-z0-9_$]*),UID=[A-Za-z0-9._@-]{{1,200}}$" \1"#),
            "more in front",
        ),
        (
            format!(r#"jit "/^O={tenant},OU=g-[0-9a-f]{{32}},OU=r-([a-z_][a-z0-9_$]*),UID=[A-Za-z0-9._@-]+" \1"#),
            "more behind",
        ),
        (
            format!(r#"jit "/^O={tenant},OU=g-[0-9a-f]{{32}},OU=r-({TOKEN_ROLE})[a-z]*,UID=[A-Za-z0-9._@-]{{1,200}}$" \1"#),
            "a role with a longer name",
        ),
        (
            format!(r#"jit "/^O={tenant},.*OU=r-([a-z_]+).*,UID=.*$" \1"#),
            "whose person holds the name of another role",
        ),
        (
            format!("{}\njit \"/^O={tenant},\" all", clinic.map()),
            "a certificate for another role",
        ),
    ];
    for (map, words) in cases {
        clinic.files(&files, &map);
        let diagnosis = clinic.examine();
        diagnosis.is("unsafe");
        diagnosis.says("ident-map", "unsafe", words);
        let told = diagnosis.lines("ident-map", words, "pg_ident.conf");
        assert_eq!(told, clinic.map());
    }
    clinic.files(&files, r#"jit "/^.*OU=r-([a-z_]+),UID=.*$" \1"#);
    let words = "the server let another tenant's certificate in";
    clinic.examine().says("login", "unsafe", words);
}

#[test]
fn side_doors_are_found_by_their_lines_and_by_trying_them() {
    let clinic = Clinic::open();
    // Open from elsewhere only: no login of ours meets it.
    let elsewhere = "host all all 192.0.2.0/24 trust";
    clinic.files(
        &[CONTROL, elsewhere, CERTIFICATE, SHUT, PASSWORDS],
        &clinic.map(),
    );
    let diagnosis = clinic.examine();
    diagnosis.is("unsafe");
    diagnosis.says("side-doors", "unsafe", "pg_hba.conf line 2 (trust)");
    let shut = diagnosis.lines("side-doors", "line 2 (trust)", "pg_hba.conf");
    clinic.files(
        &[CONTROL, CERTIFICATE, &shut, elsewhere, PASSWORDS],
        &clinic.map(),
    );
    clinic.examine().is("ok");

    // Open from here, without TLS.
    let open = "hostnossl all all 127.0.0.1/32 trust";
    clinic.files(&[CONTROL, CERTIFICATE, open, PASSWORDS], &clinic.map());
    let diagnosis = clinic.examine();
    diagnosis.is("unsafe");
    diagnosis.says("login", "unsafe", "lets anybody in");
}

#[test]
fn a_password_line_is_a_side_door_as_soon_as_the_role_has_a_password() {
    let clinic = Clinic::open();
    clinic.files(&[CONTROL, CERTIFICATE, PASSWORDS], &clinic.map());
    let words = "pg_hba.conf line 3 (scram-sha-256)";
    let diagnosis = clinic.examine();
    diagnosis.is("warning");
    diagnosis.says("side-doors", "warning", words);
    clinic.run(&format!("alter role {TOKEN_ROLE} password '{PASSWORD}'"));
    let diagnosis = clinic.examine();
    clinic.run(&format!("alter role {TOKEN_ROLE} password null"));
    diagnosis.is("unsafe");
    diagnosis.says("side-doors", "unsafe", words);
}

#[test]
fn what_a_granted_role_can_do_beyond_its_tables_is_told() {
    let clinic = Clinic::open();
    let cases = [
        ("superuser", "nosuperuser", "is a superuser"),
        ("replication", "noreplication", "may replicate"),
        ("createrole", "nocreaterole", "may make roles"),
        ("bypassrls", "nobypassrls", "row security"),
    ];
    for (attribute, without, words) in cases {
        clinic.run(&format!("alter role {TOKEN_ROLE} {attribute}"));
        let diagnosis = clinic.examine();
        clinic.run(&format!("alter role {TOKEN_ROLE} {without}"));
        diagnosis.is("unsafe");
        diagnosis.says("powers", "unsafe", words);
    }
    clinic.run(&format!(
        "create role app_programs; grant pg_execute_server_program to app_programs;
         grant app_programs to {TOKEN_ROLE}"
    ));
    let diagnosis = clinic.examine();
    diagnosis.is("unsafe");
    diagnosis.says("powers", "unsafe", "COPY … PROGRAM");
    let path = format!("/v1/tenants/{}", clinic.fixture.tenant);
    let admin = &clinic.fixture.sluice.admin;
    admin.patch(&path, json!({"privileged_roles": "allow"}));
    clinic.examine().is("warning");
    clinic.run(&format!(
        "revoke app_programs from {TOKEN_ROLE}; drop role app_programs"
    ));
}

#[test]
fn ways_out_of_the_database_are_told() {
    let clinic = Clinic::open();
    let mut superuser = clinic.fixture.cluster.superuser(&clinic.fixture.database);
    superuser
        .query(&format!(
            "create extension dblink; create extension postgres_fdw;
             create server elsewhere foreign data wrapper postgres_fdw;
             grant usage on foreign server elsewhere to {TOKEN_ROLE};
             grant execute on function lo_export(oid, text) to {TOKEN_ROLE}"
        ))
        .unwrap();
    let diagnosis = clinic.examine();
    diagnosis.is("warning");
    for words in [
        "dblink_connect of the extension dblink",
        "may use the foreign server elsewhere",
        "may call lo_export",
    ] {
        diagnosis.says("powers", "warning", words);
    }
}

#[test]
fn a_role_that_is_not_there_or_past_its_date_is_told() {
    let clinic = Clinic::open();
    clinic.run(&format!("alter role {TOKEN_ROLE} valid until '2020-01-01'"));
    let diagnosis = clinic.examine();
    clinic.run(&format!("alter role {TOKEN_ROLE} valid until 'infinity'"));
    diagnosis.says("powers", "warning", "is past its VALID UNTIL");
    clinic
        .fixture
        .grant(&clinic.person, "app_nobody", json!({"expires": "1h"}));
    let diagnosis = clinic.examine();
    diagnosis.is("failed");
    diagnosis.says(
        "powers",
        "failed",
        "app_nobody is granted, but the server has no such role",
    );
}

#[test]
fn files_that_cannot_be_read_are_told_with_the_grants_that_open_them() {
    let clinic = Clinic::open();
    let revoke = format!(
        "revoke select on pg_hba_file_rules, pg_ident_file_mappings from {AUTH_ROLE};
         revoke execute on function pg_hba_file_rules(), pg_ident_file_mappings() from {AUTH_ROLE}"
    );
    let database = &clinic.fixture.database;
    let mut superuser = clinic.fixture.cluster.superuser(database);
    superuser.query(&revoke).unwrap();
    let diagnosis = clinic.examine();
    diagnosis.is("warning");
    let grants = diagnosis.lines("host-rules", "cannot be looked at", "SQL");
    superuser.query(&grants).unwrap();
    clinic.examine().is("ok");
}

#[test]
fn a_line_that_postgresql_cannot_read_is_told() {
    let clinic = Clinic::open();
    let cluster = clinic.fixture.cluster;
    cluster.write_file(
        "pg_hba.conf",
        &format!("{CONTROL}\nhost all all nowhere/99 cert\n"),
    );
    cluster.write_file("pg_ident.conf", "jit \"/^(\" \\1\n");
    let diagnosis = clinic.examine();
    clinic.files(&[CONTROL, CERTIFICATE, SHUT, PASSWORDS], &clinic.map());
    diagnosis.is("failed");
    diagnosis.says("host-rules", "failed", "pg_hba.conf line 2: ");
    diagnosis.says("ident-map", "failed", "pg_ident.conf line 1: ");
}

#[test]
fn an_auth_user_that_may_not_read_verifiers_is_told_with_the_grant() {
    let clinic = Clinic::open();
    let database = &clinic.fixture.database;
    let mut superuser = clinic.fixture.cluster.superuser(database);
    superuser
        .query(&format!("revoke select on pg_authid from {AUTH_ROLE}"))
        .unwrap();
    let diagnosis = clinic.examine();
    diagnosis.is("failed");
    let grant = diagnosis.lines("auth-query", "the auth query fails", "SQL");
    superuser.query(&grant).unwrap();
    clinic.examine().is("ok");
}

#[test]
fn a_server_that_is_away_or_cannot_be_trusted_is_told() {
    let clinic = Clinic::open();
    let path = format!("/v1/tenants/{}", clinic.fixture.tenant);
    let admin = &clinic.fixture.sluice.admin;
    admin.patch(&path, json!({"backend_ca": null}));
    let diagnosis = clinic.examine();
    diagnosis.is("failed");
    diagnosis.says("tls", "failed", "TLS handshake");

    admin.patch(&path, json!({"port": free_port()}));
    let diagnosis = clinic.examine();
    diagnosis.is("failed");
    diagnosis.says("server", "failed", "cannot connect");

    admin.patch(
        &path,
        json!({"login": "role_secret", "backend_tls": "disable"}),
    );
    clinic.examine().says("tls", "unsafe", "not encrypted");
}

#[test]
fn a_server_that_is_too_old_is_told() {
    let fixture = Fixture::on(postgres::old(), Settings::default(), json!({}));
    fixture.granted("patient");
    let path = format!("/v1/tenants/{}/doctor", fixture.tenant);
    let report = fixture.sluice.admin.post(&path, json!({}));
    let findings = report["findings"].as_array().unwrap();
    let version = findings
        .iter()
        .find(|finding| finding["topic"] == "version");
    assert_eq!(version.unwrap()["verdict"], "failed");
}

#[test]
fn a_tenant_that_logs_in_with_passwords_is_looked_at_as_one() {
    let clinic = Clinic::with_tenant(json!({"login": "role_secret"}));
    let fixture = &clinic.fixture;
    fixture.remove_rule(&clinic.person, TOKEN_ROLE);
    fixture.grant(&clinic.person, SECRET_ROLE, json!({"expires": "1h"}));
    fixture.set_password(&fixture.tenant, SECRET_ROLE, PASSWORD);
    let diagnosis = clinic.examine();
    diagnosis.is("warning");
    diagnosis.says("side-doors", "warning", "another password");
    let lines = diagnosis.lines("side-doors", "another password", "before");
    clinic.files(&[CONTROL, &lines, PASSWORDS], "");
    clinic.examine().is("ok");
    let readable = "host all all 127.0.0.0/8 password";
    clinic.files(&[CONTROL, readable], "");
    let diagnosis = clinic.examine();
    diagnosis.is("unsafe");
    diagnosis.says("side-doors", "unsafe", "over the wire readable");
}

#[test]
fn every_granted_role_is_looked_at_and_a_tenant_without_rules_is_told() {
    let clinic = Clinic::open();
    clinic
        .fixture
        .grant(&clinic.person, OTHER_TOKEN_ROLE, json!({"expires": "1h"}));
    let diagnosis = clinic.examine();
    diagnosis.is("ok");
    for role in [TOKEN_ROLE, OTHER_TOKEN_ROLE] {
        diagnosis.says("login", "ok", role);
        diagnosis.says("ident-map", "ok", role);
    }
    for role in [TOKEN_ROLE, OTHER_TOKEN_ROLE] {
        clinic.fixture.remove_rule(&clinic.person, role);
    }
    clinic
        .examine()
        .says("powers", "warning", "no rule grants a role");
}
