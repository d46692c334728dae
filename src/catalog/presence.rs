//! Who was in at a given moment: from the rows that start and end sessions.
//!
//! A session without an end was in from its start until the process died, which is known to be before Sluice was
//! started again (`node.started`). While two processes share the file (one takes over from another) that is not so
//! for the older one's sessions without an end.

use sqlx::{QueryBuilder, Row, Sqlite};
use time::OffsetDateTime;

use crate::catalog::{
    Catalog,
    columns::{milliseconds, time_optional},
    error::CatalogError,
    trail::{ROW, audit_row},
    types::{AuditRow, Presence, PresenceEnd},
};
use crate::names::TenantRef;

/// More than these are not listed; a moment at which more were in is asked for by tenant.
const PRESENT_MAX: i64 = 50_000;

impl Catalog {
    /// The sessions that were in at the moment `at`, oldest first. Of those without an end `is_live` says which
    /// are in now.
    pub async fn present(
        &self,
        tenant: Option<&TenantRef>,
        at: OffsetDateTime,
        is_live: impl Fn(&AuditRow) -> bool,
    ) -> Result<Vec<Presence>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let mut query = selection(tenant, at);
        let rows = query.build().fetch_all(&mut *reader).await?;
        let presences = rows.iter().map(|row| {
            let start = audit_row(row)?;
            let end = match time_optional(row, "end_time")? {
                Some(at) => PresenceEnd::Ended {
                    at,
                    reason: row.try_get("end_reason")?,
                },
                None if is_live(&start) => PresenceEnd::Open,
                None => PresenceEnd::NotRecorded {
                    before: time_optional(row, "restarted")?,
                },
            };
            Ok(Presence { start, end })
        });
        presences.collect()
    }
}

fn selection(tenant: Option<&TenantRef>, at: OffsetDateTime) -> QueryBuilder<'static, Sqlite> {
    let at = milliseconds(at);
    let mut query = QueryBuilder::new(format!(
        "SELECT {ROW}, fin.time AS end_time, fin.reason AS end_reason, \
           (SELECT MIN(time) FROM audit AS restart WHERE restart.kind = 'node.started' \
            AND restart.time >= audit.time AND restart.seq > audit.seq) AS restarted \
         FROM audit LEFT JOIN audit AS fin ON fin.session = audit.session AND fin.kind = 'session.ended' \
         WHERE audit.kind = 'auth.succeeded' AND audit.session IS NOT NULL AND audit.time <= "
    ));
    query.push_bind(at).push(" AND (fin.time > ").push_bind(at);
    query.push(
        " OR fin.seq IS NULL AND NOT EXISTS (SELECT 1 FROM audit AS restart WHERE restart.kind = 'node.started' \
         AND restart.seq > audit.seq AND restart.time >= audit.time AND restart.time <= ",
    );
    query.push_bind(at).push("))");
    if let Some(tenant) = tenant {
        query
            .push(" AND audit.tenant = ")
            .push_bind(tenant.to_string());
    }
    query
        .push(" ORDER BY audit.seq LIMIT ")
        .push_bind(PRESENT_MAX);
    query
}
