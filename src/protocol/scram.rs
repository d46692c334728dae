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
mod error;
mod server;
mod verifier;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub use client::{ClientWait, ClientWithKeys};
pub use error::{Malformed, ScramError};
pub use server::{ServerBinding, ServerFirst, ServerWait};
pub use verifier::{DEFAULT_ITERATIONS, Verifier, VerifierError};

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Random bytes in a nonce, before base64; as in PostgreSQL.
const NONCE_BYTES: usize = 18;

type Key = [u8; 32];

/// What a client needs to prove itself, however often, without the password.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ScramKeys {
    pub client_key: Key,
    pub server_key: Key,
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

#[cfg(test)]
mod tests;
