//! From callers to the committer and back: room, an index, a place in the order, a group to be part of, an answer.
//!
//! The index is given out under the same lock as the place in the queue, so the order of indexes is the order of
//! the log. Groups form here: an append joins the youngest group as long as that has not reached its limits, else it
//! begins the next one. The committer takes whole groups, oldest first, and answers whole groups. An append takes the
//! lock once: it is accepted, and its waker is left, in one go.
//!
//! Room is counted in records and bytes and is given back when the group is done; whoever finds none waits, first come
//! first served.

mod taking;

use super::append::Append;
use super::awake::{Awake, Watch};
use super::content::Content;
use super::group::{Group, Room};
use super::room::{Rooms, Waiting as WaitingForRoom};
use super::ticket::Ticket;
use super::waiters::Waiters;
use crate::error::{Error, ErrorKind, Result};
use crate::format::MarkKind;
use crate::live::Live;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::types::Durability;
use crate::types::Position;
use crate::watermark::wake;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::oneshot;

/// Groups kept to be used again: more than are on their way at a time. Each keeps up to a MiB.
const SPARE_GROUPS_MAX: usize = 8;

/// Limits of the queue and of the groups that form in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub room: Room,
    pub record_bytes_max: usize,
    /// A group takes no more appends beyond these. A single append may be larger.
    pub group_bytes_max: u64,
    pub group_records_max: usize,
    /// A single append or batch takes at most so much on disk.
    pub append_bytes_max: u64,
    /// A caller who is alone keeps his thread awake for so long.
    pub awake_max: Duration,
}

#[cfg(test)]
impl Limits {
    /// For tests of the queue alone.
    pub(super) fn small() -> Limits {
        Limits {
            room: Room { bytes: 1 << 20, records: 8 },
            record_bytes_max: 1 << 10,
            group_bytes_max: 4096,
            group_records_max: 4,
            append_bytes_max: u64::MAX,
            awake_max: Duration::ZERO,
        }
    }
}

/// Who asked for the log to be closed is told the durable index, or the first error.
pub(crate) type CloseReply = Option<oneshot::Sender<Result<u64>>>;

/// Who asked for entries to be released is told when they are.
pub(crate) type ReleaseReply = oneshot::Sender<Result<()>>;

/// What waits, for the committer's decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Groups, the youngest of which may still grow.
    pub groups: usize,
    /// Calls and bytes in the oldest.
    pub appends: usize,
    pub bytes: u64,
    /// It takes no more calls.
    pub full: bool,
    /// Somebody in it waits for the disk.
    pub wants_disk: bool,
    /// It holds nothing but the wish that all before it be durable.
    pub barrier: bool,
    pub closing: bool,
    /// Entries up to this index are to be released.
    pub release: Option<u64>,
}

/// The log as it will be when everything accepted is durable.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The accepted entries; their positions are not known yet and mean nothing here.
    pub live: Live,
    /// The highest term seen: that of plain appends.
    pub term: u64,
    /// Of the last hard state, if there is one.
    pub commit: Option<u64>,
    /// Counts what made other entries of those that were accepted before.
    pub changes: u64,
}

impl Order {
    pub(super) fn accept_entry(&mut self, index: u64, term: u64) {
        self.term = self.term.max(term);
        self.live
            .push(index, term, Position::default())
            .expect("entries with a gap are refused before");
    }
}

/// What its lock guards. No waker is woken *or dropped* under it: a waker may be the last owner of a task, and so of
/// futures of this log, which take the lock when they go.
#[derive(Debug)]
struct State {
    order: Order,
    rooms: Rooms,
    /// Oldest first.
    forming: VecDeque<Group>,
    waiters: Waiters,
    awake: Awake,
    spare: Vec<Group>,
    /// Why nothing is accepted any more.
    ended: Option<Error>,
    /// The committer is gone: nobody will answer again.
    deserted: bool,
    close: Option<CloseReply>,
    /// The last group with entries that replace others, and the first index of those.
    replacing: Option<(u64, u64)>,
    /// What is to be released, and who waits for that.
    release: u64,
    releases: Vec<ReleaseReply>,
    committer: Option<Waker>,
    /// The committer sleeps until so many calls wait.
    wake_at: usize,
}

