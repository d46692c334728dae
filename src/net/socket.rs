//! A TCP socket on its thread: watched by tokio's reactor, or served by the thread's ring.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    net::TcpStream,
};

use super::ring;

pub(super) enum Socket {
    Watched(TcpStream),
    Served(ring::Socket),
}

/// What a socket holds for us at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peek {
    /// Connected, and nothing has come.
    Silent,
    /// At least one byte has come and is still there.
    Bytes,
    /// The peer has ended its half, or the connection is broken.
    Closed,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Watched(tcp) => tcp.as_fd(),
            Self::Served(socket) => socket.as_fd(),
        }
    }
}

impl Socket {
    /// Joins the thread's ring; where there is none, the reactor of its runtime.
    pub(super) fn join(tcp: std::net::TcpStream) -> io::Result<Self> {
        if ring::is_here() {
            ring::Socket::join(tcp).map(Self::Served)
        } else {
            TcpStream::from_std(tcp).map(Self::Watched)
        }
    }

    /// Leaves the reactor for the thread's ring, where there is one.
    pub(super) fn settle(self) -> io::Result<Self> {
        match self {
            Self::Watched(tcp) if ring::is_here() => Self::join(tcp.into_std()?),
            settled => Ok(settled),
        }
    }

    /// Leaves this thread.
    pub(super) fn into_std(self) -> io::Result<std::net::TcpStream> {
        match self {
            Self::Watched(tcp) => tcp.into_std(),
            // What has come already would be left behind.
            Self::Served(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(super) fn poll_read_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Watched(tcp) => tcp.poll_read_ready(context),
            Self::Served(socket) => socket.poll_read_ready(context),
        }
    }

    /// Ready when there is something to read, or an end; nothing is taken.
    pub(super) fn poll_peek(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Watched(tcp) => tcp
                .poll_peek(context, &mut ReadBuf::new(&mut [0]))
                .map(drop),
            Self::Served(socket) => socket.poll_read_ready(context).map(drop),
        }
    }

    #[inline]
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Watched(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Served(socket) => socket.poll_read(context, buffer),
        }
    }

    #[inline]
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Watched(tcp) => match slices {
                [slice] => Pin::new(tcp).poll_write(context, slice),
                slices => Pin::new(tcp).poll_write_vectored(context, slices),
            },
            Self::Served(socket) => socket.poll_write(context, slices),
        }
    }

    /// Ready when the kernel has taken all that was written.
    pub(super) fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Watched(_) => Poll::Ready(Ok(())),
            Self::Served(socket) => socket.poll_sent(context),
        }
    }

    pub(super) fn is_sending(&self) -> bool {
        match self {
            Self::Watched(_) => false,
            Self::Served(socket) => socket.is_sending(),
        }
    }

    /// Ends our half, behind all that was written.
    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(context))?;
        Poll::Ready(SockRef::from(&*self).shutdown(Shutdown::Write))
    }

    /// Whether nothing has come, the end included. Neither waits nor takes anything.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            Self::Served(socket) if socket.has_news() => false,
            _ => peek(self) == Peek::Silent,
        }
    }

    /// Reads what is there, without waiting.
    pub(super) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Served(socket) = self
            && socket.has_news()
        {
            let mut buffer = ReadBuf::new(buffer);
            return match socket.poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
                Poll::Ready(Ok(())) => Ok(buffer.filled().len()),
                Poll::Ready(Err(error)) => Err(error),
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        Ok(recv(self, buffer, RecvFlags::DONTWAIT)?.0)
    }
}

/// Looks at a socket without waiting and without taking anything.
///
/// Asks the kernel itself: tokio's idea of readiness may be older than what has arrived.
pub(crate) fn peek(socket: impl AsFd) -> Peek {
    match recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Peek::Closed,
        Ok(_) => Peek::Bytes,
        Err(Errno::AGAIN) => Peek::Silent,
        Err(_) => Peek::Closed,
    }
}
