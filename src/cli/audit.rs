//! `sluice audit`: who did what, when, and as which role.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    client::{Answer, Client, Verdict},
    error::CliError,
    output::{self, Table},
};
use crate::{
    admin::values::{AuditRows, AuditView},
    catalog::{AuditFault, AuditVerdict, types::Outcome},
    names::{SessionId, TenantRef},
};

#[derive(Subcommand)]
pub enum AuditAction {
    /// List logins, session ends, revocations and changes, newest first
    #[command(
        after_help = "Examples:\n  sluice audit list --tenant demo --person first@example.com\n  sluice audit list --kind auth.denied --limit 20"
    )]
    List(Filter),
    /// Check that no row was changed, removed or reordered; exit status 1 if one was
    #[command(after_help = "Example:\n  sluice audit verify")]
    Verify,
}

#[derive(Args, Serialize)]
pub struct Filter {
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
    /// Rows before this number only, to page back
    #[arg(long, value_name = "SEQ")]
    before: Option<i64>,
    /// At most this many rows
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

impl AuditAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::List(filter) => {
                let found = client.find::<AuditRows>(&["v1", "audit"], &filter).await?;
                Ok(found.shown(|found| table(found).to_string()))
            }
            Self::Verify => verify(client).await,
        }
    }
}

async fn verify(client: &Client) -> Result<Answer, CliError> {
    let found = client
        .get::<AuditVerdict>(&["v1", "audit", "verify"])
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
            "the trail is whole: {rows}\nlast hash {} (kept elsewhere, it proves later that nothing was put back)",
            found.hash
        );
    };
    let fault = match fault {
        AuditFault::RowAltered { seq } => format!("row {seq} is not as it was written"),
        AuditFault::RowMissing { seq } => format!("row {seq} is missing"),
        AuditFault::TailMissing { from, to } => {
            format!("rows {from} to {to}, the last ones, are missing")
        }
        AuditFault::TailForged { from } => {
            format!("the rows from {from} on were not written by Sluice")
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
    for view in &found.rows {
        let event = &view.row.event;
        table.row([
            view.row.seq.to_string(),
            output::instant(view.row.time),
            who(view),
            output::or_dash(event.role.as_ref()),
            output::or_dash(event.tenant.as_ref()),
            event.kind.clone(),
            result(event.outcome, event.reason.as_deref()),
            output::or_dash(event.peer.as_ref()),
            event.actor.clone(),
        ]);
    }
    table
}

/// The person by e-mail address, by id if they are gone; a dash where no person is concerned.
fn who(view: &AuditView) -> String {
    let id = view.row.event.person.map(|person| person.to_string());
    output::or_dash(view.email.clone().or(id))
}

fn result(outcome: Outcome, reason: Option<&str>) -> String {
    let word = match outcome {
        Outcome::Success => "ok",
        Outcome::Failure => "refused",
    };
    reason.map_or_else(|| word.to_owned(), |reason| format!("{word} ({reason})"))
}
