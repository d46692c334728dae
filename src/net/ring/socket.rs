//! A socket as its owner has it: asked to read and to write, it answers from what the ring knows.

use std::{
    io::{self, IoSlice},
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use tokio::io::ReadBuf;

use super::{CURRENT, Incoming, Outgoing, Place, Request, Ring};
use crate::net::buffer::{BUFFER_BYTES, Filling};

/// How much of a write is taken at once: a full TLS record is a little larger than a buffer.
const WRITE_MAX_BYTES: usize = 2 * BUFFER_BYTES;

/// A socket that this thread's ring serves.
pub(in crate::net) struct Socket {
    ring: Rc<Ring>,
    key: usize,
    tcp: Rc<TcpStream>,
}

impl Socket {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// This thread has no ring, or the socket is broken.
    pub(in crate::net) fn join(tcp: TcpStream) -> io::Result<Self> {
        let ring = CURRENT.with_borrow(Clone::clone);
        let ring = ring.ok_or(io::ErrorKind::Unsupported)?;
        // One that does not block is not waited for.
        tcp.set_nonblocking(false)?;
        let tcp = Rc::new(tcp);
        let place = Place {
            tcp: Rc::clone(&tcp),
            incoming: Incoming::Unasked,
            outgoing: Outgoing::Nothing,
            reader: None,
            writer: None,
            is_flowing: false,
            is_empty: false,
            is_left: false,
        };
        let key = ring.inner.borrow_mut().sockets.insert(place);
        Ok(Self { ring, key, tcp })
    }

    /// Whether anything has come that nobody has read, as far as the ring knows.
    pub(in crate::net) fn has_news(&self) -> bool {
        let inner = self.ring.inner.borrow();
        let incoming = &inner.sockets[self.key].incoming;
        !matches!(incoming, Incoming::Unasked | Incoming::Asked(_))
    }

    pub(in crate::net) fn poll_read_ready(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.ring.inner.borrow_mut();
        let place = &mut inner.sockets[self.key];
        match place.incoming {
            Incoming::Unasked | Incoming::Asked(_) => {}
            Incoming::Here(_) | Incoming::Ended | Incoming::Failed(_) => {
                return Poll::Ready(Ok(()));
            }
        }
        remember(&mut place.reader, context);
        if matches!(place.incoming, Incoming::Unasked) {
            inner.ask(self.key)?;
            self.ring.wake();
        }
        Poll::Pending
    }

    pub(in crate::net) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_read_ready(context))?;
        let inner = &mut *self.ring.inner.borrow_mut();
        let place = &mut inner.sockets[self.key];
        match &mut place.incoming {
            Incoming::Here(filling) => {
                let count = buffer.remaining().min(filling.bytes().len());
                buffer.put_slice(&filling.bytes()[..count]);
                filling.start += count;
                if filling.bytes().is_empty() {
                    inner.buffers.give(std::mem::take(&mut filling.memory));
                    place.incoming = Incoming::Unasked;
                }
                Poll::Ready(Ok(()))
            }
            Incoming::Failed(error) => {
                let error = io::Error::from_raw_os_error(*error);
                place.incoming = Incoming::Unasked;
                Poll::Ready(Err(error))
            }
            Incoming::Ended => Poll::Ready(place.take_failure()),
            Incoming::Unasked | Incoming::Asked(_) => Poll::Ready(Ok(())),
        }
    }

    pub(in crate::net) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(context))?;
        let whole = slices.iter().map(|slice| slice.len()).sum::<usize>();
        let mut memory = match whole.min(WRITE_MAX_BYTES) {
            ..=BUFFER_BYTES => self.ring.inner.borrow().buffers.take(),
            larger => vec![0; larger].into_boxed_slice(),
        };
        let mut end = 0;
        for slice in slices {
            let count = slice.len().min(memory.len() - end);
            memory[end..end + count].copy_from_slice(&slice[..count]);
            end += count;
        }
        let start = 0;
        self.send(Filling { memory, start, end })?;
        Poll::Ready(Ok(end))
    }

    /// Sends what is in the memory, which goes with it. To be called when all that was written before is sent.
    pub(in crate::net) fn send(&mut self, filling: Filling) -> io::Result<()> {
        let inner = &mut *self.ring.inner.borrow_mut();
        if filling.bytes().is_empty() {
            inner.buffers.give(filling.memory);
            return Ok(());
        }
        inner.send(self.key, filling)?;
        self.ring.wake();
        Ok(())
    }

    /// What has been received already, with the memory that it is in.
    pub(in crate::net) fn take_received(&mut self) -> Option<Filling> {
        let inner = &mut *self.ring.inner.borrow_mut();
        let incoming = &mut inner.sockets[self.key].incoming;
        match std::mem::replace(incoming, Incoming::Unasked) {
            Incoming::Here(filling) => Some(filling),
            other => {
                *incoming = other;
                None
            }
        }
    }

    /// Ready when the kernel has taken all that was written.
    pub(in crate::net) fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.ring.inner.borrow_mut();
        let place = &mut inner.sockets[self.key];
        if matches!(place.outgoing, Outgoing::Sending(_)) {
            remember(&mut place.writer, context);
            return Poll::Pending;
        }
        Poll::Ready(place.take_failure())
    }

    /// Whether it is not known yet that the kernel has taken all that was written.
    pub(in crate::net) fn is_sending(&self) -> bool {
        let inner = self.ring.inner.borrow();
        !matches!(inner.sockets[self.key].outgoing, Outgoing::Nothing)
    }
}

/// Keeps the waker that is there if it wakes the same task.
fn remember(waker: &mut Option<Waker>, context: &Context<'_>) {
    match waker {
        Some(known) => known.clone_from(context.waker()),
        None => *waker = Some(context.waker().clone()),
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let inner = &mut *self.ring.inner.borrow_mut();
        let place = &mut inner.sockets[self.key];
        (place.reader, place.writer) = (None, None);
        if !place.is_busy() {
            return inner.remove(self.key);
        }
        place.is_left = true;
        let is_asking = matches!(place.incoming, Incoming::Asked(_));
        let is_sending = matches!(place.outgoing, Outgoing::Sending(_));
        if is_asking {
            inner.cancel(self.key, Request::Receive);
        }
        if is_sending {
            // What can leave at once has left by then.
            inner.cancel(self.key, Request::Send);
        }
        self.ring.wake();
    }
}
