//! Proving who the client is: SCRAM for passwords, a token in clear inside TLS.
//!
//! A client that proves nothing is told the same whatever was wrong, after the same dialogue: an unknown tenant or
//! role gets a full SCRAM exchange with a made-up salt, or is asked for its token like any other. It takes as long, too
//! (`even_time`); and who fails often waits for a turn (`throttle`).

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use bytes::BytesMut;
use tokio::time::Instant;
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    Sharing,
    client::Client,
    error::End,
    even_time::Work,
    route::{Mode, Route},
    throttle::{Attempt, Caller, Standing, Turn},
    verifier::{self, LookUp, Secret},
    worker::Worker,
};
use crate::{
    access::{
        AccessError, Credential, Denial, EndCause, External, Grant, Identity, InvalidToken,
        Registration, SessionHandle,
    },
    catalog::types::{BackendLogin, ClientTls, PrivilegedRoles, RoleSecret, Tenant},
    names::DatabaseName,
    pool::{Login, Principal},
    protocol::{
        message::{self, PASSWORD_MAX_BYTES, SASL_MAX_BYTES},
        scram::{ScramError, ScramKeys, ServerBinding, ServerFirst, Verifier},
        startup::{Replication, Startup},
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
    pub(super) sharing: Sharing,
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
    // Boxed here and below: what only tokens need is not carried about by everybody's login.
    match claim.route.mode {
        Mode::Token => Box::pin(with_token(worker, client, claim)).await,
        Mode::Password => with_password_or_either(worker, client, claim).await,
    }
}

/// What the client is about to try counts for or against its like.
fn attempt_by<'a>(worker: &'a Worker, claim: &Claim<'_>, mode: Mode) -> Attempt<'a> {
    let Route { tenant, role, .. } = claim.route;
    let caller = Caller::new(claim.peer.ip(), tenant.clone(), role.clone(), mode);
    let config = worker.process.config.load();
    worker.process.throttle.attempt(caller, &config.limits)
}

async fn with_password_or_either(
    worker: &Rc<Worker>,
    client: &mut Client,
    claim: &Claim<'_>,
) -> Result<Authenticated, End> {
    let began = Instant::now();
    let tenant = named_tenant(worker, claim).await?;
    if let Some(tenant) = &tenant
        && takes_either(worker, client, claim, tenant).await?
    {
        return Box::pin(with_either(worker, client, claim, Arc::clone(tenant))).await;
    }
    let attempt = attempt_by(worker, claim, Mode::Password);
    let admission = attempt.admit().await?;
    let LookUp { secret, work } = look_up(worker, claim, tenant.as_ref()).await?;
    if admission.standing == Standing::Stranger {
        let began = began + admission.waited;
        even_out(worker, claim, Mode::Password, Effort { work, began }).await;
    }
    with_password(worker, client, claim, &attempt, tenant, secret).await
}

async fn named_tenant(worker: &Worker, claim: &Claim<'_>) -> Result<Option<Arc<Tenant>>, End> {
    let Some(tenant) = &claim.route.tenant else {
        return Ok(None);
    };
    let tenant = worker.process.catalog.tenant(tenant).await;
    tenant.map_err(|_| End::CannotVerify)
}

async fn look_up(
    worker: &Rc<Worker>,
    claim: &Claim<'_>,
    tenant: Option<&Arc<Tenant>>,
) -> Result<LookUp, End> {
    match tenant {
        Some(tenant) => verifier::find(worker, tenant, &claim.route.role).await,
        None => Ok(LookUp {
            secret: None,
            work: Work::None,
        }),
    }
}

/// What is looked up for a client, and since when.
struct Effort {
    work: Work,
    began: Instant,
}

/// Waits until an effort has taken as long as it would for any other name.
async fn even_out(worker: &Worker, claim: &Claim<'_>, mode: Mode, effort: Effort) {
    let Effort { work, began } = effort;
    let times = &worker.process.even_time;
    let tenant = claim.route.tenant.as_ref();
    times.wait(tenant, mode, work, began).await;
}

/// Whether a client of the direct listener may show a token although it has not asked for token mode: somebody must
/// have a live rule for the role. All others keep SCRAM.
async fn takes_either(
    worker: &Worker,
    client: &Client,
    claim: &Claim<'_>,
    tenant: &Tenant,
) -> Result<bool, End> {
    if claim.sharing != Sharing::Session || !client.stream.is_encrypted() {
        return Ok(false);
    }
    let granted = worker
        .process
        .access
        .is_granted(tenant, &claim.route.role)
        .await;
    granted.map_err(|_| End::CannotVerify)
}

async fn with_password(
    worker: &Rc<Worker>,
    client: &mut Client,
    claim: &Claim<'_>,
    attempt: &Attempt<'_>,
    tenant: Option<Arc<Tenant>>,
    secret: Option<Rc<Secret>>,
) -> Result<Authenticated, End> {
    let role = &claim.route.role;
    let mock = || verifier::mock(worker, role, claim.route.tenant.as_ref());
    let verifier = secret
        .as_ref()
        .map_or_else(mock, |secret| secret.verifier.clone());
    let Proof { keys, turn } = scram(client, verifier, claim, attempt).await?;
    let (keys, tenant, secret) = match (keys, tenant, secret) {
        (Ok(keys), Some(tenant), Some(secret)) => (keys, tenant, secret),
        (Err(ScramError::Proof) | Ok(_), tenant, secret) => {
            turn.was_wrong();
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
        (Err(misshapen), _, _) => return Err(End::Sasl(misshapen)),
    };
    turn.was_right();
    if tenant.client_tls == ClientTls::Require && !client.stream.is_encrypted() {
        return Err(End::TlsRequired);
    }
    let registration = register(worker, client, claim, &tenant, None);
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

/// What a client has proven, and the turn that looking at it took.
struct Proof<'a> {
    keys: Result<ScramKeys, ScramError>,
    turn: Turn<'a>,
}

async fn scram<'a>(
    client: &mut Client,
    verifier: Verifier,
    claim: &Claim<'_>,
    attempt: &'a Attempt<'_>,
) -> Result<Proof<'a>, End> {
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
    let turn = attempt.take_turn().await?;
    let keys = wait.finish(last).map(|(server_final, keys)| {
        out.clear();
        message::sasl_final(server_final.as_bytes(), &mut out);
        client.outbox.put(&out);
        keys
    });
    Ok(Proof { keys, turn })
}

