//! An invitation of somebody who is no member: what it promises, and the token that accepts it. Pure.
//!
//! ```text
//! sli_ 0198c0f2…(32 hex digits) k3…(43 base62)
//! kind the invitation's id      secret
//! ```
//!
//! The id finds the row, so no search depends on the secret.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::{
    keys::Pepper,
    token::{NoRandomness, random_base62},
    types::{NewRule, Person, Rule, RuleReach, TokenRecord},
};
use crate::names::{InviteId, PersonId, RoleName, TenantRef, TokenId};

const PREFIX: &str = "sli_";
const ID_CHARACTERS: usize = 32;
const SECRET_CHARACTERS: usize = 43;

/// An invitation as an administrator asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInvite {
    pub email: String,
    pub roles: Vec<InvitedRole>,
    /// Until when it can be accepted.
    pub expires_at: OffsetDateTime,
}

/// A role that acceptance grants, for a while that begins with the acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvitedRole {
    pub role: RoleName,
    #[serde(with = "while_text")]
    #[schema(value_type = String, example = "8h")]
    pub lasts: Duration,
    #[serde(default)]
    #[schema(value_type = Vec<String>, example = json!(["10.0.0.0/8"]))]
    pub networks: Vec<IpNet>,
    #[serde(default = "everywhere")]
    pub reach: RuleReach,
    #[serde(default)]
    pub reason: Option<String>,
}

/// An invitation as the catalogue keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invite {
    pub id: InviteId,
    pub tenant: TenantRef,
    pub email: String,
    pub roles: Vec<InvitedRole>,
    pub created_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub accepted_at: Option<OffsetDateTime>,
    /// Who has accepted it.
    pub person: Option<PersonId>,
    /// The personal access token that they were given then.
    pub token_id: Option<TokenId>,
    /// HMAC-SHA-256 of the acceptance token under the pepper; never leaves the process.
    #[serde(skip)]
    pub mac: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InviteStatus {
    Pending,
    Accepted,
    Expired,
}

/// What an acceptance has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedInvite {
    pub invite: Invite,
    pub person: Person,
    pub rules: Vec<Rule>,
    /// To use them with.
    pub token: TokenRecord,
}

/// A well-formed acceptance token. Wiped when dropped; has neither `Debug` nor `Display`.
pub struct InviteToken {
    id: InviteId,
    text: Zeroizing<String>,
}

impl InvitedRole {
    /// The rule that an acceptance at `now` makes.
    #[must_use]
    pub fn rule(&self, now: OffsetDateTime) -> NewRule {
        NewRule {
            role: self.role.clone(),
            // Out of range is further than any rule may reach, which is checked.
            expires_at: time::Duration::try_from(self.lasts)
                .ok()
                .and_then(|lasts| now.checked_add(lasts))
                .unwrap_or(time::PrimitiveDateTime::MAX.assume_utc()),
            networks: self.networks.clone(),
            reach: self.reach,
            reason: self.reason.clone(),
        }
    }
}

impl Invite {
    #[must_use]
    pub fn status(&self, now: OffsetDateTime) -> InviteStatus {
        if self.accepted_at.is_some() {
            InviteStatus::Accepted
        } else if self.expires_at <= now {
            InviteStatus::Expired
        } else {
            InviteStatus::Pending
        }
    }
}

impl InviteToken {
    /// A new token for the invitation `id`.
    pub(super) fn generate(id: InviteId) -> Result<Self, NoRandomness> {
        let secret = random_base62(SECRET_CHARACTERS)?;
        let text = Zeroizing::new(format!("{PREFIX}{}{}", id.0.simple(), &*secret));
        Ok(Self { id, text })
    }

    /// The token in `text`, if it has the shape of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.trim().strip_prefix(PREFIX)?;
        let (id, secret) = body.split_at_checked(ID_CHARACTERS)?;
        let is_secret = secret.len() == SECRET_CHARACTERS
            && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let id = id.parse().ok().filter(|_| is_secret)?;
        Some(Self {
            id,
            text: Zeroizing::new(text.trim().to_owned()),
        })
    }

    #[must_use]
    pub fn id(&self) -> InviteId {
        self.id
    }

    /// The whole token, to be shown once.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        self.text.clone()
    }

    pub(super) fn mac(&self, pepper: &Pepper) -> [u8; 32] {
        // A domain of its own keeps it from being good for another kind of secret.
        pepper.mac(&[b"invite\0", self.text.as_bytes()])
    }

    /// Whether this is the token of `invite`. Does the same work when there is none.
    pub(super) fn fits(&self, invite: Option<&Invite>, pepper: &Pepper) -> bool {
        let stored = invite.map_or([0; 32], |invite| invite.mac);
        bool::from(self.mac(pepper).ct_eq(&stored)) & invite.is_some()
    }
}

const fn everywhere() -> RuleReach {
    RuleReach::Everywhere
}

/// A while as people write it: `8h`, `7d`.
mod while_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(lasts: &Duration, output: S) -> Result<S::Ok, S::Error> {
        output.collect_str(&humantime::format_duration(*lasts))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(input)?;
        humantime::parse_duration(&text)
            .ok()
            .filter(|lasts| !lasts.is_zero())
            .ok_or_else(|| D::Error::custom("write how long it lasts with its unit: 30m, 8h or 7d"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_parses_and_names_its_invitation() {
        let id = InviteId::generate();
        let token = InviteToken::generate(id).unwrap();
        let text = token.reveal();
        assert_eq!(text.len(), 79);
        assert_eq!(InviteToken::parse(&text).unwrap().id(), id);
        for wrong in ["", "sli_", &text[..78], &text.replacen("sli_", "slp_", 1)] {
            assert!(InviteToken::parse(wrong).is_none(), "{wrong}");
        }
        assert!(InviteToken::parse(&format!("{}é", &text[..77])).is_none());
    }

    #[test]
    fn a_while_needs_its_unit() {
        let read = |lasts| {
            serde_json::from_value::<InvitedRole>(json!({"role": "app", "lasts": lasts}))
                .map(|role| role.lasts)
                .map_err(|error| error.to_string())
        };
        assert_eq!(read(json!("8h")), Ok(Duration::from_secs(8 * 3600)));
        for wrong in [json!("3600"), json!("0s"), json!("never")] {
            assert!(read(wrong).unwrap_err().contains("with its unit"));
        }
        assert!(read(json!(3600)).is_err());
    }
}
