//! What a refused call is answered: one shape, a word for programs, a sentence and a hint for people.
//!
//! ```json
//! {"error": {"code": "not_found", "message": "there is no tenant `demo`", "hint": "…"}}
//! ```

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::expiry::ExpiryError;
use crate::catalog::{CatalogError, What};

/// An answer other than the one hoped for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// Why a call was refused.
#[derive(Serialize, ToSchema)]
#[schema(as = Refusal)]
pub(super) struct ErrorBody<'a> {
    /// For programs.
    code: &'static str,
    /// For people.
    message: &'a str,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// How an [`ApiError`] is written.
#[derive(Serialize, ToSchema)]
#[schema(as = Error, description = "The body of every refusal.")]
pub(super) struct Envelope<'a> {
    error: ErrorBody<'a>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The request cannot be read as what the route takes.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_request", message)
    }

    /// The request can be read, but what it asks for cannot be.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }

    pub(super) fn missing(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no {what} `{name}`"),
        )
    }

    pub(super) fn body(&self) -> ErrorBody<'_> {
        ErrorBody {
            code: self.code,
            message: &self.message,
            hint: self.hint.as_deref(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(Envelope { error: self.body() });
        let mut response = (self.status, body).into_response();
        // For routes that write their errors in another shape.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ExpiryError> for ApiError {
    fn from(error: ExpiryError) -> Self {
        Self::invalid(format!("expires: {error}"))
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        let message = error.to_string();
        let refused = |status, code| Self::new(status, code, message.clone());
        match error {
            CatalogError::NotFound { what, .. } => {
                refused(StatusCode::NOT_FOUND, "not_found").with_hint(where_to_look(what))
            }
            CatalogError::Exists { .. } => refused(StatusCode::CONFLICT, "exists"),
            CatalogError::HasBranches { .. } => refused(StatusCode::CONFLICT, "has_branches"),
            CatalogError::NotAMember { .. } => {
                refused(StatusCode::UNPROCESSABLE_ENTITY, "not_a_member")
                    .with_hint("`sluice member add TENANT PERSON` makes someone a member, `sluice invite create` lets a guest in")
            }
            CatalogError::MemberAlready { .. } => refused(StatusCode::CONFLICT, "exists")
                .with_hint("`sluice rule add TENANT PERSON ROLE` gives a member access"),
            CatalogError::InviteNotValid => refused(StatusCode::UNAUTHORIZED, "invalid_invite")
                .with_hint(
                    "give the address that was invited and the whole acceptance token, sli_…",
                ),
            CatalogError::InviteUsed => refused(StatusCode::GONE, "invite_used"),
            CatalogError::InviteExpired => refused(StatusCode::GONE, "invite_expired")
                .with_hint("ask whoever invited you for another one"),
            CatalogError::PrivilegedRole { .. } => {
                refused(StatusCode::UNPROCESSABLE_ENTITY, "privileged_role").with_hint(
                    "grant a role made for the task, or set the tenant's privileged_roles to allow",
                )
            }
            CatalogError::ExpiryInThePast => {
                refused(StatusCode::UNPROCESSABLE_ENTITY, "expiry_in_the_past")
                    .with_hint("to end access now, remove the rule or revoke the token")
            }
            CatalogError::ExpiryTooFar { .. } => {
                refused(StatusCode::UNPROCESSABLE_ENTITY, "expiry_too_far")
            }
            CatalogError::RoleTwice { .. }
            | CatalogError::BranchOfBranch { .. }
            | CatalogError::Invalid { .. } => Self::invalid(message),
            CatalogError::FolderMissing { .. }
            | CatalogError::Inaccessible { .. }
            | CatalogError::InUse { .. }
            | CatalogError::NotACatalogue { .. }
            | CatalogError::NewerSchema { .. }
            | CatalogError::Migration { .. }
            | CatalogError::WrongMasterKey { .. }
            | CatalogError::WriterNotStarted(_)
            | CatalogError::SecretUnreadable { .. }
            | CatalogError::SecretUnsealable
            | CatalogError::NoRandomness(_)
            | CatalogError::Corrupt { .. }
            | CatalogError::NotRecorded
            | CatalogError::TrailDamaged
            | CatalogError::Closed
            | CatalogError::Storage(_) => unavailable(&error),
        }
    }
}

/// The operator's to mend: told in full in the log, in short to the caller.
fn unavailable(error: &CatalogError) -> ApiError {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(%error, cause, "the catalogue failed during an admin call");
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "catalogue_unavailable",
        error.to_string(),
    )
    .with_hint("nothing was changed; the log of the pooler has the cause")
}

const fn where_to_look(what: What) -> &'static str {
    match what {
        What::Tenant | What::Parent => "`sluice tenant list` shows the tenants",
        What::Person => "`sluice person list` shows the people",
        What::Invite => "`sluice invite list TENANT` shows the invitations",
        What::Member => "`sluice member list TENANT` shows the members",
        What::Token => "`sluice token list PERSON` shows a person's tokens",
        What::Rule | What::RuleOf => "`sluice rule list TENANT` shows the rules",
        What::RoleSecret => "`sluice tenant secret set TENANT ROLE` stores one",
    }
}
