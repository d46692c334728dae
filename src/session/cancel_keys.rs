//! The cancel keys that we issued: which session each of them stands for.

use dashmap::{DashMap, Entry};
use rand::Rng as _;

use crate::{
    names::SessionId,
    protocol::startup::{CancelKey, ProtocolVersion, SecretKey},
};

/// Bytes of the secret for clients that take long ones (protocol 3.2).
const LONG_SECRET_BYTES: usize = 32;

#[derive(Clone, Copy)]
struct Holder {
    session: SessionId,
    worker: usize,
}

/// All live cancel keys of the process.
#[derive(Default)]
pub struct CancelKeys(DashMap<u32, (SecretKey, Holder)>);

/// A cancel key, withdrawn by dropping it.
pub(super) struct Issued<'a> {
    keys: &'a CancelKeys,
    pub(super) key: CancelKey,
}

impl CancelKeys {
    /// Issues a key for `session`, whose home is `worker`; its length is what `version` allows.
    pub(super) fn issue(
        &self,
        session: SessionId,
        worker: usize,
        version: ProtocolVersion,
    ) -> Issued<'_> {
        let mut random = rand::rng();
        let length = if version.has_long_cancel_keys() {
            LONG_SECRET_BYTES
        } else {
            SecretKey::MIN_BYTES
        };
        let mut secret = vec![0; length];
        loop {
            // A process id is a positive number to drivers.
            let pid = random.random_range(1..=i32::MAX.unsigned_abs());
            random.fill(secret.as_mut_slice());
            let Some(secret) = SecretKey::new(&secret) else {
                continue;
            };
            if let Entry::Vacant(entry) = self.0.entry(pid) {
                entry.insert((secret.clone(), Holder { session, worker }));
                return Issued {
                    keys: self,
                    key: CancelKey { pid, secret },
                };
            }
        }
    }

    /// The session that `key` stands for, and its home worker.
    pub(super) fn find(&self, key: &CancelKey) -> Option<(SessionId, usize)> {
        let entry = self.0.get(&key.pid)?;
        let (secret, holder) = &*entry;
        (*secret == key.secret).then_some((holder.session, holder.worker))
    }
}

impl Drop for Issued<'_> {
    fn drop(&mut self) {
        self.keys.0.remove(&self.key.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_session_and_a_wrong_or_withdrawn_one_finds_none() {
        let keys = CancelKeys::default();
        let session = SessionId::generate();
        let issued = keys.issue(session, 1, ProtocolVersion::V3_2);
        let key = issued.key.clone();
        assert_eq!(key.secret.as_bytes().len(), LONG_SECRET_BYTES);
        assert_eq!(keys.find(&key), Some((session, 1)));
        let wrong = CancelKey {
            pid: key.pid,
            secret: SecretKey::new(&[0; 4]).unwrap(),
        };
        assert_eq!(keys.find(&wrong), None);
        drop(issued);
        assert_eq!(keys.find(&key), None);
    }
}
