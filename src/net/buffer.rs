//! Buffers that a thread lends to the sessions at work on it.
//!
//! A session that is idle holds none; one at work holds two or three. So memory follows the number of busy
//! sessions, and is bounded whatever the size of a message: what does not fit streams through.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use zeroize::Zeroize as _;

use super::stream::Stream;

/// Bytes of one lent buffer.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// How many buffers a thread keeps for the next ones who need them.
const KEPT_MAX: usize = 256;

/// The buffers of one thread.
#[derive(Clone, Default)]
pub struct BufferPool(Rc<RefCell<Kept>>);

#[derive(Default)]
struct Kept {
    buffers: Vec<Box<[u8]>>,
    /// The fewest that there have been since the last trim.
    fewest: usize,
}

impl BufferPool {
    pub(super) fn take(&self) -> Box<[u8]> {
        let kept = &mut *self.0.borrow_mut();
        let buffer = kept.buffers.pop();
        kept.fewest = kept.fewest.min(kept.buffers.len());
        buffer.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    pub(super) fn give(&self, memory: Box<[u8]>) {
        let kept = &mut *self.0.borrow_mut();
        if memory.len() == BUFFER_BYTES && kept.buffers.len() < KEPT_MAX {
            kept.buffers.push(memory);
        }
    }

    /// Lets half of those go that nobody has needed since the last time.
    pub fn trim(&self) {
        let kept = &mut *self.0.borrow_mut();
        let unneeded = kept.fewest.div_ceil(2);
        // The last given are the next taken, and the likeliest to be in the processor's cache.
        kept.buffers.drain(..unneeded);
        kept.fewest = kept.buffers.len();
    }
}

/// Bytes on their way. Holds memory only while it holds bytes.
pub struct Buffer {
    pool: BufferPool,
    memory: Box<[u8]>,
    start: usize,
    end: usize,
    flushed: Flushed,
}

/// Memory that changes hands with the bytes in it.
pub(super) struct Filling {
    pub(super) memory: Box<[u8]>,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Filling {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }
}

/// Whether the stream has passed on all that it took from us: an encrypted one may hold records back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flushed {
    No,
    Yes,
}

impl Buffer {
    #[must_use]
    pub fn new(pool: BufferPool) -> Self {
        Self {
            pool,
            memory: Box::default(),
            start: 0,
            end: 0,
            flushed: Flushed::Yes,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether all that was put in has left for the peer.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.is_empty() && self.flushed == Flushed::Yes
    }

    /// The bytes that are held.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// Drops the first `count` bytes; with the last of them the memory goes back.
    pub fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
        if self.is_empty() {
            self.clear();
        }
    }

    /// Drops the first `count` bytes and leaves no trace of them in the memory.
    pub fn consume_secret(&mut self, count: usize) {
        let end = self.end.min(self.start + count);
        self.memory[self.start..end].zeroize();
        self.consume(count);
    }

