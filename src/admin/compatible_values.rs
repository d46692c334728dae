//! Requests and answers of the `/v1/projects` routes, to and from our own values.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;

use super::{
    error::{ApiError, ErrorBody},
    networks,
};
use crate::{
    access::Grant,
    catalog::{
        RULE_DAYS_MAX,
        types::{NewRule, Rule, RuleReach, TokenAccess},
    },
    names::{PersonId, RoleName},
};

#[derive(Serialize, ToSchema)]
pub(super) struct SwitchState {
    pub(super) state: TokenAccess,
    #[serde(
        rename = "appliedSuccessfully",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) applied: Option<bool>,
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

#[derive(Serialize, ToSchema)]
pub(super) struct ListItem {
    pub(super) user_id: PersonId,
    pub(super) user_roles: Vec<UserRole>,
    pub(super) primary_email: String,
}

/// One role that a person may use.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UserRole {
    role: RoleName,
    /// Unix seconds.
    expires_at: Option<i64>,
    #[serde(default)]
    allowed_networks: Networks,
    #[serde(default)]
    branches_only: bool,
}

#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct Networks {
    allowed_cidrs: Vec<Cidr>,
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
            allowed_networks: Networks::new(networks),
            branches_only: reach == RuleReach::BranchesOnly,
        }
    }

    /// The rule that is asked for at the time `now`.
    pub(super) fn into_rule(self, now: OffsetDateTime) -> Result<NewRule, ApiError> {
        let reach = if self.branches_only {
            RuleReach::BranchesOnly
        } else {
            RuleReach::Everywhere
        };
        Ok(NewRule {
            role: self.role,
            expires_at: expiry(self.expires_at, now)?,
            networks: self.allowed_networks.into_list()?,
            reach,
            reason: None,
        })
    }
}

fn expiry(seconds: Option<i64>, now: OffsetDateTime) -> Result<OffsetDateTime, ApiError> {
    let Some(seconds) = seconds else {
        return Ok(now + Duration::days(RULE_DAYS_MAX));
    };
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| {
        ApiError::invalid("`expires_at` is in seconds since 1970; this looks like milliseconds")
    })
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
#[schema(as = CompatibleError)]
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
