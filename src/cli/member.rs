//! `sluice member`: which people belong to a tenant. Only members can be given rules.

use clap::Subcommand;
use reqwest::Method;

use super::{
    client::{Answer, Client},
    error::CliError,
    output::{self, Table},
    words::Kind,
};
use crate::{
    admin::values::{Done, MemberGone, MemberTerms, Members, OneMember},
    names::TenantRef,
};

#[derive(Subcommand)]
pub enum MemberAction {
    /// Make a person a member of a tenant, or change what kind of member they are
    #[command(
        after_help = "Example:\n  sluice member add demo first@example.com --kind administrator"
    )]
    Add {
        tenant: TenantRef,
        /// Id or e-mail address
        person: String,
        #[arg(long, value_enum, default_value = "member")]
        kind: Kind,
    },
    /// List the members of a tenant
    #[command(after_help = "Example:\n  sluice member list demo")]
    List { tenant: TenantRef },
    /// Remove a member with their rules for the tenant, and end their sessions there
    #[command(after_help = "Example:\n  sluice member remove demo first@example.com")]
    Remove {
        tenant: TenantRef,
        /// Id or e-mail address
        person: String,
    },
}

impl MemberAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::Add {
                tenant,
                person,
                kind,
            } => {
                let path = ["v1", "tenants", tenant.as_str(), "members", &person];
                let body = MemberTerms { kind: kind.into() };
                let set = client
                    .send::<Done<OneMember>>(Method::PUT, &path, &body)
                    .await?;
                Ok(set.shown(|done| {
                    let member = &done.value.member;
                    let email = output::tame(&member.email);
                    format!(
                        "{email} belongs to {} as {}",
                        member.tenant,
                        output::word(&member.kind)
                    )
                }))
            }
            Self::List { tenant } => {
                let path = ["v1", "tenants", tenant.as_str(), "members"];
                let found = client.get::<Members>(&path).await?;
                Ok(found.shown(|found| table(found).to_string()))
            }
            Self::Remove { tenant, person } => {
                let path = ["v1", "tenants", tenant.as_str(), "members", &person];
                let gone = client.delete::<Done<MemberGone>>(&path).await?;
                Ok(gone.shown(|done| {
                    let rules = output::count(done.value.rules_removed, "rule");
                    output::done(&format!("member removed with {rules}"), done)
                }))
            }
        }
    }
}

fn table(found: &Members) -> Table {
    let mut table = Table::new(
        &["E-MAIL", "KIND", "ID", "SINCE"],
        "no members yet; add one with `sluice member add TENANT PERSON`",
    );
    for member in &found.members {
        table.row([
            member.email.clone(),
            output::word(&member.kind),
            member.person.to_string(),
            output::instant(member.created_at),
        ]);
    }
    table
}
