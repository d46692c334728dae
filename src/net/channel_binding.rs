//! The value that ties a SCRAM login to the server's certificate (`tls-server-end-point`, RFC 5929 section 4).

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    signature_algorithm::SignatureAlgorithm,
    x509::AlgorithmIdentifier,
};

/// The hash of `leaf` that a client with channel binding computes as well.
///
/// `None` for signatures without a hash of their own (Ed25519): the RFC leaves those undefined, so channel binding
/// is not offered, as PostgreSQL does not either.
#[must_use]
pub fn server_end_point(leaf: &CertificateDer<'_>) -> Option<Arc<[u8]>> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    Some(match signature_hash(&parsed.signature_algorithm)? {
        Hash::Sha224 => Sha224::digest(leaf).as_slice().into(),
        Hash::Sha256 => Sha256::digest(leaf).as_slice().into(),
        Hash::Sha384 => Sha384::digest(leaf).as_slice().into(),
        Hash::Sha512 => Sha512::digest(leaf).as_slice().into(),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// The hash inside a signature algorithm; SHA-256 in place of MD5 and SHA-1, as the RFC has it.
fn signature_hash(signature: &AlgorithmIdentifier<'_>) -> Option<Hash> {
    match signature.algorithm.to_id_string().as_str() {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => {
            Some(Hash::Sha256)
        }
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => Some(Hash::Sha256),
        // RSA, then ECDSA.
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Some(Hash::Sha224),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Hash::Sha384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Hash::Sha512),
        // RSASSA-PSS names its hash in the parameters.
        "1.2.840.113549.1.1.10" => pss_hash(signature),
        _ => None,
    }
}

fn pss_hash(signature: &AlgorithmIdentifier<'_>) -> Option<Hash> {
    let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) = SignatureAlgorithm::try_from(signature)
    else {
        return None;
    };
    match parameters.hash_algorithm_oid().to_id_string().as_str() {
        "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Some(Hash::Sha256),
        "2.16.840.1.101.3.4.2.4" => Some(Hash::Sha224),
        "2.16.840.1.101.3.4.2.2" => Some(Hash::Sha384),
        "2.16.840.1.101.3.4.2.3" => Some(Hash::Sha512),
        _ => None,
    }
}
