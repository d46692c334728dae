//! When something is to end, as people write it: a time (`2026-05-25T18:00:00Z`) or a while (`24h`, `7d`).

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpiryError {
    #[error("`{0}` has no unit: write 30m, 24h or 7d, or a time such as 2026-05-25T18:00:00Z")]
    BareNumber(String),
    #[error("`{0}` is neither a while (30m, 24h, 7d) nor a time such as 2026-05-25T18:00:00Z")]
    Neither(String),
    #[error("`{0}` is no while: write it with its unit, as 30m, 8h or 7d")]
    NotAWhile(String),
    #[error("`{0}` would be over already: write a while from now (30m, 24h, 7d) or a time to come")]
    Backwards(String),
    #[error("`{0}` reaches beyond the year 9999")]
    OutOfRange(String),
}

/// The instant that `text` means at the time `now`.
pub fn parse(text: &str, now: OffsetDateTime) -> Result<OffsetDateTime, ExpiryError> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Seconds from now, seconds since 1970 or milliseconds: a guess could be wrong by decades.
        return Err(ExpiryError::BareNumber(text.to_owned()));
    }
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(at);
    }
    if let Some(back) = text.strip_prefix('-')
        && humantime::parse_duration(back).is_ok()
    {
        return Err(ExpiryError::Backwards(text.to_owned()));
    }
    let span =
        humantime::parse_duration(text).map_err(|_| ExpiryError::Neither(text.to_owned()))?;
    let span =
        time::Duration::try_from(span).map_err(|_| ExpiryError::OutOfRange(text.to_owned()))?;
    now.checked_add(span)
        .ok_or_else(|| ExpiryError::OutOfRange(text.to_owned()))
}

/// How long `text` means: `8h`, `7d`.
pub fn lasting(text: &str) -> Result<std::time::Duration, ExpiryError> {
    humantime::parse_duration(text.trim())
        .ok()
        .filter(|span| !span.is_zero())
        .ok_or_else(|| ExpiryError::NotAWhile(text.to_owned()))
}

/// A while that may be none at all: `24h`, `0`.
pub fn overlap(text: &str) -> Result<time::Duration, ExpiryError> {
    if text.trim() == "0" {
        return Ok(time::Duration::ZERO);
    }
    let now = OffsetDateTime::now_utc();
    // A time says as well how long it is until then.
    parse(text, now).map(|at| at - now)
}

/// A time or a while as a field of a body holds it, not read yet. Who sends a number is told what it lacks.
struct Written(String);

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Reader)
    }
}

struct Reader;

impl Reader {
    fn unitless<E: de::Error>(number: impl fmt::Display) -> Result<Written, E> {
        Err(E::custom(format_args!(
            "{number} has no unit: write it as text, as in \"30m\", \"24h\" or \"7d\""
        )))
    }
}

impl de::Visitor<'_> for Reader {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, as in \"24h\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Written, E> {
        Ok(Written(text.to_owned()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Written, E> {
        Self::unitless(number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Written, E> {
        Self::unitless(number)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Written, E> {
        Self::unitless(number)
    }
}

/// For fields that hold a time or a while.
pub(super) fn written<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    Written::deserialize(input).map(|written| written.0)
}

/// For fields that may hold a time or a while.
pub(super) fn perhaps_written<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<Option<String>, D::Error> {
    let written = Option::<Written>::deserialize(input)?;
    Ok(written.map(|written| written.0))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-05-25 10:00 UTC);

    #[test]
    fn a_while_counts_from_now_and_a_time_stands() {
        assert_eq!(parse("24h", NOW), Ok(datetime!(2026-05-26 10:00 UTC)));
        assert_eq!(parse("1h 30m", NOW), Ok(datetime!(2026-05-25 11:30 UTC)));
        assert_eq!(
            parse("2026-06-01T12:00:00+02:00", NOW),
            Ok(datetime!(2026-06-01 10:00 UTC))
        );
    }

    #[test]
    fn a_bare_number_is_refused_because_its_unit_is_a_guess() {
        let refused = parse("1780000000", NOW).unwrap_err();
        assert!(matches!(refused, ExpiryError::BareNumber(_)));
        assert!(refused.to_string().contains("no unit"));
    }

    #[test]
    fn a_while_has_a_unit_and_is_not_nothing() {
        assert_eq!(lasting("8h"), Ok(std::time::Duration::from_secs(28_800)));
        for wrong in ["28800", "0s", "never", "", "2026-06-01T12:00:00Z"] {
            assert!(
                matches!(lasting(wrong), Err(ExpiryError::NotAWhile(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_span_may_be_none() {
        assert_eq!(overlap("0"), Ok(time::Duration::ZERO));
        assert_eq!(overlap("24h"), Ok(time::Duration::DAY));
        assert!(matches!(overlap("24"), Err(ExpiryError::BareNumber(_))));
        assert!(matches!(overlap("-1h"), Err(ExpiryError::Backwards(_))));
    }

    #[test]
    fn nonsense_and_the_far_future_are_refused() {
        assert!(matches!(parse("soon", NOW), Err(ExpiryError::Neither(_))));
        assert!(matches!(parse("", NOW), Err(ExpiryError::Neither(_))));
        assert!(matches!(parse("-", NOW), Err(ExpiryError::Neither(_))));
        assert!(matches!(parse("-1h", NOW), Err(ExpiryError::Backwards(_))));
        assert!(matches!(
            parse("9999999999h", NOW),
            Err(ExpiryError::OutOfRange(_))
        ));
    }
}