/// The callers' end of the queue, and the committer's.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Calls that wait, for who looks without the lock.
    appends: AtomicUsize,
    /// Groups before this number are resolved; some have failed, if the second says so.
    resolved_before: AtomicU64,
    failures: AtomicBool,
    limits: Limits,
}

/// A place in the order.
#[derive(Debug)]
pub(super) struct Accepted {
    /// `None` for nothing, which is durable at once.
    pub group: Option<u64>,
    pub indexes: Range<u64>,
    /// In the list of those who wait for the group.
    pub place: Option<usize>,
    /// He keeps his thread awake until he has his answer.
    pub watch: Option<Watch>,
}

/// For callers.
impl Queue {
    pub(crate) fn new(limits: Limits) -> Queue {
        Queue {
            state: Mutex::new(State {
                order: Order { live: Live::after(0, 0), term: 1, commit: None, changes: 0 },
                rooms: Rooms::new(limits.room),
                forming: VecDeque::new(),
                waiters: Waiters::default(),
                awake: Awake::new(limits.awake_max),
                spare: Vec::new(),
                ended: None,
                deserted: false,
                close: None,
                replacing: None,
                release: 0,
                releases: Vec::new(),
                committer: None,
                wake_at: 1,
            }),
            appends: AtomicUsize::new(0),
            resolved_before: AtomicU64::new(0),
            failures: AtomicBool::new(false),
            limits,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last index that was given out.
    pub(crate) fn last_index(&self) -> u64 {
        self.lock().order.live.next() - 1
    }

    /// Waits for room, gives `content` its place, and waits until it got as far as `wanted`. Gives its indexes.
    pub(crate) fn append<'a>(&'a self, content: Content<'a>, wanted: Durability) -> Append<'a> {
        Append::new(self, content, wanted)
    }

    /// Waits for room and gives `content` its place.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        content: Content<'_>,
        wanted: Durability,
    ) -> Result<Ticket> {
        let (room, mut content) = (self.room_of(&content)?, content);
        let accepted = match self.enter(&mut content, wanted, room, false, None) {
            Some(accepted) => accepted?,
            None => self.enter_in_turn(content, wanted, room).await?,
        };
        Ok(Ticket::new(Arc::clone(self), &accepted))
    }

    /// Gives `content` its place if there is room now.
    pub(crate) fn try_append(
        self: &Arc<Self>,
        mut content: Content<'_>,
        wanted: Durability,
    ) -> Result<Ticket> {
        let room = self.room_of(&content)?;
        match self.enter(&mut content, wanted, room, false, None) {
            Some(accepted) => Ok(Ticket::new(Arc::clone(self), &accepted?)),
            None => Err(Error::new(ErrorKind::Full, "the queue has no room for this append now")
                .next("wait for appends to finish, or raise Options::queue_bytes_max")),
        }
    }

    /// A ticket that resolves when everything accepted before it is durable.
    pub(crate) fn barrier(self: &Arc<Self>) -> Result<Ticket> {
        let mut state = self.lock();
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        if state.forming.is_empty() {
            state.begin_group();
        }
        let indexes = state.order.live.next()..state.order.live.next();
        let accepted = state.join(indexes, Durability::Durable, Room::default());
        self.joined(state);
        Ok(Ticket::new(Arc::clone(self), &accepted))
    }

    /// Whether what is behind `index` can be taken back, and what is there: the index and term before the first entry, the
    /// last index, and how often entries were replaced so far. `None` while some are on their way that replace others: what
    /// can be read is not what will be there.
    #[allow(clippy::type_complexity)] // the fields are taken apart at once
    pub(crate) fn before_truncation(&self, index: u64) -> Result<Option<((u64, u64), u64, u64)>> {
        let state = self.lock();
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        let resolved_before = state.waiters.resolved_before();
        if state.replacing.is_some_and(|(group, _)| group >= resolved_before) {
            return Ok(None);
        }
        let Order { live, commit, changes, .. } = &state.order;
        match commit {
            Some(commit) if index < *commit && *commit < live.next() => {
                let what = format!("index {commit} is committed: the last hard state says so");
                Err(Error::new(ErrorKind::InvalidInput, what)
                    .next("nothing was taken back: committed entries never are"))
            }
            _ => Ok(Some((live.base_and_term(), live.next() - 1, *changes))),
        }
    }

    /// Asks for the entries up to `index`, which are durable, to be released.
    pub(crate) fn release(&self, index: u64, reply: ReleaseReply) -> Result<()> {
        let mut state = self.lock();
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        state.release = state.release.max(index);
        state.releases.push(reply);
        let committer = state.committer.take();
        drop(state);
        committer.into_iter().for_each(wake);
        Ok(())
    }

    pub(super) fn room_of(&self, content: &Content<'_>) -> Result<Room> {
        content.room(self.limits.record_bytes_max, self.limits.room)
    }

    /// Takes room, unless it has been, and gives `content` its place; with a context, its waker waits from now on.
    /// `None` without room. What is left of the content is to be dropped outside of any lock.
    pub(super) fn enter(
        &self,
        content: &mut Content<'_>,
        wanted: Durability,
        room: Room,
        has_room: bool,
        context: Option<&Context<'_>>,
    ) -> Option<Result<Accepted>> {
        let mut state = self.lock();
        if let Some(error) = state.ended.clone() {
            return Some(self.refused(state, room, has_room, error));
        }
        if !has_room && !state.rooms.take(room) {
            return None;
        }
        if let Err(error) = content.check(&state.order) {
            return Some(self.refused(state, room, true, error));
        }
        let bytes = content.bytes_max();
        if bytes > self.limits.append_bytes_max {
            let what = format!(
                "an append of {bytes} bytes with what is around it; the limit is half a segment, {}",
                self.limits.append_bytes_max
            );
            let error = Error::new(ErrorKind::TooLarge, what);
            let next = "in a log of fixed size no segment is longer: raise Options::segment_bytes";
            return Some(self.refused(state, room, true, error.next(next)));
        }
        if bytes == 0 {
            let next = state.order.live.next();
            let woken = state.rooms.give_back(room);
            drop(state);
            woken.for_each(wake);
            return Some(Ok(Accepted {
                group: None,
                indexes: next..next,
                place: None,
                watch: None,
            }));
        }
        let indexes = state.accept(content, bytes, room.records, &self.limits);
        let mut accepted = state.join(indexes, wanted, room);
        if let (Some(context), Some(group)) = (context, accepted.group) {
            let (poll, replaced) = state.waiters.poll(group, wanted, &mut accepted.place, context);
            debug_assert!(poll.is_pending(), "a group that forms is not done");
            debug_assert!(replaced.is_none(), "he had no place before");
            let alone = wanted == Durability::Durable
                && state.waiters.unresolved() == 1
                && state.forming.front().is_some_and(|group| group.appends == 1);
            accepted.watch = state.awake.begin(alone);
        }
        self.joined(state);
        Some(Ok(accepted))
    }

    fn refused(
        &self,
        mut state: MutexGuard<'_, State>,
        room: Room,
        has_room: bool,
        error: Error,
    ) -> Result<Accepted> {
        let woken = has_room.then(|| state.rooms.give_back(room));
        drop(state);
        woken.into_iter().flatten().for_each(wake);
        Err(error)
    }

    /// Waits for its turn.
    pub(super) async fn enter_in_turn(
        &self,
        mut content: Content<'_>,
        wanted: Durability,
        room: Room,
    ) -> Result<Accepted> {
        let mut turn = Turn { queue: self, waiting: WaitingForRoom::new(room) };
        poll_fn(|context| turn.poll(context)).await;
        self.enter(&mut content, wanted, room, true, None).expect("the room was taken")
    }

    /// Counts a call that joined a group, and wakes the committer if that is what he waits for, or if waiting longer
    /// brings the oldest group nothing.
    fn joined(&self, mut state: MutexGuard<'_, State>) {
        let waiting = self.appends.load(Ordering::Relaxed) + 1;
        self.appends.store(waiting, Ordering::Release);
        if (waiting >= state.wake_at || state.oldest_is_full(&self.limits))
            && let Some(committer) = state.committer.take()
        {
            drop(state);
            wake(committer);
        }
    }

    /// Whether the group got as far as that.
    pub(super) fn poll(
        &self,
        group: u64,
        wanted: Durability,
        place: &mut Option<usize>,
        context: &Context<'_>,
    ) -> Poll<Result<()>> {
        if self.is_durable(group) {
            return Poll::Ready(Ok(()));
        }
        let (poll, replaced) = self.lock().waiters.poll(group, wanted, place, context);
        drop(replaced);
        poll
    }

    /// Whether the group is known to be durable, without the lock.
    pub(super) fn is_durable(&self, group: u64) -> bool {
        // In this order: failures are told before the numbers move over them.
        group < self.resolved_before.load(Ordering::Acquire)
            && !self.failures.load(Ordering::Acquire)
    }

    /// A ticket goes.
    pub(super) fn drop_ticket(&self, group: u64, wanted: Durability, place: Option<usize>) {
        if self.is_durable(group) {
            return;
        }
        let mut state = self.lock();
        let waker = state.waiters.leave(group, wanted, place);
        state.waiters.drop_ticket(group);
        self.failures.store(state.waiters.failures() > 0, Ordering::Release);
        drop(state);
        drop(waker);
    }

    /// He waits no more, but keeps his ticket.
    pub(super) fn leave(&self, group: u64, wanted: Durability, place: Option<usize>) {
        let waker = self.lock().waiters.leave(group, wanted, place);
        drop(waker);
    }
}

/// A caller who waits for room. If he goes, his turn is the next one's.
struct Turn<'a> {
    queue: &'a Queue,
    waiting: WaitingForRoom,
}

