//! The log from any runtime and any thread; callers that go away, hang on, or panic.
#![allow(clippy::unwrap_used)] // also outside of functions that are tests themselves

mod common;

use bytes::Bytes;
use common::child;
use common::logs::{HANG, within};
use futures_executor::block_on;
use futures_util::TryStreamExt;
use seawal::{
    Backend, Entries, Entry, Error, ErrorKind, HardState, Options, Reader, Result, Ticket, Wal,
};
use std::error::Error as StdError;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tempfile::TempDir;

fn new_dir() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    (parent, dir)
}

fn threads() -> Options {
    Options::new().backend(Backend::Threads).segment_bytes(256 << 10)
}

fn read_all(wal: &Wal) -> Vec<Entry> {
    wal.read(..).blocking().collect::<Result<_>>().unwrap()
}

/// Indexes 1, 2, 3, ... without a gap.
fn assert_no_gap(entries: &[Entry]) {
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
    assert_eq!(indexes, (1..=entries.len() as u64).collect::<Vec<_>>());
}

// Any runtime.

/// A life of a log, with no help from a runtime.
async fn live(dir: PathBuf) -> Result<()> {
    let (wal, recovery) =
        Wal::open_or_create(&dir, Options::new().segment_bytes(256 << 10)).await?;
    assert_eq!(recovery.last_index, None);
    assert_eq!(wal.append("one").await?, 1);
    let second = wal.submit(Bytes::from_static(b"two")).await?;
    assert_eq!(second.indexes(), 2..3);
    let batch = wal.append_batch(["three", "four"]).await?;
    assert_eq!(batch, 3..5);
    assert_eq!(second.await?, 2..3);
    wal.wait_durable(4).await?;
    assert_eq!((wal.last_index(), wal.durable_index()), (4, 4));
    let entries: Vec<Entry> = wal.read(2..).try_collect().await?;
    let payloads: Vec<&[u8]> = entries.iter().map(|entry| &entry.data[..]).collect();
    assert_eq!(payloads, [&b"two"[..], b"three", b"four"]);
    assert_eq!(wal.close().await?, 4);
    assert_eq!(wal.append("five").await.unwrap_err().kind(), ErrorKind::Closed);

    let (reader, recovery) = Reader::open(&dir, Options::new()).await?;
    assert_eq!(recovery.last_index, Some(4));
    assert_eq!(reader.read(..).try_collect::<Vec<_>>().await?.len(), 4);
    Ok(())
}

#[test]
fn tokio_multi_thread() {
    within(HANG, "tokio", || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let (_parent, dir) = new_dir();
        runtime.block_on(runtime.spawn(live(dir))).unwrap().unwrap();
    });
}

#[test]
fn tokio_current_thread() {
    within(HANG, "tokio", || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (_parent, dir) = new_dir();
        runtime.block_on(live(dir)).unwrap();
    });
}

#[test]
fn smol() {
    within(HANG, "smol", || {
        let (_parent, dir) = new_dir();
        smol::block_on(smol::spawn(live(dir))).unwrap();
    });
}

#[test]
fn futures_executor() {
    within(HANG, "futures_executor", || {
        let (_parent, dir) = new_dir();
        futures_executor::block_on(live(dir)).unwrap();
    });
}

/// The submission thread has a runtime of its own; opening from inside one must not notice.
#[test]
fn blocking_twins_from_a_blocking_task() {
    within(HANG, "a blocking task", || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (_parent, dir) = new_dir();
        let task = runtime.spawn_blocking(move || {
            let (wal, _) = Wal::open_or_create_blocking(&dir, Options::new()).unwrap();
            assert_eq!(wal.append_blocking("one").unwrap(), 1);
            assert_eq!(wal.append_batch_blocking(["two"; 2]).unwrap(), 2..4);
            let ticket = wal.submit_blocking("four").unwrap();
            assert_eq!(ticket.indexes(), 4..5);
            assert_eq!(wal.close_blocking().unwrap(), 4);
            assert_eq!(Reader::snapshots_blocking(&dir).unwrap().len(), 1);
        });
        runtime.block_on(task).unwrap();
    });
}

