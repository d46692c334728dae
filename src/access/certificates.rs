//! Client certificates by which a person's token session logs in to the tenant's PostgreSQL (design.md section 9).
//!
//! The subject says who, as which role, on which grant, of which tenant. In the order of its encoding:
//! `UID=<person>, OU=r-<role>, OU=g-<grant>, O=<tenant>`; PostgreSQL shows and matches it the other way round:
//! `O=…,OU=g-…,OU=r-…,UID=…`. What PostgreSQL's anchored expression in pg_ident.conf takes apart, we refuse to sign
//! unless every part is of the class that the expression knows. A certificate is good for minutes: it matters during the
//! login only, and is never a reason to keep a session.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rand::{TryRngCore, rngs::OsRng};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use uuid::Uuid;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    names::{PersonId, RoleName, TenantRef},
    net::{
        client_tls::ClientIdentity,
        pem::{self, PemError},
    },
};

/// How far back a certificate's validity reaches, for servers whose clock is behind ours.
pub(super) const BACKDATED: Duration = Duration::from_secs(60);
/// X.520 allows 64 characters in an OU, and `r-` takes two.
const ROLE_MAX_BYTES: usize = 62;
/// `userid` (RFC 4519), which has no length limit and stands first, so that PostgreSQL's shortened views keep it.
const USER_ID: [u64; 7] = [0, 9, 2342, 19_200_300, 100, 1, 1];
/// `organizationalUnitName`. rcgen keeps one value for each of its types; the second unit goes in by number.
const ORGANIZATIONAL_UNIT: [u64; 4] = [2, 5, 4, 11];

/// Why a certificate authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error(
        "{path} holds a key that cannot sign: {cause}; PKCS#8 is wanted (openssl pkcs8 -topk8 -nocrypt)"
    )]
    Key { path: PathBuf, cause: rcgen::Error },
    #[error("{path} is not a certificate authority's certificate")]
    NotAnAuthority { path: PathBuf },
    #[error("{path} is past its date; renew it")]
    Expired { path: PathBuf },
    #[error("{certificate} and {key} do not belong together")]
    Mismatch { certificate: PathBuf, key: PathBuf },
}

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    #[error(
        "role {role:?} cannot be put into a certificate: a lower-case letter or _, then lower-case letters, digits, _ and $, {ROLE_MAX_BYTES} at most"
    )]
    Role { role: RoleName },
    #[error("a certificate cannot be valid for {0:?}")]
    Lifetime(Duration),
    #[error("the operating system gives no random numbers: {0}")]
    Random(#[from] rand::rand_core::OsError),
    #[error("signing failed: {0}")]
    Signing(#[from] rcgen::Error),
}

/// Whom a certificate names.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub person: PersonId,
    pub role: &'a RoleName,
    pub grant: Uuid,
    pub tenant: &'a TenantRef,
}

/// A fresh certificate with its key.
pub struct Minted {
    pub identity: ClientIdentity,
    /// As `pg_stat_ssl.client_serial` shows it.
    pub serial: u128,
}

/// Signs the client certificates. Its key makes anyone whom PostgreSQL's configuration lets in by certificate: no `Debug`.
pub struct CertificateAuthority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// Our certificate and those above it up to, not including, the root: what a server needs that trusts the root only.
    pub(super) chain: Vec<CertificateDer<'static>>,
}

