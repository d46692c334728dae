//! Free TCP ports of the loopback address.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the range that the kernel hands to outgoing connections, so that none of them can take a port between our
/// look and the server's bind.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A port that nothing listens on and that no other caller of this process has been given lately.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two test processes at once start at different places.
    let offset = (std::process::id() % 199) as u16 * 100;
    (0..COUNT)
        .map(|_| FIRST + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
