//! Lanes: the tasks of one thread, served in turn, lane by lane, so that whoever floods one lane keeps nobody in another waiting.
//!
//! ```text
//!              lane a: ● ● ● ● ● ●   ┐
//! wake ─▶      lane b: ●             ├─▶ one of each in turn, for SLICE at most ─▶ the reactor, and on
//!              lane c: ● ●           ┘
//! ```
//! First in, first out, a single client would wait behind everything that another tenant's hundreds have ready, once for
//! its query and once for the answer. The reactor is asked again soon, for nobody gets a turn who is not known to be ready;
//! not so soon where there is one lane only, for to ask is a system call.

use std::{
    cell::RefCell,
    collections::VecDeque,
    convert::Infallible,
    future::poll_fn,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use slab::Slab;
use tokio::task::coop::has_budget_remaining;

use crate::memory::Trim;

/// How long the tasks of several lanes are served before the reactor is asked who else is ready.
const SLICE: Duration = Duration::from_micros(200);

/// How often each of several lanes has its turn before what the tasks have queued is done: that takes more time than they
/// do.
const SLICE_ROUNDS: usize = 8;

/// How long the tasks of one lane are served before tokio gets a turn: its timers, its sockets, its tasks.
const TURN: Duration = Duration::from_micros(500);

/// The tasks of one thread. `K` names lanes.
pub struct Lanes<K> {
    tasks: RefCell<Tasks<K>>,
    ready: Arc<Mutex<Ready>>,
}

struct Tasks<K> {
    /// By number; `None`: it is being polled.
    all: Slab<Option<Task>>,
    lanes: Slab<Lane<K>>,
    lane_of: FxHashMap<K, usize>,
}

/// A lane is there for as long as it has tasks.
struct Lane<K> {
    name: K,
    tasks: usize,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    ticket: Arc<Ticket>,
    /// Made of the ticket once, not for every turn.
    waker: Waker,
}

/// What wakes a task, from any thread. One that outlives its task may wake who has its number by now, which does no harm.
struct Ticket {
    task: usize,
    lane: usize,
    /// Waits for its turn already.
    is_queued: AtomicBool,
    ready: Arc<Mutex<Ready>>,
}

/// Who waits for a turn, by number.
#[derive(Default)]
struct Ready {
    lanes: Vec<VecDeque<usize>>,
    /// The lanes where somebody waits.
    rotation: VecDeque<usize>,
    /// Whom to wake for the first that comes.
    server: Option<Waker>,
}

/// How often all lanes that waited have had their turn.
#[derive(Default)]
struct Rounds {
    over: usize,
    /// Turns of the one that goes on.
    turns: usize,
    /// How many it will have had.
    lanes: usize,
}

impl Rounds {
    /// Counts a turn for which so many lanes had waited.
    fn count(&mut self, waiting: usize) {
        if self.turns == 0 {
            self.lanes = waiting;
        }
        self.turns += 1;
        if self.turns >= self.lanes {
            self.over += 1;
            self.turns = 0;
        }
    }
}

/// Whether anybody is still ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Served {
    All,
    Some,
}

impl<K> Default for Lanes<K> {
    fn default() -> Self {
        let tasks = Tasks {
            all: Slab::new(),
            lanes: Slab::new(),
            lane_of: FxHashMap::default(),
        };
        Self {
            tasks: RefCell::new(tasks),
            ready: Arc::default(),
        }
    }
}

impl<K: Clone + Eq + Hash> Lanes<K> {
    /// Lets `future` run, in the lane called `lane`.
    pub fn spawn(&self, lane: K, future: impl Future<Output = ()> + 'static) {
        let ticket = {
            let tasks = &mut *self.tasks.borrow_mut();
            let lane = tasks.enter(lane);
            let place = tasks.all.vacant_entry();
            let ticket = Arc::new(Ticket {
                task: place.key(),
                lane,
                is_queued: AtomicBool::new(false),
                ready: Arc::clone(&self.ready),
            });
            place.insert(Some(Task {
                future: Box::pin(future),
                waker: Waker::from(Arc::clone(&ticket)),
                ticket: Arc::clone(&ticket),
            }));
            ticket
        };
        ticket.wake();
    }

