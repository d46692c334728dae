//! Sockets: plain or encrypted streams, listeners, and both ends of PostgreSQL's TLS negotiation.
//!
//! Nothing here knows a tenant or a session. What arrives is handed up as bytes; what is written goes out as
//! it is, encrypted or not as the stream decides.

pub mod buffer;
pub mod channel_binding;
pub mod client_tls;
pub mod listener;
pub mod network;
pub mod outbound;
pub mod pem;
pub mod proxy_protocol;
pub mod ring;
mod server_check;
pub mod server_tls;
pub(crate) mod socket;
pub mod stream;
mod tls;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
