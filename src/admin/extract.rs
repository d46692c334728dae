//! Bodies, queries and path segments as typed values; what does not fit is refused in our own shape and words.
//!
//! A refusal names the field and what was expected there, never what was sent: that may be a secret.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request,
        path::ErrorKind,
        rejection::{BytesRejection, PathRejection},
    },
    http::{StatusCode, request::Parts},
};
use serde::de::{DeserializeOwned, IgnoredAny};
use zeroize::Zeroizing;

use super::{error::ApiError, misfit, object::Object};
use crate::config::plain_type;

/// A body that has not arrived after this long is not waited for.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// A JSON object as body, read as JSON whatever its declared type.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = read(request, state).await?;
        match json(&bytes) {
            Ok(Object(value)) => Ok(Self(value)),
            Err(error) => Err(error.into_api()),
        }
    }
}

/// A JSON body that may hold a secret in any place: no error tells a word of it.
pub(super) struct SecretBody<T>(pub(super) T);

/// What a [`SecretBody`] takes, in a sentence for whoever sent something else.
pub(super) trait Described {
    const TAKEN: &'static str;
}

impl<T: Described> Described for Object<T> {
    const TAKEN: &'static str = T::TAKEN;
}

impl<S: Send + Sync, T: DeserializeOwned + Described> FromRequest<S> for SecretBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Zeroizing::new(read(request, state).await?.to_vec());
        json(&bytes).map(Self).map_err(|error| match error {
            BodyError::Misfit { .. } => ApiError::malformed(T::TAKEN),
            BodyError::Empty | BodyError::Broken(_) => error.into_api(),
        })
    }
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let bytes = tokio::time::timeout(BODY_PATIENCE, Bytes::from_request(request, state));
    Ok(bytes.await.map_err(|_| too_slow())??)
}

fn too_slow() -> ApiError {
    let seconds = BODY_PATIENCE.as_secs();
    ApiError::new(
        StatusCode::REQUEST_TIMEOUT,
        "body_too_slow",
        format!("the body did not arrive within {seconds} seconds"),
    )
}

/// Why a body cannot be taken.
enum BodyError {
    Empty,
    /// Not JSON; serde_json says where, and nothing of the text.
    Broken(serde_json::Error),
    /// JSON, but a field is not as it has to be.
    Misfit {
        path: String,
        error: serde_json::Error,
    },
}

impl BodyError {
    fn into_api(self) -> ApiError {
        ApiError::malformed(match self {
            Self::Empty => "the body is empty, it must be JSON".to_owned(),
            Self::Broken(error) => format!("the body is not JSON: {error}"),
            Self::Misfit { path, error } => misfit::sentence(&path, &error.to_string()),
        })
    }
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BodyError> {
    if bytes.is_empty() {
        return Err(BodyError::Empty);
    }
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut input).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        // An enum that finds no variant is reported as broken JSON; whether it is JSON tells them apart.
        if serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
            BodyError::Misfit { path, error }
        } else {
            BodyError::Broken(error)
        }
    })?;
    input.end().map_err(BodyError::Broken)?;
    Ok(value)
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "the body is longer than this route takes",
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
            .map_err(|rejection| query_misfit(&rejection.body_text()))?;
        Ok(Self(params))
    }
}

/// axum tells the field and what is wrong with it as `… query string: field: message`.
fn query_misfit(text: &str) -> ApiError {
    let told = text
        .split_once("query string: ")
        .map_or(text, |(_, told)| told);
    let (field, message) = told.split_once(": ").unwrap_or(("", told));
    ApiError::malformed(misfit::sentence(field, message))
}

/// The named segments of the path.
pub(super) struct Segments<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(segments) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| segment_misfit(&rejection))?;
        Ok(Self(segments))
    }
}

