//! A role's password verifier: from the catalogue, or asked of the tenant's own PostgreSQL.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use rustc_hash::FxHashMap;
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{error::End, even_time::Work, session_state, tenancy, worker::Worker};
use crate::{
    backend::ExchangeError,
    catalog::types::{RoleSecret, Tenant},
    names::{DatabaseName, RoleName, TenantRef},
    pool::{Login, Pool, PoolKey, Principal, Service},
    protocol::{
        parameters::Settings,
        scram::{DEFAULT_ITERATIONS, Verifier},
    },
};

/// Asks for a role that may log in and whose password has not run out.
pub const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil <= pg_catalog.now() THEN NULL ELSE rolpassword END \
    FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin";

/// A verifier that asks for more work than this, about a second's, is not one that a password was set with.
const ITERATIONS_MAX: u32 = 1_000_000;

/// Roles remembered per worker.
const CACHED_MAX: usize = 10_000;

/// How long asking a server may take, once connected.
const ASK_MAX: Duration = Duration::from_secs(5);

/// What a role's password can be checked with.
#[derive(Clone)]
pub(super) struct Secret {
    pub(super) verifier: Verifier,
    /// The password itself, where the catalogue holds it: the server's own verifier may have another salt.
    pub(super) password: Option<Zeroizing<String>>,
}

/// Verifiers that were found a moment ago.
#[derive(Default)]
pub(super) struct VerifierCache(RefCell<FxHashMap<(TenantRef, RoleName), Found>>);

/// A verifier, and when it was found, unless it may have changed since.
type Found = (Option<Instant>, Rc<Secret>);

impl VerifierCache {
    fn find(&self, tenant: &TenantRef, role: &RoleName, max_age: Duration) -> Option<Rc<Secret>> {
        let known = self.0.borrow();
        let (since, secret) = known.get(&(tenant.clone(), role.clone()))?;
        let is_recent = since.is_some_and(|since| since.elapsed() < max_age);
        is_recent.then(|| Rc::clone(secret))
    }

    /// What was derived from this very password before.
    fn derived(&self, tenant: &TenantRef, role: &RoleName, password: &str) -> Option<Rc<Secret>> {
        let known = self.0.borrow();
        let (_, secret) = known.get(&(tenant.clone(), role.clone()))?;
        let same = secret
            .password
            .as_ref()?
            .as_bytes()
            .ct_eq(password.as_bytes());
        bool::from(same).then(|| Rc::clone(secret))
    }

    fn remember(&self, tenant: &TenantRef, role: &RoleName, secret: &Rc<Secret>) {
        let mut known = self.0.borrow_mut();
        if known.len() >= CACHED_MAX {
            known.clear();
        }
        known.insert(
            (tenant.clone(), role.clone()),
            (Some(Instant::now()), Rc::clone(secret)),
        );
    }

    /// After a failed login: the password may have been changed.
    pub(super) fn forget(&self, tenant: &TenantRef, role: &RoleName) {
        if let Some(found) = self.0.borrow_mut().get_mut(&(tenant.clone(), role.clone())) {
            found.0 = None;
        }
    }
}

/// What a look-up has found, and at what cost.
pub(super) struct LookUp {
    /// `None`: there is no such role, it may not log in, or it has no usable password.
    pub(super) secret: Option<Rc<Secret>>,
    pub(super) work: Work,
}

/// Stands for a role that does not exist.
pub(super) fn mock(worker: &Worker, role: &RoleName, tenant: Option<&TenantRef>) -> Verifier {
    let name = tenant.map_or_else(|| role.to_string(), |tenant| format!("{role}.{tenant}"));
    Verifier::mock(&worker.process.mock_seed, &name)
}

/// Looks the verifier of `role` up.
pub(super) async fn find(
    worker: &Rc<Worker>,
    tenant: &Arc<Tenant>,
    role: &RoleName,
) -> Result<LookUp, End> {
    let max_age = worker.process.config.load().auth_query.cache;
    match worker.verifiers.find(&tenant.tenant, role, max_age) {
        Some(secret) => Ok(LookUp {
            secret: Some(secret),
            work: Work::Part,
        }),
        None => Box::pin(find_out(worker, tenant, role)).await,
    }
}

/// Looks the verifier up where it is kept.
async fn find_out(
    worker: &Rc<Worker>,
    tenant: &Arc<Tenant>,
    role: &RoleName,
) -> Result<LookUp, End> {
    let stored = worker
        .process
        .catalog
        .role_secret(&tenant.tenant, role)
        .await;
    let mut work = Work::Part;
    let secret = match stored.map_err(|_| End::CannotVerify)? {
        Some(RoleSecret::Password(password)) => {
            let known = &worker.verifiers;
            match known.derived(&tenant.tenant, role, &password) {
                Some(secret) => Some(secret),
                None => {
                    // The salt that is shown for roles that do not exist, and as lasting.
                    let salt = mock(worker, role, Some(&tenant.tenant)).salt.clone();
                    Some(Rc::new(from_password(password, salt).await))
                }
            }
        }
        Some(RoleSecret::Verifier(verifier)) => parse(&verifier, tenant, role).map(Rc::new),
        None => match &tenant.auth_user {
            Some(auth_user) => {
                work = Work::Whole;
                ask(worker, tenant, auth_user, role)
                    .await
                    .map_err(|end| End::PasswordsUnknown(Box::new(end)))?
                    .and_then(|text| parse(&text, tenant, role))
                    .map(Rc::new)
            }
            None => None,
        },
    };
    if let Some(secret) = &secret {
        worker.verifiers.remember(&tenant.tenant, role, secret);
    }
    Ok(LookUp { secret, work })
}

