//! Text that nothing may show: neither a log, a file, a metric, an answer of the API nor a command.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// Secrets that a test knows; all clones know the same.
#[derive(Clone, Default)]
pub(crate) struct Canaries(Arc<Mutex<Vec<String>>>);

impl Canaries {
    pub(crate) fn add(&self, secret: &str) {
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.push(secret.to_owned());
    }

    /// Fails if any of them is in what `place` shows.
    #[track_caller]
    pub(crate) fn search(&self, place: &str, shown: &[u8]) {
        let secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for secret in secrets.iter() {
            let found = memchr::memmem::find(shown, secret.as_bytes()).is_some();
            assert!(!found, "a secret is in {place}");
        }
    }

    /// Searches every file in `folder` but those `given`; answers how many.
    #[track_caller]
    pub(crate) fn search_folder(&self, folder: &Path, given: &BTreeSet<String>) -> usize {
        let mut searched = 0;
        for file in fs::read_dir(folder).unwrap().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if given.contains(&name) || !file.path().is_file() {
                continue;
            }
            self.search(&name, &fs::read(file.path()).unwrap());
            searched += 1;
        }
        searched
    }
}
