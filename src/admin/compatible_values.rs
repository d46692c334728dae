//! Requests and answers of the `/v1/projects` routes, to and from our own values.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;

use zeroize::Zeroizing;

use super::{
    error::{ApiError, ErrorBody},
    networks, object,
    values::AccessState,
};
use crate::{
    access::Grant,
    catalog::{
        CatalogError, RULE_DAYS_MAX,
        types::{AcceptedInvite, Invite, InvitedRole, NewRule, Rule, RuleReach, TokenAccess},
    },
    doctor::UnavailableReason,
    names::{InviteId, PersonId, RoleName},
};

/// How the switch stands, with what speaks against token sessions in its place.
#[derive(Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(super) enum SwitchState {
    Enabled(Applied),
    Disabled(Applied),
    Unavailable {
        #[serde(rename = "unavailableReason")]
        reason: UnavailableReason,
        /// Not the peer's: what is the matter.
        message: String,
    },
}

#[derive(Default, Serialize, ToSchema)]
pub(super) struct Applied {
    #[serde(
        rename = "appliedSuccessfully",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) applied: Option<bool>,
}

impl SwitchState {
    /// What was found; where it was asked for, a switch that was turned is told as turned.
    pub(super) fn found(found: AccessState) -> Self {
        match found.unavailable {
            Some(why) => Self::Unavailable {
                reason: why.reason,
                message: why.message,
            },
            None => Self::turned(found.state, None),
        }
    }

