//! Sluice: a shared PostgreSQL connection pooler with token-based access.
//!
//! ```text
//! cli ─── what was typed ──▶ serve
//!                              │  config     pooler.toml, checked
//!                              │  catalog    tenants, people, tokens, rules, audit trail
//!                              ▼
//!  client ──▶ listener ──▶ session ──▶ pool ──▶ backend ──▶ a tenant's PostgreSQL
//!             a thread       │ who is it? may they? for how long?
//!             per core       ▼
//!                          access      token + rule → grant, which ends its sessions when it ends
//!                            ▲
//!  admin ─── HTTP API ───────┘         a change is committed, then enforced, then answered
//! ```
//!
//! A module uses those below it and none above: `cli`, `direct`, `admin`, `doctor`, `listener`, `session`, `pool`, `access`,
//! `catalog`, `backend`, `net`, `protocol`. The last turns bytes into values and back, and knows no socket and no clock.
//!
//! What must be true:
//! 1. A backend goes to another session only after its last ReadyForQuery was idle, nothing is owed, and its settings are
//!    known.
//! 2. No pool is reached without a principal. A grant is made only in [`access`]; one that is revoked or expired ends its
//!    sessions wherever they are.
//! 3. A token exists only in the login step, and zeroised where a live session may have to show it again.
//! 4. Exactly one FATAL ends a session, written in one place; exactly one log line and one audit event.
//! 5. Every buffer, queue, wait, cache and map has a limit.
//! 6. Every task has an owner that waits for it. Shutdown is a drain with a deadline.
//! 7. One tenant's load, errors or limits do not change what another tenant sees.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod access;
pub mod admin;
pub mod backend;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod direct;
pub mod doctor;
pub mod listener;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod scheduling;
pub mod session;
pub mod telemetry;

#[cfg(test)]
mod style_tests;
