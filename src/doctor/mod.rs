//! `sluice doctor`: is a tenant's server set up so that those get in who may, and nobody else?
//!
//! ```text
//! log in ──▶ ask (version, clock, verifiers, files, roles) ──▶ try (logins that must work, logins that must not)
//! ```
//! Nothing is changed. What the server's files say is read through its own views; what it does is found out by trying,
//! from here. Each finding says what to add where, word for word (design.md section 9).

mod brief;
mod doors;
mod host_rules;
mod ident_map;
mod probe;
mod report;
mod roles;
mod session;

use std::{io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use time::OffsetDateTime;

pub use self::brief::{Standing, Unavailable, UnavailableReason};
pub use self::report::{Addition, Finding, Report, Topic, Verdict};
use self::{doors::Door, probe::Probe, report::Findings, roles::Role, session::Session};
use crate::{
    access::certificates::CertificateAuthority,
    backend::{self, ConnectError, Credentials, Server},
    catalog::{
        Catalog, CatalogError,
        types::{BackendLogin, BackendTls, RoleSecret, RuleReach, Tenant},
    },
    config::Config,
    names::{DatabaseName, RoleName},
    protocol::scram::Verifier,
    session::AUTH_QUERY,
};

/// An examination as a whole; well within the patience of whoever asks over HTTP.
const EXAMINATION_MAX: Duration = Duration::from_secs(45);

/// Roles that are looked at; each costs some questions and logins.
const ROLES_MAX: usize = 20;

/// A clock that is this far off is worth a word.
const SKEW_MAX: f64 = 2.0;

/// Our certificates hold from a minute ago: a server further behind does not take them. Some is left for the login.
const BEHIND_MAX: f64 = 50.0;

/// Why there was no examination.
#[derive(Debug, thiserror::Error)]
pub enum ExaminationError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("cannot begin: {0}")]
    Runtime(#[from] io::Error),
}

/// Looks tenants over.
#[derive(Clone)]
pub struct Doctor {
    pub catalog: Catalog,
    pub config: Arc<ArcSwap<Config>>,
    pub authority: Option<Arc<CertificateAuthority>>,
}

