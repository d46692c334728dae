//! The memory of a process of Sluice: whom it is for, and how it is paged.

use std::{io, time::Duration};

use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::disable_transparent_huge_pages,
};

/// How often the control thread is to give back what it has freed.
pub(super) const GIVE_BACK_PERIOD: Duration = Duration::from_secs(1);

/// What it holds (keys, tokens, passwords) is for no other process and for no file.
///
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

/// Pages of the ordinary size only: of pages of 2 MiB, those of thousands of small sessions that come and go stay in use
/// for a fraction of what is in them (docs/performance.md).
pub(super) fn page_finely() {
    // The allocator does not ask for large pages, but the system may hand them out to everybody. Where the kernel knows
    // none there is nothing to forgo.
    let _ = disable_transparent_huge_pages(true);
}
