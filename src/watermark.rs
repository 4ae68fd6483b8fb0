//! How far the log has got, and which entries that makes.
//!
//! Twice: how far it is *written* (the kernel has it), and how far it is *durable*, which is never further. Whoever reads
//! or waits says which of the two is meant. The committer holds the half that moves the marks ([`Mover`]); everyone else
//! holds the half that looks and waits ([`Watermark`]). The durable mark moves only after a sync that covers what it moves
//! over.
//!
//! Of a log that another process writes, a follower moves the marks. It looks at the files only while somebody waits, so
//! here it learns of that ([`Mover::is_wanted`]).

use crate::error::{Error, Result};
use crate::format::{Chain, RecordRef, Records};
use crate::index::{Point, SparseIndex};
use crate::live::Live;
use crate::recent::Recent;
use crate::retained::{Retained, Segment};
use crate::sync::{Mutex, MutexGuard};
use crate::types::{Durability, Entry, Position, Seq};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

/// The log up to some place.
#[derive(Clone, Debug)]
struct Level {
    /// The place.
    position: Position,
    live: Live,
}

#[derive(Debug)]
struct State {
    durable: Level,
    written: Level,
    /// Of what is written.
    index: SparseIndex,
    /// Likewise.
    recent: Recent,
    /// The segments there are.
    retained: Retained,
    /// Who removes segments, while there is none to remove.
    remover: Option<Waker>,
    /// Why the marks will not move any more.
    ended: Option<Error>,
    /// By their places. No waker is woken or dropped under the lock: it may own a future that has a place here too.
    waiters: BTreeMap<u64, (Awaited, Waker)>,
    /// Places that were ever given out.
    places: u64,
    /// Who moves the marks, while nobody waits for that.
    mover: Option<Waker>,
    /// Looks for what another process wrote that have begun, and that have ended.
    looks_begun: u64,
    looks_ended: u64,
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug)]
enum Awaited {
    /// An entry of this index.
    Index(Durability, u64),
    /// An entry at this place or behind it.
    Entry(Durability, Position),
    /// The end of the look of this number.
    Look(u64),
}

impl State {
    fn level(&self, durability: Durability) -> &Level {
        match durability {
            Durability::Durable => &self.durable,
            Durability::Written => &self.written,
        }
    }

    fn is_there(&self, awaited: Awaited) -> bool {
        match awaited {
            Awaited::Index(durability, index) => self.level(durability).live.next() > index,
            Awaited::Look(number) => self.looks_ended >= number,
            Awaited::Entry(durability, at) => {
                let limit = self.level(durability).position;
                match at >= self.recent.start() {
                    true => self.recent.after(at, limit, 1).is_some(),
                    false => at < limit,
                }
            }
        }
    }

    /// Who removes segments, if there is something to do. Readers ask this whenever they have got on or go: mostly there is
    /// nothing, and the submission thread is let sleep.
    fn remover_if_due(&mut self) -> Option<Waker> {
        let base = self.durable.live.base();
        let due = self.retained.has_unwanted() || self.retained.unread().0 > base;
        if due { self.remover.take() } else { None }
    }

    /// Those whose wait is over.
    fn due(&mut self) -> Vec<Waker> {
        // An empty map is what there is most of the time.
        if self.waiters.is_empty() {
            return Vec::new();
        }
        let mut waiters = std::mem::take(&mut self.waiters);
        let due = waiters.extract_if(.., |_, (awaited, _)| self.is_there(*awaited));
        let due = due.map(|(_, (_, waker))| waker).collect();
        self.waiters = waiters;
        due
    }
}

/// The half that looks and waits.
#[derive(Clone, Debug)]
pub(crate) struct Watermark {
    state: Arc<Mutex<State>>,
}

/// The half that moves. There is one.
#[derive(Debug)]
pub(crate) struct Mover {
    watermark: Watermark,
}

/// A log as it was found: durable up to some place.
#[derive(Debug)]
pub(crate) struct Start {
    pub position: Position,
    pub live: Live,
    pub index: SparseIndex,
    /// Those in the directory, oldest first.
    pub segments: Vec<Segment>,
    /// The index and term up to which entries were released, and the segment that says so.
    pub released: (u64, u64),
    pub released_in: Seq,
    /// Memory for recent records.
    pub recent_bytes_max: usize,
}

