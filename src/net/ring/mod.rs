//! Many reads and writes in one system call, through io_uring.
//!
//! ```text
//! epoll ──▶ tasks that are ready ── read, write ──▶ requests ─┐
//!                    ▲                                        ├─▶ Ring::turn: one system call
//!                    └── woken ◀──────────── what came of them┘
//! ```
//! tokio's reactor says which sockets are ready, as ever; only what is then read and written is not done at once but queued,
//! until the thread's tasks have all had their turn. No request waits for anything, so each is over when the system call
//! returns: none is ever on its way in the kernel, and an idle socket costs nothing here. Where there is little to do, requests
//! are made at once, each by a call of its own, which costs less than to queue one or two.
//!
//! A write is taken with the memory that it is in. What the kernel has no room for stays here, and whoever polls the
//! socket, for whatever, has it sent on; a failure is told to the next write, or to the read that finds the end.

#![allow(unsafe_code)] // The kernel is told addresses: see `Inner::push`.

mod seat;

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::AsRawFd as _,
    rc::Rc,
    task::{Context, Waker},
};

use io_uring::{IoUring, opcode, squeue, types::Fd};
use slab::Slab;
use tokio::{io::Interest, net::TcpStream};

pub(super) use self::seat::{Asked, Seat};
use super::{
    buffer::{BufferPool, Filling},
    socket::is_not_ready,
};
use crate::memory::Trim as _;

/// How many requests are made by one system call.
const BATCH: u32 = 256;

/// How many reads and writes to a turn have them queued, and how many keep it that way.
const BUSY: u32 = 6;
const STILL_BUSY: u32 = 2;

/// Over how many turns that is averaged.
const MEMORY: u32 = 8;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Ring>>> = const { RefCell::new(None) };
}

/// Which reads and writes are queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queueing {
    /// Those of a thread that has several at a time.
    UnderLoad,
    Always,
}

/// The ring of one thread.
pub struct Ring {
    inner: RefCell<Inner>,
    queueing: Queueing,
    /// Reads and writes since the last turn.
    requests: Cell<u32>,
    load: Load,
    /// Whom to wake for the first request; `None`: it is at work, and will see.
    server: Cell<Option<Waker>>,
}

/// How much a thread has had to do in its last turns.
#[derive(Default)]
struct Load {
    /// Reads and writes to a turn, `MEMORY` times.
    average: Cell<u32>,
    is_high: Cell<bool>,
}

impl Load {
    /// Notes the reads and writes of a turn; one without any says nothing.
    fn note(&self, requests: u32) {
        if requests == 0 {
            return;
        }
        let average = self.average.get();
        let average = average - average / MEMORY + requests;
        self.average.set(average);
        let limit = if self.is_high.get() { STILL_BUSY } else { BUSY };
        self.is_high.set(average >= limit * MEMORY);
    }
}

struct Inner {
    places: Slab<Place>,
    completed: Vec<Completion>,
    buffers: BufferPool,
    uring: IoUring,
}

struct Completion {
    of: u64,
    result: i32,
}

/// What the ring knows of one socket.
struct Place {
    tcp: Rc<TcpStream>,
    incoming: Incoming,
    outgoing: Outgoing,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Nobody's any more, and open until its requests are over.
    is_left: bool,
}

enum Incoming {
    Unasked,
    /// Into this memory.
    Asked(Box<[u8]>),
    Here(Filling),
    Ended,
    Failed(i32),
}

enum Outgoing {
    Nothing,
    Sending(Filling),
    /// The kernel has no room at the moment.
    Stuck(Filling),
    Failed(i32),
}

/// Which of a socket's requests a completion is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    Receive = 0,
    Send = 1,
}

impl Ring {
    /// Tells whether there can be rings.
    ///
    /// # Errors
    /// The kernel has no io_uring (Linux 5.19), or does not let this process use it.
    pub fn check() -> io::Result<()> {
        set_up().map(drop)
    }

