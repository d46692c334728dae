//! Sluice as a database's own machine asks it: over HTTPS, or plain HTTP on the loopback address, under a deadline.

use std::{fs, io, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use reqwest::{RequestBuilder, StatusCode, Url, redirect::Policy};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{
    admin::values::{DirectSession, GuardAnswer, GuardQuestion},
    catalog::Token,
    names::{PersonId, RoleName, TenantRef},
};

/// An answer to one of our questions is short.
const ANSWER_MAX_BYTES: usize = 1024 * 1024;

/// Why Sluice cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no certificate in PEM form", path.display())]
    NoCertificate { path: PathBuf },
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot set up HTTP: {0}")]
    Http(#[from] reqwest::Error),
    #[error("a token is sent to an https:// address, or to http:// on the loopback address, only")]
    Readable,
}

/// Why there is no answer that helps.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot reach Sluice: {}", root_cause(.0))]
    Unreachable(reqwest::Error),
    #[error("Sluice answered {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("Sluice's answer is not what was asked for")]
    Unreadable,
}

/// What Sluice says of a token.
pub(super) struct Allowed {
    pub(super) person: PersonId,
    pub(super) role: RoleName,
    pub(super) expires_at: Option<OffsetDateTime>,
}

/// Asks about one tenant.
pub struct Authority {
    http: reqwest::Client,
    base: Url,
    tenant: TenantRef,
}

/// The 200 of the authorise call.
#[derive(Deserialize)]
struct Authorisation {
    user_id: PersonId,
    user_role: UserRole,
}

#[derive(Deserialize)]
struct UserRole {
    role: RoleName,
    expires_at: Option<i64>,
}

#[derive(Deserialize, Default)]
struct Failure {
    #[serde(default)]
    message: String,
}

impl Authority {
    /// Asks the Sluice at `base` about `tenant`; `authorities`: who may vouch for it, else the public ones.
    pub fn new(
        base: Url,
        tenant: TenantRef,
        authorities: Option<PathBuf>,
        timeout: Duration,
    ) -> Result<Self, SetupError> {
        if base.scheme() != "https" && !is_loopback(&base) {
            return Err(SetupError::Readable);
        }
        let roots = roots(authorities)?;
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .use_preconfigured_tls(tls)
            .timeout(timeout)
            // Tokens go to the address that was named and nowhere else.
            .no_proxy()
            .redirect(Policy::none())
            .build()?;
        Ok(Self { http, base, tenant })
    }

    /// May `token` use `role`, from `from`?
    pub(super) async fn authorise(
        &self,
        token: &Token,
        role: &RoleName,
        from: IpAddr,
    ) -> Result<Allowed, AuthorityError> {
        let path = ["v1", "projects", self.tenant.as_str(), "database", "jit"];
        let request = self
            .http
            .post(self.url(&path))
            .bearer_auth(&*token.reveal())
            .json(&json!({ "role": role, "rhost": from }));
        let answer: Authorisation = call(request).await?;
        let expires_at = match answer.user_role.expires_at {
            Some(seconds) => Some(
                OffsetDateTime::from_unix_timestamp(seconds)
                    .map_err(|_| AuthorityError::Unreadable)?,
            ),
            None => None,
        };
        Ok(Allowed {
            person: answer.user_id,
            role: answer.user_role.role,
            expires_at,
        })
    }

    /// May these sessions go on? Answered when one may not, else after `wait`.
    pub(super) async fn watch(
        &self,
        sessions: Vec<DirectSession>,
        wait: Duration,
        key: &Zeroizing<String>,
    ) -> Result<GuardAnswer, AuthorityError> {
        let path = ["v1", "tenants", self.tenant.as_str(), "guard"];
        let question = GuardQuestion {
            wait_seconds: u8::try_from(wait.as_secs()).unwrap_or(u8::MAX),
            sessions,
        };
        let request = self.http.post(self.url(&path)).bearer_auth(&**key);
        call(request.json(&question)).await
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // An http or https address can always be extended.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

async fn call<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, AuthorityError> {
    let lost = |error: reqwest::Error| AuthorityError::Unreachable(error.without_url());
    let mut answer = request.send().await.map_err(lost)?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(lost)? {
        body.extend_from_slice(&part);
        if body.len() > ANSWER_MAX_BYTES {
            return Err(AuthorityError::Unreadable);
        }
    }
    if status != StatusCode::OK {
        let failure: Failure = serde_json::from_slice(&body).unwrap_or_default();
        let message = failure.message.chars().filter(|c| !c.is_control());
        return Err(AuthorityError::Refused {
            status,
            message: message.take(200).collect(),
        });
    }
    serde_json::from_slice(&body).map_err(|_| AuthorityError::Unreadable)
}

fn is_loopback(base: &Url) -> bool {
    let host = base.host_str().unwrap_or_default();
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    base.scheme() == "http" && address.is_ok_and(|address| address.is_loopback())
}

fn roots(authorities: Option<PathBuf>) -> Result<RootCertStore, SetupError> {
    let Some(path) = authorities else {
        return Ok(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect());
    };
    let pem = match fs::read(&path) {
        Ok(pem) => pem,
        Err(source) => return Err(SetupError::Read { path, source }),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        match certificate {
            Ok(certificate) => roots.add(certificate)?,
            Err(_) => return Err(SetupError::NoCertificate { path }),
        }
    }
    if roots.is_empty() {
        return Err(SetupError::NoCertificate { path });
    }
    Ok(roots)
}

/// The innermost cause: `Connection refused` rather than three layers of "error sending request".
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_over_no_wire_readable() {
        let authority = |url: &str| {
            let tenant = TenantRef::parse("demo").unwrap();
            Authority::new(url.parse().unwrap(), tenant, None, Duration::from_secs(1))
        };
        for url in [
            "https://sluice.example.com",
            "http://127.0.0.1:6544",
            "http://[::1]:6544",
        ] {
            assert!(authority(url).is_ok(), "{url}");
        }
        for url in [
            "http://sluice.example.com",
            "http://10.0.0.1",
            "ftp://127.0.0.1",
        ] {
            assert!(matches!(authority(url), Err(SetupError::Readable)), "{url}");
        }
    }
}
