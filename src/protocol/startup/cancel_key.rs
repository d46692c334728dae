//! The key by which a client has its own query cancelled, and nobody else's.

use std::fmt;

use subtle::ConstantTimeEq;

use super::StartupError;

/// What a client shows to have its query cancelled.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelKey {
    pub pid: u32,
    pub secret: SecretKey,
}

impl CancelKey {
    /// Reads what follows the code of a CancelRequest.
    pub(super) fn parse(body: &[u8]) -> Result<Self, StartupError> {
        let (pid, secret) = body.split_first_chunk().ok_or(StartupError::CancelLength)?;
        Ok(Self {
            pid: u32::from_be_bytes(*pid),
            secret: SecretKey::new(secret).ok_or(StartupError::CancelKeyLength)?,
        })
    }
}

impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelKey")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// The secret half of a [`CancelKey`]: 4 to 256 bytes, compared in constant time.
#[derive(Clone)]
pub struct SecretKey(Box<[u8]>);

impl SecretKey {
    /// Shortest secret: the only length before protocol 3.2.
    pub const MIN_BYTES: usize = 4;
    /// Longest secret that protocol 3.2 allows.
    pub const MAX_BYTES: usize = 256;

    /// Takes `secret` if its length is one the protocol allows.
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        (Self::MIN_BYTES..=Self::MAX_BYTES)
            .contains(&secret.len())
            .then(|| Self(secret.into()))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretKey {}
