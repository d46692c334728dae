//! What people see: aligned tables, times with how far away they are, counts in words.
//!
//! Text that comes from clients (an application name, say) ends up on an administrator's terminal here, so
//! characters that move the cursor or turn the text are replaced before anything is printed.

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use super::error::CliError;
use crate::{admin::values::Done, names::turns_text};

/// Writes to standard output; `false`: its reader has seen enough (`| head`), which is no failure.
pub(super) fn print(bytes: &[u8]) -> Result<bool, CliError> {
    let mut out = io::stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).map_err(CliError::Output),
    }
}

/// Rows under headings, columns padded to their widest cell.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    /// Said instead of an empty table.
    when_empty: &'static str,
}

impl Table {
    pub(super) fn new(headings: &[&str], when_empty: &'static str) -> Self {
        Self {
            rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()],
            when_empty,
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.iter().map(|cell| tame(cell)).collect());
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.len() == 1 {
            return f.write_str(self.when_empty);
        }
        let widths = self.widths();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:<width$}  ")?;
            }
            let end = if number + 1 == self.rows.len() {
                ""
            } else {
                "\n"
            };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A name and a value per line, for one thing looked at closely.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<_> = facts
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {}", tame(value)))
        .collect();
    lines.join("\n")
}

/// `text` without what would not be shown as itself.
pub(super) fn tame(text: &str) -> String {
    text.chars()
        .map(|c| if turns_text(c) { '\u{fffd}' } else { c })
        .collect()
}

/// `value` as text, or a dash where there is none.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `values` in one cell, or `none` where there are none.
pub(super) fn list<T: ToString>(values: &[T], none: &str) -> String {
    if values.is_empty() {
        return none.to_owned();
    }
    let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// A time to the second in UTC: `2026-05-25T10:00:00Z`.
pub(super) fn instant(at: OffsetDateTime) -> String {
    let at = at.to_offset(UtcOffset::UTC);
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// A time with its distance from now: `2026-05-25T10:00:00Z (in 3 h)`.
pub(super) fn instant_from_now(at: OffsetDateTime) -> String {
    format!(
        "{} ({})",
        instant(at),
        distance(at, OffsetDateTime::now_utc())
    )
}

/// How far `at` is from `now`, rounded: minutes up to two hours, hours up to two days: `in 90 min`, `5 min ago`, `in 3 h`.
pub(super) fn distance(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let seconds = (at - now).whole_seconds();
    let size = match seconds.unsigned_abs() {
        0 => return "now".to_owned(),
        s @ 1..60 => format!("{s} s"),
        s @ 60..7_200 => format!("{} min", (s + 30) / 60),
        s @ 7_200..172_800 => format!("{} h", (s + 1_800) / 3_600),
        s => format!("{} d", (s + 43_200) / 86_400),
    };
    if seconds > 0 {
        format!("in {size}")
    } else {
        format!("{size} ago")
    }
}

/// One of the catalogue's words as the API spells it, e.g. `administrator`.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => "?".to_owned(),
    }
}

/// `what`, and what the change did to open sessions: `rule removed; 3 sessions ended in 12 ms`.
pub(super) fn done<T>(what: &str, done: &Done<T>) -> String {
    let Some(report) = &done.revocation else {
        return what.to_owned();
    };
    let ended = match report.sessions_ended {
        0 => "no session ended".to_owned(),
        ended => format!(
            "{} ended in {}",
            count(ended.into(), "session"),
            milliseconds(report.elapsed_ms)
        ),
    };
    if report.unconfirmed == 0 {
        return format!("{what}; {ended}");
    }
    let (unproven, ending) = match report.unconfirmed {
        1 => ("1 session or server process", "is"),
        several => (&*format!("{several} sessions or server processes"), "are"),
    };
    format!(
        "{what}; {ended}; {unproven} {ending} not proven gone: see `sluice session list` and pg_stat_activity"
    )
}

/// `1 session`, `3 sessions`.
pub(super) fn count(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// Milliseconds as people say them: `0.4 ms`, `12 ms`, `1.5 s`.
pub(super) fn milliseconds(elapsed: f64) -> String {
    if elapsed < 10.0 {
        format!("{elapsed:.1} ms")
    } else if elapsed < 1_000.0 {
        format!("{elapsed:.0} ms")
    } else {
        format!(
            "{:.1} s",
            Duration::from_secs_f64(elapsed / 1_000.0).as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::{access::RevocationReport, catalog::types::Revision};

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let mut table = Table::new(&["REF", "NAME"], "none");
        table.row(["demo".into(), "é".into()]);
        table.row(["a".into(), "long name".into()]);
        assert_eq!(table.to_string(), "REF   NAME\ndemo  é\na     long name");
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(Table::new(&["REF"], "no tenants").to_string(), "no tenants");
    }

    #[test]
    fn no_cell_can_write_control_sequences_to_the_terminal() {
        let mut table = Table::new(&["APPLICATION"], "none");
        table.row(["\u{1b}[2Jpsql\n".into()]);
        table.row(["\u{202e}lqsp".into()]);
        assert_eq!(
            table.to_string(),
            "APPLICATION\n\u{fffd}[2Jpsql\u{fffd}\n\u{fffd}lqsp"
        );
    }

    #[test]
    fn what_is_not_proven_gone_need_not_be_a_session() {
        let removal = |unconfirmed| Done {
            value: (),
            revision: Revision(1),
            revocation: Some(RevocationReport {
                revision: Revision(1),
                sessions_ended: 2,
                backends_closed: 2,
                unconfirmed,
                elapsed_ms: 12.0,
                slowest_ms: 12.0,
            }),
        };
        assert_eq!(
            done("rule removed", &removal(0)),
            "rule removed; 2 sessions ended in 12 ms"
        );
        let said = done("rule removed", &removal(1));
        assert!(
            said.contains("; 1 session or server process is not proven gone: "),
            "{said}"
        );
        let said = done("rule removed", &removal(3));
        assert!(
            said.contains("; 3 sessions or server processes are not proven gone: "),
            "{said}"
        );
    }

    #[test]
    fn distances_use_the_largest_unit_that_fits() {
        let now = datetime!(2026-05-25 10:00 UTC);
        let said = |seconds| distance(now + time::Duration::seconds(seconds), now);
        assert_eq!(said(0), "now");
        assert_eq!(said(59), "in 59 s");
        assert_eq!(said(-60), "1 min ago");
        assert_eq!(said(90 * 60), "in 90 min");
        assert_eq!(said(3 * 3_600), "in 3 h");
        assert_eq!(said(90 * 86_400), "in 90 d");
    }

    #[test]
    fn times_are_utc_to_the_second() {
        assert_eq!(
            instant(datetime!(2026-05-25 12:00:00.123 +2)),
            "2026-05-25T10:00:00Z"
        );
    }

    #[test]
    fn counts_and_times_read_like_speech() {
        assert_eq!(count(1, "session"), "1 session");
        assert_eq!(count(0, "session"), "0 sessions");
        assert_eq!(milliseconds(0.44), "0.4 ms");
        assert_eq!(milliseconds(12.3), "12 ms");
        assert_eq!(milliseconds(1_500.0), "1.5 s");
    }
}
