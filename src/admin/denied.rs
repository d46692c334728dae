//! Refused calls in the trail: who tried to manage what is not theirs, and who calls without a key.
//!
//! They are counted as refused logins are, so that a flood of them costs a bounded number of rows.

use std::net::IpAddr;

use axum::{
    extract::{MatchedPath, Request},
    http::{Method, StatusCode},
    response::Response,
};

use super::{AdminState, auth::Actor, error::ApiError};
use crate::{
    catalog::types::{AuditEvent, Outcome},
    names::{PersonId, TenantRef},
};

/// Why the caller may not do what was asked for, if that is the answer.
pub(super) fn reason(answer: &Response) -> Option<&'static str> {
    let is_denied = matches!(
        answer.status(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    );
    let error = answer.extensions().get::<ApiError>();
    error.filter(|_| is_denied).map(|error| error.code)
}

/// What the trail keeps of a call if it is refused. Not the path itself: there is no telling what stands in it.
pub(super) struct Call {
    method: Method,
    route: Option<MatchedPath>,
    tenant: Option<TenantRef>,
    peer: IpAddr,
}

impl Call {
    pub(super) fn of(request: &Request, tenant: Option<TenantRef>, peer: IpAddr) -> Self {
        Self {
            method: request.method().clone(),
            route: request.extensions().get::<MatchedPath>().cloned(),
            tenant,
            peer,
        }
    }

    /// Writes down, or counts, that `actor`, or nobody knows who, may not do this.
    pub(super) async fn note(
        &self,
        state: &AdminState,
        person: Option<PersonId>,
        actor: Option<Actor>,
        reason: &'static str,
    ) {
        let actor = actor.map_or_else(|| "unknown".to_owned(), |Actor(name)| name);
        let event = AuditEvent {
            reason: Some(reason.to_owned()),
            tenant: self.known_tenant(state).await,
            person,
            peer: Some(self.peer.to_string()),
            detail: serde_json::json!({
                "method": self.method.as_str(), "route": self.route.as_ref().map(MatchedPath::as_str),
            }),
            ..AuditEvent::new("admin.denied", Outcome::Failure, actor)
        };
        state.catalog.record_refusal(event, self.peer);
    }

    /// Names that nobody has are not kept: anything could stand there.
    async fn known_tenant(&self, state: &AdminState) -> Option<TenantRef> {
        let found = state.catalog.tenant(self.tenant.as_ref()?).await;
        found.ok()?.map(|tenant| tenant.tenant.clone())
    }
}