    /// Drops all but the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        self.end = self.end.min(self.start + count);
        if self.is_empty() {
            self.clear();
        }
    }

    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        if !self.memory.is_empty() {
            self.pool.give(std::mem::take(&mut self.memory));
        }
    }

    /// Appends `bytes`, growing past a lent buffer's size if it must.
    pub fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.make_room(bytes.len());
        self.memory[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
        self.flushed = Flushed::No;
    }

    /// Appends the first `count` bytes of `from`, which go. Where they are most of what there is, their memory changes hands.
    pub fn take(&mut self, from: &mut Self, count: usize) {
        let left = from.bytes().len() - count;
        if self.is_empty() && count > left {
            std::mem::swap(&mut self.memory, &mut from.memory);
            (self.start, self.end) = (from.start, from.start + count);
            self.flushed = Flushed::No;
            from.clear();
            from.put(&self.memory[self.end..self.end + left]);
        } else {
            self.put(&from.bytes()[..count]);
            from.consume(count);
        }
    }

    fn make_room(&mut self, count: usize) {
        if self.memory.is_empty() {
            self.memory = self.pool.take();
        }
        if self.memory.len() - self.end >= count {
            return;
        }
        self.memory.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.memory.len() - self.end < count {
            let mut larger = vec![0; (self.end + count).next_power_of_two()].into_boxed_slice();
            larger[..self.end].copy_from_slice(&self.memory[..self.end]);
            self.pool.give(std::mem::replace(&mut self.memory, larger));
        }
    }

    /// Whether a lent buffer is full: nothing more is read until some of it is consumed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.end - self.start >= BUFFER_BYTES
    }

    /// Reads once from `stream`. Ready with the number of bytes (0: the peer has ended); pending: the memory is
    /// given back if nothing is in it.
    pub fn poll_fill(
        &mut self,
        stream: &mut Stream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.is_empty()
            && let Some(filling) = stream.take_received()
        {
            self.clear();
            (self.memory, self.start, self.end) = (filling.memory, filling.start, filling.end);
            return Poll::Ready(Ok(self.bytes().len()));
        }
        self.make_room(1);
        let mut target = ReadBuf::new(&mut self.memory[self.end..]);
        let result = Pin::new(stream).poll_read(context, &mut target);
        let count = target.filled().len();
        self.end += count;
        if self.is_empty() {
            self.clear();
        }
        ready!(result)?;
        Poll::Ready(Ok(count))
    }

    /// Writes until nothing is left, the peer takes no more, or it fails.
    pub fn poll_drain(
        &mut self,
        stream: &mut Stream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            if let Some(ready) = stream.poll_takes_memory(context) {
                ready!(ready)?;
                let filling = Filling {
                    memory: std::mem::take(&mut self.memory),
                    start: self.start,
                    end: self.end,
                };
                self.clear();
                stream.send(filling)?;
                break;
            }
            let count = ready!(Pin::new(&mut *stream).poll_write(context, self.bytes()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.consume(count);
        }
        ready!(Pin::new(stream).poll_flush(context))?;
        self.flushed = Flushed::Yes;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_buffer_holds_no_memory() {
        let pool = BufferPool::default();
        let mut buffer = Buffer::new(pool.clone());
        buffer.put(b"hello");
        buffer.consume(2);
        assert_eq!(buffer.bytes(), b"llo");
        buffer.consume(3);
        assert!(buffer.memory.is_empty());
        assert_eq!(pool.0.borrow().buffers.len(), 1);
    }

    #[test]
    fn buffers_that_nobody_needs_any_more_are_let_go() {
        let pool = BufferPool::default();
        let busy: Vec<_> = (0..100).map(|_| pool.take()).collect();
        busy.into_iter().for_each(|buffer| pool.give(buffer));
        pool.trim();
        assert_eq!(pool.0.borrow().buffers.len(), 100, "all were needed");
        for left in [50, 25] {
            pool.give(pool.take());
            pool.trim();
            // One is in use at a time: it stays.
            assert!(pool.0.borrow().buffers.len().abs_diff(left) <= 1);
        }
        (0..20).for_each(|_| pool.trim());
        assert!(pool.0.borrow().buffers.is_empty());
    }

    #[test]
    fn what_is_taken_keeps_its_memory_and_a_smaller_part_is_appended() {
        let pool = BufferPool::default();
        let (mut from, mut to) = (Buffer::new(pool.clone()), Buffer::new(pool));
        from.put(b"hello, world");
        from.consume(7);
        let memory = from.memory.as_ptr();
        to.take(&mut from, 4);
        assert_eq!((to.bytes(), to.memory.as_ptr()), (&b"worl"[..], memory));
        assert_eq!(from.bytes(), b"d");
        to.take(&mut from, 1);
        assert!(from.is_empty() && from.memory.is_empty());
        assert_eq!((to.bytes(), to.memory.as_ptr()), (&b"world"[..], memory));
        assert!(!to.is_drained());
        from.put(b"wide");
        to.take(&mut from, 0);
        to.take(&mut from, 2);
        assert_eq!((to.bytes(), from.bytes()), (&b"worldwi"[..], &b"de"[..]));
    }

    #[test]
    fn more_than_fits_is_kept_whole_and_its_memory_is_not_lent_on() {
        let pool = BufferPool::default();
        let mut buffer = Buffer::new(pool.clone());
        let bytes: Vec<u8> = (0..BUFFER_BYTES * 3).map(|n| (n % 251) as u8).collect();
        buffer.put(&bytes[..10]);
        buffer.consume(4);
        buffer.put(&bytes[10..]);
        assert_eq!(buffer.bytes(), &bytes[4..]);
        buffer.truncate(6);
        assert_eq!(buffer.bytes(), &bytes[4..10]);
        drop(buffer);
        assert!(
            pool.0
                .borrow()
                .buffers
                .iter()
                .all(|memory| memory.len() == BUFFER_BYTES)
        );
    }
}
