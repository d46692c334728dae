//! Reading the audit trail, and checking that nobody changed it.

use serde::{Deserialize, Serialize};
use sqlx::{Connection, QueryBuilder, Row, Sqlite, SqliteConnection, sqlite::SqliteRow};
use utoipa::ToSchema;

use crate::catalog::{
    Catalog,
    audit::{self, GENESIS, Head, Line},
    checkpoint::Checkpoint,
    columns::{digest, hex, milliseconds, milliseconds_up, parsed, parsed_optional, time, worded},
    error::CatalogError,
    types::{AuditEvent, AuditFilter, AuditOrder, AuditRow},
};

/// The columns that [`audit_row`] reads. Rows from before addresses were kept in them are shown with the one that the
/// person has now.
pub(super) const ROW: &str = "audit.seq, audit.id, audit.time, audit.kind, audit.outcome, audit.reason, audit.actor, \
    audit.tenant, audit.person, \
    COALESCE(audit.email, (SELECT people.email FROM people WHERE people.id = audit.person)) AS email, \
    audit.role, audit.session, audit.token, audit.peer, audit.detail, audit.prev_hash, audit.hash, audit.fingerprint";
const ROWS_DEFAULT: u32 = 100;
const ROWS_MAX: u32 = 1000;
/// Rows that a check reads at a time, so that it neither holds a snapshot open nor fills the memory.
const CHECKED_AT_ONCE: i64 = 500;

/// What a check of the trail found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditVerdict {
    /// Rows found to be as they were written, from the first one kept on.
    pub rows: i64,
    /// Number of the last of them.
    pub seq: i64,
    /// Its hex hash; with its number kept elsewhere, it later proves that the trail was not put back.
    pub hash: String,
    /// The first thing that is wrong; `None`: the trail is whole.
    pub fault: Option<AuditFault>,
}

/// How a trail can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AuditFault {
    /// The row does not have the hash that it was stored with, or does not follow from the one before it.
    RowAltered { seq: i64 },
    /// There is no row of this number, but there are later ones.
    RowMissing { seq: i64 },
    /// Rows from this number up to the sealed end are gone.
    TailMissing { from: i64, to: i64 },
    /// There are rows after the sealed end.
    TailForged { from: i64 },
    /// The record of where the trail ends is gone, or was not made with this master key.
    HeadForged,
    /// The record of what the first row kept follows was not made with this master key.
    StartForged,
    /// The row of this number is not the one that the checkpoint speaks of, or is not there.
    CheckpointMissed { seq: i64 },
    /// The checkpoint of this row bears a signature that is not ours: nothing follows from it.
    CheckpointForged { seq: i64 },
}

impl AuditVerdict {
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.fault.is_none()
    }
}

