//! (head)

pub mod handshake;
