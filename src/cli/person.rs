//! `sluice person`: the human accounts.

use clap::Subcommand;
use reqwest::Method;

use super::{
    client::{Answer, Client},
    error::CliError,
    output::{self, Table},
};
use crate::admin::values::{Done, NewPerson, OnePerson, People, Removed};

#[derive(Subcommand)]
pub enum PersonAction {
    /// Add a person
    #[command(after_help = "Example:\n  sluice person add first@example.com --name 'First Person'")]
    Add {
        email: String,
        /// What to call them; the e-mail address unless told
        #[arg(long)]
        name: Option<String>,
    },
    /// List all people
    #[command(after_help = "Example:\n  sluice person list")]
    List,
    /// Show one person and the tenants they belong to
    #[command(after_help = "Example:\n  sluice person show first@example.com")]
    Show {
        /// Id or e-mail address
        person: String,
    },
    /// Remove a person with all their tokens and rules, and end their sessions
    #[command(after_help = "Example:\n  sluice person remove first@example.com")]
    Remove {
        /// Id or e-mail address
        person: String,
    },
}

impl PersonAction {
    pub(super) async fn run(self, client: &Client) -> Result<Answer, CliError> {
        match self {
            Self::Add { email, name } => {
                let body = NewPerson { email, name };
                let made = client
                    .send::<Done<OnePerson>>(Method::POST, &["v1", "people"], &body)
                    .await?;
                Ok(made.shown(|done| {
                    let person = &done.value.person;
                    format!(
                        "person added: {} ({})",
                        output::tame(&person.email),
                        person.id
                    )
                }))
            }
            Self::List => {
                let found = client.get::<People>(&["v1", "people"]).await?;
                Ok(found.shown(|found| table(found).to_string()))
            }
            Self::Show { person } => {
                let found = client.get::<OnePerson>(&["v1", "people", &person]).await?;
                Ok(found.shown(describe))
            }
            Self::Remove { person } => {
                let gone = client
                    .delete::<Done<Removed>>(&["v1", "people", &person])
                    .await?;
                Ok(gone.shown(|done| output::done("person removed", done)))
            }
        }
    }
}

fn table(found: &People) -> Table {
    let mut table = Table::new(
        &["E-MAIL", "NAME", "ID", "ADDED"],
        "no people yet; add one with `sluice person add EMAIL`",
    );
    for person in &found.people {
        table.row([
            person.email.clone(),
            person.name.clone(),
            person.id.to_string(),
            output::instant(person.created_at),
        ]);
    }
    table
}

fn describe(found: &OnePerson) -> String {
    let person = &found.person;
    let memberships: Vec<_> = found
        .memberships
        .iter()
        .map(|member| format!("{} ({})", member.tenant, output::word(&member.kind)))
        .collect();
    output::facts(&[
        ("id", person.id.to_string()),
        ("e-mail", person.email.clone()),
        ("name", person.name.clone()),
        ("added", output::instant(person.created_at)),
        ("member of", output::list(&memberships, "no tenant")),
    ])
}
