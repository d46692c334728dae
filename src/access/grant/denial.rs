//! Why a token does not open a session.

use crate::catalog::types::OutsideLimits;

/// Why a token does not open a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No such token, a wrong secret, an expired or a revoked one: one answer, so that nothing is given away.
    #[error("the token is not valid")]
    InvalidToken(InvalidToken),
    #[error("the token is {0}")]
    OutsideToken(OutsideLimits),
    /// Who is asked there knows nothing of our tokens.
    #[error("the project takes the tokens of another authority")]
    OtherAuthority,
    #[error("token access is not enabled for this database")]
    NotEnabled,
    #[error("the person is not a member of this project")]
    NotAMember,
    #[error("no rule grants this role")]
    NoRule,
    /// What the authority does not say more of, or not in our words.
    #[error("the project's authority does not allow this here and now")]
    Restricted,
    #[error("the access was revoked during the login")]
    Revoked,
    #[error("the rule for this role has expired")]
    RuleExpired,
    #[error("the rule does not allow the client's network address")]
    Network,
    #[error("the project does not allow token access from the client's network address")]
    ProjectNetwork,
    #[error("the rule holds on branches only")]
    BranchesOnly,
    #[error("the role is privileged and the project does not allow token access to such roles")]
    PrivilegedRole,
    #[error(
        "the server runs PostgreSQL {version}, older than the {needed} that token access needs"
    )]
    ServerTooOld { version: u32, needed: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidToken {
    Unknown,
    Expired,
    Revoked,
    /// The tenant does not exist: told like an unknown token.
    Tenant,
    /// The authority has answered for another role than the one asked for.
    OtherRole,
}

impl Denial {
    /// Whether the tenant says so to everybody, whatever their tokens, rules and addresses.
    pub(in crate::access) fn is_for_everybody(self) -> bool {
        matches!(
            self,
            Self::NotEnabled | Self::InvalidToken(InvalidToken::Tenant)
        )
    }

    /// The machine-readable reason for audit and API.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidToken(InvalidToken::Unknown) => "unknown_token",
            Self::InvalidToken(InvalidToken::Expired) => "token_expired",
            Self::InvalidToken(InvalidToken::Revoked) => "token_revoked",
            Self::InvalidToken(InvalidToken::Tenant) => "unknown_tenant",
            Self::InvalidToken(InvalidToken::OtherRole) => "other_role",
            Self::OutsideToken(OutsideLimits::Scope) => "token_scope",
            Self::OutsideToken(OutsideLimits::Tenant) => "token_tenant",
            Self::OutsideToken(OutsideLimits::Role) => "token_role",
            Self::OtherAuthority => "other_authority",
            Self::NotEnabled => "access_disabled",
            Self::NotAMember => "not_a_member",
            Self::NoRule => "no_rule",
            Self::Restricted => "restricted",
            Self::Revoked => "revoked",
            Self::RuleExpired => "rule_expired",
            Self::Network => "network",
            Self::ProjectNetwork => "project_network",
            Self::BranchesOnly => "branches_only",
            Self::PrivilegedRole => "privileged_role",
            Self::ServerTooOld { .. } => "server_too_old",
        }
    }
}
