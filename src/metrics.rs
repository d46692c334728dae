//! What Sluice counts, each metric declared once: name, unit, help, labels.
//!
//! ```text
//! install() ──▶ PrometheusHandle ── render() ─▶ GET /metrics
//!     │              └─ upkeep()  a task; keeps histograms small while nobody asks
//!     ▼ (handles made before it count into nothing)
//! handles: TenantMetrics::new(&tenant)   of one tenant, made once, then one atomic add a use
//!          Traffic::new()                of all sessions, likewise
//!          session_ended(cause) …        rare events: looked up at each use
//! ```
//!
//! Label values come from closed sets: the refs of tenants that exist, and words of the enums below. What a
//! stranger typed is never one.

mod handles;

use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

pub use handles::{
    AuthorityOutcome, CancelOutcome, ConnectOutcome, GaugeGuard, LeakKind, LoginOutcome, Method,
    TenantMetrics, Traffic, authority_asked, cancel_request, leak, revoked, session_ended,
};

/// One metric as Prometheus is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    /// What it counts, and by which labels.
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal in $unit:ident, $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $constant: &str = $name;
        )+

        /// Every metric there is.
        pub const ALL: &[Metric] = &[
            $(Metric { name: $constant, kind: Kind::$kind, unit: Unit::$unit, help: $help },)+
        ];
    };
}

metrics! {
    CLIENTS: Gauge "sluice_clients" in Count,
        "Clients that are logged in, by tenant.";
    CLIENTS_WAITING: Gauge "sluice_clients_waiting" in Count,
        "Clients among them that wait for a backend, by tenant; as of a tenth of a second ago.";
    LOGINS: Counter "sluice_logins_total" in Count,
        "Logins by tenant (empty: none that exists), method and outcome.";
    SESSIONS_ENDED: Counter "sluice_sessions_ended_total" in Count,
        "Sessions that have ended, by cause.";
    BACKENDS: Gauge "sluice_backends" in Count,
        "Backends that are connected, by tenant.";
    BACKENDS_IDLE: Gauge "sluice_backends_idle" in Count,
        "Backends among them that no session uses, by tenant; as of a tenth of a second ago.";
    BACKEND_CONNECTS: Counter "sluice_backend_connects_total" in Count,
        "Attempts to connect and log in to a tenant's PostgreSQL, by tenant and outcome.";
    TRANSACTIONS: Counter "sluice_transactions_total" in Count,
        "Transactions after which a backend was released, by tenant.";
    BYTES: Counter "sluice_bytes_total" in Bytes,
        "Bytes relayed, by direction: in is from clients, out is to clients.";
    QUEUE_WAIT: Histogram "sluice_queue_wait_seconds" in Seconds,
        "How long sessions waited for a backend.";
    REVOCATIONS: Counter "sluice_revocations_total" in Count,
        "Sessions ended because their grant no longer held.";
    REVOCATION: Histogram "sluice_revocation_seconds" in Seconds,
        "From a change of rules until every session that it ends is gone.";
    AUTHORITY_CALLS: Counter "sluice_authority_calls_total" in Count,
        "Questions to tenants' external authorities, by outcome.";
    AUTHORITY_CALL: Histogram "sluice_authority_call_seconds" in Seconds,
        "How long tenants' external authorities took to answer.";
    CANCEL_REQUESTS: Counter "sluice_cancel_requests_total" in Count,
        "Cancel requests by outcome.";
    LOG_LINES_DROPPED: Counter "sluice_log_lines_dropped_total" in Count,
        "Lines that were not logged because the log was not read or written fast enough.";
    LEAKS: Counter "sluice_leaks_total" in Count,
        "Clients whose session state had to be kept from the next client, by kind of state.";
}

