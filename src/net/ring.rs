//! Sockets that are served through io_uring: what all sessions of a thread want to read and write is handed to the kernel
//! in one system call, and what has become of it comes back in the same one.
//!
//! ```text
//! Socket ── read, write ──▶ submissions ─┐
//!                                        ├─▶ Ring::turn: one system call
//! task   ◀── woken ──────── completions ─┘
//! ```
//! A socket reads when it is asked to and holds one reading at most, so back-pressure is as with any other. An idle one
//! holds no memory: the kernel picks one of the thread's lent buffers when something comes. Whoever receives a lot lends
//! a large one of its own. A write is taken as it is, one at a time, and is on its way with the next turn; what comes of
//! it the next write is told, or [`Socket::poll_sent`].
//!
//! The memory of a request belongs to the kernel until its completion has come: a socket that is dropped before leaves
//! its place here, and its file, until then.

#![allow(unsafe_code)] // Memory is shared with the kernel. See `Shared`, `Inner::push` and what they are given.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    net::TcpStream,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    ptr::NonNull,
    rc::Rc,
    sync::atomic::{AtomicU16, Ordering, fence},
    task::{Context, Poll, Waker, ready},
};

use io_uring::{
    IoUring, cqueue, opcode,
    squeue::{self, Flags},
    types::{BufRingEntry, Fd},
};
use rustix::event::{EventfdFlags, eventfd};
use slab::Slab;
use tokio::io::{Interest, ReadBuf, unix::AsyncFd};

use super::buffer::{BUFFER_BYTES, BufferPool};

/// How many requests are handed over at once.
const SUBMISSIONS: u32 = 1024;

/// How many completions wait without the kernel having to put them aside.
const COMPLETIONS: u32 = 4096;

/// The lent buffers: how many, and how large.
const LENT: u16 = 128;
const LENT_BYTES: usize = 4096;

/// Their group's number; there is one.
const GROUP: u16 = 0;

/// Recv only when there is something (`IORING_RECVSEND_POLL_FIRST`), rather than to find out first that there is not.
const POLL_FIRST: u16 = 1;

/// The completions of cancellations: those of what they cancel tell all that there is.
const CANCELLATION: u64 = u64::MAX;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Ring>>> = const { RefCell::new(None) };
}

/// The ring of one thread.
pub struct Ring {
    inner: RefCell<Inner>,
    /// Whom to wake for the first request; `None`: it is at work, and will see.
    server: Cell<Option<Waker>>,
    /// Tells when something has completed; never read, for every signal counts, not what they add up to.
    signal: AsyncFd<OwnedFd>,
}

struct Inner {
    sockets: Slab<Place>,
    /// What completed, and is to be told.
    completed: Vec<Completion>,
    buffers: BufferPool,
    lent: Lent,
    uring: IoUring,
}

struct Completion {
    of: u64,
    result: i32,
    flags: u32,
}

/// What the ring knows of one socket.
struct Place {
    fd: RawFd,
    incoming: Incoming,
    outgoing: Outgoing,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Likely to have more at once.
    is_flowing: bool,
    /// Known to be empty after the last reading.
    is_empty: bool,
    /// Nobody's any more, and open until its requests have ended.
    left: Option<TcpStream>,
}

enum Incoming {
    Unasked,
    /// Memory of our own, if not a lent buffer.
    Asked(Option<Box<[u8]>>),
    Here {
        memory: Box<[u8]>,
        start: usize,
        end: usize,
    },
    Ended,
    Failed(i32),
}

enum Outgoing {
    Nothing,
    Sending {
        memory: Box<[u8]>,
        start: usize,
        end: usize,
    },
    Failed(i32),
}

/// Which of a socket's requests a completion is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    Receive = 0,
    Send = 1,
}

