//! Callers, and a committer without a disk, at the queue: see [`crate::loom_tests`].

use super::content::Content;
use super::group::{Group, Room};
use super::queue::{CloseReply, Limits, Order, Queue};
use super::ticket::Ticket;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{RecordRef, Records};
use crate::live::Live;
use crate::loom_tests::{Gone, check};
use crate::types::Durability;
use crate::types::Durability::{Durable, Written};
use loom::future::block_on;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread::{self, JoinHandle};
use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

/// A queue, and what its committer made durable.
struct Log {
    queue: Arc<Queue>,
    /// The last index. Loaded without order: who was not told *after* it moved may see it where it was.
    durable: AtomicU64,
    /// The payloads.
    records: Mutex<Vec<Vec<u8>>>,
    /// It says that a group is written before it says that it is durable.
    tells_written: bool,
}

impl Log {
    /// One with room for so many records.
    fn new(records: usize, tells_written: bool) -> Arc<Log> {
        let queue = Queue::new(Limits {
            room: Room { bytes: 1 << 20, records },
            group_records_max: 2,
            ..Limits::small()
        });
        let durable = AtomicU64::new(0);
        Arc::new(Log { queue: Arc::new(queue), durable, records: Mutex::default(), tells_written })
    }

    /// A thread that uses it.
    fn thread<T: 'static>(
        self: &Arc<Log>,
        work: impl FnOnce(&Log) -> T + 'static,
    ) -> JoinHandle<T> {
        let log = Arc::clone(self);
        thread::spawn(move || work(&log))
    }

    fn append(&self, payload: &'static str, wanted: Durability) -> Result<Range<u64>> {
        let outcome = block_on(self.queue.append(Content::one(payload), wanted));
        self.told(payload, outcome)
    }

    fn submit(&self, payload: &'static str) -> Result<Ticket> {
        block_on(self.queue.submit(Content::one(payload), Durable))
    }

    /// Whoever is told that his record is there can see it there.
    fn told(&self, payload: &str, outcome: Result<Range<u64>>) -> Result<Range<u64>> {
        if let Ok(indexes) = &outcome {
            assert_eq!(indexes.end, indexes.start + 1);
            assert!(self.durable.load(Ordering::Relaxed) >= indexes.start, "{payload}: too early");
            assert_eq!(
                self.records.lock().unwrap()[indexes.start as usize - 1],
                payload.as_bytes()
            );
        }
        outcome
    }

    /// What the committer does with a group.
    fn answer(&self, group: Group) {
        for at in 0..group.count() {
            let RecordRef::Entry { index, data, .. } = group.get(at) else {
                panic!("only entries")
            };
            assert_eq!(index, self.durable.load(Ordering::Relaxed) + 1, "the order of the log");
            self.records.lock().unwrap().push(data.to_vec());
            self.durable.store(index, Ordering::Relaxed);
        }
        if self.tells_written {
            self.queue.written(group.number);
        }
        self.queue.durable(group);
    }

    fn has(&self, payload: &str) -> bool {
        self.records.lock().unwrap().iter().any(|record| record == payload.as_bytes())
    }

    /// The committer: answers until all these are durable.
    fn commit_until(&self, payloads: &[&str]) {
        while !payloads.iter().all(|payload| self.has(payload)) {
            assert!(self.commit_one().is_none());
        }
    }

    /// The committer: answers until the log is to be closed.
    fn commit(&self) -> CloseReply {
        loop {
            if let Some(reply) = self.commit_one() {
                return reply;
            }
        }
    }

    fn commit_one(&self) -> Option<CloseReply> {
        let waiting = self.queue.waiting();
        if waiting.groups > 0 {
            self.answer(self.queue.take_group().expect("one waits"));
        } else if waiting.closing {
            return self.queue.take_close();
        } else {
            block_on(poll_fn(|context| self.queue.poll_waiting(1, context)));
        }
        None
    }

    /// Everyone else is done: answers what nobody waited for, and looks whether all room is free again.
    fn end(&self, room: usize) {
        while let Some(group) = self.queue.take_group() {
            self.answer(group);
        }
        let try_one = |_| self.queue.try_append(Content::one("x"), Durable);
        let tickets: Vec<_> = (0..room).map(|at| try_one(at).expect("all room is back")).collect();
        assert_eq!(try_one(room).unwrap_err().kind(), ErrorKind::Full);
        drop(tickets);
    }
}

