//! PostgreSQL wire protocol as values: no socket, no clock, no tokio.

pub mod error;
pub mod frame;
pub mod message;
#[cfg(test)]
mod model_tests;
pub mod options;
pub mod own_settings;
pub mod parameters;
pub mod pipeline;
pub mod prepared;
pub mod reading;
pub mod residue;
pub mod scram;
pub mod sql;
pub mod startup;
