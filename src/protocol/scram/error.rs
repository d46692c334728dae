//! Why a SCRAM exchange fails, in PostgreSQL's words where PostgreSQL has any.

use crate::protocol::error::SqlState;

/// Why an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    #[error("malformed SCRAM message")]
    Malformed(Malformed),
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    #[error("unsupported SCRAM channel-binding type \"{kind}\"")]
    BindingType { kind: String },
    #[error("SCRAM channel binding check failed")]
    Binding,
    #[error("unexpected SCRAM channel-binding attribute in client-final-message")]
    UnexpectedBinding,
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    #[error("client requires an unsupported SCRAM extension")]
    Extension,
    #[error("non-printable characters in SCRAM nonce")]
    NonceCharacters,
    #[error("invalid SCRAM response")]
    Nonce,
    /// The password was wrong, or there is nobody of that name.
    #[error("password authentication failed")]
    Proof,
    /// Heard from a server, in our role as its client.
    #[error("the server reported a SCRAM error")]
    ServerError,
    /// The server does not know the password, so it may not be the server.
    #[error("the server's SCRAM signature is wrong")]
    ServerSignature,
}

/// In what way a SCRAM message is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    NotText,
    Empty,
    Attribute,
    BindingFlag,
    BindingMissing,
    BindingUnasked,
    Salt,
    Iterations,
    Proof,
    Signature,
    Garbage,
}

impl ScramError {
    /// The code PostgreSQL answers with.
    #[must_use]
    pub fn code(&self) -> SqlState {
        match self {
            Self::Mechanism
            | Self::Malformed(_)
            | Self::BindingType { .. }
            | Self::UnexpectedBinding
            | Self::NonceCharacters
            | Self::Nonce => SqlState::PROTOCOL_VIOLATION,
            Self::Downgrade | Self::Binding => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::AuthorizationIdentity | Self::Extension => SqlState::FEATURE_NOT_SUPPORTED,
            Self::Proof => SqlState::INVALID_PASSWORD,
            Self::ServerError | Self::ServerSignature => SqlState::CONNECTION_FAILURE,
        }
    }

    /// What exactly was wrong, where that may be told.
    #[must_use]
    pub fn detail(&self) -> Option<&'static str> {
        match self {
            Self::Malformed(malformed) => Some(malformed.detail()),
            Self::Downgrade => Some(
                "The client supports SCRAM channel binding but thinks the server does not.  \
                 However, this server does support channel binding.",
            ),
            Self::Nonce => Some("Nonce does not match."),
            Self::Mechanism
            | Self::BindingType { .. }
            | Self::Binding
            | Self::UnexpectedBinding
            | Self::AuthorizationIdentity
            | Self::Extension
            | Self::NonceCharacters
            | Self::Proof
            | Self::ServerError
            | Self::ServerSignature => None,
        }
    }
}

impl Malformed {
    fn detail(self) -> &'static str {
        match self {
            Self::NotText => "The message is not valid UTF-8 text.",
            Self::Empty => "The message is empty.",
            Self::Attribute => "An attribute is missing, out of place or has no value.",
            Self::BindingFlag => "Unexpected channel-binding flag.",
            Self::BindingMissing => {
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include \
                 channel binding data."
            }
            Self::BindingUnasked => {
                "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message \
                 includes channel binding data."
            }
            Self::Salt => "Malformed salt in server-first-message.",
            Self::Iterations => "Malformed iteration count in server-first-message.",
            Self::Proof => "Malformed proof in client-final-message.",
            Self::Signature => "Malformed signature in server-final-message.",
            Self::Garbage => "Garbage found at the end of the message.",
        }
    }
}

impl From<Malformed> for ScramError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}
