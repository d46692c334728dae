//! From the fields of a request to a tenant: defaults for a new one, the old values for a changed one.

use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use time::OffsetDateTime;

use super::{
    error::ApiError,
    values::{TenantFields, TimeoutFields},
};
use crate::catalog::types::{
    Authority, BackendLogin, BackendTls, ClientTls, PrivilegedRoles, Tenant, TenantTimeouts,
    TokenAccess,
};

/// PostgreSQL's own.
const DEFAULT_PORT: u16 = 5432;

/// The tenant that `fields` describe, with the cautious choice wherever they are silent.
pub(super) fn new_tenant(mut fields: TenantFields) -> Result<Tenant, ApiError> {
    let name = fields
        .tenant
        .take()
        .ok_or_else(|| ApiError::invalid("`ref` is missing"))?;
    let host = fields
        .host
        .take()
        .ok_or_else(|| ApiError::invalid("`host` is missing"))?;
    let parent = fields.parent.take();
    let tenant = Tenant {
        name: name.to_string(),
        tenant: name,
        host,
        port: DEFAULT_PORT,
        default_database: None,
        backend_tls: BackendTls::VerifyFull,
        backend_ca: None,
        login: BackendLogin::Certificate,
        auth_user: None,
        auth_query: None,
        auth_database: None,
        pool_size: None,
        backend_budget: None,
        max_clients: None,
        timeouts: TenantTimeouts::default(),
        client_tls: ClientTls::Allow,
        token_access: TokenAccess::Disabled,
        authority: match parent {
            Some(_) => Authority::Parent,
            None => Authority::Catalogue,
        },
        parent,
        privileged_roles: PrivilegedRoles::Refuse,
        networks: Vec::new(),
        created_at: OffsetDateTime::now_utc(),
    };
    changed(tenant, fields)
}

/// `old` with what `fields` name.
pub(super) fn changed(old: Tenant, fields: TenantFields) -> Result<Tenant, ApiError> {
    if fields.tenant.is_some_and(|name| name != old.tenant) {
        return Err(ApiError::invalid(
            "a tenant keeps its `ref`; add another tenant instead",
        ));
    }
    if fields.parent.is_some() && fields.parent != old.parent {
        return Err(ApiError::invalid(
            "a tenant keeps its `parent`; add another tenant instead",
        ));
    }
    let tenant = Tenant {
        name: fields.name.unwrap_or(old.name),
        host: fields.host.unwrap_or(old.host),
        port: fields.port.unwrap_or(old.port),
        default_database: fields.default_database.unwrap_or(old.default_database),
        backend_tls: fields.backend_tls.unwrap_or(old.backend_tls),
        backend_ca: fields.backend_ca.unwrap_or(old.backend_ca),
        login: fields.login.unwrap_or(old.login),
        auth_user: fields.auth_user.unwrap_or(old.auth_user),
        auth_query: fields.auth_query.unwrap_or(old.auth_query),
        auth_database: fields.auth_database.unwrap_or(old.auth_database),
        pool_size: fields.pool_size.unwrap_or(old.pool_size),
        backend_budget: fields.backend_budget.unwrap_or(old.backend_budget),
        max_clients: fields.max_clients.unwrap_or(old.max_clients),
        timeouts: timeouts(old.timeouts, fields.timeouts),
        client_tls: fields.client_tls.unwrap_or(old.client_tls),
        token_access: fields.token_access.unwrap_or(old.token_access),
        authority: fields.authority.unwrap_or(old.authority),
        privileged_roles: fields.privileged_roles.unwrap_or(old.privileged_roles),
        networks: fields.networks.unwrap_or(old.networks),
        tenant: old.tenant,
        parent: old.parent,
        created_at: old.created_at,
    };
    check(&tenant)?;
    Ok(tenant)
}

fn timeouts(old: TenantTimeouts, fields: TimeoutFields) -> TenantTimeouts {
    TenantTimeouts {
        queue: fields.queue.unwrap_or(old.queue),
        idle: fields.idle.unwrap_or(old.idle),
        idle_in_transaction: fields
            .idle_in_transaction
            .unwrap_or(old.idle_in_transaction),
        query: fields.query.unwrap_or(old.query),
        transaction: fields.transaction.unwrap_or(old.transaction),
    }
}

