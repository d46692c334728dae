//! What a role is on the server that has to do with more than its own tables: asked of the server itself, for a role's
//! name says nothing.

use std::{io, time::Duration};

use super::{ConnectError, Connection};

/// Asks whether a role, or any that it is a member of and may become, is a superuser, replicates or makes roles.
/// `role` is an expression of the role's name. Operators are named in full: the role may have some of its own.
pub fn privileged_sql(role: &str) -> String {
    format!(
        "WITH RECURSIVE member(id) AS ( \
           SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) {role} \
           UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m \
             JOIN member ON m.member OPERATOR(pg_catalog.=) member.id) \
         SELECT pg_catalog.bool_or(rolsuper OR rolreplication OR rolcreaterole)::text \
         FROM pg_catalog.pg_roles JOIN member ON oid OPERATOR(pg_catalog.=) member.id"
    )
}

/// Whether the role that `connection` has logged in as is such a one.
pub async fn is_privileged(
    connection: &mut Connection,
    limit: Duration,
) -> Result<bool, ConnectError> {
    let unanswered = |why: String| ConnectError::Broken(io::Error::other(why));
    let sql = privileged_sql("session_user");
    let reply = connection
        .query(&sql, limit)
        .await
        .map_err(|error| unanswered(error.to_string()))?;
    if let Some(error) = reply.error {
        return Err(ConnectError::Refused(error));
    }
    let told = reply
        .rows
        .into_iter()
        .next()
        .and_then(|row| row.into_iter().next());
    match told.flatten().as_deref() {
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        _ => Err(unanswered(
            "the server does not say what the role is".to_owned(),
        )),
    }
}
