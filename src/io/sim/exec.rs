//! One thread, one queue, and a clock that moves only when nothing else can: so a run depends on nothing but the code
//! and the seed, and an hour of sleeping takes no time.
//!
//! # Invariants
//!
//! 1. Tasks are polled in the order in which they were woken.
//! 2. The clock moves only when no task is ready, and then exactly to the next event.
//! 3. No borrow is held while a task is polled or dropped: either may call back into here.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Polls without the clock moving, after which we say that it never will. A test's honest work is far below.
const POLLS_PER_INSTANT_MAX: u64 = 1_000_000;

type TaskId = u64;
type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The future that `block_on` was given; tasks have greater numbers.
const MAIN: TaskId = 0;

#[derive(Default)]
pub(super) struct Executor {
    /// A task is absent while it is polled.
    tasks: RefCell<HashMap<TaskId, (Task, Arc<TaskWaker>)>>,
    tasks_made: Cell<TaskId>,
    ready: Arc<Mutex<VecDeque<TaskId>>>,
    timers: RefCell<BTreeMap<TimerKey, Waker>>,
    timers_made: Cell<u64>,
    now: Cell<Duration>,
    running: Cell<bool>,
    halted: Cell<bool>,
}

/// Deadline, and a running number that keeps equal deadlines in order.
type TimerKey = (Duration, u64);

struct TaskWaker {
    id: TaskId,
    queued: AtomicBool,
    ready: Arc<Mutex<VecDeque<TaskId>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            ready.push_back(self.id);
        }
    }
}

/// What else may happen in the course of time: operations of the simulated disk that end.
pub(super) trait World {
    fn next_event(&self) -> Option<Duration>;
    /// The clock has reached `now`.
    fn settle(&self, now: Duration);
}

impl Executor {
    pub(super) fn now(&self) -> Duration {
        self.now.get()
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.get()
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let id = self.tasks_made.get() + 1;
        self.tasks_made.set(id);
        let waker = self.waker(id);
        waker.clone().wake();
        self.tasks.borrow_mut().insert(id, (Box::pin(task), waker));
    }

    /// Ends the current `block_on` without a result, after the poll that goes on.
    pub(super) fn halt(&self) {
        assert!(self.running.get(), "only a running task can halt");
        self.halted.set(true);
    }

    /// Runs `main` and the tasks until `main` is done, or `None` if it was halted. The tasks stay.
    ///
    /// # Panics
    ///
    /// If nothing can ever go on; if it is called by a task.
    pub(super) fn block_on<T>(
        &self,
        world: &impl World,
        main: impl Future<Output = T>,
    ) -> Option<T> {
        assert!(!self.running.replace(true), "block_on inside the simulation");
        let _running = Running(self);
        let mut main = Box::pin(main);
        let main_waker = self.waker(MAIN);
        main_waker.clone().wake();
        let mut polls: u64 = 0;
        while !self.halted.get() {
            let next = self.ready().pop_front();
            let Some(id) = next else {
                self.advance(world);
                polls = 0;
                continue;
            };
            polls += 1;
            assert!(
                polls < POLLS_PER_INSTANT_MAX,
                "livelock: tasks wake each other for ever at {:?} of virtual time",
                self.now()
            );
            if id == MAIN {
                if let Poll::Ready(value) = poll(main.as_mut(), &main_waker) {
                    return Some(value);
                }
            } else {
                self.poll_task(id);
            }
        }
        None
    }

    fn poll_task(&self, id: TaskId) {
        let task = self.tasks.borrow_mut().remove(&id);
        // A waker may outlive its task.
        let Some((mut task, waker)) = task else {
            return;
        };
        if poll(task.as_mut(), &waker).is_pending() {
            self.tasks.borrow_mut().insert(id, (task, waker));
        }
    }

    /// Nothing is ready: goes to the next timer or disk event, whichever is first.
    fn advance(&self, world: &impl World) {
        let timer = self.timers.borrow().keys().next().map(|key| key.0);
        let next = [timer, world.next_event()].into_iter().flatten().min();
        let Some(next) = next else {
            panic!(
                "deadlock at {:?} of virtual time: no task is ready, no timer runs, nothing is in flight; {} tasks \
                 and the main future wait for each other",
                self.now(),
                self.tasks.borrow().len()
            );
        };
        assert!(next >= self.now(), "the clock never goes back");
        self.now.set(next);
        world.settle(next);
        loop {
            let mut timers = self.timers.borrow_mut();
            let Some(timer) = timers.first_entry().filter(|timer| timer.key().0 <= next) else {
                return;
            };
            let waker = timer.remove();
            drop(timers);
            waker.wake();
        }
    }

    /// Waits until the clock has reached `deadline`.
    pub(super) async fn sleep_until(&self, deadline: Duration) {
        let mut timer = Timer { executor: self, key: None };
        std::future::poll_fn(|cx| timer.poll(deadline, cx)).await;
    }

    /// Drops all tasks and timers.
    pub(super) fn clear(&self) {
        assert!(!self.running.get(), "a task cannot end the simulation");
        // A destructor may spawn; that task dies as well.
        loop {
            let tasks = self.tasks.take();
            if tasks.is_empty() {
                break;
            }
            // By number, because destructors leave traces and a map's order is random.
            let mut tasks: Vec<_> = tasks.into_iter().collect();
            tasks.sort_by_key(|(id, _)| *id);
            drop(tasks);
        }
        self.timers.take();
        self.ready().clear();
    }

    fn waker(&self, id: TaskId) -> Arc<TaskWaker> {
        Arc::new(TaskWaker { id, queued: AtomicBool::new(false), ready: Arc::clone(&self.ready) })
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, VecDeque<TaskId>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Arc<TaskWaker>) -> Poll<F::Output> {
    // Before the poll: a wake-up during it means that it must be polled again.
    waker.queued.store(false, Ordering::Relaxed);
    future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(waker))))
}

/// Marks the end of `block_on`, also by a panic.
struct Running<'a>(&'a Executor);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        self.0.halted.set(false);
        // The main future is gone: what woke it must not wake the next one.
        self.0.ready().retain(|&id| id != MAIN);
    }
}

struct Timer<'a> {
    executor: &'a Executor,
    key: Option<TimerKey>,
}

impl Timer<'_> {
    fn poll(&mut self, deadline: Duration, cx: &mut Context<'_>) -> Poll<()> {
        if self.executor.now() >= deadline {
            return Poll::Ready(());
        }
        let key = *self.key.get_or_insert_with(|| {
            let number = self.executor.timers_made.get();
            self.executor.timers_made.set(number + 1);
            (deadline, number)
        });
        let mut timers = self.executor.timers.borrow_mut();
        timers.insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.executor.timers.borrow_mut().remove(&key);
        }
    }
}