/// Both halves.
pub(crate) fn watermark(start: Start) -> (Mover, Watermark) {
    let Start { position, live, index, segments, released, released_in, recent_bytes_max } = start;
    let level = Level { position, live };
    let state = State {
        durable: level.clone(),
        written: level,
        index,
        recent: Recent::new(position, recent_bytes_max),
        retained: Retained::new(segments, released, released_in),
        remover: None,
        ended: None,
        waiters: BTreeMap::new(),
        places: 0,
        mover: None,
        looks_begun: 0,
        looks_ended: 0,
    };
    let watermark = Watermark { state: Arc::new(Mutex::new(state)) };
    (Mover { watermark: watermark.clone() }, watermark)
}

/// From where to come to an entry.
#[derive(Debug)]
pub(crate) enum Before {
    /// It lies here, in memory; or it is not there yet, and comes at this place or behind it.
    Here(Position),
    /// By decoding the files from here on.
    Files(Point),
}

/// Where reading goes on.
#[derive(Debug)]
pub(crate) enum Next {
    /// With these entries, and then at this place. The last index of those passed over that were released, or zero.
    Entries(Vec<Entry>, Position, u64),
    /// In the files, up to this place.
    Files(Position),
    /// Nowhere: there are no more entries before this index.
    End(u64),
}

impl Watermark {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the log has got.
    pub(crate) fn position(&self, durability: Durability) -> Position {
        self.lock().level(durability).position
    }

    /// Looks at the valid entries.
    pub(crate) fn with_live<T>(&self, durability: Durability, look: impl FnOnce(&Live) -> T) -> T {
        look(&self.lock().level(durability).live)
    }

    /// The first index that may be read, and the one behind the last.
    pub(crate) fn first_and_next(&self, durability: Durability) -> (u64, u64) {
        let state = self.lock();
        let live = &state.level(durability).live;
        let first = live.base().max(state.retained.released().0) + 1;
        (first, live.next().max(first))
    }

    /// The index and term up to which entries were released.
    pub(crate) fn released(&self) -> (u64, u64) {
        self.lock().retained.released()
    }

    /// Whether releasing entries up to `index` lets a segment go.
    pub(crate) fn frees(&self, index: u64) -> bool {
        self.lock().retained.frees(index)
    }