impl CertificateAuthority {
    /// Reads the authority's certificate (with those above it, if it is not a root) and key from PEM files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, AuthorityError> {
        let chain = pem::certificates(certificate)?;
        let pair =
            KeyPair::try_from(&pem::private_key(key)?).map_err(|cause| AuthorityError::Key {
                path: key.into(),
                cause,
            })?;
        let not_an_authority = || AuthorityError::NotAnAuthority {
            path: certificate.into(),
        };
        let own = chain.first().ok_or_else(not_an_authority)?;
        let (_, parsed) = X509Certificate::from_der(own).map_err(|_| not_an_authority())?;
        if !parsed.is_ca() {
            return Err(not_an_authority());
        }
        if parsed.validity().not_after.to_datetime() < OffsetDateTime::now_utc() {
            return Err(AuthorityError::Expired {
                path: certificate.into(),
            });
        }
        if *parsed.public_key().subject_public_key.data != *pair.public_key_raw() {
            return Err(AuthorityError::Mismatch {
                certificate: certificate.into(),
                key: key.into(),
            });
        }
        let issuer = Issuer::from_ca_cert_der(own, pair).map_err(|_| not_an_authority())?;
        let chain = chain.into_iter().filter(|above| !is_root(above)).collect();
        Ok(Self { issuer, chain })
    }

    /// Makes a key and a certificate for `subject`, valid from a minute ago until `lifetime` from now.
    pub fn mint(&self, subject: &Subject<'_>, lifetime: Duration) -> Result<Minted, MintError> {
        if !is_plain_role(subject.role.as_str()) {
            return Err(MintError::Role {
                role: subject.role.clone(),
            });
        }
        let now = OffsetDateTime::now_utc();
        let serial = random_serial()?;
        let mut params = CertificateParams::default();
        params.not_before = now - BACKDATED;
        params.not_after = (lifetime.try_into().ok())
            .and_then(|lifetime: time::Duration| now.checked_add(lifetime))
            .ok_or(MintError::Lifetime(lifetime))?;
        params.serial_number = Some(SerialNumber::from_slice(&serial.to_be_bytes()));
        params.distinguished_name = distinguished_name(subject);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;

        // P-256: a key costs some tens of microseconds, and every PostgreSQL takes it.
        let pair = KeyPair::generate()?;
        let leaf = params.signed_by(&pair, &self.issuer)?;
        let mut chain = vec![leaf.into()];
        chain.extend(self.chain.iter().cloned());
        Ok(Minted {
            identity: ClientIdentity {
                chain,
                key: PrivateKeyDer::Pkcs8(pair.serialize_der().into()),
            },
            serial,
        })
    }
}

/// In the order of its encoding. Person, grant and tenant are of a safe class by their types.
fn distinguished_name(subject: &Subject<'_>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(
        DnType::CustomDnType(USER_ID.into()),
        subject.person.to_string(),
    );
    name.push(
        DnType::OrganizationalUnitName,
        format!("r-{}", subject.role),
    );
    name.push(
        DnType::CustomDnType(ORGANIZATIONAL_UNIT.into()),
        format!("g-{}", subject.grant.simple()),
    );
    name.push(DnType::OrganizationName, subject.tenant.as_str());
    name
}

/// Whether the pg_ident expression `OU=r-([a-z_][a-z0-9_$]*)` takes the role as it is.
fn is_plain_role(role: &str) -> bool {
    let mut characters = role.chars();
    role.len() <= ROLE_MAX_BYTES
        && characters
            .next()
            .is_some_and(|first| first.is_ascii_lowercase() || first == '_')
        && characters.all(|next| {
            next.is_ascii_lowercase() || next.is_ascii_digit() || next == '_' || next == '$'
        })
}

/// 127 bits, the highest of them set: positive, of even length, and never seen twice.
fn random_serial() -> Result<u128, MintError> {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes)?;
    Ok((u128::from_be_bytes(bytes) >> 1) | (1 << 126))
}

