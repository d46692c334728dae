//! Reports of leaked tokens, from anybody: whoever can show the whole of a token may have it revoked.
//!
//! A stranger learns nothing here. The answer is given before any token is looked at, so it is the same, and takes
//! the same time, whether or not one of them is ours; what follows from it happens behind it.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension, Json,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::Instant};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::{
    AdminState,
    error::ApiError,
    extract::{Described, SecretBody},
    object,
    routes::{Routes, routes},
    server::Peer,
    values::wiped,
};
use crate::{access::Scope, catalog::Token, session::Guesses};

const BODY_MAX_BYTES: usize = 64 * 1024;
const TOKENS_MAX: usize = 100;
/// Reports that are worked on at a time.
const UNDER_WAY_MAX: usize = 16;

pub(super) fn routes() -> Routes {
    routes!(report).wrap(|router| {
        router
            .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
            .layer(Extension(Arc::new(Reports::default())))
    })
}

/// What keeps reports from becoming a burden.
struct Reports {
    per_address: Guesses,
    under_way: Arc<Semaphore>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            per_address: Guesses::default(),
            under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
        }
    }
}

/// One token, several, or a list as secret scanners send it.
#[derive(Deserialize, ToSchema)]
#[schema(as = LeakReport)]
#[serde(untagged)]
enum Report {
    #[serde(deserialize_with = "object::one")]
    One(One),
    #[serde(deserialize_with = "object::one")]
    Several(Several),
    #[serde(deserialize_with = "object::list")]
    List(Vec<Found>),
}

#[derive(Deserialize, ToSchema)]
#[schema(as = LeakedToken)]
#[serde(deny_unknown_fields)]
struct One {
    token: Text,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = LeakedTokens)]
#[serde(deny_unknown_fields)]
struct Several {
    #[schema(min_items = 1, max_items = 100)]
    tokens: Vec<Text>,
}

/// Scanners say more of each, such as where it was.
#[derive(Deserialize, ToSchema)]
#[schema(as = FoundToken)]
struct Found {
    token: Text,
}

#[derive(Deserialize, ToSchema)]
#[schema(value_type = String)]
struct Text(#[serde(with = "wiped")] Zeroizing<String>);

impl Described for Report {
    const TAKEN: &'static str =
        "give `token`, or a list `tokens`, or a list of objects with `token` each: at most 100";
}

impl Report {
    fn into_texts(self) -> Vec<Zeroizing<String>> {
        let texts = match self {
            Self::One(One { token }) => vec![token],
            Self::Several(Several { tokens }) => tokens,
            Self::List(found) => found.into_iter().map(|found| found.token).collect(),
        };
        texts.into_iter().map(|text| text.0).collect()
    }
}

#[derive(Serialize, ToSchema)]
struct Received {
    received: usize,
}

/// Has tokens revoked that somebody has found: whoever can show the whole of one may.
#[utoipa::path(
    post, path = "/v1/tokens/leaked", tag = "Tokens",
    request_body(content = Report, example = json!({ "token": "slp_…" })),
    responses(
        (status = 202, description = "Received, and not looked at yet.", body = Received),
        (status = 429, description = "`too_many_requests`: there were too many reports a moment ago."),
    ),
)]
async fn report(
    State(state): State<AdminState>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(reports): Extension<Arc<Reports>>,
    SecretBody(report): SecretBody<Report>,
) -> Result<(StatusCode, Json<Received>), ApiError> {
    let now = Instant::now();
    let limits = &state.doctor.config.load().limits;
    let limit = limits.leak_reports_per_address;
    if reports.per_address.are_too_many(peer, limit, now) {
        return Err(too_many());
    }
    reports.per_address.count(peer, now);
    let texts = report.into_texts();
    if texts.is_empty() || texts.len() > TOKENS_MAX {
        return Err(ApiError::malformed(Report::TAKEN));
    }
    let place = Arc::clone(&reports.under_way).try_acquire_owned();
    let place = place.map_err(|_| too_many())?;
    let received = texts.len();
    state.changes.clone().later(async move {
        for text in texts {
            if let Some(token) = Token::parse(text.trim()) {
                state.revoke_leaked(&token, peer).await;
            }
        }
        drop(place);
    });
    Ok((StatusCode::ACCEPTED, Json(Received { received })))
}

impl AdminState {
    async fn revoke_leaked(&self, token: &Token, reporter: IpAddr) {
        let reporter = Some(reporter.to_string());
        match self.catalog.revoke_leaked(token, reporter).await {
            Ok(Some(changed)) => {
                tracing::warn!(token = %changed.value.id, person = %changed.value.person, "a token was reported as leaked and is revoked");
                let scope = Scope::Token(changed.value.id);
                self.access.enforce(scope, changed.revision).await;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, token = %token.id(), "a token that may have leaked could not be revoked");
            }
        }
    }
}

fn too_many() -> ApiError {
    ApiError::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_requests",
        "there were too many reports a moment ago",
    )
    .with_hint("try again in a minute; one report may hold 100 tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_in_each_shape_and_nothing_else_is_one() {
        let read = |text: &str| {
            let report = serde_json::from_str::<Report>(text);
            report.map(|report| {
                let texts = report.into_texts().into_iter();
                texts.map(|text| text.to_string()).collect::<Vec<_>>()
            })
        };
        assert_eq!(read(r#"{"token": "a"}"#).unwrap(), ["a"]);
        assert_eq!(read(r#"{"tokens": ["a", "b"]}"#).unwrap(), ["a", "b"]);
        let scanner = r#"[{"token": "a", "type": "sluice_token", "url": "https://example.com", "source": "content"}]"#;
        assert_eq!(read(scanner).unwrap(), ["a"]);
        assert_eq!(read("[]").unwrap(), [""; 0]);
        for wrong in [
            "{}",
            "7",
            r#""a""#,
            r#"{"tokens": "a"}"#,
            r#"{"token": "a", "tokens": ["b"]}"#,
            r#"["a"]"#,
            r#"["a", "b"]"#,
            r#"[["a"]]"#,
            r#"[["a", "b"]]"#,
            r#"[{"token": "a"}, "b"]"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
