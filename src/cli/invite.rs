//! `sluice invite`: people who are no members are let in for a while that begins when they accept.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use reqwest::Method;

use super::{
    client::{Answer, Client},
    error::CliError,
    input,
    output::{self, Table},
    words,
};
use crate::{
    admin::values::{
        Acceptance, Accepted, Done, Invitation, InvitationRole, Invites, IssuedInvite, Removed,
        RuleView,
    },
    catalog::types::{InvitedRole, RuleReach},
    names::{InviteId, RoleName, TenantRef},
};

#[derive(Subcommand)]
pub enum InviteAction {
    /// Invite somebody who is no member; shows the acceptance token, this once only
    #[command(
        after_help = "Example:\n  sluice invite create demo guest@example.com --role app_readonly --lasts 8h --reason \"audit\""
    )]
    Create(Creation),
    /// Accept an invitation, with the token that whoever invited you has passed on; shows your own token, this once
    /// only, and how to connect. Needs no admin key
    #[command(
        after_help = "Example:\n  sluice invite accept demo --email guest@example.com --token-file invitation"
    )]
    Accept {
        tenant: TenantRef,
        /// The address that was invited
        #[arg(long)]
        email: String,
        /// File that holds the acceptance token; `-` is standard input
        #[arg(long, value_name = "FILE", default_value = "-")]
        token_file: PathBuf,
    },
    /// List the invitations of a tenant, accepted and expired ones as well
    #[command(after_help = "Example:\n  sluice invite list demo")]
    List { tenant: TenantRef },
    /// Revoke an invitation with the rules and the token that it has given, and end the sessions that live on them
    #[command(
        after_help = "Example:\n  sluice invite revoke demo 0198c0f2-5c1e-7b1c-9d57-3f5a1f0e6f10"
    )]
    Revoke {
        tenant: TenantRef,
        /// The id as `invite list` shows it
        invite: InviteId,
    },
}

#[derive(Args)]
pub struct Creation {
    tenant: TenantRef,
    /// The e-mail address of whoever is invited
    email: String,
    /// A database role that they may use; may be given several times
    #[arg(long = "role", value_name = "ROLE", required = true)]
    roles: Vec<RoleName>,
    /// For how long, from the acceptance on: 30m, 8h, 7d (90 days at most)
    #[arg(long, value_name = "WHILE", value_parser = words::lasting)]
    lasts: String,
    /// Allow logins from this network only; may be given several times
    #[arg(long = "network", value_name = "CIDR", value_parser = words::network)]
    networks: Vec<IpNet>,
    /// Hold on the tenant's branches only, not on the tenant itself
    #[arg(long)]
    branches_only: bool,
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Until when it can be accepted: a while (24h, 7d) or a time (2026-05-25T18:00:00Z)
    #[arg(long, default_value = "7d", value_name = "WHEN", value_parser = words::expiry, allow_hyphen_values = true)]
    expires: String,
}

impl InviteAction {
    /// Whether this is for people who have no key.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Accept { .. })
    }

    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::Create(creation) => creation.run(client).await,
            Self::Accept {
                tenant,
                email,
                token_file,
            } => accept(client, &tenant, email, &token_file).await,
            Self::List { tenant } => {
                let path = ["v1", "tenants", tenant.as_str(), "invites"];
                let found = client.get::<Invites>(&path).await?;
                Ok(found.shown(|found| table(found).to_string()))
            }
            Self::Revoke { tenant, invite } => {
                let invite = invite.to_string();
                let path = ["v1", "tenants", tenant.as_str(), "invites", &invite];
                let gone = client.delete::<Done<Removed>>(&path).await?;
                Ok(gone.shown(|done| output::done("invitation revoked", done)))
            }
        }
    }
}

impl Creation {
    async fn run(self, client: &Client) -> Result<Answer, CliError> {
        let reach = if self.branches_only {
            RuleReach::BranchesOnly
        } else {
            RuleReach::Everywhere
        };
        let roles = self.roles.into_iter().map(|role| InvitationRole {
            role,
            lasts: self.lasts.clone(),
            networks: self.networks.clone(),
            reach,
            reason: self.reason.clone(),
        });
        let body = Invitation {
            email: self.email,
            roles: roles.collect(),
            expires: Some(self.expires),
        };
        let path = ["v1", "tenants", self.tenant.as_str(), "invites"];
        let made = client
            .send::<Done<IssuedInvite>>(Method::POST, &path, &body)
            .await?;
        Ok(made.shown(|done| issued(&done.value)))
    }
}

async fn accept(
    client: &Client,
    tenant: &TenantRef,
    email: String,
    token_file: &std::path::Path,
) -> Result<Answer, CliError> {
    let body = Acceptance {
        email,
        token: input::secret_file(token_file)?,
    };
    let path = ["v1", "tenants", tenant.as_str(), "invites", "accept"];
    let done = client
        .send::<Done<Accepted>>(Method::POST, &path, &body)
        .await?;
    Ok(done.shown(|done| welcome(&done.value)))
}

/// What the guest may use, and all that is needed to do so.
fn welcome(made: &Accepted) -> String {
    let email = output::tame(&made.person.email);
    let rules = made.rules.iter().map(|RuleView { rule, .. }| {
        let until = output::instant_from_now(rule.expires_at);
        format!(
            "{email} may use {} of {} until {until}",
            rule.role, rule.tenant
        )
    });
    let rules = rules.collect::<Vec<_>>().join("\n");
    let until = output::instant_from_now(made.token.record.expires_at);
    let ways = made.access.iter().map(|way| match way.closed() {
        None => format!("psql \"{}\"", way.uri),
        Some(reason) => format!("{} cannot be used now: {reason}", way.role),
    });
    let ways = ways.collect::<Vec<_>>().join("\n");
    format!(
        "{rules}\n\n{}\n\nThis is your password until {until}. Keep it now, it cannot be shown again.\n\n{ways}",
        *made.secret
    )
}

fn issued(made: &IssuedInvite) -> String {
    let invite = &made.invite.invite;
    format!(
        "{}\n\nPass it on to {} now, it cannot be shown again. It can be accepted once, until {}. Id {}.",
        *made.token,
        output::tame(&invite.email),
        output::instant_from_now(invite.expires_at),
        invite.id
    )
}

fn table(found: &Invites) -> Table {
    let mut table = Table::new(
        &["ID", "E-MAIL", "STATUS", "ROLES", "ACCEPT UNTIL", "BY"],
        "no invitations; make one with `sluice invite create TENANT E-MAIL --role ROLE --lasts 8h`",
    );
    for view in &found.invites {
        let invite = &view.invite;
        let roles: Vec<_> = invite.roles.iter().map(role).collect();
        table.row([
            invite.id.to_string(),
            invite.email.clone(),
            output::word(&view.status),
            output::list(&roles, "none"),
            output::instant_from_now(invite.expires_at),
            invite.created_by.clone(),
        ]);
    }
    table
}

fn role(invited: &InvitedRole) -> String {
    let lasts = humantime::format_duration(invited.lasts);
    format!("{} for {lasts}", invited.role)
}
