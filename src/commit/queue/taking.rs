//! The committer's end of the queue.

use super::{CloseReply, Order, Queue, ReleaseReply, SPARE_GROUPS_MAX, State, Waiting};
use crate::commit::group::{Group, Room};
use crate::commit::waiters::Wakers;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;
use crate::watermark::{unharmed, wake};
use std::future::poll_fn;
use std::task::{Context, Poll};

/// For the committer.
impl Queue {
    /// The order as recovery found it, before anything is appended.
    pub(crate) fn set_order(&self, order: Order) {
        self.lock().order = order;
    }

    /// What waits now. Until the next [`Queue::poll_waiting`] nobody wakes the committer: he is awake.
    pub(crate) fn waiting(&self) -> Waiting {
        let mut state = self.lock();
        let committer = state.committer.take();
        let oldest = state.forming.front();
        let waiting = Waiting {
            groups: state.forming.len(),
            appends: oldest.map_or(0, |group| group.appends),
            bytes: oldest.map_or(0, |group| group.bytes_max),
            full: state.oldest_is_full(&self.limits),
            wants_disk: oldest.is_some_and(|group| group.wants_disk),
            barrier: oldest.is_some_and(Group::is_barrier),
            closing: state.close.is_some(),
            release: (!state.releases.is_empty()).then_some(state.release),
        };
        drop(state);
        drop(committer);
        waiting
    }

    /// Calls that wait, without the lock: for a look, not for a decision.
    pub(crate) fn appends_waiting(&self) -> usize {
        self.appends.load(Ordering::Acquire)
    }

    /// Ready as soon as so many calls wait, or the oldest group is full, or the log is to be closed.
    pub(crate) fn poll_waiting(&self, appends: usize, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        let due = self.appends.load(Ordering::Relaxed) >= appends;
        let asked = state.close.is_some() || !state.releases.is_empty();
        let (poll, replaced) = if due || state.oldest_is_full(&self.limits) || asked {
            (Poll::Ready(()), state.committer.take())
        } else {
            state.wake_at = appends;
            (Poll::Pending, state.set_committer(context.waker()))
        };
        drop(state);
        drop(replaced);
        poll
    }