#[test]
fn many_tasks_on_two_handles_get_each_index_once() {
    within(HANG, "many tasks", || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(3).build().unwrap();
        let (_parent, dir) = new_dir();
        runtime.block_on(async {
            let wal = Wal::create(&dir, Options::new().segment_bytes(64 << 10)).await.unwrap();
            let tasks: Vec<_> = (0..64)
                .map(|task| {
                    let wal = wal.clone();
                    tokio::spawn(async move {
                        let mut acked = Vec::new();
                        for at in 0..20 {
                            let payload = format!("task {task} record {at}");
                            acked.push((wal.append(payload.clone()).await.unwrap(), payload));
                        }
                        acked
                    })
                })
                .collect();
            let mut acked = Vec::new();
            for task in tasks {
                let of_one = task.await.unwrap();
                assert!(of_one.is_sorted(), "a caller's records keep their order");
                acked.extend(of_one);
            }
            acked.sort();
            let entries: Vec<Entry> = wal.read(..).try_collect().await.unwrap();
            assert_no_gap(&entries);
            let found: Vec<(u64, String)> = entries
                .iter()
                .map(|entry| (entry.index, String::from_utf8(entry.data.to_vec()).unwrap()))
                .collect();
            assert_eq!(found, acked);
            wal.close().await.unwrap();
        });
    });
}

// Types.

fn is_send_static<T: Send + 'static>(_: &T) {}
fn is_send<T: Send>(_: &T) {}
fn is_sync<T: Sync>(_: &T) {}

/// Compiles, so futures go to any executor.
#[test]
fn futures_are_send_and_static() {
    let (_parent, dir) = new_dir();
    is_send_static(&Wal::create(dir.clone(), Options::new()));
    is_send_static(&Wal::open(dir.clone(), Options::new()));
    is_send_static(&Wal::open_or_create(dir.clone(), Options::new()));
    is_send_static(&Reader::open(dir.clone(), Options::new()));
    let wal = Wal::create_blocking(&dir, threads()).unwrap();
    is_send(&wal.append("x"));
    is_send(&wal.append_batch(["x"]));
    is_sync(&wal.append("x"));
    is_send_static(&wal.submit("x"));
    is_send_static(&wal.submit_batch(["x"]));
    is_send(&wal.save(HardState::default(), Vec::new()));
    is_send(&wal.save_snapshot(seawal::Snapshot::default()));
    is_send_static(&wal.read(..));
    is_send(&wal.wait_durable(1));
    is_send(&wal.close());
    assert_eq!(wal.last_index(), 0, "what is not polled appends nothing");
    wal.close_blocking().unwrap();
}

const _: () = {
    const fn wal<T: Clone + Send + Sync + std::fmt::Debug + 'static>() {}
    const fn error<T: Clone + Send + Sync + StdError + 'static>() {}
    const fn send_sync<T: Send + Sync + 'static>() {}
    const fn send<T: Send + Unpin + 'static>() {}
    wal::<Wal>();
    wal::<Reader>();
    wal::<Options>();
    error::<Error>();
    send_sync::<Ticket>();
    send::<Entries>();
};

#[test]
fn error_chain_reaches_the_operating_system() {
    let (_parent, dir) = new_dir();
    let error = Wal::open_blocking(&dir, Options::new()).unwrap_err();
    let source = error.source().expect("a source");
    let os = source.downcast_ref::<std::io::Error>().expect("an error of the operating system");
    assert_eq!(os.kind(), std::io::ErrorKind::NotFound);
    let boxed: Box<dyn StdError + Send + Sync> = error.clone().into();
    assert_eq!(boxed.to_string(), error.to_string());
}

// A submission thread that is held up, or panics, by what the callers' wakers do.

/// Holds the submission thread inside a wake-up until it is let go.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    panics: AtomicBool,
}

#[derive(Default)]
struct GateState {
    reached: bool,
    open: bool,
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        let mut state = self.state.lock().unwrap();
        state.reached = true;
        self.changed.notify_all();
        let state = self.changed.wait_while(state, |state| !state.open).unwrap();
        drop(state);
        assert!(!self.panics.load(Ordering::SeqCst), "boom of a waker");
    }
}

impl Gate {
    /// Makes the submission thread of `wal` stand still; it has just made one record durable.
    fn close(wal: &Wal) -> Arc<Gate> {
        loop {
            let gate = Arc::new(Gate::default());
            let waker = Waker::from(Arc::clone(&gate));
            let mut ticket = pin!(wal.submit_blocking("held up").unwrap());
            // Durable before it could be polled: try again.
            if ticket.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                continue;
            }
            let state = gate.state.lock().unwrap();
            let (state, timeout) =
                gate.changed.wait_timeout_while(state, HANG, |state| !state.reached).unwrap();
            assert!(!timeout.timed_out(), "the append does not become durable");
            drop(state);
            return gate;
        }
    }

    fn open(&self) {
        self.state.lock().unwrap().open = true;
        self.changed.notify_all();
    }

    fn panic(&self) {
        self.panics.store(true, Ordering::SeqCst);
        self.open();
    }
}

