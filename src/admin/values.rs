//! What the admin API takes and answers, as values; the command line reads and writes the same ones.
//!
//! Fields that are left out of a change stay as they are; `null` clears what may be empty.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::{expiry, extract::Described, networks, object, own_values::Way};
use crate::{
    access::{RevocationReport, SessionView},
    catalog::types::{
        AuditRow, Authority, BackendLogin, BackendTls, ClientTls, Invite, InviteStatus, Member,
        MemberKind, Person, Presence, PrivilegedRoles, Revision, Rule, RuleReach, Tenant,
        TimeLimit, TokenAccess, TokenRecord, TokenScope,
    },
    doctor::Unavailable,
    names::{DatabaseName, Fingerprint, PersonId, RoleName, TenantRef, TokenId},
    pool::PoolView,
};

/// A committed change: what it left behind, and whom it cut off.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Done<T> {
    #[serde(flatten)]
    pub value: T,
    pub revision: Revision,
    /// Of changes that can end sessions: how many, and how long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation: Option<RevocationReport>,
}

/// A key that is shown this once.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct GuardKey {
    #[schema(value_type = String)]
    pub guard_key: Zeroizing<String>,
}

/// May these sessions, which the pooler has no part in, go on?
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuardQuestion {
    /// How long the answer may take while all of them may.
    #[schema(maximum = 30)]
    pub wait_seconds: u8,
    #[serde(deserialize_with = "object::list")]
    pub sessions: Vec<DirectSession>,
}

/// A session on the database itself.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectSession {
    /// The asker's name for it.
    pub id: String,
    pub token: TokenId,
    pub role: RoleName,
    #[schema(value_type = String, format = "ip")]
    pub from: IpAddr,
}

/// Which of the sessions may not go on.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct GuardAnswer {
    /// The last change that has been enforced since the start; the decisions are as new, at least.
    pub revision: Revision,
    pub ended: Vec<DirectEnd>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct DirectEnd {
    pub id: String,
    pub reason: String,
}

/// What a removal leaves behind.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Removed {}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct Tenants {
    pub tenants: Vec<Tenant>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct OneTenant {
    pub tenant: Tenant,
}

/// A tenant to be made, or what is to change in one.
#[derive(Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TenantFields {
    /// Needed to make a tenant; never changes afterwards, nor does `parent`.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<TenantRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DatabaseName>)]
    pub default_database: Option<Option<DatabaseName>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_tls: Option<BackendTls>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub backend_ca: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<BackendLogin>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<RoleName>)]
    pub auth_user: Option<Option<RoleName>>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub auth_query: Option<Option<String>>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DatabaseName>)]
    pub auth_database: Option<Option<DatabaseName>>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub pool_size: Option<Option<u32>>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub backend_budget: Option<Option<u32>>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub max_clients: Option<Option<u32>>,
    #[serde(
        deserialize_with = "object::one",
        skip_serializing_if = "TimeoutFields::is_empty"
    )]
    pub timeouts: TimeoutFields,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<ClientTls>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_access: Option<TokenAccess>,
    #[serde(
        deserialize_with = "object::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub authority: Option<Authority>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileged_roles: Option<PrivilegedRoles>,
    #[serde(
        deserialize_with = "networks::optional_list",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Vec<String>>, example = json!(["10.0.0.0/8"]))]
    pub networks: Option<Vec<IpNet>>,
}

/// Limits of time to be changed; `null`: as configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutFields {
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TimeLimit>)]
    pub queue: Option<Option<TimeLimit>>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TimeLimit>)]
    pub idle: Option<Option<TimeLimit>>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TimeLimit>)]
    pub idle_in_transaction: Option<Option<TimeLimit>>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TimeLimit>)]
    pub query: Option<Option<TimeLimit>>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TimeLimit>)]
    pub transaction: Option<Option<TimeLimit>>,
}

impl TimeoutFields {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Tells `null` (clear it) from a field that is not there (leave it).
fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    input: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(input).map(Some)
}

/// A role's secret: either what is typed, or the verifier that PostgreSQL stores.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretText {
    #[serde(with = "wiped")]
    #[schema(value_type = String)]
    Password(Zeroizing<String>),
    #[serde(with = "wiped")]
    #[schema(value_type = String)]
    Verifier(Zeroizing<String>),
}

