//! The keys that the catalogue derives from its master key, and what is done with them.
//!
//! One purpose, one key: sealing role secrets, peppering and fingerprinting tokens, sealing the audit trail's head, signing
//! checkpoints of it, and telling a wrong master key. None of them is ever stored.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, Mac};
use rand::{TryRngCore, rngs::OsRng};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    catalog::{columns::hex, error::CatalogError, types::RoleSecret},
    names::{Fingerprint, RoleName, TenantRef},
};

const NONCE_BYTES: usize = 12;
/// Enough to tell tokens apart, too few to check a guess of one against.
const FINGERPRINT_BYTES: usize = 8;

/// The key under which token secrets are stored.
pub struct Pepper(Zeroizing<[u8; 32]>);

/// Everything derived from one master key.
pub(super) struct Keys {
    encryption: Zeroizing<[u8; 32]>,
    pepper: Pepper,
    fingerprint: Zeroizing<[u8; 32]>,
    audit_head: Zeroizing<[u8; 32]>,
    audit_start: Zeroizing<[u8; 32]>,
    checkpoint: Zeroizing<[u8; 32]>,
    check: [u8; 32],
}

impl Keys {
    pub(super) fn derive(master: &Zeroizing<[u8; 32]>) -> Self {
        let derived = |label: &str| Zeroizing::new(mac(&master[..], &[label.as_bytes()]));
        Self {
            encryption: derived("sluice encryption"),
            pepper: Pepper(derived("sluice pepper")),
            fingerprint: derived("sluice token fingerprint"),
            audit_head: derived("sluice audit head"),
            audit_start: derived("sluice audit start"),
            checkpoint: derived("sluice audit checkpoint"),
            check: *derived("sluice key check"),
        }
    }

    /// What the catalogue stores to recognise its master key.
    pub(super) fn check(&self) -> &[u8; 32] {
        &self.check
    }

    pub(super) fn is_check(&self, stored: &[u8; 32]) -> bool {
        self.check.ct_eq(stored).into()
    }

    pub(super) fn pepper(&self) -> &Pepper {
        &self.pepper
    }

    /// What the trail calls the token that is stored as `token_mac`: made of that under another key, so neither
    /// tells the other.
    pub(super) fn fingerprint(&self, token_mac: &[u8; 32]) -> Fingerprint {
        let mac = mac(&self.fingerprint[..], &[token_mac]);
        // Hexadecimal digits are what a fingerprint is made of.
        #[allow(clippy::expect_used)]
        Fingerprint::parse(&hex(&mac[..FINGERPRINT_BYTES])).expect("a fingerprint is well-formed")
    }

    /// The seal on "the trail ends with this number and this hash".
    pub(super) fn head_mac(&self, seq: i64, hash: &[u8; 32]) -> [u8; 32] {
        mac(&self.audit_head[..], &[&seq.to_be_bytes(), hash])
    }

    pub(super) fn is_head_mac(&self, seq: i64, hash: &[u8; 32], stored: &[u8; 32]) -> bool {
        self.head_mac(seq, hash).ct_eq(stored).into()
    }

    /// The seal on "the rows up to this number, whose last has this hash, were let go".
    pub(super) fn start_mac(&self, seq: i64, hash: &[u8; 32]) -> [u8; 32] {
        mac(&self.audit_start[..], &[&seq.to_be_bytes(), hash])
    }

    pub(super) fn is_start_mac(&self, seq: i64, hash: &[u8; 32], stored: &[u8; 32]) -> bool {
        self.start_mac(seq, hash).ct_eq(stored).into()
    }

    /// Our signature of a checkpoint.
    pub(super) fn sign_checkpoint(&self, statement: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        // An Ed25519 signature has that many bytes.
        signature.copy_from_slice(self.signer().sign(statement).as_ref());
        signature
    }

    /// What others know our signature by.
    pub(super) fn checkpoint_key(&self) -> Vec<u8> {
        self.signer().public_key().as_ref().to_vec()
    }

    fn signer(&self) -> Ed25519KeyPair {
        // Any 32 bytes are a seed (RFC 8032), so this cannot fail.
        #[allow(clippy::expect_used)]
        Ed25519KeyPair::from_seed_unchecked(&self.checkpoint[..]).expect("any seed will do")
    }

    /// Base64 of a fresh nonce and the secret encrypted for this tenant, role and kind alone.
    pub(super) fn seal(
        &self,
        tenant: &TenantRef,
        role: &RoleName,
        secret: &RoleSecret,
    ) -> Result<String, CatalogError> {
        let mut nonce = [0; NONCE_BYTES];
        OsRng
            .try_fill_bytes(&mut nonce)
            .map_err(|_| CatalogError::SecretUnsealable)?;
        let payload = Payload {
            msg: secret_text(secret).as_bytes(),
            aad: &associated(tenant, role, secret_kind(secret)),
        };
        let mut sealed = nonce.to_vec();
        let ciphertext = self
            .cipher()
            .encrypt(Nonce::from_slice(&nonce), payload)
            .map_err(|_| CatalogError::SecretUnsealable)?;
        sealed.extend(ciphertext);
        Ok(BASE64.encode(sealed))
    }

