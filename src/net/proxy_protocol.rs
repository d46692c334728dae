//! The PROXY protocol, versions 1 and 2: a balancer's word for who the client really is.
//!
//! The header comes before anything else, TLS included. It is believed only from peers that the configuration
//! names, and from those it is demanded: whoever may leave it out may also borrow the balancer's address.
//! Format: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str,
};

use tokio::{io::AsyncReadExt, net::TcpStream};

const V1_PREFIX: &[u8] = b"PROXY ";
/// Longest version 1 line, its CRLF included (section 2.1).
const V1_MAX_BYTES: usize = 107;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;
/// Addresses and extensions of version 2; balancers send a few hundred bytes at most.
const V2_BODY_MAX_BYTES: usize = 2048;

/// Who stands behind a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The balancer speaks for itself (health checks) or does not know: the socket's own peer counts.
    Peer,
    /// The client's address as the balancer saw it.
    Client(SocketAddr),
}

/// What a header's bytes say so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All of the bytes belong to the header, and more must come.
    Partial,
    /// The header is complete after so many bytes.
    Complete { source: Source, header_bytes: usize },
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the connection does not begin with a PROXY protocol header")]
    Missing,
    #[error("the PROXY protocol header is longer than allowed")]
    TooLong,
    #[error("the PROXY protocol header is malformed")]
    Malformed,
    #[error("the connection broke within the PROXY protocol header: {0}")]
    Io(#[from] io::Error),
}

/// Takes the header off a fresh connection, and nothing behind it.
pub async fn read(tcp: &mut TcpStream) -> Result<Source, ProxyError> {
    let mut header = Vec::new();
    loop {
        let known = header.len();
        header.resize(known + V2_FIXED_BYTES + V2_BODY_MAX_BYTES, 0);
        let seen = tcp.peek(&mut header[known..]).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        header.truncate(known + seen);
        let (header_bytes, source) = match parse(&header)? {
            Progress::Partial => (header.len(), None),
            Progress::Complete {
                source,
                header_bytes,
            } => (header_bytes, Some(source)),
        };
        // What was looked at and belongs to the header leaves the socket; the rest stays for whoever reads next.
        tcp.read_exact(&mut header[known..header_bytes]).await?;
        if let Some(source) = source {
            return Ok(source);
        }
    }
}

/// Reads a header of either version from the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Progress, ProxyError> {
    if starts_alike(bytes, V1_PREFIX) {
        parse_v1(bytes)
    } else if starts_alike(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else {
        Err(ProxyError::Missing)
    }
}

/// Whether `bytes` begin with `prefix`, or with as much of it as has come.
fn starts_alike(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes
        .iter()
        .zip(prefix)
        .all(|(byte, wanted)| byte == wanted)
}

fn parse_v1(bytes: &[u8]) -> Result<Progress, ProxyError> {
    let line = &bytes[..bytes.len().min(V1_MAX_BYTES)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if bytes.len() < V1_MAX_BYTES {
            Ok(Progress::Partial)
        } else {
            Err(ProxyError::TooLong)
        };
    };
    let line = line[..end].strip_suffix(b"\r");
    let line = line.and_then(|line| str::from_utf8(line).ok());
    let source = line.and_then(v1_source).ok_or(ProxyError::Malformed)?;
    Ok(Progress::Complete {
        source,
        header_bytes: end + 1,
    })
}

/// `PROXY TCP4|TCP6 source destination source-port destination-port`, or `PROXY UNKNOWN` and anything.
fn v1_source(line: &str) -> Option<Source> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Source::Peer);
    }
    let (source, destination): (IpAddr, IpAddr) =
        (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (port, _): (u16, u16) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let of_family = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    (of_family && words.next().is_none()).then_some(Source::Client(SocketAddr::new(source, port)))
}

fn parse_v2(bytes: &[u8]) -> Result<Progress, ProxyError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(Progress::Partial);
    };
    let [.., command, family, high, low] = *fixed;
    let body_bytes = usize::from(u16::from_be_bytes([high, low]));
    if body_bytes > V2_BODY_MAX_BYTES {
        return Err(ProxyError::TooLong);
    }
    let Some(body) = rest.get(..body_bytes) else {
        return Ok(Progress::Partial);
    };
    let source = match command {
        // Version 2, LOCAL.
        0x20 => Source::Peer,
        // Version 2, PROXY.
        0x21 => v2_source(family, body).ok_or(ProxyError::Malformed)?,
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Progress::Complete {
        source,
        header_bytes: V2_FIXED_BYTES + body_bytes,
    })
}

