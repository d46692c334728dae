//! `sluice session`: who is connected right now.

use clap::Subcommand;

use super::{
    client::{Answer, Client},
    error::CliError,
    output::{self, Table},
};
use crate::{
    admin::values::{Done, Removed, Sessions},
    names::{SessionId, TenantRef},
};

#[derive(Subcommand)]
pub enum SessionAction {
    /// List the open sessions
    #[command(
        after_help = "Example:\n  sluice session list --tenant demo --person first@example.com"
    )]
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantRef>,
        /// Of this person only: id or e-mail address
        #[arg(long)]
        person: Option<String>,
    },
    /// End one session; its person may log in again while a rule allows it
    #[command(after_help = "Example:\n  sluice session end 0197068e-5f3a-7cc1-a1b2-0c9d8e7f6a5b")]
    End {
        /// The id as `session list` shows it
        session: SessionId,
    },
}

impl SessionAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::List { tenant, person } => {
                let query = [("tenant", tenant.map(String::from)), ("person", person)];
                let found = client.find::<Sessions>(&["v1", "sessions"], &query).await?;
                Ok(found.shown(|found| table(found).to_string()))
            }
            Self::End { session } => {
                let path = ["v1", "sessions", &session.to_string()];
                let gone = client.delete::<Done<Removed>>(&path).await?;
                Ok(gone.shown(ended))
            }
        }
    }
}

/// `session ended in 3.2 ms`, unless there was no such thing to see.
pub(super) fn ended(done: &Done<Removed>) -> String {
    match &done.revocation {
        Some(report) if report.sessions_ended == 1 && report.unconfirmed == 0 => {
            format!(
                "session ended in {}",
                output::milliseconds(report.elapsed_ms)
            )
        }
        _ => output::done("session told to end", done),
    }
}

pub(super) fn table(found: &Sessions) -> Table {
    let mut table = Table::new(
        &[
            "PERSON",
            "ROLE",
            "TENANT",
            "DATABASE",
            "STATE",
            "SINCE",
            "EXPIRES",
            "FROM",
            "APPLICATION",
            "ID",
        ],
        "no open sessions",
    );
    for session in &found.sessions {
        table.row([
            output::or_dash(session.email.as_ref()),
            session.role.to_string(),
            session.tenant.to_string(),
            session.database.to_string(),
            output::word(&session.state),
            output::instant_from_now(session.started_at),
            output::or_dash(session.expires_at.map(output::instant_from_now)),
            session.peer.clone(),
            session.application_name.clone(),
            session.id.to_string(),
        ]);
    }
    table
}
