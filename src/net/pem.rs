//! Certificates and keys from PEM, with errors that name the file and say what is missing.

use std::{
    fs, io,
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
    #[error("{path} holds no private key (-----BEGIN PRIVATE KEY-----)")]
    NoKey { path: PathBuf },
    #[error(
        "the key in {path} is encrypted, and there is nobody to ask for its passphrase: store it decrypted \
         (`openssl pkey -in … -out …`), readable by Sluice only"
    )]
    EncryptedKey { path: PathBuf },
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
        pem::Error::Io(_) => unusable(path, cause),
        _ if is_encrypted(path) => PemError::EncryptedKey { path: path.into() },
        pem::Error::NoItemsFound => PemError::NoKey { path: path.into() },
        cause => unusable(path, cause),
    })
}

/// Whether the file speaks of an encrypted key: in the name of its kind (PKCS#8) or in a header (OpenSSL's older form).
fn is_encrypted(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

fn unusable(path: &Path, cause: pem::Error) -> PemError {
    let path = path.into();
    match cause {
        pem::Error::Io(cause) => PemError::Unreadable { path, cause },
        cause => PemError::Malformed { path, cause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encrypted_key_is_told_from_a_broken_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.key");
        let refusal = |text: &str| {
            fs::write(&path, text).unwrap();
            private_key(&path).unwrap_err()
        };
        for encrypted in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGj\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIGj\n-----END EC PRIVATE KEY-----\n",
        ] {
            let error = refusal(encrypted);
            assert!(matches!(error, PemError::EncryptedKey { .. }), "{error}");
        }
        let error = refusal("-----BEGIN EC PRIVATE KEY-----\n!\n-----END EC PRIVATE KEY-----\n");
        assert!(matches!(error, PemError::Malformed { .. }), "{error}");
        assert!(matches!(refusal("nothing"), PemError::NoKey { .. }));
    }
}