impl Catalog {
    /// Rows that pass `filter`, in its order.
    pub async fn audit_rows(&self, filter: AuditFilter) -> Result<Vec<AuditRow>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let mut query = selection(&filter);
        let rows = query.build().fetch_all(&mut *reader).await?;
        rows.iter().map(audit_row).collect()
    }

    /// Whether any row has passed `filter` so far; much cheaper than to ask for the rows.
    pub async fn has_audit_rows(&self, filter: AuditFilter) -> Result<bool, CatalogError> {
        let first = AuditFilter {
            limit: Some(1),
            ..filter
        };
        Ok(!self.audit_rows(first).await?.is_empty())
    }

    /// Checks every row written so far, that none is missing at the end, and that `checkpoint` is in the trail.
    pub async fn verify_audit(
        &self,
        checkpoint: Option<Checkpoint>,
    ) -> Result<AuditVerdict, CatalogError> {
        loop {
            let start = self.audit_start().await?;
            let verdict = self.check(start.clone(), checkpoint).await?;
            // Rows may have been let go under the check's feet; that is seldom, so it is simply done again.
            if verdict.is_intact() || start == self.audit_start().await? {
                return Ok(verdict);
            }
        }
    }

    /// Where the trail ends, if the seal on that holds.
    pub(super) async fn audit_end(&self) -> Result<Option<Head>, CatalogError> {
        Ok(self.sealed_end().await?.0)
    }

    /// What the first row kept follows; `Err`: forged.
    async fn audit_start(&self) -> Result<Result<Option<Head>, AuditFault>, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        match audit::start(&mut reader, &self.shared.keys).await {
            Ok(start) => Ok(Ok(start)),
            Err(CatalogError::TrailDamaged) => Ok(Err(AuditFault::StartForged)),
            Err(error) if is_damage(&error) => Ok(Err(AuditFault::StartForged)),
            Err(error) => Err(error),
        }
    }

    async fn check(
        &self,
        start: Result<Option<Head>, AuditFault>,
        checkpoint: Option<Checkpoint>,
    ) -> Result<AuditVerdict, CatalogError> {
        let (head, highest) = self.sealed_end().await?;
        let (mut walk, mut fault) = match start {
            Ok(start) => (Walk::after(start), None),
            Err(fault) => (Walk::default(), Some(fault)),
        };
        let forged = checkpoint.filter(|checkpoint| checkpoint.is_forged(&self.shared.keys));
        walk.checkpoint = checkpoint.filter(|_| forged.is_none());
        let forged = forged.map(|Checkpoint { seq, .. }| AuditFault::CheckpointForged { seq });
        let pruned = |checkpoint: Checkpoint| checkpoint.seq < walk.seq;
        if walk.checkpoint.is_some_and(pruned) {
            return Err(CatalogError::Invalid {
                field: "checkpoint",
                problem: "is of a row that was removed because its time was over: take a later one",
            });
        }
        while fault.is_none() && walk.seq < highest {
            let mut reader = self.shared.readers.acquire().await?;
            let rows = lines_after(&mut reader, walk.seq).await?;
            drop(reader);
            if rows.is_empty() {
                break;
            }
            fault = rows.iter().find_map(|row| walk.step(row, highest));
            // A long trail is checked beside whatever else this thread does.
            tokio::task::yield_now().await;
        }
        Ok(AuditVerdict {
            rows: walk.rows,
            seq: walk.seq,
            hash: hex(&walk.hash),
            fault: fault.or_else(|| walk.end(head)).or(forged),
        })
    }

    /// The head, if its seal holds, and the highest number in the trail, both of one moment. Rows that
    /// come later need no check: they are chained to these.
    async fn sealed_end(&self) -> Result<(Option<Head>, i64), CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let mut transaction = reader.begin().await?;
        let head = match audit::head(&mut transaction).await {
            Err(error) if is_damage(&error) => None,
            head => head?,
        };
        let highest = audit::highest_seq(&mut transaction).await?;
        let keys = &self.shared.keys;
        let sealed = head.filter(|head| keys.is_head_mac(head.seq, &head.hash, &head.mac));
        Ok((sealed, highest))
    }
}

/// How far the check has come.
pub(super) struct Walk {
    pub(super) seq: i64,
    pub(super) hash: [u8; 32],
    pub(super) rows: i64,
    /// What must be met on the way.
    checkpoint: Option<Checkpoint>,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            seq: 0,
            hash: GENESIS,
            rows: 0,
            checkpoint: None,
        }
    }
}

impl Walk {
    /// Begins behind what was let go.
    pub(super) fn after(start: Option<Head>) -> Self {
        let start = start.map(|start| Self {
            seq: start.seq,
            hash: start.hash,
            ..Self::default()
        });
        start.unwrap_or_default()
    }

    /// Takes one more row, unless it is wrong. Rows after `highest` are of no concern.
    pub(super) fn step(&mut self, row: &SqliteRow, highest: i64) -> Option<AuditFault> {
        let expected = self.seq + 1;
        let seq = row.try_get::<i64, _>("seq").unwrap_or(expected);
        if seq > highest {
            return None;
        }
        if seq != expected {
            return Some(AuditFault::RowMissing { seq: expected });
        }
        match Self::hash(row, &self.hash) {
            Some(hash) => {
                if self
                    .checkpoint
                    .is_some_and(|point| point.seq == seq && point.hash != hash)
                {
                    return Some(AuditFault::CheckpointMissed { seq });
                }
                self.seq = seq;
                self.hash = hash;
                self.rows += 1;
                None
            }
            None => Some(AuditFault::RowAltered { seq }),
        }
    }

    /// The row's hash, if it is right and the row follows `prev_hash`.
    fn hash(row: &SqliteRow, prev_hash: &[u8; 32]) -> Option<[u8; 32]> {
        let hash = digest(row, "hash").ok()?;
        let follows = digest(row, "prev_hash").ok()? == *prev_hash;
        let line = Line::read(row).ok()?;
        (follows && line.hash(prev_hash) == hash).then_some(hash)
    }

