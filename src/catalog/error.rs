//! What can go wrong with the catalogue: it cannot be opened, it refuses a change, or its storage fails.
//!
//! Refusals are the caller's to mend and are safe to show to an administrator; failures are the operator's.

use std::{fmt, io, path::PathBuf};

use crate::{
    catalog::token::NoRandomness,
    names::{PersonId, RoleName, TenantRef},
};

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    // Opening.
    #[error(
        "the catalogue's folder {} does not exist: create it, or set `path` in [catalog] to another one",
        .folder.display()
    )]
    FolderMissing { folder: PathBuf },
    #[error(
        "the catalogue {} cannot be read and written by this user: check the owner and mode of the file and its folder",
        .path.display()
    )]
    Inaccessible { path: PathBuf, source: io::Error },
    #[error(
        "the catalogue {} is in use by another Sluice: stop that one first, or set `path` in [catalog] to another one",
        .path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "{} is not a Sluice catalogue: set `path` in [catalog] to a catalogue, or to a file that does not exist yet",
        .path.display()
    )]
    NotACatalogue { path: PathBuf },
    #[error(
        "the catalogue {} was written by a newer Sluice: run that version, or restore an older copy",
        .path.display()
    )]
    NewerSchema { path: PathBuf },
    #[error("the catalogue {} cannot be brought to this version's schema", .path.display())]
    Migration {
        path: PathBuf,
        source: Box<sqlx::migrate::MigrateError>,
    },
    #[error(
        "the catalogue {} was made with another master key: give the key that it was made with",
        .path.display()
    )]
    WrongMasterKey { path: PathBuf },
    #[error("the catalogue's writer thread cannot be started")]
    WriterNotStarted(#[source] io::Error),

    // Refusals.
    #[error("there is no {what} `{name}`")]
    NotFound { what: What, name: String },
    #[error("{what} `{name}` exists already")]
    Exists { what: What, name: String },
    #[error("person {person} is not a member of tenant `{tenant}`: add the membership first")]
    NotAMember { tenant: TenantRef, person: PersonId },
    #[error(
        "role `{role}` is privileged and tenant `{tenant}` does not allow such roles to be granted"
    )]
    PrivilegedRole { tenant: TenantRef, role: RoleName },
    #[error("`{email}` is a member of tenant `{tenant}` already")]
    MemberAlready { tenant: TenantRef, email: String },
    /// No such invitation, a wrong token, another address or tenant: one answer, so that nothing is given away.
    #[error("the invitation is not valid")]
    InviteNotValid,
    #[error("the invitation was accepted already")]
    InviteUsed,
    #[error("the invitation has expired")]
    InviteExpired,
    #[error("role `{role}` is named twice")]
    RoleTwice { role: RoleName },
    #[error("the expiry is in the past")]
    ExpiryInThePast,
    #[error("the expiry is more than {max_days} days ahead")]
    ExpiryTooFar { max_days: i64 },
    #[error("tenant `{tenant}` has branches: remove them first")]
    HasBranches { tenant: TenantRef },
    #[error("`{parent}` is itself a branch (or the tenant itself) and cannot be a parent")]
    BranchOfBranch { parent: TenantRef },
    #[error("{field} {problem}")]
    Invalid {
        field: &'static str,
        problem: &'static str,
    },

    // Failures.
    #[error("the stored secret of role `{role}` of tenant `{tenant}` does not open: set it again")]
    SecretUnreadable { tenant: TenantRef, role: RoleName },
    #[error("a secret could not be encrypted")]
    SecretUnsealable,
    #[error("column `{column}` of the catalogue holds something it cannot hold")]
    Corrupt { column: &'static str },
    #[error("old rows of the audit trail are not as they were written: see `sluice audit verify`")]
    TrailDamaged,
    #[error("the audit event could not be stored")]
    NotRecorded,
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error("the catalogue is closed")]
    Closed,
    #[error("the catalogue's storage failed")]
    Storage(#[from] sqlx::Error),
}

/// The kinds of thing that a refusal speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Invite,
    Member,
    Parent,
    Person,
    RoleSecret,
    Rule,
    /// Any rule at all of a person.
    RuleOf,
    Tenant,
    Token,
}

impl CatalogError {
    pub(super) fn missing(what: What, name: impl fmt::Display) -> Self {
        Self::NotFound {
            what,
            name: name.to_string(),
        }
    }

    pub(super) fn exists(what: What, name: impl fmt::Display) -> Self {
        Self::Exists {
            what,
            name: name.to_string(),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invite => "invitation",
            Self::Member => "member",
            Self::Parent => "parent tenant",
            Self::Person => "person",
            Self::RoleSecret => "secret of role",
            Self::Rule => "rule",
            Self::RuleOf => "rule of person",
            Self::Tenant => "tenant",
            Self::Token => "token",
        })
    }
}