impl Ring {
    /// Sets up the ring of this thread; sockets that [`Socket::join`] are served by it.
    ///
    /// # Errors
    /// The kernel has no io_uring that does what is needed (Linux 6.1), or does not let this process use it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(buffers: BufferPool) -> io::Result<Rc<Self>> {
        let uring = IoUring::builder()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(SUBMISSIONS)?;
        let lent = Lent::new(&uring)?;
        let signal = eventfd(0, EventfdFlags::CLOEXEC)?;
        uring.submitter().register_eventfd(signal.as_raw_fd())?;
        // SAFETY: nobody else closes it, or puts another file in its place.
        let signal = unsafe { AsyncFd::register_with_interest(signal, Interest::READABLE) }?;
        let inner = Inner {
            sockets: Slab::new(),
            completed: Vec::new(),
            buffers,
            lent,
            uring,
        };
        let ring = Rc::new(Self {
            inner: RefCell::new(inner),
            server: Cell::new(None),
            signal,
        });
        CURRENT.set(Some(Rc::clone(&ring)));
        Ok(ring)
    }

    /// Serves no more sockets than there are.
    pub fn stop() {
        CURRENT.take();
    }

    /// Hands over what is wanted and tells what has become of it; `false`: nothing has, and `context` is woken when it is
    /// worth another turn.
    pub fn turn(&self, context: &mut Context<'_>) -> bool {
        self.server.take();
        self.inner.borrow_mut().ignore_signal();
        if self.take_turn() {
            return true;
        }
        // Before the signal is asked for: whoever wants something from now on has to tell.
        self.server.set(Some(context.waker().clone()));
        self.inner.borrow_mut().ask_for_signal();
        loop {
            match self.signal.poll_read_ready(context) {
                Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                // Of the reactor, which has ended.
                Poll::Ready(Err(_)) => return false,
                Poll::Pending => break,
            }
        }
        // What has completed before the signal was asked for is not told of.
        self.take_turn()
    }

    fn take_turn(&self) -> bool {
        let woken = self.inner.borrow_mut().turn();
        let has_woken = !woken.is_empty();
        woken.into_iter().for_each(Waker::wake);
        has_woken
    }

    fn wake(&self) {
        if let Some(server) = self.server.take() {
            server.wake();
        }
    }
}

impl Inner {
    fn ignore_signal(&mut self) {
        self.uring.completion().disable_eventfd();
    }

    fn ask_for_signal(&mut self) {
        self.uring.completion().enable_eventfd();
        fence(Ordering::SeqCst);
    }

    fn turn(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        loop {
            let queue = self.uring.submission();
            let is_due = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
            drop(queue);
            if is_due {
                self.enter();
            } else {
                self.collect();
            }
            let mut completed = std::mem::take(&mut self.completed);
            for completion in completed.drain(..) {
                if completion.of != CANCELLATION {
                    woken.extend(self.complete(&completion));
                }
            }
            if self.completed.is_empty() {
                self.completed = completed;
            }
            if !woken.is_empty() || !is_due {
                return woken;
            }
        }
    }

    /// The system call. What it fails for (a signal, a lack of memory) is not lost: it is tried again with the next.
    fn enter(&mut self) {
        if let Err(error) = self.uring.submit()
            && error.kind() != io::ErrorKind::Interrupted
        {
            tracing::warn!(%error, "io_uring takes nothing at the moment");
        }
        self.collect();
    }

