//! What is going on in all workers at the moment, for whoever operates them.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::worker::{Command, Process};
use crate::{
    names::{DatabaseName, RoleName, TenantRef},
    pool::PoolView,
};

/// A worker answers between two messages of its sessions.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A way to ask all workers.
#[derive(Clone, Default)]
pub struct Overview {
    workers: Vec<mpsc::UnboundedSender<Command>>,
}

impl Process {
    #[must_use]
    pub fn overview(&self) -> Overview {
        Overview {
            workers: self.workers.clone(),
        }
    }
}

impl Overview {
    /// All pools, by tenant, database and role; `None`: a worker has not answered in time. One that has stopped has none.
    pub async fn pools(&self) -> Option<Vec<PoolView>> {
        let asked = self.workers.iter().map(|worker| {
            let (done, views) = oneshot::channel();
            // One that has stopped drops the question, which is its answer.
            let _ = worker.send(Command::Pools { done });
            views
        });
        let answers = tokio::time::timeout(ANSWER_MAX, join_all(asked)).await;
        let mut pools: Vec<_> = answers.ok()?.into_iter().flatten().flatten().collect();
        pools.sort_by(|one, other| key(one).cmp(&key(other)));
        Some(pools)
    }
}

fn key(pool: &PoolView) -> (&TenantRef, &DatabaseName, &RoleName) {
    (&pool.tenant, &pool.database, &pool.role)
}