    /// Ready as soon as entries are to be released, or the log is to be closed.
    pub(crate) fn poll_asked(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        let asked = state.close.is_some() || !state.releases.is_empty();
        state.wake_at = usize::MAX;
        let replaced = state.set_committer(context.waker());
        drop(state);
        drop(replaced);
        if asked { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the request to release entries up to an index, with who waits for it.
    pub(crate) fn take_release(&self) -> (u64, Vec<ReleaseReply>) {
        let mut state = self.lock();
        (std::mem::take(&mut state.release), std::mem::take(&mut state.releases))
    }

    /// From now on nothing can be appended that would replace an entry up to `index`. The entries must be durable; refused
    /// if what is on its way replaces some of them.
    pub(crate) fn accept_release(&self, index: u64, term: u64) -> Result<()> {
        let mut state = self.lock();
        let resolved_before = state.waiters.resolved_before();
        let replacing = state.replacing.filter(|(group, _)| *group >= resolved_before);
        if let Some((_, first)) = replacing.filter(|(_, first)| *first <= index) {
            drop(state);
            let what = format!("the entries from {first} on are about to be replaced");
            return Err(Error::new(ErrorKind::InvalidInput, what)
                .next("nothing was released: wait until what replaces them is durable"));
        }
        state.order.live.release(index, term);
        Ok(())
    }

    /// Takes the oldest group.
    pub(crate) fn take_group(&self) -> Option<Group> {
        let mut state = self.lock();
        let group = state.forming.pop_front()?;
        let waiting = self.appends.load(Ordering::Relaxed) - group.appends;
        self.appends.store(waiting, Ordering::Release);
        Some(group)
    }

    /// The group that was taken last waits again, before all others.
    pub(crate) fn put_back(&self, group: Group) {
        let mut state = self.lock();
        let waiting = self.appends.load(Ordering::Relaxed) + group.appends;
        self.appends.store(waiting, Ordering::Release);
        state.forming.push_front(group);
    }

    /// The request to close, once nothing waits before it.
    pub(crate) fn take_close(&self) -> Option<CloseReply> {
        let mut state = self.lock();
        match state.forming.is_empty() {
            true => state.close.take(),
            false => None,
        }
    }

    /// Waits until the log is to be closed, when it has ended.
    pub(crate) async fn wait_close(&self) -> CloseReply {
        poll_fn(|context| self.poll_waiting(usize::MAX, context)).await;
        self.take_close().expect("nothing else wakes at this number")
    }

    /// The kernel has the group.
    pub(crate) fn written(&self, group: u64) {
        let woken = self.lock().waiters.written(group);
        self.wake_all(woken);
    }

    /// A group is durable, the first that was not: everyone in it is told, and its room and memory are free again.
    pub(crate) fn durable(&self, mut group: Group) {
        // Payloads are dropped outside of the lock, and before their callers come back.
        group.clear();
        let mut state = self.lock();
        state.awake.durable(group.appends);
        let woken = state.waiters.resolve(group.number, Ok(()));
        let room = state.rooms.give_back(group.room);
        if state.spare.len() < SPARE_GROUPS_MAX {
            state.spare.push(group);
        }
        self.show_resolved(state);
        woken.into_iter().for_each(|woken| self.wake_all(woken));
        room.for_each(wake);
    }

    /// All that waits fails, and its indexes are given out again, from `order` on. Nothing may be with the committer.
    pub(crate) fn refuse(&self, order: Order, error: &Error) {
        let mut state = self.lock();
        state.order = Order { changes: state.order.changes + 1, ..order };
        state.replacing = None;
        self.fail_all(state, error);
    }

    /// Everything fails that is not answered, and whatever comes after it.
    pub(crate) fn fail(&self, error: &Error) {
        self.end(self.lock(), error);
    }

    fn end(&self, mut state: MutexGuard<'_, State>, error: &Error) {
        state.ended = Some(error.clone());
        // Room that is with groups in flight does not come back.
        let turn = state.rooms.open();
        let releases = std::mem::take(&mut state.releases);
        self.fail_all(state, error);
        turn.for_each(wake);
        for release in releases {
            unharmed(|| drop(release.send(Err(error.clone()))));
        }
    }

    fn fail_all(&self, mut state: MutexGuard<'_, State>, error: &Error) {
        self.appends.store(0, Ordering::Release);
        let groups: Vec<Group> = state.forming.drain(..).collect();
        let woken = state.waiters.resolve_all(error);
        let mut room = Room::default();
        groups.iter().for_each(|group| room += group.room);
        let turn = state.rooms.give_back(room);
        self.show_resolved(state);
        woken.into_iter().for_each(|woken| self.wake_all(woken));
        turn.for_each(wake);
    }

    fn show_resolved(&self, state: MutexGuard<'_, State>) {
        self.failures.store(state.waiters.failures() > 0, Ordering::Release);
        self.resolved_before.store(state.waiters.resolved_before(), Ordering::Release);
    }

    /// Not under the lock: a waker is the caller's code.
    fn wake_all(&self, mut wakers: Wakers) {
        wakers.drain(..).flatten().for_each(wake);
        if wakers.capacity() > 0 {
            self.lock().waiters.give_back(wakers);
        }
    }

    /// From now on appends fail with `error`, and the committer ends when it is done with those before. If it is
    /// gone, `reply` is dropped, and the error stays what it was.
    pub(crate) fn close(&self, error: Error, reply: CloseReply) {
        let mut state = self.lock();
        if state.deserted {
            return;
        }
        state.ended.get_or_insert(error);
        state.close = Some(reply);
        let committer = state.committer.take();
        drop(state);
        committer.into_iter().for_each(wake);
    }

    /// Like [`Queue::fail`], when the committer is gone for good.
    pub(crate) fn desert(&self, error: &Error) {
        let mut state = self.lock();
        state.deserted = true;
        let reply = state.close.take();
        self.end(state, error);
        unharmed(|| drop(reply));
    }
}
