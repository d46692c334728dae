//! What the machine around `serve` gives it, and what its operator should know of that at the start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Open files beside those of clients and backends: listeners, the catalogue, calls of the admin API and to authorities.
const OTHER_FILES: u64 = 1_000;

/// Takes as many open files as the system lets it have, and warns of what is amiss.
pub(super) fn settle_in(config: &Config) {
    if let Some(allowed) = raise_open_files() {
        let needed = open_files(config);
        if allowed < needed {
            tracing::warn!(
                allowed,
                needed,
                "the system allows fewer open files than limits.clients and pool.overall_budget need: raise the limit of the \
                 process (systemd: LimitNOFILE; shells: ulimit -n), or lower these"
            );
        }
    }
    for warning in warnings(config) {
        tracing::warn!("{warning}");
    }
}

/// What is allowed and should not be, one sentence each.
pub(super) fn warnings(config: &Config) -> impl Iterator<Item = String> {
    config.exposed_keys.iter().map(|file| {
        format!(
            "every user of this machine can read the key {}: take that right away (chmod o= {0})",
            file.display()
        )
    })
}

/// The limit on open files once it is as high as it can be; `None`: there is none.
fn raise_open_files() -> Option<u64> {
    let given = getrlimit(Resource::Nofile);
    // The lower one is for programs that keep track of files in sets of a fixed size (select(2)).
    let raised = Rlimit {
        current: given.maximum,
        maximum: given.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => given.maximum,
        Err(_) => given.current,
    }
}

/// Open files when all limits are reached.
fn open_files(config: &Config) -> u64 {
    config.limits.clients as u64 + u64::from(config.pool.overall_budget) + OTHER_FILES
}
