//! What the catalogue holds, as values: tenants, people, members, tokens, rules and audit events.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use zeroize::Zeroizing;

pub use super::authority::{
    Authority, AuthorityUrl, HttpAuthority, InvalidUrl, JwtAlgorithm, JwtAuthority, JwtKeys,
};
pub use super::invite::{AcceptedInvite, Invite, InviteStatus, InvitedRole, NewInvite};
pub use super::timeouts::{InvalidLimit, TenantTimeouts, TimeLimit};
pub use super::token_limits::{OutsideLimits, TokenLimits, TokenScope};
use crate::names::{
    DatabaseName, Fingerprint, PersonId, RoleName, RuleId, SessionId, TenantRef, TokenId,
};

/// A point in the catalogue's history: every committed change raises it by one.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    Default,
    ToSchema,
)]
#[serde(transparent)]
pub struct Revision(pub i64);

/// One project's database service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    #[serde(rename = "ref")]
    pub tenant: TenantRef,
    pub name: String,
    /// A branch has a parent; its rules may come from there.
    pub parent: Option<TenantRef>,
    /// Host name or IP address of the PostgreSQL server, or the folder of its Unix socket.
    pub host: String,
    pub port: u16,
    /// The database a client gets when it names none; none: whatever the client asks for.
    pub default_database: Option<DatabaseName>,
    pub backend_tls: BackendTls,
    /// PEM of the certificate authorities that may vouch for the server; none: the usual public ones.
    pub backend_ca: Option<String>,
    /// How token sessions log in to the server.
    pub login: BackendLogin,
    /// The role that runs `auth_query`; its password is kept as a role secret.
    pub auth_user: Option<RoleName>,
    /// The query that answers a role's password verifier; none: the built-in one.
    pub auth_query: Option<String>,
    /// Database that `auth_query` runs in; none: the default database or `postgres`.
    pub auth_database: Option<DatabaseName>,
    /// Backends per pool; none: the configured default.
    pub pool_size: Option<u32>,
    /// Backends over all pools of the tenant; none: the configured default.
    pub backend_budget: Option<u32>,
    /// Clients of the tenant at once; none: the configured default.
    pub max_clients: Option<u32>,
    #[serde(default)]
    pub timeouts: TenantTimeouts,
    pub client_tls: ClientTls,
    pub token_access: TokenAccess,
    /// Who decides about tokens.
    #[serde(default)]
    pub authority: Authority,
    /// Whether `postgres`, superusers and `pg_*` may be granted.
    pub privileged_roles: PrivilegedRoles,
    /// Addresses from which token logins are accepted at all; empty: anywhere.
    #[schema(value_type = Vec<String>, example = json!(["10.0.0.0/8"]))]
    pub networks: Vec<IpNet>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Tenant {
    /// Whether the server is reached on this machine, where nothing is encrypted and nothing need be.
    #[must_use]
    pub fn is_on_unix_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// Whoever answers for the tenant's tokens; a branch may leave that to its parent. `Authority::Parent`: nobody does.
    #[must_use]
    pub fn answering<'a>(&'a self, parent: Option<&'a Self>) -> &'a Authority {
        match (&self.authority, parent) {
            (Authority::Parent, Some(parent)) => &parent.authority,
            (own, _) => own,
        }
    }
}

/// A tenant as it was at a revision of the catalogue.
#[derive(Debug, Clone)]
pub struct TenantAt {
    pub record: Arc<Tenant>,
    pub revision: Revision,
}

/// Whether and how strictly the connection to the server is encrypted, as libpq's `sslmode` words it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackendTls {
    Disable,
    Require,
    VerifyCa,
    VerifyFull,
}

/// How a token session logs in to the tenant's PostgreSQL (design.md section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendLogin {
    /// A client certificate minted for the person and role.
    Certificate,
    /// The role's stored secret.
    RoleSecret,
    /// The client's own token, in clear inside verified TLS: for servers whose PAM checks tokens.
    #[serde(rename = "passthrough")]
    PassThrough,
}

