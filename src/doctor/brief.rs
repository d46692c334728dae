//! Short questions to a tenant's server: can token sessions be on it at all, and is a role one to be careful with?
//!
//! Asked over one login, of whoever we have something to log in with for. What nobody answers counts for nothing: the
//! same things are looked at again whenever a person logs in.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Doctor, ExaminationError, Probe, ROLES_MAX, Secrets, Session, classify, password};
use crate::{
    backend::{self, ConnectError, Connection, Credentials, Server},
    catalog::types::{BackendLogin, RoleSecret, Tenant},
    config::Config,
    names::{DatabaseName, RoleName},
    net::client_tls::ClientTlsError,
};

/// Whoever asks waits for it, so a server that hangs is given up soon.
const BRIEF_MAX: Duration = Duration::from_secs(5);

/// Why token sessions cannot be on a tenant's server, in the words of the Management API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnavailableReason {
    /// The server is too old.
    PostgresUpgradeRequired,
    /// The server takes no encrypted connections, and the tenant wants none but such.
    SslEnforcementRequired,
    /// The server does not take our certificates yet.
    ManualMigrationRequired,
    /// This pooler is not set up to log in to the server.
    PlatformUnsupported,
    /// The server cannot be asked at the moment.
    TemporarilyUnavailable,
}

/// What speaks against token sessions on a tenant's server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unavailable {
    pub reason: UnavailableReason,
    pub message: String,
}

/// Roles that there is something to say about before they are granted.
#[derive(Debug, Default)]
pub struct Standing {
    /// Superusers, those with `REPLICATION` or `CREATEROLE`, and members of such.
    pub privileged: Vec<RoleName>,
    /// The server has no role of that name.
    pub missing: Vec<RoleName>,
}

impl UnavailableReason {
    /// Whether the server itself must change first: to enable token access would be to promise what cannot be.
    #[must_use]
    pub fn is_for_good(self) -> bool {
        match self {
            Self::PostgresUpgradeRequired | Self::SslEnforcementRequired => true,
            Self::ManualMigrationRequired
            | Self::PlatformUnsupported
            | Self::TemporarilyUnavailable => false,
        }
    }

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::PostgresUpgradeRequired => "postgres_upgrade_required",
            Self::SslEnforcementRequired => "ssl_enforcement_required",
            Self::ManualMigrationRequired => "manual_migration_required",
            Self::PlatformUnsupported => "platform_unsupported",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
        }
    }

    fn because(self, message: impl Into<String>) -> Unavailable {
        Unavailable {
            reason: self,
            message: message.into(),
        }
    }
}

impl Doctor {
    /// What speaks against token sessions on the tenant's server; `None`: nothing that we know of.
    pub async fn unavailable(
        &self,
        tenant: Tenant,
    ) -> Result<Option<Unavailable>, ExaminationError> {
        let granted = self.granted_roles(&tenant).await?;
        let secrets = Secrets::read(&self.catalog, &tenant, &granted).await?;
        let late = UnavailableReason::TemporarilyUnavailable
            .because(format!("the server has not answered within {BRIEF_MAX:?}"));
        self.briefly(tenant, Some(late), async move |probe, config| {
            judge(&probe, &config, &granted, &secrets).await.err()
        })
        .await
    }

    /// What the server says of `roles`; `None`: nobody could be asked.
    pub async fn standing(&self, tenant: Tenant, roles: Vec<RoleName>) -> Option<Standing> {
        let granted = self.granted_roles(&tenant).await.ok()?;
        // A role that is to be granted can often tell about itself, where nobody else can.
        let known = [&*roles, &*granted].concat();
        let secrets = Secrets::read(&self.catalog, &tenant, &known).await.ok()?;
        let asked = self.briefly(tenant, None, async move |probe, _| {
            let mut session = log_in(&probe, &known, &secrets).await.ok().flatten()?;
            let found = standing(&mut session, roles).await;
            let _ = backend::close(session.connection).await;
            Some(found)
        });
        asked.await.ok().flatten()
    }