    /// Serves the tasks, for as long as it is polled. When none is ready, or some have been served for a while, `learn` finds
    /// out who else is: `true` says that somebody may be; `false`, that it wakes the task it is given if there ever is.
    pub async fn serve(&self, mut learn: impl FnMut(&mut Context<'_>) -> bool) -> Infallible {
        poll_fn(|context| self.poll(context, &mut learn)).await
    }

    fn poll(
        &self,
        context: &mut Context<'_>,
        learn: &mut impl FnMut(&mut Context<'_>) -> bool,
    ) -> Poll<Infallible> {
        let began = Instant::now();
        loop {
            let served = self.serve_ready(context.waker());
            let has_learnt = learn(context);
            if served == Served::All && !has_learnt {
                return Poll::Pending;
            }
            let limit = if self.has_several_lanes() {
                SLICE
            } else {
                TURN
            };
            if !has_learnt || began.elapsed() >= limit || !has_budget_remaining() {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn serve_ready(&self, server: &Waker) -> Served {
        let began = Instant::now();
        let mut rounds = Rounds::default();
        while let Some((task, waiting)) = next(&self.ready, server) {
            self.give_turn(task);
            rounds.count(waiting);
            let is_over = self.has_several_lanes()
                && (rounds.over >= SLICE_ROUNDS || began.elapsed() >= SLICE);
            // Without any of what tokio grants one poll of ours, the others would find nothing ready.
            if is_over || !has_budget_remaining() {
                return Served::Some;
            }
        }
        Served::All
    }

    fn has_several_lanes(&self) -> bool {
        self.tasks.borrow().lanes.len() > 1
    }

    fn give_turn(&self, number: usize) {
        let mut tasks = self.tasks.borrow_mut();
        // Woken by a ticket that has outlived its task, perhaps.
        let Some(mut task) = tasks.all.get_mut(number).and_then(Option::take) else {
            return;
        };
        drop(tasks);
        // Before the turn: what wakes it from now on it may not have seen.
        task.ticket.is_queued.store(false, Ordering::Release);
        let mut context = Context::from_waker(&task.waker);
        let turn = AssertUnwindSafe(|| task.future.as_mut().poll(&mut context));
        match catch_unwind(turn) {
            Ok(Poll::Pending) => self.tasks.borrow_mut().all[number] = Some(task),
            // A panic, which its hook has told of, is the end of one task, as it is of one thread.
            Ok(Poll::Ready(())) | Err(_) => {
                self.tasks.borrow_mut().leave(number, task.ticket.lane);
                // Not before: what it lets go may spawn.
                drop(task);
            }
        }
    }

    /// Gives back memory that many tasks have needed.
    pub(super) fn trim(&self) {
        self.tasks.borrow_mut().all.trim();
        lock(&self.ready).lanes.iter_mut().for_each(Trim::trim);
    }

    /// Drops all tasks.
    pub fn abandon(&self) {
        loop {
            let mut tasks = self.tasks.borrow_mut();
            let all = std::mem::take(&mut tasks.all);
            tasks.lanes.clear();
            tasks.lane_of.clear();
            drop(tasks);
            if all.is_empty() {
                return;
            }
        }
    }
}

impl<K: Clone + Eq + Hash> Tasks<K> {
    /// Counts one more task in the lane, and tells its number.
    fn enter(&mut self, name: K) -> usize {
        let lane = *self.lane_of.entry(name).or_insert_with_key(|name| {
            let name = name.clone();
            self.lanes.insert(Lane { name, tasks: 0 })
        });
        self.lanes[lane].tasks += 1;
        lane
    }

    fn leave(&mut self, task: usize, lane: usize) {
        self.all.remove(task);
        self.lanes[lane].tasks -= 1;
        if self.lanes[lane].tasks == 0 {
            let Lane { name, .. } = self.lanes.remove(lane);
            self.lane_of.remove(&name);
        }
    }
}

/// The task whose turn it is, and how many lanes have waited for one; if nobody waits, `server` is woken for the next who
/// does.
fn next(ready: &Mutex<Ready>, server: &Waker) -> Option<(usize, usize)> {
    let ready = &mut *lock(ready);
    let waiting = ready.rotation.len();
    let Some(lane) = ready.rotation.pop_front() else {
        ready.server = Some(server.clone());
        return None;
    };
    let task = ready.lanes[lane].pop_front();
    if !ready.lanes[lane].is_empty() {
        ready.rotation.push_back(lane);
    }
    task.map(|task| (task, waiting))
}

impl Wake for Ticket {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let server = lock(&self.ready).queue(self.lane, self.task);
        if let Some(server) = server {
            server.wake();
        }
    }
}

impl Ready {
    fn queue(&mut self, lane: usize, task: usize) -> Option<Waker> {
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, VecDeque::new);
        }
        if self.lanes[lane].is_empty() {
            self.rotation.push_back(lane);
        }
        self.lanes[lane].push_back(task);
        self.server.take()
    }
}

/// Nothing that holds it panics half-way.
fn lock(ready: &Mutex<Ready>) -> MutexGuard<'_, Ready> {
    ready.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
