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

#![allow(unsafe_code)] // Memory is shared with the kernel: see `Inner::push`.

mod lent;
mod socket;

use std::{
    cell::{Cell, RefCell},
    io,
    net::{Shutdown, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    rc::Rc,
    sync::atomic::{Ordering, fence},
    task::{Context, Poll, Waker},
};

use io_uring::{
    IoUring, cqueue, opcode,
    squeue::{self, Flags},
    types::Fd,
};
use rustix::event::{EventfdFlags, eventfd};
use slab::Slab;
use tokio::io::{Interest, unix::AsyncFd};

use self::lent::Lent;
pub(super) use self::socket::Socket;
use super::buffer::{BufferPool, Filling};

/// How many requests are handed over at once.
const SUBMISSIONS: u32 = 1024;

/// How many completions wait without the kernel having to put them aside.
const COMPLETIONS: u32 = 4096;

/// Recv only when there is something (`IORING_RECVSEND_POLL_FIRST`), rather than to find out first that there is not.
const POLL_FIRST: u16 = 1;

/// Let what has completed be told (`IORING_ENTER_GETEVENTS`).
const GET_EVENTS: u32 = 1;

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
    /// As of the last time that it was asked.
    takes_requests: bool,
    uring: IoUring,
}

struct Completion {
    of: u64,
    result: i32,
    flags: u32,
}

/// What the ring knows of one socket.
struct Place {
    tcp: Rc<TcpStream>,
    incoming: Incoming,
    outgoing: Outgoing,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Likely to have more at once.
    is_flowing: bool,
    /// Known to be empty after the last reading.
    is_empty: bool,
    /// Nobody's any more, and open until its requests have ended.
    is_left: bool,
}

enum Incoming {
    Unasked,
    /// Memory of our own, if not a lent buffer.
    Asked(Option<Box<[u8]>>),
    Here(Filling),
    Ended,
    Failed(i32),
}

enum Outgoing {
    Nothing,
    Sending(Filling),
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
    /// The kernel has no io_uring that does what is needed (Linux 6.1), or does not let this process use it.
    pub fn check() -> io::Result<()> {
        set_up().map(drop)
    }