    /// The segments there are, oldest first.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        self.lock().retained.segments().to_vec()
    }

    /// Keeps all segments there are, and says which, oldest first; and up to where the log is durable at this moment, in
    /// the newest of them, and the last entry before that.
    pub(crate) fn pin_durable(&self) -> (Pin, Vec<Segment>, Position, u64) {
        let mut state = self.lock();
        let pin = Pin { watermark: self.clone(), place: state.retained.pin() };
        let Level { position, live } = &state.durable;
        let last = live.next() - 1;
        (pin, state.retained.segments().to_vec(), *position, last)
    }

    /// Keeps all segments there are; see [`Pin`].
    pub(crate) fn pin(&self) -> Pin {
        Pin { watermark: self.clone(), place: self.lock().retained.pin() }
    }

    /// From where to come to the entry `index`, if it is there.
    pub(crate) fn before(&self, durability: Durability, index: u64) -> Before {
        let state = self.lock();
        let Level { position, live } = state.level(durability);
        let Some(stretch) = live.stretch_of(index) else {
            return Before::Here(*position);
        };
        // What is written behind the mark may already replace what is valid before it: indexes go back there.
        let stretch = stretch.start..stretch.end.min(*position);
        if let Some(position) = state.recent.position_of(&stretch, index) {
            return Before::Here(position);
        }
        let head = Position::new(stretch.start.seq, 0);
        let point = state.index.before(stretch, index);
        Before::Files(point.unwrap_or(Point { position: head, index, chain: Chain(0) }))
    }

    /// From where to decode to come to `position`, which may hold an entry or end one.
    pub(crate) fn point_at(&self, position: Position) -> Point {
        let head = Point { position: Position::new(position.seq, 0), index: 0, chain: Chain(0) };
        self.lock().index.at_or_before(position).unwrap_or(head)
    }

    /// A place behind `from` where decoding can start as well: see [`SparseIndex::behind`].
    pub(crate) fn point_behind(&self, from: Position, wanted: u64, max: u64) -> Option<Point> {
        self.lock().index.behind(from, wanted, max)
    }

    /// What comes at or behind `at`: at most `max` entries, if they are in memory.
    pub(crate) fn after(&self, durability: Durability, at: Position, max: usize) -> Next {
        let state = self.lock();
        let Level { position: limit, live } = state.level(durability);
        if at >= *limit {
            return Next::End(live.next());
        }
        if at < state.recent.start() {
            return Next::Files(*limit);
        }
        let Some(found) = state.recent.after(at, *limit, max) else {
            return Next::End(live.next());
        };
        let is_live = |(position, entry): &(Position, Entry)| live.is_live(entry.index, *position);
        let released = found.entries().map(|(_, entry)| entry.index);
        let base = live.base().min(state.retained.released().0);
        let released = released.filter(|index| *index <= base).max().unwrap_or(0);
        let entries = found.entries().filter(is_live).map(|(_, entry)| entry).collect();
        Next::Entries(entries, found.end(), released)
    }

    /// Where the entry `index` should be.
    pub(crate) fn place_of(&self, durability: Durability, index: u64) -> Option<Position> {
        let stretch = self.lock().level(durability).live.stretch_of(index)?;
        Some(stretch.start)
    }

    /// The file of a segment, and whether no more is written to it.
    pub(crate) fn file_of(&self, seq: Seq) -> Option<(PathBuf, bool)> {
        let state = self.lock();
        let (path, sealed) = state.retained.file_of(seq)?;
        Some((path.clone(), sealed))
    }

    /// Waits until there is an entry of this index, or a later one.
    pub(crate) async fn wait(&self, durability: Durability, index: u64) -> Result<()> {
        let mut waiting = self.waiting();
        poll_fn(|context| waiting.poll(Awaited::Index(durability, index), context)).await
    }

    /// Waits until what another process has written by now was looked at.
    pub(crate) async fn look(&self) -> Result<()> {
        let number = self.lock().looks_begun + 1;
        let mut waiting = self.waiting();
        poll_fn(|context| waiting.poll(Awaited::Look(number), context)).await
    }

    /// A place among those who wait, for nothing yet.
    pub(crate) fn waiting(&self) -> Waiting {
        Waiting { watermark: self.clone(), place: None }
    }
}

/// Keeps segments from being removed until it is dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    watermark: Watermark,
    place: u64,
}

impl Pin {
    /// From now on keeps only this segment and those behind it.
    pub(crate) fn move_to(&self, seq: Seq) {
        let mut state = self.watermark.lock();
        state.retained.move_pin(self.place, seq);
        let remover = state.remover_if_due();
        drop(state);
        remover.into_iter().for_each(wake);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.watermark.lock();
        state.retained.unpin(self.place);
        let remover = state.remover_if_due();
        drop(state);
        remover.into_iter().for_each(wake);
    }
}

/// Someone who waits, and his place among the waiters, which he leaves when he goes.
#[derive(Debug)]
pub(crate) struct Waiting {
    watermark: Watermark,
    place: Option<u64>,
}

impl Waiting {
    /// Waits until there is an entry at `at` or behind it.
    pub(crate) fn poll_entry(
        &mut self,
        durability: Durability,
        at: Position,
        context: &Context<'_>,
    ) -> Poll<Result<()>> {
        self.poll(Awaited::Entry(durability, at), context)
    }

    fn poll(&mut self, awaited: Awaited, context: &Context<'_>) -> Poll<Result<()>> {
        // A waker is the caller's own code, its clone too.
        let waker = context.waker().clone();
        let mut state = self.watermark.lock();
        if state.is_there(awaited) {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = &state.ended {
            return Poll::Ready(Err(error.clone()));
        }
        let place = *self.place.get_or_insert_with(|| {
            state.places += 1;
            state.places
        });
        let replaced = state.waiters.insert(place, (awaited, waker));
        let mover = state.mover.take();
        drop(state);
        drop(replaced);
        mover.into_iter().for_each(wake);
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let own = self.watermark.lock().waiters.remove(&place);
            drop(own);
        }
    }
}

