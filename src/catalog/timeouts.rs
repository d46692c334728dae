//! A tenant's own limits of time. What it does not limit itself is as the operator has configured it.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::{
    ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

/// How long something may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum TimeLimit {
    Off,
    After(Duration),
}

/// A text that is no limit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(r#"must be a duration such as "30s", "5m" or "1h", or "off""#)]
pub struct InvalidLimit;

/// The limits that a tenant may set for itself, as `pooler.toml` names them in `[timeouts]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TenantTimeouts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<TimeLimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<TimeLimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_in_transaction: Option<TimeLimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<TimeLimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<TimeLimit>,
}

impl TimeLimit {
    /// The time, if there is a limit.
    #[must_use]
    pub fn duration(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::After(duration) => Some(duration),
        }
    }
}

// By hand, for it is written as text although it is an enum.
impl ToSchema for TimeLimit {}

impl utoipa::PartialSchema for TimeLimit {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "A duration such as `30s`, `5m` or `1h 30m`, or `off`.",
            ))
            .examples(["30s", "off"])
            .into()
    }
}

impl FromStr for TimeLimit {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        match text {
            "off" => Ok(Self::Off),
            _ => humantime::parse_duration(text)
                .ok()
                .filter(|duration| !duration.is_zero())
                .map(Self::After)
                .ok_or(InvalidLimit),
        }
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::After(duration) => humantime::format_duration(*duration).fmt(f),
        }
    }
}

impl From<TimeLimit> for String {
    fn from(limit: TimeLimit) -> Self {
        limit.to_string()
    }
}

impl TryFrom<String> for TimeLimit {
    type Error = InvalidLimit;

    fn try_from(text: String) -> Result<Self, InvalidLimit> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_duration_or_off() {
        let limits: TenantTimeouts =
            serde_json::from_str(r#"{"query": "1m 30s", "idle": "off"}"#).unwrap();
        assert_eq!(
            limits.query,
            Some(TimeLimit::After(Duration::from_secs(90)))
        );
        assert_eq!(limits.idle, Some(TimeLimit::Off));
        assert_eq!(limits.transaction, None);
        let text = serde_json::to_string(&limits).unwrap();
        assert_eq!(text, r#"{"idle":"off","query":"1m 30s"}"#);
        for wrong in ["", "0s", "soon", "-1s"] {
            assert_eq!(wrong.parse::<TimeLimit>(), Err(InvalidLimit), "{wrong}");
        }
    }
}
