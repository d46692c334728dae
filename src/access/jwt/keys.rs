//! The public keys of issuers: fetched when they are needed, kept for a while, and fetched again for a key that is not among
//! them, but not more often than a stranger's made-up key names should make us.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use jsonwebtoken::jwk::Jwk;
use reqwest::{
    StatusCode, Url,
    header::{ACCEPT, HeaderValue},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    access::authority::Outage,
    catalog::types::{JwtAuthority, JwtKeys},
    config::AuthoritySettings,
    names::TenantRef,
    net::outbound::{Outbound, OutboundPolicy},
};

/// Keys are looked at again after this long: one that its issuer has withdrawn counts no longer.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// While their issuer cannot be reached, keys are good for this long.
const USABLE: Duration = Duration::from_secs(60 * 60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(10);

/// The keys of all tenants' issuers.
pub(in crate::access) struct Keyrings {
    policy: Arc<OutboundPolicy>,
    by_tenant: DashMap<TenantRef, Arc<Keyring>>,
    runtime: Handle,
}

struct Keyring {
    authority: Arc<JwtAuthority>,
    outbound: Outbound,
    keys: ArcSwapOption<Keys>,
    last: Mutex<Option<Attempt>>,
    /// One fetches, the others wait for what it finds.
    turn: Semaphore,
}

#[derive(Clone, Copy)]
struct Attempt {
    at: Instant,
    outcome: Fetched,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fetched {
    Yes,
    No,
}

struct Keys {
    keys: Arc<[Jwk]>,
    fetched_at: Instant,
}

impl Keyrings {
    pub(in crate::access) fn new(policy: Arc<OutboundPolicy>, runtime: Handle) -> Self {
        Self {
            policy,
            by_tenant: DashMap::new(),
            runtime,
        }
    }

    /// The issuer's keys; `knows` says whether the one that is looked for is among them.
    pub(super) async fn find(
        &self,
        tenant: &TenantRef,
        authority: &Arc<JwtAuthority>,
        settings: &AuthoritySettings,
        knows: impl Fn(&[Jwk]) -> bool,
    ) -> Result<Arc<[Jwk]>, Outage> {
        let url = match &authority.keys {
            JwtKeys::Jwks(set) => return Ok(set.keys.clone().into()),
            JwtKeys::Url(url) => url.url(),
        };
        let keyring = self.keyring(tenant, authority)?;
        let known = || keyring.younger_than(FRESH).filter(|keys| knows(keys));
        if let Some(keys) = known() {
            return Ok(keys);
        }
        // Never closed, so that there is a turn sooner or later.
        let _turn = keyring.turn.acquire().await;
        if let Some(keys) = known() {
            return Ok(keys);
        }
        let usable = || keyring.younger_than(USABLE);
        match keyring.last_attempt() {
            // What was found a moment ago is all there is.
            Some(Fetched::Yes) => usable().ok_or(Outage::Pausing),
            Some(Fetched::No) => usable().filter(|keys| knows(keys)).ok_or(Outage::Pausing),
            None => match keyring.fetch(url, settings, &self.runtime).await {
                Ok(keys) => Ok(keyring.keep(keys)),
                Err(outage) => {
                    keyring.note(Fetched::No);
                    tracing::warn!(%tenant, %outage, "the keys of the tenant's issuer cannot be fetched");
                    usable().filter(|keys| knows(keys)).ok_or(outage)
                }
            },
        }
    }

    /// Drops the keys that nobody has needed for long.
    pub(in crate::access) fn tidy(&self) {
        self.by_tenant.retain(|_, keyring| {
            let is_in_use = Arc::strong_count(keyring) > 1 || keyring.last_attempt().is_some();
            is_in_use || keyring.younger_than(USABLE).is_some()
        });
    }

    fn keyring(
        &self,
        tenant: &TenantRef,
        authority: &Arc<JwtAuthority>,
    ) -> Result<Arc<Keyring>, Outage> {
        if let Some(keyring) = self.by_tenant.get(tenant)
            && keyring.authority == *authority
        {
            return Ok(Arc::clone(&keyring));
        }
        let keyring = Arc::new(Keyring {
            authority: Arc::clone(authority),
            outbound: Outbound::new(Arc::clone(&self.policy), authority.ca.as_deref())?,
            keys: ArcSwapOption::empty(),
            last: Mutex::new(None),
            turn: Semaphore::new(1),
        });
        self.by_tenant.insert(tenant.clone(), Arc::clone(&keyring));
        Ok(keyring)
    }
}

impl Keyring {
    fn younger_than(&self, age: Duration) -> Option<Arc<[Jwk]>> {
        let keys = self.keys.load();
        let keys = keys
            .as_ref()
            .filter(|keys| keys.fetched_at.elapsed() < age)?;
        Some(Arc::clone(&keys.keys))
    }

    /// What came of the last attempt, if it is too early for another one.
    fn last_attempt(&self) -> Option<Fetched> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|last| last.at.elapsed() < PAUSE)
            .map(|last| last.outcome)
    }

    fn note(&self, outcome: Fetched) {
        let at = Instant::now();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Attempt { at, outcome });
    }

    fn keep(&self, keys: Arc<[Jwk]>) -> Arc<[Jwk]> {
        self.note(Fetched::Yes);
        self.keys.store(Some(Arc::new(Keys {
            keys: Arc::clone(&keys),
            fetched_at: Instant::now(),
        })));
        keys
    }

    async fn fetch(
        self: &Arc<Self>,
        url: &Url,
        settings: &AuthoritySettings,
        runtime: &Handle,
    ) -> Result<Arc<[Jwk]>, Outage> {
        let (deadline, max_bytes) = (settings.deadline, settings.answer_max_bytes);
        let (keyring, url) = (Arc::clone(self), url.clone());
        let call = async move {
            let accept = HeaderValue::from_static("application/json");
            let request = |client: &reqwest::Client| client.get(url.clone()).header(ACCEPT, accept);
            keyring.outbound.call(&url, request, max_bytes).await
        };
        let call = AbortOnDropHandle::new(runtime.spawn(tokio::time::timeout(deadline, call)));
        let response = match call.await {
            Ok(response) => response.map_err(|_| Outage::TimedOut(deadline))??,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(Outage::TimedOut(deadline)),
        };
        match response.status {
            StatusCode::OK => read(&response.body),
            other => Err(Outage::Status(other.as_u16())),
        }
    }
}

/// Keys of kinds that we do not know are left out: an issuer may have them for others.
fn read(body: &[u8]) -> Result<Arc<[Jwk]>, Outage> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(body).map_err(|_| Outage::Malformed)?;
    let keys = set.keys.into_iter();
    Ok(keys
        .filter_map(|key| serde_json::from_value(key).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_keys_do_not_spoil_the_others() {
        let set = br#"{"keys": [
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "one"},
            {"kty": "future", "kid": "two"}, 7, {"kid": "three"}
        ]}"#;
        let keys = read(set).unwrap();
        assert!(
            keys.iter()
                .any(|key| key.common.key_id.as_deref() == Some("one"))
        );
        assert!(matches!(read(b"{}"), Err(Outage::Malformed)));
        assert!(matches!(read(b"[]"), Err(Outage::Malformed)));
    }
}