    /// Sets up the ring of this thread; sockets that [`Socket::join`] are served by it.
    ///
    /// # Errors
    /// As [`Self::check`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(buffers: BufferPool) -> io::Result<Rc<Self>> {
        let uring = set_up()?;
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
            takes_requests: true,
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
        let mut inner = self.inner.borrow_mut();
        let woken = inner.turn();
        let is_over = woken.is_empty() && inner.takes_requests;
        drop(inner);
        woken.into_iter().for_each(Waker::wake);
        !is_over
    }

    /// Whether a request has not ended.
    #[cfg(test)]
    pub(super) fn is_busy(&self) -> bool {
        let inner = self.inner.borrow();
        inner.sockets.iter().any(|(_, place)| place.is_busy())
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
        .setup_cqsize(COMPLETIONS)
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(SUBMISSIONS)
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
            if !woken.is_empty() || !is_due || !self.takes_requests {
                return woken;
            }
        }
    }

    /// The system call. What it fails for (a signal, a lack of memory) is not lost: it is tried again with the next.
    fn enter(&mut self) {
        let count = u32::try_from(self.uring.submission().len()).unwrap_or(SUBMISSIONS);
        let (submitter, at_once, no_mask) = (self.uring.submitter(), 0, None::<&libc::sigset_t>);
        // SAFETY: what is queued is as `push` has it. Unlike `submit`, this collects what has completed by then in any case.
        let submitted = unsafe { submitter.enter(count, at_once, GET_EVENTS, no_mask) };
        if let Err(error) = &submitted
            && self.takes_requests
        {
            tracing::warn!(%error, "io_uring takes no requests at the moment");
        }
        self.takes_requests = submitted.is_ok();
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
            let request = opcode::Recv::new(fd(place), memory.as_mut_ptr(), length(&memory));
            (Some(memory), request.build())
        } else {
            let request = opcode::Recv::new(fd(place), std::ptr::null_mut(), 0)
                .buf_group(lent::GROUP)
                .ioprio(if place.is_empty { POLL_FIRST } else { 0 });
            (None, request.build().flags(Flags::BUFFER_SELECT))
        };
        let request = request.user_data(user_data(key, Request::Receive));
        // SAFETY: the memory is a box that `incoming` holds until the completion, or one of the lent.
        unsafe { self.push(&request) }?;
        self.sockets[key].incoming = Incoming::Asked(memory);
        Ok(())
    }

    fn send(&mut self, key: usize, filling: Filling) -> io::Result<()> {
        let bytes = filling.bytes();
        let request = opcode::Send::new(fd(&self.sockets[key]), bytes.as_ptr(), length(bytes))
            // Without MSG_WAITALL: of a failure behind a part that was taken, it would tell the part only.
            .flags(libc::MSG_NOSIGNAL)
            .build()
            .user_data(user_data(key, Request::Send));
        // SAFETY: the memory is a box that `outgoing` holds until the completion.
        unsafe { self.push(&request) }?;
        self.sockets[key].outgoing = Outgoing::Sending(filling);
        Ok(())
    }

    fn cancel(&mut self, key: usize, request: Request) {
        let cancel = opcode::AsyncCancel::new(user_data(key, request)).build();
        // SAFETY: it names no memory.
        if unsafe { self.push(&cancel.user_data(CANCELLATION)) }.is_err() {
            // No room: the request ends with the connection, then.
            let _ = self.sockets[key].tcp.shutdown(Shutdown::Both);
        }
    }

    /// Notes what has become of a request, and tells who waits for that.
    fn complete(&mut self, completion: &Completion) -> Option<Waker> {
        let (key, request) = request_of(completion.of);
        let waker = match request {
            Request::Receive => self.received(key, completion),
            Request::Send => self.sent(key, completion.result),
        };
        if self.sockets[key].is_left && !self.sockets[key].is_busy() {
            self.remove(key);
        }
        waker
    }

    fn received(&mut self, key: usize, completion: &Completion) -> Option<Waker> {
        let place = &mut self.sockets[key];
        let lent = cqueue::buffer_select(completion.flags);
        let own = match std::mem::replace(&mut place.incoming, Incoming::Unasked) {
            Incoming::Asked(own) => own,
            _ => None,
        };
        if completion.result == -libc::ENOBUFS && !place.is_left {
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
        place.is_flowing = count >= lent::BYTES;
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
        let (start, end) = (0, count);
        self.now(key, Incoming::Here(Filling { memory, start, end }))
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
        let Outgoing::Sending(mut filling) =
            std::mem::replace(&mut place.outgoing, Outgoing::Nothing)
        else {
            return None;
        };
        let Ok(count) = usize::try_from(result) else {
            place.outgoing = Outgoing::Failed(-result);
            self.buffers.give(filling.memory);
            return self.sockets[key].writer.take();
        };
        filling.start += count;
        if filling.start < filling.end && !place.is_left {
            return match self.send(key, filling) {
                Ok(()) => None,
                Err(_) => {
                    self.sockets[key].outgoing = Outgoing::Failed(libc::ENOBUFS);
                    self.sockets[key].writer.take()
                }
            };
        }
        self.buffers.give(filling.memory);
        self.sockets[key].writer.take()
    }

    fn remove(&mut self, key: usize) {
        if let Incoming::Here(filling) = self.sockets.remove(key).incoming {
            self.buffers.give(filling.memory);
        }
    }
}

impl Place {
    /// Why a write has failed, told once: to the next one, or to a read that finds an end, for the kernel tells it once, too.
    fn take_failure(&mut self) -> io::Result<()> {
        let Outgoing::Failed(error) = self.outgoing else {
            return Ok(());
        };
        self.outgoing = Outgoing::Nothing;
        Err(io::Error::from_raw_os_error(error))
    }

    fn is_busy(&self) -> bool {
        matches!(self.incoming, Incoming::Asked(_)) || matches!(self.outgoing, Outgoing::Sending(_))
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

fn fd(place: &Place) -> Fd {
    Fd(place.tcp.as_raw_fd())
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

/// Whether this thread has a ring.
pub(super) fn is_here() -> bool {
    CURRENT.with_borrow(Option::is_some)
}
