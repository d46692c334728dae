//! Proving who the client is: SCRAM for passwords, a token in clear inside TLS.
//!
//! A client that proves nothing is told the same whatever was wrong, after the same dialogue: an unknown tenant or
//! role gets a full SCRAM exchange with a made-up salt, or is asked for its token like any other.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use bytes::BytesMut;
use zeroize::Zeroize as _;

use super::{
    client::Client,
    error::End,
    route::{Mode, Route},
    verifier::{self, Secret},
    worker::Worker,
};
use crate::{
    access::{AccessError, Denial, Grant, Identity, InvalidToken, Registration},
    catalog::{
        Token,
        types::{BackendLogin, ClientTls, RoleSecret, Tenant},
    },
    names::DatabaseName,
    pool::{Login, Principal},
    protocol::{
        message::{self, PASSWORD_MAX_BYTES, SASL_MAX_BYTES},
        scram::{ScramError, ScramKeys, ServerBinding, ServerFirst, Verifier},
        startup::Startup,
    },
};

/// A client that has proven who it is.
pub(super) struct Authenticated {
    pub(super) tenant: Arc<Tenant>,
    pub(super) registration: Registration,
    pub(super) principal: Principal,
    pub(super) login: Login,
}

/// What a login is about; nothing in it is proven yet.
pub(super) struct Claim<'a> {
    pub(super) startup: &'a Startup,
    pub(super) route: &'a Route,
    pub(super) peer: SocketAddr,
    /// Hash of our certificate, for SCRAM channel binding.
    pub(super) end_point: Option<Arc<[u8]>>,
}

/// Runs the login dialogue up to, but without, AuthenticationOk.
pub(super) async fn login(
    worker: &Rc<Worker>,
    client: &mut Client,
    claim: &Claim<'_>,
) -> Result<Authenticated, End> {
    if claim.route.mode == Mode::Token && !client.stream.is_encrypted() {
        return Err(End::TokenWithoutTls);
    }
    let tenant = match &claim.route.tenant {
        Some(tenant) => worker
            .process
            .catalog
            .tenant(tenant)
            .await
            .map_err(|_| End::CannotVerify)?,
        None => None,
    };
    match claim.route.mode {
        Mode::Password => with_password(worker, client, claim, tenant).await,
        Mode::Token => with_token(worker, client, claim, tenant).await,
    }
}

async fn with_password(
    worker: &Rc<Worker>,
    client: &mut Client,
    claim: &Claim<'_>,
    tenant: Option<Arc<Tenant>>,
) -> Result<Authenticated, End> {
    let role = &claim.route.role;
    let secret = match &tenant {
        Some(tenant) => verifier::find(worker, tenant, role).await?,
        None => None,
    };
    let mock = || Verifier::mock(&worker.process.mock_seed, &claim.startup.user);
    let verifier = secret
        .as_ref()
        .map_or_else(mock, |secret| secret.verifier.clone());
    let proven = scram(client, verifier, claim).await;
    let (keys, tenant, secret) = match (proven, tenant, secret) {
        (Ok(keys), Some(tenant), Some(secret)) => (keys, tenant, secret),
        (Err(End::Sasl(ScramError::Proof)) | Ok(_), tenant, secret) => {
            if let Some(tenant) = &tenant {
                worker.verifiers.forget(&tenant.tenant, role);
            }
            let reason = match (tenant, secret) {
                (None, _) => "unknown_tenant",
                (_, None) => "unknown_role",
                (_, Some(_)) => "wrong_password",
            };
            return Err(End::Credentials {
                user: claim.startup.user.clone(),
                reason,
            });
        }
        (Err(end), _, _) => return Err(end),
    };
    if tenant.client_tls == ClientTls::Require && !client.stream.is_encrypted() {
        return Err(End::TlsRequired);
    }
    let registration = worker
        .process
        .access
        .registry()
        .register(identity(client, claim, &tenant, None));
    let login = backend_login(&secret, keys);
    Ok(Authenticated {
        tenant,
        registration,
        principal: Principal::Password,
        login,
    })
}

/// A password from the catalogue is good for any server; otherwise the keys that the client's proof has shown.
fn backend_login(secret: &Secret, keys: ScramKeys) -> Login {
    match &secret.password {
        Some(password) => Login::Password(password.clone()),
        None => Login::Keys(keys),
    }
}

async fn scram(
    client: &mut Client,
    verifier: Verifier,
    claim: &Claim<'_>,
) -> Result<ScramKeys, End> {
    let binding = match &claim.end_point {
        Some(hash) => ServerBinding::EndPoint(hash.to_vec()),
        None => ServerBinding::None,
    };
    let mut out = BytesMut::new();
    message::sasl(binding.mechanisms(), &mut out);
    client.send(&out).await?;

    let body = client.receive_password(SASL_MAX_BYTES).await?;
    let initial = message::read_sasl_initial(&body)?;
    let first = initial.response.unwrap_or_default();
    let (server_first, wait) =
        ServerFirst::start(verifier, first, initial.mechanism, binding).map_err(End::Sasl)?;
    out.clear();
    message::sasl_continue(server_first.as_bytes(), &mut out);
    client.send(&out).await?;

    let body = client.receive_password(SASL_MAX_BYTES).await?;
    let last = message::read_sasl_response(&body)?;
    let (server_final, keys) = wait.finish(last).map_err(End::Sasl)?;
    out.clear();
    message::sasl_final(server_final.as_bytes(), &mut out);
    client.outbox.put(&out);
    Ok(keys)
}

