//! What a person may reach with a token: decided as a login would be, but for the address that they will come from.

use std::{collections::BTreeSet, sync::Arc};

use time::OffsetDateTime;

use super::{
    Access,
    grant::{self, Denial, Reachable},
};
use crate::{
    catalog::{
        CatalogError,
        types::{Tenant, TokenRecord},
    },
    names::RoleName,
};

/// A role of a tenant that a rule is about, and what became of it.
pub struct Opening {
    pub tenant: Arc<Tenant>,
    pub role: RoleName,
    /// `Err`: why it cannot be used at the moment, in spite of the rule.
    pub outcome: Result<Reachable, Denial>,
}

impl Access {
    /// Everything that rules are about which concern the token's person, and that the token is not kept from.
    pub async fn openings(&self, token: &TokenRecord) -> Result<Vec<Opening>, CatalogError> {
        let catalog = &self.inner.catalog;
        let mut places = BTreeSet::new();
        for rule in catalog.rules_of_person(token.person).await? {
            let branches = catalog.branches(&rule.tenant).await?;
            let branches = branches.into_iter().map(|branch| branch.tenant);
            places.extend(branches.map(|branch| (branch, rule.role.clone())));
            places.insert((rule.tenant, rule.role));
        }
        let mut openings = Vec::new();
        for (tenant, role) in places {
            let evidence = catalog.evidence(&token.id, &tenant, &role).await?;
            let outcome = grant::reachable(&evidence, &role, OffsetDateTime::now_utc());
            match (outcome, evidence.tenant) {
                // Not for this token, or no rule about this very tenant.
                (
                    Err(
                        Denial::InvalidToken(_)
                        | Denial::OutsideToken(_)
                        | Denial::BranchesOnly
                        | Denial::NoRule,
                    ),
                    _,
                )
                | (_, None) => {}
                (outcome, Some(tenant)) => openings.push(Opening {
                    tenant,
                    role,
                    outcome,
                }),
            }
        }
        Ok(openings)
    }
}