impl Described for SecretText {
    const TAKEN: &'static str = "give either `password` or `verifier`, as text";
}

/// The key with which an external authority revokes; the only answer that holds it.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct WebhookKey {
    #[serde(with = "wiped")]
    #[schema(value_type = String)]
    pub key: Zeroizing<String>,
}

/// Whom an external authority revokes: all that is named must fit; nothing named: everybody it has let in.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RevokedByAuthority {
    /// The `user_id` of its answers.
    pub person: Option<PersonId>,
    /// The whole token.
    #[serde(deserialize_with = "wiped::optional")]
    #[schema(value_type = Option<String>)]
    pub token: Option<Zeroizing<String>>,
    /// The name that sessions and audit have for it.
    pub token_id: Option<TokenId>,
    pub role: Option<RoleName>,
}

impl Described for RevokedByAuthority {
    const TAKEN: &'static str = "give any of `person` (a UUID), `token`, `token_id` and `role`, or an empty object for everybody";
}

/// Text that is wiped from memory when it has been used.
pub(super) mod wiped {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(in crate::admin) fn serialize<S: Serializer>(
        text: &Zeroizing<String>,
        output: S,
    ) -> Result<S::Ok, S::Error> {
        output.serialize_str(text)
    }

    pub(in crate::admin) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(input).map(Zeroizing::new)
    }

    pub(in crate::admin) fn optional<'de, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Option<Zeroizing<String>>, D::Error> {
        Ok(Option::<String>::deserialize(input)?.map(Zeroizing::new))
    }
}

/// Which way the switch is to be turned.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WantedAccess {
    pub state: TokenAccess,
}

/// How the switch stands; a branch is on where its parent is.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct AccessState {
    pub state: TokenAccess,
    /// What speaks against token sessions all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<Unavailable>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct People {
    pub people: Vec<Person>,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPerson {
    pub email: String,
    /// The e-mail address unless told.
    pub name: Option<String>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct OnePerson {
    pub person: Person,
    pub memberships: Vec<Member>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct Members {
    pub members: Vec<Member>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct OneMember {
    pub member: Member,
}

/// What the end of a membership leaves behind.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct MemberGone {
    pub rules_removed: u64,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberTerms {
    pub kind: MemberKind,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct Tokens {
    pub tokens: Vec<TokenView>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct OneToken {
    pub token: TokenView,
}

/// A token as it is shown: never the secret.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    #[serde(flatten)]
    pub record: TokenRecord,
    /// What the audit trail calls it.
    pub fingerprint: Fingerprint,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenTerms {
    pub name: String,
    /// RFC 3339 time or duration from now.
    #[serde(deserialize_with = "expiry::written")]
    pub expires: String,
    /// `db:connect` alone unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<TokenScope>>)]
    pub scopes: Option<BTreeSet<TokenScope>>,
    /// These tenants and their branches only; none: any.
    #[serde(default)]
    #[schema(value_type = Vec<TenantRef>)]
    pub tenants: BTreeSet<TenantRef>,
    /// These database roles only; none: any.
    #[serde(default)]
    #[schema(value_type = Vec<RoleName>)]
    pub roles: BTreeSet<RoleName>,
}

/// What is to change in a token.
#[derive(Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// RFC 3339 time or duration from now.
    #[serde(
        deserialize_with = "expiry::perhaps_written",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<TokenScope>>)]
    pub scopes: Option<BTreeSet<TokenScope>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<TenantRef>>)]
    pub tenants: Option<BTreeSet<TenantRef>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<RoleName>>)]
    pub roles: Option<BTreeSet<RoleName>>,
}

/// How a token is to be rotated.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// How long the old token works on, `0` for not at all; a day unless told.
    #[serde(
        deserialize_with = "expiry::perhaps_written",
        skip_serializing_if = "Option::is_none"
    )]
    pub overlap: Option<String>,
    /// When the new token ends; unless told it lasts as long as the old one was made for.
    #[serde(
        deserialize_with = "expiry::perhaps_written",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<String>,
}

/// A token in place of another; the only answer that holds the whole of it.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct RotatedToken {
    pub token: TokenView,
    #[serde(with = "wiped")]
    #[schema(value_type = String)]
    pub secret: Zeroizing<String>,
    pub replaced: TokenView,
}

