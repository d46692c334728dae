//! What an external authority is asked and how its answer is read. Pure.
//!
//! The contract is that of the Management API's `POST /v1/projects/{ref}/database/jit`, which our own API speaks, too:
//!
//! | answer | means |
//! |---|---|
//! | 200 `{user_id, user_role: {role, expires_at?, allowed_networks?, branches_only?}}` | yes, within these limits |
//! | 200 with another role, 401 | the token is not good for this |
//! | 403 | it is, but not here and now; `error.code` says why, if it is one of our own words |
//! | 406 | nothing was ever set up for this |
//! | anything else | no answer at all |

use ipnet::IpNet;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Outage;
use crate::{
    access::grant::{Denial, InvalidToken},
    catalog::types::{OutsideLimits, RuleReach},
    names::{PersonId, RoleName},
};

/// What is asked, beside the token.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    pub(super) role: &'a RoleName,
    /// The client's address.
    pub(super) rhost: String,
}

/// An answer that can be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Allowed(Verdict),
    Refused(Denial),
}

/// What the authority allows; the limits are checked here, each time anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::access) struct Verdict {
    pub(in crate::access) person: PersonId,
    /// `None`: the authority has set no end.
    pub(in crate::access) expires_at: Option<OffsetDateTime>,
    /// Empty: anywhere.
    pub(in crate::access) networks: Vec<IpNet>,
    pub(in crate::access) reach: RuleReach,
}

#[derive(Deserialize)]
struct Allowed {
    user_id: PersonId,
    user_role: UserRole,
}

#[derive(Deserialize)]
struct UserRole {
    role: String,
    /// Unix seconds.
    expires_at: Option<i64>,
    #[serde(default)]
    allowed_networks: Option<Networks>,
    #[serde(default)]
    branches_only: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Networks {
    #[serde(default)]
    allowed_cidrs: Vec<Cidr>,
    #[serde(default)]
    allowed_cidrs_v6: Vec<Cidr>,
}

#[derive(Deserialize)]
struct Cidr {
    cidr: IpNet,
}

#[derive(Deserialize)]
struct Refusal {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    code: String,
}

/// Reads the answer to the question about `role`.
pub(super) fn read(status: StatusCode, body: &[u8], role: &RoleName) -> Result<Answer, Outage> {
    match status {
        StatusCode::OK => allowed(body, role),
        StatusCode::UNAUTHORIZED => Ok(invalid(InvalidToken::Unknown)),
        StatusCode::FORBIDDEN => Ok(Answer::Refused(restriction(body))),
        StatusCode::NOT_ACCEPTABLE => Ok(Answer::Refused(Denial::NoRule)),
        other => Err(Outage::Status(other.as_u16())),
    }
}

fn allowed(body: &[u8], role: &RoleName) -> Result<Answer, Outage> {
    let answer: Allowed = serde_json::from_slice(body).map_err(|_| Outage::Malformed)?;
    let UserRole {
        role: answered,
        expires_at,
        allowed_networks,
        branches_only,
    } = answer.user_role;
    if answered != role.as_str() {
        return Ok(invalid(InvalidToken::OtherRole));
    }
    // Milliseconds would be millennia away, which no time here can be.
    let expires_at = expires_at
        .map(OffsetDateTime::from_unix_timestamp)
        .transpose();
    let networks = allowed_networks.unwrap_or_default();
    let networks = networks
        .allowed_cidrs
        .into_iter()
        .chain(networks.allowed_cidrs_v6);
    Ok(Answer::Allowed(Verdict {
        person: answer.user_id,
        expires_at: expires_at.map_err(|_| Outage::Malformed)?,
        networks: networks.map(|network| network.cidr).collect(),
        reach: match branches_only {
            Some(true) => RuleReach::BranchesOnly,
            Some(false) | None => RuleReach::Everywhere,
        },
    }))
}

fn invalid(why: InvalidToken) -> Answer {
    Answer::Refused(Denial::InvalidToken(why))
}

/// The authority's own words never reach a client; a code of ours is told as ours.
fn restriction(body: &[u8]) -> Denial {
    let code = serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.error.code);
    let known = [
        Denial::OutsideToken(OutsideLimits::Scope),
        Denial::OutsideToken(OutsideLimits::Tenant),
        Denial::OutsideToken(OutsideLimits::Role),
        Denial::NotEnabled,
        Denial::RuleExpired,
        Denial::Network,
        Denial::ProjectNetwork,
        Denial::BranchesOnly,
        Denial::PrivilegedRole,
    ];
    let named = |denial: &Denial| code.as_ref().is_ok_and(|code| code == denial.reason());
    known.into_iter().find(named).unwrap_or(Denial::Restricted)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const USER: &str = "5f0c0d1e-0000-4000-8000-000000000001";