/// Deriving keys takes a millisecond or two of CPU: elsewhere, so that this worker's other sessions do not wait.
async fn from_password(password: Zeroizing<String>, salt: Vec<u8>) -> Secret {
    let derive = move || {
        let verifier = Verifier::from_password(password.as_bytes(), &salt, DEFAULT_ITERATIONS);
        Secret {
            verifier,
            password: Some(password),
        }
    };
    match tokio::task::spawn_blocking(derive).await {
        Ok(secret) => secret,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Whether `password` is the one that `verifier` was made from. Derived elsewhere, like any key.
pub(super) async fn matches(password: Zeroizing<Vec<u8>>, verifier: Verifier) -> bool {
    let derive = move || {
        let shown = Verifier::from_password(&*password, &verifier.salt, verifier.iterations);
        bool::from(shown.stored_key.ct_eq(&verifier.stored_key))
    };
    tokio::task::spawn_blocking(derive).await.unwrap_or(false)
}

fn parse(text: &str, tenant: &Tenant, role: &RoleName) -> Option<Secret> {
    match Verifier::parse(text) {
        Ok(verifier) if verifier.iterations > ITERATIONS_MAX => {
            tracing::warn!(tenant = %tenant.tenant, %role, iterations = verifier.iterations,
                "the role's password asks for too much work; set it anew with a lower scram_iterations");
            None
        }
        Ok(verifier) => Some(Secret {
            verifier,
            password: None,
        }),
        Err(error) => {
            tracing::warn!(tenant = %tenant.tenant, %role, %error, "the role's password cannot be used for SCRAM; \
                set it anew with password_encryption = 'scram-sha-256'");
            None
        }
    }
}

/// Asks the tenant's server, as its auth user, with nothing of the client's but the bound name.
async fn ask(
    worker: &Rc<Worker>,
    tenant: &Arc<Tenant>,
    auth_user: &RoleName,
    role: &RoleName,
) -> Result<Option<Zeroizing<String>>, End> {
    let pool = auth_pool(worker, tenant, auth_user).await?;
    let attempt = async || ask_in(&pool, worker, tenant, role).await;
    session_state::with_a_living_backend(attempt).await
}

/// Asks on a backend of `pool`.
async fn ask_in(
    pool: &Rc<Pool>,
    worker: &Worker,
    tenant: &Tenant,
    role: &RoleName,
) -> Result<Option<Zeroizing<String>>, End> {
    let mut checkout = pool.checkout(worker.login_patience(pool)).await?;
    let backend = checkout.backend();
    let pinned: Rc<Settings> = Rc::new(
        [("search_path".to_owned(), "pg_catalog".to_owned())]
            .into_iter()
            .collect(),
    );
    if backend.settings != pinned {
        let sql = pinned.statements_from(&backend.settings);
        refuse_error(backend.connection.query(&sql, ASK_MAX).await?)?;
        backend.settings = pinned;
    }
    let sql = tenant.auth_query.as_deref().unwrap_or(AUTH_QUERY);
    let reply = refuse_error(
        backend
            .connection
            .query_with(sql, &[role.as_str()], ASK_MAX)
            .await?,
    )?;
    checkout.release();
    let row = reply.rows.into_iter().next();
    Ok(row
        .and_then(|row| row.into_iter().nth(1).flatten())
        .map(Zeroizing::new))
}

fn refuse_error(reply: crate::backend::Reply) -> Result<crate::backend::Reply, End> {
    match reply.error {
        Some(error) => Err(End::Exchange(ExchangeError::Refused(error))),
        None => Ok(reply),
    }
}

/// The pool of connections that ask for verifiers.
pub(super) async fn auth_pool(
    worker: &Rc<Worker>,
    tenant: &Arc<Tenant>,
    auth_user: &RoleName,
) -> Result<Rc<Pool>, End> {
    let stored = worker
        .process
        .catalog
        .role_secret(&tenant.tenant, auth_user)
        .await;
    let Some(RoleSecret::Password(password)) = stored.map_err(|_| End::CannotVerify)? else {
        tracing::warn!(tenant = %tenant.tenant, role = %auth_user, "the auth user's password is not in the catalogue; \
            store it with: sluice tenant secret set");
        return Err(End::CannotVerify);
    };
    let database = tenant
        .auth_database
        .as_ref()
        .or(tenant.default_database.as_ref());
    let database = database.cloned().unwrap_or_else(DatabaseName::postgres);
    let key = PoolKey {
        tenant: tenant.tenant.clone(),
        database,
        role: auth_user.clone(),
        principal: Principal::AuthQuery,
        service: Service::Queries,
    };
    Ok(tenancy::pools(worker, &tenant.tenant)
        .await?
        .pool(key, Login::Password(password)))
}
