//! Work that must not run on the submission thread: checking gigabytes takes CPU, and reading them may block.
//!
//! A few helper threads, of the disk and not of the process. They start with the first work, one for each piece of work
//! that finds nobody idle, up to [`threads_max`]; they end when nothing came for a while, and with the disk.
//!
//! # Invariants
//!
//! 1. Work that was handed over owns all it touches, and is run or dropped; either way whoever waits is told
//!    ([`Queued`]). A panic of it is the waiter's error, and the helper goes on.
//! 2. Work that nobody waits for any more ends at its next read: its file gives an error from then on.
//! 3. When [`Helpers::stop`] returns, no work is running or will be.

use std::collections::VecDeque;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::fs::Advice;

use super::fill::Fill;
use super::{BlockingFile, plain};

/// Helper threads at most: more read no faster than memory gives.
const THREADS_MAX: usize = 4;

/// An idle helper ends after so long.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// How many pieces of work run at the same time.
pub(super) fn threads_max() -> usize {
    // Asking takes several system calls.
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (*CORES.get_or_init(cores)).min(THREADS_MAX)
}

/// An operation on its way to a helper, and its answer on the way back, in one piece of memory.
pub(super) struct Operation<F, T>(Mutex<Stage<F, T>>);

struct Stage<F, T> {
    operation: Option<F>,
    answer: Option<T>,
    /// There will be no other answer.
    ended: bool,
    waker: Option<Waker>,
}

impl<F, T> Operation<F, T> {
    pub(super) fn new(operation: F) -> Operation<F, T> {
        let stage = Stage { operation: Some(operation), answer: None, ended: false, waker: None };
        Operation(Mutex::new(stage))
    }

    fn lock(&self) -> MutexGuard<'_, Stage<F, T>> {
        // Nothing panics under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer; `None` if the operation panicked or was never run.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<Option<T>> {
        let mut stage = self.lock();
        if stage.ended {
            return Poll::Ready(stage.answer.take());
        }
        stage.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// An operation of any kind, as a helper sees it.
pub(super) trait Run: Send + Sync {
    fn run(&self);
    fn end(&self);
}

impl<F: FnOnce() -> T + Send, T: Send> Run for Operation<F, T> {
    fn run(&self) {
        let operation = self.lock().operation.take();
        let answer = operation.map(|operation| operation());
        self.lock().answer = answer;
    }