/// A payload that panics where the log drops it: on the submission thread, as it is too large to be copied.
struct Bomb;

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        &[b'b'; 4096]
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert_ne!(std::thread::current().name(), Some("seawal"), "boom of a payload");
    }
}

fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

type Submission = Pin<Box<dyn Future<Output = Result<Ticket>> + Send>>;

/// Submits until the queue is full. Gives the tickets, and the submission that waits.
fn fill(wal: &Wal) -> (Vec<Ticket>, Submission) {
    let mut tickets = Vec::new();
    loop {
        let mut submission = Box::pin(wal.submit("fill"));
        match poll_once(submission.as_mut()) {
            Poll::Ready(ticket) => tickets.push(ticket.unwrap()),
            Poll::Pending => return (tickets, submission),
        }
        assert!(tickets.len() < 1000, "4 KiB of queue have no room for this");
    }
}

fn small_queue() -> (TempDir, PathBuf, Wal) {
    let (parent, dir) = new_dir();
    let wal = Wal::create_blocking(&dir, threads().queue_bytes_max(4 << 10)).unwrap();
    (parent, dir, wal)
}

#[test]
fn submit_waits_when_the_queue_is_full_and_goes_on_when_there_is_room() {
    within(HANG, "a full queue", || {
        let (_parent, _dir, wal) = small_queue();
        let gate = Gate::close(&wal);
        let before = wal.last_index();
        let (tickets, mut waiting) = fill(&wal);
        assert!(!tickets.is_empty());
        assert_eq!(wal.last_index(), before + tickets.len() as u64, "who waits has no index yet");
        assert!(poll_once(waiting.as_mut()).is_pending());
        // A larger record waits as well, and may pass nobody.
        let mut large = Box::pin(wal.submit(vec![0; 100_000]));
        assert!(poll_once(large.as_mut()).is_pending());
        gate.open();
        let next = tickets.last().unwrap().indexes().end;
        assert_eq!(block_on(waiting).unwrap().indexes(), next..next + 1);
        assert_eq!(block_on(large).unwrap().indexes(), next + 1..next + 2);
        for ticket in tickets {
            block_on(ticket).unwrap();
        }
        wal.close_blocking().unwrap();
    });
}

#[test]
fn who_gives_up_waiting_for_room_leaks_none() {
    within(HANG, "a full queue", || {
        let (_parent, _dir, wal) = small_queue();
        let mut counts = Vec::new();
        for _ in 0..3 {
            let gate = Gate::close(&wal);
            let before = wal.last_index();
            let (tickets, waiting) = fill(&wal);
            drop(waiting);
            counts.push(tickets.len());
            gate.open();
            let last = before + tickets.len() as u64;
            drop(tickets);
            // Behind all of them, so their room is free again.
            assert_eq!(
                wal.append_blocking("behind").unwrap(),
                last + 1,
                "who gave up took no index"
            );
        }
        assert!(counts.iter().all(|&count| count == counts[0]), "room was lost: {counts:?}");
        wal.close_blocking().unwrap();
    });
}

#[test]
fn cancelled_appends_leave_no_gap_and_no_hang() {
    within(HANG, "cancelled appends", || {
        let (_parent, dir) = new_dir();
        let wal = Wal::create_blocking(&dir, threads()).unwrap();
        let gate = Gate::close(&wal);
        let held_up = wal.last_index();
        for at in 0..50 {
            let mut append = Box::pin(wal.append(format!("cancelled {at}")));
            assert!(poll_once(append.as_mut()).is_pending());
            drop(append);
            drop(wal.append("never polled"));
            let mut batch =
                Box::pin(wal.append_batch([format!("batch {at}"), format!("batch {at}")]));
            assert!(poll_once(batch.as_mut()).is_pending());
            drop(batch);
        }
        gate.open();
        let index = wal.append_blocking("last").unwrap();
        let entries = read_all(&wal);
        assert_no_gap(&entries);
        assert_eq!(entries.last().unwrap().index, index);
        let after: Vec<&[u8]> =
            entries[held_up as usize..].iter().map(|entry| &entry.data[..]).collect();
        let mut expected: Vec<String> = (0..50)
            .flat_map(|at| {
                [format!("cancelled {at}"), format!("batch {at}"), format!("batch {at}")]
            })
            .collect();
        expected.push("last".into());
        assert_eq!(after, expected.iter().map(String::as_bytes).collect::<Vec<_>>());
        wal.close_blocking().unwrap();
    });
}

