//! Between columns and values: times as unix milliseconds, words as the types' serde names, bytes as hex.

use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ipnet::IpNet;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row, sqlite::SqliteRow};
use time::OffsetDateTime;

use crate::catalog::error::CatalogError;

/// A text column parsed as `T`.
pub(super) fn parsed<T: FromStr>(row: &SqliteRow, column: &'static str) -> Result<T, CatalogError> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|_| CatalogError::Corrupt { column })
}

/// A text column that may be null, parsed as `T`.
pub(super) fn parsed_optional<T: FromStr>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<T>, CatalogError> {
    let text: Option<&str> = row.try_get(column)?;
    text.map(|text| text.parse().map_err(|_| CatalogError::Corrupt { column }))
        .transpose()
}

/// A text column that holds the serde name of one of `T`'s variants.
pub(super) fn worded<T: DeserializeOwned>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<T, CatalogError> {
    let text: String = row.try_get(column)?;
    serde_json::from_value(text.into()).map_err(|_| CatalogError::Corrupt { column })
}

/// The serde name of a variant.
pub(super) fn word<T: Serialize>(value: T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        // Only plain enums are given to this function, and they are always a string.
        _ => String::new(),
    }
}

/// A text column that holds `T` as JSON.
pub(super) fn from_json<T: DeserializeOwned>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<T, CatalogError> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text).map_err(|_| CatalogError::Corrupt { column })
}

/// A value of ours as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> String {
    // Only structs of texts and numbers are given to this function: they always have a JSON form.
    serde_json::to_string(value).unwrap_or_default()
}

/// A number column as a narrower type.
pub(super) fn number<T: TryFrom<i64>>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<T, CatalogError> {
    let number: i64 = row.try_get(column)?;
    T::try_from(number).map_err(|_| CatalogError::Corrupt { column })
}

/// A number column that may be null, as a narrower type.
pub(super) fn number_optional<T: TryFrom<i64>>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<T>, CatalogError> {
    let number: Option<i64> = row.try_get(column)?;
    number
        .map(|number| T::try_from(number).map_err(|_| CatalogError::Corrupt { column }))
        .transpose()
}

pub(super) fn time(row: &SqliteRow, column: &'static str) -> Result<OffsetDateTime, CatalogError> {
    from_milliseconds(row.try_get(column)?).ok_or(CatalogError::Corrupt { column })
}

pub(super) fn time_optional(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<OffsetDateTime>, CatalogError> {
    let milliseconds: Option<i64> = row.try_get(column)?;
    milliseconds
        .map(|at| from_milliseconds(at).ok_or(CatalogError::Corrupt { column }))
        .transpose()
}

pub(super) fn networks(row: &SqliteRow, column: &'static str) -> Result<Vec<IpNet>, CatalogError> {
    let text: &str = row.try_get(column)?;
    text.split_terminator(',')
        .map(|network| {
            network
                .parse()
                .map_err(|_| CatalogError::Corrupt { column })
        })
        .collect()
}

pub(super) fn networks_text(networks: &[IpNet]) -> String {
    let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// Thirty-two bytes written as hex.
pub(super) fn digest(row: &SqliteRow, column: &'static str) -> Result<[u8; 32], CatalogError> {
    unhex(row.try_get(column)?).ok_or(CatalogError::Corrupt { column })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok()
}

/// The present moment, as precise as the catalogue keeps it.
pub(super) fn now() -> OffsetDateTime {
    truncated(OffsetDateTime::now_utc())
}

/// `at` without what the catalogue does not keep: in UTC, to the millisecond.
pub(super) fn truncated(at: OffsetDateTime) -> OffsetDateTime {
    from_milliseconds(milliseconds(at)).unwrap_or(at)
}

pub(super) fn milliseconds(at: OffsetDateTime) -> i64 {
    at.unix_timestamp() * 1000 + i64::from(at.millisecond())
}

/// The first whole millisecond that is not before `at`.
pub(super) fn milliseconds_up(at: OffsetDateTime) -> i64 {
    let down = milliseconds(at);
    down + i64::from(!at.nanosecond().is_multiple_of(1_000_000))
}

pub(super) fn from_milliseconds(milliseconds: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::catalog::types::{BackendLogin, BackendTls, RuleReach};

    #[test]
    fn a_time_is_kept_to_the_millisecond_in_utc() {
        let at = datetime!(2026-03-01 10:00:00.123_456_789 +2);
        assert_eq!(truncated(at), datetime!(2026-03-01 08:00:00.123 UTC));
        let before_1970 = datetime!(1969-12-31 23:59:59.999 UTC);
        assert_eq!(milliseconds(before_1970), -1);
        assert_eq!(from_milliseconds(-1), Some(before_1970));
    }

    #[test]
    fn words_are_the_serde_names() {
        assert_eq!(word(BackendTls::VerifyFull), "verify-full");
        assert_eq!(word(BackendLogin::RoleSecret), "role_secret");
        assert_eq!(word(RuleReach::BranchesOnly), "branches_only");
    }

    #[test]
    fn hex_reads_what_it_writes_and_nothing_else() {
        let bytes: [u8; 32] = std::array::from_fn(|at| at as u8 * 8);
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex(""), None);
        assert_eq!(unhex(&"g0".repeat(32)), None);
        assert_eq!(unhex(&"+1".repeat(32)), None);
        assert_eq!(unhex(&"é".repeat(32)), None);
    }
}
