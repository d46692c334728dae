//! The admin listener: HTTP API, health and metrics.
//!
//! ```text
//! /health /ready /openapi.json        open
//! /metrics                            open on a loopback address, else with any key
//! /v1/projects/{ref}/database/jit     GET, POST: a person about themselves, with their token
//! /v1/me…                             the same: what they may reach, their sessions and tokens
//! …/invites/accept, …/invite/accept   with the acceptance token in the body
//! rules, members, invites, switch     of a tenant: with the operator's key, or the token of one who manages its access
//! sessions, revoking tokens           with the operator's key
//! /v1/tokens/leaked                   open: who shows a token has it revoked
//! /v1/tenants/{ref}/guard             with the tenant's guard key
//! /v1/tenants/{ref}/authority/…       a tenant's external authority, with its webhook key
//! /v1/…                               everything else: with the admin key; to read any of these, with the viewer's key
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
mod object;
#[cfg(test)]
mod openapi;
mod own;
pub mod own_values;
mod people;
mod pools;
mod routes;
mod rules;
mod server;
mod sessions;
mod tenant_fields;
mod tenants;
mod tokens;
pub mod values;

use std::{io, time::Duration};

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

use self::{
    auth::Gate, compatible_values::with_message, error::ApiError, routes::Routes, server::Limits,
};
pub use self::{
    auth::{ACTOR_HEADER, is_actor},
    change::Changes,
};
use crate::{access::Access, catalog::Catalog, doctor::Doctor, session::Overview};

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
    pub metrics: PrometheusHandle,
    pub metrics_guard: MetricsGuard,
    pub readiness: watch::Receiver<Readiness>,
    pub reload: mpsc::Sender<ReloadRequest>,
    pub changes: Changes,
    pub doctor: Doctor,
    pub overview: Overview,
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
    /// Whose wish it is, as the trail has it.
    pub actor: String,
    pub answer: oneshot::Sender<Result<(), ReloadError>>,
}

/// Why the configuration stays as it was.
pub type ReloadError = Box<dyn std::error::Error + Send + Sync>;

/// The description of all routes, an OpenAPI document. A test sees to it that it is up to date.
pub const DOCUMENT: &str = include_str!("../../docs/openapi.json");

/// Everything that is served.
pub fn router(state: AdminState) -> Router {
    let close = |gate, routes: Routes| {
        let known = (state.clone(), gate);
        routes.wrap(|router| match gate {
            Gate::AdminKey | Gate::Operator => {
                router.route_layer(middleware::from_fn_with_state(known, auth::require_key))
            }
            Gate::Manager => {
                router.route_layer(middleware::from_fn_with_state(known, auth::require_manager))
            }
        })
    };
    routes(close)
        .into_router()
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn_with_state(
            state.clone(),
            change::run_whole,
        ))
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .with_state(state)
}

/// All routes. `behind` puts some behind a gate.
fn routes(behind: impl Fn(Gate, Routes) -> Routes) -> Routes {
    let administration = Routes::default()
        .merge(tenants::routes())
        .merge(people::routes())
        .merge(tokens::routes())
        .merge(guard::key_route())
        .merge(authority::key_route())
        .merge(audit::routes())
        .merge(health::reload_route());
    let operation = Routes::default()
        .merge(tokens::revocation_routes())
        .merge(sessions::routes())
        .merge(pools::routes())
        .merge(doctor::routes());
    let management = Routes::default()
        .merge(tenants::managed_routes())
        .merge(rules::routes())
        .merge(invites::routes());
    let compatible = behind(Gate::Manager, compatible::managed_routes())
        .merge(compatible::open_routes())
        .wrap(|router| router.layer(middleware::map_response(with_message)));
    behind(Gate::AdminKey, administration)
        .merge(behind(Gate::Operator, operation))
        .merge(behind(Gate::Manager, management))
        .merge(compatible)
        .merge(invites::open_routes())
        .merge(guard::routes())
        .merge(own::routes())
        .merge(leaks::routes())
        .merge(authority::routes())
        .merge(health::routes())
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
