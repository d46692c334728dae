//! What a server keeps of a password: PostgreSQL's `pg_authid.rolpassword`, or a mock of it.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Key, SCRAM_SHA_256, finish, hmac, keyed, parse_iterations, parse_key, sha256, xor};

/// PostgreSQL's default number of iterations, which a mock verifier must share to be one of many.
pub const DEFAULT_ITERATIONS: u32 = 4096;

/// The length of salt that PostgreSQL makes.
const SALT_BYTES: usize = 16;

/// What the server keeps of a password: enough to check a proof, not enough to make one.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Verifier {
    pub iterations: u32,
    pub salt: Vec<u8>,
    pub stored_key: Key,
    pub server_key: Key,
    #[zeroize(skip)]
    pub(super) origin: Origin,
}

/// Whether a proof against a verifier may ever succeed.
#[derive(Clone, Copy)]
pub(super) enum Origin {
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
