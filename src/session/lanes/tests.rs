use std::{cell::Cell, rc::Rc, thread};

use tokio::{sync::oneshot, task::yield_now};

use super::*;

/// Serves `lanes` on a runtime of one thread until `test` is done.
fn serving(lanes: &Rc<Lanes<char>>, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::select! {
            () = test => {}
            never = lanes.serve(|_| false) => match never {},
        }
    });
}

/// Writes its lane's name down each time that it is its turn.
async fn note(log: Rc<RefCell<String>>, lane: char, turns: usize) {
    for _ in 0..turns {
        log.borrow_mut().push(lane);
        yield_ready().await;
    }
}

/// Ready again at once, and next served when all others have been: tokio's own `yield_now` waits for the reactor.
async fn yield_ready() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn a_flood_in_one_lane_delays_another_by_one_of_its_tasks_at_most() {
    let lanes = Rc::new(Lanes::default());
    let log = Rc::new(RefCell::new(String::new()));
    for _ in 0..100 {
        lanes.spawn('a', note(Rc::clone(&log), 'a', 3));
    }
    lanes.spawn('b', note(Rc::clone(&log), 'b', 3));
    lanes.spawn('c', note(Rc::clone(&log), 'c', 3));
    serving(&lanes, async {
        while log.borrow().len() < 306 {
            yield_now().await;
        }
    });
    assert!(
        log.borrow().starts_with("abcabcabcaaaa"),
        "{}",
        log.borrow()
    );
}

#[test]
fn within_a_lane_nobody_is_overtaken() {
    let lanes = Rc::new(Lanes::default());
    let log = Rc::new(RefCell::new(String::new()));
    for name in ['1', '2', '3'] {
        lanes.spawn('a', note(Rc::clone(&log), name, 2));
    }
    serving(&lanes, async {
        while log.borrow().len() < 6 {
            yield_now().await;
        }
    });
    assert_eq!(*log.borrow(), "123123");
}

#[test]
fn a_task_is_woken_from_another_thread() {
    let lanes = Rc::new(Lanes::default());
    let (ask, asked) = oneshot::channel();
    let (answer, answered) = oneshot::channel();
    lanes.spawn('a', async move {
        answer.send(asked.await.unwrap()).unwrap();
    });
    serving(&lanes, async {
        let other = thread::spawn(move || ask.send(7).unwrap());
        assert_eq!(answered.await.unwrap(), 7);
        other.join().unwrap();
    });
}

#[test]
fn a_panic_ends_one_task_only() {
    let lanes = Rc::new(Lanes::default());
    let (answer, answered) = oneshot::channel();
    lanes.spawn('a', async { panic!("on purpose") });
    lanes.spawn('a', async move { answer.send(()).unwrap() });
    serving(&lanes, async { answered.await.unwrap() });
    assert!(lanes.tasks.borrow().all.is_empty());
}

#[test]
fn lanes_and_tasks_go_when_they_are_done_and_old_tickets_wake_nobody() {
    let lanes = Rc::new(Lanes::default());
    let (keep, kept) = oneshot::channel();
    lanes.spawn('a', async move {
        let own = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        keep.send(own).unwrap();
    });
    let polls = Rc::new(Cell::new(0));
    serving(&lanes, async {
        let old: Waker = kept.await.unwrap();
        assert!(lanes.tasks.borrow().all.is_empty());
        assert!(lanes.tasks.borrow().lanes.is_empty());
        assert!(lanes.tasks.borrow().lane_of.is_empty());
        old.wake_by_ref();
        let counted = Rc::clone(&polls);
        lanes.spawn(
            'b',
            poll_fn(move |_| {
                counted.set(counted.get() + 1);
                Poll::Pending
            }),
        );
        old.wake();
        for _ in 0..10 {
            yield_now().await;
        }
    });
    assert!((1..=3).contains(&polls.get()), "{}", polls.get());
}

#[test]
fn what_is_abandoned_is_dropped_even_if_it_spawns_once_more() {
    struct SpawnsAtTheEnd(Rc<Lanes<char>>, Rc<Cell<u32>>);
    impl Drop for SpawnsAtTheEnd {
        fn drop(&mut self) {
            let dropped = Rc::clone(&self.1);
            let last = CountsItsEnd(dropped);
            self.0.spawn('b', async move {
                let _last = last;
                std::future::pending().await
            });
            self.1.set(self.1.get() + 1);
        }
    }
    struct CountsItsEnd(Rc<Cell<u32>>);
    impl Drop for CountsItsEnd {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let lanes = Rc::new(Lanes::default());
    let dropped = Rc::new(Cell::new(0));
    let first = SpawnsAtTheEnd(Rc::clone(&lanes), Rc::clone(&dropped));
    lanes.spawn('a', async move {
        let _first = first;
        std::future::pending().await
    });
    lanes.abandon();
    assert_eq!(dropped.get(), 2);
    assert!(lanes.tasks.borrow().all.is_empty());
}

/// The most tasks that are served before it is learnt who else is ready.
fn most_at_a_time(lanes: u32) -> usize {
    let tasks = Rc::new(Lanes::default());
    let served = Rc::new(Cell::new(0));
    for lane in (0..lanes).cycle().take(100) {
        let served = Rc::clone(&served);
        tasks.spawn(lane, async move { served.set(served.get() + 1) });
    }
    let mut most = 0;
    let mut before = 0;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let learn = |_: &mut Context<'_>| {
            most = most.max(served.get() - before);
            before = served.get();
            false
        };
        let everybody = async {
            while served.get() < 100 {
                yield_now().await;
            }
        };
        tokio::select! {
            never = tasks.serve(learn) => match never {},
            () = everybody => {}
        }
    });
    most
}

#[test]
fn what_few_tasks_of_several_lanes_have_queued_is_done_before_the_next_are_served() {
    assert!(most_at_a_time(2) <= 2 * SLICE_ROUNDS);
    assert_eq!(most_at_a_time(1), 100);
    // Each has a task or two: they are no flood, and are served together if the time suffices.
    assert!(most_at_a_time(60) > 2 * SLICE_ROUNDS);
}
