//! Letting go of old rows of the trail in such a way that what is kept can still be checked, and telling the outside
//! now and then where the trail ends.

use std::time::Duration;

use sqlx::{Row, SqliteConnection};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::catalog::{
    Catalog,
    audit::{self, Head},
    changes::Effect,
    checkpoint::Checkpoint,
    columns::{hex, milliseconds},
    error::CatalogError,
    keys::Keys,
    trail::Walk,
    types::{AuditEvent, Outcome},
};

/// Between two looks at the trail.
const PERIOD: Duration = Duration::from_secs(10 * 60);
/// Rows that one transaction lets go of; other changes come between.
const PRUNED_AT_ONCE: i64 = 2_000;

impl Catalog {
    /// Until `stop`: lets go of rows older than `retention` says, and logs where the trail ends. The log is usually
    /// kept elsewhere; `audit verify --checkpoint` holds the trail against it.
    pub async fn look_after_audit(
        &self,
        retention: impl Fn() -> Option<Duration>,
        stop: CancellationToken,
    ) {
        let mut told = 0;
        loop {
            if let Some(kept) = retention() {
                self.prune_older(kept).await;
            }
            match self.audit_end().await {
                Ok(Some(end)) if end.seq > told => {
                    told = end.seq;
                    let checkpoint = Checkpoint::signed(&self.shared.keys, end.seq, end.hash);
                    tracing::info!(%checkpoint, "audit trail");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the end of the audit trail cannot be read"),
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn prune_older(&self, kept: Duration) {
        let before = OffsetDateTime::now_utc() - kept;
        loop {
            match self.prune_audit(before).await {
                Ok(0) => return,
                Ok(rows) => {
                    tracing::info!(rows, %before, "audit rows whose time is over were removed")
                }
                Err(error) => {
                    return tracing::error!(%error, "old audit rows cannot be removed");
                }
            }
        }
    }

    /// Removes some of the rows from before that moment, if they are as they were written; says how many. The last
    /// row always stays.
    pub async fn prune_audit(&self, before: OffsetDateTime) -> Result<u64, CatalogError> {
        let keys = self.shared.keys.clone();
        let pruned = self
            .shared
            .writer
            .change(async move |connection: &mut SqliteConnection| {
                let start = audit::start(connection, &keys).await?;
                let Some(walk) = old_rows(connection, start, before).await? else {
                    return Ok(Effect::None(0));
                };
                sqlx::query("DELETE FROM audit WHERE seq <= $1")
                    .bind(walk.seq)
                    .execute(&mut *connection)
                    .await?;
                set_start(connection, &keys, &walk).await?;
                let event = AuditEvent {
                    reason: Some("retention".to_owned()),
                    detail: serde_json::json!({ "rows": walk.rows, "up_to": walk.seq, "hash": hex(&walk.hash) }),
                    ..AuditEvent::new("audit.pruned", Outcome::Success, "system")
                };
                Ok(Effect::Change(walk.rows.unsigned_abs(), vec![event]))
            })
            .await?;
        Ok(pruned.value)
    }
}

/// Walks over the oldest rows as far as they are to go; `None`: none is.
async fn old_rows(
    connection: &mut SqliteConnection,
    start: Option<Head>,
    before: OffsetDateTime,
) -> Result<Option<Walk>, CatalogError> {
    let mut walk = Walk::after(start);
    let first = walk.seq;
    // Rows were written in about the order of their times; the first young one ends it.
    let kept = sqlx::query(
        "SELECT MIN(seq) AS kept FROM ( \
           SELECT MAX(seq) AS seq FROM audit UNION ALL \
           SELECT seq FROM (SELECT seq FROM audit WHERE time >= $1 ORDER BY seq LIMIT 1) AS young) AS bounds",
    )
    .bind(milliseconds(before))
    .fetch_one(&mut *connection)
    .await?;
    let kept: Option<i64> = kept.try_get("kept")?;
    let last = kept.map_or(first, |kept| {
        (kept - 1).min(first.saturating_add(PRUNED_AT_ONCE))
    });
    if last <= first {
        return Ok(None);
    }
    let rows = sqlx::query("SELECT * FROM audit WHERE seq > $1 AND seq <= $2 ORDER BY seq")
        .bind(first)
        .bind(last)
        .fetch_all(&mut *connection)
        .await?;
    // What was tampered with stays where it can be found.
    if rows.iter().any(|row| walk.step(row, last).is_some()) || walk.seq != last {
        return Err(CatalogError::TrailDamaged);
    }
    Ok(Some(walk))
}

async fn set_start(
    connection: &mut SqliteConnection,
    keys: &Keys,
    walk: &Walk,
) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO audit_start (id, seq, hash, mac) VALUES (1, $1, $2, $3) \
         ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, mac = excluded.mac",
    )
    .bind(walk.seq)
    .bind(hex(&walk.hash))
    .bind(hex(&keys.start_mac(walk.seq, &walk.hash)))
    .execute(connection)
    .await?;
    Ok(())
}
