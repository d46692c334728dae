//! The pools: how many backends each has, what they do, and who waits for them.

use std::collections::HashMap;

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;

use super::{
    AdminState,
    error::ApiError,
    extract::Params,
    routes::{Routes, routes},
    values::{PoolList, PoolRow},
};
use crate::{
    names::{PersonId, TenantRef},
    pool::PoolView,
};

pub(super) fn routes() -> Routes {
    routes!(pools)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Filter {
    tenant: Option<TenantRef>,
}

/// The pools that have backends or sessions, by tenant, database and role.
#[utoipa::path(
    get, path = "/v1/pools", tag = "Sessions",
    params(Filter),
    responses((status = 200, description = "Those that pass.", body = PoolList)),
)]
async fn pools(
    State(state): State<AdminState>,
    Params(filter): Params<Filter>,
) -> Result<Json<PoolList>, ApiError> {
    let mut pools = state.overview.pools().await.ok_or_else(too_busy)?;
    pools.retain(|pool| {
        let tenant = filter.tenant.as_ref();
        tenant.is_none_or(|tenant| pool.tenant == *tenant)
    });
    let emails = emails(&state, &pools).await?;
    let row = |pool: PoolView| PoolRow {
        email: pool.person.and_then(|person| emails.get(&person).cloned()),
        pool,
    };
    Ok(Json(PoolList {
        pools: pools.into_iter().map(row).collect(),
    }))
}

/// The addresses of the people whose pools these are.
async fn emails(
    state: &AdminState,
    pools: &[PoolView],
) -> Result<HashMap<PersonId, String>, ApiError> {
    if pools.iter().all(|pool| pool.person.is_none()) {
        return Ok(HashMap::new());
    }
    let people = state.catalog.people().await?.into_iter();
    Ok(people.map(|person| (person.id, person.email)).collect())
}

fn too_busy() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        "a worker has not answered in time",
    )
}
