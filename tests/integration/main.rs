//! Sluice from outside: the real binary, real PostgreSQL servers, real clients.
//!
//! One process holds one PostgreSQL cluster (and, when a test asks, one that is too old); each test starts its own
//! Sluice with its own catalogue, database and tenant, so that tests run side by side. `support` holds the means,
//! every other module one topic of the promise.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

mod administration;
mod audit;
mod backend_login;
mod branches;
mod bulk;
mod cancel;
mod catalogue;
mod clocks;
mod compatible;
mod configuration;
mod copy;
mod denial;
mod departures;
mod description;
mod differential;
mod direct_access;
mod doctor;
mod drivers;
mod external_authority;
mod guessing;
mod guests;
mod hostile_server;
mod io_method;
mod isolation;
mod jwt_authority;
mod lifecycle;
mod limits;
mod listening;
mod managers;
mod outages;
mod own_view;
mod password;
mod peer;
mod pgbench;
mod pipelines;
mod pools;
mod preamble;
mod prepared;
mod replication;
mod revocation;
mod revocation_matrix;
mod routing;
mod settings;
mod storms;
mod style;
mod switch;
mod token;
mod tokens;
mod transactions;
mod unix_sockets;