impl Turn<'_> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let (poll, replaced) = self.waiting.poll(&mut self.queue.lock().rooms, context);
        drop(replaced);
        poll
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let (own, woken) = self.waiting.leave(&mut self.queue.lock().rooms);
        woken.for_each(wake);
        drop(own);
    }
}

impl State {
    /// Gives the records of `content` their indexes, in the youngest group or a new one.
    fn accept(
        &mut self,
        content: &mut Content<'_>,
        bytes: u64,
        records: usize,
        limits: &Limits,
    ) -> Range<u64> {
        let fits = |group: &Group| {
            group.kind == MarkKind::Entries
                && content.kind() == MarkKind::Entries
                && (group.is_barrier()
                    || group.bytes_max + bytes <= limits.group_bytes_max
                        && group.room.records + records <= limits.group_records_max)
        };
        if !self.forming.back().is_some_and(fits) {
            self.begin_group();
        }
        let group = self.forming.back_mut().expect("there is one");
        group.bytes_max += bytes;
        let changes = self.order.changes;
        let indexes = content.move_to(group, &mut self.order);
        if self.order.changes > changes {
            let first = match self.replacing {
                Some((before, first)) if before >= self.waiters.resolved_before() => {
                    first.min(indexes.start)
                }
                _ => indexes.start,
            };
            self.replacing = Some((group.number, first));
        }
        indexes
    }

