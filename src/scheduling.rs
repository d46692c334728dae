//! How soon the kernel lets the threads of Sluice run.
//!
//! A thread that wants short turns is let in sooner where others keep all cores busy; being let in sooner it finds less to
//! do, so the same work takes more turns. Threads that decide and write down have short ones always: a revocation goes
//! through several of them, each of which else waits for the slices of all that stream meanwhile. The workers, which
//! move bytes, have the usual ones, but for while sessions are to be ended.
//!
//! Linux 6.12 and newer heed it for ordinary threads (`sched(7)`, `sched_setattr(2)`); older kernels do nothing.
//! What the operator has set (policy, niceness) stays.

#![allow(unsafe_code)] // Neither libc nor rustix has a function for these two system calls.

use std::{
    io,
    mem::size_of,
    sync::{Mutex, MutexGuard, PoisonError},
};

use libc::{SYS_sched_getattr, SYS_sched_setattr, pid_t, sched_attr, syscall};
use rustix::thread::gettid;

/// How long a thread wants to run before another's turn; Linux's own is 3 ms, which waking threads wait for.
const SHORT_NANOSECONDS: u64 = 100_000;

/// The turns of this process.
pub static TURNS: Turns = Turns::new();

/// How long the turns of some threads are. That they cannot be set is no error: nothing depends on it but how long others
/// make us wait.
#[derive(Debug)]
pub struct Turns(Mutex<State>);

#[derive(Debug)]
struct State {
    /// What the process was started with; 0: the kernel does not say.
    usual_nanoseconds: u64,
    workers: Vec<pid_t>,
    hurries: usize,
}

/// Makes the calling thread a worker until dropped.
#[derive(Debug)]
pub struct Seat<'a> {
    turns: &'a Turns,
    thread: pid_t,
}

/// Something is to be ended: until dropped, workers have short turns too.
#[derive(Debug)]
pub struct Hurry<'a>(&'a Turns);

impl Turns {
    const fn new() -> Self {
        Self(Mutex::new(State {
            usual_nanoseconds: 0,
            workers: Vec::new(),
            hurries: 0,
        }))
    }

    /// Asks for short turns, for the calling thread and those that it starts.
    pub fn shorten(&self) {
        let thread = gettid().as_raw_pid();
        if let Ok(attributes) = attributes(thread) {
            self.state().usual_nanoseconds = attributes.sched_runtime;
            let _ = set_turns(thread, SHORT_NANOSECONDS);
        }
    }

    pub fn seat(&self) -> Seat<'_> {
        let thread = gettid().as_raw_pid();
        let mut state = self.state();
        state.workers.push(thread);
        if state.hurries == 0 {
            let _ = set_turns(thread, state.usual_nanoseconds);
        }
        Seat {
            turns: self,
            thread,
        }
    }

    pub fn hurry(&self) -> Hurry<'_> {
        let mut state = self.state();
        state.hurries += 1;
        if state.hurries == 1 {
            state.give(SHORT_NANOSECONDS);
        }
        Hurry(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn give(&self, nanoseconds: u64) {
        for worker in &self.workers {
            let _ = set_turns(*worker, nanoseconds);
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        state.workers.retain(|worker| *worker != self.thread);
    }
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.hurries -= 1;
        if state.hurries == 0 {
            state.give(state.usual_nanoseconds);
        }
    }
}

fn set_turns(thread: pid_t, nanoseconds: u64) -> io::Result<()> {
    let mut attributes = attributes(thread)?;
    let policy = attributes.sched_policy.cast_signed();
    if ![libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&policy) {
        return Ok(());
    }
    attributes.sched_runtime = nanoseconds;
    // Safety: the kernel reads as many bytes as the structure says it has.
    succeeded(unsafe { syscall(SYS_sched_setattr, thread, &raw const attributes, 0) })
}

fn attributes(thread: pid_t) -> io::Result<sched_attr> {
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
            thread,
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
    use std::{sync::mpsc, thread};

    use super::*;

    fn turn_of(thread: pid_t) -> u64 {
        attributes(thread).unwrap().sched_runtime
    }

    #[test]
    fn turns_become_short_and_nothing_else_changes() {
        // A thread of its own, as the setting stays.
        let (before, after, inherited) = thread::spawn(|| {
            let me = gettid().as_raw_pid();
            let before = attributes(me).unwrap();
            Turns::new().shorten();
            let inherited = thread::spawn(|| turn_of(gettid().as_raw_pid()));
            (before, attributes(me).unwrap(), inherited.join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(after.sched_nice, before.sched_nice);
        assert_eq!(after.sched_policy, before.sched_policy);
        assert_eq!(after.sched_flags, before.sched_flags);
        // Older kernels say nothing of it.
        if before.sched_runtime != 0 {
            assert_eq!(after.sched_runtime, SHORT_NANOSECONDS);
            assert_eq!(inherited, SHORT_NANOSECONDS);
        }
    }

    #[test]
    fn workers_have_short_turns_only_while_somebody_is_in_a_hurry() {
        static OWN: Turns = Turns::new();
        let usual = turn_of(gettid().as_raw_pid());
        if usual == 0 {
            return;
        }
        let (seated, seats) = mpsc::channel();
        let (leave, left) = mpsc::channel::<()>();
        let decider = thread::spawn(move || {
            OWN.shorten();
            let worker = thread::spawn(move || {
                let seat = OWN.seat();
                seated.send(seat.thread).unwrap();
                left.recv().unwrap();
            });
            worker.join().unwrap();
        });
        let worker = seats.recv().unwrap();
        assert_eq!(turn_of(worker), usual);
        let (first, second) = (OWN.hurry(), OWN.hurry());
        assert_eq!(turn_of(worker), SHORT_NANOSECONDS);
        drop(first);
        assert_eq!(turn_of(worker), SHORT_NANOSECONDS);
        drop(second);
        assert_eq!(turn_of(worker), usual);
        leave.send(()).unwrap();
        decider.join().unwrap();
        assert!(OWN.state().workers.is_empty());
    }
}
