//! The client's side of SCRAM for who has the keys and not the password.
//!
//! (With a plain password, `postgres_protocol::authentication::sasl` does the same.)

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use subtle::ConstantTimeEq;

use super::{
    Malformed, ScramError, ScramKeys,
    attributes::{Attributes, is_nonce},
    hmac, nonce, parse_iterations, parse_key, sha256, text, xor,
};

/// No channel binding, no authorization identity.
const HEADER: &str = "n,,";

/// The client has sent client-first and waits for server-first.
pub struct ClientWithKeys {
    keys: ScramKeys,
    nonce: String,
}

impl ClientWithKeys {
    /// Makes client-first, for the mechanism [`SCRAM_SHA_256`](super::SCRAM_SHA_256).
    #[must_use]
    pub fn new(keys: ScramKeys) -> (Self, String) {
        Self::with_nonce(keys, nonce())
    }

    pub(super) fn with_nonce(keys: ScramKeys, nonce: String) -> (Self, String) {
        let client = Self { keys, nonce };
        let first = format!("{HEADER}{}", client.first_bare());
        (client, first)
    }

    /// Takes server-first and makes client-final.
    pub fn respond(self, server_first: &[u8]) -> Result<(ClientWait, String), ScramError> {
        let server_first = text(server_first)?;
        let nonce = parse_server_first(server_first)?;
        // A nonce without a part of the server's own would let an old exchange be played back.
        if nonce
            .strip_prefix(self.nonce.as_str())
            .is_none_or(str::is_empty)
        {
            return Err(ScramError::Nonce);
        }
        let without_proof = format!("c={},r={nonce}", BASE64.encode(HEADER));
        let transcript = format!("{},{server_first},{without_proof}", self.first_bare());
        let stored_key = sha256(&self.keys.client_key);
        let mut proof = hmac(&stored_key, &[transcript.as_bytes()]);
        xor(&mut proof, &self.keys.client_key);
        let client_final = format!("{without_proof},p={}", BASE64.encode(proof));
        let wait = ClientWait {
            signature: hmac(&self.keys.server_key, &[transcript.as_bytes()]),
        };
        Ok((wait, client_final))
    }

    /// client-first without its header. PostgreSQL takes the name from the startup packet, so none is said here.
    fn first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }
}

/// The client has sent its proof and waits for the server's.
pub struct ClientWait {
    /// What only a server that knows the password can say.
    signature: [u8; 32],
}

impl ClientWait {
    /// Takes server-final. An error means that the server does not know the password and must not be talked to.
    pub fn verify(self, server_final: &[u8]) -> Result<(), ScramError> {
        let mut attributes = Attributes::new(text(server_final)?);
        if attributes.peek() == Some('e') {
            return Err(ScramError::ServerError);
        }
        let signature = parse_key(attributes.expect('v')?).ok_or(Malformed::Signature)?;
        attributes.end()?;
        if bool::from(signature.ct_eq(&self.signature)) {
            Ok(())
        } else {
            Err(ScramError::ServerSignature)
        }
    }
}

/// Reads the nonce. Salt and iterations are of no use to who has the keys, yet a server must send them well-formed.
fn parse_server_first(message: &str) -> Result<&str, ScramError> {
    let mut attributes = Attributes::new(message);
    if attributes.peek() == Some('m') {
        return Err(ScramError::Extension);
    }
    let nonce = attributes.expect('r')?;
    let salt = attributes.expect('s')?;
    let iterations = attributes.expect('i')?;
    attributes.skip_rest()?;
    if !is_nonce(nonce) {
        return Err(ScramError::NonceCharacters);
    }
    BASE64.decode(salt).map_err(|_| Malformed::Salt)?;
    parse_iterations(iterations).ok_or(Malformed::Iterations)?;
    Ok(nonce)
}