impl Doctor {
    /// Examines one tenant's server.
    pub async fn examine(&self, tenant: Tenant) -> Result<Report, ExaminationError> {
        let roles = self.granted_roles(&tenant).await?;
        let secrets = Secrets::read(&self.catalog, &tenant, &roles).await?;
        let doctor = self.clone();
        // A connection to a server stays on its thread; this one is lent to it.
        let examination = move || doctor.examine_here(&tenant, &roles, &secrets);
        match tokio::task::spawn_blocking(examination).await {
            Ok(report) => Ok(report?),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn examine_here(
        &self,
        tenant: &Tenant,
        granted: &[RoleName],
        secrets: &Secrets,
    ) -> io::Result<Report> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut findings = Findings::default();
        let examination = async {
            let look = self.look(tenant, granted, secrets, &mut findings);
            tokio::time::timeout(EXAMINATION_MAX, look).await
        };
        if runtime.block_on(examination).is_err() {
            let message = format!("the examination was not over after {EXAMINATION_MAX:?}");
            findings.note(Topic::Server, Verdict::Failed, message);
        }
        Ok(findings.into_report(tenant.tenant.clone()))
    }

    /// The roles that somebody may use at the moment, in order of their names.
    async fn granted_roles(&self, tenant: &Tenant) -> Result<Vec<RoleName>, CatalogError> {
        let now = OffsetDateTime::now_utc();
        let mut roles = Vec::new();
        for owner in std::iter::once(&tenant.tenant).chain(&tenant.parent) {
            let rules = self.catalog.rules(owner).await?;
            let live = rules.into_iter().filter(|rule| {
                let is_here = rule.reach == RuleReach::Everywhere || tenant.parent.is_some();
                is_here && rule.expires_at > now
            });
            roles.extend(live.map(|rule| rule.role));
        }
        roles.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        roles.dedup();
        Ok(roles)
    }

    async fn look(
        &self,
        tenant: &Tenant,
        granted: &[RoleName],
        secrets: &Secrets,
        findings: &mut Findings,
    ) {
        let config = self.config.load_full();
        let server = match Server::of(tenant, &config) {
            Ok(server) => server,
            Err(error) => {
                findings.note(Topic::Tls, Verdict::Failed, error.to_string());
                return;
            }
        };
        note_tls(tenant, findings);
        let database = tenant.default_database.clone();
        let probe = Probe {
            tenant,
            server,
            database: database.unwrap_or_else(DatabaseName::postgres),
            authority: self.authority.clone(),
        };
        if granted.is_empty() {
            let message = "no rule grants a role at the moment: there is no role to look at";
            findings.note(Topic::Powers, Verdict::Warning, message);
        }
        if granted.len() > ROLES_MAX {
            let message = format!(
                "{} roles are granted; the first {ROLES_MAX} are looked at",
                granted.len()
            );
            findings.note(Topic::Powers, Verdict::Warning, message);
        }
        let granted = &granted[..granted.len().min(ROLES_MAX)];
        if let Some((role, Some(secret))) = &secrets.auth_user
            && let Err(error) = check_auth_query(&probe, role, secret, findings).await
        {
            let message = format!("logging in as {role}: {error}");
            let (topic, is_end) = classify(&error);
            findings.note(topic, Verdict::Failed, message);
            if is_end {
                return;
            }
        }
        match open_session(&probe, granted, secrets, findings).await {
            Opened::Session(session) => {
                let mut visit = Visit {
                    tenant,
                    config: &config,
                    session: *session,
                    findings,
                };
                visit.ask(granted).await;
                let _ = backend::close(visit.session.connection).await;
            }
            Opened::Nothing => {}
            Opened::Unreachable => return,
        }
        for role in granted {
            if tenant.login == BackendLogin::Certificate {
                probe::certificates(&probe, role, findings).await;
            }
            probe::empty_handed(&probe, role, findings).await;
        }
    }
}

/// What the catalogue holds to log in with.
struct Secrets {
    auth_user: Option<(RoleName, Option<RoleSecret>)>,
    /// Passwords of granted roles, where token sessions log in with them.
    roles: Vec<(RoleName, RoleSecret)>,
}

impl Secrets {
    async fn read(
        catalog: &Catalog,
        tenant: &Tenant,
        granted: &[RoleName],
    ) -> Result<Self, CatalogError> {
        let auth_user = match &tenant.auth_user {
            Some(role) => {
                let secret = catalog.role_secret(&tenant.tenant, role).await?;
                Some((role.clone(), secret))
            }
            None => None,
        };
        let mut roles = Vec::new();
        if tenant.login == BackendLogin::RoleSecret {
            for role in granted.iter().take(ROLES_MAX) {
                if let Some(secret) = catalog.role_secret(&tenant.tenant, role).await? {
                    roles.push((role.clone(), secret));
                }
            }
        }
        Ok(Self { auth_user, roles })
    }
}

fn password(secret: &RoleSecret) -> Option<Credentials> {
    match secret {
        RoleSecret::Password(password) => Some(Credentials::Password(password.clone())),
        RoleSecret::Verifier(_) => None,
    }
}

fn note_tls(tenant: &Tenant, findings: &mut Findings) {
    let (verdict, message) = match tenant.backend_tls {
        BackendTls::Disable if tenant.is_on_unix_socket() => (
            Verdict::Ok,
            "connections to the server go through a Unix socket and do not leave the machine",
        ),
        BackendTls::Disable => (
            Verdict::Unsafe,
            "connections to the server are not encrypted; set backend_tls to verify-full",
        ),
        BackendTls::Require => (
            Verdict::Warning,
            "the server's certificate is not looked at: somebody in between could be the server; set backend_tls to \
             verify-full",
        ),
        BackendTls::VerifyCa => (
            Verdict::Warning,
            "the server's name is not looked at: any server of that authority could answer; set backend_tls to verify-full",
        ),
        BackendTls::VerifyFull => (
            Verdict::Ok,
            "connections to the server are encrypted and its certificate and name are checked",
        ),
    };
    findings.note(Topic::Tls, verdict, message);
}

/// What became of the doctor's own login.
enum Opened {
    Session(Box<Session>),
    /// The server is there, but nobody that we have a secret of gets in.
    Nothing,
    Unreachable,
}

/// Logs in to ask questions: as the auth user, else as a granted role.
async fn open_session(
    probe: &Probe<'_>,
    granted: &[RoleName],
    secrets: &Secrets,
    findings: &mut Findings,
) -> Opened {
    let mut attempts: Vec<(RoleName, Credentials)> = Vec::new();
    match &secrets.auth_user {
        Some((role, Some(RoleSecret::Password(password)))) => {
            attempts.push((role.clone(), Credentials::Password(password.clone())));
        }
        Some((role, _)) => {
            let message = format!("the catalogue has no password of the auth user {role}");
            let line = format!(
                "sluice tenant secret set {} {role} --password-file FILE",
                probe.tenant.tenant
            );
            findings
                .note(Topic::AuthQuery, Verdict::Failed, message)
                .add(Addition::new("command line", [line]));
        }
        None => {
            let message =
                "no auth user: password logins need each role's verifier in the catalogue";
            findings.note(Topic::AuthQuery, Verdict::Ok, message);
        }
    }
    for (role, secret) in &secrets.roles {
        attempts.extend(password(secret).map(|credentials| (role.clone(), credentials)));
    }
    for role in granted {
        if probe.tenant.login == BackendLogin::Certificate
            && let Some(Ok(credentials)) = probe.certificate(&probe.tenant.tenant, role)
        {
            attempts.push((role.clone(), credentials));
        }
    }
    if attempts.is_empty() {
        let message =
            "there is no role that the doctor could log in as: nothing was asked of the server";
        let line = format!("sluice tenant set {} --auth-user ROLE", probe.tenant.tenant);
        findings
            .note(Topic::Server, Verdict::Warning, message)
            .add(Addition::new("command line", [line]));
    }
    for (role, credentials) in attempts {
        match probe.log_in(&role, &credentials).await {
            Ok(connection) => {
                let mut session = Session::new(connection, &role);
                if session.settle().await.is_ok() {
                    return Opened::Session(Box::new(session));
                }
            }
            Err(error) => {
                let (topic, is_end) = classify(&error);
                let message = format!("logging in as {role}: {error}");
                findings.note(topic, Verdict::Failed, message);
                if is_end {
                    return Opened::Unreachable;
                }
            }
        }
    }
    Opened::Nothing
}

/// What a failed login is about, and whether another one would fail as well.
fn classify(error: &ConnectError) -> (Topic, bool) {
    match error {
        ConnectError::Resolve(_) | ConnectError::Unreachable(_) | ConnectError::TimedOut(_) => {
            (Topic::Server, true)
        }
        ConnectError::Tls(_) => (Topic::Tls, true),
        ConnectError::Broken(_)
        | ConnectError::Refused(_)
        | ConnectError::Method
        | ConnectError::Scram(_)
        | ConnectError::ScramPassword(_)
        | ConnectError::Iterations
        | ConnectError::Unverified
        | ConnectError::Protocol => (Topic::Login, false),
    }
}

/// Asks for a verifier as a login with a password would have it asked for.
async fn check_auth_query(
    probe: &Probe<'_>,
    role: &RoleName,
    secret: &RoleSecret,
    findings: &mut Findings,
) -> Result<(), ConnectError> {
    let tenant = probe.tenant;
    let Some(credentials) = password(secret) else {
        return Ok(());
    };
    let database = tenant.auth_database.as_ref().unwrap_or(&probe.database);
    let connection = probe.log_in_to(database, role, &credentials).await?;
    let mut session = Session::new(connection, role);
    let sql = tenant.auth_query.as_deref().unwrap_or(AUTH_QUERY);
    let answer = match session.settle().await {
        Ok(()) => session.rows(sql, &[role.as_str()]).await,
        Err(error) => Err(error),
    };
    let _ = backend::close(session.connection).await;
    let verifier = answer.map(|rows| rows.into_iter().next()?.into_iter().nth(1)?);
    let (verdict, message) = match verifier {
        Ok(Some(verifier)) if Verifier::parse(&verifier).is_ok() => {
            (Verdict::Ok, "the auth query answers verifiers".to_owned())
        }
        Ok(Some(_)) => (
            Verdict::Failed,
            "the auth query answers something that is no SCRAM-SHA-256 verifier".to_owned(),
        ),
        Ok(None) => (
            Verdict::Failed,
            format!("the auth query knows nothing of {role} itself"),
        ),
        Err(error) => (Verdict::Failed, format!("the auth query fails: {error}")),
    };
    let finding = findings.note(Topic::AuthQuery, verdict, message);
    if verdict != Verdict::Ok && tenant.auth_query.is_none() {
        let role = roles::quoted(role.as_str());
        let grant = format!("GRANT SELECT ON pg_catalog.pg_authid TO {role};");
        finding.add(Addition::sql(database, [grant]));
    }
    Ok(())
}

/// The questions to one server.
struct Visit<'a> {
    tenant: &'a Tenant,
    config: &'a Config,
    session: Session,
    findings: &'a mut Findings,
}