/// Upper bounds of the histograms, in seconds: from a hand-over between two clients to the usual queue timeout.
const BUCKETS: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// How often what the histograms gathered is folded into their buckets.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// Starts to count, for the whole process; can be done once, before any handle is made.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    describe();
    handles::start_at_zero();
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    PrometheusBuilder::new().set_buckets_for_metric(seconds, BUCKETS)
}

fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}

/// Keeps histograms from growing until they are asked for; ends with `stop`.
pub async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP_PERIOD);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TenantRef;

    /// What is rendered after `count` has counted.
    fn rendered(count: impl FnOnce()) -> String {
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            handles::start_at_zero();
            count();
        });
        recorder.handle().render()
    }

    fn tenant() -> TenantMetrics {
        TenantMetrics::new(&TenantRef::parse("demo").unwrap())
    }

    #[test]
    fn every_metric_is_named_by_the_rules() {
        for (index, metric) in ALL.iter().enumerate() {
            assert!(metric.name.starts_with("sluice_"), "{}", metric.name);
            let ends_total = metric.name.ends_with("_total");
            assert_eq!(metric.kind == Kind::Counter, ends_total, "{}", metric.name);
            let ends_seconds = metric.name.ends_with("_seconds");
            assert_eq!(
                metric.kind == Kind::Histogram,
                ends_seconds,
                "{}",
                metric.name
            );
            assert!(ALL[..index].iter().all(|other| other.name != metric.name));
        }
    }

    #[test]
    fn the_metrics_are_those_of_the_docs() {
        let page = include_str!("../docs/operations.md");
        let mut told: Vec<&str> = page
            .split('`')
            .filter(|word| word.starts_with("sluice_"))
            .collect();
        told.sort_unstable();
        told.dedup();
        let mut there: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
        there.sort_unstable();
        assert_eq!(told, there);
    }

    #[test]
    fn every_metric_is_rendered_with_its_help() {
        let text = rendered(|| {
            let tenant = tenant();
            let _client = tenant.client();
            let _backend = tenant.backend();
            let traffic = Traffic::new();
            traffic.queue_wait(Duration::from_millis(3));
            session_ended("client_closed");
            revoked(2, Duration::from_millis(7));
            cancel_request(CancelOutcome::Forwarded);
            leak(LeakKind::Listen);
            authority_asked(AuthorityOutcome::Allowed, Duration::from_millis(9));
        });
        for metric in ALL {
            let help = format!("# HELP {} {}\n", metric.name, metric.help);
            assert!(text.contains(&help), "{help} is not in\n{text}");
        }
        assert!(
            text.contains("sluice_queue_wait_seconds_bucket{le=\"0.005\"} 1"),
            "{text}"
        );
        assert!(text.contains("sluice_revocations_total 2"), "{text}");
    }

    #[test]
    fn a_login_counts_under_its_own_labels() {
        let text = rendered(|| {
            tenant().login(Method::Token, LoginOutcome::Refused);
            TenantMetrics::unknown().login(Method::Password, LoginOutcome::Refused);
        });
        for line in [
            r#"sluice_logins_total{tenant="demo",method="token",outcome="refused"} 1"#,
            r#"sluice_logins_total{tenant="demo",method="password",outcome="refused"} 0"#,
            r#"sluice_logins_total{tenant="",method="password",outcome="refused"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_gauge_falls_when_its_guard_is_dropped() {
        let text = rendered(|| {
            let tenant = tenant();
            let first = tenant.client();
            let _second = tenant.client();
            drop(first);
            std::mem::forget(_second);
        });
        assert!(
            text.contains("sluice_clients{tenant=\"demo\"} 1\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn upkeep_ends_when_told() {
        let handle = builder().unwrap().build_recorder().handle();
        let stop = CancellationToken::new();
        let task = tokio::spawn(upkeep(handle, stop.clone()));
        stop.cancel();
        let ended = tokio::time::timeout(UPKEEP_PERIOD, task).await;
        assert!(ended.is_ok_and(|ended| ended.is_ok()));
    }
}
