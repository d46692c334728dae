//! Everything that ends a session, and what is said about it: to the client, in the log, in the audit trail.
//!
//! One enum, one table: `End::row` has no catch-all arm, so a new cause cannot be forgotten. design.md section 10
//! is the same table in prose.

use std::{io, rc::Rc, time::Duration};

use tracing::Level;

use super::handshake::HandshakeFailure;
use crate::{
    access::{Denial, EndCause, InvalidToken},
    backend::{ConnectError, ExchangeError},
    catalog::CatalogError,
    names::{PersonId, TokenId},
    pool::{CheckoutError, SubscriptionError},
    protocol::{
        error::{ErrorResponse, Severity, SqlState},
        message::MessageError,
        pipeline::{InvalidMessage, PipelineError},
        prepared::TooManyStatements,
        scram,
    },
};

/// The hint for every refusal of an unproven client, whatever was wrong: it must not say what.
const CREDENTIALS_HINT: &str = "Check the user name (role.ref), the project's ref and the password. To use a personal \
    access token as password, add options=-c jit=true (not needed on the direct port) and make sure that the token is neither expired nor revoked.";

/// What is said of a query that took too long, in PostgreSQL's words.
pub(super) const STATEMENT_TIMEOUT: &str = "canceling statement due to statement timeout";

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The client said goodbye.
    #[error("client disconnected")]
    Terminated,
    /// The client's connection closed or broke without a goodbye.
    #[error("client connection lost")]
    ClientLost,
    /// The client has not taken in what it was sent, for as long as it may.
    #[error("the client did not read")]
    WriteStall,
    /// Somebody else ended it, or a limit of time did.
    #[error("ended: {}", .0.reason())]
    Signalled(EndCause),
    #[error("login took longer than {0:?}")]
    LoginTimeout(Duration),
    #[error("pushed out by newer connections of the same address")]
    Crowded,
    #[error("{0}")]
    Startup(#[from] HandshakeFailure),
    #[error("{0}")]
    Message(#[from] MessageError),
    #[error("SASL: {0}")]
    Sasl(scram::ScramError),
    /// The client did not prove to be anybody: `reason` is for the audit trail only.
    #[error("authentication failed: {reason}")]
    Credentials { user: String, reason: &'static str },
    #[error("token refused: {}", .denial.reason())]
    Denied {
        user: String,
        role: String,
        denial: Denial,
        /// Whose token it was, if it proved to be anybody's.
        proven: Option<(PersonId, TokenId)>,
    },
    /// Too many wrong guesses have come from the client's address, and its turn has not come.
    #[error("too many failed logins from this address")]
    TooManyFailures,
    #[error("token mode without TLS")]
    TokenWithoutTls,
    #[error("the project requires TLS")]
    TlsRequired,
    #[error("the catalogue cannot be asked")]
    CannotVerify,
    /// Logins are to be on record before they take effect, and this one could not be put there.
    #[error("the login could not be written down: {0}")]
    NotRecorded(CatalogError),
    #[error("{what} limit of {limit} reached")]
    TooMany { what: &'static str, limit: usize },
    #[error("shutting down")]
    ShuttingDown,
    #[error("replication in transaction mode")]
    Replication,
    #[error("no backend: {0}")]
    Checkout(#[from] CheckoutError),
    /// The server that knows the passwords could not be asked.
    #[error("passwords cannot be checked: {0}")]
    PasswordsUnknown(#[source] Box<Self>),
    /// The server did not take the settings the client asked for.
    #[error("the client's settings were refused: {}", .0.message)]
    Settings(Box<ErrorResponse>),
    #[error("the backend broke: {0}")]
    Exchange(#[from] ExchangeError),
    /// The server closed the connection in mid-work, or it broke.
    #[error("the backend was lost")]
    BackendLost,
    /// The server's own FATAL has reached the client.
    #[error("the server ended the connection")]
    BackendFatal,
    #[error("the server broke the protocol: {0}")]
    BackendProtocol(#[from] PipelineError),
    #[error("the server sent a message that is too long")]
    BackendMessage,
    #[error("{0}")]
    ClientMessage(#[from] InvalidMessage),
    #[error("invalid message length")]
    ClientLength,
    #[error("a password was expected, but message type {0} came")]
    PasswordExpected(u8),
    #[error("{0}")]
    TooManyStatements(#[from] TooManyStatements),
    #[error("a prepared statement of more than {limit} bytes")]
    StatementTooLong { limit: usize },
    #[error("more than {limit} channels are listened to")]
    TooManyChannels { limit: usize },
    /// Notifications are read in UTF-8, for everybody who listens.
    #[error("LISTEN in another encoding than UTF8")]
    ListenEncoding,
    #[error("{0}")]
    Subscription(#[from] SubscriptionError),
    /// The tenant's record does not say how to encrypt connections to its server.
    #[error("the tenant's TLS settings cannot be used")]
    TenantTls,
    /// Token sessions log in with the role's password, and the catalogue has none.
    #[error("the role's password is not in the catalogue")]
    NoRoleSecret,
}

/// One row of the table.
pub(super) struct Row {
    /// What the client is told; `None`: nothing can or need be said.
    pub(super) response: Option<ErrorResponse>,
    pub(super) level: Level,
    /// The word for audit and metrics.
    pub(super) reason: &'static str,
}

impl End {
    /// A write to the client has failed. The kernel keeps the time (`net::stream::Keepalive`): it alone knows whether
    /// the client takes anything in.
    pub(super) fn from_client_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::WriteStall,
            _ => Self::ClientLost,
        }
    }

    /// Whether a backend in the middle of the client's work may serve others once that work is undone: the end has
    /// nothing to do with the backend, and nobody has to see it gone.
    pub(super) fn spares_backend(&self) -> bool {
        matches!(
            self,
            Self::Terminated
                | Self::ClientLost
                | Self::WriteStall
                | Self::ClientMessage(_)
                | Self::ClientLength
                | Self::TooManyStatements(_)
                | Self::StatementTooLong { .. }
                | Self::Signalled(EndCause::IdleTimeout | EndCause::IdleInTransactionTimeout)
        )
    }

    /// Whether the client is told what everybody is told who has shown nothing that holds.
    pub(super) fn is_bad_credentials(&self) -> bool {
        matches!(
            self,
            Self::Credentials { .. }
                | Self::Denied {
                    denial: Denial::InvalidToken(_),
                    ..
                }
        )
    }

    /// Whether what the client has shown could have been anybody's: not so an old token, of which it knew the secret.
    pub(super) fn is_wrong_guess(&self) -> bool {
        self.is_bad_credentials()
            && !matches!(
                self,
                Self::Denied {
                    proven: Some(_),
                    ..
                }
            )
    }

    /// Whether the backend was lost in a conversation of the pooler's own, and not for what it said.
    pub(super) fn is_broken_exchange(&self) -> bool {
        matches!(self, Self::Exchange(ExchangeError::Broken(error)) if error.kind() != io::ErrorKind::InvalidData)
    }

    /// What is said of this end, and to whom.
    pub(super) fn row(&self, timeouts: &crate::config::Timeouts) -> Row {
        match self {
            Self::Terminated => silent("client"),
            Self::ClientLost => silent("client_lost"),
            Self::WriteStall => silent("write_stall"),
            Self::Crowded => silent("crowded"),
            Self::BackendFatal => silent("server"),
            Self::Signalled(cause) => told(signalled(*cause, timeouts), Level::INFO, cause.reason()),
            Self::LoginTimeout(_) => told(
                fatal(SqlState::QUERY_CANCELED, "canceling authentication due to timeout"),
                Level::INFO,
                "login_timeout",
            ),
            Self::Startup(error) => {
                let mut response = fatal(error.code(), error.to_string());
                response.hint = error.hint().map(str::to_owned);
                told(response, Level::INFO, "protocol")
            }
            Self::Message(error) => told(fatal(error.code(), error.to_string()), Level::INFO, "protocol"),
            Self::Sasl(error) => {
                let mut response = fatal(error.code(), error.to_string());
                response.detail = error.detail().map(str::to_owned);
                told(response, Level::INFO, "protocol")
            }
            Self::Credentials { user, reason } => told(bad_credentials(user), Level::INFO, reason),
            Self::Denied { user, denial: denial @ Denial::InvalidToken(_), .. } => {
                told(bad_credentials(user), Level::INFO, denial.reason())
            }
            Self::Denied { role, denial, .. } => told(denied(role, *denial), Level::INFO, denial.reason()),
            Self::TooManyFailures => told(
                fatal(SqlState::TOO_MANY_CONNECTIONS, "too many failed logins from this address")
                    .with_hint("Make sure that what you log in with is right, and try again in a minute."),
                Level::INFO,
                "throttled",
            ),
            Self::TokenWithoutTls => told(
                fatal(
                    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                    "temporary access requires an encrypted connection",
                )
                .with_hint("Connect with sslmode=verify-full, or at least sslmode=require."),
                Level::INFO,
                "tls_required",
            ),
            Self::TlsRequired => told(
                fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, "this project requires an encrypted connection")
                    .with_hint("Connect with sslmode=verify-full, or at least sslmode=require."),
                Level::INFO,
                "tls_required",
            ),
            Self::CannotVerify => told(
                fatal(SqlState::CANNOT_CONNECT_NOW, "cannot verify temporary access at the moment")
                    .with_hint("This is not about your credentials. Try again in a moment."),
                Level::ERROR,
                "authority_unavailable",
            ),
            Self::NotRecorded(_) => told(
                fatal(SqlState::CANNOT_CONNECT_NOW, "cannot record the login at the moment")
                    .with_hint("This is not about your credentials. Try again in a moment."),
                Level::ERROR,
                "audit_unavailable",
            ),
            Self::PasswordsUnknown(_) => told(
                fatal(SqlState::CONNECTION_FAILURE, "cannot connect to the project's server")
                    .with_detail("So the password cannot be checked at the moment.")
                    .with_hint("This is not about your credentials. Try again in a moment."),
                Level::ERROR,
                "passwords_unavailable",
            ),
            Self::TooMany { what, limit } => told(
                fatal(SqlState::TOO_MANY_CONNECTIONS, format!("too many clients already: the limit of {limit} {what} is reached"))
                    .with_hint("Close connections that are not needed, or ask the operator to raise the limit."),
                Level::WARN,
                "limit",
            ),
            Self::ShuttingDown => told(
                fatal(SqlState::CANNOT_CONNECT_NOW, "the pooler is shutting down"),
                Level::INFO,
                "shutdown",
            ),
            Self::Replication => told(
                fatal(SqlState::FEATURE_NOT_SUPPORTED, "replication connections are not supported in transaction mode")
                    .with_hint("Connect to the direct listener, usually port 5432 of db.{ref}."),
                Level::INFO,
                "unsupported",
            ),
            Self::Checkout(error) => told(no_backend(error), Level::WARN, "no_backend"),
            Self::Settings(error) => told(
                ErrorResponse { severity: Severity::Fatal, ..(**error).clone() },
                Level::INFO,
                "settings",
            ),
            Self::Exchange(ExchangeError::Refused(error)) => told(
                ErrorResponse { severity: Severity::Fatal, ..(**error).clone() },
                Level::WARN,
                "server",
            ),
            Self::Exchange(_) | Self::BackendLost => told(
                fatal(SqlState::CONNECTION_FAILURE, "the connection to the server was lost")
                    .with_detail("The outcome of a statement that was running is unknown."),
                Level::WARN,
                "backend_lost",
            ),
            Self::BackendProtocol(_) | Self::BackendMessage => told(
                fatal(SqlState::CONNECTION_FAILURE, "the server sent a message that does not follow the protocol"),
                Level::ERROR,
                "backend_protocol",
            ),
            Self::ClientMessage(error) => told(
                fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()),
                Level::INFO,
                "protocol",
            ),
            Self::PasswordExpected(tag) => told(
                fatal(SqlState::PROTOCOL_VIOLATION, format!("expected password response, got message type {tag}")),
                Level::INFO,
                "protocol",
            ),
            Self::TooManyStatements(error) => told(
                fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, error.to_string())
                    .with_hint("Close prepared statements that are not needed any more."),
                Level::INFO,
                "limit",
            ),
            Self::StatementTooLong { limit } => told(
                fatal(
                    SqlState::PROGRAM_LIMIT_EXCEEDED,
                    format!("prepared statement too long: the limit is {limit} bytes"),
                )
                .with_hint("Use an unnamed statement for texts of this size."),
                Level::INFO,
                "limit",
            ),
            Self::TooManyChannels { limit } => told(
                fatal(
                    SqlState::PROGRAM_LIMIT_EXCEEDED,
                    format!("too many channels to listen to: the limit is {limit}"),
                )
                .with_hint("UNLISTEN what is not needed any more."),
                Level::INFO,
                "limit",
            ),
            Self::ListenEncoding => told(
                fatal(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    "LISTEN in transaction mode needs client_encoding UTF8",
                )
                .with_hint("Set client_encoding to UTF8 before LISTEN, or use the direct listener."),
                Level::INFO,
                "unsupported",
            ),
            Self::Subscription(SubscriptionError::Lost) => told(
                fatal(
                    SqlState::CONNECTION_FAILURE,
                    "the connection that listens for notifications was lost",
                )
                .with_detail("Notifications may have been missed.")
                .with_hint("Connect again and LISTEN again, then look for what has happened meanwhile."),
                Level::WARN,
                "notifications_lost",
            ),
            Self::Subscription(SubscriptionError::Unread { limit }) => told(
                fatal(
                    SqlState::PROGRAM_LIMIT_EXCEEDED,
                    format!("too many notifications are unread: the limit is {limit} bytes"),
                )
                .with_hint("Read notifications as they come, and keep transactions short."),
                Level::INFO,
                "limit",
            ),
            Self::Subscription(SubscriptionError::Busy) => told(
                fatal(
                    SqlState::TOO_MANY_CONNECTIONS,
                    "no connection to listen with became available in time",
                )
                .with_hint("LISTEN takes one more backend of the project's budget. Shorten transactions, or ask the operator for a larger budget."),
                Level::WARN,
                "no_backend",
            ),
            Self::Subscription(SubscriptionError::NoBackend(error)) => {
                told(no_backend(error), Level::WARN, "no_backend")
            }
            Self::TenantTls | Self::NoRoleSecret => told(
                fatal(SqlState::CONNECTION_FAILURE, "cannot log in to the project's server")
                    .with_detail("The project is not set up for this way of logging in.")
                    .with_hint("Ask the operator to look at the pooler's log."),
                Level::WARN,
                "setup",
            ),
            Self::ClientLength => told(
                fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length"),
                Level::INFO,
                "protocol",
            ),
        }
    }
}

fn told(response: ErrorResponse, level: Level, reason: &'static str) -> Row {
    Row {
        response: Some(response),
        level,
        reason,
    }
}

fn silent(reason: &'static str) -> Row {
    Row {
        response: None,
        level: Level::INFO,
        reason,
    }
}

fn fatal(code: SqlState, message: impl Into<String>) -> ErrorResponse {
    ErrorResponse::new(Severity::Fatal, code, message)
}

fn bad_credentials(user: &str) -> ErrorResponse {
    fatal(
        SqlState::INVALID_PASSWORD,
        format!("password authentication failed for user \"{user}\""),
    )
    .with_hint(CREDENTIALS_HINT)
}

/// The caller has proven who they are, so they may know why.
fn denied(role: &str, denial: Denial) -> ErrorResponse {
    let hint = match denial {
        Denial::InvalidToken(
            InvalidToken::Unknown
            | InvalidToken::Expired
            | InvalidToken::Revoked
            | InvalidToken::Tenant
            | InvalidToken::OtherRole,
        ) => CREDENTIALS_HINT,
        Denial::OutsideToken(_) => {
            "Log in with another of your tokens, or ask an administrator for one that is good for this."
        }
        Denial::OtherAuthority => {
            "Log in with a token of the authority that the project relies on."
        }
        Denial::NotEnabled => "Ask an administrator of the project to enable token access.",
        Denial::NotAMember => "Ask an administrator of the project to make you a member.",
        Denial::NoRule => {
            "Ask an administrator of the project for a rule that grants you this role."
        }
        Denial::Restricted => "Ask an administrator of the project what its authority wants.",
        Denial::Revoked => "Ask an administrator of the project why.",
        Denial::RuleExpired => "Ask an administrator of the project to extend your rule.",
        Denial::ProjectNetwork => {
            "Connect from a network that the project allows, or ask an administrator to add this one."
        }
        Denial::Network => {
            "Connect from a network that your rule allows, or ask an administrator to add this one."
        }
        Denial::BranchesOnly => {
            "Connect to a branch of the project, or ask an administrator for a rule without that limit."
        }
        Denial::PrivilegedRole => {
            "Ask for a role with fewer powers, or ask an administrator to allow privileged roles."
        }
        Denial::ServerTooOld { .. } => {
            "Upgrade the project's PostgreSQL, or log in with the role's password."
        }
    };
    fatal(
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        format!("temporary access denied for role \"{role}\""),
    )
    .with_detail(format!("{}.", sentence(&denial.to_string())))
    .with_hint(hint)
}

fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}

fn signalled(cause: EndCause, timeouts: &crate::config::Timeouts) -> ErrorResponse {
    let (code, message) = match cause {
        EndCause::Drain | EndCause::Shutdown | EndCause::Administrator => (
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection due to administrator command",
        ),
        EndCause::Revoked => (
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection due to access revocation",
        ),
        EndCause::Expired => (
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection due to access expiry",
        ),
        EndCause::AuthorityLost => (
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection due to loss of authorization service",
        ),
        EndCause::IdleTimeout => (
            SqlState::IDLE_SESSION_TIMEOUT,
            "terminating connection due to idle-session timeout",
        ),
        EndCause::IdleInTransactionTimeout => (
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            "terminating connection due to idle-in-transaction timeout",
        ),
        EndCause::QueueTimeout => {
            let waited = humantime::format_duration(timeouts.queue);
            return fatal(
                SqlState::TOO_MANY_CONNECTIONS,
                format!("no connection became available within {waited}"),
            )
            .with_hint("All backends of this pool are busy. Shorten transactions, or ask the operator for a larger pool.");
        }
        EndCause::QueryTimeout => (SqlState::QUERY_CANCELED, STATEMENT_TIMEOUT),
        EndCause::TransactionTimeout => (
            SqlState::TRANSACTION_TIMEOUT,
            "terminating connection due to transaction timeout",
        ),
    };
    fatal(code, message)
}

fn no_backend(error: &CheckoutError) -> ErrorResponse {
    match error {
        CheckoutError::Connect(error) => connect_failed(error),
        CheckoutError::Mint(_) => fatal(
            SqlState::CONNECTION_FAILURE,
            "cannot log in to the project's server",
        )
        .with_detail("No client certificate could be made for this role."),
        CheckoutError::Denied { role, denial } => denied(role.as_str(), *denial),
    }
}

/// The server's own error where it has one; nothing that tells how the server is reached.
fn connect_failed(error: &Rc<ConnectError>) -> ErrorResponse {
    let detail = match &**error {
        ConnectError::Refused(response) => {
            return ErrorResponse {
                severity: Severity::Fatal,
                detail: None,
                hint: None,
                message: format!(
                    "the project's server refused the connection: {}",
                    response.message
                ),
                ..(**response).clone()
            };
        }
        ConnectError::Resolve(_) => "Its host name cannot be resolved.",
        ConnectError::Unreachable(_) => "It cannot be reached.",
        ConnectError::TimedOut(_) => "It did not answer in time.",
        ConnectError::Tls(_) => "The encrypted connection could not be established.",
        ConnectError::Broken(_) => "It closed the connection during login.",
        ConnectError::Method | ConnectError::Scram(_) | ConnectError::ScramPassword(_) => {
            "It did not accept the pooler's way of logging in."
        }
        ConnectError::Iterations => "It asks for too much work to prove a password.",
        ConnectError::Unverified => "It has not proven who it is, so the token was not sent.",
        ConnectError::Protocol => "Its answer does not follow the protocol.",
    };
    fatal(
        SqlState::CONNECTION_FAILURE,
        "cannot connect to the project's server",
    )
    .with_detail(detail)
}
