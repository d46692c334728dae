//! Databases that people reach without a pooler in between: what runs beside such a PostgreSQL (docs/direct-access.md).
//!
//! ```text
//! psql ──▶ postgres backend ──PAM──▶ pam_exec ──▶ verify ──may this token use this role?──▶ Sluice
//!                │                                  │ yes: leaves a record (backend, person, token, role, from)
//!                │                                  ▼
//!                └◀──────── SIGTERM ──────────── guard ──may these sessions go on?──────────▶ Sluice
//! ```
//! A session is known by its backend process: its pid and when that process began, so that a pid that was given out
//! again is nobody's session. What cannot be found out is refused, and ends sessions.

mod authority;
mod guard;
mod process;
mod records;
mod verify;

pub use self::{
    authority::{Authority, AuthorityError, SetupError},
    guard::Guard,
    process::{Process, ProcessError},
    records::{Record, RecordError, Records},
    verify::{Login, Refusal, Verified, verify},
};
