//! Listening sockets: one per worker on the same address, so that the kernel spreads clients over the workers.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::stream::{Keepalive, tune};

/// Connections the kernel holds until they are accepted, per listener (it may cap this: `net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// How much the kernel takes from us ahead of what a client can be sent. What it has when a session is revoked still goes
/// out before the FATAL: without a bound that is up to the 4 MiB of `net.ipv4.tcp_wmem` (docs/performance.md).
const UNSENT_MAX_BYTES: u32 = 128 * 1024;

/// Why an address cannot be listened on; `setting` is the key in pooler.toml that names it.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "cannot listen on {address}: the address is in use; stop the other program, or choose another with `{setting}`"
    )]
    InUse {
        address: SocketAddr,
        setting: &'static str,
    },
    #[error(
        "cannot listen on {address}: no interface of this machine has that address; choose another with `{setting}`"
    )]
    NotOurs {
        address: SocketAddr,
        setting: &'static str,
    },
    #[error(
        "cannot listen on {address}: not permitted (ports below 1024 need CAP_NET_BIND_SERVICE); choose another with `{setting}`"
    )]
    NotPermitted {
        address: SocketAddr,
        setting: &'static str,
    },
    #[error("cannot listen on {address} (`{setting}`): {cause}")]
    Other {
        address: SocketAddr,
        setting: &'static str,
        cause: io::Error,
    },
}

/// Opens `count` non-blocking listeners on one address (with port 0, on one free port), for connections that are tuned
/// to `keepalive` when they are accepted.
///
/// `setting` is the configuration key to name when it fails.
pub fn bind(
    address: SocketAddr,
    count: NonZeroUsize,
    setting: &'static str,
    keepalive: &Keepalive,
) -> Result<Vec<TcpListener>, ListenError> {
    open(address, count, keepalive).map_err(|cause| match cause.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address, setting },
        io::ErrorKind::AddrNotAvailable => ListenError::NotOurs { address, setting },
        io::ErrorKind::PermissionDenied => ListenError::NotPermitted { address, setting },
        _ => ListenError::Other {
            address,
            setting,
            cause,
        },
    })
}

fn open(
    address: SocketAddr,
    count: NonZeroUsize,
    keepalive: &Keepalive,
) -> io::Result<Vec<TcpListener>> {
    // The first one binds alone: with SO_REUSEPORT from the start, a second Sluice by mistake would succeed and take
    // half of the first one's clients. Shared afterwards, the port takes our other listeners.
    let first = socket(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..count.get() {
        let next = socket(address)?;
        next.set_reuse_port(true)?;
        next.bind(&address.into())?;
        sockets.push(next);
    }
    // Listen only when all are bound: the kernel spreads over those that listen at the time.
    for socket in &sockets {
        tune(socket, keepalive)?;
        socket.set_tcp_notsent_lowat(UNSENT_MAX_BYTES)?;
        socket.listen(BACKLOG)?;
    }
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    // Connections of an earlier run that linger in TIME_WAIT must not keep us from starting.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, time::Duration};

    use socket2::SockRef;

    use super::*;

    const ANY: &str = "127.0.0.1:0";
    const KEEPALIVE: Keepalive = Keepalive {
        idle: Duration::from_secs(7),
        interval: Duration::from_secs(3),
        unacknowledged: Some(Duration::from_secs(11)),
    };

    fn listen(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, ListenError> {
        let count = NonZeroUsize::new(count).unwrap();
        bind(address, count, "listen.pooler", &KEEPALIVE)
    }

    #[test]
    fn all_listeners_share_one_port() {
        let listeners = listen(ANY.parse().unwrap(), 3).unwrap();
        let ports: Vec<_> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|port| *port != 0 && *port == ports[0]));
        TcpStream::connect(listeners[0].local_addr().unwrap()).unwrap();
    }

    #[test]
    fn clients_are_spread_over_the_listeners() {
        let listeners = listen(ANY.parse().unwrap(), 2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let clients: Vec<_> = (0..64)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let accepted: Vec<_> = listeners
            .iter()
            .map(|listener| std::iter::from_fn(|| listener.accept().ok()).count())
            .collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }

    #[test]
    fn a_second_program_is_told_that_the_address_is_in_use() {
        for first in [1, 2] {
            let listeners = listen(ANY.parse().unwrap(), first).unwrap();
            let address = listeners[0].local_addr().unwrap();
            let error = listen(address, 2).unwrap_err();
            assert!(matches!(error, ListenError::InUse { .. }), "{error}");
            assert!(error.to_string().contains("`listen.pooler`"));
        }
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let error = listen("192.0.2.1:0".parse().unwrap(), 1).unwrap_err();
        assert!(matches!(error, ListenError::NotOurs { .. }), "{error}");
    }

    #[test]
    fn what_is_accepted_is_tuned() {
        let listeners = listen(ANY.parse().unwrap(), 1).unwrap();
        let _client = TcpStream::connect(listeners[0].local_addr().unwrap()).unwrap();
        listeners[0].set_nonblocking(false).unwrap();
        let (accepted, _) = listeners[0].accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE.idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE.interval);
        assert_eq!(socket.tcp_user_timeout().unwrap(), KEEPALIVE.unacknowledged);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_MAX_BYTES);
    }
}