impl Mover {
    /// A group was written, up to `end`: `change` says what that means for the entries.
    pub(crate) fn written(
        &self,
        records: &(impl Records + ?Sized),
        places: impl Iterator<Item = (Position, Chain)> + Clone,
        end: Position,
        change: impl FnOnce(&mut Live),
    ) {
        let mut state = self.watermark.lock();
        assert!(end >= state.written.position, "the watermark never goes back");
        for (at, (position, chain)) in places.clone().enumerate() {
            if let RecordRef::Entry { index, .. } = records.get(at) {
                state.index.note(Point { position, index, chain });
            }
        }
        state.recent.push(records, places.map(|(position, _)| position), end);
        state.written.position = end;
        change(&mut state.written.live);
        let due = state.due();
        drop(state);
        wake_all(due);
    }

    /// After a sync: everything before `position` is durable, and `change` says what that means for the entries.
    pub(crate) fn durable(&self, position: Position, change: impl FnOnce(&mut Live)) {
        let mut state = self.watermark.lock();
        assert!(position >= state.durable.position, "the watermark never goes back");
        state.durable.position = position;
        // Marks are not told of before.
        state.written.position = state.written.position.max(position);
        change(&mut state.durable.live);
        let due = state.due();
        drop(state);
        wake_all(due);
    }

    /// After a cut: a segment begins, and its head is durable.
    pub(crate) fn add_segment(&self, segment: Segment, head_end: u64, sealed_bytes: u64) {
        let mut state = self.watermark.lock();
        let position = Position::new(segment.seq, head_end);
        state.retained.push(segment, sealed_bytes);
        state.durable.position = position;
        state.written.position = position;
        // Its head says again what was released: an older segment that did is not needed for that any more.
        let remover = state.remover_if_due();
        drop(state);
        remover.into_iter().for_each(wake);
    }

    /// Entries up to `index` are not to be read any more, but by those who are at it.
    pub(crate) fn release(&self, index: u64, term: u64) {
        let mut state = self.watermark.lock();
        state.retained.release(index, term);
        let remover = state.remover_if_due();
        drop(state);
        remover.into_iter().for_each(wake);
    }

    pub(crate) fn watermark(&self) -> &Watermark {
        &self.watermark
    }

    /// Waits until somebody waits for the marks to move; `false` if they shall not move any more.
    pub(crate) async fn is_wanted(&self) -> bool {
        poll_fn(|context| {
            let mut state = self.watermark.lock();
            if state.ended.is_some() {
                return Poll::Ready(false);
            }
            if !state.waiters.is_empty() {
                return Poll::Ready(true);
            }
            let replaced = state.mover.replace(context.waker().clone());
            drop(state);
            drop(replaced);
            Poll::Pending
        })
        .await
    }

    /// From now on the files are looked at.
    pub(crate) fn look_begins(&self) {
        self.watermark.lock().looks_begun += 1;
    }

    /// What was in the files when the look began is told of.
    pub(crate) fn look_ended(&self) {
        let mut state = self.watermark.lock();
        state.looks_ended = state.looks_begun;
        let due = state.due();
        drop(state);
        wake_all(due);
    }
}

impl Watermark {
    /// Takes out the segments that nobody wants, oldest first: they are not part of the log any more.
    pub(crate) fn take_unwanted(&self) -> Vec<Segment> {
        let mut state = self.lock();
        let unwanted = state.retained.take_unwanted();
        let (index, term) = state.retained.unread();
        if index > 0 {
            state.durable.live.release(index, term);
            state.written.live.release(index, term);
        }
        unwanted
    }