fn segment_misfit(rejection: &PathRejection) -> ApiError {
    let PathRejection::FailedToDeserializePathParams(failure) = rejection else {
        return ApiError::malformed("the path cannot be read");
    };
    ApiError::malformed(match failure.kind() {
        ErrorKind::DeserializeError { key, message, .. } => misfit::sentence(key, message),
        ErrorKind::ParseErrorAtKey {
            key, expected_type, ..
        } => format!("`{key}` in the path must be {}", plain_type(expected_type)),
        ErrorKind::InvalidUtf8InPathParam { key } => format!("`{key}` in the path is not UTF-8"),
        // What our own types say of a text that they do not take.
        ErrorKind::Message(message) => format!("a part of the path: {}", misfit::said(message)),
        _ => "a part of the path is not as it has to be".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::admin::values::{RuleTerms, SecretText, TenantFields};

    fn refused<T: DeserializeOwned>(body: &str) -> String {
        let refused = json::<Object<T>>(body.as_bytes()).map_err(BodyError::into_api);
        refused
            .err()
            .map_or_else(String::new, |error| error.message)
    }

    #[derive(Deserialize)]
    struct Nested {
        #[serde(rename = "roles")]
        _roles: Vec<TenantFields>,
    }

    #[test]
    fn the_field_is_named_and_its_content_is_not() {
        for (body, said) in [
            (
                r#"{"port": "hush"}"#,
                "`port` must be a whole number from 0 to 65535",
            ),
            (r#"{"name": 7}"#, "`name` must be text"),
            (
                r#"{"token_access": "hush"}"#,
                "`token_access` must be `disabled` or `enabled`",
            ),
            (
                r#"{"ref": "HUSH"}"#,
                "`ref`: a tenant ref may hold lower-case letters, digits, - and _ only",
            ),
            (
                r#"{"networks": ["10.0.0.0/8", "hush"]}"#,
                "`networks[1]`: write a network (10.0.0.0/8, 2001:db8::/32) or one address",
            ),
            ("7", "the body must be an object"),
            // A list of the fields in their order, or of none of them.
            (r#"["demo"]"#, "the body must be an object"),
            (r#"{"timeouts": []}"#, "`timeouts` must be an object"),
            (
                r#"{"authority": ["catalogue"]}"#,
                "`authority` must be an object",
            ),
        ] {
            assert_eq!(refused::<TenantFields>(body), said);
        }
        let unknown = refused::<TenantFields>(r#"{"prot": 1}"#);
        assert!(
            unknown.starts_with("there is no field `prot`, only `ref`, "),
            "{unknown}"
        );
        let nested = refused::<Nested>(r#"{"roles": [{}, {"port": -1}]}"#);
        assert_eq!(
            nested,
            "`roles[1].port` must be a whole number from 0 to 65535"
        );
        assert_eq!(refused::<Nested>("{}"), "`roles` is missing");
        for (body, said) in [
            (
                r#"{"expires": 3600}"#,
                r#"`expires`: 3600 has no unit: write it as text, as in "30m", "24h" or "7d""#,
            ),
            (
                r#"{"expires": true}"#,
                r#"`expires` must be text, as in "24h""#,
            ),
        ] {
            assert_eq!(refused::<RuleTerms>(body), said);
        }
    }

    #[test]
    fn what_is_not_json_is_told_as_that() {
        assert!(refused::<TenantFields>("{").starts_with("the body is not JSON: "));
        assert!(refused::<TenantFields>("{} {}").starts_with("the body is not JSON: "));
        assert!(refused::<TenantFields>("").contains("empty"));
        for body in [
            "{}",
            r#"{"password": "a", "verifier": "b"}"#,
            r#"{"secret": "a"}"#,
        ] {
            assert!(matches!(
                json::<SecretText>(body.as_bytes()),
                Err(BodyError::Misfit { .. })
            ));
        }
    }

    #[test]
    fn a_query_is_refused_by_field_as_well() {
        let text = "Failed to deserialize query string: limit: invalid digit found in string";
        assert_eq!(query_misfit(text).message, "`limit` must be a whole number");
    }
}
