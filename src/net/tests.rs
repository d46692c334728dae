//! What holds for streams of either kind.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    task::yield_now,
    time::timeout,
};

use super::{
    buffer::{Buffer, BufferPool},
    ring::Queueing,
    stream::{Keepalive, Stream, TlsSummary, tune},
    testing::{HOST, Kind, for_every_kind, sockets, with_ring},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `condition` holds.
async fn eventually(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("in time");
}

fn readable_now(stream: &mut Stream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    stream.poll_readable(&mut cx).is_ready()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Writes `block` over and over until there is no room anywhere; answers how many bytes were taken.
async fn write_until_full(stream: &mut Stream, block: &[u8]) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let mut written = 0;
    let mut refusals = 0;
    // Refused many times in a row.
    while refusals < 1000 {
        let offered = &block[written % block.len()..];
        match AsyncWrite::poll_write(Pin::new(&mut *stream), &mut cx, offered) {
            Poll::Ready(count) => {
                written += count.unwrap();
                refusals = 0;
            }
            Poll::Pending => {
                refusals += 1;
                yield_now().await;
            }
        }
        assert!(written < 16 << 20, "the writer is never stopped");
    }
    written
}

#[test]
fn bytes_arrive_whole_and_in_order_both_ways() {
    for_every_kind(async |kind| {
        let (mut client, mut server) = kind.pair().await;
        let sent = pattern(1 << 20);
        let talk = async {
            client.write_all(&sent).await.unwrap();
            client.flush().await.unwrap();
            let mut echoed = vec![0; sent.len()];
            client.read_exact(&mut echoed).await.unwrap();
            echoed
        };
        let echo = async {
            let mut received = vec![0; sent.len()];
            server.read_exact(&mut received).await.unwrap();
            server.write_all(&received).await.unwrap();
            server.flush().await.unwrap();
        };
        let (echoed, ()) = tokio::join!(talk, echo);
        assert!(echoed == sent, "{kind:?}");
    });
}

#[test]
fn a_peer_that_does_not_read_stops_the_writer_and_loses_nothing() {
    for_every_kind(async |kind| {
        let (mut client, mut server) = kind.pair().await;
        server.socket().set_recv_buffer_size(8 * 1024).unwrap();
        client.socket().set_send_buffer_size(8 * 1024).unwrap();
        let block = pattern(16 * 1024);
        let written = write_until_full(&mut client, &block).await;
        let finish = async {
            client.flush().await.unwrap();
            client.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (count, ()) = tokio::join!(server.read_to_end(&mut received), finish);
        assert_eq!(count.unwrap(), written, "{kind:?}");
        assert!(
            received
                .chunks(block.len())
                .all(|chunk| *chunk == block[..chunk.len()]),
            "{kind:?}"
        );
    });
}

#[test]
fn a_stream_is_readable_exactly_while_there_is_something_to_read() {
    for_every_kind(async |kind| {
        let (mut client, mut server) = kind.pair().await;
        // Whatever the handshake left behind is read away first.
        let mut byte = [0];
        assert!(
            timeout(Duration::from_millis(20), client.read(&mut byte))
                .await
                .is_err()
        );
        assert!(!readable_now(&mut client), "{kind:?}");

        server.write_all(b"ab").await.unwrap();
        server.flush().await.unwrap();
        timeout(PATIENCE, poll_fn(|cx| client.poll_readable(cx)))
            .await
            .unwrap()
            .unwrap();
        client.read_exact(&mut byte).await.unwrap();
        // The second byte is in the socket, or decrypted already: either way it counts.
        assert!(readable_now(&mut client), "{kind:?}");
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"b");

        server.shutdown().await.unwrap();
        timeout(PATIENCE, poll_fn(|cx| client.poll_readable(cx)))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(client.read(&mut byte).await.unwrap(), 0, "{kind:?}");
        assert!(
            readable_now(&mut client),
            "the end stays readable: {kind:?}"
        );
        assert_eq!(client.read(&mut byte).await.unwrap(), 0, "{kind:?}");
    });
}

#[test]
fn a_closed_or_talking_peer_is_seen_without_waiting() {
    for_every_kind(async |kind| {
        // Session tickets are under way in the TLS pair: they are nothing that the peer says.
        let (mut client, mut server) = kind.pair().await;
        for _ in 0..1000 {
            assert!(!client.peek_closed(), "{kind:?}");
        }
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        eventually(|| client.peek_closed()).await;
        assert_eq!(
            client.read_u8().await.unwrap(),
            b'x',
            "the peek took it: {kind:?}"
        );
        assert!(!client.peek_closed(), "{kind:?}");
        drop(server);
        eventually(|| client.peek_closed()).await;
    });
}

#[test]
fn a_silent_peer_has_not_spoken_whatever_the_last_read_left_behind() {
    for_every_kind(async |kind| {
        let (mut client, mut server) = kind.pair().await;
        server.write_all(b"ab").await.unwrap();
        server.flush().await.unwrap();
        // A read that fills its buffer leaves the socket marked as readable.
        client.read_exact(&mut [0; 2]).await.unwrap();
        let mut spoken = Box::pin(poll_fn(|cx| client.poll_spoken(cx)));
        let silence = timeout(Duration::from_millis(20), &mut spoken).await;
        assert!(silence.is_err(), "{kind:?}");
        server.write_all(b"c").await.unwrap();
        server.flush().await.unwrap();
        timeout(PATIENCE, spoken).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'c', "{kind:?}");
        drop(server);
        timeout(PATIENCE, poll_fn(|cx| client.poll_spoken(cx)))
            .await
            .unwrap();
    });
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_end() {
    let (mut client, server) = Kind::Tls.pair().await;
    drop(server);
    assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test]
async fn garbage_in_place_of_tls_records_is_an_error() {
    let (mut client, server) = Kind::Tls.pair().await;
    server.socket().send(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let error = client.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_stream_moves_to_another_thread_with_what_it_holds() {
    for_every_kind(async |kind| {
        let (mut client, mut server) = kind.unsettled_pair().await;
        client.write_all(b"first").await.unwrap();
        client.flush().await.unwrap();
        let mut byte = [0];
        server.read_exact(&mut byte).await.unwrap();

        let moved = server.detach().unwrap();
        let home = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let mut server = moved.attach().unwrap();
                let mut rest = [0; 10];
                server.read_exact(&mut rest).await.unwrap();
                server.write_all(&rest).await.unwrap();
                server.graceful_close(PATIENCE).await;
            });
        });
        client.write_all(b"-then").await.unwrap();
        client.write_all(b"!").await.unwrap();
        client.flush().await.unwrap();
        let mut echoed = Vec::new();
        client.read_to_end(&mut echoed).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(echoed, b"irst-then!", "{kind:?}");
        home.join().unwrap();
    });
}

