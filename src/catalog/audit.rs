//! Writing the audit trail: each row is chained to the one before it, and the chain's end is sealed.
//!
//! ```text
//! row n:  hash = SHA-256(prev_hash ‖ canonical bytes)        prev_hash = hash of row n − 1
//! head:   seq and hash of the last row, with an HMAC that needs the master key
//! ```
//!
//! The chain shows edits, deletions and swaps; the head shows a tail cut off or forged. What neither can show
//! is the whole file put back to an earlier state: for that, number and hash of a later row have to be kept elsewhere
//! (a checkpoint). Rows whose time is over are let go from the front, and `audit_start` then says what the first one
//! kept follows.
//!
//! A head that is not to be believed is never continued from, since that would seal the damage: the trail
//! goes on with one number left out, and that hole is found by every later check.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection, sqlite::SqliteRow};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    catalog::{
        Catalog,
        columns::{digest, hex, milliseconds, word},
        error::CatalogError,
        keys::Keys,
        types::AuditEvent,
    },
    names::PersonId,
};

/// What the first row follows.
pub(super) const GENESIS: [u8; 32] = [0; 32];
/// Longest `detail` that is stored, as JSON; a longer one is replaced by its length.
const DETAIL_MAX_BYTES: usize = 16 * 1024;
/// Rows written by one statement, at most.
const ROWS_PER_INSERT: usize = 64;

impl Catalog {
    /// Stores `event`; returns when it would survive a power cut.
    pub async fn record(&self, event: AuditEvent) -> Result<(), CatalogError> {
        self.shared.writer.record(event).await
    }

    /// Queues `event`. When the queue is full the event is dropped, and the trail says how many were.
    pub fn record_later(&self, event: AuditEvent) {
        self.shared.writer.record_later(event);
    }

    /// Returns when everything queued so far is written.
    pub async fn flush(&self) -> Result<(), CatalogError> {
        self.shared.writer.flush().await
    }
}

/// A row of the trail as it is stored, before anything is made of it.
pub(super) struct Line {
    pub(super) seq: i64,
    pub(super) id: String,
    pub(super) time: i64,
    pub(super) kind: String,
    pub(super) outcome: String,
    pub(super) reason: Option<String>,
    pub(super) actor: String,
    pub(super) tenant: Option<String>,
    pub(super) person: Option<String>,
    pub(super) email: Option<String>,
    pub(super) role: Option<String>,
    pub(super) session: Option<String>,
    pub(super) token: Option<String>,
    pub(super) peer: Option<String>,
    pub(super) detail: String,
}

/// A row with its place in the chain.
struct Link {
    line: Line,
    prev_hash: [u8; 32],
    hash: [u8; 32],
}

/// A sealed place in the trail: where it ends, and what the next row follows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) seq: i64,
    pub(super) hash: [u8; 32],
    pub(super) mac: [u8; 32],
}

impl Line {
    fn new(seq: i64, at: OffsetDateTime, event: &AuditEvent, email: Option<String>) -> Self {
        Self {
            seq,
            id: Uuid::now_v7().to_string(),
            time: milliseconds(at),
            kind: event.kind.clone(),
            outcome: word(event.outcome),
            reason: event.reason.clone(),
            actor: event.actor.clone(),
            tenant: event.tenant.as_ref().map(ToString::to_string),
            person: event.person.as_ref().map(ToString::to_string),
            email,
            role: event.role.as_ref().map(ToString::to_string),
            session: event.session.as_ref().map(ToString::to_string),
            token: event.token.as_ref().map(ToString::to_string),
            peer: event.peer.clone(),
            detail: detail(event),
        }
    }

