//! The server's side of SCRAM: two steps, each of which takes the last one's value.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::{
    Key, Malformed, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, ScramKeys, Verifier,
    attributes::{Attributes, is_nonce},
    hmac, nonce, parse_key, sha256, text,
    verifier::Origin,
    xor,
};

/// The only channel-binding type that PostgreSQL knows (RFC 5929).
const END_POINT: &str = "tls-server-end-point";

/// What the client's channel can be bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerBinding {
    /// No TLS.
    None,
    /// The hash of our certificate, as RFC 5929 wants it.
    EndPoint(Vec<u8>),
}

impl ServerBinding {
    /// The mechanisms to offer, in order of preference.
    #[must_use]
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self {
            Self::None => &[SCRAM_SHA_256],
            Self::EndPoint(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
        }
    }
}

/// The first step of the server.
pub struct ServerFirst;

impl ServerFirst {
    /// Takes client-first and makes server-first.
    pub fn start(
        verifier: Verifier,
        client_first: &[u8],
        mechanism: &str,
        channel_binding: ServerBinding,
    ) -> Result<(String, ServerWait), ScramError> {
        start_with_nonce(verifier, client_first, mechanism, channel_binding, &nonce())
    }
}

/// The server waits for client-final.
pub struct ServerWait {
    verifier: Verifier,
    /// What `c=` must say.
    binding: String,
    /// What `c=` is about, which decides how a mismatch is called.
    bound: Bound,
    /// The nonces of both.
    nonce: String,
    /// client-first-bare and server-first, with the commas of the AuthMessage.
    transcript: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    Channel,
    Nothing,
}

impl ServerWait {
    /// Takes client-final. If the proof fits: server-final, and the keys that let us log in as the client did.
    pub fn finish(self, client_final: &[u8]) -> Result<(String, ScramKeys), ScramError> {
        let message = ClientFinal::parse(text(client_final)?)?;
        if message.binding != self.binding {
            return Err(match self.bound {
                Bound::Channel => ScramError::Binding,
                Bound::Nothing => ScramError::UnexpectedBinding,
            });
        }
        if message.nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        let transcript = [self.transcript.as_bytes(), message.without_proof.as_bytes()];
        let mut client_key = message.proof;
        xor(
            &mut client_key,
            &hmac(&self.verifier.stored_key, &transcript),
        );
        let fits = sha256(&*client_key).ct_eq(&self.verifier.stored_key);
        let known = Choice::from(u8::from(matches!(self.verifier.origin, Origin::Password)));
        if !bool::from(fits & known) {
            return Err(ScramError::Proof);
        }
        let signature = BASE64.encode(hmac(&self.verifier.server_key, &transcript));
        let keys = ScramKeys {
            client_key: *client_key,
            server_key: self.verifier.server_key,
        };
        Ok((format!("v={signature}"), keys))
    }
}

pub(super) fn start_with_nonce(
    verifier: Verifier,
    client_first: &[u8],
    mechanism: &str,
    channel_binding: ServerBinding,
    server_nonce: &str,
) -> Result<(String, ServerWait), ScramError> {
    let offer = Offer::new(mechanism, channel_binding)?;
    let message = ClientFirst::parse(text(client_first)?, &offer)?;
    let nonce = format!("{}{server_nonce}", message.nonce);
    let salt = BASE64.encode(&verifier.salt);
    let server_first = format!("r={nonce},s={salt},i={}", verifier.iterations);
    let mut binding = message.header.as_bytes().to_vec();
    let bound = match offer {
        Offer::Plus(end_point) => {
            binding.extend(end_point);
            Bound::Channel
        }
        Offer::Plain { .. } => Bound::Nothing,
    };
    let wait = ServerWait {
        binding: BASE64.encode(binding),
        bound,
        transcript: format!("{},{server_first},", message.bare),
        nonce,
        verifier,
    };
    Ok((server_first, wait))
}

/// What the client chose, given what we can do.
enum Offer {
    Plain { plus_was_offered: bool },
    Plus(Vec<u8>),
}