fn poisoned() -> Error {
    Error::poisoned(&Error::new(ErrorKind::Io, "no"))
}

/// One appends while another closes the log: both are answered, and the close is the last.
#[test]
fn calls_are_answered_and_closing_is_the_last() {
    check(2, || {
        let log = Log::new(4, false);
        let appends = log.thread(|log| match log.append("one", Durable) {
            Ok(_) => 1,
            Err(error) => u64::from(!error.is_closed()),
        });
        let closes = log.thread(|log| {
            let (reply, outcome) = tokio::sync::oneshot::channel();
            log.queue.close(Error::closed(), Some(reply));
            block_on(outcome).unwrap().unwrap()
        });
        let reply = log.commit().expect("there is one who closes");
        let _ = reply.send(Ok(log.durable.load(Ordering::Relaxed)));
        assert_eq!(appends.join().unwrap(), closes.join().unwrap());
    });
}

/// The committer sleeps until two wait, or a group is full: he is woken, and not before.
#[test]
fn gathering_committer_is_woken_at_his_number() {
    check(2, || {
        let log = Log::new(4, false);
        let callers = ["one", "other"].map(|name| log.thread(move |log| log.append(name, Durable)));
        block_on(poll_fn(|context| log.queue.poll_waiting(2, context)));
        assert_eq!(log.queue.appends_waiting(), 2);
        log.answer(log.queue.take_group().unwrap());
        assert!(log.queue.take_group().is_none(), "both fit one group");
        callers.into_iter().for_each(|caller| drop(caller.join().unwrap().unwrap()));
    });
}

/// There is room for one at a time: the second waits until the first is answered.
#[test]
fn room_is_handed_on() {
    check(1, || {
        let log = Log::new(1, false);
        let callers = ["one", "other"].map(|name| log.thread(move |log| log.append(name, Durable)));
        log.commit_until(&["one", "other"]);
        callers.into_iter().for_each(|caller| drop(caller.join().unwrap().unwrap()));
        log.end(1);
    });
}

/// A thread that begins to append, and drops the future.
fn goes(log: &Arc<Log>, gone: &Arc<Gone>, wanted: Durability) -> JoinHandle<()> {
    let gone = Arc::clone(gone);
    log.thread(move |log| {
        let mut append = Box::pin(log.queue.append(Content::one("goes"), wanted));
        let _ = gone.poll(append.as_mut());
    })
}

/// One who waits for room goes, at whatever moment: his turn is the next one's, and nobody keeps his waker.
#[test]
fn who_waits_for_room_and_goes_is_in_nobodys_way() {
    check(2, || {
        let log = Log::new(1, false);
        let ticket = log.queue.try_append(Content::one("first"), Durable).unwrap();
        let gone = Arc::new(Gone::default());
        let goes = goes(&log, &gone, Durable);
        let stays = log.thread(|log| log.append("stays", Durable));
        log.commit_until(&["first", "stays"]);
        goes.join().unwrap();
        stays.join().unwrap().unwrap();
        log.told("first", block_on(ticket)).unwrap();
        log.end(1);
        assert!(gone.is_forgotten());
    });
}

/// A future is dropped at whatever moment after its append was accepted: the record stays, its room comes back, and
/// nobody keeps its waker.
#[test]
fn dropped_future_leaves_no_waker_and_no_room() {
    for wanted in [Durable, Written] {
        check(3, move || {
            let log = Log::new(2, wanted == Written);
            let gone = Arc::new(Gone::default());
            let goes = goes(&log, &gone, wanted);
            log.commit_until(&["goes"]);
            goes.join().unwrap();
            log.end(2);
            assert!(gone.is_forgotten());
        });
    }
}

