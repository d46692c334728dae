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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls_pki_types::{CertificateDer, pem::PemObject};
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_server_certificate_holds_the_local_names_and_the_given_ones() {
        let (authority, _) = CertificateAuthority::generate("test", DAY).unwrap();
        let files = authority
            .server_certificate(&["pooler.example.com", "192.0.2.7"], DAY)
            .unwrap();
        let der = CertificateDer::from_pem_slice(files.certificate.as_bytes()).unwrap();
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        let names: Vec<_> = names.value.general_names.iter().map(written).collect();
        let expected = [
            "localhost",
            "*.localhost",
            "127.0.0.1",
            "::1",
            "pooler.example.com",
            "192.0.2.7",
        ];
        assert_eq!(names, expected);
        assert!(
            leaf.extended_key_usage()
                .unwrap()
                .unwrap()
                .value
                .server_auth
        );
    }

    fn written(name: &GeneralName<'_>) -> String {
        match name {
            GeneralName::DNSName(name) => (*name).to_owned(),
            GeneralName::IPAddress(octets) => match <[u8; 4]>::try_from(*octets) {
                Ok(octets) => std::net::Ipv4Addr::from(octets).to_string(),
                Err(_) => {
                    std::net::Ipv6Addr::from(<[u8; 16]>::try_from(*octets).unwrap()).to_string()
                }
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_is_its_owners_and_never_overwritten() {
        let (_, files) = CertificateAuthority::generate("test", DAY).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("ca.crt"), folder.path().join("ca.key"));
        files.write(&certificate, &key).unwrap();
        let mode = fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = files.write(&certificate, &key).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
