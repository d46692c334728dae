//! The demo's certificate authority, which stays with the folder, and the servers' certificates, new at every start.

use std::{fs, io, path::PathBuf, time::Duration};

use super::folder::{Folder, FolderError};
use crate::access::{
    certificate_files::PemPair,
    certificates::{self, CertificateAuthority},
};

/// Paths in the demo's folder.
pub(super) const CA_CERTIFICATE: &str = "tls/ca.crt";
pub(super) const CA_KEY: &str = "tls/ca.key";
pub(super) const SLUICE_CERTIFICATE: &str = "tls/sluice.crt";
pub(super) const SLUICE_KEY: &str = "tls/sluice.key";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
const SERVER_LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());

#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("{0}\nhint: remove the folder to start anew")]
    Load(#[from] certificates::AuthorityError),
    #[error("cannot use {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// What the PostgreSQL server needs of it; Sluice reads the files.
pub(super) struct Authority {
    /// PEM.
    pub(super) certificate: String,
    pub(super) postgres: PemPair,
}

impl Authority {
    pub(super) fn load_or_make(folder: &Folder) -> Result<Self, AuthorityError> {
        folder.make("tls")?;
        let (certificate, key) = (
            folder.path().join(CA_CERTIFICATE),
            folder.path().join(CA_KEY),
        );
        if !certificate.exists() {
            let (_, files) = CertificateAuthority::generate("Sluice demo", AUTHORITY_LIFETIME)?;
            // The certificate comes last: where it is, the key is too.
            folder.write_secret(CA_KEY, &files.key)?;
            folder.write(CA_CERTIFICATE, &files.certificate)?;
        }
        let authority = CertificateAuthority::load(&certificate, &key)?;
        let sluice = authority.server_certificate(&[], SERVER_LIFETIME)?;
        folder.write_secret(SLUICE_KEY, &sluice.key)?;
        folder.write(SLUICE_CERTIFICATE, &sluice.certificate)?;
        Ok(Self {
            certificate: fs::read_to_string(&certificate).map_err(|source| {
                AuthorityError::File {
                    path: certificate,
                    source,
                }
            })?,
            postgres: authority.server_certificate(&[], SERVER_LIFETIME)?,
        })
    }
}