    /// Nothing more can join the oldest group.
    fn oldest_is_full(&self, limits: &Limits) -> bool {
        self.forming.len() > 1
            || self.forming.front().is_some_and(|group| {
                group.room.records >= limits.group_records_max
                    || group.bytes_max >= limits.group_bytes_max
            })
    }

    /// Whom to wake when enough waits. The waker that was there before is to be dropped outside of the lock.
    fn set_committer(&mut self, waker: &Waker) -> Option<Waker> {
        match &self.committer {
            Some(known) if known.will_wake(waker) => None,
            _ => self.committer.replace(waker.clone()),
        }
    }

    fn begin_group(&mut self) {
        let number = self.waiters.begin();
        self.forming.push_back(self.spare.pop().unwrap_or_default().reset(number));
    }

    /// A call joins the youngest group.
    fn join(&mut self, indexes: Range<u64>, wanted: Durability, room: Room) -> Accepted {
        let group = self.forming.back_mut().expect("there is one");
        group.join(wanted, room);
        self.waiters.join(group.number);
        Accepted { group: Some(group.number), indexes, place: None, watch: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Records;
    use crate::types::{Entry, HardState, Snapshot};
    use bytes::Bytes;
    use std::future::Future;

    fn queue() -> Arc<Queue> {
        Arc::new(Queue::new(Limits::small()))
    }

    fn entries(indexes: &[u64]) -> Vec<Entry> {
        let entry = |&index| Entry { index, term: 1, ..Entry::default() };
        indexes.iter().map(entry).collect()
    }

    fn append(queue: &Arc<Queue>, content: Content) -> Result<Ticket> {
        pollster::block_on(queue.submit(content, Durability::Durable))
    }

    #[test]
    fn save_with_a_gap_takes_no_index() {
        let queue = queue();
        for bad in [&[2][..], &[1, 3], &[0]] {
            let error =
                append(&queue, Content::Save(HardState::default(), entries(bad))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
        let ticket = append(&queue, Content::One(Bytes::new().into())).unwrap();
        assert_eq!(ticket.indexes(), 1..2);
    }

    #[test]
    fn index_beyond_the_last_is_refused() {
        let queue = queue();
        let snapshot =
            |index| Content::Snapshot(Box::new(Snapshot { index, term: 1, conf_state: None }));
        let error = append(&queue, snapshot(u64::MAX)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        drop(append(&queue, snapshot(u64::MAX - 2)).unwrap());
        let ticket = append(&queue, Content::One(Bytes::new().into())).unwrap();
        assert_eq!(ticket.indexes(), u64::MAX - 1..u64::MAX);
        let error = append(&queue, Content::One(Bytes::new().into())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn save_may_go_back() {
        let queue = queue();
        let save =
            |indexes: &[u64]| append(&queue, Content::Save(HardState::default(), entries(indexes)));
        drop(save(&[1, 2, 3]).unwrap());
        assert_eq!(save(&[2]).unwrap().indexes(), 2..3);
        assert!(save(&[4]).is_err());
    }

    #[test]
    fn nothing_to_save_is_durable_at_once() {
        let queue = queue();
        let ticket = append(&queue, Content::Save(HardState::default(), Vec::new())).unwrap();
        assert_eq!(pollster::block_on(ticket).unwrap(), 1..1);
    }

    #[test]
    fn record_above_the_limit_is_refused() {
        let queue = queue();
        let content = Content::One(vec![0; 1025].into());
        assert_eq!(append(&queue, content).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn what_is_taken_back_gives_its_index_back() {
        let queue = queue();
        let first =
            append(&queue, Content::Many((0..3).map(|_| Bytes::new().into()).collect())).unwrap();
        queue.refuse(
            Order { live: Live::after(0, 0), term: 1, commit: None, changes: 0 },
            &Error::closed(),
        );
        assert!(pollster::block_on(first).is_err());
        let again = append(&queue, Content::One(Bytes::new().into())).unwrap();
        assert_eq!(again.indexes(), 1..2);
    }

    fn one(queue: &Arc<Queue>, bytes: usize) -> Result<Ticket> {
        append(queue, Content::One(vec![0; bytes].into()))
    }

    #[test]
    fn groups_form_up_to_their_limits() {
        let queue = queue();
        let _tickets: Vec<_> = (0..5).map(|_| one(&queue, 10).unwrap()).collect();
        assert_eq!(queue.waiting(), Waiting { groups: 2, appends: 4, ..queue.waiting() });
        assert_eq!(queue.take_group().unwrap().count(), 4);
        assert_eq!(queue.take_group().unwrap().count(), 1);
        assert_eq!(queue.appends_waiting(), 0);
        let _tickets: Vec<_> = (0..3).map(|_| one(&queue, 1000).unwrap()).collect();
        assert_eq!(queue.take_group().unwrap().count(), 3, "3 KiB fit");
    }

    #[test]
    fn batch_is_never_divided() {
        let queue = queue();
        let _first = one(&queue, 10).unwrap();
        let _batch =
            append(&queue, Content::Many((0..6).map(|_| Bytes::new().into()).collect())).unwrap();
        assert_eq!(queue.take_group().unwrap().count(), 1);
        assert_eq!(queue.take_group().unwrap().count(), 6);
    }

    #[test]
    fn full_queue_refuses_or_waits_until_room_is_given_back() {
        let queue = queue();
        let tickets: Vec<_> = (0..8).map(|_| one(&queue, 1).unwrap()).collect();
        let try_one = || queue.try_append(Content::One(Bytes::new().into()), Durability::Durable);
        assert_eq!(try_one().unwrap_err().kind(), ErrorKind::Full);
        let mut waits =
            Box::pin(queue.submit(Content::One(Bytes::new().into()), Durability::Durable));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        let group = queue.take_group().unwrap();
        queue.durable(group);
        assert!(waits.as_mut().poll(&mut context).is_ready());
        assert!(try_one().is_ok());
        drop(tickets);
    }

    #[test]
    fn refused_append_takes_no_room() {
        let queue = queue();
        for _ in 0..20 {
            let gap = Content::Save(HardState::default(), entries(&[7]));
            assert!(append(&queue, gap).is_err());
            let nothing = Content::Save(HardState::default(), Vec::new());
            drop(append(&queue, nothing).unwrap());
        }
        assert!(queue.try_append(Content::One(Bytes::new().into()), Durability::Durable).is_ok());
    }

    #[test]
    fn memory_of_a_group_is_used_again() {
        let queue = queue();
        for _ in 0..10 {
            let ticket = one(&queue, 1).unwrap();
            let group = queue.take_group().unwrap();
            queue.durable(group);
            pollster::block_on(ticket).unwrap();
        }
        assert_eq!(queue.lock().spare.len(), 1);
    }

    #[test]
    fn committer_is_woken_at_the_number_it_waits_for() {
        let queue = queue();
        let context = Context::from_waker(Waker::noop());
        assert!(queue.poll_waiting(2, &context).is_pending());
        let _first = one(&queue, 1).unwrap();
        assert!(queue.lock().committer.is_some());
        let _second = one(&queue, 1).unwrap();
        assert!(queue.lock().committer.is_none());
        assert!(queue.poll_waiting(2, &context).is_ready());
    }

    #[test]
    fn closing_waits_for_what_was_accepted() {
        let queue = queue();
        let _ticket = one(&queue, 1).unwrap();
        queue.close(Error::closed(), None);
        assert!(one(&queue, 1).is_err());
        assert!(queue.take_close().is_none());
        let _group = queue.take_group();
        assert!(queue.take_close().is_some());
    }

    /// All room was with groups in flight when the log failed: whoever waited for room waited for ever.
    #[test]
    fn who_waits_for_room_is_told_of_the_failure() {
        let queue = queue();
        let _tickets: Vec<_> = (0..8).map(|_| one(&queue, 1).unwrap()).collect();
        let _in_flight: Vec<_> = std::iter::from_fn(|| queue.take_group()).collect();
        let append = || Box::pin(queue.append(Content::one("x"), Durability::Durable));
        let mut waiting = [append(), append()];
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.iter_mut().all(|wait| wait.as_mut().poll(&mut context).is_pending()));
        queue.fail(&Error::poisoned(&Error::new(ErrorKind::Io, "no")));
        for wait in &mut waiting {
            let Poll::Ready(outcome) = wait.as_mut().poll(&mut context) else {
                panic!("nobody will give room back");
            };
            assert!(outcome.unwrap_err().is_poisoned());
        }
    }
}
