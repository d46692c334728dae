//! What a granted role is and can do: attributes, groups, and ways out of the database (threat 31: COPY … PROGRAM,
//! dblink, foreign servers, server files).

use std::collections::HashSet;

use serde::Deserialize;

use super::{
    report::{Addition, Findings, Topic, Verdict},
    session::{Session, Unanswered},
};
use crate::catalog::types::{BackendLogin, PrivilegedRoles, Tenant};

/// A granted role as the server describes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Role {
    pub(super) name: String,
    /// All that it is a member of, itself included, directly or not.
    pub(super) groups: HashSet<String>,
    /// Expressions of pg_hba.conf that fit its name.
    pub(super) expressions: HashSet<String>,
    /// `None`: we may not know.
    pub(super) has_password: Option<bool>,
}

impl Role {
    pub(super) fn is_in(&self, group: &str) -> bool {
        self.name == group || self.groups.contains(group)
    }
}

/// The role itself and each role that it is a member of, as pg_hba.conf's `+group` sees it: superusers are not
/// members of everything.
const GROUPS: &str = "\
WITH RECURSIVE member(oid) AS (
    SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1
    UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN member ON m.member = member.oid)
SELECT pg_catalog.row_to_json(r)::text FROM (
    SELECT rolname, rolcanlogin, rolsuper, rolreplication, rolcreaterole, rolbypassrls,
           coalesce(rolvaliduntil <= pg_catalog.now(), false) AS is_overdue
    FROM pg_catalog.pg_roles JOIN member USING (oid)) r";

const HAS_PASSWORD: &str =
    "SELECT (rolpassword IS NOT NULL)::text FROM pg_catalog.pg_authid WHERE rolname = $1";

/// Ways out of the database that are not attributes of the role, in words.
const WAYS_OUT: &str = "\
SELECT 'may call ' || p.proname || ' of the extension dblink' FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_depend d ON d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
    WHERE e.extname = 'dblink' AND p.proname IN ('dblink_connect', 'dblink_connect_u')
      AND pg_catalog.has_function_privilege($1::name, p.oid, 'EXECUTE')
UNION SELECT CASE WHEN pg_catalog.pg_get_userbyid(srvowner) = $1::name THEN 'owns' ELSE 'may use' END
        || ' the foreign server ' || srvname
    FROM pg_catalog.pg_foreign_server WHERE pg_catalog.has_server_privilege($1::name, oid, 'USAGE')
UNION SELECT 'may make foreign servers with ' || fdwname
    FROM pg_catalog.pg_foreign_data_wrapper
    WHERE pg_catalog.has_foreign_data_wrapper_privilege($1::name, oid, 'USAGE')
UNION SELECT 'may call ' || p.proname || ', which reaches files of the server'
    FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
      AND p.proname IN ('lo_import', 'lo_export', 'pg_read_file', 'pg_read_binary_file', 'pg_ls_dir')
      AND pg_catalog.has_function_privilege($1::name, p.oid, 'EXECUTE')
ORDER BY 1";

/// A row of [`GROUPS`].
#[derive(Debug, Deserialize)]
struct Membership {
    rolname: String,
    rolcanlogin: bool,
    rolsuper: bool,
    rolreplication: bool,
    rolcreaterole: bool,
    rolbypassrls: bool,
    is_overdue: bool,
}

impl Membership {
    /// What the role's attributes allow.
    fn powers(&self) -> Vec<&'static str> {
        let powers = [
            (
                self.rolsuper,
                "is a superuser: it may do anything, COPY … PROGRAM included",
            ),
            (
                self.rolreplication,
                "may replicate: it reads all that is written",
            ),
            (self.rolcreaterole, "may make roles and grant itself others"),
            (self.rolbypassrls, "is not bound by row security"),
        ];
        powers
            .into_iter()
            .filter_map(|(has, power)| has.then_some(power))
            .collect()
    }
}

/// What being a member of a predefined role allows, and how bad that is.
fn predefined(group: &str) -> Option<(Verdict, &'static str)> {
    Some(match group {
        "pg_execute_server_program" => (
            Verdict::Unsafe,
            "may run programs on the server (COPY … PROGRAM)",
        ),
        "pg_write_server_files" => (Verdict::Unsafe, "may write files of the server"),
        "pg_read_server_files" => (Verdict::Unsafe, "may read files of the server"),
        "pg_write_all_data" => (Verdict::Warning, "may change all data of the database"),
        "pg_read_all_data" => (Verdict::Warning, "may read all data of the database"),
        "pg_signal_backend" => (Verdict::Warning, "may end other people's sessions"),
        "pg_create_subscription" => (Verdict::Warning, "may make subscriptions to other servers"),
        name if name.starts_with("pg_") => {
            (Verdict::Warning, "has the powers of a predefined role")
        }
        _ => return None,
    })
}

/// Looks at `name`, notes what it can do, and answers what else depends on it; `None`: it cannot log in at all.
pub(super) async fn examine(
    session: &mut Session,
    tenant: &Tenant,
    name: &str,
    findings: &mut Findings,
) -> Result<Option<Role>, Unanswered> {
    let members: Vec<Membership> = session.records(GROUPS, &[name]).await?;
    let Some(own) = members
        .iter()
        .find(|member| member.rolname == name && member.rolcanlogin)
    else {
        let message = format!("role {name} is granted, but the server has no such role with LOGIN");
        findings
            .note(Topic::Powers, Verdict::Failed, message)
            .add(Addition::new(
                "SQL, as a superuser",
                [format!("CREATE ROLE {} LOGIN;", quoted(name))],
            ));
        return Ok(None);
    };
    let mut found = Vec::new();
    for member in &members {
        let through = if member.rolname == name {
            String::new()
        } else {
            format!(", as a member of {}", member.rolname)
        };
        let powers = member
            .powers()
            .into_iter()
            .map(|power| (Verdict::Unsafe, power));
        let powers = powers.chain(predefined(&member.rolname));
        found.extend(powers.map(|(verdict, power)| (verdict, format!("{power}{through}"))));
    }
    if !own.rolsuper {
        let ways = session.column(WAYS_OUT, &[name]).await?;
        found.extend(ways.into_iter().map(|way| (Verdict::Warning, way)));
    }
    if own.is_overdue && tenant.login == BackendLogin::Certificate {
        let text = "is past its VALID UNTIL, which PostgreSQL does not look at for certificates";
        found.push((Verdict::Warning, text.to_owned()));
    }
    note_powers(tenant, name, found, findings);
    let has_password = session.column(HAS_PASSWORD, &[name]).await.ok();
    Ok(Some(Role {
        name: name.to_owned(),
        groups: members.into_iter().map(|member| member.rolname).collect(),
        expressions: HashSet::new(),
        has_password: has_password.and_then(|values| Some(values.first()? == "true")),
    }))
}

fn note_powers(
    tenant: &Tenant,
    name: &str,
    found: Vec<(Verdict, String)>,
    findings: &mut Findings,
) {
    if found.is_empty() {
        let message = format!("role {name} has no powers beyond its own tables");
        findings.note(Topic::Powers, Verdict::Ok, message);
    }
    for (verdict, power) in found {
        // The administrator has said that such roles may be granted.
        let verdict = match tenant.privileged_roles {
            PrivilegedRoles::Allow => verdict.min(Verdict::Warning),
            PrivilegedRoles::Refuse => verdict,
        };
        findings.note(Topic::Powers, verdict, format!("role {name} {power}"));
    }
}

/// An identifier as SQL wants it.
pub(super) fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.chars().all(is_plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}
