//! A wall clock that a test can move while Sluice runs.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

use super::sluice::source;

/// The means to move a program's wall clock.
pub(crate) struct Clock(TempDir);

impl Clock {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let clock = Self(folder);
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(clock.library())
            .arg(source("tests/integration/support/clock.c"))
            .status();
        assert!(compiled.expect("cc").success());
        clock.move_by(0);
        clock
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("clock.so")
    }

    fn offset(&self) -> PathBuf {
        self.0.path().join("offset")
    }

    /// What a program must find in its environment.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [
            ("LD_PRELOAD", self.library()),
            ("WALL_CLOCK_OFFSET_FILE", self.offset()),
        ]
    }

    /// So many seconds from the true time.
    pub(crate) fn move_by(&self, seconds: i64) {
        // Put in place whole: it is read at any moment.
        let new = self.0.path().join("new");
        fs::write(&new, seconds.to_string()).unwrap();
        fs::rename(&new, self.offset()).unwrap();
    }
}
