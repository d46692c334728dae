//! What must hold of the values, beyond their types.

use std::{fs::File, io, path::Path, time::Duration};

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{
    Admin, AuthoritySettings, Config, Limits, Listen, Net, Pool, Timeouts, TokenAccessSettings,
    document::Places,
    error::{ConfigError, Problem},
    file,
    key::{OPERATOR_KEY_FILE, VIEWER_KEY_FILE},
};

/// More threads than this help nobody.
const WORKERS_MAX: usize = 1_024;
/// A deadline beyond this would outlive what is remembered of revocations.
pub const AUTHORITY_DEADLINE_MAX: Duration = Duration::from_secs(60);
/// A certificate that outlives its session this long could be used without us.
const CERTIFICATE_LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

const TLS_REMEDY: &str = "correct the path, or leave out both keys of [tls] to serve without TLS";
const AUTHORITY_REMEDY: &str =
    "correct the path, or leave out both keys to serve without minted certificates";

type Checked = Result<(), ConfigError>;

/// Keys that go together. Checked as written: a [`Config`] cannot hold one without the other.
pub(super) fn pairs(file: &file::Config, places: &Places<'_>) -> Checked {
    let tls = &file.tls;
    let token = &file.token_access;
    let pairs = [
        (&tls.certificate, "tls.certificate", &tls.key, "tls.key"),
        (
            &token.ca_certificate,
            "token_access.ca_certificate",
            &token.ca_key,
            "token_access.ca_key",
        ),
    ];
    for (one, one_key, two, two_key) in pairs {
        match (one, two) {
            (Some(_), None) => return Err(places.error(one_key, Problem::Alone { other: two_key })),
            (None, Some(_)) => return Err(places.error(two_key, Problem::Alone { other: one_key })),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    Ok(())
}

/// Everything else, on the filled-in configuration, in the order of the file.
pub(super) fn values(config: &Config, places: &Places<'_>) -> Checked {
    listen(&config.listen, places)?;
    addresses(config, places)?;
    if let Some(tls) = &config.tls {
        readable("tls.certificate", &tls.certificate, TLS_REMEDY, places)?;
        readable("tls.key", &tls.key, TLS_REMEDY, places)?;
    }
    net(&config.net, places)?;
    limits(&config.limits, places)?;
    timeouts(&config.timeouts, places)?;
    pool(&config.pool, places)?;
    token_access(&config.token_access, places)?;
    limits_not_zero(&[("audit.retention", config.audit.retention)], places)?;
    authorities(&config.authorities, places)?;
    not_zero(
        "auth_query.connections",
        config.auth_query.connections,
        places,
    )?;
    keys_differ(&config.admin, places)?;
    level(&config.log.level, places)
}

/// Who is given a key with fewer rights must not have another by it.
fn keys_differ(admin: &Admin, places: &Places<'_>) -> Checked {
    let keys = [
        ("admin.key_file", Some(&admin.key)),
        (OPERATOR_KEY_FILE, admin.operator_key.as_ref()),
        (VIEWER_KEY_FILE, admin.viewer_key.as_ref()),
    ];
    for (at, &(key, one)) in keys.iter().enumerate() {
        let Some(one) = one else { continue };
        for &(other, two) in keys.iter().take(at) {
            if two.is_some_and(|two| two.expose() == one.expose()) {
                return Err(places.error(key, Problem::SameKey { other }));
            }
        }
    }
    Ok(())
}

fn limits(limits: &Limits, places: &Places<'_>) -> Checked {
    let counts = [
        ("limits.clients", limits.clients),
        ("limits.tenant_clients", limits.tenant_clients),
        (
            "limits.unauthenticated_per_address",
            limits.unauthenticated_per_address,
        ),
        (
            "limits.wrong_cancel_keys_per_address",
            limits.wrong_cancel_keys_per_address,
        ),
        (
            "limits.leak_reports_per_address",
            limits.leak_reports_per_address,
        ),
        (
            "limits.failed_logins_per_address",
            limits.failed_logins_per_address,
        ),
        (
            "limits.failed_logins_per_tenant",
            limits.failed_logins_per_tenant,
        ),
    ];
    for (key, count) in counts {
        not_zero(key, count, places)?;
    }
    Ok(())
}

fn listen(listen: &Listen, places: &Places<'_>) -> Checked {
    if listen.workers > WORKERS_MAX {
        let problem = Problem::TooMany {
            value: listen.workers,
            max: WORKERS_MAX,
        };
        return Err(places.error("listen.workers", problem));
    }
    if !is_host(&listen.public_host) {
        return Err(places.error("listen.public_host", Problem::NotAHost));
    }
    Ok(())
}

fn net(net: &Net, places: &Places<'_>) -> Checked {
    // The kernel counts seconds.
    let whole = |span: Duration| span.as_secs();
    not_zero("net.keepalive_idle", whole(net.keepalive_idle), places)?;
    not_zero(
        "net.keepalive_interval",
        whole(net.keepalive_interval),
        places,
    )?;
    let limit = ("net.backend_unacknowledged", net.backend_unacknowledged);
    limits_not_zero(&[limit], places)
}

/// A host name, or an address as it stands in a URL.
fn is_host(text: &str) -> bool {
    let bracketed = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    bracketed.map_or_else(
        || {
            !text.is_empty()
                && (text.bytes()).all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        },
        |address| address.parse::<std::net::Ipv6Addr>().is_ok(),
    )
}

/// Each listener has its own address; port 0 is a new port each time.
fn addresses(config: &Config, places: &Places<'_>) -> Checked {
    let pooler = Some(config.listen.pooler);
    let direct = config.listen.direct;
    let admin = Some(config.admin.listen);
    let pairs = [
        ("listen.direct", direct, "listen.pooler", pooler),
        ("admin.listen", admin, "listen.pooler", pooler),
        ("admin.listen", admin, "listen.direct", direct),
    ];
    for (key, one, other, two) in pairs {
        if one.is_some_and(|one| one.port() != 0 && Some(one) == two) {
            return Err(places.error(key, Problem::SameAddress { other }));
        }
    }
    Ok(())
}

fn timeouts(timeouts: &Timeouts, places: &Places<'_>) -> Checked {
    let spans = [
        ("timeouts.login", timeouts.login),
        ("timeouts.queue", timeouts.queue),
        ("timeouts.backend_connect", timeouts.backend_connect),
    ];
    for (key, span) in spans {
        not_zero(key, span, places)?;
    }
    let limits = [
        ("timeouts.idle", timeouts.idle),
        ("timeouts.idle_in_transaction", timeouts.idle_in_transaction),
        ("timeouts.query", timeouts.query),
        ("timeouts.transaction", timeouts.transaction),
        ("timeouts.write_stall", timeouts.write_stall),
    ];
    limits_not_zero(&limits, places)
}

fn limits_not_zero(limits: &[(&'static str, Option<Duration>)], places: &Places<'_>) -> Checked {
    match limits
        .iter()
        .find(|(_, limit)| *limit == Some(Duration::ZERO))
    {
        Some((key, _)) => Err(places.error(key, Problem::ZeroNotOff)),
        None => Ok(()),
    }
}

fn pool(pool: &Pool, places: &Places<'_>) -> Checked {
    not_zero("pool.size", pool.size, places)?;
    within(
        "pool.size",
        pool.size,
        "pool.tenant_budget",
        pool.tenant_budget,
        places,
    )?;
    within(
        "pool.tenant_budget",
        pool.tenant_budget,
        "pool.overall_budget",
        pool.overall_budget,
        places,
    )?;
    not_zero("pool.idle_timeout", pool.idle_timeout, places)?;
    not_zero("pool.lifetime", pool.lifetime, places)?;
    not_zero("pool.cleanup", pool.cleanup, places)
}

fn token_access(settings: &TokenAccessSettings, places: &Places<'_>) -> Checked {
    const LIFETIME: &str = "token_access.certificate_lifetime";
    let files = [
        ("token_access.ca_certificate", &settings.ca_certificate),
        ("token_access.ca_key", &settings.ca_key),
    ];
    for (key, file) in files {
        if let Some(path) = file {
            readable(key, path, AUTHORITY_REMEDY, places)?;
        }
    }
    not_zero(LIFETIME, settings.certificate_lifetime, places)?;
    if settings.certificate_lifetime > CERTIFICATE_LIFETIME_MAX {
        let problem = Problem::TooLong {
            value: settings.certificate_lifetime,
            max: CERTIFICATE_LIFETIME_MAX,
        };
        return Err(places.error(LIFETIME, problem));
    }
    Ok(())
}

fn authorities(settings: &AuthoritySettings, places: &Places<'_>) -> Checked {
    const DEADLINE: &str = "authorities.deadline";
    not_zero(DEADLINE, settings.deadline, places)?;
    not_zero(
        "authorities.calls_per_tenant",
        settings.calls_per_tenant,
        places,
    )?;
    not_zero(
        "authorities.answer_max_bytes",
        settings.answer_max_bytes,
        places,
    )?;
    not_zero("authorities.recheck", settings.recheck, places)?;
    if settings.deadline > AUTHORITY_DEADLINE_MAX {
        let problem = Problem::TooLong {
            value: settings.deadline,
            max: AUTHORITY_DEADLINE_MAX,
        };
        return Err(places.error(DEADLINE, problem));
    }
    Ok(())
}

fn not_zero<N: Default + PartialEq>(key: &'static str, value: N, places: &Places<'_>) -> Checked {
    if value == N::default() {
        return Err(places.error(key, Problem::Zero));
    }
    Ok(())
}

fn within(
    key: &'static str,
    value: u32,
    other: &'static str,
    limit: u32,
    places: &Places<'_>,
) -> Checked {
    if value > limit {
        let problem = Problem::OverBudget {
            value,
            other,
            limit,
        };
        return Err(places.error(key, problem));
    }
    Ok(())
}

/// The file is there, is a file and may be read; what it holds is for those who use it to judge.
fn readable(key: &'static str, path: &Path, remedy: &'static str, places: &Places<'_>) -> Checked {
    let opened = File::open(path).and_then(|file| file.metadata());
    let cause = match opened {
        Ok(metadata) if metadata.is_file() => return Ok(()),
        Ok(_) => io::Error::from(io::ErrorKind::IsADirectory),
        Err(cause) => cause,
    };
    Err(places.error(key, Problem::unreadable(path, cause, remedy)))
}

/// A lone word must be a level: the filter would take a misspelt one for a module's name, and log nothing.
fn level(level: &str, places: &Places<'_>) -> Checked {
    const KEY: &str = "log.level";
    let lone = level.chars().all(char::is_alphanumeric);
    if lone && level.parse::<LevelFilter>().is_err() {
        return Err(places.error(KEY, Problem::Level));
    }
    match level.parse::<Targets>() {
        Ok(_) => Ok(()),
        Err(cause) => Err(places.error(KEY, Problem::Filter(cause))),
    }
}
