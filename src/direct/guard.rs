//! Follows revocations and expiry, and ends the direct sessions that they concern.
//!
//! ```text
//! records ─▶ which sessions are there? ─▶ ask: may all of these go on? ─▶ end those that may not
//!    ▲                                        │ held open until one may not, a session is added, or the wait is over
//!    └────────────────────────────────────────┘
//! ```
//! The whole list is asked about each time, so nothing is lost by a restart of either side. Who cannot ask for longer
//! than `patience` knows nothing any more and ends all sessions; one that expires meanwhile ends at its time.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::{
    authority::{Authority, AuthorityError},
    process::Process,
    records::{Record, RecordError, Records},
};
use crate::admin::values::{DirectSession, GuardAnswer};

/// How long a question is held open.
const WAIT: Duration = Duration::from_secs(10);

/// How often the folder is looked at: sessions that are new, backends that have gone.
const LOOK: Duration = Duration::from_millis(200);

/// After a question that failed, and between two signals to a backend that does not end.
const PAUSE: Duration = Duration::from_millis(500);

/// Looks after the direct sessions of one tenant on this machine.
pub struct Guard {
    pub authority: Authority,
    pub records: Records,
    pub key: Zeroizing<String>,
    /// For how long sessions may go on while Sluice cannot be asked.
    pub patience: Duration,
}

impl Guard {
    /// How long one question may take, beyond which the answer is given up: for the client's timeout.
    pub const QUESTION_MAX: Duration = Duration::from_secs(WAIT.as_secs() + 5);

    /// Looks after the sessions until the folder cannot be read.
    pub async fn run(&self) -> Result<std::convert::Infallible, RecordError> {
        let mut answered = Instant::now();
        loop {
            let sessions = self.records.live()?;
            if sessions.is_empty() {
                // Nobody to ask about is no outage.
                answered = Instant::now();
                sleep(LOOK).await;
                continue;
            }
            let question = self.authority.watch(list(&sessions), WAIT, &self.key);
            let answer = tokio::select! {
                answer = question => answer,
                changed = self.changed(&sessions) => {
                    changed?;
                    continue;
                }
            };
            let ending = match answer {
                Ok(answer) => {
                    answered = Instant::now();
                    refused(&sessions, &answer)
                }
                Err(error) => {
                    sleep(PAUSE).await;
                    self.without_answer(&sessions, answered, &error)
                }
            };
            for (session, reason) in &ending {
                end(session, reason);
            }
            if !ending.is_empty() {
                sleep(PAUSE).await;
            }
        }
    }

    /// Comes back when the sessions are others than these.
    async fn changed(&self, sessions: &[Record]) -> Result<(), RecordError> {
        let backends = |records: &[Record]| -> Vec<Process> {
            records.iter().map(|record| record.backend).collect()
        };
        let known = backends(sessions);
        loop {
            sleep(LOOK).await;
            if backends(&self.records.live()?) != known {
                return Ok(());
            }
        }
    }

    /// Whom to end while Sluice cannot be asked.
    fn without_answer<'a>(
        &self,
        sessions: &'a [Record],
        answered: Instant,
        error: &AuthorityError,
    ) -> Vec<(&'a Record, String)> {
        let silence = answered.elapsed();
        tracing::warn!(%error, silent_for = ?silence, "cannot ask whether the direct sessions may go on");
        let is_over = silence >= self.patience;
        let now = OffsetDateTime::now_utc();
        let ending = sessions.iter().filter_map(|session| {
            if is_over {
                Some((session, "authority_lost".to_owned()))
            } else if session.expires_at.is_some_and(|at| at <= now) {
                Some((session, "expired".to_owned()))
            } else {
                None
            }
        });
        ending.collect()
    }
}

/// The name of a session in questions and answers.
fn name(session: &Record) -> String {
    session.backend.pid.to_string()
}

fn list(sessions: &[Record]) -> Vec<DirectSession> {
    let session = |record: &Record| DirectSession {
        id: name(record),
        token: record.token.clone(),
        role: record.role.clone(),
        from: record.from,
    };
    sessions.iter().map(session).collect()
}

fn refused<'a>(sessions: &'a [Record], answer: &GuardAnswer) -> Vec<(&'a Record, String)> {
    let found = answer.ended.iter().filter_map(|ended| {
        let session = sessions.iter().find(|session| name(session) == ended.id)?;
        Some((session, ended.reason.clone()))
    });
    found.collect()
}

fn end(session: &Record, reason: &str) {
    let (person, role, from) = (session.person, &session.role, session.from);
    let pid = session.backend.pid;
    match session.backend.terminate() {
        Ok(()) => tracing::info!(%person, %role, %from, pid, reason, "direct session ended"),
        Err(error) => {
            tracing::error!(%person, %role, %from, pid, reason, %error, "a direct session cannot be ended");
        }
    }
}
