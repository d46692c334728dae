//! What an examination found: one finding per thing looked at, with the exact lines that would mend it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::{DatabaseName, TenantRef};

/// How a thing was found, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Works, but not as well as it could; or it cannot be looked at.
    Warning,
    /// Does not work: somebody who should get in does not.
    Failed,
    /// Somebody may get in, or do more, than the rules say.
    Unsafe,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    Server,
    Tls,
    Version,
    Clock,
    AuthQuery,
    /// Which line of pg_hba.conf our own logins meet.
    HostRules,
    /// The lines of pg_ident.conf that turn certificates into roles.
    IdentMap,
    /// Other ways into a granted role.
    SideDoors,
    /// What a granted role can do.
    Powers,
    /// Logins that were tried.
    Login,
    Logging,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    pub topic: Topic,
    pub verdict: Verdict,
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<Addition>,
}

/// Lines that mend what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Addition {
    /// A file, `SQL` or a command line, and where in it.
    pub to: String,
    pub lines: Vec<String>,
}

/// What was found of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    pub tenant: TenantRef,
    /// The worst of the findings.
    pub verdict: Verdict,
    pub findings: Vec<Finding>,
}

impl Addition {
    pub(super) fn new(
        to: impl Into<String>,
        lines: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            to: to.into(),
            lines: lines.into_iter().map(Into::into).collect(),
        }
    }

    /// Privileges on the catalogues are a database's own.
    pub(super) fn sql(
        database: &DatabaseName,
        lines: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self::new(
            format!("SQL, as a superuser in the database {database}"),
            lines,
        )
    }
}

/// Findings as they come in.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn note(
        &mut self,
        topic: Topic,
        verdict: Verdict,
        message: impl Into<String>,
    ) -> &mut Finding {
        let finding = Finding {
            topic,
            verdict,
            message: message.into(),
            add: Vec::new(),
        };
        self.0.push(finding);
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    pub(super) fn into_report(self, tenant: TenantRef) -> Report {
        let worst = self.0.iter().map(|finding| finding.verdict).max();
        Report {
            tenant,
            verdict: worst.unwrap_or(Verdict::Ok),
            findings: self.0,
        }
    }
}

impl Finding {
    pub(super) fn add(&mut self, addition: Addition) -> &mut Self {
        self.add.push(addition);
        self
    }
}
