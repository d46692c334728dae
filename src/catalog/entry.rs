//! What goes to the trail's queue: audit events, uses of tokens, and the wish to know that they are written.

use std::net::IpAddr;

use time::OffsetDateTime;
use tokio::sync::oneshot;

use crate::{
    catalog::{
        error::CatalogError,
        types::{AuditEvent, Outcome},
    },
    names::TokenId,
};

/// Something to write that is not a change of the catalogue.
pub(super) enum Entry {
    Event {
        at: OffsetDateTime,
        event: AuditEvent,
        /// Told when the event is stored, or is not.
        recorded: Option<oneshot::Sender<Result<(), CatalogError>>>,
    },
    /// A token was used.
    Use {
        token: TokenId,
        at: OffsetDateTime,
        from: IpAddr,
    },
    /// Told when all entries before it are written.
    Flush(oneshot::Sender<()>),
}

impl Entry {
    pub(super) fn event(&self) -> Option<(OffsetDateTime, &AuditEvent)> {
        match self {
            Self::Event { at, event, .. } => Some((*at, event)),
            Self::Use { .. } | Self::Flush(_) => None,
        }
    }

    /// Whether this is an event whose loss nobody would be told of.
    pub(super) fn is_unheard(&self) -> bool {
        matches!(self, Self::Event { recorded: None, .. })
    }

    pub(super) fn tell(self, stored: bool) {
        match self {
            Self::Event {
                recorded: Some(recorded),
                ..
            } => {
                let outcome = if stored {
                    Ok(())
                } else {
                    Err(CatalogError::NotRecorded)
                };
                let _ = recorded.send(outcome);
            }
            Self::Flush(flushed) => {
                let _ = flushed.send(());
            }
            Self::Event { recorded: None, .. } | Self::Use { .. } => {}
        }
    }
}

/// The row that says that events before it are missing.
pub(super) fn gap(dropped: u64) -> AuditEvent {
    AuditEvent {
        reason: Some("events_lost".to_owned()),
        detail: serde_json::json!({ "dropped": dropped }),
        ..AuditEvent::new("audit.gap", Outcome::Failure, "system")
    }
}