async fn with_token(
    worker: &Rc<Worker>,
    client: &mut Client,
    claim: &Claim<'_>,
    tenant: Option<Arc<Tenant>>,
) -> Result<Authenticated, End> {
    let denied = |denial| End::Denied {
        user: claim.startup.user.clone(),
        role: claim.route.role.to_string(),
        denial,
    };
    let token = ask_token(client)
        .await?
        .ok_or_else(|| denied(Denial::InvalidToken(InvalidToken::Unknown)))?;
    let Some(tenant) = tenant else {
        return Err(denied(Denial::InvalidToken(InvalidToken::Tenant)));
    };

    // Registered before the decision is read: a revocation sees one or the other (design.md section 8).
    let identity = identity(client, claim, &tenant, Some(&token));
    let registration = worker.process.access.registry().register(identity);
    let admitted = worker
        .process
        .access
        .admit(registration.handle(), &token)
        .await;
    drop(token);
    let grant = admitted.map_err(|error| match error {
        AccessError::Denied(denial) => denied(denial),
        AccessError::Unavailable(error) => {
            tracing::error!(%error, "cannot decide about a token");
            End::CannotVerify
        }
    })?;
    refuse_old_server(worker, &tenant).await.map_err(denied)?;
    let login = token_login(worker, &tenant, &grant).await?;
    Ok(Authenticated {
        tenant,
        registration,
        principal: Principal::of(&grant),
        login,
    })
}

/// Asks for the token and reads it; `None`: what came is none.
async fn ask_token(client: &mut Client) -> Result<Option<Token>, End> {
    let mut out = BytesMut::new();
    message::cleartext_password(&mut out);
    client.send(&out).await?;
    let mut body = client.receive_password(PASSWORD_MAX_BYTES).await?;
    let token = message::read_password(&body)
        .map(|text| std::str::from_utf8(text).ok().and_then(Token::parse));
    body.zeroize();
    Ok(token?)
}

/// Where the tenant's auth user tells us the server's version, an old server is named before anything else fails.
async fn refuse_old_server(worker: &Rc<Worker>, tenant: &Arc<Tenant>) -> Result<(), Denial> {
    let Some(auth_user) = &tenant.auth_user else {
        return Ok(());
    };
    let Ok(pool) = verifier::auth_pool(worker, tenant, auth_user).await else {
        return Ok(());
    };
    let parameters = match pool.parameters() {
        Some(parameters) => Some(parameters),
        None => match pool.checkout().await {
            Ok(checkout) => {
                checkout.release();
                pool.parameters()
            }
            Err(_) => None,
        },
    };
    let needed = worker.process.config.load().token_access.min_server_version;
    match parameters.and_then(|parameters| parameters.server_major()) {
        Some(version) if version < needed => Err(Denial::ServerTooOld { version, needed }),
        Some(_) | None => Ok(()),
    }
}

async fn token_login(
    worker: &Rc<Worker>,
    tenant: &Arc<Tenant>,
    grant: &Grant,
) -> Result<Login, End> {
    match tenant.login {
        BackendLogin::Certificate => {
            let Some(authority) = &worker.process.authority else {
                tracing::error!(tenant = %tenant.tenant, "the tenant logs in by certificate, but token_access.ca_certificate \
                    and ca_key are not configured");
                return Err(End::CannotVerify);
            };
            Ok(Login::Certificate {
                authority: Arc::clone(authority),
                tenant: tenant.tenant.clone(),
                role: grant.role().clone(),
                person: grant.person(),
                rule: grant.rule(),
                lifetime: worker
                    .process
                    .config
                    .load()
                    .token_access
                    .certificate_lifetime,
            })
        }
        BackendLogin::RoleSecret => {
            let stored = worker
                .process
                .catalog
                .role_secret(&tenant.tenant, grant.role())
                .await;
            match stored.map_err(|_| End::CannotVerify)? {
                Some(RoleSecret::Password(password)) => Ok(Login::Password(password)),
                Some(RoleSecret::Verifier(_)) | None => {
                    tracing::warn!(tenant = %tenant.tenant, role = %grant.role(), "token sessions need the role's password \
                        in the catalogue; store it with: sluice tenant secret set");
                    Err(End::NoRoleSecret)
                }
            }
        }
    }
}

fn identity(
    client: &Client,
    claim: &Claim<'_>,
    tenant: &Tenant,
    token: Option<&Token>,
) -> Identity {
    let application_name = claim
        .route
        .settings
        .iter()
        .rev()
        .find(|(name, _)| name == "application_name");
    Identity {
        tenant: tenant.tenant.clone(),
        role: claim.route.role.clone(),
        database: database(claim.route, tenant),
        peer: claim.peer,
        tls: client
            .stream
            .tls()
            .map(|tls| format!("{} {}", tls.version, tls.cipher)),
        application_name: application_name
            .map(|(_, value)| value.clone())
            .unwrap_or_default(),
        token: token.map(|token| token.id().clone()),
    }
}

/// The database asked for, else the tenant's default, else the one named like the role, as PostgreSQL has it.
fn database(route: &Route, tenant: &Tenant) -> DatabaseName {
    let named = route
        .database
        .clone()
        .or_else(|| tenant.default_database.clone());
    // A role's name fits a database's: both are identifiers of PostgreSQL.
    named
        .or_else(|| DatabaseName::parse(route.role.as_str()).ok())
        .unwrap_or_else(DatabaseName::postgres)
}
