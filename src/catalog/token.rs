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
/// Taken as well, for Supabase's PAM module: it knows a token by this beginning and asks nobody about any other.
const PEER_PREFIX: &str = "sbp_";
const ID_CHARACTERS: usize = 12;
const SECRET_CHARACTERS: usize = 43;
const CHECKSUM_CHARACTERS: usize = 6;
/// So much behind the prefix is no name; the peer's tokens have no more.
const TELLTALE_CHARACTERS: usize = 40;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The largest multiple of 62 that a byte can hold; bytes from here on would favour the first letters.
const UNBIASED_BELOW: u8 = 248;

/// A well-formed token. Wiped when dropped; has neither `Debug` nor `Display`.
#[derive(Clone)]
pub struct Token {
    id: TokenId,
    text: Zeroizing<String>,
}

/// Whether `text` has a token in it, or most of one: whoever typed it there did so by mistake.
#[must_use]
pub fn holds_token(text: &str) -> bool {
    [PREFIX, PEER_PREFIX].iter().any(|prefix| {
        text.match_indices(prefix).any(|(at, _)| {
            let rest = text.bytes().skip(at + prefix.len());
            let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
            rest.take_while(is_token).count() >= TELLTALE_CHARACTERS
        })
    })
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
        let body = text
            .strip_prefix(PREFIX)
            .or_else(|| text.strip_prefix(PEER_PREFIX))?;
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

pub(super) fn random_base62(characters: usize) -> Result<Zeroizing<String>, NoRandomness> {
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

/// The first `characters` digits of a number that `bytes` are taken for.
pub(super) fn base62(bytes: &[u8; 32], characters: usize) -> String {
    let mut rest = u128::from_be_bytes(std::array::from_fn(|at| bytes[at]));
    let mut text = String::with_capacity(characters);
    for _ in 0..characters {
        // Less than 62.
        text.push(letter((rest % 62) as u32));
        rest /= 62;
    }
    text
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by hand from the description above, so that the shape cannot change unnoticed.
    const SAMPLE: &str = "slp_0123456789AB0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg";

    fn sample() -> String {
        format!("{SAMPLE}{}", &*checksum(&SAMPLE[4..]))
    }

    #[test]
    fn a_token_is_65_characters_that_need_no_escaping() {
        let text = Token::generate().unwrap().reveal();
        assert_eq!(text.len(), 65);
        assert!(text.starts_with("slp_"));
        assert!(text[4..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }

    #[test]
    fn the_checksum_is_crc_32_in_base62_with_leading_zeros() {
        // CRC-32 of "123456789" is 3,421,780,262 (0xCBF43926), its customary check value.
        assert_eq!(checksum("123456789").as_str(), "3jZRME");
        assert_eq!(checksum("").as_str(), "000000");
    }

    #[test]
    fn what_was_generated_parses_and_no_two_are_alike() {
        let (first, second) = (Token::generate().unwrap(), Token::generate().unwrap());
        let again = Token::parse(&first.reveal()).unwrap();
        assert_eq!(again.id(), first.id());
        assert_ne!(first.id(), second.id());
        assert_ne!(first.reveal()[16..59], second.reveal()[16..59]);
    }

    #[test]
    fn the_sample_parses_and_its_id_comes_first() {
        let token = Token::parse(&sample()).unwrap();
        assert_eq!(token.id().as_str(), "0123456789AB");
    }

    #[test]
    fn the_peers_prefix_does_not_change_the_token() {
        let pepper = crate::catalog::keys::Keys::derive(&Zeroizing::new([7; 32]));
        let ours = Token::parse(&sample()).unwrap();
        let theirs = Token::parse(&sample().replacen(PREFIX, PEER_PREFIX, 1)).unwrap();
        assert_eq!(ours.id(), theirs.id());
        assert_eq!(ours.mac(pepper.pepper()), theirs.mac(pepper.pepper()));
    }

    #[test]
    fn any_single_wrong_character_is_refused() {
        let sample = sample();
        for at in 0..sample.len() {
            let wrong = if &sample[at..=at] == "z" { "y" } else { "z" };
            let mut text = sample.clone();
            text.replace_range(at..=at, wrong);
            assert!(Token::parse(&text).is_none(), "{text}");
        }
    }

    #[test]
    fn other_lengths_prefixes_and_alphabets_are_refused() {
        let sample = sample();
        let refused = [
            String::new(),
            "slp_".to_owned(),
            sample[..64].to_owned(),
            format!("{sample}0"),
            format!(" {sample}"),
            format!("{sample}\n"),
            sample.replacen("slp_", "sls_", 1),
            sample.replacen("slp_", "SLP_", 1),
            format!("slp_{}é{}", &sample[4..20], &sample[22..]),
            format!("slp_{}_{}", &sample[4..20], &sample[21..]),
        ];
        for text in refused {
            assert!(Token::parse(&text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_token_is_found_wherever_it_was_typed() {
        let token = sample();
        let peers = format!("sbp_{}", "0123456789abcdef".repeat(3));
        for text in [
            token.clone(),
            format!("app.{token}"),
            format!("{token}.demo"),
            token[..63].to_owned(),
            format!("slp_{token}"),
            peers[..44].to_owned(),
        ] {
            assert!(holds_token(&text), "{text}");
        }
        for text in [
            "",
            "slp_",
            "app.demo",
            "slp_app.demo",
            &peers[..43],
            &token[4..],
        ] {
            assert!(!holds_token(text), "{text}");
        }
    }

    #[test]
    fn every_letter_is_equally_likely() {
        let mut counts = [0_u32; 128];
        for _ in 0..400 {
            let text = Token::generate().unwrap().reveal();
            text[4..59]
                .bytes()
                .for_each(|byte| counts[byte as usize] += 1);
        }
        // 22,000 letters, 355 of each expected, standard deviation 19: eight of these either way.
        for letter in BASE62 {
            let count = counts[*letter as usize];
            assert!((200..510).contains(&count), "{}: {count}", *letter as char);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in ".{0,80}", tail in "[0-9A-Za-z]{58,64}") {
            prop_assert!(Token::parse(&text).is_none());
            let _ = Token::parse(&format!("slp_{tail}"));
        }
    }
}
