//! New authorities and server certificates, for installations that have none yet: the demo, and tests.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::certificates::{BACKDATED, CertificateAuthority};

/// Names under which a server on this machine is reached.
const LOCAL_NAMES: [&str; 4] = ["localhost", "*.localhost", "127.0.0.1", "::1"];

/// A certificate and its key as PEM. The key is secret: no `Debug`.
pub struct PemPair {
    pub certificate: String,
    pub key: Zeroizing<String>,
}

impl PemPair {
    /// Writes both files. The key's must be new, and can be read by its owner only from the moment it exists.
    pub fn write(&self, certificate: &Path, key: &Path) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(key)?
            .write_all(self.key.as_bytes())?;
        fs::write(certificate, &self.certificate)
    }
}

impl CertificateAuthority {
    /// Makes a new root authority, and the files to keep it in.
    pub fn generate(name: &str, lifetime: Duration) -> Result<(Self, PemPair), rcgen::Error> {
        let mut params = CertificateParams::default();
        valid_for(&mut params, lifetime);
        params.distinguished_name.push(DnType::CommonName, name);
        // It signs certificates of servers and clients, never of further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let files = PemPair {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem().into(),
        };
        let authority = Self {
            issuer: Issuer::new(params, key),
            chain: Vec::new(),
        };
        Ok((authority, files))
    }

    /// Makes a server's certificate and key, for this machine's local names and `names` (hosts or addresses).
    pub fn server_certificate(
        &self,
        names: &[&str],
        lifetime: Duration,
    ) -> Result<PemPair, rcgen::Error> {
        let all = LOCAL_NAMES.iter().chain(names);
        let all: Vec<String> = all.map(|&name| name.to_owned()).collect();
        let common_name = *names.first().unwrap_or(&"localhost");
        let mut params = CertificateParams::new(all)?;
        valid_for(&mut params, lifetime);
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        Ok(PemPair {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem().into(),
        })
    }
}

fn valid_for(params: &mut CertificateParams, lifetime: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now.saturating_add(lifetime.try_into().unwrap_or(time::Duration::MAX));
}
