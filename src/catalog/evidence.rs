//! Everything that decides whether a token may use a role of a tenant, as of one moment.

use std::sync::Arc;

use sqlx::{Connection, SqliteConnection};
use uuid::Uuid;

use crate::{
    catalog::{
        Catalog, CatalogError, changes, members, people, rule_rows, tenant_rows, tokens,
        types::{Evidence, Tenant, TokenAccess},
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

impl Catalog {
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
        parent_token_access: parent_token_access(tenant.as_ref(), above.as_ref()),
        tenant: tenant.map(Arc::new),
        token,
        person,
        standing,
        rules,
    })
}

fn parent_token_access(tenant: Option<&Tenant>, above: Option<&Tenant>) -> Option<TokenAccess> {
    tenant?.parent.as_ref()?;
    above.map(|parent| parent.token_access)
}
