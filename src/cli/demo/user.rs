//! The operating-system user that runs PostgreSQL, which refuses to run as root.

use std::{ffi::OsStr, fs, io, os::unix::fs::chown, path::Path};

use tokio::process::Command;

/// Users that may run PostgreSQL when we are root, the better first: Debian's own, then the one that owns nothing.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];
const ACCOUNTS: &str = "/etc/passwd";

#[derive(Debug, thiserror::Error)]
pub(super) enum UserError {
    #[error(
        "PostgreSQL does not run as root, and {ACCOUNTS} has neither of the users postgres and nobody"
    )]
    Nobody,
    #[error("cannot read {ACCOUNTS}: {0}")]
    Accounts(#[source] io::Error),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum User {
    /// Whoever runs the demo.
    Ourselves,
    Other {
        name: String,
        uid: u32,
        gid: u32,
    },
}

impl User {
    pub(super) fn for_postgres() -> Result<Self, UserError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Ourselves);
        }
        let accounts = fs::read_to_string(ACCOUNTS).map_err(UserError::Accounts)?;
        CANDIDATES
            .iter()
            .find_map(|name| find(&accounts, name))
            .ok_or(UserError::Nobody)
    }

    /// `program` as this user; it gets the signal `end_by` when the thread that starts it ends.
    pub(super) fn command(&self, program: impl AsRef<OsStr>, end_by: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", end_by]);
        if let Self::Other { uid, gid, .. } = self {
            command.arg(format!("--reuid={uid}"));
            command.arg(format!("--regid={gid}"));
            command.arg("--clear-groups");
        }
        command.arg("--").arg(program);
        command
    }

    /// Makes `path` this user's.
    pub(super) fn own(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Other { uid, gid, .. } => chown(path, Some(*uid), Some(*gid)),
        }
    }

    /// As whom PostgreSQL runs, for messages.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Ourselves => "the current user",
            Self::Other { name, .. } => name,
        }
    }
}

fn find(accounts: &str, wanted: &str) -> Option<User> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| *name == wanted)?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(User::Other {
            name: name.to_owned(),
            uid,
            gid,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let accounts = "root:x:0:0:root:/root:/bin/bash\nnobody2:x:7:7::/:/bin/sh\nnobody:x:65534:65533::/:/bin/sh\n";
        let nobody = User::Other {
            name: "nobody".to_owned(),
            uid: 65534,
            gid: 65533,
        };
        assert_eq!(find(accounts, "nobody"), Some(nobody));
        assert_eq!(find(accounts, "postgres"), None);
    }
}
