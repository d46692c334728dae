//! The personal access token: its shape, its making and its check. Pure.
//!
//! ```text
//! slp_ 4fQ8zK1mT0aB  k3…(43)…9x  0Zq1Pe
//! kind public id     secret      CRC-32 of id and secret, base62
//! ```
//!
//! The id finds the record, so no search depends on the secret. The checksum turns typing errors away before
//! any look-up; it proves nothing.

use rand::{TryRngCore, rngs::OsRng};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    catalog::{keys::Pepper, types::TokenRecord},
    names::TokenId,
};

const PREFIX: &str = "slp_";
const ID_CHARACTERS: usize = 12;
const SECRET_CHARACTERS: usize = 43;
const CHECKSUM_CHARACTERS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The largest multiple of 62 that a byte can hold; bytes from here on would favour the first letters.
const UNBIASED_BELOW: u8 = 248;

/// A well-formed token. Wiped when dropped; has neither `Debug` nor `Display`.
#[derive(Clone)]
pub struct Token {
    id: TokenId,
    text: Zeroizing<String>,
}

/// The operating system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoRandomness(#[from] rand::rand_core::OsError);

impl Token {
    /// A new token of the operating system's randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        let body = random_base62(ID_CHARACTERS + SECRET_CHARACTERS)?;
        let mut text = Zeroizing::new(String::with_capacity(token_characters()));
        text.push_str(PREFIX);
        text.push_str(&body);
        text.push_str(&checksum(&body));
        // Made of the right letters in the right number just above, so it parses.
        #[allow(clippy::expect_used)]
        Ok(Self::parse(&text).expect("a generated token is well-formed"))
    }

    /// The token in `text`, or `None` if it does not have a token's shape and checksum.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(PREFIX)?;
        if text.len() != token_characters() || !body.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let (body, given) = body.split_at_checked(ID_CHARACTERS + SECRET_CHARACTERS)?;
        if checksum(body).as_str() != given {
            return None;
        }
        Some(Self {
            id: TokenId::parse(body.get(..ID_CHARACTERS)?).ok()?,
            text: Zeroizing::new(text.to_owned()),
        })
    }

    /// The public half.
    #[must_use]
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// The whole token, to be shown once to its owner.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        self.text.clone()
    }

    /// What is stored in place of the secret.
    #[must_use]
    pub fn mac(&self, pepper: &Pepper) -> [u8; 32] {
        let body = self
            .text
            .get(PREFIX.len()..PREFIX.len() + ID_CHARACTERS + SECRET_CHARACTERS);
        pepper.mac(&[b"v1", body.unwrap_or_default().as_bytes()])
    }
}

/// Whether `token` is the one that `record` was made for. Does the same work when there is no record.
#[must_use]
pub fn verify(record: Option<&TokenRecord>, token: &Token, pepper: &Pepper) -> bool {
    let stored = record.map_or([0; 32], |record| record.mac);
    let same = token.mac(pepper).ct_eq(&stored);
    bool::from(same) & record.is_some_and(|record| record.id == token.id)
}

const fn token_characters() -> usize {
    PREFIX.len() + ID_CHARACTERS + SECRET_CHARACTERS + CHECKSUM_CHARACTERS
}

fn random_base62(characters: usize) -> Result<Zeroizing<String>, NoRandomness> {
    let mut text = Zeroizing::new(String::with_capacity(characters));
    let mut bytes = Zeroizing::new([0; 64]);
    while text.len() < characters {
        OsRng.try_fill_bytes(&mut bytes[..])?;
        let letters = bytes.iter().filter(|byte| **byte < UNBIASED_BELOW);
        for byte in letters.take(characters - text.len()) {
            text.push(letter(u32::from(*byte)));
        }
    }
    Ok(text)
}

fn checksum(body: &str) -> Zeroizing<String> {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut letters = [b'0'; CHECKSUM_CHARACTERS];
    for place in letters.iter_mut().rev() {
        *place = letter(rest) as u8;
        rest /= 62;
    }
    Zeroizing::new(letters.iter().map(|byte| char::from(*byte)).collect())
}

fn letter(number: u32) -> char {
    char::from(BASE62[(number % 62) as usize])
}