#[test]
fn the_last_message_survives_a_close_with_unread_input() {
    for_every_kind(async |kind| {
        let (mut client, mut server) = kind.pair().await;
        client.write_all(&pattern(64 * 1024)).await.unwrap();
        client.flush().await.unwrap();
        server.write_all(b"FATAL").await.unwrap();
        // Nothing of the client's 64 KiB was read: a plain close would answer them with RST.
        let closing = tokio::task::LocalSet::new();
        closing
            .run_until(async {
                let close = tokio::task::spawn_local(server.graceful_close(PATIENCE));
                let mut last = Vec::new();
                client.read_to_end(&mut last).await.unwrap();
                assert_eq!(last, b"FATAL", "{kind:?}");
                drop(client);
                timeout(PATIENCE, close).await.unwrap().unwrap();
            })
            .await;
    });
}

#[test]
fn a_peer_that_never_ends_does_not_hold_up_the_close() {
    for_every_kind(async |kind| {
        let (_client, server) = kind.pair().await;
        let close = server.graceful_close(Duration::from_millis(20));
        timeout(PATIENCE, close).await.expect("in time");
    });
}

#[tokio::test]
async fn the_summary_says_what_was_agreed_on() {
    let (client, server) = Kind::Tls.pair().await;
    let TlsSummary {
        version,
        cipher,
        sni,
    } = server.tls().unwrap();
    assert_eq!(version, "TLSv1.3");
    assert!(cipher.starts_with("TLS13_"), "{cipher}");
    assert_eq!(sni.as_deref(), Some(HOST));
    assert_eq!(client.tls().unwrap().sni, None);
    let (client, _server) = Kind::Plain.pair().await;
    assert_eq!(client.tls(), None);
    assert!(!client.is_encrypted());
}

#[tokio::test]
async fn tuning_reaches_the_kernel() {
    let (client, _server) = sockets().await;
    let keepalive = Keepalive {
        idle: Duration::from_secs(7),
        interval: Duration::from_secs(3),
        unacknowledged: Some(Duration::from_secs(11)),
    };
    tune(&client, &keepalive).unwrap();
    let socket = SockRef::from(&client);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), keepalive.idle);
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), keepalive.interval);
    assert_eq!(socket.tcp_user_timeout().unwrap(), keepalive.unacknowledged);
    assert!(socket.tcp_nodelay().unwrap());
}

