//! `sluice rule`: which member may use which role of a tenant, until when, from where.

use clap::{Args, Subcommand};
use ipnet::IpNet;
use reqwest::Method;

use super::{
    client::{Answer, Client},
    error::CliError,
    output::{self, Table},
    words,
};
use crate::{
    admin::values::{Done, OneRule, Removed, RuleAddition, RuleStatus, RuleTerms, RuleView, Rules},
    catalog::types::RuleReach,
    names::{RoleName, TenantRef},
};

#[derive(Subcommand)]
pub enum RuleAction {
    /// Let a member use a role until a given time (90 days at most)
    #[command(
        after_help = "Example:\n  sluice rule add demo first@example.com app_readwrite --expires 24h --network 192.0.2.0/24"
    )]
    Add(Addition),
    /// Change a rule: end it sooner or later, allow other networks. Sessions that no longer fit are ended
    #[command(
        after_help = "Example:\n  sluice rule set demo first@example.com app_readwrite --expires 1h"
    )]
    Set(Terms),
    /// List the rules of a tenant; of a branch its own: those of its parent hold there, too
    #[command(after_help = "Example:\n  sluice rule list demo --person first@example.com")]
    List {
        tenant: TenantRef,
        /// Of this person only: id or e-mail address
        #[arg(long)]
        person: Option<String>,
    },
    /// Remove a rule and end the sessions that live on it
    #[command(
        after_help = "Examples:\n  sluice rule remove demo first@example.com app_readwrite\n  sluice rule remove demo first@example.com --all"
    )]
    Remove {
        tenant: TenantRef,
        /// Id or e-mail address
        person: String,
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        role: Option<RoleName>,
        /// All the person's rules for the tenant
        #[arg(long)]
        all: bool,
    },
}

#[derive(Args)]
pub struct Addition {
    tenant: TenantRef,
    /// Id or e-mail address of a member
    person: String,
    /// The database role
    role: RoleName,
    /// When it ends: a while (30m, 24h, 7d) or a time (2026-05-25T18:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = words::expiry, allow_hyphen_values = true)]
    expires: String,
    /// Allow logins from this network only; may be given several times
    #[arg(long = "network", value_name = "CIDR", value_parser = words::network)]
    networks: Vec<IpNet>,
    /// Hold on the tenant's branches only, not on the tenant itself
    #[arg(long)]
    branches_only: bool,
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Args)]
pub struct Terms {
    tenant: TenantRef,
    /// Id or e-mail address
    person: String,
    /// The database role
    role: RoleName,
    /// When it ends: a while from now (30m, 24h, 7d) or a time (2026-05-25T18:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = words::expiry, allow_hyphen_values = true)]
    expires: Option<String>,
    /// Allow this network instead of the ones so far; may be given several times
    #[arg(long = "network", value_name = "CIDR", value_parser = words::network, conflicts_with = "any_network")]
    networks: Vec<IpNet>,
    /// Allow logins from anywhere again
    #[arg(long)]
    any_network: bool,
    /// Hold on the tenant's branches only
    #[arg(long, conflicts_with = "everywhere")]
    branches_only: bool,
    /// Hold on the tenant and its branches
    #[arg(long)]
    everywhere: bool,
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl RuleAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::Add(addition) => addition.run(client).await,
            Self::Set(terms) => terms.run(client).await,
            Self::List { tenant, person } => {
                let path = ["v1", "tenants", tenant.as_str(), "rules"];
                let found = client.find::<Rules>(&path, &[("person", person)]).await?;
                Ok(found.shown(|found| table(found).to_string()))
            }
            Self::Remove {
                tenant,
                person,
                role,
                all: _,
            } => {
                let mut path = vec!["v1", "tenants", tenant.as_str(), "rules", &person];
                path.extend(role.as_ref().map(RoleName::as_str));
                let gone = client.delete::<Done<Removed>>(&path).await?;
                let what = if role.is_some() {
                    "rule removed"
                } else {
                    "rules removed"
                };
                Ok(gone.shown(|done| output::done(what, done)))
            }
        }
    }
}

impl Addition {
    async fn run(self, client: &Client) -> Result<Answer, CliError> {
        let reach = if self.branches_only {
            RuleReach::BranchesOnly
        } else {
            RuleReach::Everywhere
        };
        let body = RuleAddition {
            person: self.person,
            role: self.role,
            expires: self.expires,
            networks: self.networks,
            reach,
            reason: self.reason,
        };
        let path = ["v1", "tenants", self.tenant.as_str(), "rules"];
        let made = client
            .send::<Done<OneRule>>(Method::POST, &path, &body)
            .await?;
        Ok(made.shown(|done| {
            let OneRule { rule, warning } = &done.value;
            let added = format!("rule added: {}", sentence(rule));
            match warning {
                Some(warning) => format!("{added}\nwarning: {warning}"),
                None => added,
            }
        }))
    }
}

impl Terms {
    async fn run(self, client: &Client) -> Result<Answer, CliError> {
        let path = [
            "v1",
            "tenants",
            self.tenant.as_str(),
            "rules",
            &self.person,
            self.role.as_str(),
        ];
        let body = self.changes()?;
        let set = client
            .send::<Done<OneRule>>(Method::PATCH, &path, &body)
            .await?;
        Ok(set
            .shown(|done| output::done(&format!("rule set: {}", sentence(&done.value.rule)), done)))
    }

    fn changes(&self) -> Result<RuleTerms, CliError> {
        let networks =
            (self.any_network || !self.networks.is_empty()).then(|| self.networks.clone());
        let reach = match (self.branches_only, self.everywhere) {
            (true, _) => Some(RuleReach::BranchesOnly),
            (false, true) => Some(RuleReach::Everywhere),
            (false, false) => None,
        };
        if self.expires.is_none() && networks.is_none() && reach.is_none() && self.reason.is_none()
        {
            return Err(CliError::NothingToChange);
        }
        Ok(RuleTerms {
            expires: self.expires.clone(),
            networks,
            reach,
            reason: self.reason.clone().map(Some),
        })
    }
}

fn sentence(view: &RuleView) -> String {
    let rule = &view.rule;
    let email = output::tame(&view.email);
    let until = output::instant_from_now(rule.expires_at);
    format!(
        "{email} may use {} of {} until {until}",
        rule.role, rule.tenant
    )
}

fn table(found: &Rules) -> Table {
    let mut table = Table::new(
        &[
            "PERSON", "ROLE", "STATUS", "EXPIRES", "NETWORKS", "WHERE", "BY", "REASON",
        ],
        "no rules; add one with `sluice rule add TENANT PERSON ROLE --expires 24h`",
    );
    for view in &found.rules {
        let rule = &view.rule;
        let reach = match rule.reach {
            RuleReach::Everywhere => "everywhere",
            RuleReach::BranchesOnly => "branches only",
        };
        let status = match view.status {
            RuleStatus::Active => "active",
            RuleStatus::Expired => "expired",
        };
        table.row([
            view.email.clone(),
            rule.role.to_string(),
            status.to_owned(),
            output::instant_from_now(rule.expires_at),
            output::list(&rule.networks, "any"),
            reach.to_owned(),
            rule.created_by.clone(),
            output::or_dash(rule.reason.as_ref()),
        ]);
    }
    table
}
