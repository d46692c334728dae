//! What every change of the catalogue has in common: an effect, its audit rows and a new revision.

use serde::Serialize;
use sqlx::{Row, SqliteConnection};

use crate::catalog::{
    error::CatalogError,
    types::{AuditEvent, Outcome, Revision},
};

/// A committed change: its result, and the revision from which on it holds.
///
/// No `Debug`, because the result may be a new token.
#[derive(Clone, Serialize)]
pub struct Changed<T> {
    pub value: T,
    pub revision: Revision,
}

/// What a piece of work did to the catalogue.
pub(super) enum Effect<T> {
    /// Things are as asked for already.
    None(T),
    /// Something changed, and these rows tell it.
    Change(T, Vec<AuditEvent>),
}

impl<T> Effect<T> {
    pub(super) fn one(value: T, event: AuditEvent) -> Self {
        Self::Change(value, vec![event])
    }
}

/// The event that tells of a change; the caller fills in whom and what it concerns.
pub(super) fn change_event(kind: &str, actor: &str) -> AuditEvent {
    AuditEvent::new(kind, Outcome::Success, actor)
}

pub(super) async fn revision(connection: &mut SqliteConnection) -> Result<Revision, CatalogError> {
    let row = sqlx::query("SELECT revision FROM catalogue WHERE id = 1")
        .fetch_one(connection)
        .await?;
    Ok(Revision(row.try_get("revision")?))
}

pub(super) async fn raise_revision(
    connection: &mut SqliteConnection,
) -> Result<Revision, CatalogError> {
    let row =
        sqlx::query("UPDATE catalogue SET revision = revision + 1 WHERE id = 1 RETURNING revision")
            .fetch_one(connection)
            .await?;
    Ok(Revision(row.try_get("revision")?))
}