impl Offer {
    fn new(mechanism: &str, channel_binding: ServerBinding) -> Result<Self, ScramError> {
        match (mechanism, channel_binding) {
            (SCRAM_SHA_256, binding) => Ok(Self::Plain {
                plus_was_offered: binding != ServerBinding::None,
            }),
            (SCRAM_SHA_256_PLUS, ServerBinding::EndPoint(end_point)) => Ok(Self::Plus(end_point)),
            _ => Err(ScramError::Mechanism),
        }
    }
}

/// client-first: what of it matters later.
struct ClientFirst<'a> {
    /// The GS2 header, up to and with its second comma.
    header: &'a str,
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a str, offer: &Offer) -> Result<Self, ScramError> {
        let header = header(message)?;
        check_flag(header, offer)?;
        let bare = message.strip_prefix(header).unwrap_or_default();
        let mut attributes = Attributes::new(bare);
        if attributes.peek() == Some('m') {
            return Err(ScramError::Extension);
        }
        // PostgreSQL takes the user's name from the startup packet and ignores this one.
        attributes.expect('n')?;
        let nonce = attributes.expect('r')?;
        if !is_nonce(nonce) {
            return Err(ScramError::NonceCharacters);
        }
        attributes.skip_rest()?;
        Ok(Self {
            header,
            bare,
            nonce,
        })
    }
}

/// Splits off the GS2 header and refuses an authorization identity in it.
fn header(message: &str) -> Result<&str, ScramError> {
    let (flag, rest) = message.split_once(',').ok_or(Malformed::Attribute)?;
    let (identity, _) = rest.split_once(',').ok_or(Malformed::Attribute)?;
    match identity {
        "" => message
            .get(..flag.len() + 2)
            .ok_or(Malformed::Attribute.into()),
        identity if identity.starts_with("a=") => Err(ScramError::AuthorizationIdentity),
        _ => Err(Malformed::Attribute.into()),
    }
}

/// Whether the client's channel-binding flag goes with the mechanism it chose.
fn check_flag(header: &str, offer: &Offer) -> Result<(), ScramError> {
    let flag = header.trim_end_matches(',');
    match (flag, offer) {
        ("n", Offer::Plain { .. }) => Ok(()),
        (
            "y",
            Offer::Plain {
                plus_was_offered: false,
            },
        ) => Ok(()),
        // Somebody between us has taken PLUS off the list.
        (
            "y",
            Offer::Plain {
                plus_was_offered: true,
            },
        ) => Err(ScramError::Downgrade),
        ("n" | "y", Offer::Plus(_)) => Err(Malformed::BindingMissing.into()),
        (flag, offer) => match (flag.strip_prefix("p="), offer) {
            (None, _) => Err(Malformed::BindingFlag.into()),
            (Some(_), Offer::Plain { .. }) => Err(Malformed::BindingUnasked.into()),
            (Some(END_POINT), Offer::Plus(_)) => Ok(()),
            (Some(kind), Offer::Plus(_)) => Err(ScramError::BindingType {
                kind: kind.to_owned(),
            }),
        },
    }
}

/// client-final, taken apart.
struct ClientFinal<'a> {
    binding: &'a str,
    nonce: &'a str,
    proof: Zeroizing<Key>,
    without_proof: &'a str,
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a str) -> Result<Self, ScramError> {
        // The proof is the last attribute and base64 has no comma.
        let (without_proof, last) = message.rsplit_once(',').ok_or(Malformed::Attribute)?;
        let mut attributes = Attributes::new(without_proof);
        let binding = attributes.expect('c')?;
        let nonce = attributes.expect('r')?;
        attributes.skip_rest()?;
        Ok(Self {
            binding,
            nonce,
            proof: parse_proof(last)?,
            without_proof,
        })
    }
}

fn parse_proof(attribute: &str) -> Result<Zeroizing<Key>, ScramError> {
    let encoded = attribute.strip_prefix("p=").ok_or(Malformed::Proof)?;
    let proof = parse_key(encoded).ok_or(Malformed::Proof)?;
    Ok(Zeroizing::new(proof))
}