    /// Runs `ask` within its time; `late` is the answer where it is not over by then.
    async fn briefly<T: Send + 'static>(
        &self,
        tenant: Tenant,
        late: Option<T>,
        ask: impl AsyncFnOnce(Probe<'_>, std::sync::Arc<Config>) -> Option<T> + Send + 'static,
    ) -> Result<Option<T>, ExaminationError> {
        let doctor = self.clone();
        // A connection to a server stays on its thread; this one is lent to it.
        let asking = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let config = doctor.config.load_full();
            let Ok(server) = Server::of(&tenant, &config) else {
                return Ok(late);
            };
            let probe = Probe {
                server,
                database: tenant
                    .default_database
                    .clone()
                    .unwrap_or_else(DatabaseName::postgres),
                authority: doctor.authority.clone(),
                tenant: &tenant,
            };
            let answer = async { tokio::time::timeout(BRIEF_MAX, ask(probe, config)).await };
            Ok(runtime.block_on(answer).unwrap_or(late))
        };
        match tokio::task::spawn_blocking(asking).await {
            Ok(answer) => Ok(answer.map_err(ExaminationError::Runtime)?),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

async fn judge(
    probe: &Probe<'_>,
    config: &Config,
    granted: &[RoleName],
    secrets: &Secrets,
) -> Result<(), Unavailable> {
    let by_certificate = probe.tenant.login == BackendLogin::Certificate;
    let needed = config.token_access.min_server_version;
    if let Some(session) = log_in(probe, granted, secrets).await? {
        let version = session.connection.parameters.server_major();
        let _ = backend::close(session.connection).await;
        if let Some(version) = version.filter(|version| *version < needed) {
            return Err(UnavailableReason::PostgresUpgradeRequired.because(format!(
                "the server runs PostgreSQL {version}; token access needs {needed} or newer"
            )));
        }
    }
    if by_certificate && probe.authority.is_none() {
        return Err(UnavailableReason::PlatformUnsupported.because(
            "the tenant logs in by certificate, and the pooler has no authority to make them with \
             (token_access.ca_certificate and ca_key)",
        ));
    }
    if by_certificate {
        takes_certificates(probe, granted).await?;
    }
    Ok(())
}

/// Whether one of the granted roles gets in. A single one that does not says less of the server than of its rule.
async fn takes_certificates(probe: &Probe<'_>, granted: &[RoleName]) -> Result<(), Unavailable> {
    let mut refusal = None;
    for role in granted.iter().take(ROLES_MAX) {
        let Some(Ok(credentials)) = probe.certificate(&probe.tenant.tenant, role) else {
            continue;
        };
        match settled(probe.log_in(role, &credentials).await).await {
            Ok(()) => return Ok(()),
            Err(error) => refusal = refusal.or(Some((role, error))),
        }
    }
    match refusal {
        Some((role, error)) => Err(UnavailableReason::ManualMigrationRequired.because(format!(
            "{role} does not get in with a certificate of ours: {error}"
        ))),
        None => Ok(()),
    }
}

async fn settled(attempt: Result<Connection, ConnectError>) -> Result<(), ConnectError> {
    let _ = backend::close(attempt?).await;
    Ok(())
}

/// A session of whoever gets in; `Ok(None)`: the server is there, but we have nothing to log in with.
async fn log_in(
    probe: &Probe<'_>,
    roles: &[RoleName],
    secrets: &Secrets,
) -> Result<Option<Session>, Unavailable> {
    for (role, credentials) in attempts(probe, roles, secrets) {
        match probe.log_in(&role, &credentials).await {
            Ok(connection) => {
                let mut session = Session::new(connection, &role);
                if session.settle().await.is_ok() {
                    return Ok(Some(session));
                }
            }
            Err(error) => {
                if let (_, true) = classify(&error) {
                    return Err(unreachable(&error));
                }
            }
        }
    }
    Ok(None)
}

fn attempts(
    probe: &Probe<'_>,
    roles: &[RoleName],
    secrets: &Secrets,
) -> Vec<(RoleName, Credentials)> {
    let auth_user = secrets.auth_user.iter();
    let auth_user = auth_user.filter_map(|(role, secret)| Some((role, secret.as_ref()?)));
    let stored = auth_user.chain(secrets.roles.iter().map(|(role, secret)| (role, secret)));
    let mut attempts: Vec<_> = stored
        .filter_map(|(role, secret): (&RoleName, &RoleSecret)| {
            Some((role.clone(), password(secret)?))
        })
        .collect();
    for role in roles {
        if probe.tenant.login == BackendLogin::Certificate
            && let Some(Ok(credentials)) = probe.certificate(&probe.tenant.tenant, role)
        {
            attempts.push((role.clone(), credentials));
        }
    }
    // Last of all with nothing to show: that tells whether the server is there, and whether it takes TLS.
    let nobody = probe.tenant.auth_user.clone();
    let nobody = nobody.or_else(|| RoleName::parse("sluice_doctor").ok());
    attempts.extend(nobody.map(|role| (role, Credentials::None)));
    attempts
}

fn unreachable(error: &ConnectError) -> Unavailable {
    let reason = match error {
        ConnectError::Tls(ClientTlsError::Refused) => UnavailableReason::SslEnforcementRequired,
        _ => UnavailableReason::TemporarilyUnavailable,
    };
    reason.because(error.to_string())
}

/// What the server says of `roles`, as far as it answers.
async fn standing(session: &mut Session, roles: Vec<RoleName>) -> Standing {
    let sql = backend::privileged_sql("$1");
    let mut found = Standing::default();
    for role in roles {
        let Ok(answer) = session.column(&sql, &[role.as_str()]).await else {
            break;
        };
        match answer.first().map(String::as_str) {
            Some("true") => found.privileged.push(role),
            Some(_) => {}
            None => found.missing.push(role),
        }
    }
    found
}