    /// Sets up the ring of this thread, which from then on serves the sockets that settle here.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn start(buffers: BufferPool, queueing: Queueing) -> io::Result<Rc<Self>> {
        let inner = Inner {
            places: Slab::new(),
            completed: Vec::new(),
            buffers,
            uring: set_up()?,
        };
        let ring = Rc::new(Self {
            inner: RefCell::new(inner),
            queueing,
            requests: Cell::new(0),
            load: Load::default(),
            server: Cell::new(None),
        });
        CURRENT.set(Some(Rc::clone(&ring)));
        Ok(ring)
    }

    /// Gives back memory that many sockets of this thread have needed.
    pub fn trim() {
        if let Some(ring) = Self::current() {
            ring.inner.borrow_mut().places.trim();
        }
    }

    /// Serves no more sockets than there are.
    pub fn stop() {
        CURRENT.take();
    }

    fn current() -> Option<Rc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Makes the requests that are queued, and wakes who waits for them; `false`: there are none, and `context` is woken for the
    /// next that there is.
    pub fn turn(&self, context: &Context<'_>) -> bool {
        self.load.note(self.requests.take());
        self.server.take();
        let mut woken = Vec::new();
        let made_any = self.inner.borrow_mut().turn(&mut woken);
        woken.into_iter().for_each(Waker::wake);
        if !made_any {
            self.server.set(Some(context.waker().clone()));
        }
        made_any
    }

    /// Whether what is read and written now is to wait for the next turn.
    fn is_queueing(&self) -> bool {
        self.queueing == Queueing::Always || self.load.is_high.get()
    }

    /// Counts a read or write.
    fn count(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// How many sockets it serves.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.inner.borrow().places.len()
    }

    fn wake(&self) {
        if let Some(server) = self.server.take() {
            server.wake();
        }
    }
}

fn set_up() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_clamp()
        .setup_submit_all()
        .setup_coop_taskrun()
        .build(BATCH)
}

impl Inner {
    /// Whether there was anything to do.
    fn turn(&mut self, woken: &mut Vec<Waker>) -> bool {
        if self.uring.submission().is_empty() && self.completed.is_empty() {
            return false;
        }
        self.make();
        let mut completed = std::mem::take(&mut self.completed);
        for completion in completed.drain(..) {
            woken.extend(self.complete(&completion));
        }
        if self.completed.is_empty() {
            self.completed = completed;
        }
        true
    }

    /// The system call. What a signal or a lack of memory keeps from being made stays queued for the next.
    fn make(&mut self) {
        let count = self.uring.submission().len();
        if let Err(error) = self.uring.submit_and_wait(count)
            && error.kind() != io::ErrorKind::Interrupted
        {
            tracing::debug!(%error, "io_uring takes no requests at the moment");
        }
        let completions = self.uring.completion().map(|entry| Completion {
            of: entry.user_data(),
            result: entry.result(),
        });
        self.completed.extend(completions);
    }

    /// Queues a request.
    ///
    /// # Safety
    /// The memory that it names stays where it is, and is touched by nobody, until it has completed.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: promised by the caller.
        if unsafe { self.uring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        self.make();
        // SAFETY: as above.
        unsafe { self.uring.submission().push(entry) }
            .map_err(|_| io::Error::from(io::ErrorKind::ResourceBusy))
    }

    fn receive(&mut self, key: usize) -> io::Result<()> {
        let mut memory = self.buffers.take();
        let fd = Fd(self.places[key].tcp.as_raw_fd());
        let request = opcode::Recv::new(fd, memory.as_mut_ptr(), length(&memory))
            .flags(libc::MSG_DONTWAIT)
            .build();
        // SAFETY: the memory is a box that `incoming` holds until the completion.
        unsafe { self.push(&request.user_data(user_data(key, Request::Receive))) }?;
        self.places[key].incoming = Incoming::Asked(memory);
        Ok(())
    }

    fn send(&mut self, key: usize, filling: Filling) -> io::Result<()> {
        let fd = Fd(self.places[key].tcp.as_raw_fd());
        let request = opcode::Send::new(fd, filling.bytes().as_ptr(), length(filling.bytes()))
            .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
            .build();
        // SAFETY: the memory is a box that `outgoing` holds until the completion.
        unsafe { self.push(&request.user_data(user_data(key, Request::Send))) }?;
        self.places[key].outgoing = Outgoing::Sending(filling);
        Ok(())
    }

