//! Commands that are one call to the admin API of a running pooler: dispatch, printing, exit status.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{
    access::AccessAction,
    audit::AuditAction,
    authority::AuthorityAction,
    client::{Answer, Client, Connection, Verdict},
    doctor::DoctorArgs,
    environment,
    error::CliError,
    invite::InviteAction,
    member::MemberAction,
    output::print,
    person::PersonAction,
    pool::PoolAction,
    reload::ReloadArgs,
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
    /// People who are no members, let in for a while
    Invite(Call<InviteAction>),
    /// Personal access tokens: what a person types as password
    Token(Call<TokenAction>),
    /// Rules: which member may use which role, until when, from where
    Rule(Call<RuleAction>),
    /// The switch for token access of a tenant
    Access(Call<AccessAction>),
    /// Who decides about the tokens of a tenant
    Authority(Call<AuthorityAction>),
    /// Who is connected right now, with a token or a password
    Session(Call<SessionAction>),
    /// Pools: their backends, and who waits for them
    Pool(Call<PoolAction>),
    /// Who did what, when and as which role
    Audit(Call<AuditAction>),
    /// Look a tenant's server over: exit status 0 if all is well or could be better, 1 if it does not work or is unsafe
    Doctor(DoctorArgs),
    /// Have the pooler read its configuration, certificate and admin keys again, without dropping clients
    Reload(ReloadArgs),
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
    /// Makes the call, prints what came of it, and says how the process is to exit. `earlier` is what was typed
    /// before the noun.
    #[must_use]
    pub fn run(self, earlier: Connection) -> ExitCode {
        conclude(self.outcome(earlier))
    }

    pub(super) async fn outcome(self, earlier: Connection) -> Result<Outcome, CliError> {
        match self {
            Self::Tenant(call) => call.outcome(earlier, TenantAction::run).await,
            Self::Person(call) => call.outcome(earlier, PersonAction::run).await,
            Self::Invite(call) if call.action.is_open() => {
                let connection = call.connection.or(earlier);
                let json = connection.json;
                let client = connection.open_without_key(environment)?;
                Ok(worded(call.action.run(&client).await?, json))
            }
            Self::Invite(call) => call.outcome(earlier, InviteAction::run).await,
            Self::Member(call) => call.outcome(earlier, MemberAction::run).await,
            Self::Token(call) => call.outcome(earlier, TokenAction::run).await,
            Self::Rule(call) => call.outcome(earlier, RuleAction::run).await,
            Self::Access(call) => call.outcome(earlier, AccessAction::run).await,
            Self::Authority(call) => call.outcome(earlier, AuthorityAction::run).await,
            Self::Session(call) => call.outcome(earlier, SessionAction::run).await,
            Self::Pool(call) => call.outcome(earlier, PoolAction::run).await,
            Self::Audit(call) => call.outcome(earlier, AuditAction::run).await,
            Self::Doctor(args) => args.outcome(earlier).await,
            Self::Reload(args) => args.outcome(earlier).await,
        }
    }
}

/// Runs the calls of a command to their end, and prints what came of them.
pub(super) fn conclude(calls: impl Future<Output = Result<Outcome, CliError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime);
    let outcome = runtime.and_then(|runtime| runtime.block_on(calls));
    match outcome.and_then(|outcome| outcome.print()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

impl<A: Subcommand> Call<A> {
    async fn outcome(
        self,
        earlier: Connection,
        act: impl AsyncFnOnce(A, &Client) -> Result<Answer, CliError>,
    ) -> Result<Outcome, CliError> {
        outcome(self.connection.or(earlier), async |client| {
            act(self.action, client).await
        })
        .await
    }
}

/// Opens the connection, makes the call, and words what came of it as was asked for.
pub(super) async fn outcome(
    connection: Connection,
    act: impl AsyncFnOnce(&Client) -> Result<Answer, CliError>,
) -> Result<Outcome, CliError> {
    let json = connection.json;
    let client = connection.open(environment)?;
    Ok(worded(act(&client).await?, json))
}

/// The answer, as people or as programs read it.
pub(super) fn worded(answer: Answer, json: bool) -> Outcome {
    let text = if json && !answer.json.is_null() {
        format!("{:#}", answer.json)
    } else {
        answer.text
    };
    Outcome {
        text,
        verdict: answer.verdict,
    }
}

/// What is printed in the end.
pub(super) struct Outcome {
    pub(super) text: String,
    pub(super) verdict: Verdict,
}

impl Outcome {
    /// The answer as it was asked for.
    fn print(&self) -> Result<ExitCode, CliError> {
        if !self.text.is_empty() {
            print(format!("{}\n", self.text).as_bytes())?;
        }
        Ok(match self.verdict {
            Verdict::Good => ExitCode::SUCCESS,
            Verdict::Bad => ExitCode::FAILURE,
        })
    }
}