    fn end(&self) {
        let mut stage = self.lock();
        stage.ended = true;
        let (operation, waker) = (stage.operation.take(), stage.waker.take());
        drop(stage);
        drop(operation);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// A helper's share of an operation: when it goes, run or not, the caller is told.
pub(super) struct Queued(pub(super) Arc<dyn Run>);

impl Queued {
    /// Runs it. A panic is caught: others would wait for ever. The caller learns of it when this is dropped, and nothing
    /// else is shared with the operation.
    pub(super) fn run(self) {
        let _ = catch_unwind(AssertUnwindSafe(|| self.0.run()));
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The helpers of a disk.
#[derive(Default)]
pub(super) struct Helpers(Arc<Meeting>);

/// Where those who bring work meet the helpers.
#[derive(Default)]
struct Meeting {
    state: Mutex<State>,
    /// There is work, or none will come.
    work: Condvar,
    /// The last helper has gone.
    gone: Condvar,
}

#[derive(Default)]
struct State {
    /// As long as the callers make it: each waits for what it brought.
    queue: VecDeque<Queued>,
    threads: usize,
    idle: usize,
    ended: bool,
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Helpers {
    /// Runs `work` with `file` on a helper. If this future is dropped, work that has begun ends at its next read.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        file: Arc<File>,
        direct: bool,
        work: impl FnOnce(&dyn BlockingFile) -> T + Send + 'static,
    ) -> io::Result<T> {
        let waiter = Waiter(Arc::default());
        let file = HelpersFile { file, direct, unwanted: Arc::clone(&waiter.0) };
        let operation = Arc::new(Operation::new(move || work(&file)));
        self.bring(Queued(Arc::clone(&operation) as Arc<dyn Run>))?;
        let answer = poll_fn(|context| operation.poll(context)).await;
        answer.ok_or_else(|| io::Error::other("work on a thread seawal-helper panicked"))
    }

    fn bring(&self, work: Queued) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.ended {
            drop(state);
            return Err(io::Error::other("the threads seawal-helper have ended"));
        }
        state.queue.push_back(work);
        if state.queue.len() > state.idle && state.threads < threads_max() {
            let meeting = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("seawal-helper".to_owned());
            match thread.spawn(move || help(&meeting)) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    let work = state.queue.pop_back();
                    drop(state);
                    drop(work);
                    return Err(error);
                }
                // Those there are will do it.
                Err(_) => {}
            }
        }
        drop(state);
        self.0.work.notify_one();
        Ok(())
    }

    /// Drops what has not begun, waits for what has, and takes no more.
    pub(super) fn stop(&self) {
        let mut state = self.0.lock();
        state.ended = true;
        let left = std::mem::take(&mut state.queue);
        drop(state);
        drop(left);
        self.0.work.notify_all();
        let mut state = self.0.lock();
        while state.threads > 0 {
            state = self.0.gone.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The loop of a helper.
fn help(meeting: &Meeting) {
    let mut state = meeting.lock();
    loop {
        if let Some(work) = state.queue.pop_front() {
            drop(state);
            work.run();
            state = meeting.lock();
            continue;
        }
        if state.ended {
            break;
        }
        state.idle += 1;
        let (woken, wait) =
            meeting.work.wait_timeout(state, IDLE_MAX).unwrap_or_else(PoisonError::into_inner);
        state = woken;
        state.idle -= 1;
        if wait.timed_out() && state.queue.is_empty() {
            break;
        }
    }
    state.threads -= 1;
    drop(state);
    meeting.gone.notify_all();
}

/// Whoever waits for work; when he goes, it is not wanted any more.
struct Waiter(Arc<AtomicBool>);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A file in the hands of a helper. The description, and its lock, last as long as the work.
struct HelpersFile {
    file: Arc<File>,
    direct: bool,
    unwanted: Arc<AtomicBool>,
}

impl BlockingFile for HelpersFile {
    fn len(&self) -> io::Result<u64> {
        plain::length(&*self.file)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.unwanted.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for this any more"));
        }
        read(&self.file, offset, buf, self.direct)
    }

    fn will_read_on(&self) {
        if !self.direct {
            // Only advice: without it the file is read all the same.
            let _ = rustix::fs::fadvise(&*self.file, 0, None, Advice::Sequential);
        }
    }
}

/// Fills `buf`, or as much of it as the file has; says how much.
pub(super) fn read(file: &File, offset: u64, buf: &mut [u8], direct: bool) -> io::Result<usize> {
    let direct_end = direct.then(|| plain::length(file)).transpose()?;
    let mut fill = Fill::new(offset, buf.len(), direct_end);
    while !fill.is_full() {
        match file.read_at(&mut buf[fill.filled()..], fill.position()) {
            Ok(count) => {
                if fill.advance(count)? {
                    break;
                }
            }
            Err(error) if plain::is_interrupted(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(fill.filled())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    fn null() -> Arc<File> {
        Arc::new(File::open("/dev/null").unwrap())
    }

    #[test]
    fn helpers_are_few_and_go() {
        let helpers = Helpers::default();
        assert_eq!(helpers.0.lock().threads, 0, "none before there is work");
        let running = Arc::new(AtomicUsize::new(0));
        let mut works = Vec::new();
        for _ in 0..3 * THREADS_MAX {
            let running = Arc::clone(&running);
            works.push(Box::pin(helpers.run(null(), false, move |_| {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                std::thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
                now
            })));
        }
        for work in &mut works {
            assert!(work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        for work in works {
            assert!(pollster::block_on(work).unwrap() <= threads_max());
        }
        assert!(helpers.0.lock().threads <= threads_max());
        helpers.stop();
        assert_eq!(helpers.0.lock().threads, 0);
        let error = pollster::block_on(helpers.run(null(), false, |_| ())).unwrap_err();
        assert!(error.to_string().contains("have ended"), "{error}");
    }

    /// One helper at a time ends by itself, and work that comes just then is done all the same.
    #[test]
    fn idle_helpers_end_and_others_start() {
        let helpers = Helpers::default();
        pollster::block_on(helpers.run(null(), false, |_| ())).unwrap();
        std::thread::sleep(IDLE_MAX + Duration::from_millis(300));
        assert_eq!(helpers.0.lock().threads, 0);
        assert_eq!(pollster::block_on(helpers.run(null(), false, |_| 7)).unwrap(), 7);
        helpers.stop();
    }

    #[test]
    fn work_that_nobody_waits_for_ends_at_its_next_read() {
        let helpers = Helpers::default();
        let (begin, begun) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let mut work = Box::pin(helpers.run(null(), false, move |file| {
            begin.send(()).unwrap();
            gone.recv().unwrap();
            tell.send(file.read_at(0, &mut [0; 8]).is_err()).unwrap();
        }));
        assert!(work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        begun.recv().unwrap();
        drop(work);
        go.send(()).unwrap();
        assert!(told.recv().unwrap());
        helpers.stop();
    }
}