    /// Compares the last row with the sealed end.
    fn end(&self, head: Option<Head>) -> Option<AuditFault> {
        let Some(head) = head else {
            return Some(AuditFault::HeadForged);
        };
        if self.seq < head.seq {
            return Some(AuditFault::TailMissing {
                from: self.seq + 1,
                to: head.seq,
            });
        }
        if self.seq > head.seq {
            return Some(AuditFault::TailForged { from: head.seq + 1 });
        }
        if let Some(point) = self.checkpoint.filter(|point| point.seq > self.seq) {
            return Some(AuditFault::CheckpointMissed { seq: point.seq });
        }
        (self.hash != head.hash).then_some(AuditFault::RowAltered { seq: self.seq })
    }
}

async fn lines_after(
    connection: &mut SqliteConnection,
    seq: i64,
) -> Result<Vec<SqliteRow>, CatalogError> {
    let rows = sqlx::query("SELECT * FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2")
        .bind(seq)
        .bind(CHECKED_AT_ONCE)
        .fetch_all(connection)
        .await?;
    Ok(rows)
}

fn selection(filter: &AuditFilter) -> QueryBuilder<'static, Sqlite> {
    let mut query = QueryBuilder::new(format!("SELECT {ROW} FROM audit WHERE 1 = 1"));
    if let Some(tenant) = &filter.tenant {
        query.push(" AND tenant = ").push_bind(tenant.to_string());
    }
    if let Some(person) = &filter.person {
        query.push(" AND person = ").push_bind(person.to_string());
    }
    if let Some(email) = &filter.email {
        query.push(" AND (email = ").push_bind(email.clone());
        query.push(" OR person = (SELECT people.id FROM people WHERE people.email = ");
        query.push_bind(email.clone()).push("))");
    }
    if let Some(kind) = &filter.kind {
        query.push(" AND kind = ").push_bind(kind.clone());
    }
    if let Some(session) = &filter.session {
        query.push(" AND session = ").push_bind(session.to_string());
    }
    if let Some(fingerprint) = &filter.fingerprint {
        query
            .push(" AND fingerprint = ")
            .push_bind(fingerprint.to_string());
    }
    if let Some(since) = filter.since {
        query
            .push(" AND time >= ")
            .push_bind(milliseconds_up(since));
    }
    if let Some(until) = filter.until {
        query.push(" AND time <= ").push_bind(milliseconds(until));
    }
    if let Some(before) = filter.before {
        query.push(" AND seq < ").push_bind(before);
    }
    if let Some(after) = filter.after {
        query.push(" AND seq > ").push_bind(after);
    }
    let limit = filter.limit.unwrap_or(ROWS_DEFAULT).min(ROWS_MAX);
    query.push(match filter.order {
        AuditOrder::NewestFirst => " ORDER BY seq DESC LIMIT ",
        AuditOrder::OldestFirst => " ORDER BY seq LIMIT ",
    });
    query.push_bind(i64::from(limit));
    query
}

pub(super) fn audit_row(row: &SqliteRow) -> Result<AuditRow, CatalogError> {
    let detail: &str = row.try_get("detail")?;
    Ok(AuditRow {
        seq: row.try_get("seq")?,
        id: parsed(row, "id")?,
        time: time(row, "time")?,
        event: AuditEvent {
            kind: row.try_get("kind")?,
            outcome: worded(row, "outcome")?,
            reason: row.try_get("reason")?,
            actor: row.try_get("actor")?,
            tenant: parsed_optional(row, "tenant")?,
            person: parsed_optional(row, "person")?,
            role: parsed_optional(row, "role")?,
            session: parsed_optional(row, "session")?,
            token: parsed_optional(row, "token")?,
            peer: row.try_get("peer")?,
            detail: serde_json::from_str(detail)
                .map_err(|_| CatalogError::Corrupt { column: "detail" })?,
        },
        email: row.try_get("email")?,
        fingerprint: parsed_optional(row, "fingerprint")?,
        prev_hash: row.try_get("prev_hash")?,
        hash: row.try_get("hash")?,
    })
}

/// Whether the error says that what is stored is not what was written.
fn is_damage(error: &CatalogError) -> bool {
    matches!(
        error,
        CatalogError::Corrupt { .. } | CatalogError::Storage(sqlx::Error::ColumnDecode { .. })
    )
}