/// What is left when all tokens of a person are revoked.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct TokensGone {
    pub tokens_revoked: usize,
}

/// A token just made; the only answer that holds the whole of it.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct IssuedToken {
    pub token: TokenView,
    #[serde(with = "wiped")]
    #[schema(value_type = String)]
    pub secret: Zeroizing<String>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct Rules {
    pub rules: Vec<RuleView>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct OneRule {
    pub rule: RuleView,
    /// What keeps the rule from being of use, if anything is known to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// A rule with what a reader would look up next.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct RuleView {
    #[serde(flatten)]
    pub rule: Rule,
    pub email: String,
    pub status: RuleStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RuleStatus {
    Active,
    Expired,
}

/// A rule to be added; refused where one for the role holds already.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleAddition {
    /// Id or e-mail address.
    pub person: String,
    pub role: RoleName,
    #[serde(deserialize_with = "expiry::written")]
    pub expires: String,
    #[serde(default, deserialize_with = "networks::list")]
    #[schema(value_type = Vec<String>, example = json!(["10.0.0.0/8"]))]
    pub networks: Vec<IpNet>,
    #[serde(default = "everywhere")]
    pub reach: RuleReach,
    #[serde(default)]
    pub reason: Option<String>,
}

/// The whole of a rule (PUT: `expires` is needed, the rest has defaults) or what is to change in it (PATCH).
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RuleTerms {
    /// RFC 3339 time or duration from now.
    #[serde(
        deserialize_with = "expiry::perhaps_written",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<String>,
    #[serde(
        deserialize_with = "networks::optional_list",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Vec<String>>, example = json!(["10.0.0.0/8"]))]
    pub networks: Option<Vec<IpNet>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<RuleReach>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<Option<String>>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct Invites {
    pub invites: Vec<InviteView>,
}

/// An invitation with what a reader would work out next.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct InviteView {
    #[serde(flatten)]
    pub invite: Invite,
    pub status: InviteStatus,
}

/// Somebody to be invited.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    pub email: String,
    #[serde(deserialize_with = "object::list")]
    pub roles: Vec<InvitationRole>,
    /// Until when it can be accepted: RFC 3339 time or duration from now; a week unless told.
    #[serde(
        default,
        deserialize_with = "expiry::perhaps_written",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<String>,
}

/// A role that acceptance grants.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvitationRole {
    pub role: RoleName,
    /// For how long, from the acceptance on.
    #[serde(deserialize_with = "expiry::written")]
    pub lasts: String,
    #[serde(default, deserialize_with = "networks::list")]
    #[schema(value_type = Vec<String>, example = json!(["10.0.0.0/8"]))]
    pub networks: Vec<IpNet>,
    #[serde(default = "everywhere")]
    pub reach: RuleReach,
    #[serde(default)]
    pub reason: Option<String>,
}

/// An invitation just made; the only answer that holds its acceptance token.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct IssuedInvite {
    pub invite: InviteView,
    #[serde(with = "wiped")]
    #[schema(value_type = String)]
    pub token: Zeroizing<String>,
}

/// What whoever was invited shows.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    pub email: String,
    #[serde(with = "wiped")]
    #[schema(value_type = String)]
    pub token: Zeroizing<String>,
}

impl Described for Acceptance {
    const TAKEN: &'static str = "give `email` and `token`, the acceptance token, as text";
}

/// What an acceptance has made; the only answer that holds the guest's token.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    pub person: Person,
    pub rules: Vec<RuleView>,
    /// For these roles of this tenant, until the last of them ends.
    pub token: TokenView,
    #[serde(with = "wiped")]
    #[schema(value_type = String)]
    pub secret: Zeroizing<String>,
    /// Where the token is the password.
    pub access: Vec<Way>,
}

const fn everywhere() -> RuleReach {
    RuleReach::Everywhere
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct Sessions {
    pub sessions: Vec<SessionView>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct PoolList {
    pub pools: Vec<PoolRow>,
}

/// A pool, and the address of the person whose it is.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct PoolRow {
    #[serde(flatten)]
    pub pool: PoolView,
    pub email: Option<String>,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct AuditRows {
    pub rows: Vec<AuditRow>,
}

/// Who was in at the moment `at`.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Presences {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub sessions: Vec<Presence>,
}
