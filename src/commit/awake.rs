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
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

/// Until when some caller of this process is on his watch, in nanoseconds of [`now`]. Who keeps his append without polling
/// it keeps the others off no longer than that.
static WATCHED: AtomicU64 = AtomicU64::new(0);

/// One chance of so many is left out. A caller who is always answered in time would never let his thread sleep, and some
/// runtimes do then what they do not do otherwise: tokio-uring submits to the ring.
const TURNS_ASLEEP: u32 = 16;

fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // From 1 on: 0 is nobody's.
    START.elapsed().as_nanos() as u64 + 1
}

/// The queue's side, under its lock: who may.
#[derive(Debug)]
pub(super) struct Awake {
    limit: Duration,
    watched: &'static AtomicU64,
    chances: Chances,
    turns: u32,
    /// The last group that became durable was a single call.
    was_alone: bool,
    /// Of the watch over the group that is not durable yet.
    end: Option<u64>,
}

impl Awake {
    /// For at most `limit` at a time; never if that is zero.
    pub(super) fn new(limit: Duration) -> Awake {
        Awake {
            limit,
            watched: &WATCHED,
            chances: Chances::default(),
            turns: 0,
            was_alone: true,
            end: None,
        }
    }

    /// Somebody begins to wait for the disk; `alone`: for nobody else's record.
    pub(super) fn begin(&mut self, alone: bool) -> Option<Watch> {
        if !alone || !self.was_alone || self.limit.is_zero() {
            return None;
        }
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(TURNS_ASLEEP) || !self.chances.take() {
            return None;
        }
        let now = now();
        let end = now + self.limit.as_nanos() as u64;
        // It guards nothing but itself.
        let relaxed = Ordering::Relaxed;
        let free = |other| (other <= now).then_some(end);
        self.watched.fetch_update(relaxed, relaxed, free).ok()?;
        self.end = Some(end);
        Some(Watch { watched: self.watched, end })
    }

    /// A group of so many calls is durable.
    pub(super) fn durable(&mut self, appends: usize) {
        self.was_alone = appends == 1;
        match self.end.take() {
            Some(end) if now() < end => self.chances.paid(),
            Some(_) => self.chances.missed(),
            None => {}
        }
    }
}

/// The caller's side. When it is dropped, another may.
#[derive(Debug)]
pub(super) struct Watch {
    watched: &'static AtomicU64,
    end: u64,
}

impl Watch {
    /// Asks to be polled again when others had their turn, unless the time is over.
    pub(super) fn go_on(&self, context: &mut Context<'_>) -> bool {
        let goes_on = now() < self.end;
        if goes_on {
            // Of a runtime of tokio it keeps the thread from sleeping; elsewhere it wakes the task at once.
            let _ = pin!(tokio::task::yield_now()).poll(context);
        }
        goes_on
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (end, relaxed) = (self.end, Ordering::Relaxed);
        // Unless its time was over, and it is another's.
        let _ = self.watched.compare_exchange(end, 0, relaxed, relaxed);
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

    /// Until a nanosecond is over, however coarse the clock is.
    fn pass() {
        let begun = now();
        while now() == begun {}
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
    fn who_keeps_it_without_use_keeps_it_for_its_time_only() {
        let mut first = fresh(Duration::from_nanos(1));
        let mut second = Awake { watched: first.watched, ..Awake::new(LONG) };
        let kept = first.begin(true).unwrap();
        pass();
        let watch = second.begin(true).unwrap();
        drop(kept);
        assert!(first.begin(true).is_none(), "it is the other's now");
        drop(watch);
        assert!(first.begin(true).is_some());
    }

    #[test]
    fn it_stops_where_it_does_not_pay() {
        for (limit, wanted) in [(Duration::from_nanos(1), 5..20), (LONG, 900..1000)] {
            let mut awake = fresh(limit);
            let mut times = 0;
            for _ in 0..1000 {
                times += u32::from(awake.begin(true).is_some());
                pass();
                awake.durable(1);
            }
            assert!(wanted.contains(&times), "{limit:?}: {times}");
        }
    }

    #[test]
    fn a_watch_ends() {
        let mut context = Context::from_waker(Waker::noop());
        let ended = fresh(Duration::from_nanos(1)).begin(true).unwrap();
        pass();
        assert!(!ended.go_on(&mut context));
        assert!(fresh(LONG).begin(true).unwrap().go_on(&mut context));
    }
}
