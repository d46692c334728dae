//! Where a client wants to go: tenant, database, role and how it means to log in. A pure function.
//!
//! | the tenant comes from | for example |
//! |---|---|
//! | `reference` in `options` | `user=app options=reference=ref` |
//! | the user name, after its last dot | `user=app.ref` |
//! | the server name of TLS | `user=app`, host `ref.pooler.example.com` or `db.ref.example.com` |

use crate::{
    names::{DatabaseName, NameError, RoleName, TenantRef},
    protocol::{options::boolean, startup::Startup},
};

/// How the client means to prove itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    Password,
    Token,
}

/// What a startup packet asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// `None`: no well-formed ref is named anywhere; answered like an unknown one.
    pub(super) tenant: Option<TenantRef>,
    pub(super) role: RoleName,
    pub(super) database: Option<DatabaseName>,
    pub(super) mode: Mode,
    /// The settings the client asked for, those of `options` first: a later one of the same name counts.
    pub(super) settings: Vec<(String, String)>,
}

/// Reads the route off a startup packet and the TLS server name.
pub(super) fn route(startup: &Startup, sni: Option<&str>) -> Result<Route, NameError> {
    let mut mode = Mode::Password;
    let mut reference = None;
    let mut settings = Vec::new();
    // Of two settings of one name the later one counts, as in PostgreSQL.
    for (name, value) in startup.options.iter().chain(&startup.parameters) {
        match name.as_str() {
            // Only a yes asks for token mode: `jit=off` is PostgreSQL's own setting and stays one.
            "jit" if boolean(value) == Some(true) => mode = Mode::Token,
            "jit" => {
                mode = Mode::Password;
                settings.push((name.clone(), value.clone()));
            }
            "reference" => reference = Some(value.as_str()),
            _ => settings.push((name.clone(), value.clone())),
        }
    }
    let (role, tenant) = match reference {
        Some(reference) => (startup.user.as_str(), TenantRef::parse(reference).ok()),
        None => split_user(&startup.user, sni),
    };
    Ok(Route {
        tenant,
        role: RoleName::parse(role)?,
        database: named_database(startup)
            .map(DatabaseName::parse)
            .transpose()?,
        mode,
        settings,
    })
}

/// A client that is told no database asks for one named like the user: with us, that is `role.ref` and means none.
fn named_database(startup: &Startup) -> Option<&str> {
    startup
        .database
        .as_deref()
        .filter(|database| *database != startup.user)
}

fn split_user<'a>(user: &'a str, sni: Option<&str>) -> (&'a str, Option<TenantRef>) {
    if let Some((role, suffix)) = user.rsplit_once('.')
        && !role.is_empty()
        && let Ok(tenant) = TenantRef::parse(suffix)
    {
        return (role, Some(tenant));
    }
    (user, sni.and_then(tenant_of_host))
}

/// The ref in a server name: its first label, or the second of `db.{ref}.…`.
fn tenant_of_host(host: &str) -> Option<TenantRef> {
    let host = host.to_ascii_lowercase();
    let mut labels = host.split('.');
    let first = labels.next()?;
    let label = if first == "db" { labels.next()? } else { first };
    // A bare host name such as `localhost` names no tenant.
    labels.next()?;
    TenantRef::parse(label).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        options,
        startup::{ProtocolVersion, Replication},
    };

    fn startup(user: &str, option_text: &str) -> Startup {
        Startup {
            version: ProtocolVersion::V3_0,
            user: user.to_owned(),
            database: Some("app".to_owned()),
            options: options::parse(option_text).unwrap(),
            parameters: vec![("application_name".to_owned(), "psql".to_owned())],
            replication: Replication::No,
            unknown_protocol_options: Vec::new(),
        }
    }

    fn tenant(user: &str, option_text: &str, sni: Option<&str>) -> (String, Option<String>) {
        let route = route(&startup(user, option_text), sni).unwrap();
        (
            route.role.to_string(),
            route.tenant.map(|tenant| tenant.to_string()),
        )
    }

    #[test]
    fn the_tenant_is_found_wherever_it_is_named() {
        let named = |role: &str, tenant: &str| (role.to_owned(), Some(tenant.to_owned()));
        assert_eq!(tenant("app.demo", "", None), named("app", "demo"));
        assert_eq!(tenant("a.b.demo", "", None), named("a.b", "demo"));
        assert_eq!(tenant("app", "reference=demo", None), named("app", "demo"));
        assert_eq!(
            tenant("a.b", "reference=demo", Some("x.example.com")),
            named("a.b", "demo")
        );
        assert_eq!(
            tenant("app", "", Some("demo.pooler.example.com")),
            named("app", "demo")
        );
        assert_eq!(
            tenant("app", "", Some("DB.Demo.example.com")),
            named("app", "demo")
        );
        assert_eq!(
            tenant("app", "", Some("localhost")),
            ("app".to_owned(), None)
        );
        assert_eq!(tenant("app", "", None), ("app".to_owned(), None));
        assert_eq!(tenant(".demo", "", None), (".demo".to_owned(), None));
    }

    #[test]
    fn a_database_named_like_the_user_is_none_at_all() {
        let mut unnamed = startup("app.demo", "");
        unnamed.database = Some("app.demo".to_owned());
        assert_eq!(route(&unnamed, None).unwrap().database, None);
    }

    #[test]
    fn token_mode_is_asked_for_by_any_yes_and_the_option_is_consumed() {
        for text in ["-c jit=true", "-cjit=on", "--jit=YES", "-c jit=1"] {
            let route = route(&startup("app.demo", text), None).unwrap();
            assert_eq!(route.mode, Mode::Token, "{text}");
            assert!(route.settings.iter().all(|(name, _)| name != "jit"));
        }
        for text in ["-c jit=off", "-c jit=false", "-c jit=on -c jit=off", ""] {
            let route = route(&startup("app.demo", text), None).unwrap();
            assert_eq!(route.mode, Mode::Password, "{text}");
        }
        let off = route(&startup("app.demo", "-c jit=off"), None).unwrap();
        assert!(off.settings.contains(&("jit".to_owned(), "off".to_owned())));
    }
}
