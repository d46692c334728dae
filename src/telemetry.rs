//! Logs: where they go and which of them.
//!
//! Everything is said through `tracing` and written to standard error, as text for people or as one JSON object
//! a line, by a thread of its own. The filter can be changed while running; the form cannot.

mod queue;

use std::{
    env,
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use tracing_subscriber::{
    Layer, Registry,
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use self::queue::Lines;
use crate::config::{Log, LogFormat};

/// How long the end of the process waits for the last lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Why logging could not be set up, or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("log.level is no log filter: {0}")]
    Filter(#[from] ParseError),
    #[error("logging is set up already: {0}")]
    Installed(#[from] TryInitError),
    #[error("the thread that writes the log cannot be started: {0}")]
    Thread(#[from] io::Error),
    #[error("logging is gone: {0}")]
    Gone(#[from] reload::Error),
}

/// Changes the log filter of the running process. The last clone to go waits until what was logged is written.
#[derive(Clone)]
pub struct Telemetry {
    filter: reload::Handle<Targets, Registry>,
    _rest: Arc<Rest>,
}

/// What has been logged and not been written yet.
struct Rest(Lines);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.flush(FLUSH_MAX);
    }
}

/// Starts logging for the whole process; can be done once.
pub fn init(log: &Log) -> Result<Telemetry, TelemetryError> {
    let (filter, handle) = reload::Layer::new(log.level.parse::<Targets>()?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = Lines::start(io::stderr())?;
    registry
        .with(output(log.format, lines.clone()))
        .try_init()?;
    Ok(Telemetry {
        filter: handle,
        _rest: Arc::new(Rest(lines)),
    })
}

impl Telemetry {
    /// Lets through what `log` now says, from the next event on.
    pub fn change_level(&self, log: &Log) -> Result<(), TelemetryError> {
        Ok(self.filter.reload(log.level.parse::<Targets>()?)?)
    }
}

/// Writes events of `S` to `lines`.
fn output<S>(format: LogFormat, lines: Lines) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let layer = fmt::layer().with_writer(lines);
    match format {
        LogFormat::Text => layer.with_ansi(colours()).boxed(),
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
    }
}

/// Colours are for a terminal, and for those who have not asked for none (<https://no-color.org>).
fn colours() -> bool {
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_changes_while_running() {
        let log = |level: &str| Log {
            level: level.to_owned(),
            format: LogFormat::Json,
        };
        let (filter, handle) =
            reload::Layer::new(Targets::new().with_default(tracing::Level::WARN));
        let telemetry = Telemetry {
            filter: handle,
            _rest: Arc::new(Rest(Lines::start(io::sink()).unwrap())),
        };
        let subscriber = tracing_subscriber::registry().with(filter);
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(tracing::Level::INFO));
            telemetry.change_level(&log("info")).unwrap();
            assert!(tracing::enabled!(tracing::Level::INFO));
            let refused = telemetry.change_level(&log("sluice=loud"));
            assert!(matches!(refused, Err(TelemetryError::Filter(_))));
            assert!(tracing::enabled!(tracing::Level::INFO));
        });
    }
}
