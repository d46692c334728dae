//! When the kernel lets a process of Sluice run.

#![allow(unsafe_code)] // Neither libc nor rustix has a function for these two system calls.

use std::{io, mem::size_of};

use libc::{SYS_sched_getattr, SYS_sched_setattr, sched_attr, syscall};

/// How long a thread wants to run before another's turn; Linux's own is 3 ms, which waking threads wait for.
const SLICE_NANOSECONDS: u64 = 100_000;

/// Asks for short turns, for this thread and those that it starts: what waits to run for less long is let in sooner.
/// A revocation goes through several threads, each of which else waits for the slices of all that stream meanwhile.
///
/// Linux 6.12 and newer heed it for ordinary threads (`sched(7)`, `sched_setattr(2)`); older kernels do nothing.
/// What the operator has set (policy, niceness) stays.
pub(super) fn take_short_turns() -> io::Result<()> {
    let mut attributes = attributes()?;
    let is_ordinary =
        [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&attributes.sched_policy.cast_signed());
    if !is_ordinary {
        return Ok(());
    }
    attributes.sched_runtime = SLICE_NANOSECONDS;
    // Safety: the kernel reads as many bytes as the structure says it has.
    succeeded(unsafe { syscall(SYS_sched_setattr, 0, &raw const attributes, 0) })
}

/// Those of this thread.
fn attributes() -> io::Result<sched_attr> {
    let mut attributes = sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // Safety: the kernel writes no more bytes than it is told that there are.
    succeeded(unsafe {
        syscall(
            SYS_sched_getattr,
            0,
            &raw mut attributes,
            size_of::<sched_attr>(),
            0,
        )
    })?;
    Ok(attributes)
}

fn succeeded(outcome: libc::c_long) -> io::Result<()> {
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn turns_become_short_and_nothing_else_changes() {
        // A thread of its own, as the setting stays.
        let (before, after, inherited) = thread::spawn(|| {
            let before = attributes().unwrap();
            take_short_turns().unwrap();
            let inherited = thread::spawn(|| attributes().unwrap());
            (before, attributes().unwrap(), inherited.join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(after.sched_nice, before.sched_nice);
        assert_eq!(after.sched_policy, before.sched_policy);
        assert_eq!(after.sched_flags, before.sched_flags);
        // Older kernels say nothing of it.
        if before.sched_runtime != 0 {
            assert_eq!(after.sched_runtime, SLICE_NANOSECONDS);
            assert_eq!(inherited.sched_runtime, SLICE_NANOSECONDS);
        }
    }
}
