//! Everything that decides whether a token may use a role of a tenant, as of one moment.

use std::sync::Arc;

use sqlx::{Connection, SqliteConnection};
use uuid::Uuid;

use crate::{
    catalog::{
        Catalog, CatalogError, Token, changes, members, people, rule_rows, tenant_rows, token,
        tokens, types::Evidence,
    },
    names::{PersonId, RoleName, TenantRef, TokenId},
};

/// Whom the evidence is about.
#[derive(Clone, Copy)]
enum Bearer<'a> {
    Token(&'a TokenId),
    /// Proven elsewhere.
    Person(PersonId),
}

/// What evidence is remembered under: only who knows the token's secret finds it, so that its presence gives
/// nothing away.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Topic {
    /// The token's keyed hash.
    token: [u8; 32],
    tenant: TenantRef,
    role: RoleName,
}

impl Catalog {
    /// The evidence about a token that was shown, as complete and as new as [`Self::evidence`]; `None`: there is no such
    /// token. Whoever does not know a token's secret gets the same work done for it, whether or not there is such a
    /// token. Says nothing of its expiry or revocation.
    pub async fn proven_evidence(
        &self,
        token: &Token,
        tenant: &TenantRef,
        role: &RoleName,
    ) -> Result<Option<Arc<Evidence>>, CatalogError> {
        let pepper = self.shared.keys.pepper();
        let topic = Topic {
            token: token.mac(pepper),
            tenant: tenant.clone(),
            role: role.clone(),
        };
        let known = &self.shared.evidence;
        if let Some(revision) = self.shared.present.revision()
            && let Some(evidence) = known.find(revision, &topic)
        {
            return Ok(Some(evidence));
        }
        let evidence = Arc::new(self.evidence(token.id(), tenant, role).await?);
        if !token::verify(evidence.token.as_ref(), token, pepper) {
            return Ok(None);
        }
        known.remember(evidence.revision, topic, Arc::clone(&evidence));
        Ok(Some(evidence))
    }

    /// Reads the evidence in one transaction, past any cache: a change that was confirmed before this call
    /// is in it. Runs the same queries whether or not the token, the tenant or the person exists.
    pub async fn evidence(
        &self,
        token: &TokenId,
        tenant: &TenantRef,
        role: &RoleName,
    ) -> Result<Evidence, CatalogError> {
        self.evidence_for(Bearer::Token(token), tenant, role).await
    }

    /// The same about a person whom an external authority has named: they need not be in the catalogue.
    pub async fn evidence_of_person(
        &self,
        person: PersonId,
        tenant: &TenantRef,
        role: &RoleName,
    ) -> Result<Evidence, CatalogError> {
        self.evidence_for(Bearer::Person(person), tenant, role)
            .await
    }

    async fn evidence_for(
        &self,
        bearer: Bearer<'_>,
        tenant: &TenantRef,
        role: &RoleName,
    ) -> Result<Evidence, CatalogError> {
        let mut reader = self.shared.readers.acquire().await?;
        let mut transaction = reader.begin().await?;
        let evidence = gather(&mut transaction, bearer, tenant, role).await?;
        transaction.commit().await?;
        Ok(evidence)
    }
}

async fn gather(
    connection: &mut SqliteConnection,
    bearer: Bearer<'_>,
    name: &TenantRef,
    role: &RoleName,
) -> Result<Evidence, CatalogError> {
    let revision = changes::revision(connection).await?;
    let tenant = tenant_rows::find(connection, name).await?;
    let (own, parent) = tenant.as_ref().map_or((name, name), tenant_rows::lineage);
    let above = tenant_rows::find(connection, parent).await?;
    let is_branch = own != parent;
    let (token, owner) = match bearer {
        Bearer::Token(id) => {
            let token = tokens::find(connection, id).await?;
            // Nobody has the nil id, so without a token what follows finds nothing.
            let owner = token
                .as_ref()
                .map_or(PersonId(Uuid::nil()), |token| token.person);
            (token, owner)
        }
        Bearer::Person(person) => (None, person),
    };
    let person = people::find(connection, owner).await?;
    let standing = members::standing(connection, (own, parent), owner).await?;
    let rules = rule_rows::find_inherited(connection, (own, parent), owner, role).await?;
    Ok(Evidence {
        revision,
        tenant: tenant.map(Arc::new),
        parent: above.filter(|_| is_branch).map(Arc::new),
        token,
        person,
        standing,
        rules,
    })
}
