//! The admin listener: HTTP API, health and metrics.
//!
//! ```text
//! /health /ready                      open
//! /metrics                            open on a loopback address, else with the admin key
//! /v1/projects/{ref}/database/jit     GET, POST: a person about themselves, with their token
//! …/invites/accept, …/invite/accept   with the acceptance token in the body
//! rules, members, invites, switch     of a tenant: with the admin key, or the token of one who manages its access
//! /v1/me…                             the same: what they may reach, their sessions and tokens
//! /v1/tokens/leaked                   open: who shows a token has it revoked
//! /v1/tenants/{ref}/guard             with the tenant's guard key
//! /v1/tenants/{ref}/authority/…       a tenant's external authority, with its webhook key
//! /v1/…                               everything else: with the admin key
//! ```
//!
//! Every change is committed to the catalogue first and enforced on the live sessions next; the answer comes
//! when those that had to end are gone, and says how many there were.

mod audit;
mod auth;
mod authority;
mod change;
mod compatible;
mod compatible_values;
mod denied;
mod doctor;
mod error;
pub mod expiry;
mod extract;
mod guard;
mod health;
mod invites;
mod leaks;
mod misfit;
mod moment;
pub mod networks;
mod own;
pub mod own_values;
mod people;
mod rules;
mod server;
mod sessions;
mod tenant_fields;
mod tenants;
mod tokens;
pub mod values;

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, StatusCode, Uri},
    middleware,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    auth::{ACTOR_HEADER, is_actor},
    change::Changes,
};
use self::{error::ApiError, server::Limits};
use crate::{access::Access, catalog::Catalog, config::Secret, doctor::Doctor};

/// The longest body that is read; the largest real one holds a few CA certificates.
const BODY_MAX_BYTES: usize = 256 * 1024;
/// After the end of service was asked for, calls under way get this long.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
const LIMITS: Limits = Limits {
    connections: 256,
    head: Duration::from_secs(10),
    shutdown: SHUTDOWN_MAX,
};

/// What the handlers work with.
#[derive(Clone)]
pub struct AdminState {
    pub catalog: Catalog,
    pub access: Access,
    pub admin_key: Arc<Secret<String>>,
    pub metrics: PrometheusHandle,
    pub metrics_guard: MetricsGuard,
    pub readiness: watch::Receiver<Readiness>,
    pub reload: mpsc::Sender<ReloadRequest>,
    pub changes: Changes,
    pub doctor: Doctor,
}

/// Whether `/metrics` asks for the admin key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsGuard {
    Open,
    AdminKey,
}

/// Whether new clients are served, as `/ready` tells load balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Starting,
    Ready,
    Draining,
}

/// A wish to read the configuration again, and where to say what came of it.
pub struct ReloadRequest {
    pub answer: oneshot::Sender<Result<(), ReloadError>>,
}

/// Why the configuration stays as it was.
pub type ReloadError = Box<dyn std::error::Error + Send + Sync>;

/// All routes.
pub fn router(state: AdminState) -> Router {
    let guarded = Router::new()
        .merge(tenants::routes())
        .merge(people::routes())
        .merge(tokens::routes())
        .merge(sessions::routes())
        .merge(doctor::routes())
        .merge(guard::key_route())
        .merge(audit::routes())
        .merge(health::reload_route())
        .route_layer(middleware::from_fn_with_state(
            state.clone(),
            auth::require_admin_key,
        ));
    let managed = Router::new()
        .merge(tenants::managed_routes())
        .merge(rules::routes())
        .merge(invites::routes())
        .route_layer(middleware::from_fn_with_state(
            state.clone(),
            auth::require_manager,
        ));
    Router::new()
        .merge(guarded)
        .merge(managed)
        .merge(invites::open_routes())
        .merge(guard::routes())
        .merge(own::routes())
        .merge(leaks::routes())
        .merge(compatible::routes(&state))
        .merge(authority::routes(&state))
        .merge(health::routes(&state))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn_with_state(
            state.clone(),
            change::run_whole,
        ))
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .with_state(state)
}

/// Serves until `shutdown`, then lets calls under way finish within a deadline.
pub async fn serve(
    listener: TcpListener,
    state: AdminState,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let changes = state.changes.clone();
    let ended = server::serve(listener, router(state), LIMITS, shutdown).await;
    changes.finish(SHUTDOWN_MAX).await;
    ended
}

async fn unknown_route(uri: Uri) -> ApiError {
    ApiError::missing("route", uri.path()).with_hint("docs/api.md lists the routes")
}

async fn unknown_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{} does not take {method}", uri.path()),
    )
    .with_hint("docs/api.md lists the routes and their methods")
}

#[cfg(test)]
pub(crate) mod tests;
