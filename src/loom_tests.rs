//! Every order in which threads may meet, as far as [loom](https://docs.rs/loom) finds it: at the inbox and the
//! watermark here, at the queue in `commit::loom_tests`.
//!
//! loom runs a check again and again, each time with another order of the threads' steps at locks and atomics; a load
//! also gives every older value that the memory model allows. If nobody can go on, that is a deadlock and the check
//! fails: so a lost wake-up is seen. `scripts/check loom` runs them; no other build has them.

use crate::error::{Error, ErrorKind};
use crate::inbox::Inbox;
use crate::types::{Durability, Position};
use crate::watermark::of_nothing;
use loom::future::block_on;
use loom::thread;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Runs `model` in every order in which at most so many times a thread is stopped that could go on.
/// `LOOM_MAX_PREEMPTIONS` is for those who have more time.
pub(crate) fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    eprintln!("{} orders", runs.load(Ordering::Relaxed));
}

/// The waker of one who will not come back. Who keeps it keeps his memory.
#[derive(Default)]
pub(crate) struct Gone(Arc<Silent>);

#[derive(Default)]
struct Silent;

impl Wake for Silent {
    fn wake(self: Arc<Self>) {}
}

impl Gone {
    pub(crate) fn poll<F: Future>(&self, future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(&self.0))))
    }

    /// Nobody has his waker any more.
    pub(crate) fn is_forgotten(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

fn poisoned() -> Error {
    Error::poisoned(&Error::new(ErrorKind::Io, "no"))
}

/// What is sent is received in its order, or given back, or refused; and the receiver ends.
#[test]
fn nothing_stays_in_the_inbox() {
    check(3, || {
        let inbox = Arc::new(Inbox::new());
        let sender = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || [1, 2].map(|item| inbox.send(item).is_ok()))
        };
        let deserter = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.desert(Error::closed()))
        };
        let mut seen = Vec::new();
        block_on(async {
            while let Some(item) = inbox.receive().await {
                seen.push(item);
            }
        });
        let sent = sender.join().unwrap();
        seen.extend(deserter.join().unwrap());
        let sent: Vec<_> = [1, 2].into_iter().zip(sent).filter(|(_, ok)| *ok).collect();
        assert_eq!(seen, sent.iter().map(|(item, _)| *item).collect::<Vec<_>>());
        assert!(inbox.send(3).unwrap_err().is_closed());
    });
}

/// Two wait for entries of which one comes, and a third goes; the mark moves twice, then ends.
#[test]
fn who_waits_for_the_watermark_is_told() {
    check(3, || {
        let (mover, watermark) = of_nothing();
        let waits = |index| {
            let watermark = watermark.clone();
            thread::spawn(move || block_on(watermark.wait(Durability::Durable, index)))
        };
        let (first, never) = (waits(1), waits(3));
        let gone = Arc::new(Gone::default());
        let goes = {
            let (watermark, gone) = (watermark.clone(), Arc::clone(&gone));
            thread::spawn(move || {
                drop(gone.poll(Box::pin(watermark.wait(Durability::Durable, 9)).as_mut()))
            })
        };
        for index in [1, 2] {
            mover.durable(Position::default(), |live| {
                live.push(index, 1, Position::default()).unwrap();
            });
        }
        goes.join().unwrap();
        assert!(gone.is_forgotten());
        watermark.end(&poisoned());
        first.join().unwrap().unwrap();
        assert!(never.join().unwrap().unwrap_err().is_poisoned());
        assert!(block_on(watermark.wait(Durability::Durable, 2)).is_ok());
    });
}