    fn collect(&mut self) {
        let completions = self.uring.completion().map(|entry| Completion {
            of: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
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
        self.enter();
        // SAFETY: as above.
        unsafe { self.uring.submission().push(entry) }
            .map_err(|_| io::Error::from(io::ErrorKind::ResourceBusy))
    }

    fn ask(&mut self, key: usize) -> io::Result<()> {
        let place = &mut self.sockets[key];
        let (memory, request) = if place.is_flowing {
            let mut memory = self.buffers.take();
            let request = opcode::Recv::new(Fd(place.fd), memory.as_mut_ptr(), length(&memory));
            (Some(memory), request.build())
        } else {
            let request = opcode::Recv::new(Fd(place.fd), std::ptr::null_mut(), 0)
                .buf_group(GROUP)
                .ioprio(if place.is_empty { POLL_FIRST } else { 0 });
            (None, request.build().flags(Flags::BUFFER_SELECT))
        };
        let request = request.user_data(user_data(key, Request::Receive));
        // SAFETY: the memory is a box that `incoming` holds until the completion, or one of the lent.
        unsafe { self.push(&request) }?;
        self.sockets[key].incoming = Incoming::Asked(memory);
        Ok(())
    }

    fn send(&mut self, key: usize, memory: Box<[u8]>, start: usize, end: usize) -> io::Result<()> {
        let bytes = &memory[start..end];
        let request = opcode::Send::new(Fd(self.sockets[key].fd), bytes.as_ptr(), length(bytes))
            // A peer that takes little at a time is waited for there.
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(user_data(key, Request::Send));
        // SAFETY: the memory is a box that `outgoing` holds until the completion.
        unsafe { self.push(&request) }?;
        self.sockets[key].outgoing = Outgoing::Sending { memory, start, end };
        Ok(())
    }

    fn cancel(&mut self, key: usize, request: Request) {
        let cancel = opcode::AsyncCancel::new(user_data(key, request)).build();
        // SAFETY: it names no memory. If there is no room for it, the request ends with what it waits for.
        let _ = unsafe { self.push(&cancel.user_data(CANCELLATION)) };
    }

    /// Notes what has become of a request, and tells who waits for that.
    fn complete(&mut self, completion: &Completion) -> Option<Waker> {
        let (key, request) = request_of(completion.of);
        let waker = match request {
            Request::Receive => self.received(key, completion),
            Request::Send => self.sent(key, completion.result),
        };
        if self.sockets[key].left.is_some() && !self.sockets[key].is_busy() {
            self.remove(key);
        }
        waker
    }

    fn received(&mut self, key: usize, completion: &Completion) -> Option<Waker> {
        let place = &mut self.sockets[key];
        let lent = cqueue::buffer_select(completion.flags);
        let own = match std::mem::replace(&mut place.incoming, Incoming::Unasked) {
            Incoming::Asked(own) => own,
            other => {
                place.incoming = other;
                None
            }
        };
        if completion.result == -libc::ENOBUFS && place.left.is_none() {
            // All are lent at this moment: one of its own, then.
            place.is_flowing = true;
            return match self.ask(key) {
                Ok(()) => None,
                Err(_) => self.fail(key, libc::ENOBUFS),
            };
        }
        let Some(count) = usize::try_from(completion.result).ok().filter(|n| *n > 0) else {
            self.give_back(own, lent);
            return match completion.result {
                0 => self.now(key, Incoming::Ended),
                error => self.fail(key, -error),
            };
        };
        place.is_empty = !cqueue::sock_nonempty(completion.flags);
        place.is_flowing = count >= LENT_BYTES;
        let memory = match (own, lent) {
            (Some(own), _) => own,
            (None, Some(id)) => {
                let mut memory = self.buffers.take();
                memory[..count].copy_from_slice(self.lent.bytes(id, count));
                self.lent.give(id);
                memory
            }
            (None, None) => return self.fail(key, libc::EIO),
        };
        let end = count;
        self.now(
            key,
            Incoming::Here {
                memory,
                start: 0,
                end,
            },
        )
    }

    fn give_back(&mut self, own: Option<Box<[u8]>>, lent: Option<u16>) {
        if let Some(own) = own {
            self.buffers.give(own);
        }
        if let Some(id) = lent {
            self.lent.give(id);
        }
    }

    fn fail(&mut self, key: usize, error: i32) -> Option<Waker> {
        self.now(key, Incoming::Failed(error))
    }

    fn now(&mut self, key: usize, incoming: Incoming) -> Option<Waker> {
        let place = &mut self.sockets[key];
        place.incoming = incoming;
        place.reader.take()
    }

    fn sent(&mut self, key: usize, result: i32) -> Option<Waker> {
        let place = &mut self.sockets[key];
        let Outgoing::Sending { memory, start, end } =
            std::mem::replace(&mut place.outgoing, Outgoing::Nothing)
        else {
            return None;
        };
        let Ok(count) = usize::try_from(result) else {
            place.outgoing = Outgoing::Failed(-result);
            self.buffers.give(memory);
            return self.sockets[key].writer.take();
        };
        if start + count < end && place.left.is_none() {
            return match self.send(key, memory, start + count, end) {
                Ok(()) => None,
                Err(_) => {
                    self.sockets[key].outgoing = Outgoing::Failed(libc::ENOBUFS);
                    self.sockets[key].writer.take()
                }
            };
        }
        self.buffers.give(memory);
        self.sockets[key].writer.take()
    }

    fn remove(&mut self, key: usize) {
        if let Incoming::Here { memory, .. } = self.sockets.remove(key).incoming {
            self.buffers.give(memory);
        }
    }
}

impl Place {
    fn is_busy(&self) -> bool {
        matches!(self.incoming, Incoming::Asked(_))
            || matches!(self.outgoing, Outgoing::Sending { .. })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What the kernel has not given back is not ours to free.
        for (_, place) in std::mem::take(&mut self.sockets) {
            if place.is_busy() {
                std::mem::forget(place);
            }
        }
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

#[allow(clippy::cast_possible_truncation)] // Buffers are of `BUFFER_BYTES`.
fn length(bytes: &[u8]) -> u32 {
    bytes.len() as u32
}

/// The buffers that the kernel picks from, and the list that says which are free: written by us, read by the kernel.
struct Lent {
    list: NonNull<List>,
    memory: NonNull<u8>,
    tail: u16,
}

#[repr(C, align(4096))]
struct List([BufRingEntry; LENT as usize]);

impl Lent {
    /// Never freed: the kernel may hold it for a while after the ring has been closed, and a thread has one.
    fn new(uring: &IoUring) -> io::Result<Self> {
        // SAFETY: a BufRingEntry is four numbers.
        let list = unsafe { Box::<List>::new_zeroed().assume_init() };
        let list = NonNull::from(Box::leak(list));
        let memory = vec![0; usize::from(LENT) * LENT_BYTES].leak();
        let memory = NonNull::from(memory).cast();
        let address = list.as_ptr() as u64;
        // SAFETY: the list has so many entries and is never freed.
        unsafe {
            uring
                .submitter()
                .register_buf_ring_with_flags(address, LENT, GROUP, 0)
        }?;
        let mut lent = Self {
            list,
            memory,
            tail: 0,
        };
        (0..LENT).for_each(|id| lent.give(id));
        Ok(lent)
    }

    fn at(&self, id: u16) -> *mut u8 {
        assert!(id < LENT);
        // SAFETY: there are so many.
        unsafe { self.memory.as_ptr().add(usize::from(id) * LENT_BYTES) }
    }

    /// What the kernel has put into a buffer that it has picked.
    fn bytes(&self, id: u16, count: usize) -> &[u8] {
        // SAFETY: initialised from the start, and ours until it is given again.
        unsafe { std::slice::from_raw_parts(self.at(id), count.min(LENT_BYTES)) }
    }

    fn give(&mut self, id: u16) {
        let address = self.at(id) as u64;
        let first = self.list.as_ptr().cast::<BufRingEntry>();
        // SAFETY: within the list, in an entry that the kernel does not read before the tail says so. The tail is a field
        // of the first that no entry uses.
        unsafe {
            let entry = &mut *first.add(usize::from(self.tail % LENT));
            entry.set_addr(address);
            entry.set_len(LENT_BYTES as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(first).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

/// Whether this thread has a ring.
pub(super) fn is_here() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// A socket that this thread's ring serves.
pub(super) struct Socket {
    ring: Rc<Ring>,
    key: usize,
    /// `None`: it is being dropped.
    tcp: Option<TcpStream>,
}

impl Socket {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// This thread has no ring, or the socket is broken.
    pub(super) fn join(tcp: TcpStream) -> io::Result<Self> {
        let ring = CURRENT.with_borrow(Clone::clone);
        let ring = ring.ok_or(io::ErrorKind::Unsupported)?;
        // One that does not block is not waited for.
        tcp.set_nonblocking(false)?;
        let place = Place {
            fd: tcp.as_raw_fd(),
            incoming: Incoming::Unasked,
            outgoing: Outgoing::Nothing,
            reader: None,
            writer: None,
            is_flowing: false,
            is_empty: false,
            left: None,
        };
        let key = ring.inner.borrow_mut().sockets.insert(place);
        let tcp = Some(tcp);
        Ok(Self { ring, key, tcp })
    }

    /// Whether anything has come that nobody has read, as far as the ring knows.
    pub(super) fn has_news(&self) -> bool {
        let inner = self.ring.inner.borrow();
        let incoming = &inner.sockets[self.key].incoming;
        !matches!(incoming, Incoming::Unasked | Incoming::Asked(_))
    }

    pub(super) fn poll_read_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.ring.inner.borrow_mut();
        let place = &mut inner.sockets[self.key];
        match place.incoming {
            Incoming::Unasked | Incoming::Asked(_) => {}
            Incoming::Here { .. } | Incoming::Ended | Incoming::Failed(_) => {
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

    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_read_ready(context))?;
        let inner = &mut *self.ring.inner.borrow_mut();
        let place = &mut inner.sockets[self.key];
        match &mut place.incoming {
            Incoming::Here { memory, start, end } => {
                let count = buffer.remaining().min(*end - *start);
                buffer.put_slice(&memory[*start..*start + count]);
                *start += count;
                if start == end {
                    inner.buffers.give(std::mem::take(memory));
                    place.incoming = Incoming::Unasked;
                }
                Poll::Ready(Ok(()))
            }
            Incoming::Failed(error) => {
                let error = io::Error::from_raw_os_error(*error);
                place.incoming = Incoming::Unasked;
                Poll::Ready(Err(error))
            }
            Incoming::Ended | Incoming::Unasked | Incoming::Asked(_) => Poll::Ready(Ok(())),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(context))?;
        let inner = &mut *self.ring.inner.borrow_mut();
        let mut memory = inner.buffers.take();
        let mut end = 0;
        for slice in slices {
            let count = slice.len().min(memory.len() - end);
            memory[end..end + count].copy_from_slice(&slice[..count]);
            end += count;
        }
        if end == 0 {
            inner.buffers.give(memory);
            return Poll::Ready(Ok(0));
        }
        inner.send(self.key, memory, 0, end)?;
        self.ring.wake();
        Poll::Ready(Ok(end))
    }

    /// Ready when the kernel has taken all that was written.
    pub(super) fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.ring.inner.borrow_mut();
        let place = &mut inner.sockets[self.key];
        match place.outgoing {
            Outgoing::Nothing => Poll::Ready(Ok(())),
            Outgoing::Sending { .. } => {
                remember(&mut place.writer, context);
                Poll::Pending
            }
            Outgoing::Failed(error) => {
                place.outgoing = Outgoing::Nothing;
                Poll::Ready(Err(io::Error::from_raw_os_error(error)))
            }
        }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        self.tcp.as_ref().expect("only a drop takes it")
    }
}

/// Keeps the waker that is there if it wakes the same task.
fn remember(waker: &mut Option<Waker>, context: &Context<'_>) {
    match waker {
        Some(known) => known.clone_from(context.waker()),
        None => *waker = Some(context.waker().clone()),
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
        place.left = self.tcp.take();
        let is_asking = matches!(place.incoming, Incoming::Asked(_));
        let is_sending = matches!(place.outgoing, Outgoing::Sending { .. });
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

const _: () = assert!(LENT.is_power_of_two() && LENT_BYTES <= BUFFER_BYTES);