impl BackendTls {
    /// Whether the server proves who it is before it is told anything.
    #[must_use]
    pub fn is_verified(self) -> bool {
        match self {
            Self::Disable | Self::Require => false,
            Self::VerifyCa | Self::VerifyFull => true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientTls {
    Allow,
    Require,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenAccess {
    Disabled,
    Enabled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrivilegedRoles {
    Refuse,
    Allow,
}

/// A human account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Person {
    pub id: PersonId,
    pub email: String,
    pub name: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A person who belongs to a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    pub tenant: TenantRef,
    pub person: PersonId,
    pub email: String,
    pub kind: MemberKind,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemberKind {
    Owner,
    Administrator,
    Member,
}

/// What somebody is to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    Owner,
    Administrator,
    Member,
    /// Has accepted an invitation and is no member.
    Guest,
}

impl Standing {
    /// Whether rules, members and invitations are theirs to manage.
    #[must_use]
    pub fn manages_access(self) -> bool {
        match self {
            Self::Owner | Self::Administrator => true,
            Self::Member | Self::Guest => false,
        }
    }
}

/// What the catalogue knows of a token; never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenRecord {
    pub id: TokenId,
    pub person: PersonId,
    pub name: String,
    #[serde(flatten)]
    pub limits: TokenLimits,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// None: made before this was kept.
    pub created_by: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    pub revoked_by: Option<String>,
    /// The token that was made in its place; it works on until it expires.
    pub replaced_by: Option<TokenId>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    #[schema(value_type = Option<String>, format = "ip")]
    pub last_used_from: Option<IpAddr>,
    /// HMAC-SHA-256 of the secret under the pepper; never leaves the process.
    #[serde(skip)]
    pub mac: [u8; 32],
}

impl TokenRecord {
    /// Whether it is neither expired nor revoked.
    #[must_use]
    pub fn is_live(&self, now: OffsetDateTime) -> bool {
        self.revoked_at.is_none() && self.expires_at > now
    }
}

/// A token as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    pub name: String,
    pub expires_at: OffsetDateTime,
    pub limits: TokenLimits,
}

/// What is to change in a token; none: as it is.
#[derive(Debug, Clone, Default)]
pub struct TokenChange {
    pub name: Option<String>,
    pub expires_at: Option<OffsetDateTime>,
    pub scopes: Option<BTreeSet<TokenScope>>,
    pub tenants: Option<BTreeSet<TenantRef>>,
    pub roles: Option<BTreeSet<RoleName>>,
}

/// What an administrator wrote: member → role, until when, from where, on branches only or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rule {
    pub id: RuleId,
    pub tenant: TenantRef,
    pub person: PersonId,
    pub role: RoleName,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Client networks the rule holds in; empty: anywhere.
    #[schema(value_type = Vec<String>, example = json!(["10.0.0.0/8"]))]
    pub networks: Vec<IpNet>,
    pub reach: RuleReach,
    pub reason: Option<String>,
    pub created_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuleReach {
    Everywhere,
    BranchesOnly,
}

/// A rule as an administrator asks for it; id, author and time are the catalogue's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRule {
    pub role: RoleName,
    pub expires_at: OffsetDateTime,
    pub networks: Vec<IpNet>,
    pub reach: RuleReach,
    pub reason: Option<String>,
}

/// What is to change in a rule; none: as it is.
#[derive(Debug, Clone, Default)]
pub struct RuleChange {
    pub expires_at: Option<OffsetDateTime>,
    pub networks: Option<Vec<IpNet>>,
    pub reach: Option<RuleReach>,
    pub reason: Option<Option<String>>,
}

/// Everything that decides whether a token may use a role of a tenant, read in one transaction.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The catalogue's revision that the rest was read at.
    pub revision: Revision,
    pub tenant: Option<Arc<Tenant>>,
    /// For a branch: its parent, some of whose word holds for its branches too.
    pub parent: Option<Arc<Tenant>>,
    pub token: Option<TokenRecord>,
    pub person: Option<Person>,
    /// What the person is to the tenant or, for a branch, to its parent.
    pub standing: Option<Standing>,
    /// The person's rules for the role: the tenant's own and, for a branch, its parent's.
    pub rules: Vec<Rule>,
}

/// How a role's password is known to us.
#[derive(Clone)]
pub enum RoleSecret {
    /// `SCRAM-SHA-256$…`, as in `pg_authid.rolpassword`.
    Verifier(Zeroizing<String>),
    Password(Zeroizing<String>),
}

