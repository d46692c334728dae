//! Grants and refusals: what follows from the evidence in the catalogue.
//!
//! ```text
//! evidence ─┬─ decide            a token of ours, and its rules
//!           ├─ decide_by_proof   a person whom an issuer vouches for, and their rules
//!           └─ decide_by_word    what an external authority has said
//!                 │ terms: what tenant and rule allow
//!                 ▼
//!           Grant │ Denial
//! ```
//!
//! A decision is a pure function of the evidence and the clock. A [`Grant`] has no other maker than `decision`, so whoever
//! holds one knows that a rule, or the tenant's authority, allowed it.

mod decision;
mod denial;
mod terms;

#[cfg(test)]
mod tests;

use ipnet::IpNet;
use time::OffsetDateTime;
use uuid::Uuid;

pub(super) use self::decision::{Moment, decide, decide_by_proof, decide_by_word, reachable};
pub use self::{
    decision::Reachable,
    denial::{Denial, InvalidToken},
};
use crate::{
    catalog::types::{Revision, RuleReach},
    names::{PersonId, RoleName, RuleId, TenantRef, TokenId},
};

/// Live proof that this person may use this role of this tenant until then.
#[derive(Debug, Clone)]
pub struct Grant {
    person: PersonId,
    email: String,
    tenant: TenantRef,
    role: RoleName,
    /// `None`: an external authority allows it, no rule of ours.
    rule: Option<RuleId>,
    token: TokenId,
    networks: Vec<IpNet>,
    reach: RuleReach,
    expires_at: OffsetDateTime,
    revision: Revision,
    /// Another token was made in place of this one, which works on for a while.
    replaced_by: Option<TokenId>,
}

impl Grant {
    #[must_use]
    pub fn person(&self) -> PersonId {
        self.person
    }

    #[must_use]
    pub fn email(&self) -> &str {
        &self.email
    }

    #[must_use]
    pub fn tenant(&self) -> &TenantRef {
        &self.tenant
    }

    #[must_use]
    pub fn role(&self) -> &RoleName {
        &self.role
    }

    #[must_use]
    pub fn rule(&self) -> Option<RuleId> {
        self.rule
    }

    /// What certificates name the grant by: its rule, or the nil id where an external authority allows it.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.rule.map_or(Uuid::nil(), |rule| rule.0)
    }

    #[must_use]
    pub fn token(&self) -> &TokenId {
        &self.token
    }

    /// The token that was made in place of the one that was shown.
    #[must_use]
    pub fn replaced_by(&self) -> Option<&TokenId> {
        self.replaced_by.as_ref()
    }

    /// Networks of the rule; empty: anywhere.
    #[must_use]
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    #[must_use]
    pub fn reach(&self) -> RuleReach {
        self.reach
    }

    /// When the grant ends by itself: the earlier of the rule's and the token's expiry.
    #[must_use]
    pub fn expires_at(&self) -> OffsetDateTime {
        self.expires_at
    }

    /// The catalogue's revision that the grant was decided at.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }
}
