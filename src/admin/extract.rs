//! Bodies, queries and path segments as typed values; what does not fit is refused in our own shape.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::BytesRejection},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// A body that has not arrived after this long is not waited for.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// A JSON body, read as JSON whatever its declared type.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = tokio::time::timeout(BODY_PATIENCE, Bytes::from_request(request, state));
        let bytes = bytes.await.map_err(|_| too_slow())??;
        json(&bytes).map(Self)
    }
}

fn too_slow() -> ApiError {
    let seconds = BODY_PATIENCE.as_secs();
    ApiError::new(
        StatusCode::REQUEST_TIMEOUT,
        "body_too_slow",
        format!("the body did not arrive within {seconds} seconds"),
    )
}

/// `bytes` as JSON; the error says where and what was expected there.
fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            ApiError::malformed(format!("the body does not fit: {error}"))
        }
        _ if bytes.is_empty() => ApiError::malformed("the body is empty, it must be JSON"),
        _ => ApiError::malformed(format!("the body is not JSON: {error}")),
    })
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!("the body is longer than {} bytes", super::BODY_MAX_BYTES),
            );
        }
        Self::malformed(rejection.body_text())
    }
}

/// The part of the address after `?`.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::malformed(rejection.body_text()))?;
        Ok(Self(params))
    }
}

/// The named segments of the path.
pub(super) struct Segments<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(segments) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::malformed(rejection.body_text()))?;
        Ok(Self(segments))
    }
}
