//! Commands that are one call to the admin API of a running pooler: dispatch, printing, exit status.

use std::{io::Write as _, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    access::AccessAction,
    audit::AuditAction,
    client::{Answer, Client, Connection, Verdict},
    error::CliError,
    member::MemberAction,
    person::PersonAction,
    rule::RuleAction,
    session::SessionAction,
    tenant::TenantAction,
    token::TokenAction,
};

#[derive(Subcommand)]
pub enum Remote {
    /// Tenants: the PostgreSQL services behind the pooler
    Tenant(Call<TenantAction>),
    /// People who may hold tokens
    Person(Call<PersonAction>),
    /// Which people belong to a tenant
    Member(Call<MemberAction>),
    /// Personal access tokens: what a person types as password
    Token(Call<TokenAction>),
    /// Rules: which member may use which role, until when, from where
    Rule(Call<RuleAction>),
    /// The switch for token access of a tenant
    Access(Call<AccessAction>),
    /// Who is connected with a token right now
    Session(Call<SessionAction>),
    /// Who did what, when and as which role
    Audit(Call<AuditAction>),
}

/// One action and where to send it.
#[derive(Args)]
pub struct Call<A: Subcommand> {
    #[command(subcommand)]
    action: A,
    #[command(flatten)]
    connection: Connection,
}

impl Remote {
    /// Makes the call, prints what came of it, and says how the process is to exit.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            Self::Tenant(call) => call.run(TenantAction::run),
            Self::Person(call) => call.run(PersonAction::run),
            Self::Member(call) => call.run(MemberAction::run),
            Self::Token(call) => call.run(TokenAction::run),
            Self::Rule(call) => call.run(RuleAction::run),
            Self::Access(call) => call.run(AccessAction::run),
            Self::Session(call) => call.run(SessionAction::run),
            Self::Audit(call) => call.run(AuditAction::run),
        }
    }
}

impl<A: Subcommand> Call<A> {
    fn run(self, act: impl AsyncFnOnce(A, &Client) -> Result<Answer, CliError>) -> ExitCode {
        let json = self.connection.json;
        match self.answer(act) {
            Ok(answer) => print(&answer, json),
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn answer(
        self,
        act: impl AsyncFnOnce(A, &Client) -> Result<Answer, CliError>,
    ) -> Result<Answer, CliError> {
        let client = self.connection.open()?;
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(CliError::Runtime)?
            .block_on(act(self.action, &client))
    }
}

fn print(answer: &Answer, json: bool) -> ExitCode {
    let text = if json {
        format!("{:#}", answer.json)
    } else {
        answer.text.clone()
    };
    // A reader that has seen enough (`| head`) is no failure.
    let _ = writeln!(std::io::stdout(), "{text}");
    match answer.verdict {
        Verdict::Good => ExitCode::SUCCESS,
        Verdict::Bad => ExitCode::FAILURE,
    }
}
