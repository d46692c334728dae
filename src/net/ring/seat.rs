//! A socket's place at the ring, as its owner has it.

use std::{
    io::{self, IoSlice},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use tokio::{io::ReadBuf, net::TcpStream};

use super::{Incoming, Inner, Outgoing, Place, Ring};
use crate::net::buffer::{BUFFER_BYTES, Filling};

/// How much of a write is taken at once: a full TLS record is a little larger than a buffer.
const WRITE_MAX_BYTES: usize = 2 * BUFFER_BYTES;

/// Given up by dropping it.
pub(in crate::net) struct Seat {
    ring: Rc<Ring>,
    key: usize,
}

/// What came of asking for a read or write.
pub(in crate::net) enum Asked<T> {
    Done(Poll<T>),
    /// The ring has nothing to do with it at the moment: the socket itself is to be asked.
    AtOnce,
}

impl Seat {
    /// A place at this thread's ring; `None`: it has none.
    pub(in crate::net) fn take(tcp: &Rc<TcpStream>) -> Option<Self> {
        let ring = Ring::current()?;
        let key = ring.inner.borrow_mut().places.insert(Place {
            tcp: Rc::clone(tcp),
            incoming: Incoming::Unasked,
            outgoing: Outgoing::Nothing,
            reader: None,
            writer: None,
            is_left: false,
        });
        Some(Self { ring, key })
    }

    /// Counts a read or write that is made at once.
    pub(in crate::net) fn count(&self) {
        self.ring.count();
    }

    /// Whether anything has come that nobody has read, the end included.
    pub(in crate::net) fn has_news(&self) -> bool {
        let incoming = &self.ring.inner.borrow().places[self.key].incoming;
        !matches!(incoming, Incoming::Unasked | Incoming::Asked(_))
    }

    /// Whether it is not known yet that the kernel has taken all that was written.
    pub(in crate::net) fn is_sending(&self) -> bool {
        let outgoing = &self.ring.inner.borrow().places[self.key].outgoing;
        !matches!(outgoing, Outgoing::Nothing)
    }

    /// Ready when there is something to read. To be asked before the socket itself is.
    pub(in crate::net) fn poll_news(&self, context: &mut Context<'_>) -> Asked<io::Result<()>> {
        let inner = &mut *self.ring.inner.borrow_mut();
        let place = &mut inner.places[self.key];
        match place.incoming {
            Incoming::Here(_) | Incoming::Ended | Incoming::Failed(_) => {
                return Asked::Done(Poll::Ready(Ok(())));
            }
            Incoming::Unasked | Incoming::Asked(_) => {}
        }
        // It may turn out that the kernel has no room for it.
        if matches!(place.outgoing, Outgoing::Sending(_)) {
            remember(&mut place.reader, context);
        }
        if let Err(error) = self.send_on(inner, context) {
            return Asked::Done(Poll::Ready(Err(error)));
        }
        let place = &mut inner.places[self.key];
        if matches!(place.incoming, Incoming::Unasked) {
            return Asked::AtOnce;
        }
        remember(&mut place.reader, context);
        Asked::Done(Poll::Pending)
    }

    pub(in crate::net) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Asked<io::Result<()>> {
        match self.poll_news(context) {
            Asked::Done(Poll::Ready(Ok(()))) => Asked::Done(Poll::Ready(self.read(buffer))),
            Asked::Done(polled) => Asked::Done(polled),
            Asked::AtOnce if self.ring.is_queueing() => Asked::Done(self.poll_ask(context)),
            Asked::AtOnce => Asked::AtOnce,
        }
    }

    /// Queues a read when the socket is ready for it. Never ready, but for an error.
    fn poll_ask(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.ring.inner.borrow_mut();
        ready!(inner.places[self.key].tcp.poll_read_ready(context))?;
        inner.receive(self.key)?;
        remember(&mut inner.places[self.key].reader, context);
        self.count();
        self.ring.wake();
        Poll::Pending
    }

    /// What has come, or else nothing.
    pub(in crate::net) fn read(&self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let inner = &mut *self.ring.inner.borrow_mut();
        let place = &mut inner.places[self.key];
        match &mut place.incoming {
            Incoming::Here(filling) => {
                let count = buffer.remaining().min(filling.bytes().len());
                buffer.put_slice(&filling.bytes()[..count]);
                filling.start += count;
                if filling.bytes().is_empty() {
                    inner.buffers.give(std::mem::take(&mut filling.memory));
                    place.incoming = Incoming::Unasked;
                }
                Ok(())
            }
            Incoming::Failed(error) => {
                let error = io::Error::from_raw_os_error(*error);
                place.incoming = Incoming::Unasked;
                Err(error)
            }
            Incoming::Ended => place.take_failure(),
            Incoming::Unasked | Incoming::Asked(_) => Ok(()),
        }
    }

    /// What has been received already, with the memory that it is in.
    pub(in crate::net) fn take_received(&self) -> Option<Filling> {
        let inner = &mut *self.ring.inner.borrow_mut();
        let incoming = &mut inner.places[self.key].incoming;
        match std::mem::replace(incoming, Incoming::Unasked) {
            Incoming::Here(filling) => Some(filling),
            other => {
                *incoming = other;
                None
            }
        }
    }

    pub(in crate::net) fn poll_write(
        &self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Asked<io::Result<usize>> {
        match self.poll_takes(context) {
            Asked::Done(Poll::Ready(Ok(()))) => {}
            Asked::Done(Poll::Ready(Err(error))) => return Asked::Done(Poll::Ready(Err(error))),
            Asked::Done(Poll::Pending) => return Asked::Done(Poll::Pending),
            Asked::AtOnce => return Asked::AtOnce,
        }
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
        let sent = self.send(Filling { memory, start, end });
        Asked::Done(Poll::Ready(sent.map(|()| end)))
    }

    /// Ready when [`Self::send`] can be called.
    pub(in crate::net) fn poll_takes(&self, context: &mut Context<'_>) -> Asked<io::Result<()>> {
        match self.poll_sent(context) {
            Poll::Ready(Ok(())) if !self.ring.is_queueing() => Asked::AtOnce,
            polled => Asked::Done(polled),
        }
    }

    /// Sends what is in the memory, which goes with it.
    pub(in crate::net) fn send(&self, filling: Filling) -> io::Result<()> {
        let inner = &mut *self.ring.inner.borrow_mut();
        if filling.bytes().is_empty() {
            inner.buffers.give(filling.memory);
            return Ok(());
        }
        inner.send(self.key, filling)?;
        self.count();
        self.ring.wake();
        Ok(())
    }

    /// Ready when the kernel has taken all that was written.
    pub(in crate::net) fn poll_sent(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.ring.inner.borrow_mut();
        self.send_on(inner, context)?;
        let place = &mut inner.places[self.key];
        if matches!(place.outgoing, Outgoing::Sending(_) | Outgoing::Stuck(_)) {
            remember(&mut place.writer, context);
            return Poll::Pending;
        }
        Poll::Ready(place.take_failure())
    }

    /// Sends on what the kernel had no room for, once it has.
    fn send_on(&self, inner: &mut Inner, context: &mut Context<'_>) -> io::Result<()> {
        let place = &mut inner.places[self.key];
        if !matches!(place.outgoing, Outgoing::Stuck(_)) {
            return Ok(());
        }
        let Poll::Ready(ready) = place.tcp.poll_write_ready(context) else {
            return Ok(());
        };
        ready?;
        if let Outgoing::Stuck(filling) = std::mem::replace(&mut place.outgoing, Outgoing::Nothing)
        {
            inner.send(self.key, filling)?;
            remember(&mut inner.places[self.key].reader, context);
            self.ring.wake();
        }
        Ok(())
    }
}

/// Keeps the waker that is there if it wakes the same task.
fn remember(waker: &mut Option<Waker>, context: &Context<'_>) {
    match waker {
        Some(known) => known.clone_from(context.waker()),
        None => *waker = Some(context.waker().clone()),
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let inner = &mut *self.ring.inner.borrow_mut();
        let place = &mut inner.places[self.key];
        if place.is_asking() {
            (place.reader, place.writer) = (None, None);
            place.is_left = true;
            self.ring.wake();
        } else {
            inner.remove(self.key);
        }
    }
}
