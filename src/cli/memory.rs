//! What a process of Sluice holds in memory (keys, tokens, passwords) is for no other process and for no file.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Without a core dump when it crashes, and neither traced nor read through `/proc` by other processes, of the same
/// user either; the system's administrator still can (`prctl(2)`, `PR_SET_DUMPABLE`).
pub(super) fn keep_private() -> io::Result<()> {
    // Both: a core pattern that is a pipe heeds no limit, and the limit goes on to what we start.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    Ok(())
}