    pub(super) fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            seq: row.try_get("seq")?,
            id: row.try_get("id")?,
            time: row.try_get("time")?,
            kind: row.try_get("kind")?,
            outcome: row.try_get("outcome")?,
            reason: row.try_get("reason")?,
            actor: row.try_get("actor")?,
            tenant: row.try_get("tenant")?,
            person: row.try_get("person")?,
            email: row.try_get("email")?,
            role: row.try_get("role")?,
            session: row.try_get("session")?,
            token: row.try_get("token")?,
            peer: row.try_get("peer")?,
            detail: row.try_get("detail")?,
        })
    }

    /// The hash of this row when it follows `prev_hash`. Every field goes in with its length, so that no two
    /// rows give the same bytes.
    pub(super) fn hash(&self, prev_hash: &[u8; 32]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(prev_hash);
        hasher.update(self.seq.to_be_bytes());
        hasher.update(self.time.to_be_bytes());
        let texts = [
            Some(&self.id),
            Some(&self.kind),
            Some(&self.outcome),
            self.reason.as_ref(),
            Some(&self.actor),
            self.tenant.as_ref(),
            self.person.as_ref(),
            self.role.as_ref(),
            self.session.as_ref(),
            self.token.as_ref(),
            self.peer.as_ref(),
            Some(&self.detail),
        ];
        for text in texts {
            match text {
                None => hasher.update([0]),
                Some(text) => {
                    hasher.update([1]);
                    hasher.update((text.len() as u64).to_be_bytes());
                    hasher.update(text.as_bytes());
                }
            }
        }
        // Came later than the rest: a row without it keeps the hash that it always had.
        if let Some(email) = &self.email {
            hasher.update((email.len() as u64).to_be_bytes());
            hasher.update(email.as_bytes());
        }
        hasher.finalize().into()
    }
}

/// Chains `entries` to the trail, in this transaction.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    keys: &Keys,
    entries: &[(OffsetDateTime, &AuditEvent)],
) -> Result<(), CatalogError> {
    if entries.is_empty() {
        return Ok(());
    }
    let (mut seq, mut prev_hash) = next(connection, keys).await?;
    let mut emails = HashMap::new();
    let mut links = Vec::with_capacity(entries.len());
    for (at, event) in entries {
        let email = email(connection, &mut emails, event).await?;
        let line = Line::new(seq, *at, event, email);
        let hash = line.hash(&prev_hash);
        links.push(Link {
            line,
            prev_hash,
            hash,
        });
        prev_hash = hash;
        seq += 1;
    }
    let mut rest = &links[..];
    while let Some(power) = rest.len().checked_ilog2() {
        // Powers of two: a statement is kept for every number of rows, and the large ones are a hundred kilobytes.
        let (links, after) = rest.split_at(ROWS_PER_INSERT.min(1 << power));
        insert(connection, links).await?;
        rest = after;
    }
    set_head(connection, keys, seq - 1, &prev_hash).await
}

/// Seals the empty trail of a new catalogue.
pub(super) async fn begin_trail(
    connection: &mut SqliteConnection,
    keys: &Keys,
) -> Result<(), CatalogError> {
    set_head(connection, keys, 0, &GENESIS).await
}

pub(super) async fn head(connection: &mut SqliteConnection) -> Result<Option<Head>, CatalogError> {
    sealed_place(
        connection,
        "SELECT seq, hash, mac FROM audit_head WHERE id = 1",
    )
    .await
}

/// What the first row kept follows; `None`: no row was ever let go.
pub(super) async fn start(
    connection: &mut SqliteConnection,
    keys: &Keys,
) -> Result<Option<Head>, CatalogError> {
    let query = "SELECT seq, hash, mac FROM audit_start WHERE id = 1";
    match sealed_place(connection, query).await? {
        Some(start) if !keys.is_start_mac(start.seq, &start.hash, &start.mac) => {
            Err(CatalogError::TrailDamaged)
        }
        start => Ok(start),
    }
}

async fn sealed_place(
    connection: &mut SqliteConnection,
    query: &'static str,
) -> Result<Option<Head>, CatalogError> {
    let row = sqlx::query(query).fetch_optional(connection).await?;
    row.map(|row| {
        Ok(Head {
            seq: row.try_get("seq")?,
            hash: digest(&row, "hash")?,
            mac: digest(&row, "mac")?,
        })
    })
    .transpose()
}

/// The highest number in the trail, whatever the head says; 0 for none.
pub(super) async fn highest_seq(connection: &mut SqliteConnection) -> Result<i64, CatalogError> {
    let row = sqlx::query("SELECT COALESCE(MAX(seq), 0) AS highest FROM audit")
        .fetch_one(connection)
        .await?;
    Ok(row.try_get("highest")?)
}

