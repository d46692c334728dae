//! A child process with a log file: started, watched, asked to end, and killed if it does not.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// How long a child may take to end once it was asked to.
const END_TIMEOUT: Duration = Duration::from_secs(15);
const SHOWN_LOG_LINES: usize = 15;

#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    #[error("cannot start {name}: {source}")]
    Start {
        name: &'static str,
        source: io::Error,
    },
    #[error("cannot write {}: {source}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("{name} ended by itself ({status}); the end of its log:\n{log}")]
    Ended {
        name: &'static str,
        status: ExitStatus,
        log: String,
    },
    #[error("cannot wait for {name}: {source}")]
    Wait {
        name: &'static str,
        source: io::Error,
    },
    #[error("{name} was not ready within {} s; the end of its log:\n{log}", within.as_secs())]
    NotReady {
        name: &'static str,
        within: Duration,
        log: String,
    },
}

pub(super) struct Process {
    name: &'static str,
    child: Child,
    pid: Pid,
    log: PathBuf,
    end_by: Signal,
}

impl Process {
    /// Starts `command`, which appends what it says to `log` and ends cleanly on `end_by`.
    pub(super) fn start(
        name: &'static str,
        mut command: Command,
        log: PathBuf,
        end_by: Signal,
    ) -> Result<Self, ProcessError> {
        let (output, errors) = append(&log).map_err(|source| ProcessError::Log {
            path: log.clone(),
            source,
        })?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C in the terminal is for the demo, which then ends its children in their order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ProcessError::Start { name, source })?;
        let pid = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .ok_or_else(|| ProcessError::Start {
                name,
                source: io::ErrorKind::NotFound.into(),
            })?;
        Ok(Self {
            name,
            child,
            pid,
            log,
            end_by,
        })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits until `ready` says so, the child ends, or `within` is over.
    pub(super) async fn until_ready(
        &mut self,
        within: Duration,
        ready: impl Future<Output = ()>,
    ) -> Result<(), ProcessError> {
        let outcome = tokio::select! {
            outcome = timeout(within, ready) => outcome,
            error = self.ended() => return Err(error),
        };
        outcome.map_err(|_| ProcessError::NotReady {
            name: self.name,
            within,
            log: last_lines(&self.log),
        })
    }

    /// Waits for the child to end although nobody asked it to.
    pub(super) async fn ended(&mut self) -> ProcessError {
        match self.child.wait().await {
            Ok(status) => ProcessError::Ended {
                name: self.name,
                status,
                log: last_lines(&self.log),
            },
            Err(source) => ProcessError::Wait {
                name: self.name,
                source,
            },
        }
    }

    pub(super) async fn stop(mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // It may have ended in between: then there is nobody left to tell.
        let _ = kill_process(self.pid, self.end_by);
        if timeout(END_TIMEOUT, self.child.wait()).await.is_err() {
            eprintln!(
                "{} did not end within {} s and is killed",
                self.name,
                END_TIMEOUT.as_secs()
            );
            let _ = self.child.kill().await;
        }
    }
}

/// `command` with all three of its streams in our hands.
pub(super) fn piped(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
}

fn append(log: &Path) -> io::Result<(File, File)> {
    let output = File::options().create(true).append(true).open(log)?;
    let errors = output.try_clone()?;
    Ok((output, errors))
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..].join("\n")
}
