//! How far a server's certificate is checked: not at all, its chain, or its chain and name (libpq's `sslmode`).

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::client_tls::ClientTlsError;

/// A verifier of server certificates. The handshake's signature is always checked; the certificate as asked.
#[derive(Debug)]
pub(super) struct ServerCheck {
    trust: Trust,
    signatures: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Trust {
    Anybody,
    Authorities {
        verifier: Arc<WebPkiServerVerifier>,
        /// The given certificates themselves. A self-signed server certificate is its own authority for libpq, but
        /// not for webpki, which takes no authority's certificate as a server's.
        pinned: Vec<CertificateDer<'static>>,
        name: NameCheck,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NameCheck {
    Ignored,
    Required,
}

impl ServerCheck {
    /// Encryption without proof of who is at the other end (`require`).
    pub(super) fn none() -> Self {
        Self::of(Trust::Anybody)
    }

    /// Vouched for by one of `authorities`, under whatever name (`verify-ca`).
    pub(super) fn chain(authorities: Vec<CertificateDer<'static>>) -> Result<Self, ClientTlsError> {
        Self::vouched(authorities, NameCheck::Ignored)
    }

    /// Vouched for by one of `authorities`, under the name we connect to (`verify-full`).
    pub(super) fn full(authorities: Vec<CertificateDer<'static>>) -> Result<Self, ClientTlsError> {
        Self::vouched(authorities, NameCheck::Required)
    }

    /// Vouched for by a public authority, under the name we connect to (`verify-full`).
    pub(super) fn public() -> Result<Self, ClientTlsError> {
        let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        Ok(Self::of(Trust::Authorities {
            verifier: verifier(roots)?,
            pinned: Vec::new(),
            name: NameCheck::Required,
        }))
    }

    fn vouched(
        authorities: Vec<CertificateDer<'static>>,
        name: NameCheck,
    ) -> Result<Self, ClientTlsError> {
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone())?;
        }
        Ok(Self::of(Trust::Authorities {
            verifier: verifier(roots)?,
            pinned: authorities,
            name,
        }))
    }

    /// Whether the server has to prove who it is.
    pub(super) fn is_proof(&self) -> bool {
        matches!(self.trust, Trust::Authorities { .. })
    }

    fn of(trust: Trust) -> Self {
        Self {
            trust,
            signatures: ring::default_provider().signature_verification_algorithms,
        }
    }
}

fn verifier(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, VerifierBuilderError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
        .build()
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trust::Authorities {
            verifier,
            pinned,
            name,
        } = &self.trust
        else {
            return Ok(ServerCertVerified::assertion());
        };
        let verdict = if pinned.contains(leaf) {
            verify_pinned(leaf, host, now)
        } else {
            verifier.verify_server_cert(leaf, intermediates, host, ocsp_response, now)
        };
        match verdict {
            // Names are compared last, so the chain has been found good.
            Err(error) if *name == NameCheck::Ignored && is_about_name(&error) => {
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.signatures)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.signatures)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_schemes()
    }
}

/// A certificate that we were given as trusted, byte for byte: its dates first, then its name.
fn verify_pinned(
    leaf: &CertificateDer<'_>,
    host: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let encoding = Error::InvalidCertificate(CertificateError::BadEncoding);
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
        return Err(encoding);
    };
    let Some(now) = i64::try_from(now.as_secs())
        .ok()
        .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
    else {
        return Err(encoding);
    };
    if now < parsed.validity().not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > parsed.validity().not_after {
        return Err(CertificateError::Expired.into());
    }
    verify_server_name(&ParsedCertificate::try_from(leaf)?, host)?;
    Ok(ServerCertVerified::assertion())
}

fn is_about_name(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}