    fn answer(status: u16, body: &Value) -> Result<Answer, Outage> {
        let role = RoleName::parse("app").unwrap();
        read(
            StatusCode::from_u16(status).unwrap(),
            body.to_string().as_bytes(),
            &role,
        )
    }

    #[test]
    fn every_field_of_a_yes_is_kept() {
        let networks = json!({"allowed_cidrs": [{"cidr": "10.0.0.0/8"}], "allowed_cidrs_v6": [{"cidr": "2001:db8::/32"}]});
        let role = json!({"role": "app", "expires_at": 1_780_000_000, "allowed_networks": networks, "branches_only": true});
        let Ok(Answer::Allowed(verdict)) =
            answer(200, &json!({"user_id": USER, "user_role": role, "more": 1}))
        else {
            panic!("refused");
        };
        assert_eq!(verdict.person.to_string(), USER);
        assert_eq!(verdict.expires_at.unwrap().unix_timestamp(), 1_780_000_000);
        assert_eq!(verdict.networks.len(), 2);
        assert_eq!(verdict.reach, RuleReach::BranchesOnly);
    }

    #[test]
    fn what_is_left_out_of_a_yes_or_null_limits_nothing() {
        for role in [
            json!({"role": "app"}),
            json!({"role": "app", "expires_at": null, "allowed_networks": null, "branches_only": null}),
            json!({"role": "app", "allowed_networks": {}, "branches_only": false}),
        ] {
            let Ok(Answer::Allowed(verdict)) =
                answer(200, &json!({"user_id": USER, "user_role": role}))
            else {
                panic!("refused");
            };
            assert_eq!((verdict.expires_at, verdict.networks), (None, Vec::new()));
            assert_eq!(verdict.reach, RuleReach::Everywhere);
        }
    }

    #[test]
    fn a_yes_that_cannot_be_read_whole_is_no_answer() {
        let role = |role: Value| json!({"user_id": USER, "user_role": role});
        for body in [
            json!(null),
            json!({}),
            json!([]),
            role(json!({})),
            role(json!({"role": null})),
            json!({"user_id": "somebody", "user_role": {"role": "app"}}),
            json!({"user_role": {"role": "app"}}),
            role(json!({"role": "app", "expires_at": 1_780_000_000_000_i64})),
            role(json!({"role": "app", "expires_at": "2026-01-01T00:00:00Z"})),
            role(
                json!({"role": "app", "allowed_networks": {"allowed_cidrs": [{"cidr": "everywhere"}]}}),
            ),
            role(json!({"role": "app", "allowed_networks": {"allowed_cidrs": ["10.0.0.0/8"]}})),
            role(json!({"role": "app", "branches_only": "no"})),
        ] {
            assert!(
                matches!(answer(200, &body), Err(Outage::Malformed)),
                "{body}"
            );
        }
    }

    #[test]
    fn each_no_has_its_meaning_and_all_else_is_an_outage() {
        let refused = |status, body: Value| match answer(status, &body) {
            Ok(Answer::Refused(denial)) => denial,
            other => panic!("{other:?}"),
        };
        let other_role = json!({"user_id": USER, "user_role": {"role": "App"}});
        assert_eq!(
            refused(200, other_role),
            Denial::InvalidToken(InvalidToken::OtherRole)
        );
        assert_eq!(
            refused(401, json!(null)),
            Denial::InvalidToken(InvalidToken::Unknown)
        );
        assert_eq!(refused(406, json!(null)), Denial::NoRule);
        assert_eq!(refused(403, json!(null)), Denial::Restricted);
        assert_eq!(
            refused(403, json!({"error": {"code": "network"}})),
            Denial::Network
        );
        assert_eq!(
            refused(403, json!({"error": {"code": "hush"}})),
            Denial::Restricted
        );
        for status in [
            201, 204, 301, 302, 307, 400, 404, 408, 413, 418, 429, 500, 502, 503, 504,
        ] {
            let body = json!({"user_id": USER, "user_role": {"role": "app"}});
            assert!(matches!(answer(status, &body), Err(Outage::Status(told)) if told == status));
        }
    }
}