/// Also before its group is answered.
#[test]
fn dropped_future_takes_its_waker_along() {
    check(3, || {
        let log = Log::new(2, false);
        let gone = Arc::new(Gone::default());
        let goes = goes(&log, &gone, Durable);
        block_on(poll_fn(|context| log.queue.poll_waiting(1, context)));
        let group = log.queue.take_group().expect("one waits");
        goes.join().unwrap();
        assert!(gone.is_forgotten());
        log.answer(group);
        log.end(2);
    });
}

/// A ticket that was asked by one, who then hands it to another: the other is woken. It says *written* first.
#[test]
fn ticket_may_change_hands() {
    check(3, || {
        let log = Log::new(2, true);
        let gone = Arc::new(Gone::default());
        let first = Arc::clone(&gone);
        let caller = log.thread(move |log| {
            let mut ticket = log.submit("one").unwrap();
            let _ = first.poll(Box::pin(ticket.written()).as_mut());
            let _ = first.poll(Pin::new(&mut ticket));
            block_on(ticket.written()).unwrap();
            log.told("one", block_on(ticket)).unwrap();
        });
        log.commit_until(&["one"]);
        caller.join().unwrap();
        log.end(2);
        assert!(gone.is_forgotten());
    });
}

/// When a barrier is answered, everything accepted before it is durable.
#[test]
fn barrier_is_behind_what_was_accepted_before() {
    check(3, || {
        let log = Log::new(3, false);
        let caller = log.thread(|log| {
            let ticket = log.submit("one").unwrap();
            let barrier = block_on(log.queue.barrier().unwrap());
            assert_eq!(barrier.unwrap(), 2..2);
            assert!(log.has("one"));
            log.told("one", block_on(ticket)).unwrap();
            log.queue.close(Error::closed(), None);
        });
        assert!(log.commit().is_none());
        caller.join().unwrap();
    });
}

/// The committer dies with a group in his hands: the one in it and the one who waits for room are told, and so is
/// whoever comes later.
#[test]
fn everyone_is_told_when_the_committer_dies() {
    check(2, || {
        let log = Log::new(1, false);
        let callers = ["one", "other"].map(|name| {
            log.thread(move |log| {
                assert!(log.append(name, Durable).unwrap_err().is_poisoned());
                assert!(log.append(name, Durable).unwrap_err().is_poisoned());
            })
        });
        block_on(poll_fn(|context| log.queue.poll_waiting(1, context)));
        let group = log.queue.take_group().expect("one waits");
        log.queue.desert(&poisoned());
        drop(group);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        assert!(log.queue.barrier().unwrap_err().is_poisoned());
    });
}

/// Closing while the committer dies: whoever closes learns that nobody will tell him, and nobody else hangs.
#[test]
fn who_closes_does_not_hang_when_the_committer_dies() {
    check(3, || {
        let log = Log::new(1, false);
        let closes = log.thread(|log| {
            let (reply, outcome) = tokio::sync::oneshot::channel();
            log.queue.close(Error::closed(), Some(reply));
            assert!(block_on(outcome).is_err());
        });
        let waits = log.thread(|log| {
            let error = log.append("one", Durable).unwrap_err();
            assert!(error.is_closed() || error.is_poisoned());
        });
        log.queue.desert(&poisoned());
        closes.join().unwrap();
        waits.join().unwrap();
    });
}

/// No space: all that waits is refused and its index given out again, and the log goes on. Nobody is told that a
/// record is durable that was refused, nor the other way round.
#[test]
fn refused_are_told_and_the_log_goes_on() {
    check(3, || {
        let log = Log::new(2, false);
        let ticket = log.submit("first").unwrap();
        let caller = log.thread(|log| {
            if let Err(error) = log.append("one", Durable) {
                assert!(error.is_no_space());
                assert!(!log.has("one"));
                log.append("one", Durable).unwrap();
            }
        });
        let order = Order { live: Live::after(0, 0), term: 1, commit: None, changes: 0 };
        log.queue.refuse(order, &Error::new(ErrorKind::NoSpace, "no"));
        assert!(block_on(ticket).unwrap_err().is_no_space());
        log.commit_until(&["one"]);
        caller.join().unwrap();
        log.end(2);
        assert!(!log.has("first"));
    });
}