    /// The same, when there are some.
    pub(crate) async fn unwanted(&self) -> Vec<Segment> {
        poll_fn(|context| {
            let waker = context.waker().clone();
            let unwanted = self.take_unwanted();
            if !unwanted.is_empty() {
                return Poll::Ready(unwanted);
            }
            let replaced = self.lock().remover.replace(waker);
            drop(replaced);
            // Somebody may have released meanwhile, and found nobody to wake.
            match self.take_unwanted() {
                unwanted if unwanted.is_empty() => Poll::Pending,
                unwanted => Poll::Ready(unwanted),
            }
        })
        .await
    }

    /// The marks will not move any more. The first reason stays.
    pub(crate) fn end(&self, error: &Error) {
        let mut state = self.lock();
        state.ended.get_or_insert_with(|| error.clone());
        let waiters = std::mem::take(&mut state.waiters).into_values().map(|(_, waker)| waker);
        let due = waiters.chain(state.mover.take()).collect();
        drop(state);
        wake_all(due);
    }
}

fn wake_all(due: Vec<Waker>) {
    due.into_iter().for_each(wake);
}

/// Wakes a caller; never under a lock. A waker is the caller's own code: if it panics, nobody else shall suffer for
/// it, neither the log nor those who wait behind it in the row.
pub(crate) fn wake(waker: Waker) {
    unharmed(|| waker.wake());
}

/// The same for what wakes a caller by the way, as the end of a oneshot channel does.
pub(crate) fn unharmed(wakes: impl FnOnce()) {
    // The panic hook has told of it.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(wakes));
}

/// Nothing in a log that nothing is kept of.
#[cfg(test)]
pub(crate) fn of_nothing() -> (Mover, Watermark) {
    watermark(Start {
        position: Position::default(),
        live: Live::after(0, 0),
        index: SparseIndex::default(),
        segments: Vec::new(),
        released: (0, 0),
        released_in: Seq(0),
        recent_bytes_max: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    #[test]
    fn who_stops_waiting_leaves_nothing_behind() {
        let (mover, watermark) = of_nothing();
        for index in 1..100 {
            let mut wait = Box::pin(watermark.wait(Durability::Durable, index));
            let mut context = Context::from_waker(Waker::noop());
            assert!(wait.as_mut().poll(&mut context).is_pending());
            assert_eq!(watermark.lock().waiters.len(), 1);
        }
        assert_eq!(mover.watermark().lock().waiters.len(), 0);
    }

    #[test]
    fn who_stops_following_leaves_nothing_behind() {
        let (_mover, watermark) = of_nothing();
        let mut all: Vec<Waiting> = (0..100).map(|_| watermark.waiting()).collect();
        let context = Context::from_waker(Waker::noop());
        for waiting in &mut all {
            for _ in 0..3 {
                let at = Position::default();
                assert!(waiting.poll_entry(Durability::Durable, at, &context).is_pending());
            }
        }
        assert_eq!(watermark.lock().waiters.len(), 100);
        all.truncate(40);
        assert_eq!(watermark.lock().waiters.len(), 40);
        drop(all);
        assert_eq!(watermark.lock().waiters.len(), 0);
    }

    /// Each `get` woke the submission thread, which found that there was nothing to remove.
    #[test]
    fn who_reads_wakes_the_remover_only_if_there_is_something_to_remove() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Count>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let segment = |seq| Segment::new(Seq(seq), 10 * seq, Path::new("x"), 1, Duration::ZERO);
        let (mover, watermark) = super::watermark(Start {
            position: Position::default(),
            live: Live::after(0, 0),
            index: SparseIndex::default(),
            segments: (0..3).map(segment).collect(),
            released: (0, 0),
            released_in: Seq(0),
            recent_bytes_max: 0,
        });
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let mut unwanted = Box::pin(watermark.unwanted());
        assert!(unwanted.as_mut().poll(&mut context).is_pending());
        let read = |seq| {
            let pin = watermark.pin();
            pin.move_to(Seq(seq));
            pin
        };
        (0..100).for_each(|at| drop(read(at % 3)));
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        let held = read(0);
        mover.release(10, 1);
        drop(held);
        assert!(count.0.load(Ordering::Relaxed) > 0);
        let Poll::Ready(removed) = unwanted.as_mut().poll(&mut context) else {
            panic!("the first segment is not wanted");
        };
        assert_eq!(removed.len(), 1);
    }
}
