//! A moment in the past, as people write it: a time (`2026-03-01T10:00:00Z`, or `2026-03-01 10:00` in UTC) or how long
//! ago (`2h`).

use serde::{Deserialize, Deserializer, de};
use time::{
    Date, OffsetDateTime, PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};

const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
const MINUTE: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]");
const SECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");

/// A moment as it stands in a query.
#[derive(Clone, Copy)]
pub(super) struct Moment(pub(super) OffsetDateTime);

#[derive(Debug, thiserror::Error)]
#[error(
    "neither a time such as 2026-03-01T10:00:00Z or 2026-03-01 10:00 (UTC), nor a while ago such as 2h"
)]
pub(super) struct NotAMoment;

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let moment = parse(&text, OffsetDateTime::now_utc());
        moment.map(Self).map_err(de::Error::custom)
    }
}

/// The moment that `text` means at the time `now`.
fn parse(text: &str, now: OffsetDateTime) -> Result<OffsetDateTime, NotAMoment> {
    let text = text.trim();
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(at);
    }
    let spaced = text.replacen('T', " ", 1);
    for format in [MINUTE, SECOND] {
        if let Ok(at) = PrimitiveDateTime::parse(&spaced, format) {
            return Ok(at.assume_utc());
        }
    }
    if let Ok(day) = Date::parse(text, DATE) {
        return Ok(day.midnight().assume_utc());
    }
    let ago = humantime::parse_duration(text).map_err(|_| NotAMoment)?;
    let ago = time::Duration::try_from(ago).map_err(|_| NotAMoment)?;
    now.checked_sub(ago).ok_or(NotAMoment)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-05-25 10:00 UTC);

    #[test]
    fn a_time_stands_and_a_while_counts_back() {
        for (text, meant) in [
            ("2026-03-01T10:00:00+02:00", datetime!(2026-03-01 08:00 UTC)),
            ("2026-03-01 10:00", datetime!(2026-03-01 10:00 UTC)),
            ("2026-03-01T10:00:05", datetime!(2026-03-01 10:00:05 UTC)),
            ("2026-03-01", datetime!(2026-03-01 00:00 UTC)),
            ("2h 30m", datetime!(2026-05-25 07:30 UTC)),
        ] {
            assert_eq!(parse(text, NOW).ok(), Some(meant), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "soon", "10", "2026-13-01", "-2h", "999999999999h"] {
            assert!(parse(text, NOW).is_err(), "{text}");
        }
    }
}
