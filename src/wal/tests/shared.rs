//! Two logs on one submission thread, on a real disk.

use super::*;
use crate::commit::policy::{GroupDecision, GroupPolicy, GroupView, PolicyMaker};
use crate::io::Backend;
use std::path::PathBuf;

const HANG: Duration = Duration::from_secs(30);

/// Panics on the submission thread when it is asked for the second group.
#[derive(Debug)]
struct Panics {
    asked: u32,
}

impl GroupPolicy for Panics {
    fn next(&mut self, _view: &GroupView) -> GroupDecision {
        self.asked += 1;
        assert!(self.asked < 2, "boom of a policy");
        GroupDecision::Commit
    }
}

fn on(thread: &SubmissionThread) -> Options {
    Options::new().submission_thread(thread).segment_bytes(64 << 10)
}

fn panicking(thread: &SubmissionThread) -> Options {
    let policy = PolicyMaker(Arc::new(|| Box::new(Panics { asked: 0 })));
    Options { group_policy: Some(policy), ..on(thread) }
}

std::thread_local! {
    /// Dropped when the thread ends.
    static ALIVE: RefCell<Option<flume::Sender<()>>> = const { RefCell::new(None) };
}

/// Leaves something on the submission thread that tells when the thread has ended.
fn tells_its_end(thread: &SubmissionThread) -> (Options, flume::Receiver<()>) {
    let (alive, ended) = flume::bounded(0);
    let policy = PolicyMaker(Arc::new(move || {
        ALIVE.set(Some(alive.clone()));
        Box::<crate::commit::policy::Adaptive>::default()
    }));
    (Options { group_policy: Some(policy), ..on(thread) }, ended)
}

/// Whether the other side has gone, within reason.
fn is_gone(ended: &flume::Receiver<()>) -> bool {
    ended.recv_timeout(HANG) == Err(flume::RecvTimeoutError::Disconnected)
}

fn thread() -> SubmissionThread {
    SubmissionThread::start(&Options::new().backend(Backend::Threads)).unwrap()
}

fn two_dirs() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let (a, b) = (parent.path().join("a"), parent.path().join("b"));
    (parent, a, b)
}

fn read_all(wal: &Wal) -> usize {
    pollster::block_on(collect(wal.read(..))).unwrap().len()
}

/// A panic in one log's work poisons that log alone, and it can be opened again on the same thread.
#[test]
fn panic_of_one_log_leaves_the_other_alive() {
    let (_parent, a, b) = two_dirs();
    let thread = thread();
    let (good, _) = Wal::open_or_create_blocking(&a, on(&thread)).unwrap();
    let (bad, _) = Wal::open_or_create_blocking(&b, panicking(&thread)).unwrap();
    assert_eq!(good.append_blocking("one").unwrap(), 1);
    assert_eq!(bad.append_blocking("one").unwrap(), 1);
    let error = bad.append_blocking("two").unwrap_err();
    assert!(error.is_poisoned() && error.to_string().contains("boom of a policy"), "{error}");
    for n in 2..=100 {
        assert_eq!(good.append_blocking(payload(n, 2000)).unwrap(), n);
    }
    assert_eq!(read_all(&good), 100);
    assert!(bad.append_blocking("three").unwrap_err().is_poisoned());
    assert!(bad.close_blocking().unwrap_err().is_poisoned());

    let (again, recovery) = Wal::open_blocking(&b, on(&thread)).unwrap();
    assert!(recovery.last_index >= Some(1));
    again.append_blocking("on").unwrap();
    assert_eq!(again.close_blocking().unwrap(), recovery.last_index.unwrap() + 1);
    assert_eq!(good.close_blocking().unwrap(), 100);
}

/// A log that cannot be opened, or is closed, is of no concern to the other; both can be opened again.
#[test]
fn closing_and_reopening_one_log_leaves_the_other_alive() {
    let (_parent, a, b) = two_dirs();
    let thread = thread();
    let (one, _) = Wal::open_or_create_blocking(&a, on(&thread)).unwrap();
    for round in 1..=5 {
        assert_eq!(
            Wal::open_blocking(b.join("none"), on(&thread)).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        let locked = on(&thread).lock_wait(Duration::ZERO);
        assert!(Wal::open_blocking(&a, locked).unwrap_err().is_locked());
        let (two, recovery) = Wal::open_or_create_blocking(&b, on(&thread)).unwrap();
        assert_eq!(recovery.last_index.unwrap_or(0), round - 1);
        let (first, second) = pollster::block_on(futures_util::future::join(
            one.append(payload(round, 3000)),
            two.append(payload(round, 300)),
        ));
        assert_eq!((first.unwrap(), second.unwrap()), (round, round));
        assert_eq!((read_all(&one), read_all(&two)), (round as usize, round as usize));
        if round % 2 == 0 {
            // Without waiting: what was accepted becomes durable in the background, then the lock goes.
            drop(two);
        } else {
            assert_eq!(two.close_blocking().unwrap(), round);
        }
    }
    assert_eq!(one.close_blocking().unwrap(), 5);
}

/// The thread lives as long as a handle to it, or a log on it, and no longer.
#[test]
fn thread_ends_after_the_last_log() {
    let (_parent, a, b) = two_dirs();
    let thread = thread();
    let (options, ended) = tells_its_end(&thread);
    let (one, _) = Wal::open_or_create_blocking(&a, options).unwrap();
    one.append_blocking("one").unwrap();
    one.close_blocking().unwrap();
    assert!(ended.recv_timeout(Duration::from_millis(20)).is_err());
    let (two, _) = Wal::open_or_create_blocking(&b, on(&thread)).unwrap();
    drop(thread);
    drop(one);
    two.append_blocking("the log holds its thread").unwrap();
    assert_eq!(
        ended.recv_timeout(Duration::from_millis(20)),
        Err(flume::RecvTimeoutError::Timeout)
    );
    two.close_blocking().unwrap();
    drop(two);
    assert!(is_gone(&ended), "the thread has ended");
}

/// The same when the last log on it panics, and its handle lives on.
#[test]
fn thread_ends_after_a_panic() {
    let (_parent, a, b) = two_dirs();
    let thread = thread();
    let (options, ended) = tells_its_end(&thread);
    let (one, _) = Wal::open_or_create_blocking(&a, options).unwrap();
    let (bad, _) = Wal::open_or_create_blocking(&b, panicking(&thread)).unwrap();
    drop(thread);
    drop(one);
    bad.append_blocking("one").unwrap();
    assert!(bad.append_blocking("two").unwrap_err().is_poisoned());
    assert!(is_gone(&ended), "the thread has ended");
    assert!(bad.append_blocking("three").unwrap_err().is_poisoned());
}