    pub(super) fn turned(state: TokenAccess, applied: Option<bool>) -> Self {
        let applied = Applied { applied };
        match state {
            TokenAccess::Enabled => Self::Enabled(applied),
            TokenAccess::Disabled => Self::Disabled(applied),
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthorisationRequest {
    pub(super) role: RoleName,
    pub(super) rhost: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Authorisation {
    pub(super) user_id: PersonId,
    pub(super) user_role: UserRole,
}

/// All that a person is granted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewGrants {
    /// Id or e-mail address.
    pub(super) user_id: String,
    #[serde(deserialize_with = "object::list")]
    pub(super) roles: Vec<UserRole>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Grants {
    pub(super) user_id: PersonId,
    pub(super) user_roles: Vec<UserRole>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct UserGrants {
    pub(super) items: Vec<ListItem>,
}

/// Somebody with rules, or an invitation that waits for its acceptance (`user_id` is missing then).
#[derive(Serialize, ToSchema)]
pub(super) struct ListItem {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_id: Option<PersonId>,
    pub(super) user_roles: Vec<UserRole>,
    pub(super) primary_email: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) invite_id: Option<InviteId>,
    /// Until when the invitation can be accepted, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<i64>,
}

/// Somebody to be invited.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewInvitation {
    pub(super) email: String,
    #[serde(deserialize_with = "object::list")]
    pub(super) roles: Vec<UserRole>,
}

/// An invitation just made.
#[derive(Serialize, ToSchema)]
pub(super) struct Invited {
    email: String,
    invite_id: InviteId,
    user_roles: Vec<UserRole>,
    expires_at: i64,
    /// For its acceptance; the only answer that holds it.
    #[schema(value_type = String)]
    token: Zeroizing<String>,
}

impl Invited {
    pub(super) fn new((invite, token): (Invite, Zeroizing<String>)) -> Self {
        Self {
            email: invite.email,
            invite_id: invite.id,
            user_roles: invite.roles.iter().map(UserRole::from).collect(),
            expires_at: invite.expires_at.unix_timestamp(),
            token,
        }
    }
}

/// What an acceptance has made.
#[derive(Serialize, ToSchema)]
pub(super) struct Welcome {
    user_id: PersonId,
    user_roles: Vec<UserRole>,
    /// The guest's own, to log in with; the only answer that holds it.
    #[schema(value_type = String)]
    access_token: Zeroizing<String>,
}

impl Welcome {
    pub(super) fn new((made, access_token): (AcceptedInvite, Zeroizing<String>)) -> Self {
        Self {
            user_id: made.person.id,
            user_roles: made.rules.iter().map(UserRole::from).collect(),
            access_token,
        }
    }
}

impl From<Invite> for ListItem {
    fn from(invite: Invite) -> Self {
        Self {
            user_id: None,
            user_roles: invite.roles.iter().map(UserRole::from).collect(),
            primary_email: invite.email,
            invite_id: Some(invite.id),
            expires_at: Some(invite.expires_at.unix_timestamp()),
        }
    }
}

/// One role that a person may use.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserRole {
    role: RoleName,
    /// Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    /// In place of `expires_at`: how long, from the writing of the rule or the acceptance of an invitation on.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_after_seconds: Option<u64>,
    #[serde(default, deserialize_with = "object::one")]
    allowed_networks: Networks,
    #[serde(default)]
    branches_only: bool,
}

#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct Networks {
    #[serde(deserialize_with = "object::list")]
    allowed_cidrs: Vec<Cidr>,
    #[serde(deserialize_with = "object::list")]
    allowed_cidrs_v6: Vec<Cidr>,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Cidr {
    #[serde(deserialize_with = "networks::one")]
    #[schema(value_type = String)]
    cidr: IpNet,
}

impl Networks {
    fn new(networks: &[IpNet]) -> Self {
        let (v4, v6) = networks
            .iter()
            .map(|&cidr| Cidr { cidr })
            .partition(Cidr::is_v4);
        Self {
            allowed_cidrs: v4,
            allowed_cidrs_v6: v6,
        }
    }

    fn into_list(self) -> Result<Vec<IpNet>, ApiError> {
        if !self.allowed_cidrs.iter().all(Cidr::is_v4) {
            return Err(ApiError::malformed(
                "`allowed_cidrs` takes IPv4 networks, `allowed_cidrs_v6` the others",
            ));
        }
        if self.allowed_cidrs_v6.iter().any(Cidr::is_v4) {
            return Err(ApiError::malformed(
                "`allowed_cidrs_v6` takes IPv6 networks, `allowed_cidrs` the others",
            ));
        }
        let both = self.allowed_cidrs.into_iter().chain(self.allowed_cidrs_v6);
        Ok(both.map(|network| network.cidr).collect())
    }
}

impl Cidr {
    fn is_v4(&self) -> bool {
        matches!(self.cidr, IpNet::V4(_))
    }
}

impl UserRole {
    fn new(
        role: RoleName,
        expires_at: OffsetDateTime,
        networks: &[IpNet],
        reach: RuleReach,
    ) -> Self {
        Self {
            role,
            expires_at: Some(expires_at.unix_timestamp()),
            expires_after_seconds: None,
            allowed_networks: Networks::new(networks),
            branches_only: reach == RuleReach::BranchesOnly,
        }
    }

    /// The rule that is asked for at the time `now`.
    pub(super) fn into_rule(self, now: OffsetDateTime) -> Result<NewRule, ApiError> {
        Ok(NewRule {
            expires_at: self.expiry(now)?,
            reach: self.reach(),
            networks: self.allowed_networks.into_list()?,
            role: self.role,
            reason: None,
        })
    }

    /// What an invitation sent at the time `now` promises: as long as is left until `expires_at`, from the acceptance
    /// on.
    pub(super) fn into_invited(self, now: OffsetDateTime) -> Result<InvitedRole, ApiError> {
        let lasts = self.expiry(now)? - now;
        let lasts = lasts
            .try_into()
            .map_err(|_| CatalogError::ExpiryInThePast)?;
        Ok(InvitedRole {
            lasts,
            reach: self.reach(),
            networks: self.allowed_networks.into_list()?,
            role: self.role,
            reason: None,
        })
    }

    fn reach(&self) -> RuleReach {
        if self.branches_only {
            RuleReach::BranchesOnly
        } else {
            RuleReach::Everywhere
        }
    }

    fn expiry(&self, now: OffsetDateTime) -> Result<OffsetDateTime, ApiError> {
        match (self.expires_at, self.expires_after_seconds) {
            (None, None) => Ok(now + Duration::days(RULE_DAYS_MAX)),
            (Some(seconds), None) => OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| {
                ApiError::invalid(
                    "`expires_at` is in seconds since 1970; this looks like milliseconds",
                )
            }),
            (None, Some(seconds)) => i64::try_from(seconds)
                .ok()
                .and_then(|seconds| now.checked_add(Duration::seconds(seconds)))
                .ok_or_else(|| ApiError::invalid("`expires_after_seconds` is out of range")),
            (Some(_), Some(_)) => Err(ApiError::malformed(
                "give either `expires_at` or `expires_after_seconds`",
            )),
        }
    }
}

impl From<&InvitedRole> for UserRole {
    fn from(invited: &InvitedRole) -> Self {
        Self {
            role: invited.role.clone(),
            expires_at: None,
            expires_after_seconds: Some(invited.lasts.as_secs()),
            allowed_networks: Networks::new(&invited.networks),
            branches_only: invited.reach == RuleReach::BranchesOnly,
        }
    }
}

impl From<&Rule> for UserRole {
    fn from(rule: &Rule) -> Self {
        Self::new(
            rule.role.clone(),
            rule.expires_at,
            &rule.networks,
            rule.reach,
        )
    }
}

impl From<&Grant> for UserRole {
    fn from(grant: &Grant) -> Self {
        Self::new(
            grant.role().clone(),
            grant.expires_at(),
            grant.networks(),
            grant.reach(),
        )
    }
}

/// How an [`ApiError`] is written for clients of these routes.
#[derive(Serialize, ToSchema)]
#[schema(as = CompatibleError, description = "The body of every refusal below `/v1/projects`.")]
pub(super) struct Message<'a> {
    message: &'a str,
    error: ErrorBody<'a>,
}

