//! One client's life in our process, first byte to last.
//!
//! ```text
//! accepting worker   accept ─▶ handshake ─▶ route ─┐            (or a cancel request: forwarded, done)
//!                                                  │ the socket moves
//! home worker        login ─▶ greet ─▶ ┌ idle ─▶ checkout ─▶ relay ─▶ release ┐ ─▶ end
//!                                      └──────────────────────────────────────┘
//! ```
//! Everything up to ReadyForQuery stands under one deadline that starts at accept. Every way out is an [`End`];
//! the client is told in one place (`finish`), once.

mod arrive;
mod cancel_keys;
mod client;
mod crowd;
mod error;
mod establish;
mod even_time;
mod finish;
mod greet;
pub mod handshake;
mod idle;
mod lanes;
mod leaks;
mod life;
mod listening;
mod local;
mod login;
mod overview;
mod relay;
mod route;
mod session_state;
mod sql_names;
mod statements;
mod tenancy;
mod throttle;
mod unnamed;
mod verifier;
mod watch;
mod worker;

use std::rc::Rc;

pub use self::{
    arrive::{Arrival, accept, take_in},
    cancel_keys::Guesses,
    error::End,
    lanes::Lanes,
    overview::Overview,
    verifier::AUTH_QUERY,
    worker::{Command, Parts, Process, Worker},
};
use self::{
    cancel_keys::Issued,
    client::Client,
    establish::serve,
    leaks::Leaks,
    listening::{ListenLimits, Listening},
    statements::Prepared,
    worker::{Enrolled, Place},
};
use crate::{
    access::{Floor, Registration},
    backend::Told,
    metrics::{GaugeGuard, TenantMetrics},
    pool::Pool,
    protocol::parameters::Settings,
};

/// How a listener's clients share backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// A backend serves one transaction and goes on to the next client.
    Transaction,
    /// A backend serves one client until that leaves.
    Session,
}

/// A client that has logged in.
struct Session {
    worker: Rc<Worker>,
    registration: Registration,
    enrolled: Enrolled,
    pool: Rc<Pool>,
    floor: Floor,
    sharing: Sharing,
    /// What the client began with, and what it has set by now.
    initial: Rc<Settings>,
    settings: Rc<Settings>,
    /// What the client knows of the server's parameters.
    told: Told,
    prepared: Prepared,
    listening: Listening,
    listen_limits: ListenLimits,
    leaks: Leaks,
    metrics: Rc<TenantMetrics>,
    _place: Place,
    _gauge: GaugeGuard,
}

/// A client that was let in, with what it gives up when it has left.
struct LetIn {
    session: Session,
    client: Client,
    _cancel_key: Issued,
    _place: Place,
}
