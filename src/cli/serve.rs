//! `sluice serve`: check everything, bind, serve, and stop in good order.
//!
//! Nothing is bound before all that can be checked has been: a wrong configuration, a missing certificate or an
//! unreachable catalogue never takes a port first.

use std::{
    error::Error,
    fmt,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{ServeArgs, host, memory};
use crate::{
    access::certificates::CertificateAuthority,
    admin::{self, AdminState, Changes, MetricsGuard, Readiness, ReloadError, ReloadRequest},
    catalog::{
        Catalog,
        types::{AuditEvent, Outcome},
    },
    config::Config,
    doctor::Doctor,
    listener::{Listeners, Pooler, Setup, keepalive},
    memory::give_back,
    metrics,
    net::server_tls::ServerTls,
    scheduling::TURNS,
    session::Process,
    telemetry::{self, Telemetry},
};

/// Reload requests that may wait for their turn.
const RELOADS_MAX: usize = 8;

/// A step of the start that failed, with what it was.
#[derive(Debug)]
struct StartError {
    step: &'static str,
    cause: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)?;
        let mut source = self.cause.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

trait During<T> {
    fn during(self, step: &'static str) -> Result<T, StartError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> During<T> for Result<T, E> {
    fn during(self, step: &'static str) -> Result<T, StartError> {
        self.map_err(|cause| StartError {
            step,
            cause: cause.into(),
        })
    }
}

/// Runs the pooler until it is told to stop.
pub fn run(args: &ServeArgs) -> ExitCode {
    memory::page_finely();
    TURNS.shorten();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let outcome = runtime
        .during("cannot start")
        .and_then(|runtime| runtime.block_on(serve(args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "sluice: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: &ServeArgs) -> Result<(), StartError> {
    let config = Config::load(&args.config).during("configuration")?;
    let tls = load_tls(&config)?;
    let authority = load_authority(&config)?;
    if args.check {
        for warning in host::warnings(&config) {
            let _ = writeln!(io::stderr(), "sluice: warning: {warning}");
        }
        let _ = writeln!(io::stdout(), "{}: ok", args.config.display());
        return Ok(());
    }
    let telemetry = telemetry::init(&config.log).during("log")?;
    host::settle_in(&config);
    let recorder = metrics::install().during("metrics")?;
    let key = Zeroizing::new(*config.catalog.key.expose());
    let catalog = Catalog::open(&config.catalog.path, &key)
        .await
        .during("catalogue")?;

    let listeners = Listeners::bind(&config).during("listener")?;
    let admin_socket = admin_socket(&config)?;
    let mut signals = Signals::new().during("signals")?;
    let mut hangup = signal(SignalKind::hangup()).during("signals")?;
    announce(&config, &listeners, &admin_socket);
    // Sessions before this are over, whether or not their ends were written.
    let started = AuditEvent::new("node.started", Outcome::Success, "system");
    catalog.record(started).await.during("audit")?;
    let trail = catalog.clone();

    let (readiness, ready) = watch::channel(Readiness::Starting);
    let (reload, mut reloads) = mpsc::channel::<ReloadRequest>(RELOADS_MAX);
    let setup = Setup {
        config: config.clone(),
        catalog: catalog.clone(),
        tls,
        authority,
    };
    let pooler = Pooler::start(setup, listeners).during("worker threads")?;
    let stop = CancellationToken::new();
    let state = AdminState {
        catalog,
        access: pooler.process().access.clone(),
        metrics: recorder.clone(),
        metrics_guard: metrics_guard(&config),
        readiness: ready,
        reload,
        changes: Changes::default(),
        doctor: doctor(pooler.process()),
        overview: pooler.process().overview(),
    };
    let admin = tokio::spawn(admin::serve(
        tokio::net::TcpListener::from_std(admin_socket).during("admin listener")?,
        state,
        stop.clone(),
    ));
    let upkeep = tokio::spawn(metrics::upkeep(recorder, stop.clone()));
    let access = pooler.process().access.clone();
    let stop_asking = stop.clone();
    let recheck = tokio::spawn(async move { access.recheck_external(stop_asking).await });
    let audit = tokio::spawn(look_after_audit(&trail, pooler.process(), stop.clone()));
    readiness.send_replace(Readiness::Ready);

    let reloader = Reloader {
        path: &args.config,
        started: &config,
        process: Arc::clone(pooler.process()),
        telemetry,
    };
    let mut memory_ticks = tokio::time::interval(memory::GIVE_BACK_PERIOD);
    loop {
        tokio::select! {
            () = signals.stop() => break,
            _ = memory_ticks.tick() => give_back(),
            _ = hangup.recv() => reloader.by_signal(),
            Some(request) = reloads.recv() => reloader.by_request(request),
        }
    }
    // Whoever asks for a reload now is answered at once that it is too late.
    drop(reloads);
    tracing::info!("draining");
    readiness.send_replace(Readiness::Draining);
    tokio::select! {
        () = pooler.drain() => {}
        () = signals.stop() => tracing::warn!("told to stop again: not waiting for sessions any more"),
    }
    stop.cancel();
    let _ = tokio::join!(admin, upkeep, recheck, audit);
    trail.close_refusals();
    trail.record_later(AuditEvent::new("node.stopped", Outcome::Success, "system"));
    tracing::info!("stopped");
    Ok(())
}

fn look_after_audit(
    trail: &Catalog,
    process: &Process,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let (trail, config) = (trail.clone(), Arc::clone(&process.config));
    async move {
        let retention = || config.load().audit.retention;
        trail.look_after_audit(retention, stop).await;
    }
}

fn doctor(process: &Process) -> Doctor {
    Doctor {
        catalog: process.catalog.clone(),
        config: Arc::clone(&process.config),
        authority: process.authority.clone(),
    }
}

fn load_tls(config: &Config) -> Result<Option<ServerTls>, StartError> {
    let tls = config
        .tls
        .as_ref()
        .map(|tls| ServerTls::load(&tls.certificate, &tls.key));
    tls.transpose().during("tls")
}

fn load_authority(config: &Config) -> Result<Option<Arc<CertificateAuthority>>, StartError> {
    match (
        &config.token_access.ca_certificate,
        &config.token_access.ca_key,
    ) {
        (Some(certificate), Some(key)) => Ok(Some(Arc::new(
            CertificateAuthority::load(certificate, key).during("token_access")?,
        ))),
        _ => Ok(None),
    }
}

fn admin_socket(config: &Config) -> Result<std::net::TcpListener, StartError> {
    let count = std::num::NonZeroUsize::MIN;
    let mut sockets = crate::net::listener::bind(
        config.admin.listen,
        count,
        "admin.listen",
        &keepalive(config),
    )
    .during("admin listener")?;
    sockets
        .pop()
        .ok_or(io::Error::from(io::ErrorKind::NotConnected))
        .during("admin listener")
}

/// On another than a loopback address, metrics name tenants to whoever asks: then the key is asked for.
fn metrics_guard(config: &Config) -> MetricsGuard {
    if config.admin.listen.ip().is_loopback() {
        MetricsGuard::Open
    } else {
        MetricsGuard::AdminKey
    }
}

fn announce(config: &Config, listeners: &Listeners, admin: &std::net::TcpListener) {
    let pooler = listeners
        .pooler_address()
        .map(|address| address.to_string())
        .unwrap_or_default();
    let direct = listeners
        .direct_address()
        .map(|address| address.to_string());
    let admin = admin
        .local_addr()
        .map(|address| address.to_string())
        .unwrap_or_default();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pooler,
        direct,
        admin,
        workers = config.listen.workers,
        tls = config.tls.is_some(),
        "sluice is up"
    );
}

/// The signals that a service manager sends.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Takes a changed configuration into use without dropping a client.
struct Reloader<'a> {
    path: &'a Path,
    /// What the process was started with.
    started: &'a Config,
    process: Arc<Process>,
    telemetry: Telemetry,
}

impl Reloader<'_> {
    fn by_signal(&self) {
        match self.reload("system") {
            Ok(()) => tracing::info!("configuration reloaded"),
            Err(error) => tracing::error!(%error, "the configuration stays as it was"),
        }
    }

    fn by_request(&self, request: ReloadRequest) {
        let _ = request.answer.send(self.reload(&request.actor));
    }

    fn reload(&self, actor: &str) -> Result<(), ReloadError> {
        let reloaded = self.take_changes();
        let outcome = match &reloaded {
            Ok(()) => Outcome::Success,
            Err(_) => Outcome::Failure,
        };
        let event = AuditEvent::new("node.reloaded", outcome, actor);
        self.process.catalog.record_later(event);
        reloaded
    }

    /// Takes what can change while running; the log names what of the rest has changed.
    fn take_changes(&self) -> Result<(), ReloadError> {
        let new = Config::load(self.path)?;
        if let Some(tls) = &self.process.tls {
            tls.reload()?;
        }
        self.telemetry.change_level(&new.log)?;
        let waiting = self.started.waiting_for_restart(&new);
        if !waiting.is_empty() {
            tracing::warn!(keys = %waiting.join(", "), "what has changed there takes effect at the next start only");
        }
        self.process
            .access
            .configure_authorities(new.authorities.clone());
        self.process.config.store(Arc::new(Config {
            listen: self.started.listen.clone(),
            ..new
        }));
        Ok(())
    }
}