/// Writes an error as clients of these routes read it: with the sentence at the top.
pub(super) async fn with_message(response: Response) -> Response {
    let Some(error) = response.extensions().get::<ApiError>() else {
        return response;
    };
    let body = Json(Message {
        message: &error.message,
        error: error.body(),
    });
    (error.status, body).into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-05-25 10:00 UTC);

    fn rule(json: serde_json::Value) -> Result<NewRule, ApiError> {
        serde_json::from_value::<UserRole>(json)
            .unwrap()
            .into_rule(NOW)
    }

    #[test]
    fn a_role_is_read_with_its_networks_of_both_families() {
        let rule = rule(json!({
            "role": "app",
            "expires_at": NOW.unix_timestamp() + 60,
            "allowed_networks": {
                "allowed_cidrs": [{"cidr": "192.0.2.0/24"}],
                "allowed_cidrs_v6": [{"cidr": "2001:db8::/32"}],
            },
            "branches_only": true,
        }))
        .unwrap();
        assert_eq!(rule.expires_at, NOW + Duration::minutes(1));
        assert_eq!(rule.networks.len(), 2);
        assert_eq!(rule.reach, RuleReach::BranchesOnly);
    }

    #[test]
    fn a_role_without_expiry_gets_the_longest_there_is() {
        let rule = rule(json!({"role": "app"})).unwrap();
        assert_eq!(rule.expires_at, NOW + Duration::days(90));
    }

    #[test]
    fn milliseconds_are_refused_as_such() {
        let refused =
            rule(json!({"role": "app", "expires_at": 1_780_000_000_000_i64})).unwrap_err();
        assert!(refused.message.contains("milliseconds"));
    }

    #[test]
    fn a_network_in_the_list_of_the_other_family_is_refused() {
        for (list, network) in [
            ("allowed_cidrs", "2001:db8::/32"),
            ("allowed_cidrs_v6", "192.0.2.0/24"),
        ] {
            let mixed = json!({"role": "app", "allowed_networks": {list: [{"cidr": network}]}});
            let refused = rule(mixed).unwrap_err();
            assert!(
                refused.message.starts_with(&format!("`{list}` takes")),
                "{}",
                refused.message
            );
        }
    }
}
