//! Who keeps a caller's thread awake: a caller who is alone, while the disk has his record.
//!
//! To wake a sleeping thread takes 20 to 40 us on many machines, a third of a commit on a good disk. So he does not let the
//! thread of his runtime go to sleep: each time he is polled he gives the turn to the other tasks and asks to be polled again.
//! Nobody is held up; only the CPU is not idle. Where others append too, nobody does: they keep it awake.
//!
//! It is bounded, stops by itself where it does not pay, as the spinning of the submission thread, and one caller of a
//! process does it at a time, whatever the number of logs: those who write for the others need a CPU too.

use super::spin::Chances;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

/// Some caller of this process is on his watch.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// The queue's side, under its lock: who may.
#[derive(Debug)]
pub(super) struct Awake {
    limit: Duration,
    watched: &'static AtomicBool,
    chances: Chances,
    /// The last group that became durable was a single call.
    was_alone: bool,
    /// The last watch has not ended in vain.
    pays: bool,
}

impl Awake {
    /// For at most `limit` at a time; never if that is zero.
    pub(super) fn new(limit: Duration) -> Awake {
        Awake {
            limit,
            watched: &WATCHED,
            chances: Chances::default(),
            was_alone: true,
            pays: false,
        }
    }

    /// Somebody begins to wait for the disk; `alone`: for nobody else's record.
    pub(super) fn begin(&mut self, alone: bool) -> Option<Watch> {
        if !alone || !self.was_alone || self.limit.is_zero() || !self.chances.take() {
            return None;
        }
        // It guards nothing but itself.
        if self.watched.swap(true, Ordering::Relaxed) {
            return None;
        }
        let watch = Watch { watched: self.watched, end: Instant::now() + self.limit };
        if std::mem::replace(&mut self.pays, true) {
            self.chances.paid();
        }
        Some(watch)
    }

    /// A group of so many calls is durable.
    pub(super) fn durable(&mut self, appends: usize) {
        self.was_alone = appends == 1;
    }

    /// His time was over before he had his answer.
    pub(super) fn in_vain(&mut self) {
        self.pays = false;
        self.chances.missed();
    }
}

/// The caller's side. When it is dropped, another may.
#[derive(Debug)]
pub(super) struct Watch {
    watched: &'static AtomicBool,
    end: Instant,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watched.store(false, Ordering::Relaxed);
    }
}

impl Watch {
    /// Asks to be polled again when others had their turn. `false` if the time is over.
    pub(super) fn goes_on(&self, context: &mut Context<'_>) -> bool {
        let goes_on = Instant::now() < self.end;
        if goes_on {
            // Of a runtime of tokio it keeps the thread from sleeping; elsewhere it wakes the task at once.
            let _ = pin!(tokio::task::yield_now()).poll(context);
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    const LONG: Duration = Duration::from_secs(3600);

    /// With a mark of its own: other tests append as well.
    fn fresh(limit: Duration) -> Awake {
        Awake { watched: Box::leak(Box::default()), ..Awake::new(limit) }
    }

    #[test]
    fn only_who_is_alone_and_was() {
        let mut awake = fresh(LONG);
        assert!(awake.begin(true).is_some());
        assert!(awake.begin(false).is_none());
        awake.durable(2);
        assert!(awake.begin(true).is_none());
        awake.durable(1);
        assert!(awake.begin(true).is_some());
        assert!(fresh(Duration::ZERO).begin(true).is_none());
    }

    #[test]
    fn one_at_a_time_in_all_logs() {
        let mut first = fresh(LONG);
        let mut second = Awake { watched: first.watched, ..Awake::new(LONG) };
        let watch = first.begin(true).unwrap();
        assert!(second.begin(true).is_none());
        drop(watch);
        assert!(second.begin(true).is_some());
    }

    #[test]
    fn it_stops_where_it_does_not_pay() {
        let mut awake = fresh(LONG);
        let mut times = 0;
        for _ in 0..1000 {
            if awake.begin(true).is_some() {
                times += 1;
                awake.in_vain();
            }
        }
        assert!((5..20).contains(&times), "{times}");
    }

    #[test]
    fn a_watch_ends() {
        let mut context = Context::from_waker(Waker::noop());
        let ended = fresh(Duration::from_nanos(1)).begin(true).unwrap();
        assert!(!ended.goes_on(&mut context));
        assert!(fresh(LONG).begin(true).unwrap().goes_on(&mut context));
    }
}
