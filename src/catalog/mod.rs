//! The catalogue: tenants, people, members, tokens, rules and the audit trail.
//!
//! ```text
//! reads    ── a few connections ──────────────▶ ┐
//! changes  ── queue ─▶ ┐                        ├ one SQLite file (WAL)
//! events   ── queue ─▶ ┴ one writer thread ───▶ ┘
//! ```
//!
//! What must hold:
//! - Every change is one transaction: the change itself, the revision raised by one, and its audit rows.
//! - All writes go through one thread, which belongs to no caller's runtime. A caller that goes away while it
//!   waits loses the answer, never the write, and leaves nothing locked.
//! - What decides about access is read in one transaction ([`Catalog::evidence`]); it is used again only as long as the
//!   revision in the file, read anew each time, is still the one that it was read at (`current`).
//! - The file holds no secret that can be read without the master key.
//! - One process at a time has it open (`lock`).

mod audit;
mod authority;
mod cache;
mod changes;
mod checkpoint;
mod columns;
mod current;
mod entry;
mod error;
mod evidence;
mod external_token;
mod guest_tokens;
mod invite;
mod invites;
mod keys;
mod lock;
mod members;
mod people;
mod presence;
mod refusals;
mod retention;
mod rule_rows;
mod rules;
mod secrets;
mod service_keys;
mod store;
mod tenant_rows;
mod tenants;
mod timeouts;
mod token;
mod token_changes;
mod token_limits;
mod token_uses;
mod tokens;
mod trail;
pub mod types;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, path::Path, sync::Arc};

use sqlx::SqlitePool;
use zeroize::Zeroizing;

use self::{
    cache::{RecentUses, TenantCache},
    current::{AsOf, Present},
    evidence::Topic,
    keys::Keys,
    refusals::Refusals,
    types::{Evidence, Revision, RoleSecret},
    writer::Writer,
};
pub use self::{
    changes::Changed,
    checkpoint::{Checkpoint, SignedEnd},
    error::{CatalogError, What},
    external_token::ExternalToken,
    invite::InviteToken,
    keys::Pepper,
    people::folded_email,
    refusals::Novelty,
    rules::{RULE_DAYS_MAX, is_privileged},
    service_keys::ServiceKey,
    token::{NoRandomness, Token, holds_token, verify},
    token_changes::Rotated,
    trail::{AuditFault, AuditVerdict},
};
use crate::names::{RoleName, TenantRef};

/// The one store of who may do what. Cheap to clone; usable from any number of tokio runtimes at once.
///
/// Dropping the last clone waits until everything queued is written.
#[derive(Clone)]
pub struct Catalog {
    shared: Arc<Shared>,
}

struct Shared {
    readers: SqlitePool,
    present: Present,
    /// What tokens that were shown before may do.
    evidence: AsOf<Topic, Arc<Evidence>>,
    role_secrets: AsOf<(TenantRef, RoleName), RoleSecret>,
    writer: Writer,
    keys: Arc<Keys>,
    tenants: Arc<TenantCache>,
    recent_uses: RecentUses,
    refusals: Refusals,
}

impl Catalog {
    /// Opens the catalogue at `path`, or makes it there, and brings its schema up to date.
    ///
    /// `key` is the master key: the same one that the catalogue was made with.
    pub async fn open(path: &Path, key: &Zeroizing<[u8; 32]>) -> Result<Self, CatalogError> {
        let keys = Arc::new(Keys::derive(key));
        let tenants = Arc::new(TenantCache::default());
        let opened = store::open(path, &keys).await?;
        let writer = Writer::start(opened.writer, Arc::clone(&keys), Arc::clone(&tenants))?;
        let shared = Shared {
            readers: opened.readers,
            present: Present::open(path)?,
            evidence: AsOf::default(),
            role_secrets: AsOf::default(),
            writer,
            keys,
            tenants,
            recent_uses: RecentUses::default(),
            refusals: Refusals::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The number of changes so far.
    pub async fn revision(&self) -> Result<Revision, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        changes::revision(&mut reader).await
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Catalog")
    }
}
