//! `sluice pool`: what the pools look like right now.

use clap::Subcommand;

use super::{
    client::{Answer, Client},
    error::CliError,
    output::{self, Table},
};
use crate::{
    admin::values::{PoolList, PoolRow},
    names::TenantRef,
    pool::PoolKind,
};

#[derive(Subcommand)]
pub enum PoolAction {
    /// List the pools with their backends and who waits for them
    #[command(after_help = "Example:\n  sluice pool list --tenant demo")]
    List {
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantRef>,
    },
}

impl PoolAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::List { tenant } => {
                let query = [("tenant", tenant.map(String::from))];
                let found = client.find::<PoolList>(&["v1", "pools"], &query).await?;
                Ok(found.shown(|found| table(found).to_string()))
            }
        }
    }
}

fn table(found: &PoolList) -> Table {
    let mut table = Table::new(
        &[
            "TENANT",
            "DATABASE",
            "ROLE",
            "FOR",
            "SIZE",
            "IDLE",
            "IN USE",
            "CHANGING",
            "WAITING",
            "LONGEST WAIT",
        ],
        "no pools: nobody is connected",
    );
    for PoolRow { pool, email } in &found.pools {
        table.row([
            pool.tenant.to_string(),
            pool.database.to_string(),
            pool.role.to_string(),
            match (pool.kind, email) {
                (PoolKind::Person, Some(email)) => email.clone(),
                (kind, _) => output::word(&kind),
            },
            pool.size.to_string(),
            pool.idle.to_string(),
            pool.in_use.to_string(),
            pool.changing.to_string(),
            pool.waiting.to_string(),
            output::or_dash(pool.longest_wait_ms.map(output::milliseconds)),
        ]);
    }
    table
}
