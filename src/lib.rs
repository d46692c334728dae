//! Sluice: a shared PostgreSQL connection pooler with token-based access.
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
pub mod metrics;
pub mod names;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod session;
pub mod telemetry;

#[cfg(test)]
mod style_tests;
