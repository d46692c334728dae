//! Checkpoints of the audit trail: what the trail was at some time, to be kept where those who can change it cannot reach.
//!
//! ```text
//! SEQ:HASH:SIGNATURE      a row's number, its hash in hexadecimal, and our Ed25519 signature (RFC 8032) of both in base64url
//! ```
//! Held against the trail later, one shows whether the trail was put back or written anew. The signature shows that the
//! checkpoint itself is ours: whoever has the public key, and nothing of Sluice, can tell one from what somebody has made up to
//! cover a change, or to allege one.

use std::{fmt, str::FromStr};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL},
};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Catalog, CatalogError,
    columns::{hex, unhex},
    keys::Keys,
};

/// Before number and hash in what is signed, so that no signature is good for anything else.
const DOMAIN: &str = "sluice-audit-checkpoint:";
const SIGNATURE_BYTES: usize = 64;
/// What goes before the 32 bytes of an Ed25519 key to make it a SubjectPublicKeyInfo (RFC 8410).
const KEY_INFO: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Number and hash of a row, as they were told at some time, with our signature or somebody's word only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    pub seq: i64,
    pub hash: [u8; 32],
    pub signature: Option<[u8; SIGNATURE_BYTES]>,
}

/// Where the trail ends, and what to know our signature by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedEnd {
    /// `SEQ:HASH:SIGNATURE`, to be kept elsewhere.
    pub checkpoint: String,
    /// Of the signature, in PEM form; it stays the same as long as the master key does.
    pub public_key: String,
}

impl Checkpoint {
    pub(super) fn signed(keys: &Keys, seq: i64, hash: [u8; 32]) -> Self {
        let signature = keys.sign_checkpoint(statement(seq, &hash).as_bytes());
        Self {
            seq,
            hash,
            signature: Some(signature),
        }
    }

    /// Whether it was signed, and by somebody else than the holder of `keys`.
    pub(super) fn is_forged(&self, keys: &Keys) -> bool {
        self.signature.is_some_and(|signature| {
            let key = UnparsedPublicKey::new(&ED25519, keys.checkpoint_key());
            let statement = statement(self.seq, &self.hash);
            key.verify(statement.as_bytes(), &signature).is_err()
        })
    }
}

/// What is signed: text, so that any tool can check it.
fn statement(seq: i64, hash: &[u8; 32]) -> String {
    format!("{DOMAIN}{seq}:{}", hex(hash))
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, hex(&self.hash))?;
        match &self.signature {
            Some(signature) => write!(f, ":{}", BASE64URL.encode(signature)),
            None => Ok(()),
        }
    }
}

impl FromStr for Checkpoint {
    type Err = CatalogError;

    /// Reads `SEQ:HASH` or `SEQ:HASH:SIGNATURE`.
    fn from_str(text: &str) -> Result<Self, CatalogError> {
        parse(text.trim()).ok_or(CatalogError::Invalid {
            field: "checkpoint",
            problem: "must be a row's number and hash, perhaps with our signature, as in 123:abcd…:xyz… (64 hexadecimal \
                digits, 86 characters)",
        })
    }
}

fn parse(text: &str) -> Option<Checkpoint> {
    let (seq, rest) = text.split_once(':')?;
    let (hash, signature) = match rest.split_once(':') {
        Some((hash, signature)) => (hash, Some(signature)),
        None => (rest, None),
    };
    let signature = match signature {
        Some(signature) => Some(BASE64URL.decode(signature).ok()?.try_into().ok()?),
        None => None,
    };
    Some(Checkpoint {
        seq: seq.parse().ok().filter(|seq| *seq > 0)?,
        hash: unhex(hash)?,
        signature,
    })
}

impl Catalog {
    /// A checkpoint of the end of the trail as it is now.
    pub async fn checkpoint(&self) -> Result<SignedEnd, CatalogError> {
        let end = self.audit_end().await?.ok_or(CatalogError::TrailDamaged)?;
        let keys = &self.shared.keys;
        Ok(SignedEnd {
            checkpoint: Checkpoint::signed(keys, end.seq, end.hash).to_string(),
            public_key: public_key(keys),
        })
    }
}

fn public_key(keys: &Keys) -> String {
    let info = [&KEY_INFO[..], &keys.checkpoint_key()].concat();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        BASE64.encode(info)
    )
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn keys(byte: u8) -> Keys {
        Keys::derive(&Zeroizing::new([byte; 32]))
    }

    #[test]
    fn a_checkpoint_is_written_and_read_alike() {
        let signed = Checkpoint::signed(&keys(1), 123, [7; 32]);
        assert_eq!(signed.to_string().parse::<Checkpoint>().unwrap(), signed);
        let plain = Checkpoint {
            signature: None,
            ..signed
        };
        assert_eq!(plain.to_string().parse::<Checkpoint>().unwrap(), plain);
        let text = signed.to_string();
        for wrong in [
            "",
            "123",
            &format!("0{}", &text[3..]),
            &format!("-{text}"),
            &text[..text.len() - 1],
            &format!("{text}:"),
            &text.replacen("07", "0", 1),
        ] {
            assert!(wrong.parse::<Checkpoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_signature_is_good_for_its_row_and_from_us_only() {
        let signed = Checkpoint::signed(&keys(1), 123, [7; 32]);
        assert!(!signed.is_forged(&keys(1)));
        assert!(signed.is_forged(&keys(2)));
        for other in [
            Checkpoint { seq: 124, ..signed },
            Checkpoint {
                hash: [8; 32],
                ..signed
            },
        ] {
            assert!(other.is_forged(&keys(1)), "{other}");
        }
    }

    #[test]
    fn whoever_has_the_public_key_alone_can_check_a_checkpoint() {
        let pem = public_key(&keys(1));
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let info = BASE64.decode(body).unwrap();
        let key = UnparsedPublicKey::new(&ED25519, &info[KEY_INFO.len()..]);
        let text = Checkpoint::signed(&keys(1), 123, [7; 32]).to_string();
        let (row, signature) = text.rsplit_once(':').unwrap();
        let signature = BASE64URL.decode(signature).unwrap();
        let statement = format!("sluice-audit-checkpoint:{row}");
        key.verify(statement.as_bytes(), &signature).unwrap();
    }
}