fn is_root(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.subject() == parsed.issuer())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use x509_parser::prelude::ParsedExtension;

    use super::*;
    use crate::access::certificate_files::PemPair;

    const DAY: Duration = Duration::from_secs(86_400);
    const MINUTES: Duration = Duration::from_secs(300);

    fn authority() -> CertificateAuthority {
        CertificateAuthority::generate("test", DAY).unwrap().0
    }

    fn mint(role: &str) -> Result<Minted, MintError> {
        let subject = Subject {
            person: PersonId("0198c0de-0000-7000-8000-000000000001".parse().unwrap()),
            role: &RoleName::parse(role).unwrap(),
            grant: "0198c0de-0000-7000-8000-00000000000a".parse().unwrap(),
            tenant: &TenantRef::parse("tnt_7f3a").unwrap(),
        };
        authority().mint(&subject, MINUTES)
    }

    #[test]
    fn the_subject_stands_in_the_order_that_the_ident_map_expects() {
        let minted = mint("app_readwrite").unwrap();
        let (_, leaf) = X509Certificate::from_der(&minted.identity.chain[0]).unwrap();
        let parts: Vec<_> = (leaf.subject().iter_attributes())
            .map(|part| (part.attr_type().to_id_string(), part.as_str().unwrap()))
            .collect();
        let expected = [
            (
                "0.9.2342.19200300.100.1.1",
                "0198c0de-0000-7000-8000-000000000001",
            ),
            ("2.5.4.11", "r-app_readwrite"),
            ("2.5.4.11", "g-0198c0de00007000800000000000000a"),
            ("2.5.4.10", "tnt_7f3a"),
        ];
        let expected: Vec<_> = expected.map(|(oid, text)| (oid.to_owned(), text)).into();
        assert_eq!(parts, expected);
        // One attribute to each step of the name: a step with two would be printed with `+`.
        assert_eq!(leaf.subject().iter().count(), parts.len());
    }

    #[test]
    fn a_certificate_is_for_clients_and_for_minutes() {
        let minted = mint("app").unwrap();
        let (_, leaf) = X509Certificate::from_der(&minted.identity.chain[0]).unwrap();
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert!(!leaf.is_ca());
        let validity = leaf.validity();
        let length = validity.not_after.timestamp() - validity.not_before.timestamp();
        assert_eq!(length, 360);
        let back = OffsetDateTime::now_utc().unix_timestamp() - validity.not_before.timestamp();
        assert!((60..90).contains(&back), "{back}");
        assert!(leaf.extensions().iter().any(|extension| matches!(
            extension.parsed_extension(),
            ParsedExtension::AuthorityKeyIdentifier(_)
        )));
    }

    #[test]
    fn serials_are_positive_long_and_as_postgresql_shows_them() {
        let minted = mint("app").unwrap();
        let (_, leaf) = X509Certificate::from_der(&minted.identity.chain[0]).unwrap();
        assert_eq!(leaf.serial.to_string(), minted.serial.to_string());
        assert_eq!(leaf.serial.bits(), 127);
        assert_ne!(minted.serial, mint("app").unwrap().serial);
    }

    #[test]
    fn roles_that_the_ident_map_would_not_take_are_refused() {
        let longest = "a".repeat(ROLE_MAX_BYTES);
        for role in ["app", "_app", "a$1", longest.as_str()] {
            assert!(mint(role).is_ok(), "{role}");
        }
        let too_long = "a".repeat(ROLE_MAX_BYTES + 1);
        for role in [
            "App",
            "1app",
            "$app",
            "app-rw",
            "app rw",
            "app,O=other",
            "é",
            &too_long,
        ] {
            assert!(matches!(mint(role), Err(MintError::Role { .. })), "{role}");
        }
    }

    #[test]
    fn a_lifetime_beyond_all_calendars_is_refused() {
        let subject = Subject {
            person: PersonId::generate(),
            role: &RoleName::parse("app").unwrap(),
            grant: Uuid::nil(),
            tenant: &TenantRef::parse("demo").unwrap(),
        };
        let minted = authority().mint(&subject, Duration::MAX);
        assert!(matches!(minted, Err(MintError::Lifetime(_))));
    }

    fn store(files: &PemPair) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("ca.crt"), folder.path().join("ca.key"));
        files.write(&certificate, &key).unwrap();
        (folder, certificate, key)
    }

    #[test]
    fn a_generated_authority_is_loaded_again_and_signs_as_the_same() {
        let (_, files) = CertificateAuthority::generate("test", DAY).unwrap();
        let (_folder, certificate, key) = store(&files);
        let loaded = CertificateAuthority::load(&certificate, &key).unwrap();
        let subject = Subject {
            person: PersonId::generate(),
            role: &RoleName::parse("app").unwrap(),
            grant: Uuid::nil(),
            tenant: &TenantRef::parse("demo").unwrap(),
        };
        let minted = loaded.mint(&subject, MINUTES).unwrap();
        // The root itself is not sent: the server has it.
        assert_eq!(minted.identity.chain.len(), 1);
        let roots = pem::certificates(&certificate).unwrap();
        let (_, root) = X509Certificate::from_der(&roots[0]).unwrap();
        let (_, leaf) = X509Certificate::from_der(&minted.identity.chain[0]).unwrap();
        assert_eq!(leaf.issuer(), root.subject());
        assert!(leaf.verify_signature(Some(root.public_key())).is_ok());
    }

    #[test]
    fn files_that_are_no_authority_say_why() {
        let (authority, files) = CertificateAuthority::generate("test", DAY).unwrap();
        let (_folder, certificate, key) = store(&files);
        let (_server, server, server_key) = store(&authority.server_certificate(&[], DAY).unwrap());
        let load = |certificate: &Path, key: &Path| {
            CertificateAuthority::load(certificate, key).err().unwrap()
        };
        assert!(matches!(
            load(&server, &server_key),
            AuthorityError::NotAnAuthority { .. }
        ));
        assert!(matches!(
            load(&certificate, &server_key),
            AuthorityError::Mismatch { .. }
        ));
        assert!(matches!(load(&key, &key), AuthorityError::Pem(_)));
        fs::remove_file(&certificate).unwrap();
        let text = load(&certificate, &key).to_string();
        assert!(text.contains("ca.crt"), "{text}");
    }
}
