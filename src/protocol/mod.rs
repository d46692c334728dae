//! PostgreSQL wire protocol as values: no socket, no clock, no tokio.
