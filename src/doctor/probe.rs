//! Logins that are tried from here: what must work does, and what must not is refused.
//!
//! They see what the server does, not what its files say: a file may have been changed and not been loaded.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::report::{Findings, Topic, Verdict};
use crate::{
    access::certificates::{CertificateAuthority, MintError, Subject},
    backend::{self, ConnectError, Connection, Credentials, Server},
    catalog::types::{BackendTls, Tenant},
    names::{DatabaseName, PersonId, RoleName, RuleId, TenantRef},
    net::client_tls::ClientTlsConfig,
};

/// The certificates of a probe are used at once.
const LIFETIME: Duration = Duration::from_secs(60);

/// Person and grant that a probe's certificate names.
const NOBODY: PersonId = PersonId(Uuid::nil());
const NO_RULE: RuleId = RuleId(Uuid::nil());

/// Logs in to one tenant's server.
pub(super) struct Probe<'a> {
    pub(super) tenant: &'a Tenant,
    pub(super) server: Server,
    pub(super) database: DatabaseName,
    pub(super) authority: Option<Arc<CertificateAuthority>>,
}

impl Probe<'_> {
    pub(super) async fn log_in(
        &self,
        role: &RoleName,
        credentials: &Credentials,
    ) -> Result<Connection, ConnectError> {
        self.log_in_to(&self.database, role, credentials).await
    }

    pub(super) async fn log_in_to(
        &self,
        database: &DatabaseName,
        role: &RoleName,
        credentials: &Credentials,
    ) -> Result<Connection, ConnectError> {
        self.server
            .connect(role, database, backend::PARAMETERS, credentials)
            .await
    }

    /// A certificate as a person's session would have it, for `role` of `tenant`.
    pub(super) fn certificate(
        &self,
        tenant: &TenantRef,
        role: &RoleName,
    ) -> Option<Result<Credentials, MintError>> {
        let subject = Subject {
            person: NOBODY,
            role,
            grant: NO_RULE.0,
            tenant,
        };
        let minted = self.authority.as_ref()?.mint(&subject, LIFETIME);
        Some(minted.map(|minted| Credentials::Certificate(minted.identity)))
    }

    /// Whether somebody who shows nothing gets in as `role`.
    async fn lets_anybody_in(&self, role: &RoleName, tls: &ClientTlsConfig) -> bool {
        let server = Server {
            tls: tls.clone(),
            ..self.server.clone()
        };
        let credentials = Credentials::None;
        let attempt = server.connect(role, &self.database, backend::PARAMETERS, &credentials);
        match attempt.await {
            Ok(connection) => {
                let _ = backend::close(connection).await;
                true
            }
            Err(_) => false,
        }
    }
}

/// Tries that `role` gets in with its certificate, and that certificates for somebody else do not.
pub(super) async fn certificates(probe: &Probe<'_>, role: &RoleName, findings: &mut Findings) {
    let own = &probe.tenant.tenant;
    match probe.certificate(own, role) {
        None => return,
        Some(Err(error)) => {
            findings.note(Topic::Login, Verdict::Failed, error.to_string());
            return;
        }
        Some(Ok(credentials)) => match probe.log_in(role, &credentials).await {
            Ok(connection) => {
                let _ = backend::close(connection).await;
                let message = format!("{role} logs in with a certificate of ours");
                findings.note(Topic::Login, Verdict::Ok, message);
            }
            Err(error) => {
                let message = format!("{role} does not get in with a certificate of ours: {error}");
                findings.note(Topic::Login, Verdict::Failed, message);
            }
        },
    }
    let other = TenantRef::parse(&format!("{own}x"));
    let stranger = RoleName::parse("sluice_doctor");
    let wrong = [
        (
            other.ok(),
            Some(role.clone()),
            "another tenant's certificate",
        ),
        (
            Some(own.clone()),
            stranger.ok(),
            "a certificate for another role",
        ),
    ];
    for (tenant, named, what) in wrong {
        let (Some(tenant), Some(named)) = (tenant, named) else {
            continue;
        };
        let Some(Ok(credentials)) = probe.certificate(&tenant, &named) else {
            continue;
        };
        if let Ok(connection) = probe.log_in(role, &credentials).await {
            let _ = backend::close(connection).await;
            let message = format!("the server let {what} in as {role}");
            findings.note(Topic::Login, Verdict::Unsafe, message);
        }
    }
}

/// Tries to come in as `role` with nothing to show.
pub(super) async fn empty_handed(probe: &Probe<'_>, role: &RoleName, findings: &mut Findings) {
    let Ok(plain) = ClientTlsConfig::new(BackendTls::Disable, None) else {
        return;
    };
    let ways = [
        (&probe.server.tls, "over TLS and from this address"),
        (&plain, "without TLS and from this address"),
    ];
    let local = [(&plain, "through its Unix socket")];
    let ways = if probe.tenant.is_on_unix_socket() {
        &local[..]
    } else {
        &ways[..]
    };
    for (tls, how) in ways {
        if probe.lets_anybody_in(role, tls).await {
            let message = format!("the server lets anybody in as {role}, {how}");
            findings.note(Topic::Login, Verdict::Unsafe, message);
        }
    }
}