impl Visit<'_> {
    async fn ask(&mut self, granted: &[RoleName]) {
        self.version();
        self.clock().await;
        self.logging().await;
        let roles = self.roles(granted).await;
        self.files(roles).await;
    }

    /// The database that we are in.
    fn database(&self) -> DatabaseName {
        let database = self.tenant.default_database.clone();
        database.unwrap_or_else(DatabaseName::postgres)
    }

    fn version(&mut self) {
        let needed = self.config.token_access.min_server_version;
        match self.session.connection.parameters.server_major() {
            Some(version) if version >= needed => {
                let message = format!("the server answers and runs PostgreSQL {version}");
                self.findings.note(Topic::Version, Verdict::Ok, message);
            }
            Some(version) => {
                let message = format!(
                    "the server runs PostgreSQL {version}; token access needs {needed} or newer"
                );
                self.findings.note(Topic::Version, Verdict::Failed, message);
            }
            None => {
                let message = "the server does not say its version";
                self.findings
                    .note(Topic::Version, Verdict::Warning, message);
            }
        }
    }

    async fn clock(&mut self) {
        let before = seconds_since_1970();
        let sql = "SELECT pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())::text";
        let answer = self.session.column(sql, &[]).await;
        let after = seconds_since_1970();
        let theirs = answer.ok().and_then(|values| values.first()?.parse().ok());
        let Some(theirs): Option<f64> = theirs else {
            let message = "the server's clock could not be asked";
            self.findings.note(Topic::Clock, Verdict::Warning, message);
            return;
        };
        let middle = before.midpoint(after);
        let skew = theirs - middle;
        let (verdict, message) = judge_clock(skew, self.tenant.login, self.config);
        self.findings.note(Topic::Clock, verdict, message);
    }

    /// Without these the server's log does not say who came (design.md section 9).
    async fn logging(&mut self) {
        let sql = "SELECT pg_catalog.current_setting('log_connections')";
        let Ok(values) = self.session.column(sql, &[]).await else {
            return;
        };
        let is_on = values
            .first()
            .is_some_and(|value| !matches!(value.as_str(), "off" | ""));
        if is_on {
            let message = "the server logs who connects";
            self.findings.note(Topic::Logging, Verdict::Ok, message);
        } else {
            let message = "the server does not log who connects";
            self.findings
                .note(Topic::Logging, Verdict::Warning, message)
                .add(Addition::new("postgresql.conf", ["log_connections = on"]));
        }
    }

    async fn roles(&mut self, granted: &[RoleName]) -> Vec<Role> {
        let mut found = Vec::new();
        for role in granted {
            let examined =
                roles::examine(&mut self.session, self.tenant, role.as_str(), self.findings).await;
            match examined {
                Ok(role) => found.extend(role),
                Err(error) => {
                    let message = format!("role {role} could not be looked at: {error}");
                    self.findings.note(Topic::Powers, Verdict::Warning, message);
                }
            }
        }
        found
    }

    /// The server's files, for each granted role.
    async fn files(&mut self, mut roles: Vec<Role>) {
        let read = async {
            let rules = doors::read(&mut self.session).await?;
            Ok((rules, ident_map::read(&mut self.session).await?))
        };
        let (rules, mappings) = match read.await {
            Ok(files) => files,
            Err(error) => return self.note_unreadable(&error),
        };
        doors::note_errors(&rules, self.findings);
        ident_map::note_errors(&mappings, self.findings);
        let from = self
            .session
            .column("SELECT pg_catalog.host(pg_catalog.inet_client_addr())", &[])
            .await;
        let from = from.ok().and_then(|values| values.first()?.parse().ok());
        let database = self.database();
        let door = Door {
            rules: &rules,
            tenant: self.tenant,
            database: database.as_str(),
            from,
        };
        for role in &mut roles {
            let looked = async {
                doors::learn_expressions(&mut self.session, &rules, role).await?;
                let ours = door.note_ours(role, self.findings);
                door.note_others(role, self.findings);
                let map = ours.and_then(|rule| rule.option("map"));
                if let (Some(map), BackendLogin::Certificate) = (map, self.tenant.login) {
                    let tenant = &self.tenant.tenant;
                    let session = &mut self.session;
                    ident_map::examine(session, &mappings, map, tenant, role, self.findings)
                        .await?;
                }
                Ok::<_, session::Unanswered>(())
            };
            if let Err(error) = looked.await {
                let message = format!("the lines for {} could not be tried: {error}", role.name);
                self.findings
                    .note(Topic::HostRules, Verdict::Warning, message);
            }
        }
    }

    fn note_unreadable(&mut self, error: &session::Unanswered) {
        let message = format!("pg_hba.conf and pg_ident.conf cannot be looked at: {error}");
        let database = self.database();
        let finding = self
            .findings
            .note(Topic::HostRules, Verdict::Warning, message);
        if matches!(error, session::Unanswered::Forbidden(_)) {
            let role = roles::quoted(&self.session.role);
            let lines = [
                format!(
                    "GRANT SELECT ON pg_catalog.pg_hba_file_rules, pg_catalog.pg_ident_file_mappings TO {role};"
                ),
                format!(
                    "GRANT EXECUTE ON FUNCTION pg_catalog.pg_hba_file_rules(), pg_catalog.pg_ident_file_mappings() TO {role};"
                ),
            ];
            finding.add(Addition::sql(&database, lines));
        }
    }
}