async fn with_token(
    worker: &Rc<Worker>,
    client: &mut Client,
    claim: &Claim<'_>,
) -> Result<Authenticated, End> {
    let secret = ask_secret(client).await?;
    let began = Instant::now();
    // Not looked up before, so that the question comes as fast for a tenant that does not exist.
    let tenant = named_tenant(worker, claim).await?;
    let access = &worker.process.access;
    let credential = access.credential(tenant.as_deref(), &secret).await;
    drop(secret);
    let credential = credential.map_err(|_| End::CannotVerify)?;
    let work = match (&tenant, &credential) {
        (Some(_), Some(_)) => Work::Whole,
        (Some(_), None) => Work::Part,
        (None, _) => Work::None,
    };
    let effort = Effort { work, began };
    by_token_in_turn(worker, client, claim, tenant, credential, effort).await
}

/// Lets a right token in. A wrong one is called wrong when any other would be, and when it is its address's turn.
async fn by_token_in_turn(
    worker: &Rc<Worker>,
    client: &Client,
    claim: &Claim<'_>,
    tenant: Option<Arc<Tenant>>,
    credential: Option<Credential>,
    mut effort: Effort,
) -> Result<Authenticated, End> {
    let attempt = attempt_by(worker, claim, Mode::Token);
    if let Some(External::Http(_)) = credential.as_ref().and_then(Credential::external) {
        // Whoever guesses must not have the tenant's authority busy with it.
        effort.began += attempt.admit().await?.waited;
    }
    let outcome = by_token(worker, client, claim, tenant, credential).await;
    match &outcome {
        Ok(_) => attempt.succeeded(),
        Err(end) if end.is_bad_credentials() => {
            even_out(worker, claim, Mode::Token, effort).await;
            let turn = attempt.take_turn().await?;
            if end.is_wrong_guess() {
                turn.was_wrong();
            } else {
                turn.give_back();
            }
        }
        Err(_) => {}
    }
    outcome
}

/// On the direct listener, for a role that somebody may use with a token: what was typed decides what it is.
async fn with_either(
    worker: &Rc<Worker>,
    client: &mut Client,
    claim: &Claim<'_>,
    tenant: Arc<Tenant>,
) -> Result<Authenticated, End> {
    let password = ask_secret(client).await?;
    let began = Instant::now();
    let access = &worker.process.access;
    let credential = access.credential(Some(&tenant), &password).await;
    let credential = credential.map_err(|_| End::CannotVerify)?;
    if credential.is_some() {
        let work = Work::Whole;
        let effort = Effort { work, began };
        return by_token_in_turn(worker, client, claim, Some(tenant), credential, effort).await;
    }
    let role = &claim.route.role;
    let LookUp { secret, work } = verifier::find(worker, &tenant, role).await?;
    let shown = Zeroizing::new(password.to_vec());
    let mock = || verifier::mock(worker, role, Some(&tenant.tenant));
    let verifier = secret
        .as_ref()
        .map_or_else(mock, |secret| secret.verifier.clone());
    let attempt = attempt_by(worker, claim, Mode::Password);
    let turn = attempt.take_turn().await?;
    let matches = verifier::matches(shown, verifier).await;
    if !matches || secret.is_none() {
        worker.verifiers.forget(&tenant.tenant, role);
        let began = began + turn.waited;
        even_out(worker, claim, Mode::Password, Effort { work, began }).await;
        turn.was_wrong();
        return Err(End::Credentials {
            user: claim.startup.user.clone(),
            reason: "wrong_password",
        });
    }
    turn.was_right();
    let text = String::from_utf8_lossy(&password).into_owned();
    let registration = register(worker, client, claim, &tenant, None);
    let login = Login::Password(Zeroizing::new(text));
    Ok(Authenticated {
        tenant,
        registration,
        principal: Principal::Password,
        login,
    })
}