#[test]
fn cancelled_close_goes_on() {
    within(HANG, "a cancelled close", || {
        let (_parent, dir) = new_dir();
        let wal = Wal::create_blocking(&dir, threads()).unwrap();
        let gate = Gate::close(&wal);
        let last = wal.submit_blocking("accepted").unwrap().indexes().start;
        let mut close = Box::pin(wal.close());
        assert!(poll_once(close.as_mut()).is_pending());
        drop(close);
        assert_eq!(wal.append_blocking("too late").unwrap_err().kind(), ErrorKind::Closed);
        gate.open();
        let (wal, recovery) = Wal::open_blocking(&dir, threads()).unwrap();
        assert_eq!(recovery.last_index, Some(last));
        wal.close_blocking().unwrap();
    });
}

#[test]
fn dropping_the_last_handle_does_not_block_and_loses_nothing() {
    within(HANG, "dropping", || {
        let (_parent, dir) = new_dir();
        let wal = Wal::create_blocking(&dir, threads()).unwrap();
        let gate = Gate::close(&wal);
        let other = wal.clone();
        let tickets: Vec<Ticket> =
            (0..100).map(|at| wal.submit_blocking(format!("accepted {at}")).unwrap()).collect();
        let last = tickets.last().unwrap().indexes().start;
        drop(wal);
        assert_eq!(other.last_index(), last, "a clone keeps it open");
        // The submission thread stands still: if this waited for it, it would hang.
        drop(other);
        gate.open();
        // Who still has a ticket gets the answer.
        for ticket in tickets {
            block_on(ticket).unwrap();
        }
        let (wal, recovery) = Wal::open_blocking(&dir, threads()).unwrap();
        assert_eq!(recovery.last_index, Some(last));
        assert_no_gap(&read_all(&wal));
        wal.close_blocking().unwrap();
    });
}

#[test]
fn panic_on_the_submission_thread_poisons_and_nobody_hangs() {
    within(HANG, "after a panic", || {
        let (_parent, dir) = new_dir();
        let wal = Wal::create_blocking(&dir, threads().recent_bytes_max(0)).unwrap();
        wal.append_blocking("durable").unwrap();
        let gate = Gate::close(&wal);
        let durable = wal.last_index();
        let bomb = wal.submit_blocking(Bytes::from_owner(Bomb)).unwrap();
        let waiting: Vec<Ticket> = (0..10).map(|_| wal.submit_blocking("waits").unwrap()).collect();
        let until = std::thread::spawn({
            let wal = wal.clone();
            move || block_on(wal.wait_durable(durable + 100))
        });
        let mut reading = wal.read(..).blocking();
        gate.open();

        // It goes off before anyone in its group is told.
        assert_eq!(block_on(bomb).unwrap_err().kind(), ErrorKind::Poisoned);
        for ticket in waiting {
            let error = block_on(ticket).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
        }
        let error = until.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");

        let panicked = |error: Error| {
            assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
            assert!(error.to_string().contains("boom of a payload"), "{error}");
            assert!(error.next_step().is_some(), "{error}");
        };
        panicked(wal.append_blocking("later").unwrap_err());
        panicked(wal.append_batch_blocking(["later"]).unwrap_err());
        panicked(
            block_on(wal.save(HardState { term: 1, vote: 1, commit: 0 }, vec![])).unwrap_err(),
        );
        panicked(block_on(wal.wait_durable(durable + 100)).unwrap_err());
        let first_read = reading.find_map(Result::err);
        panicked(first_read.expect("there is no thread to read"));
        panicked(
            wal.read(..).blocking().find_map(Result::err).expect("there is no thread to read"),
        );
        panicked(wal.close_blocking().unwrap_err());
        drop((reading, wal));

        let (wal, recovery) = Wal::open_blocking(&dir, threads()).unwrap();
        assert!(recovery.last_index >= Some(durable));
        assert_no_gap(&read_all(&wal));
        wal.close_blocking().unwrap();
    });
}

