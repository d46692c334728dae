//! What the demo shows: both kinds of login, and with `--check` the life of a session from grant to revocation.
//!
//! ```text
//! log in with a token ─▶ who is it? (sessions, audit, PostgreSQL) ─▶ revoke ─▶ FATAL, gone here and there ─▶ no way back
//! ```

use std::{io, process::Output, time::Duration};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt as _,
    process::Child,
    time::{sleep, timeout},
};

use super::{
    people::TENANT,
    process::piped,
    psql::{Login, PsqlError},
    ready::{PersonEntry, Ready},
    server::{DATABASE, Server, TOKEN_ROLE},
};
use crate::{
    access::{RevocationReport, SessionView},
    admin::values::{AuditRows, Done, Sessions},
    cli::{client::Client, error::CliError},
};

/// Each step of the tour has to come true within this time.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);
const STEP_POLL: Duration = Duration::from_millis(20);

const WHO_AM_I: &str = "select current_user, system_user";
const LONG_QUERY: &str = "select pg_sleep(600)";

#[derive(Debug, thiserror::Error)]
pub(super) enum TourError {
    #[error(transparent)]
    Psql(#[from] PsqlError),
    #[error(transparent)]
    Admin(#[from] CliError),
    #[error("cannot drive psql: {0}")]
    Drive(#[source] io::Error),
    #[error("did not come true within {} s: {step}", STEP_TIMEOUT.as_secs())]
    Late { step: &'static str },
    #[error("did not come true: {step}; instead: {seen}")]
    Failed { step: &'static str, seen: String },
}

/// Prints the line for each kind of login, runs it, and shows who PostgreSQL says has come.
pub(super) async fn prove_logins(ready: &Ready) -> Result<(), TourError> {
    for person in ready.people() {
        prove(
            &format!("{} with a token", person.email),
            &ready.token_login(person),
        )
        .await?;
    }
    prove("a role with its password", &ready.password_login()).await
}

async fn prove(title: &str, login: &Login) -> Result<(), TourError> {
    println!("\n# {title}\n{}", login.line());
    println!(
        "  {WHO_AM_I}\n  → {}",
        login.run(WHO_AM_I).await?.replace('|', " | ")
    );
    Ok(())
}

/// Takes the whole tour, a line per step; the first step that does not come true ends it.
pub(super) async fn take(ready: &Ready, server: &Server, client: &Client) -> Result<(), TourError> {
    println!();
    let [person, ..] = ready.people() else {
        return Ok(());
    };
    let login = ready.token_login(person);
    let superuser = server.superuser(DATABASE);

    let session = LongSession::start(&login).await?;
    let view = until(
        "the session list names the person, and the query is running",
        async || {
            let session = open_session(client, person).await?;
            Ok(session.filter(|session| session.backend_pid.is_some()))
        },
    )
    .await?;
    step(&format!(
        "{} is logged in as {TOKEN_ROLE}: session {}",
        person.email, view.id
    ));

    until("the audit trail has the login", async || {
        audited(client, person, &view).await
    })
    .await?;
    step("the audit trail has the login: person, role and token");

    let backend = view.backend_pid.unwrap_or_default();
    until("PostgreSQL runs the query", async || {
        Ok((sleepers(&superuser, backend).await? == 1).then_some(()))
    })
    .await?;
    step(&format!("PostgreSQL runs the query in backend {backend}"));

    let path = ["v1", "tenants", TENANT, "rules", &person.email, TOKEN_ROLE];
    let report = client.delete::<Done<Value>>(&path).await?.value.revocation;
    let report = ended_one("the revocation ends one session", report)?;
    step(&format!(
        "the rule is removed: {} session ended in {:.0} ms",
        report.sessions_ended, report.elapsed_ms
    ));

    let said = session.end().await?;
    expect(
        "the session is told why",
        &said,
        "FATAL:  terminating connection due to access revocation",
    )?;
    step("psql was told: terminating connection due to access revocation");

    if let Some(left) = open_session(client, person).await? {
        return Err(TourError::Failed {
            step: "the session list is empty",
            seen: left.id.to_string(),
        });
    }
    let left = sleepers(&superuser, backend).await?;
    if left != 0 {
        return Err(TourError::Failed {
            step: "PostgreSQL has ended the query",
            seen: format!("{left} still there"),
        });
    }
    step("neither Sluice nor PostgreSQL has the session any more");

    let refused = login
        .complaint(WHO_AM_I)
        .await?
        .unwrap_or_else(|| "a login that worked".to_owned());
    expect(
        "a new login is refused",
        &refused,
        "temporary access denied for role",
    )?;
    step("a new login with the same token is refused");
    Ok(())
}

fn step(text: &str) {
    println!("ok  {text}");
}

/// A psql that is in the middle of a long query.
struct LongSession(Child);

impl LongSession {
    async fn start(login: &Login) -> Result<Self, TourError> {
        let mut child = piped(&mut login.command())
            .spawn()
            .map_err(TourError::Drive)?;
        if let Some(mut input) = child.stdin.take() {
            let text = format!("{LONG_QUERY};\n");
            input
                .write_all(text.as_bytes())
                .await
                .map_err(TourError::Drive)?;
        }
        Ok(Self(child))
    }

    /// Waits for psql to end and answers what it complained of.
    async fn end(self) -> Result<String, TourError> {
        let step = "psql ends";
        let output: Output = timeout(STEP_TIMEOUT, self.0.wait_with_output())
            .await
            .map_err(|_| TourError::Late { step })?
            .map_err(TourError::Drive)?;
        Ok(String::from_utf8_lossy(&output.stderr)
            .trim_end()
            .to_owned())
    }
}

async fn open_session(
    client: &Client,
    person: &PersonEntry,
) -> Result<Option<SessionView>, TourError> {
    let query = [("tenant", TENANT), ("person", &person.email)];
    let sessions = client
        .find::<Sessions>(&["v1", "sessions"], &query)
        .await?
        .value
        .sessions;
    Ok(sessions.into_iter().next())
}

async fn audited(
    client: &Client,
    person: &PersonEntry,
    session: &SessionView,
) -> Result<Option<()>, TourError> {
    let query = [
        ("session", session.id.to_string()),
        ("kind", "auth.succeeded".to_owned()),
    ];
    let rows = client
        .find::<AuditRows>(&["v1", "audit"], &query)
        .await?
        .value
        .rows;
    let whole = rows.iter().map(|row| &row.event).any(|event| {
        event.person == Some(person.id) && event.role.is_some() && event.token.is_some()
    });
    Ok(whole.then_some(()))
}

/// How many backends of that pid run the long query.
async fn sleepers(superuser: &Login, backend: u32) -> Result<u32, TourError> {
    let question = format!(
        "select count(*) from pg_stat_activity where pid = {backend} and query like '{LONG_QUERY}%'"
    );
    let answer = superuser.run(&question).await?;
    answer.parse().map_err(|_| TourError::Failed {
        step: "pg_stat_activity is counted",
        seen: answer,
    })
}

fn ended_one(
    step: &'static str,
    report: Option<RevocationReport>,
) -> Result<RevocationReport, TourError> {
    match report {
        Some(report) if report.sessions_ended == 1 && report.unconfirmed == 0 => Ok(report),
        other => Err(TourError::Failed {
            step,
            seen: other.map_or_else(|| "no report".to_owned(), |report| format!("{report:?}")),
        }),
    }
}

fn expect(step: &'static str, said: &str, wanted: &str) -> Result<(), TourError> {
    if said.contains(wanted) {
        return Ok(());
    }
    Err(TourError::Failed {
        step,
        seen: said.to_owned(),
    })
}

/// Asks again and again until there is an answer.
async fn until<T>(
    step: &'static str,
    ask: impl AsyncFn() -> Result<Option<T>, TourError>,
) -> Result<T, TourError> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            sleep(STEP_POLL).await;
        }
    };
    timeout(STEP_TIMEOUT, asking)
        .await
        .map_err(|_| TourError::Late { step })?
}
