//! How far the log is durable, and which entries that makes.
//!
//! The committer holds the half that moves the mark ([`Mover`]); everyone else holds the half that looks and
//! waits ([`Watermark`]). The mark moves only after a sync that covers what it moves over.

use crate::error::{Error, Result};
use crate::format::Chain;
use crate::index::{Point, SparseIndex};
use crate::live::Live;
use crate::sync::{Mutex, MutexGuard};
use crate::types::{Position, Seq};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

/// The durable part of the log.
#[derive(Debug)]
struct State {
    /// Everything before it is durable.
    position: Position,
    live: Live,
    index: SparseIndex,
    /// The segments there are, oldest first.
    segments: Vec<(Seq, PathBuf)>,
    /// Why the mark will not move any more.
    ended: Option<Error>,
    /// By their places: the index that each waits for. No waker is woken or dropped under the lock: it may own a future
    /// that has a place here too.
    waiters: BTreeMap<u64, (u64, Waker)>,
    /// Places that were ever given out.
    places: u64,
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

/// A mark for a log that is durable up to `position`.
pub(crate) fn watermark(
    position: Position,
    live: Live,
    index: SparseIndex,
    segments: Vec<(Seq, PathBuf)>,
) -> (Mover, Watermark) {
    let state =
        State { position, live, index, segments, ended: None, waiters: BTreeMap::new(), places: 0 };
    let watermark = Watermark { state: Arc::new(Mutex::new(state)) };
    (Mover { watermark: watermark.clone() }, watermark)
}

impl Watermark {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything before it is durable.
    pub(crate) fn position(&self) -> Position {
        self.lock().position
    }

    /// Looks at the valid, durable entries.
    pub(crate) fn with_live<T>(&self, look: impl FnOnce(&Live) -> T) -> T {
        look(&self.lock().live)
    }

    /// From where to decode to come to the durable entry `index`.
    pub(crate) fn before(&self, index: u64) -> Option<Point> {
        let State { live, index: points, .. } = &*self.lock();
        let stretch = live.stretch_of(index)?;
        let head = Position::new(stretch.start.seq, 0);
        let point = points.before(stretch, index);
        Some(point.unwrap_or(Point { position: head, index, chain: Chain(0) }))
    }

    /// The file of a segment.
    pub(crate) fn path_of(&self, seq: Seq) -> Option<PathBuf> {
        let state = self.lock();
        let at = state.segments.binary_search_by_key(&seq, |segment| segment.0).ok()?;
        Some(state.segments[at].1.clone())
    }

    /// Waits until the entry `index` is durable.
    pub(crate) async fn wait(&self, index: u64) -> Result<()> {
        let mut waiting = Waiting { watermark: self, place: None };
        poll_fn(|context| waiting.poll(index, context)).await
    }
}

/// Someone who waits, and his place among the waiters, which he leaves when he goes.
struct Waiting<'a> {
    watermark: &'a Watermark,
    place: Option<u64>,
}

impl Waiting<'_> {
    fn poll(&mut self, index: u64, context: &Context<'_>) -> Poll<Result<()>> {
        let mut state = self.watermark.lock();
        if state.live.next() > index {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = &state.ended {
            return Poll::Ready(Err(error.clone()));
        }
        let place = *self.place.get_or_insert_with(|| {
            state.places += 1;
            state.places
        });
        let replaced = state.waiters.insert(place, (index, context.waker().clone()));
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let own = self.watermark.lock().waiters.remove(&place);
            drop(own);
        }
    }
}

impl Mover {
    /// After a sync: everything before `position` is durable, and `change` says what that means for the entries.
    pub(crate) fn advance(&self, position: Position, change: impl FnOnce(&mut Live)) {
        let mut state = self.watermark.lock();
        assert!(position >= state.position, "the watermark never goes back");
        state.position = position;
        change(&mut state.live);
        let next = state.live.next();
        let due = state.waiters.extract_if(.., |_, (index, _)| *index < next);
        let due = due.map(|(_, (_, waker))| waker).collect();
        drop(state);
        wake_all(due);
    }

    /// After a cut: a segment begins, and its head is durable.
    pub(crate) fn add_segment(&self, seq: Seq, path: &Path, head_end: u64) {
        let mut state = self.watermark.lock();
        state.segments.push((seq, path.to_owned()));
        state.position = Position::new(seq, head_end);
    }

    pub(crate) fn watermark(&self) -> &Watermark {
        &self.watermark
    }
}

impl Watermark {
    /// The mark will not move any more. The first reason stays.
    pub(crate) fn end(&self, error: &Error) {
        let mut state = self.lock();
        state.ended.get_or_insert_with(|| error.clone());
        let due =
            std::mem::take(&mut state.waiters).into_values().map(|(_, waker)| waker).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;

    #[test]
    fn who_stops_waiting_leaves_nothing_behind() {
        let (mover, watermark) =
            watermark(Position::default(), Live::after(0), SparseIndex::default(), Vec::new());
        for index in 1..100 {
            let mut wait = Box::pin(watermark.wait(index));
            let mut context = Context::from_waker(Waker::noop());
            assert!(wait.as_mut().poll(&mut context).is_pending());
            assert_eq!(watermark.lock().waiters.len(), 1);
        }
        assert_eq!(mover.watermark().lock().waiters.len(), 0);
    }
}
