//! Tenants whose people prove who they are with a JSON Web Token of some issuer, as in OpenID Connect.
//!
//! ```text
//! token ─▶ header (pinned algorithms) ─▶ key (fetched if need be) ─▶ signature, iss, aud, exp, nbf ─▶ subject
//!                                                                                                        │
//! grant ◀─ rule, membership, switch, networks (as for our own tokens) ◀─ person of the catalogue ◀───────┘
//! ```
//! The token is needed at login only, and the grant ends with it. From then on the session stands on the catalogue, like
//! any other: whatever changes there is enforced.

mod crypto;
mod keys;
mod verify;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use time::OffsetDateTime;

pub(super) use self::keys::Keyrings;
use self::verify::{Claim, Flaw};
use super::{
    Access, AccessError,
    external::{Asked, Standing},
    grant::{Denial, Grant, InvalidToken},
    registry::SessionHandle,
};
use crate::{
    catalog::{CatalogError, ExternalToken, types::JwtAuthority},
    names::PersonId,
};

/// Who a token has proven its bearer to be, and until when.
#[derive(Debug, Clone)]
pub(super) struct Proven {
    pub(super) authority: Arc<JwtAuthority>,
    pub(super) person: PersonId,
    pub(super) expires_at: OffsetDateTime,
}

/// Whether a text looks like a JSON Web Token: three parts of base64url, the first of them a JSON object.
pub(super) fn is_jwt(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let of_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    parts.len() == 3
        && text.starts_with("eyJ")
        && parts.iter().all(|part| part.bytes().all(of_alphabet))
}

impl Access {
    /// Checks the token of a registered session, and binds the grant of the person it names to it.
    pub(super) async fn admit_jwt(
        &self,
        session: &SessionHandle,
        token: &ExternalToken,
        authority: &Arc<JwtAuthority>,
    ) -> Result<Grant, AccessError> {
        // A change that comes between reading and confirming finds the floor to raise.
        let _ = self.floor(&session.identity.tenant);
        let (grant, proven) = self
            .authorise_jwt(&Asked::by(session), token, authority)
            .await?;
        session.stand(Standing::Proven(proven));
        session.confirm(&grant);
        Ok(grant)
    }

    /// Checks a token and decides what the person it names may do.
    pub(super) async fn authorise_jwt(
        &self,
        asked: &Asked<'_>,
        token: &ExternalToken,
        authority: &Arc<JwtAuthority>,
    ) -> Result<(Grant, Proven), AccessError> {
        let denied = |denial, person| AccessError::Denied { denial, person };
        let claim = match self.claim(token, authority).await? {
            Ok(claim) => claim,
            Err(flaw) => {
                let tenant = asked.tenant;
                tracing::info!(%tenant, token = %token.id(), %flaw, "a JSON Web Token proves nothing");
                return Err(denied(Denial::InvalidToken(InvalidToken::from(flaw)), None));
            }
        };
        let person = self.person_named(&claim.subject).await?;
        let person = person.ok_or_else(|| denied(Denial::NotAMember, None))?;
        let proven = Proven {
            authority: Arc::clone(authority),
            person,
            expires_at: claim.expires_at,
        };
        let grant = self.by_proof(asked, &proven).await?;
        let grant = grant.map_err(|denial| denied(denial, Some(person)))?;
        Ok((grant, proven))
    }

    async fn claim(
        &self,
        token: &ExternalToken,
        authority: &Arc<JwtAuthority>,
    ) -> Result<Result<Claim, Flaw>, AccessError> {
        let header = match verify::header(token.expose(), authority) {
            Ok(header) => header,
            Err(flaw) => return Ok(Err(flaw)),
        };
        let settings = self.inner.authorities.settings();
        let knows = |keys: &[_]| verify::key(&header, keys).is_some();
        let keys = self
            .inner
            .keyrings
            .find(token.tenant(), authority, &settings, knows)
            .await?;
        let Some(key) = verify::key(&header, &keys) else {
            return Ok(Err(Flaw::Key));
        };
        let now = OffsetDateTime::now_utc();
        Ok(verify::verify(token.expose(), &header, key, authority, now))
    }

    async fn person_named(&self, subject: &str) -> Result<Option<PersonId>, CatalogError> {
        let catalog = &self.inner.catalog;
        let person = match subject.parse::<PersonId>() {
            Ok(id) => catalog.person(id).await?,
            Err(_) => catalog.person_by_email(subject).await?,
        };
        Ok(person.map(|person| person.id))
    }
}