/// One line of the audit trail, before it is chained and stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// What happened, as `noun.verb`: `auth.succeeded`, `auth.denied`, `session.ended`, `rule.removed`…
    pub kind: String,
    pub outcome: Outcome,
    /// Machine-readable cause, e.g. `no_rule`, `revoked`, `expired`.
    pub reason: Option<String>,
    /// Who did it: `person:<id>`, `admin-key`, `cli`, `role:<name>`, `system`.
    pub actor: String,
    pub tenant: Option<TenantRef>,
    pub person: Option<PersonId>,
    pub role: Option<RoleName>,
    pub session: Option<SessionId>,
    pub token: Option<TokenId>,
    pub peer: Option<String>,
    /// Whatever else belongs to this kind of event; never a secret.
    pub detail: serde_json::Value,
}

impl AuditEvent {
    /// An event that says only what happened, how it ended and who did it; the rest is filled in by name.
    #[must_use]
    pub fn new(kind: impl Into<String>, outcome: Outcome, actor: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            outcome,
            reason: None,
            actor: actor.into(),
            tenant: None,
            person: None,
            role: None,
            session: None,
            token: None,
            peer: None,
            detail: serde_json::Value::Null,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Success,
    Failure,
}

/// An audit event as it stands in the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditRow {
    pub seq: i64,
    pub id: uuid::Uuid,
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    #[serde(flatten)]
    pub event: AuditEvent,
    /// The person's address when it happened: they may be gone since.
    pub email: Option<String>,
    /// Of the token, also when that is gone.
    pub fingerprint: Option<Fingerprint>,
    /// Hex SHA-256 of the row before this one.
    pub prev_hash: String,
    /// Hex SHA-256 over `prev_hash` and this row's canonical bytes.
    pub hash: String,
}

/// Every [`AuditEvent::kind`] there is.
pub const AUDIT_KINDS: &[&str] = &[
    "access.disabled",
    "access.enabled",
    "access.revoked",
    "admin.denied",
    "audit.gap",
    "audit.pruned",
    "auth.denied",
    "auth.succeeded",
    "guard_key.created",
    "invite.accepted",
    "invite.created",
    "invite.refused",
    "invite.revoked",
    "member.removed",
    "member.set",
    "node.reloaded",
    "node.started",
    "node.stopped",
    "person.created",
    "person.removed",
    "role_secret.removed",
    "role_secret.set",
    "rule.changed",
    "rule.created",
    "rule.removed",
    "session.ended",
    "session.terminated",
    "tenant.created",
    "tenant.removed",
    "tenant.updated",
    "token.changed",
    "token.created",
    "token.first_use_from_new_address",
    "token.leaked",
    "token.revoked",
    "token.rotated",
    "webhook_key.created",
];

/// A session that was in at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Presence {
    /// The row of its login.
    pub start: AuditRow,
    pub end: PresenceEnd,
}

/// Until when a session was in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PresenceEnd {
    /// It still is.
    Open,
    Ended {
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
        reason: Option<String>,
    },
    /// The process died before it could write the end down.
    NotRecorded {
        /// When Sluice was started again.
        #[serde(with = "time::serde::rfc3339::option")]
        before: Option<OffsetDateTime>,
    },
}

/// Which audit rows to read.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub tenant: Option<TenantRef>,
    pub person: Option<PersonId>,
    /// Rows about whoever has or had this address, in lower case.
    pub email: Option<String>,
    pub kind: Option<String>,
    pub session: Option<SessionId>,
    pub fingerprint: Option<Fingerprint>,
    /// Rows of this moment and later.
    pub since: Option<OffsetDateTime>,
    /// Rows of this moment and earlier.
    pub until: Option<OffsetDateTime>,
    /// Rows with a smaller `seq` only, for paging.
    pub before: Option<i64>,
    /// Rows with a greater `seq` only, for paging.
    pub after: Option<i64>,
    pub order: AuditOrder,
    /// At most this many rows; 100 unless told, 1000 at most.
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AuditOrder {
    #[default]
    NewestFirst,
    OldestFirst,
}
