//! Certificates and keys from PEM, with errors that name the file and say what is missing.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

/// Why a PEM file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    #[error("cannot read {path}: {cause}; see that the file exists and that Sluice may read it")]
    Unreadable { path: PathBuf, cause: io::Error },
    #[error("{path} is not well-formed PEM: {cause:?}")]
    Malformed { path: PathBuf, cause: pem::Error },
    #[error("{path} holds no certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate { path: PathBuf },
    #[error(
        "{path} holds no private key; if the key is encrypted, store it decrypted, readable by Sluice only"
    )]
    NoKey { path: PathBuf },
}

/// All certificates of a file, in its order; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|cause| unusable(path, cause))?;
    if chain.is_empty() {
        return Err(PemError::NoCertificate { path: path.into() });
    }
    Ok(chain)
}

/// The first private key of a file: PKCS#8, PKCS#1 or SEC1.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_file(path).map_err(|cause| match cause {
        pem::Error::NoItemsFound => PemError::NoKey { path: path.into() },
        cause => unusable(path, cause),
    })
}

fn unusable(path: &Path, cause: pem::Error) -> PemError {
    let path = path.into();
    match cause {
        pem::Error::Io(cause) => PemError::Unreadable { path, cause },
        cause => PemError::Malformed { path, cause },
    }
}
