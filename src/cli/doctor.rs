//! `sluice doctor`: whether a tenant's server is set up so that those get in who may, and nobody else.

use clap::Args;
use reqwest::Method;
use serde_json::json;

use super::{
    client::{Answer, Client, Connection, Verdict},
    error::CliError,
    output::{tame, word},
    remote::{self, Outcome},
};
use crate::{
    doctor::{self, Finding, Report},
    names::TenantRef,
};

/// Options of `sluice doctor`.
#[derive(Args)]
#[command(after_help = "Example:\n  sluice doctor --tenant demo")]
pub struct DoctorArgs {
    /// The tenant to look at
    #[arg(long, value_name = "REF")]
    tenant: TenantRef,
    #[command(flatten)]
    connection: Connection,
}

impl DoctorArgs {
    pub(super) async fn outcome(self, earlier: Connection) -> Result<Outcome, CliError> {
        let Self { tenant, connection } = self;
        remote::outcome(connection.or(earlier), async |client| {
            examine(client, &tenant).await
        })
        .await
    }
}

async fn examine(client: &Client, tenant: &TenantRef) -> Result<Answer, CliError> {
    let path = ["v1", "tenants", tenant.as_str(), "doctor"];
    let found = client
        .send::<Report>(Method::POST, &path, &json!({}))
        .await?;
    let verdict = match found.value.verdict {
        doctor::Verdict::Ok | doctor::Verdict::Warning => Verdict::Good,
        doctor::Verdict::Failed | doctor::Verdict::Unsafe => Verdict::Bad,
    };
    Ok(Answer {
        verdict,
        ..found.shown(text)
    })
}

/// A line per finding, what to add below it, and the verdict last.
fn text(report: &Report) -> String {
    let findings = report.findings.iter().map(paragraph);
    let verdict = format!("{}: {}", report.tenant, word(&report.verdict));
    findings.chain([verdict]).collect::<Vec<_>>().join("\n")
}

fn paragraph(finding: &Finding) -> String {
    let (verdict, topic) = (word(&finding.verdict), word(&finding.topic));
    let mut lines = vec![format!(
        "{verdict:<8} {topic:<11} {}",
        tame(&finding.message)
    )];
    for addition in &finding.add {
        lines.push(format!("         add to {}:", tame(&addition.to)));
        let added = addition.lines.iter();
        lines.extend(added.map(|line| format!("             {}", tame(line))));
    }
    lines.join("\n")
}
