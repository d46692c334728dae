//! `sluice audit`: who did what, when, and as which role.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    client::{Answer, Client, Verdict},
    error::CliError,
    output::{self, Table},
};
use crate::{
    admin::values::{AuditRows, Presences},
    catalog::{
        AuditFault, AuditVerdict, SignedEnd,
        types::{AuditEvent, AuditRow, Outcome, Presence, PresenceEnd},
    },
    names::{Fingerprint, SessionId, TenantRef},
};

#[derive(Subcommand)]
pub enum AuditAction {
    /// List logins, session ends, revocations and changes, newest first
    #[command(
        after_help = "Examples:\n  sluice audit list --tenant demo --person first@example.com\n  sluice audit list --kind auth.denied --limit 20\n  sluice audit list --fingerprint 1f0a5c2b7e9d3f46"
    )]
    List(Box<Filter>),
    /// Say who was in at a moment: as which role, from where, and until when
    #[command(after_help = "Example:\n  sluice audit who --tenant demo --at '2026-03-01 10:00'")]
    Who {
        /// In this tenant only
        #[arg(long)]
        tenant: Option<TenantRef>,
        /// The moment: 2026-03-01T10:00:00Z, '2026-03-01 10:00' (UTC), or 2h for two hours ago; now unless told
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
    },
    /// Tell what one person did and what was done about them, in the order it happened
    #[command(after_help = "Example:\n  sluice audit timeline first@example.com --since 7d")]
    Timeline {
        /// Id or e-mail address, also of somebody who is gone
        person: String,
        #[command(flatten)]
        span: Period,
        /// The latest N events
        #[arg(long, value_name = "N", default_value_t = 100, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Print all rows as JSON, one a line, oldest first
    #[command(
        after_help = "Examples:\n  sluice audit export --since 2026-03-01 --tenant demo\n  sluice audit export --person first@example.com"
    )]
    Export(Box<Chosen>),
    /// Check that no row was changed, removed or reordered; exit status 1 if one was
    #[command(after_help = "Example:\n  sluice audit verify")]
    Verify {
        /// A checkpoint (SEQ:HASH, or SEQ:HASH:SIGNATURE) whose row must still be there, as an earlier check or the log has it
        #[arg(long, value_name = "CHECKPOINT")]
        checkpoint: Option<String>,
    },
    /// Print where the trail ends now, signed: a line to keep elsewhere, for `audit verify --checkpoint`
    #[command(after_help = "Examples:\n  sluice audit checkpoint\n  sluice audit checkpoint --key")]
    Checkpoint {
        /// Print the public key (PEM) that signatures are checked with instead
        #[arg(long)]
        key: bool,
    },
}

#[derive(Args, Serialize)]
pub struct Filter {
    #[command(flatten)]
    #[serde(flatten)]
    chosen: Chosen,
    /// Rows before this number only, to page back
    #[arg(long, value_name = "SEQ", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(1..))]
    before: Option<i64>,
    /// At most this many rows
    #[arg(long, value_name = "N", default_value_t = 100, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Args, Serialize)]
pub struct Chosen {
    /// Of this tenant only
    #[arg(long)]
    tenant: Option<TenantRef>,
    /// Of this person only: id or e-mail address
    #[arg(long)]
    person: Option<String>,
    /// Of this kind only, e.g. auth.denied, session.ended, rule.removed
    #[arg(long)]
    kind: Option<String>,
    /// Of this session only
    #[arg(long)]
    session: Option<SessionId>,
    /// Of one token only, also when it is gone: as `token show` and the rows have it
    #[arg(long)]
    fingerprint: Option<Fingerprint>,
    #[command(flatten)]
    #[serde(flatten)]
    span: Period,
}

#[derive(Args, Serialize)]
pub struct Period {
    /// From this moment on: 2026-03-01, '2026-03-01 10:00' (UTC), 2026-03-01T10:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this moment
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl AuditAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::List(filter) => {
                let found = client.find::<AuditRows>(&["v1", "audit"], &*filter).await?;
                Ok(found.shown(|found| table(found).to_string()))
            }
            Self::Who { tenant, at } => {
                let query = [("tenant", tenant.map(String::from)), ("at", at)];
                let found = client
                    .find::<Presences>(&["v1", "audit", "who"], &query)
                    .await?;
                Ok(found.shown(|found| presences(found).to_string()))
            }
            Self::Timeline {
                person,
                span,
                limit,
            } => {
                let query = [
                    ("person", Some(person)),
                    ("since", span.since),
                    ("until", span.until),
                    ("limit", Some(limit.to_string())),
                ];
                let found = client.find::<AuditRows>(&["v1", "audit"], &query).await?;
                Ok(found.shown(|found| timeline(found).to_string()))
            }
            Self::Export(chosen) => client.copy(&["v1", "audit", "export"], &*chosen).await,
            Self::Verify { checkpoint } => verify(client, checkpoint).await,
            Self::Checkpoint { key } => {
                let found = client
                    .get::<SignedEnd>(&["v1", "audit", "checkpoint"])
                    .await?;
                Ok(found.shown(|end| {
                    let text = if key {
                        &end.public_key
                    } else {
                        &end.checkpoint
                    };
                    text.trim_end().to_owned()
                }))
            }
        }
    }
}

async fn verify(client: &Client, checkpoint: Option<String>) -> Result<Answer, CliError> {
    let found = client
        .find::<AuditVerdict>(&["v1", "audit", "verify"], &[("checkpoint", checkpoint)])
        .await?;
    let verdict = if found.value.is_intact() {
        Verdict::Good
    } else {
        Verdict::Bad
    };
    let answer = found.shown(conclusion);
    Ok(Answer { verdict, ..answer })
}

