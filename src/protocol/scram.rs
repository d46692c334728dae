//! SCRAM-SHA-256 (RFC 5802, RFC 7677): proof of a password without sending it, on both sides of the pooler.
//!
//! A password user logs in to Sluice, and Sluice to PostgreSQL in the user's name, without the password being
//! stored anywhere:
//!
//! ```text
//! client                     Sluice, with PostgreSQL's Verifier             PostgreSQL
//!   ── client-first ───────▶ ServerFirst::start
//!   ◀─────── server-first ──
//!   ── client-final, proof ▶ ServerWait::finish ──▶ ScramKeys
//!   ◀─────── server-final ──                          │
//!                            ClientWithKeys::new ◀────┘ ── client-first ──▶
//!                            respond                ◀── server-first ──
//!                                                   ── client-final ──▶
//!                            ClientWait::verify     ◀── server-final ──
//! ```
//!
//! The proof hides the client key under a signature that whoever has the verifier can compute; what comes out is
//! all a client needs to prove itself anew. Where nobody is known by the name, a mock verifier goes through the
//! same steps with the same work and fails at the end (RFC 5802 section 9; PostgreSQL does the same).
//! Secrets are wiped when dropped, compared in constant time and have no `Debug`.

mod attributes;
mod client;
mod server;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::protocol::error::SqlState;

pub use client::{ClientWait, ClientWithKeys};
pub use server::{ServerBinding, ServerFirst, ServerWait};

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// PostgreSQL's default number of iterations, which a mock verifier must share to be one of many.
pub const DEFAULT_ITERATIONS: u32 = 4096;

/// The length of salt that PostgreSQL makes.
const SALT_BYTES: usize = 16;
/// Random bytes in a nonce, before base64; as in PostgreSQL.
const NONCE_BYTES: usize = 18;

type Key = [u8; 32];

/// What the server keeps of a password: enough to check a proof, not enough to make one.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Verifier {
    pub iterations: u32,
    pub salt: Vec<u8>,
    pub stored_key: Key,
    pub server_key: Key,
    #[zeroize(skip)]
    origin: Origin,
}

/// Whether a proof against a verifier may ever succeed.
#[derive(Clone, Copy)]
enum Origin {
    Password,
    Mock,
}

impl Verifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`, the form in `pg_authid`.
    pub fn parse(text: &str) -> Result<Self, VerifierError> {
        let fields = text
            .strip_prefix("SCRAM-SHA-256$")
            .ok_or(VerifierError::Scheme)?;
        let (parameters, keys) = fields.split_once('$').ok_or(VerifierError::Layout)?;
        let (iterations, salt) = parameters.split_once(':').ok_or(VerifierError::Layout)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(VerifierError::Layout)?;
        Ok(Self {
            iterations: parse_iterations(iterations).ok_or(VerifierError::Iterations)?,
            salt: BASE64.decode(salt).map_err(|_| VerifierError::Salt)?,
            stored_key: parse_key(stored_key).ok_or(VerifierError::Key)?,
            server_key: parse_key(server_key).ok_or(VerifierError::Key)?,
            origin: Origin::Password,
        })
    }

    /// Derives the verifier of `password`. Costs `iterations` times two SHA-256 blocks, by design.
    #[must_use]
    pub fn from_password(password: impl AsRef<[u8]>, salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(&normalised(password.as_ref()), salt, iterations);
        let client_key = Zeroizing::new(hmac(&*salted, &[b"Client Key"]));
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&*client_key),
            server_key: hmac(&*salted, &[b"Server Key"]),
            origin: Origin::Password,
        }
    }

    /// A verifier that no proof fits, for a name that nobody has. The same `seed` and `name` always give the same
    /// salt, so that asking twice tells nothing.
    #[must_use]
    pub fn mock(seed: &[u8; 32], name: &str) -> Self {
        let derive = |label: &[u8]| hmac(seed, &[label, b":", name.as_bytes()]);
        Self {
            iterations: DEFAULT_ITERATIONS,
            salt: derive(b"salt").into_iter().take(SALT_BYTES).collect(),
            stored_key: derive(b"stored key"),
            server_key: derive(b"server key"),
            origin: Origin::Mock,
        }
    }

    /// The form that [`Verifier::parse`] reads and PostgreSQL takes in `ALTER ROLE … PASSWORD`.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "{SCRAM_SHA_256}${}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key),
        ))
    }
}

/// What a client needs to prove itself, however often, without the password.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ScramKeys {
    pub client_key: Key,
    pub server_key: Key,
}

/// A text that is no SCRAM verifier. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    #[error("the verifier does not begin with SCRAM-SHA-256$")]
    Scheme,
    #[error("the verifier is not SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>")]
    Layout,
    #[error("the verifier's number of iterations is not a positive number")]
    Iterations,
    #[error("the verifier's salt is not base64")]
    Salt,
    #[error("a key of the verifier is not 32 bytes of base64")]
    Key,
}

/// Why an exchange failed, in PostgreSQL's words where PostgreSQL has any.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    #[error("malformed SCRAM message")]
    Malformed(Malformed),
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    #[error("unsupported SCRAM channel-binding type")]
    BindingType,
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
            | Self::BindingType
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
            | Self::BindingType
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

fn parse_iterations(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|count| digits && *count > 0)
}

fn parse_key(text: &str) -> Option<Key> {
    Zeroizing::new(BASE64.decode(text).ok()?)
        .as_slice()
        .try_into()
        .ok()
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    let text = std::str::from_utf8(message).map_err(|_| Malformed::NotText)?;
    if text.is_empty() {
        return Err(Malformed::Empty.into());
    }
    Ok(text)
}

fn nonce() -> String {
    BASE64.encode(rand::random::<[u8; NONCE_BYTES]>())
}

/// RFC 4013 where it applies. Like PostgreSQL, takes a password that is no UTF-8 or has characters which SASLprep
/// forbids as the bytes it is.
fn normalised(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = std::str::from_utf8(password)
        .ok()
        .and_then(|password| stringprep::saslprep(password).ok());
    Zeroizing::new(match prepared {
        Some(prepared) => prepared.into_owned().into_bytes(),
        None => password.to_vec(),
    })
}

/// `Hi` of RFC 5802: PBKDF2 with one block of output.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Zeroizing<Key> {
    let keyed = keyed(password);
    let mut block = finish(keyed.clone(), &[salt, &1u32.to_be_bytes()]);
    let mut salted = Zeroizing::new(block);
    for _ in 1..iterations {
        block = finish(keyed.clone(), &[&block]);
        xor(&mut salted, &block);
    }
    block.zeroize();
    salted
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    finish(keyed(key), parts)
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes a key of any length; the error type belongs to other algorithms.
    #[allow(clippy::expect_used)]
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn finish(mut keyed: Hmac<Sha256>, parts: &[&[u8]]) -> Key {
    for part in parts {
        keyed.update(part);
    }
    keyed.finalize().into_bytes().into()
}

fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

fn xor(target: &mut Key, other: &Key) {
    for (byte, mask) in target.iter_mut().zip(other) {
        *byte ^= mask;
    }
}