/// The address of the event's person: now or, for one who is gone, when the trail last spoke of them.
///
/// `known` has those of the events before it in the same batch, which are in no table yet.
async fn email(
    connection: &mut SqliteConnection,
    known: &mut HashMap<PersonId, Option<String>>,
    event: &AuditEvent,
) -> Result<Option<String>, CatalogError> {
    let Some(person) = event.person else {
        return Ok(None);
    };
    // The rows of people themselves say it, that of a removal too, after which nothing else may.
    let email = match event.detail["email"].as_str() {
        Some(email) => Some(email.to_owned()),
        None => match known.get(&person) {
            Some(email) => return Ok(email.clone()),
            None => stored_email(connection, person).await?,
        },
    };
    known.insert(person, email.clone());
    Ok(email)
}

async fn stored_email(
    connection: &mut SqliteConnection,
    person: PersonId,
) -> Result<Option<String>, CatalogError> {
    let known = sqlx::query_scalar(
        "SELECT email FROM people WHERE id = $1 UNION ALL SELECT email FROM ( \
           SELECT email FROM audit WHERE person = $1 AND email IS NOT NULL ORDER BY seq DESC LIMIT 1) AS past \
         LIMIT 1",
    )
    .bind(person.to_string())
    .fetch_optional(connection)
    .await?;
    Ok(known)
}

/// The number of the next row and the hash that it follows.
async fn next(
    connection: &mut SqliteConnection,
    keys: &Keys,
) -> Result<(i64, [u8; 32]), CatalogError> {
    let highest = highest_seq(connection).await?;
    let head = match head(connection).await {
        Ok(head) => head,
        // A head that does not even decode is no better than none.
        Err(
            CatalogError::Corrupt { .. } | CatalogError::Storage(sqlx::Error::ColumnDecode { .. }),
        ) => None,
        Err(error) => return Err(error),
    };
    let sealed = head.filter(|head| keys.is_head_mac(head.seq, &head.hash, &head.mac));
    match sealed {
        Some(head) if highest <= head.seq => Ok((head.seq + 1, head.hash)),
        sealed => {
            tracing::error!(
                highest,
                "the end of the audit trail was tampered with; leaving one number out to mark the place"
            );
            let after = highest.max(sealed.as_ref().map_or(0, |head| head.seq));
            Ok((
                after.saturating_add(2),
                sealed.map_or(GENESIS, |head| head.hash),
            ))
        }
    }
}

/// One statement for many rows: each statement is a round trip to the thread that SQLite runs in.
async fn insert(connection: &mut SqliteConnection, links: &[Link]) -> Result<(), CatalogError> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO audit (seq, id, time, kind, outcome, reason, actor, tenant, person, role, session, token, \
         peer, detail, prev_hash, hash, email) ",
    );
    query.push_values(links, |mut row, link| {
        let line = &link.line;
        row.push_bind(line.seq)
            .push_bind(&line.id)
            .push_bind(line.time)
            .push_bind(&line.kind)
            .push_bind(&line.outcome)
            .push_bind(&line.reason)
            .push_bind(&line.actor)
            .push_bind(&line.tenant)
            .push_bind(&line.person)
            .push_bind(&line.role)
            .push_bind(&line.session)
            .push_bind(&line.token)
            .push_bind(&line.peer)
            .push_bind(&line.detail)
            .push_bind(hex(&link.prev_hash))
            .push_bind(hex(&link.hash))
            .push_bind(&line.email);
    });
    query.build().execute(connection).await?;
    Ok(())
}

async fn set_head(
    connection: &mut SqliteConnection,
    keys: &Keys,
    seq: i64,
    hash: &[u8; 32],
) -> Result<(), CatalogError> {
    sqlx::query(
        "INSERT INTO audit_head (id, seq, hash, mac) VALUES (1, $1, $2, $3) \
         ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, mac = excluded.mac",
    )
    .bind(seq)
    .bind(hex(hash))
    .bind(hex(&keys.head_mac(seq, hash)))
    .execute(connection)
    .await?;
    Ok(())
}

fn detail(event: &AuditEvent) -> String {
    let text = event.detail.to_string();
    if text.len() <= DETAIL_MAX_BYTES {
        return text;
    }
    serde_json::json!({ "omitted_bytes": text.len() }).to_string()
}
