//! A token that some other authority has issued: any secret that can stand in an `Authorization` header.
//!
//! It is known here by a name made of its keyed hash, so that sessions, audit and revocations can speak of it.

use std::fmt;

use zeroize::Zeroizing;

use super::{keys::Pepper, token::base62};
use crate::names::{TenantRef, TokenId};

const ID_CHARACTERS: usize = 12;

/// A secret of unknown shape with its names. Wiped when dropped.
pub struct ExternalToken {
    id: TokenId,
    tenant: TenantRef,
    mac: [u8; 32],
    text: Zeroizing<String>,
}

impl ExternalToken {
    /// `None`: the text cannot be a token's. `tenant` is the one whose authority answers for it: a token has one name for
    /// a tenant and the branches that have its authority, and others for others.
    #[must_use]
    pub fn new(text: &str, tenant: &TenantRef, pepper: &Pepper) -> Option<Self> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        // No ref holds a zero byte, so the parts cannot be mistaken for others.
        let mac = pepper.mac(&[
            b"external\0",
            tenant.as_str().as_bytes(),
            b"\0",
            text.as_bytes(),
        ]);
        Some(Self {
            id: TokenId::parse(&base62(&mac, ID_CHARACTERS)).ok()?,
            tenant: tenant.clone(),
            mac,
            text: Zeroizing::new(text.to_owned()),
        })
    }

    #[must_use]
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// Whose authority answers for it.
    #[must_use]
    pub fn tenant(&self) -> &TenantRef {
        &self.tenant
    }

    /// What decisions about it are remembered under.
    #[must_use]
    pub fn mac(&self) -> &[u8; 32] {
        &self.mac
    }

    /// The token itself, for the authority alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ExternalToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalToken({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, tenant: &str) -> Option<ExternalToken> {
        let keys = crate::catalog::keys::Keys::derive(&Zeroizing::new([7; 32]));
        ExternalToken::new(text, &TenantRef::parse(tenant).unwrap(), keys.pepper())
    }

    #[test]
    fn a_token_has_one_name_per_tenant_that_tells_nothing_of_it() {
        let first = token("sbp_hunter2", "demo").unwrap();
        assert_eq!(first.id(), token("sbp_hunter2", "demo").unwrap().id());
        assert_ne!(first.id(), token("sbp_hunter2", "other").unwrap().id());
        assert_ne!(first.id(), token("sbp_hunter3", "demo").unwrap().id());
        assert_eq!(first.id().as_str().len(), 12);
        assert!(!format!("{first:?}").contains("hunter2"));
    }

    #[test]
    fn what_does_not_fit_a_header_is_no_token() {
        for text in ["", "a b", "a\r\nX-Admin: 1", "é", "a\0"] {
            assert!(token(text, "demo").is_none(), "{text:?}");
        }
    }
}
