//! pg_ident.conf: which certificate becomes which role (threat 27).
//!
//! The map is judged by what it does. A certificate that we would mint must get its role, and a number of names that
//! differ from it in one point must not: another tenant's, another role's, more in front or behind. The server
//! evaluates the expressions itself.

use serde::Deserialize;

use super::{
    report::{Addition, Findings, Topic, Verdict},
    roles::Role,
    session::{Session, Unanswered},
};
use crate::names::TenantRef;

const MAPPINGS: &str =
    "SELECT pg_catalog.to_json(m)::text FROM pg_catalog.pg_ident_file_mappings m";

/// Whether `$1` fits the expression `$2`, and its first captured part.
const FITS: &str =
    "SELECT ($1::text ~ $2::text)::text, (pg_catalog.regexp_match($1::text, $2::text))[1]";

/// From this version on the third column knows `all`, `+group` and expressions.
const KEYWORDS_SINCE: u32 = 16;

/// Grant and person of the names that are tried.
const GRANT: &str = "00000000000000000000000000000000";
const PERSON: &str = "00000000-0000-0000-0000-000000000000";
/// A role that names are tried with; it need not exist.
const STRANGER: &str = "sluice_doctor";

/// A row of `pg_ident_file_mappings`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Mapping {
    line_number: i64,
    map_name: Option<String>,
    sys_name: Option<String>,
    pg_username: Option<String>,
    error: Option<String>,
}

/// A certificate's name as PostgreSQL shows it to the map.
struct Name {
    text: String,
    /// What is wrong with it; `None`: it is one of ours.
    fault: Option<&'static str>,
}

/// The line that a tenant's map needs.
pub(super) fn line(map: &str, tenant: &TenantRef) -> Addition {
    let expression = format!(
        "^O={tenant},OU=g-[0-9a-f]{{32}},OU=r-([a-z_][a-z0-9_$]*),UID=[A-Za-z0-9._@-]{{1,200}}$"
    );
    Addition::new(
        format!("pg_ident.conf, as the only line of map {map} for this tenant"),
        [format!(r#"{map} "/{expression}" \1"#)],
    )
}

pub(super) async fn read(session: &mut Session) -> Result<Vec<Mapping>, Unanswered> {
    session.records(MAPPINGS, &[]).await
}

/// Notes lines that PostgreSQL cannot read: with one of them it goes on with the old file.
pub(super) fn note_errors(mappings: &[Mapping], findings: &mut Findings) {
    for mapping in mappings {
        if let Some(error) = &mapping.error {
            let place = mapping.line_number;
            let message = format!(
                "pg_ident.conf line {place}: {error}; PostgreSQL goes on with the old file"
            );
            findings.note(Topic::IdentMap, Verdict::Failed, message);
        }
    }
}

/// Tries the lines of `map` for `role`.
pub(super) async fn examine(
    session: &mut Session,
    mappings: &[Mapping],
    map: &str,
    tenant: &TenantRef,
    role: &Role,
    findings: &mut Findings,
) -> Result<(), Unanswered> {
    let lines: Vec<_> = mappings
        .iter()
        .filter(|mapping| mapping.map_name.as_deref() == Some(map))
        .collect();
    let mut found_own = false;
    let mut is_safe = true;
    for name in names(tenant, &role.name) {
        for mapping in &lines {
            if !admits(session, mapping, &name.text, role).await? {
                continue;
            }
            let Some(fault) = name.fault else {
                found_own = true;
                continue;
            };
            is_safe = false;
            let message = format!(
                "pg_ident.conf line {} lets {fault} in as {}: {}",
                mapping.line_number, role.name, name.text
            );
            findings
                .note(Topic::IdentMap, Verdict::Unsafe, message)
                .add(line(map, tenant));
        }
    }
    if !found_own {
        let message = format!(
            "map {map} of pg_ident.conf does not turn our certificate for {} into that role",
            role.name
        );
        findings
            .note(Topic::IdentMap, Verdict::Failed, message)
            .add(line(map, tenant));
    } else if is_safe {
        let message = format!(
            "map {map} lets {} in with our certificate for it and with no other that was tried",
            role.name
        );
        findings.note(Topic::IdentMap, Verdict::Ok, message);
    }
    Ok(())
}

fn names(tenant: &TenantRef, role: &str) -> Vec<Name> {
    let name = |tenant: &str, role: &str, person: &str| {
        format!("O={tenant},OU=g-{GRANT},OU=r-{role},UID={person}")
    };
    let own = name(tenant.as_str(), role, PERSON);
    let wrong = |text: String, fault| Name {
        text,
        fault: Some(fault),
    };
    let hidden = format!(r"{PERSON}\,OU=r-{role}\,UID={PERSON}");
    vec![
        wrong(
            name(&format!("{tenant}x"), role, PERSON),
            "another tenant's certificate",
        ),
        wrong(
            name(tenant.as_str(), STRANGER, PERSON),
            "a certificate for another role",
        ),
        wrong(
            name(tenant.as_str(), &format!("{role}x"), PERSON),
            "a certificate for a role with a longer name",
        ),
        wrong(
            name(tenant.as_str(), STRANGER, &hidden),
            "a certificate whose person holds the name of another role",
        ),
        wrong(format!("CN=x,{own}"), "a certificate with more in front"),
        wrong(format!("{own},CN=x"), "a certificate with more behind"),
        Name {
            text: own,
            fault: None,
        },
    ]
}

/// Whether a line lets a certificate of this name in as `role`, as PostgreSQL's `check_ident_usermap` does it.
async fn admits(
    session: &mut Session,
    mapping: &Mapping,
    name: &str,
    role: &Role,
) -> Result<bool, Unanswered> {
    let (Some(system), Some(user)) = (&mapping.sys_name, &mapping.pg_username) else {
        return Ok(false);
    };
    let Some(expression) = system.strip_prefix('/') else {
        return Ok(system == name && is_role(session, user, role));
    };
    let rows = session.rows(FITS, &[name, expression]).await?;
    let mut values = rows.into_iter().flatten();
    if values.next().flatten().as_deref() != Some("true") {
        return Ok(false);
    }
    let part = values.next().flatten().unwrap_or_default();
    Ok(if user.contains(r"\1") {
        user.replacen(r"\1", &part, 1) == role.name
    } else {
        is_role(session, user, role)
    })
}

/// Whether the third column names `role`.
fn is_role(session: &Session, user: &str, role: &Role) -> bool {
    let knows_keywords = session
        .connection
        .parameters
        .server_major()
        .is_some_and(|version| version >= KEYWORDS_SINCE);
    user == role.name
        || knows_keywords
            && match user.strip_prefix('+') {
                Some(group) => role.is_in(group),
                // What expression fits which role is not looked into: one that is here at all is too wide.
                None => user == "all" || user.starts_with('/'),
            }
}