    /// Notes what has become of a request, and tells who waits for that.
    fn complete(&mut self, completion: &Completion) -> Option<Waker> {
        let (key, request) = request_of(completion.of);
        let place = &mut self.places[key];
        let waker = match request {
            Request::Receive => place.received(completion.result, &self.buffers),
            Request::Send => place.sent(completion.result, &self.buffers),
        };
        if place.is_left && !place.is_asking() {
            self.remove(key);
        }
        waker
    }

    fn remove(&mut self, key: usize) {
        let place = self.places.remove(key);
        if let Incoming::Here(filling) = place.incoming {
            self.buffers.give(filling.memory);
        }
        if let Outgoing::Stuck(filling) = place.outgoing {
            self.buffers.give(filling.memory);
        }
    }
}

impl Place {
    fn received(&mut self, result: i32, buffers: &BufferPool) -> Option<Waker> {
        let Incoming::Asked(memory) = std::mem::replace(&mut self.incoming, Incoming::Unasked)
        else {
            return None;
        };
        let count = usize::try_from(result).unwrap_or(0);
        if count < memory.len() && result != 0 {
            // It is empty now, and the reactor tells when it no longer is: nothing has been heard of it since.
            is_not_ready(&self.tcp, Interest::READABLE);
        }
        if count > 0 {
            let (start, end) = (0, count);
            self.incoming = Incoming::Here(Filling { memory, start, end });
        } else {
            buffers.give(memory);
            self.incoming = match -result {
                0 => Incoming::Ended,
                // Ready too early: to be asked again.
                libc::EAGAIN => Incoming::Unasked,
                error => Incoming::Failed(error),
            };
        }
        self.reader.take()
    }

    fn sent(&mut self, result: i32, buffers: &BufferPool) -> Option<Waker> {
        let Outgoing::Sending(mut filling) =
            std::mem::replace(&mut self.outgoing, Outgoing::Nothing)
        else {
            return None;
        };
        match usize::try_from(result) {
            Ok(count) => filling.start += count,
            Err(_) if result == -libc::EAGAIN => {}
            Err(_) => {
                buffers.give(filling.memory);
                self.outgoing = Outgoing::Failed(-result);
                return self.writer.take();
            }
        }
        if filling.bytes().is_empty() {
            buffers.give(filling.memory);
            return self.writer.take();
        }
        is_not_ready(&self.tcp, Interest::WRITABLE);
        self.outgoing = Outgoing::Stuck(filling);
        // Whoever it is has to wait for room.
        self.writer.take().or_else(|| self.reader.take())
    }

    /// Why a write has failed, told once: to the next one, or to a read that finds an end, for the kernel tells it once, too.
    fn take_failure(&mut self) -> io::Result<()> {
        let Outgoing::Failed(error) = self.outgoing else {
            return Ok(());
        };
        self.outgoing = Outgoing::Nothing;
        Err(io::Error::from_raw_os_error(error))
    }

    fn is_asking(&self) -> bool {
        matches!(self.incoming, Incoming::Asked(_)) || matches!(self.outgoing, Outgoing::Sending(_))
    }
}

fn user_data(key: usize, request: Request) -> u64 {
    (key as u64) << 1 | request as u64
}

#[allow(clippy::cast_possible_truncation)] // It was one.
fn request_of(user_data: u64) -> (usize, Request) {
    let request = match user_data & 1 {
        0 => Request::Receive,
        _ => Request::Send,
    };
    ((user_data >> 1) as usize, request)
}

#[allow(clippy::cast_possible_truncation)] // No buffer has 4 GiB.
fn length(bytes: &[u8]) -> u32 {
    bytes.len() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether to queue after so many turns with so many reads and writes each.
    fn after(load: &Load, turns: u32, requests: u32) -> bool {
        (0..turns).for_each(|_| load.note(requests));
        load.is_high.get()
    }

    #[test]
    fn reads_and_writes_are_queued_where_there_are_several_to_a_turn() {
        let load = Load::default();
        assert!(!after(&load, 100, 1), "one client");
        assert!(!after(&load, 1, 20), "one turn says little");
        assert!(!after(&load, 100, BUSY - 1));
        assert!(after(&load, 100, BUSY));
        // Not back and forth: what is queued comes in fewer turns.
        assert!(after(&load, 100, STILL_BUSY + 1));
        assert!(after(&load, 100, 0), "turns for something else");
        assert!(!after(&load, 100, STILL_BUSY - 1));
    }
}