fn conclusion(found: &AuditVerdict) -> String {
    let rows = output::count(found.rows.unsigned_abs(), "row");
    let Some(fault) = &found.fault else {
        return format!(
            "the trail is whole: {rows}\ncheckpoint {}:{} (kept elsewhere, it proves later that nothing was put back; \
             `sluice audit checkpoint` prints a signed one)",
            found.seq, found.hash
        );
    };
    let fault = match fault {
        AuditFault::CheckpointForged { seq } => {
            return format!(
                "the checkpoint of row {seq} was not signed with this trail's key: nothing follows from it\nthe trail itself is whole: {rows}"
            );
        }
        AuditFault::RowAltered { seq } => format!("row {seq} is not as it was written"),
        AuditFault::RowMissing { seq } => format!("row {seq} is missing"),
        AuditFault::TailMissing { from, to } => {
            format!("rows {from} to {to}, the last ones, are missing")
        }
        AuditFault::TailForged { from } => {
            format!("the rows from {from} on were not written by Sluice")
        }
        AuditFault::StartForged => {
            "the record of which rows were let go when their time was over is forged".to_owned()
        }
        AuditFault::CheckpointMissed { seq } => {
            format!(
                "row {seq} is not the one of the checkpoint: the trail was put back or written anew"
            )
        }
        AuditFault::HeadForged => "the record of where the trail ends is gone or forged".to_owned(),
    };
    format!("the trail was tampered with: {fault}\n{rows} before that are as they were written")
}

fn table(found: &AuditRows) -> Table {
    let mut table = Table::new(
        &[
            "SEQ", "TIME", "WHO", "ROLE", "TENANT", "EVENT", "RESULT", "FROM", "BY",
        ],
        "no matching rows",
    );
    for row in &found.rows {
        let event = &row.event;
        table.row([
            row.seq.to_string(),
            output::instant(row.time),
            who(row),
            output::or_dash(event.role.as_ref()),
            output::or_dash(event.tenant.as_ref()),
            event.kind.clone(),
            result(event),
            output::or_dash(event.peer.as_ref()),
            event.actor.clone(),
        ]);
    }
    table
}

fn presences(found: &Presences) -> Table {
    let mut table = Table::new(
        &[
            "WHO", "ROLE", "TENANT", "DATABASE", "FROM", "SINCE", "UNTIL", "SESSION",
        ],
        "nobody was in",
    );
    for Presence { start, end } in &found.sessions {
        let event = &start.event;
        table.row([
            who(start),
            output::or_dash(event.role.as_ref()),
            output::or_dash(event.tenant.as_ref()),
            output::or_dash(event.detail["database"].as_str()),
            output::or_dash(event.peer.as_ref()),
            output::instant(start.time),
            until(end),
            output::or_dash(event.session.as_ref()),
        ]);
    }
    table
}

fn until(end: &PresenceEnd) -> String {
    match end {
        PresenceEnd::Open => "still in".to_owned(),
        PresenceEnd::Ended { at, reason } => {
            let reason = reason.as_deref().unwrap_or("ended");
            format!("{} ({reason})", output::instant(*at))
        }
        PresenceEnd::NotRecorded { before: Some(at) } => {
            format!("before {} (Sluice had stopped)", output::instant(*at))
        }
        PresenceEnd::NotRecorded { before: None } => "not recorded".to_owned(),
    }
}

/// The rows of one person in the order of what happened: a change is written down before what was waiting then.
fn timeline(found: &AuditRows) -> Table {
    let headings = [
        "TIME", "EVENT", "RESULT", "ROLE", "TENANT", "FROM", "BY", "SESSION",
    ];
    let mut table = Table::new(&headings, "no matching rows");
    let mut rows: Vec<_> = found.rows.iter().collect();
    rows.sort_by_key(|row| (row.time, row.seq));
    for row in rows {
        let event = &row.event;
        table.row([
            output::instant(row.time),
            event.kind.clone(),
            result(event),
            output::or_dash(event.role.as_ref()),
            output::or_dash(event.tenant.as_ref()),
            output::or_dash(event.peer.as_ref()),
            event.actor.clone(),
            output::or_dash(event.session.as_ref()),
        ]);
    }
    table
}

/// The person by e-mail address, by id where the row has none; a dash where no person is concerned.
fn who(row: &AuditRow) -> String {
    let id = row.event.person.map(|person| person.to_string());
    output::or_dash(row.email.clone().or(id))
}

/// How it went. A session that ended did so for its reason, which tells more than that it has ended.
fn result(event: &AuditEvent) -> String {
    let word = match (event.kind.as_str(), event.outcome) {
        ("session.ended", _) => return output::or_dash(event.reason.as_ref()),
        ("admin.denied" | "auth.denied", _) => "refused",
        (_, Outcome::Success) => "ok",
        (_, Outcome::Failure) => "failed",
    };
    let times = event.detail["count"].as_u64();
    let times = times.map_or_else(String::new, |count| format!(" × {count}"));
    match &event.reason {
        Some(reason) => format!("{word} ({reason}){times}"),
        None => format!("{word}{times}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_broke_does_not_read_as_ok() {
        let event = |kind: &str, outcome, reason: &str| AuditEvent {
            reason: Some(reason.to_owned()),
            ..AuditEvent::new(kind, outcome, "system")
        };
        let said = |kind, outcome, reason| result(&event(kind, outcome, reason));
        assert_eq!(
            said("session.ended", Outcome::Success, "backend_lost"),
            "backend_lost"
        );
        assert_eq!(
            said("auth.denied", Outcome::Failure, "no_rule"),
            "refused (no_rule)"
        );
        assert_eq!(
            said("audit.gap", Outcome::Failure, "events_lost"),
            "failed (events_lost)"
        );
    }
}
