//! The doctor's own session on the tenant's server: questions with bound parameters, asked under a deadline.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::{
    backend::{Connection, ExchangeError},
    names::RoleName,
    protocol::error::SqlState,
};

/// How long one question may take.
const ASK_MAX: Duration = Duration::from_secs(5);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
}

pub(super) struct Session {
    pub(super) connection: Connection,
    /// Whom we are logged in as.
    pub(super) role: String,
}

impl Session {
    pub(super) fn new(connection: Connection, role: &RoleName) -> Self {
        Self {
            connection,
            role: role.to_string(),
        }
    }

    /// Nothing that somebody has put into the database's schemas is called by mistake.
    pub(super) async fn settle(&mut self) -> Result<(), Unanswered> {
        let sql = "SET search_path = pg_catalog";
        let reply = self.connection.query(sql, ASK_MAX).await?;
        reply
            .error
            .map_or(Ok(()), |error| Err(Unanswered::Refused(error.message)))
    }

    pub(super) async fn rows(
        &mut self,
        sql: &str,
        parameters: &[&str],
    ) -> Result<Vec<Vec<Option<String>>>, Unanswered> {
        let reply = self.connection.query_with(sql, parameters, ASK_MAX).await?;
        match reply.error {
            Some(error) if error.code == SqlState::INSUFFICIENT_PRIVILEGE => {
                Err(Unanswered::Forbidden(error.message))
            }
            Some(error) => Err(Unanswered::Refused(error.message)),
            None => Ok(reply.rows),
        }
    }

    /// The values of the first column that are not null.
    pub(super) async fn column(
        &mut self,
        sql: &str,
        parameters: &[&str],
    ) -> Result<Vec<String>, Unanswered> {
        let rows = self.rows(sql, parameters).await?;
        let first = |row: Vec<Option<String>>| row.into_iter().next().flatten();
        Ok(rows.into_iter().filter_map(first).collect())
    }

    /// Rows that the server writes as JSON, so that a column that a version lacks is no error.
    pub(super) async fn records<T: DeserializeOwned>(
        &mut self,
        sql: &str,
        parameters: &[&str],
    ) -> Result<Vec<T>, Unanswered> {
        let rows = self.column(sql, parameters).await?;
        let read = |row: &String| serde_json::from_str(row).map_err(Unanswered::from);
        rows.iter().map(read).collect()
    }
}
