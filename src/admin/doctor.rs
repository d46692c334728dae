//! A look at a tenant's server, taken from where the pooler runs and with what it logs in with.

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};

use super::{AdminState, error::ApiError, extract::Segments, tenants};
use crate::{
    doctor::{ExaminationError, Report},
    names::TenantRef,
};

/// POST, although nothing is changed: each call logs in to the server a number of times.
pub(super) fn routes() -> Router<AdminState> {
    Router::new().route("/v1/tenants/{ref}/doctor", post(examine))
}

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
