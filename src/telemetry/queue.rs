//! Lines on their way to the log: a queue with a limit, and a thread that writes.
//!
//! Whoever logs never waits: a reader of the log that has stopped reading must not stop the sessions. What finds the
//! queue full is dropped and counted (`sluice_log_lines_dropped_total`).

use std::{
    io::{self, Write},
    iter,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// A line is some hundred bytes.
const LINES_MAX: usize = 8192;

/// How much is written at once.
const WRITE_MAX_BYTES: usize = 64 * 1024;

/// After each write: lines that come meanwhile are written together, and nobody spends time on waking the thread for each.
const PAUSE: Duration = Duration::from_millis(10);

enum Item {
    Line(Vec<u8>),
    /// Told once everything before it has been written.
    Mark(SyncSender<()>),
}

/// The way into the queue. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lines(SyncSender<Item>);

impl Lines {
    /// Starts the thread that writes to `output`; it ends with the last clone.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, queue) = sync_channel(LINES_MAX);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&queue, output))?;
        Ok(Self(lines))
    }

    /// Waits until what has been logged so far is written, but no longer than `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let (mark, reached) = sync_channel(1);
        if self.0.try_send(Item::Mark(mark)).is_ok() {
            let _ = reached.recv_timeout(patience);
        }
    }
}

fn write_all(queue: &Receiver<Item>, mut output: impl Write) {
    let mut text = Vec::new();
    while let Ok(first) = queue.recv() {
        for item in iter::once(first).chain(queue.try_iter()) {
            match item {
                Item::Line(line) => text.extend_from_slice(&line),
                Item::Mark(mark) => {
                    write_out(&mut text, &mut output);
                    let _ = mark.try_send(());
                }
            }
            if text.len() >= WRITE_MAX_BYTES {
                write_out(&mut text, &mut output);
            }
        }
        write_out(&mut text, &mut output);
        thread::sleep(PAUSE);
    }
}

fn write_out(text: &mut Vec<u8>, output: &mut impl Write) {
    // Nobody could be told that the log cannot be written.
    let _ = output.write_all(text);
    text.clear();
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0.try_send(Item::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                metrics::counter!(crate::metrics::LOG_LINES_DROPPED).increment(1);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::net::UnixStream, time::Instant};

    use super::*;

    #[test]
    fn a_log_that_nobody_reads_stops_nobody_and_what_is_dropped_is_counted() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let (output, mut reader) = UnixStream::pair().unwrap();
        let mut lines = Lines::start(output).unwrap();
        let line = [b'x'; 1000];
        let sent = 2 * LINES_MAX;
        let start = Instant::now();
        metrics::with_local_recorder(&recorder, || {
            for _ in 0..sent {
                lines.write_all(&line).unwrap();
            }
        });
        assert!(start.elapsed() < Duration::from_secs(5));
        lines.flush(Duration::from_millis(1));
        // Read at last: what was not dropped is all there.
        drop(lines);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        let rendered = recorder.handle().render();
        let dropped = rendered
            .lines()
            .find_map(|text| text.strip_prefix("sluice_log_lines_dropped_total "))
            .unwrap();
        let dropped: usize = dropped.parse().unwrap();
        assert!(dropped > 0);
        assert_eq!(read.len(), (sent - dropped) * line.len());
    }

    #[test]
    fn what_was_logged_before_a_flush_is_written() {
        let (output, mut reader) = UnixStream::pair().unwrap();
        let mut lines = Lines::start(output).unwrap();
        lines.write_all(b"first").unwrap();
        lines.flush(Duration::from_secs(10));
        reader.set_nonblocking(true).unwrap();
        let mut read = [0; 5];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"first");
    }
}