/// On the threads backend commits block the submission thread. Under appends that never cease, reads still get their
/// turn: a read ends long before the queue does.
#[test]
fn busy_appenders_do_not_starve_readers() {
    within(HANG, "a reader beside appenders", || {
        let (_parent, dir) = new_dir();
        let small_groups = threads().group_bytes_max(4 << 10);
        let wal = Wal::create_blocking(&dir, small_groups).unwrap();
        wal.append_blocking("first").unwrap();
        let tickets: Vec<Ticket> =
            (0..20_000).map(|_| wal.submit_blocking(vec![b'x'; 1000]).unwrap()).collect();
        assert_eq!(wal.read(1..2).blocking().count(), 1);
        let (durable, last) = (wal.durable_index(), wal.last_index());
        assert!(durable < last, "the read waited until all {last} appends were done");
        for ticket in tickets {
            ticket.wait_blocking().unwrap();
        }
        wal.close_blocking().unwrap();
    });
}

/// A waker is the caller's code. If it panics, that is nobody else's trouble.
#[test]
fn wakers_that_panic_harm_nobody() {
    within(HANG, "wakers that panic", || {
        let (_parent, dir) = new_dir();
        let wal = Wal::create_blocking(&dir, threads()).unwrap();
        let gate = Gate::close(&wal);
        let angry = Arc::new(Gate::default());
        angry.panic();
        let waker = Waker::from(angry);
        let mut tickets: Vec<Ticket> =
            (0..5).map(|_| wal.submit_blocking("waits").unwrap()).collect();
        for ticket in &mut tickets[..3] {
            assert!(pin!(ticket).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        let mut durable = pin!(wal.wait_durable(wal.last_index()));
        assert!(durable.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        gate.open();
        for ticket in tickets {
            ticket.wait_blocking().unwrap();
        }
        wal.append_blocking("goes on").unwrap();
        block_on(durable).unwrap();
        wal.close_blocking().unwrap();
    });
}

/// A log dies while one closes it whose waker panics: the others are told all the same.
#[test]
fn panicking_waker_of_who_closes_harms_nobody() {
    within(HANG, "after a waker that panics", || {
        let (_parent, dir) = new_dir();
        let wal = Wal::create_blocking(&dir, threads()).unwrap();
        let gate = Gate::close(&wal);
        let bomb = wal.submit_blocking(Bytes::from_owner(Bomb)).unwrap();
        let mut until = pin!(wal.wait_durable(wal.last_index() + 100));
        assert!(poll_once(until.as_mut()).is_pending());
        let angry = Arc::new(Gate::default());
        angry.panic();
        let mut close = pin!(wal.close());
        let waker = Waker::from(angry);
        assert!(close.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        gate.open();
        assert_eq!(block_on(bomb).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(block_on(until).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(block_on(close).unwrap_err().kind(), ErrorKind::Poisoned);
    });
}

/// A waker that is the last to own something: with the waker that goes too, as a task does.
struct Owns(#[expect(dead_code, reason = "it is there to be dropped")] Box<dyn Send + Sync>);

impl Wake for Owns {
    fn wake(self: Arc<Self>) {}
}

type Held = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Everything of a log that takes a lock of it when it goes.
fn all_held(wal: &Wal, tickets: &mut Vec<Ticket>) -> Vec<Held> {
    let (ticket, asked) = (tickets.pop().unwrap(), tickets.pop().unwrap());
    let (appends, waits) = (wal.clone(), wal.clone());
    let mut held: Vec<Held> = vec![
        Box::pin(async { drop(ticket.await) }),
        Box::pin(async move { drop(asked.written().await) }),
        Box::pin(async move { drop(appends.append("waits for room").await) }),
        Box::pin(async move { drop(waits.wait_durable(u64::MAX >> 1).await) }),
    ];
    held.iter_mut().for_each(|held| assert!(poll_once(held.as_mut()).is_pending()));
    held
}

/// A waker may be the last owner of a task, and the task may hold futures of the log: they go when the log lets go of
/// the waker, and take locks of the log then. Dropped under one of these, such a waker hung its thread for ever.
fn wakers_that_own(what: &'static str, which: usize) {
    within(HANG, what, move || {
        let (_parent, dir) = new_dir();
        let wal = Wal::create_blocking(&dir, threads().queue_bytes_max(32 << 10)).unwrap();
        let gate = Gate::close(&wal);
        let (mut tickets, _first_in_line) = fill(&wal);
        for owned in 0..4 {
            for replaced in [true, false] {
                let mut waits = all_held(&wal, &mut tickets).swap_remove(which);
                let owned = all_held(&wal, &mut tickets).swap_remove(owned);
                let waker = Waker::from(Arc::new(Owns(Box::new(Mutex::new(owned)))));
                assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                drop(waker);
                // Now the log alone has it.
                if replaced {
                    assert!(poll_once(waits.as_mut()).is_pending());
                }
                drop(waits);
            }
        }
        gate.open();
        wal.append_blocking("goes on").unwrap();
        wal.close_blocking().unwrap();
    });
}

#[test]
fn waker_of_a_ticket_may_own_others() {
    wakers_that_own("the waker of a ticket", 0);
}

#[test]
fn waker_of_a_look_may_own_others() {
    wakers_that_own("the waker of `written`", 1);
}

#[test]
fn waker_of_who_waits_for_room_may_own_others() {
    wakers_that_own("the waker of an append", 2);
}

#[test]
fn waker_of_who_waits_for_the_mark_may_own_others() {
    wakers_that_own("the waker of `wait_durable`", 3);
}

// One writer.

#[test]
fn second_open_in_this_process_is_refused() {
    within(HANG, "a second open", || {
        let (_parent, dir) = new_dir();
        let wal = Wal::create_blocking(&dir, threads()).unwrap();
        wal.append_blocking("mine").unwrap();
        let short = || threads().lock_wait(Duration::from_millis(20));
        for error in [
            Wal::open_blocking(&dir, short()).unwrap_err(),
            Wal::open_or_create_blocking(&dir, short()).unwrap_err(),
            Wal::open_blocking(&dir, short().backend(Backend::Auto)).unwrap_err(),
        ] {
            assert!(error.is_locked(), "{error:?}");
            assert!(error.path().is_some() && error.next_step().is_some(), "{error}");
        }
        let (reader, _) = Reader::open_blocking(&dir, threads()).unwrap();
        assert_eq!(reader.read(..).blocking().count(), 1, "a reader takes no lock");
        assert_eq!(wal.append_blocking("still mine").unwrap(), 2);
        wal.close_blocking().unwrap();
        let (wal, _) = Wal::open_blocking(&dir, short()).unwrap();
        assert_eq!(read_all(&wal).len(), 2);
        wal.close_blocking().unwrap();
    });
}

/// The lock moves on with the newest segment, and there is no moment at which nobody holds it.
#[test]
fn second_open_is_refused_after_rotation() {
    within(HANG, "a second open", || {
        let (_parent, dir) = new_dir();
        let wal = Wal::create_blocking(&dir, threads().segment_bytes(16 << 10)).unwrap();
        for _ in 0..20 {
            wal.append_blocking(vec![0; 8000]).unwrap();
            let error = Wal::open_blocking(&dir, threads().lock_wait(Duration::ZERO)).unwrap_err();
            assert!(error.is_locked(), "{error:?}");
        }
        wal.close_blocking().unwrap();
    });
}

#[test]
fn second_open_in_another_process_is_refused() {
    if let Some(dir) = child::task() {
        let options = threads().lock_wait(Duration::from_millis(20));
        let outcome = Wal::open_blocking(Path::new(&dir), options);
        return child::answer(&match outcome {
            Ok(_) => "opened".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        });
    }
    let (_parent, dir) = new_dir();
    let name = "second_open_in_another_process_is_refused";
    let ask =
        || child::answers(&child::command(&[], name, dir.to_str().unwrap()).output().unwrap());
    let wal = Wal::create_blocking(&dir, threads()).unwrap();
    assert_eq!(ask(), ["Locked"]);
    wal.close_blocking().unwrap();
    assert_eq!(ask(), ["opened"]);
}

/// An open that waits gets the log as soon as it is closed.
#[test]
fn open_waits_for_the_lock() {
    within(HANG, "waiting for the lock", || {
        let (_parent, dir) = new_dir();
        let wal = Wal::create_blocking(&dir, threads()).unwrap();
        let second = std::thread::spawn({
            let dir = dir.clone();
            move || Wal::open_blocking(&dir, threads().lock_wait(HANG)).map(|(wal, _)| wal)
        });
        wal.append_blocking("first").unwrap();
        wal.close_blocking().unwrap();
        let wal = second.join().unwrap().unwrap();
        assert_eq!(wal.append_blocking("second").unwrap(), 2);
        wal.close_blocking().unwrap();
    });
}