fn seconds_since_1970() -> f64 {
    (OffsetDateTime::now_utc() - OffsetDateTime::UNIX_EPOCH).as_seconds_f64()
}

/// How bad it is that the server's clock is `skew` seconds ahead of ours.
fn judge_clock(skew: f64, login: BackendLogin, config: &Config) -> (Verdict, String) {
    let ahead_max = config.token_access.certificate_lifetime.as_secs_f64();
    let direction = if skew < 0.0 { "behind" } else { "ahead of" };
    let off = format!("the server's clock is {:.1} s {direction} ours", skew.abs());
    if login == BackendLogin::Certificate && (skew < -BEHIND_MAX || skew > ahead_max) {
        let message = format!("{off}: it takes our certificates for not yet or no longer valid");
        (Verdict::Failed, message)
    } else if skew.abs() > SKEW_MAX {
        (Verdict::Warning, off)
    } else {
        (Verdict::Ok, off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_clock_that_certificates_do_not_survive_is_a_failure() {
        let config = Config::new(Secret::new([0; 32]), Secret::new(String::new()));
        let judge = |skew, login| judge_clock(skew, login, &config).0;
        assert_eq!(judge(0.3, BackendLogin::Certificate), Verdict::Ok);
        assert_eq!(judge(-3.0, BackendLogin::Certificate), Verdict::Warning);
        assert_eq!(judge(-70.0, BackendLogin::Certificate), Verdict::Failed);
        assert_eq!(judge(-70.0, BackendLogin::RoleSecret), Verdict::Warning);
        assert_eq!(judge(4000.0, BackendLogin::Certificate), Verdict::Failed);
    }

    #[test]
    fn the_worst_finding_is_the_verdict() {
        let mut findings = Findings::default();
        for verdict in [Verdict::Ok, Verdict::Unsafe, Verdict::Failed] {
            findings.note(Topic::Server, verdict, "");
        }
        let report = findings.into_report(crate::names::TenantRef::parse("demo").unwrap());
        assert_eq!(report.verdict, Verdict::Unsafe);
    }
}
