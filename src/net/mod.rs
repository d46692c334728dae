//! Sockets: plain or encrypted streams, listeners, and both ends of PostgreSQL's TLS negotiation.
//!
//! Nothing here knows a tenant or a session. What arrives is handed up as bytes; what is written goes out as
//! it is, encrypted or not as the stream decides.

pub mod stream;
mod tls;