async fn by_token(
    worker: &Rc<Worker>,
    client: &Client,
    claim: &Claim<'_>,
    tenant: Option<Arc<Tenant>>,
    credential: Option<Credential>,
) -> Result<Authenticated, End> {
    let denied = |denial, proven| End::Denied {
        user: claim.startup.user.clone(),
        role: claim.route.role.to_string(),
        denial,
        proven,
    };
    let unproven = |why| denied(Denial::InvalidToken(why), None);
    let credential = credential.ok_or_else(|| unproven(InvalidToken::Unknown))?;
    let tenant = tenant.ok_or_else(|| unproven(InvalidToken::Tenant))?;

    // Registered before the decision is read: a revocation sees one or the other (design.md section 8).
    let registration = register(worker, client, claim, &tenant, Some(&credential));
    let id = credential.id().clone();
    let refused = |error| match error {
        AccessError::Denied { denial, person } => {
            denied(denial, person.map(|person| (person, id.clone())))
        }
        AccessError::Unavailable(error) => {
            tracing::error!(%error, "cannot decide about a token");
            End::CannotVerify
        }
        AccessError::AuthorityLost(outage) => {
            tracing::warn!(tenant = %tenant.tenant, %outage, "the tenant's authority cannot decide about a token");
            End::CannotVerify
        }
    };
    let session = registration.handle();
    let admitted = async {
        let admitted = worker.process.access.admit(session, &credential).await;
        admitted.map_err(refused)
    };
    // An external authority may take its time.
    let grant = unless_ended(session, admitted).await?;
    let text = (tenant.login == BackendLogin::PassThrough).then(|| credential.reveal());
    drop(credential);
    if claim.startup.replication != Replication::No
        && tenant.privileged_roles == PrivilegedRoles::Refuse
    {
        // It reads all of a database, whatever the role may read.
        let proven = Some((grant.person(), id));
        return Err(denied(Denial::PrivilegedRole, proven));
    }
    let set_up = async {
        refuse_old_server(worker, &tenant)
            .await
            .map_err(|denial| denied(denial, Some((grant.person(), id))))?;
        token_login(worker, &tenant, &grant, text).await
    };
    let login = unless_ended(registration.handle(), set_up).await?;
    Ok(Authenticated {
        registration,
        principal: Principal::of(&grant, tenant.login),
        tenant,
        login,
    })
}

/// Does something that takes time, unless somebody ends the session meanwhile.
pub(super) async fn unless_ended<T>(
    session: &SessionHandle,
    part: impl Future<Output = Result<T, End>>,
) -> Result<T, End> {
    let mut part = pin!(part);
    poll_fn(|context| match session.poll_end(context) {
        // A drain lets work end.
        Poll::Ready(EndCause::Drain) | Poll::Pending => part.as_mut().poll(context),
        Poll::Ready(cause) => Poll::Ready(Err(End::Signalled(cause))),
    })
    .await
}

/// Asks for a secret in clear. Only ever inside TLS.
async fn ask_secret(client: &mut Client) -> Result<Zeroizing<Vec<u8>>, End> {
    let mut out = BytesMut::new();
    message::cleartext_password(&mut out);
    client.send(&out).await?;
    let mut body = client.receive_password(PASSWORD_MAX_BYTES).await?;
    let secret = message::read_password(&body).map(|secret| Zeroizing::new(secret.to_vec()));
    body.zeroize();
    Ok(secret?)
}

fn register(
    worker: &Worker,
    client: &Client,
    claim: &Claim<'_>,
    tenant: &Tenant,
    credential: Option<&Credential>,
) -> Registration {
    let identity = identity(client, claim, tenant, credential);
    worker.process.access.registry().register(identity)
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
        None => match pool.checkout(worker.login_patience(&pool)).await {
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
    text: Option<Zeroizing<String>>,
) -> Result<Login, End> {
    match tenant.login {
        BackendLogin::PassThrough => Ok(Login::Token(text)),
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
                grant: grant.id(),
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
    credential: Option<&Credential>,
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
        token: credential.map(|credential| credential.id().clone()),
        external: credential.and_then(Credential::external),
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