#[test]
fn a_socket_that_has_settled_on_a_ring_stays_there() {
    with_ring(Queueing::Always, async |_| {
        for kind in [Kind::Plain, Kind::Tls] {
            let (client, _server) = kind.pair().await;
            let Err(error) = client.detach() else {
                panic!("what had come already is lost");
            };
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        }
    });
}

#[test]
fn more_sockets_are_served_at_once_than_there_are_buffers_and_places_in_the_queue() {
    with_ring(Queueing::Always, async |_| {
        let mut pairs = Vec::new();
        for _ in 0..1500 {
            pairs.push(Kind::Plain.pair().await);
        }
        let mut cx = Context::from_waker(Waker::noop());
        for (client, server) in &mut pairs {
            assert!(client.poll_readable(&mut cx).is_pending());
            server.write_all(b"all at once").await.unwrap();
        }
        for (client, server) in &mut pairs {
            let mut received = [0; 11];
            timeout(PATIENCE, client.read_exact(&mut received))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(received, *b"all at once");
            client.write_all(&received).await.unwrap();
            server.read_exact(&mut received).await.unwrap();
        }
    });
}

#[test]
fn a_socket_is_closed_although_not_all_of_what_it_was_told_could_be_sent() {
    with_ring(Queueing::Always, async |ring| {
        let (mut client, mut server) = Kind::Plain.pair().await;
        let block = vec![b'x'; 1 << 20];
        // Until the peer, who does not read, has no room for more.
        while timeout(Duration::from_millis(50), client.write_all(&block))
            .await
            .is_ok()
        {}
        drop(client);
        let mut rest = Vec::new();
        let end = timeout(PATIENCE, server.read_to_end(&mut rest)).await;
        end.expect("an end").unwrap();
        drop(server);
        eventually(|| ring.places() == 0).await;
    });
}

#[test]
fn what_the_kernel_has_no_room_for_is_sent_on_by_whoever_waits_to_read() {
    with_ring(Queueing::Always, async |_| {
        let (mut client, mut server) = Kind::Plain.pair().await;
        client.socket().set_send_buffer_size(8 * 1024).unwrap();
        let block = pattern(16 * 1024);
        let written = write_until_full(&mut client, &block).await;
        assert!(client.is_sending());
        let mut received = vec![0; written];
        let mut byte = [0];
        tokio::select! {
            outcome = timeout(PATIENCE, server.read_exact(&mut received)) => outcome.unwrap().unwrap(),
            _ = client.read(&mut byte) => panic!("the server has said nothing"),
        };
        assert!(
            received
                .chunks(block.len())
                .all(|chunk| *chunk == block[..chunk.len()])
        );
    });
}

#[test]
fn what_was_written_leaves_although_the_socket_is_dropped_at_once() {
    with_ring(Queueing::Always, async |_| {
        let (mut client, mut server) = Kind::Plain.pair().await;
        client.write_all(b"Terminate").await.unwrap();
        drop(client);
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"Terminate");
    });
}

#[test]
fn memory_changes_hands_with_the_bytes_in_it() {
    for_every_kind(async |kind| {
        let buffers = BufferPool::default();
        let (mut client, mut server) = kind.pair().await;
        let sent = pattern(300_000);
        let mut outbox = Buffer::new(buffers.clone());
        outbox.put(&sent);
        let sending = poll_fn(|cx| outbox.poll_drain(&mut client, cx));
        let receiving = async {
            let mut received = Vec::new();
            let mut inbox = Buffer::new(buffers.clone());
            while received.len() + inbox.bytes().len() < sent.len() {
                let count = poll_fn(|cx| inbox.poll_fill(&mut server, cx))
                    .await
                    .unwrap();
                assert!(count > 0, "{kind:?}");
                // Not all of it each time: the next filling is added to what is left.
                let taken = inbox.bytes().len().min(count / 2 + 1);
                received.extend_from_slice(&inbox.bytes()[..taken]);
                inbox.consume(taken);
            }
            received.extend_from_slice(inbox.bytes());
            received
        };
        let (outcome, received) = tokio::join!(sending, receiving);
        outcome.unwrap();
        assert!(received == sent, "{kind:?}");
    });
}
