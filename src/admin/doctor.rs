//! A look at a tenant's server, taken from where the pooler runs and with what it logs in with.

use axum::{Json, extract::State, http::StatusCode};

use super::{
    AdminState,
    error::ApiError,
    extract::Segments,
    routes::{Routes, routes},
    tenants,
};
use crate::{
    doctor::{ExaminationError, Report},
    names::TenantRef,
};

/// POST, although nothing is changed: each call logs in to the server a number of times.
pub(super) fn routes() -> Routes {
    routes!(examine)
}

/// Looks a tenant's server over; takes up to 45 seconds and changes nothing.
#[utoipa::path(
    post, path = "/v1/tenants/{ref}/doctor", tag = "Tenants",
    responses(
        (status = 200, description = "What was found.", body = Report),
        (status = 404, description = "No such tenant."),
        (status = 503, description = "`catalogue_unavailable` or `examination_unavailable`: it cannot begin."),
    ),
)]
async fn examine(
    State(state): State<AdminState>,
    Segments(name): Segments<TenantRef>,
) -> Result<Json<Report>, ApiError> {
    let tenant = tenants::find(&state.catalog, &name).await?;
    Ok(Json(state.doctor.examine(tenant).await?))
}

impl From<ExaminationError> for ApiError {
    fn from(error: ExaminationError) -> Self {
        match error {
            ExaminationError::Catalog(error) => error.into(),
            ExaminationError::Runtime(error) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "examination_unavailable",
                format!("the examination cannot begin: {error}"),
            ),
        }
    }
}
