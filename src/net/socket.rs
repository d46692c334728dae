//! A TCP socket on its thread: watched by tokio's reactor, its reads and writes made at once or by the thread's ring.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd},
    rc::Rc,
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use socket2::SockRef;
use tokio::{
    io::{Interest, ReadBuf},
    net::TcpStream,
};

use super::{
    buffer::Filling,
    ring::{Asked, Seat},
};

pub(super) struct Socket {
    /// At the thread's ring, if it has settled and there is one. First: it goes before the socket does.
    seat: Option<Seat>,
    tcp: Rc<TcpStream>,
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
        self.tcp.as_fd()
    }
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        let (seat, tcp) = (None, Rc::new(tcp));
        Self { seat, tcp }
    }

    /// Stays on this thread: its ring, where there is one, makes the reads and writes.
    pub(super) fn settle(&mut self) {
        if self.seat.is_none() {
            self.seat = Seat::take(&self.tcp);
        }
    }

    /// Leaves this thread.
    ///
    /// # Errors
    /// It has settled: what was read already would be left behind.
    pub(super) fn into_std(self) -> io::Result<std::net::TcpStream> {
        match (self.seat, Rc::try_unwrap(self.tcp)) {
            (None, Ok(tcp)) => tcp.into_std(),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(super) fn poll_read_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.seat.as_ref().map(|seat| seat.poll_news(context)) {
            Some(Asked::Done(polled)) => polled,
            Some(Asked::AtOnce) | None => self.tcp.poll_read_ready(context),
        }
    }

    /// Ready when there is something to read, or an end; nothing is taken.
    pub(super) fn poll_peek(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.seat.as_ref().map(|seat| seat.poll_news(context)) {
            Some(Asked::Done(polled)) => polled.map(drop),
            Some(Asked::AtOnce) | None => {
                let mut byte = [0];
                self.tcp
                    .poll_peek(context, &mut ReadBuf::new(&mut byte))
                    .map(drop)
            }
        }
    }

    #[inline]
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(seat) = &self.seat {
            match seat.poll_read(context, buffer) {
                Asked::Done(polled) => return polled,
                Asked::AtOnce => seat.count(),
            }
        }
        loop {
            ready!(self.tcp.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match self.tcp.try_read(unfilled) {
                Ok(count) => {
                    if count > 0 && count < unfilled.len() {
                        is_not_ready(&self.tcp, Interest::READABLE);
                    }
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    #[inline]
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(seat) = &self.seat {
            match seat.poll_write(context, slices) {
                Asked::Done(polled) => return polled,
                Asked::AtOnce => seat.count(),
            }
        }
        loop {
            ready!(self.tcp.poll_write_ready(context))?;
            let written = match slices {
                [slice] => self.tcp.try_write(slice),
                slices => self.tcp.try_write_vectored(slices),
            };
            match written {
                Ok(count) => {
                    if count < slices.iter().map(|slice| slice.len()).sum() {
                        is_not_ready(&self.tcp, Interest::WRITABLE);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// What has been received already, with the memory that it is in.
    pub(super) fn take_received(&self) -> Option<Filling> {
        self.seat.as_ref()?.take_received()
    }

    /// Ready when [`Self::send`] can be called; `None`: not now, what is written is to be copied.
    pub(super) fn poll_takes_memory(
        &self,
        context: &mut Context<'_>,
    ) -> Option<Poll<io::Result<()>>> {
        match self.seat.as_ref()?.poll_takes(context) {
            Asked::Done(polled) => Some(polled),
            Asked::AtOnce => None,
        }
    }

    /// Sends what is in the memory, which goes with it.
    pub(super) fn send(&self, filling: Filling) -> io::Result<()> {
        match &self.seat {
            Some(seat) => seat.send(filling),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Ready when the kernel has taken all that was written.
    pub(super) fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.seat {
            Some(seat) => seat.poll_sent(context),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Whether it is not known yet that the kernel has taken all that was written.
    pub(super) fn is_sending(&self) -> bool {
        self.seat.as_ref().is_some_and(Seat::is_sending)
    }

    /// Ends our half, behind all that was written.
    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(context))?;
        Poll::Ready(SockRef::from(&*self).shutdown(Shutdown::Write))
    }

    /// Whether nothing has come, the end included. Neither waits nor takes anything.
    pub(super) fn is_silent(&self) -> bool {
        let has_news = self.seat.as_ref().is_some_and(Seat::has_news);
        !has_news && peek(self) == Peek::Silent
    }

    /// Reads what is there, without waiting.
    pub(super) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(seat) = &self.seat
            && seat.has_news()
        {
            let mut buffer = ReadBuf::new(buffer);
            seat.read(&mut buffer)?;
            return Ok(buffer.filled().len());
        }
        Ok(recv(self, buffer, RecvFlags::DONTWAIT)?.0)
    }
}

/// Tells the reactor what the kernel has just said: nothing to read, or no room, any more.
///
/// To be called before the reactor has had another turn, or what it has heard since is forgotten.
pub(super) fn is_not_ready(tcp: &TcpStream, interest: Interest) {
    let _ = tcp.try_io(interest, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
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
