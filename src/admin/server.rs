//! The admin listener's connections: so many at once, and none that keeps its place without saying what it wants.

use std::{convert::Infallible, io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// After an accept that failed, for want of file descriptors perhaps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a request has come from: an extension of each. Behind a proxy, that is the proxy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// What connections may take up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// At once; further ones wait to be accepted.
    pub(super) connections: usize,
    /// Until the head of the next request has arrived, whether the connection is new or has served others.
    pub(super) head: Duration,
    /// After the end of service was asked for, calls under way get this long.
    pub(super) shutdown: Duration,
}

/// Serves `router` until `stop`, then lets calls under way finish within the deadline.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> io::Result<()> {
    let connections = TaskTracker::new();
    let accepting = accept(listener, router, limits, &connections, &stop);
    let refused = tokio::select! {
        refused = accepting => refused.map(|never| match never {}),
        () = stop.cancelled() => Ok(()),
    };
    connections.close();
    let _ = tokio::time::timeout(limits.shutdown, connections.wait()).await;
    refused
}

async fn accept(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    connections: &TaskTracker,
    stop: &CancellationToken,
) -> io::Result<Infallible> {
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let place = place.map_err(io::Error::other)?;
        match listener.accept().await {
            Ok((socket, peer)) => {
                let connection = attend(
                    socket,
                    Peer(peer.ip()),
                    router.clone(),
                    limits,
                    stop.clone(),
                );
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection; after `stop` only the call that is under way.
async fn attend(
    socket: TcpStream,
    peer: Peer,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the admin listener broke off");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::{Instant, timeout},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    /// A listener with one place; it ends with the token.
    async fn one_place(head: Duration) -> (std::net::SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "here"));
        let limits = Limits {
            connections: 1,
            head,
            shutdown: PATIENCE,
        };
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, router, limits, stop.clone()));
        (address, stop)
    }

    /// All that comes until the connection ends.
    async fn rest(socket: &mut TcpStream) -> String {
        let mut text = String::new();
        let read = timeout(PATIENCE, socket.read_to_string(&mut text));
        read.await.unwrap().unwrap();
        text
    }

    #[tokio::test]
    async fn a_connection_that_does_not_say_what_it_wants_loses_its_place() {
        let (address, _stop) = one_place(Duration::from_millis(200)).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HT").await.unwrap();
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut honest = TcpStream::connect(address).await.unwrap();
        honest.write_all(REQUEST).await.unwrap();
        let start = Instant::now();
        rest(&mut slow).await;
        rest(&mut silent).await;
        assert!(rest(&mut honest).await.ends_with("here"));
        // Each in its turn: the honest one came last and had to wait for both.
        assert!(start.elapsed() >= Duration::from_millis(300));
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections_at_once() {
        let (address, stop) = one_place(Duration::from_secs(600)).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 12];
        idle.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        stop.cancel();
        rest(&mut idle).await;
    }
}