    /// Opens what [`Keys::seal`] made for the same tenant, role and kind.
    pub(super) fn open(
        &self,
        tenant: &TenantRef,
        role: &RoleName,
        kind: &str,
        sealed: &str,
    ) -> Result<RoleSecret, CatalogError> {
        self.open_text(tenant, role, kind, sealed)
            .and_then(|text| secret(kind, text))
            .ok_or_else(|| CatalogError::SecretUnreadable {
                tenant: tenant.clone(),
                role: role.clone(),
            })
    }

    fn open_text(
        &self,
        tenant: &TenantRef,
        role: &RoleName,
        kind: &str,
        sealed: &str,
    ) -> Option<Zeroizing<String>> {
        let sealed = BASE64.decode(sealed).ok()?;
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_BYTES)?;
        let payload = Payload {
            msg: ciphertext,
            aad: &associated(tenant, role, kind),
        };
        let opened = self.cipher().decrypt(Nonce::from_slice(nonce), payload);
        let opened = Zeroizing::new(opened.ok()?);
        let text = std::str::from_utf8(&opened).ok()?;
        Some(Zeroizing::new(text.to_owned()))
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&*self.encryption).into())
    }
}

impl Pepper {
    /// HMAC-SHA-256 of `parts`, one after the other, under the pepper.
    pub(super) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        mac(&self.0[..], parts)
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(…)")
    }
}

/// The word that says which kind of secret is sealed.
pub(super) fn secret_kind(secret: &RoleSecret) -> &'static str {
    match secret {
        RoleSecret::Verifier(_) => "verifier",
        RoleSecret::Password(_) => "password",
    }
}

fn secret(kind: &str, text: Zeroizing<String>) -> Option<RoleSecret> {
    match kind {
        "verifier" => Some(RoleSecret::Verifier(text)),
        "password" => Some(RoleSecret::Password(text)),
        _ => None,
    }
}

fn secret_text(secret: &RoleSecret) -> &str {
    match secret {
        RoleSecret::Verifier(text) | RoleSecret::Password(text) => text,
    }
}

/// Lengths go in as well, so that no two triples give the same bytes.
fn associated(tenant: &TenantRef, role: &RoleName, kind: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [tenant.as_str(), role.as_str(), kind] {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    bytes
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes a key of any length (RFC 2104), so this cannot fail.
    #[allow(clippy::expect_used)]
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("any key length will do");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(byte: u8) -> Keys {
        Keys::derive(&Zeroizing::new([byte; 32]))
    }

    fn names(tenant: &str, role: &str) -> (TenantRef, RoleName) {
        (
            TenantRef::parse(tenant).unwrap(),
            RoleName::parse(role).unwrap(),
        )
    }

    fn password(text: &str) -> RoleSecret {
        RoleSecret::Password(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn what_is_sealed_opens_again_and_never_looks_the_same_twice() {
        let (tenant, role) = names("demo", "app");
        let keys = keys(1);
        let first = keys.seal(&tenant, &role, &password("pässword")).unwrap();
        let second = keys.seal(&tenant, &role, &password("pässword")).unwrap();
        assert_ne!(first, second);
        let opened = keys.open(&tenant, &role, "password", &first).unwrap();
        assert!(matches!(opened, RoleSecret::Password(text) if *text == "pässword"));
    }

    #[test]
    fn a_sealed_secret_opens_for_no_other_tenant_role_kind_or_key() {
        let (tenant, role) = names("demo", "app");
        let (other_tenant, other_role) = names("dem", "oapp");
        let sealed = keys(1).seal(&tenant, &role, &password("secret")).unwrap();
        let refused =
            |keys: Keys, tenant, role, kind| keys.open(tenant, role, kind, &sealed).is_err();
        assert!(refused(keys(1), &other_tenant, &role, "password"));
        assert!(refused(keys(1), &tenant, &other_role, "password"));
        assert!(refused(keys(1), &other_tenant, &other_role, "password"));
        assert!(refused(keys(1), &tenant, &role, "verifier"));
        assert!(refused(keys(2), &tenant, &role, "password"));
    }

    #[test]
    fn a_damaged_secret_is_refused() {
        let (tenant, role) = names("demo", "app");
        for sealed in ["", "AAAA", "not base64!", &BASE64.encode([0; 40])] {
            assert!(keys(1).open(&tenant, &role, "password", sealed).is_err());
        }
    }

    #[test]
    fn each_purpose_has_a_key_of_its_own() {
        let keys = keys(1);
        let all = [
            *keys.encryption,
            *keys.pepper.0,
            *keys.fingerprint,
            *keys.audit_head,
            *keys.audit_start,
            *keys.checkpoint,
            keys.check,
            [1; 32],
        ];
        for (at, key) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(key));
        }
    }

    #[test]
    fn the_mac_is_hmac_sha_256() {
        // RFC 4231, test case 2.
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let mac = mac(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(hex(&mac), expected);
    }
}