/// Addresses of version 2: source, destination, source port, destination port; extensions may follow.
fn v2_source(family: u8, body: &[u8]) -> Option<Source> {
    let (address, rest): (IpAddr, _) = match family {
        // TCP over IPv4.
        0x11 => {
            let (source, rest) = body.split_first_chunk::<4>()?;
            (Ipv4Addr::from(*source).into(), rest.get(4..)?)
        }
        // TCP over IPv6.
        0x21 => {
            let (source, rest) = body.split_first_chunk::<16>()?;
            (Ipv6Addr::from(*source).into(), rest.get(16..)?)
        }
        // Unspecified: the receiver is to use the real connection's addresses.
        0x00 => return Some(Source::Peer),
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk()?;
    rest.get(..2)?;
    Some(Source::Client(SocketAddr::new(
        address,
        u16::from_be_bytes(*port),
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    fn complete(bytes: &[u8]) -> (Source, usize) {
        match parse(bytes).unwrap() {
            Progress::Complete {
                source,
                header_bytes,
            } => (source, header_bytes),
            Progress::Partial => panic!("partial"),
        }
    }

    fn client(text: &str) -> Source {
        Source::Client(text.parse().unwrap())
    }

    #[test]
    fn version_1_lines_name_the_client() {
        let line = b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 6543\r\n\x00\x00\x00\x08";
        assert_eq!(
            complete(line),
            (client("203.0.113.7:56324"), line.len() - 4)
        );
        let line = b"PROXY TCP6 2001:db8::7 ::1 56324 6543\r\n";
        assert_eq!(complete(line), (client("[2001:db8::7]:56324"), line.len()));
        for line in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN what ever\r\n"] {
            assert_eq!(complete(line), (Source::Peer, line.len()));
        }
    }

    #[test]
    fn version_1_lines_that_lie_are_refused() {
        for line in [
            &b"PROXY TCP4 203.0.113.7 10.0.0.1 56324\r\n"[..],
            b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 6543 1\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 203.0.113.7 ::1 1 2\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 65536 6543\r\n",
            b"PROXY UDP4 203.0.113.7 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\n",
        ] {
            assert!(matches!(parse(line), Err(ProxyError::Malformed)));
        }
        let mut endless = b"PROXY UNKNOWN ".to_vec();
        endless.resize(V1_MAX_BYTES, b'x');
        assert!(matches!(parse(&endless), Err(ProxyError::TooLong)));
    }

    #[test]
    fn version_2_headers_name_the_client_and_skip_extensions() {
        let mut body = vec![203, 0, 113, 7, 10, 0, 0, 1, 0xdc, 0x04, 0x19, 0x8f];
        let header = v2(0x21, 0x11, &body);
        assert_eq!(
            complete(&header),
            (client("203.0.113.7:56324"), header.len())
        );
        body.extend([0x04, 0, 2, 0, 0]);
        let header = v2(0x21, 0x11, &body);
        assert_eq!(
            complete(&header),
            (client("203.0.113.7:56324"), header.len())
        );

        let mut body = [0; 36];
        body[15] = 1;
        body[33] = 9;
        let header = v2(0x21, 0x21, &body);
        assert_eq!(complete(&header), (client("[::1]:9"), header.len()));
    }

    #[test]
    fn version_2_without_a_client_leaves_the_peer() {
        assert_eq!(complete(&v2(0x20, 0x00, &[])), (Source::Peer, 16));
        assert_eq!(complete(&v2(0x20, 0x11, &[0; 12])), (Source::Peer, 28));
        assert_eq!(complete(&v2(0x21, 0x00, &[])), (Source::Peer, 16));
    }

    #[test]
    fn version_2_headers_that_lie_are_refused() {
        assert!(parse(&v2(0x21, 0x11, &[0; 11])).is_err());
        assert!(parse(&v2(0x21, 0x21, &[0; 35])).is_err());
        assert!(parse(&v2(0x11, 0x11, &[0; 12])).is_err());
        assert!(parse(&v2(0x21, 0x31, &[0; 216])).is_err());
        assert!(matches!(
            parse(&v2(0x21, 0x11, &[0; V2_BODY_MAX_BYTES + 1])),
            Err(ProxyError::TooLong)
        ));
    }

    #[test]
    fn anything_else_is_no_header() {
        for bytes in [
            &b"\x00\x00\x00\x08\x04\xd2\x16\x2f"[..],
            b"PROXT",
            b"\r\n\r\n\r",
        ] {
            assert!(matches!(parse(bytes), Err(ProxyError::Missing)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = parse(&[V2_SIGNATURE.as_slice(), &bytes].concat());
            let _ = parse(&[V1_PREFIX, &bytes].concat());
        }
    }

    #[test]
    fn every_prefix_of_a_header_is_partial() {
        let one = b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 6543\r\n".to_vec();
        let two = v2(0x21, 0x11, &[1; 20]);
        for header in [one, two] {
            for end in 0..header.len() {
                assert_eq!(parse(&header[..end]).unwrap(), Progress::Partial);
            }
        }
    }

    #[tokio::test]
    async fn reading_takes_the_header_and_not_one_byte_more() {
        for header in [
            b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 6543\r\n".to_vec(),
            v2(
                0x21,
                0x11,
                &[203, 0, 113, 7, 10, 0, 0, 1, 0xdc, 0x04, 0x19, 0x8f],
            ),
        ] {
            for split in [1, 6, 13, header.len()] {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let mut sender = TcpStream::connect(listener.local_addr().unwrap())
                    .await
                    .unwrap();
                sender.set_nodelay(true).unwrap();
                let (mut receiver, _) = listener.accept().await.unwrap();
                let send = async {
                    sender.write_all(&header[..split]).await.unwrap();
                    tokio::task::yield_now().await;
                    sender.write_all(&header[split..]).await.unwrap();
                    sender.write_all(b"next").await.unwrap();
                };
                let (source, ()) = tokio::join!(read(&mut receiver), send);
                assert_eq!(source.unwrap(), client("203.0.113.7:56324"));
                let mut next = [0; 4];
                receiver.read_exact(&mut next).await.unwrap();
                assert_eq!(&next, b"next");
            }
        }
    }
}