/// What could only fail at the first login otherwise; the catalogue checks the rest.
fn check(tenant: &Tenant) -> Result<(), ApiError> {
    let is_plain =
        tenant.backend_tls == BackendTls::Disable && tenant.login == BackendLogin::RoleSecret;
    if tenant.is_on_unix_socket() && !is_plain {
        return Err(
            ApiError::invalid("PostgreSQL does not encrypt on a Unix socket, and `host` is the folder of one").with_hint(
                "set backend_tls to disable and login to role_secret: the other ways to log in need TLS",
            ),
        );
    }
    if tenant.login == BackendLogin::Certificate && tenant.backend_tls == BackendTls::Disable {
        return Err(
            ApiError::invalid("login by certificate needs TLS towards the server")
                .with_hint("set backend_tls to require or stricter, or login to role_secret"),
        );
    }
    if tenant.login == BackendLogin::PassThrough && !tenant.backend_tls.is_verified() {
        return Err(ApiError::invalid(
            "login by passthrough needs TLS towards a server that proves who it is: it is told the token",
        )
        .with_hint("set backend_tls to verify-full"));
    }
    tenant
        .backend_ca
        .as_deref()
        .map_or(Ok(()), check_authorities)
}

fn check_authorities(pem: &str) -> Result<(), ApiError> {
    let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    let good = certificates.next().is_some_and(|first| first.is_ok())
        && certificates.all(|rest| rest.is_ok());
    good.then_some(()).ok_or_else(|| {
        ApiError::invalid("`backend_ca` must hold certificates in PEM form, nothing else")
            .with_hint("a PEM certificate starts with -----BEGIN CERTIFICATE-----")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::types::TimeLimit;

    fn fields(json: serde_json::Value) -> TenantFields {
        serde_json::from_value(json).unwrap()
    }

    fn demo() -> Tenant {
        new_tenant(fields(
            serde_json::json!({"ref": "demo", "host": "db.example.com"}),
        ))
        .unwrap()
    }

    #[test]
    fn a_new_tenant_is_cautious_where_the_request_is_silent() {
        let tenant = demo();
        assert_eq!((tenant.name.as_str(), tenant.port), ("demo", 5432));
        assert_eq!(tenant.backend_tls, BackendTls::VerifyFull);
        assert_eq!(tenant.token_access, TokenAccess::Disabled);
        assert_eq!(tenant.privileged_roles, PrivilegedRoles::Refuse);
    }

    #[test]
    fn null_clears_and_silence_keeps() {
        let tenant = changed(
            demo(),
            fields(serde_json::json!({"pool_size": 5, "auth_user": "sluice_auth"})),
        )
        .unwrap();
        assert_eq!(tenant.pool_size, Some(5));
        let tenant = changed(tenant, fields(serde_json::json!({"pool_size": null}))).unwrap();
        assert_eq!(tenant.pool_size, None);
        assert_eq!(tenant.auth_user.unwrap().as_str(), "sluice_auth");
    }

    #[test]
    fn timeouts_change_one_by_one() {
        let set = |old, json| changed(old, fields(serde_json::json!({"timeouts": json}))).unwrap();
        let tenant = set(demo(), serde_json::json!({"query": "30s", "idle": "off"}));
        let tenant = set(tenant, serde_json::json!({"query": null}));
        assert_eq!(tenant.timeouts.query, None);
        assert_eq!(tenant.timeouts.idle, Some(TimeLimit::Off));
    }

    #[test]
    fn what_could_never_work_is_refused_with_the_field_named() {
        for (json, said) in [
            (serde_json::json!({"backend_tls": "disable"}), "needs TLS"),
            (
                serde_json::json!({"backend_tls": "require", "login": "passthrough"}),
                "proves who it is",
            ),
            (
                serde_json::json!({"backend_ca": "not a certificate"}),
                "`backend_ca`",
            ),
            (serde_json::json!({"ref": "other"}), "`ref`"),
            (serde_json::json!({"parent": "other"}), "`parent`"),
        ] {
            let refused = changed(demo(), fields(json)).unwrap_err();
            assert!(refused.message.contains(said), "{}", refused.message);
        }
    }
}
