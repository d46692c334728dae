//! A backend process: known by its pid and when it began, ended by a signal that can hit no other.

use std::{fs, io};

use rustix::process::{Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// Why a process cannot be looked at or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("there is no parent process to be seen from here")]
    NoParent,
    #[error("cannot look at process {pid}: {source}")]
    Look { pid: i32, source: io::Error },
    #[error("cannot signal process {pid}: {source}")]
    Signal { pid: i32, source: io::Error },
}

/// One process, never one that got its pid later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// When it began, in the kernel's ticks since the machine was started.
    started: u64,
}

impl Process {
    /// The process that has started us: for what `pam_exec` runs, the backend that somebody logs in to.
    pub fn parent() -> Result<Self, ProcessError> {
        let pid = getppid().ok_or(ProcessError::NoParent)?.as_raw_pid();
        Self::of(pid)?.ok_or(ProcessError::NoParent)
    }

    fn of(pid: i32) -> Result<Option<Self>, ProcessError> {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => Ok(started(&stat).map(|started| Self { pid, started })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // What the kernel answers for a process that ends in this moment.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Ok(None)
            }
            Err(source) => Err(ProcessError::Look { pid, source }),
        }
    }

    /// Whether it runs: a process that has got its number since is another one.
    pub fn is_there(&self) -> Result<bool, ProcessError> {
        Ok(Self::of(self.pid)? == Some(*self))
    }

    /// Asks it to end, as `pg_terminate_backend` does. It is no error if it has ended.
    pub fn terminate(&self) -> Result<(), ProcessError> {
        let failed = |source: rustix::io::Errno| ProcessError::Signal {
            pid: self.pid,
            source: source.into(),
        };
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(());
        };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        // The handle stays with the process that had the pid when it was opened; now we know which one that is.
        if !self.is_there()? {
            return Ok(());
        }
        match pidfd_send_signal(handle, Signal::TERM) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// The 22nd field of `/proc/PID/stat`; `None`: a zombie, or no such line. The second field is a name in brackets that
/// may hold anything.
fn started(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_start_is_read_behind_whatever_name() {
        let fields: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        let stat = format!("17 (a) b (c)) S {}", fields.join(" "));
        assert_eq!(started(&stat), Some(22));
        assert_eq!(started(&stat.replace(" S ", " Z ")), None);
        assert_eq!(started("17"), None);
    }

    #[test]
    fn only_the_very_process_is_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::of(pid).unwrap().unwrap();
        let earlier = Process {
            started: process.started - 1,
            ..process
        };
        assert!(process.is_there().unwrap());
        assert!(!earlier.is_there().unwrap());
        earlier.terminate().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        process.terminate().unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(!process.is_there().unwrap());
        process.terminate().unwrap();
    }
}
