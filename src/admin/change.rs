//! Changes are made whole: committed, then enforced on the live sessions, even if the caller hangs up between.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::task::TaskTracker;

use super::{AdminState, error::ApiError, values::Done};
use crate::{access::Scope, catalog::Changed};

/// The changes under way.
#[derive(Clone, Default)]
pub struct Changes {
    order: Arc<Mutex<()>>,
    tasks: TaskTracker,
}

impl Changes {
    /// Held by calls that read before they write, so that two of them do not undo each other.
    pub(super) async fn in_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().await
    }

    /// How many calls that may change something are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.tasks.len()
    }

    /// Does something that nobody waits for; the end of service does.
    pub(super) fn later(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Waits for what is under way, but no longer than `patience`.
    pub(super) async fn finish(&self, patience: Duration) {
        self.tasks.close();
        let _ = tokio::time::timeout(patience, self.tasks.wait()).await;
    }
}

/// Runs calls that may change something in a task of their own: a connection that closes drops its handler,
/// and a rule removed from the catalogue must not stay alive in sessions for that.
pub(super) async fn run_whole(
    State(state): State<AdminState>,
    request: Request,
    next: Next,
) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let call = state.changes.tasks.spawn(next.run(request));
    call.await.unwrap_or_else(|error| {
        tracing::error!(%error, "an admin call broke off");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the call broke off: this is a bug",
        )
        .with_hint("the log of the pooler has the cause; check whether the change was made")
        .into_response()
    })
}

impl AdminState {
    /// Ends the sessions in `scope` that `changed` no longer allows, and makes the answer of both.
    pub(super) async fn enforced<T, V>(
        &self,
        changed: Changed<T>,
        scope: Scope,
        value: impl FnOnce(T) -> V,
    ) -> Done<V> {
        let report = self.access.enforce(scope, changed.revision).await;
        Done {
            value: value(changed.value),
            revision: changed.revision,
            revocation: Some(report),
        }
    }
}

/// The answer to a change that no session can suffer from.
pub(super) fn harmless<T, V>(changed: Changed<T>, value: impl FnOnce(T) -> V) -> Done<V> {
    Done {
        value: value(changed.value),
        revision: changed.revision,
        revocation: None,
    }
}
