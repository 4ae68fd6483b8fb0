//! The loop: take a group, make room, write it, and when it is durable move the watermark and answer.
//!
//! It is the only place that decides; everything it calls acts. It names no runtime.
//!
//! Groups are *staged* one after another: each gets its place and its checksums when it is taken, so the next can be
//! staged while it is being written. They may come back in any order and are answered in theirs. The first failure
//! stops the loop: groups before it are still answered as they deserve, the failed one and all behind it are not acked.

use super::flight::{Flight, Flights};
use super::observer::Observed;
use super::policy::{GroupCommit, GroupDecision, GroupPolicy, GroupView};
use super::queue::{CloseReply, Queue, Waiting};
use super::rest::Rest;
use super::retention::Retention;
use super::retire::Retire;
use super::slots::Slots;
use super::spin::Spin;
use super::stage::apply;
use crate::error::Result;
use crate::format::{GroupEncoder, MarkKind, Records};
use crate::io::{Disk, DiskFile, Persist};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::segment::active::{Active, How, sync, write, write_buffer};
use crate::segment::pipeline::Pipeline;
use crate::segment::spares::Spares;
use crate::tail::Tail;
use crate::types::Durability;
use crate::watermark::Mover;
use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Groups that were written and wait for a sync that nobody asked for; one more asks for it.
const UNSYNCED_GROUPS_MAX: usize = 1024;

/// What the committer needs to know of the options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub segment_bytes: u64,
    /// Groups that are written at the same time, if the sync method allows it.
    pub in_flight_max: usize,
    pub idle_mark_after: Option<Duration>,
    /// What was only written is synced at the latest after this time.
    pub sync_interval: Duration,
    pub retention: Retention,
    pub when_full: WhenFull,
}

/// What becomes of appends while a log that has all the segments it may have
/// ([`Options::log_bytes_max`](crate::Options::log_bytes_max)) is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenFull {
    /// They wait until entries are released.
    #[default]
    Wait,
    /// They fail with [`ErrorKind::Full`](crate::ErrorKind::Full), and take no index.
    Fail,
}

pub(crate) struct Committer<D: Disk> {
    pub dir: PathBuf,
    pub limits: Limits,
    pub queue: Arc<Queue>,
    pub policy: Box<dyn GroupPolicy>,
    pub metrics: Arc<Metrics>,
    /// For the next append, and for those that a group is to gather: the one may pay where the other does not.
    pub spin: Spin,
    pub gathering: Spin,
    pub mover: Mover,
    pub observed: Observed,
    pub retire: Rc<Retire<D>>,
    pub spares: Rc<Spares>,
    /// The log has all the segments it may have, and needs one more.
    pub waits_for_room: bool,
    pub active: Active<D>,
    pub pipeline: Pipeline<D>,
    pub tail: Tail,
    /// The entries as they are when everything staged is durable.
    pub staged: Live,
    /// Where the first group after the head of the active segment goes.
    pub head_end: u64,
    /// Records were written that no mark proves yet.
    pub unproven: bool,
    pub flights: Flights,
    pub rest: Rest,
    /// To be used again.
    pub encoders: Vec<GroupEncoder>,
}

/// What the loop does next.
enum Move {
    /// `alone`: nothing else is begun before it is done.
    Commit {
        alone: bool,
    },
    /// There is no space for a group whose records take so many bytes, and nothing is in flight.
    MakeSpace(u64),
    /// Nothing was appended for a while.
    Mark,
    /// Entries are to be released.
    Release,
    /// Until that is asked for, or there is room for another segment.
    WaitForRoom,
    Close(CloseReply),
    /// Everything staged has to be durable first.
    Flush,
    /// Until something comes back, or so many calls wait, or so much time is over.
    Wait {
        appends: Option<usize>,
        at_most: Option<Duration>,
    },
}

/// What ends a wait.
#[allow(clippy::large_enum_variant)] // not boxed: one at a time, and appends allocate nothing
enum Event {
    Written(Flight),
    /// Everything before this number is durable, or nobody knows.
    Synced(u64, Result<()>),
    Other,
}

impl<D: Disk> Committer<D> {
    /// Commits groups until the log is closed.
    pub(crate) async fn run(mut self) {
        match self.work().await {
            Ok(reply) => {
                let outcome = self.write_last().await;
                if outcome.is_ok() {
                    self.retire.finish().await;
                }
                self.pipeline.stop().await;
                if let Some(reply) = reply {
                    let _ = reply.send(outcome.map(|()| self.tail.next_index - 1));
                }
            }
            Err(error) => self.poison(&error).await,
        }
    }

    /// What the log is closed with.
    async fn write_last(&mut self) -> Result<()> {
        self.write_note().await?;
        self.write_release().await?;
        self.mark(MarkKind::Close).await
    }

    /// The loop itself: ends with the request to close, or with what poisons the log.
    async fn work(&mut self) -> Result<CloseReply> {
        let mut writes = Slots::new();
        let mut syncs = Slots::new();
        let mut timer = Slots::new();
        loop {
            self.settle();
            // Not before who waits is answered.
            self.rest.take_owed(&self.active.disk).await;
            let (file, path) = (Rc::clone(&self.active.file), Rc::clone(&self.active.path));
            if syncs.is_empty() && self.sync_is_due() {
                self.metrics.syncs.add(1);
                syncs.push(sync_before(
                    self.flights.back_before(),
                    Rc::clone(&file),
                    Rc::clone(&path),
                ));
            }
            let in_flight = writes.len() + syncs.len();
            if let (Some(error), 0) = (self.flights.failure(), in_flight) {
                return Err(error.clone());
            }
            match self.next_move(writes.len(), !syncs.is_empty()) {
                Move::Commit { alone } => {
                    if let Some((flight, buffer)) = self.stage(writes.len()).await {
                        let disk = self.active.disk.clone();
                        let alone = alone && in_flight == 0;
                        writes.push(write_flight(disk, file, path, flight, buffer, alone));
                    }
                }
                Move::MakeSpace(records) => self.make_space(records).await?,
                Move::Mark => self.mark(MarkKind::Idle).await?,
                Move::Release => self.release().await?,
                Move::WaitForRoom => self.wait_for_room().await,
                Move::Close(reply) => return Ok(reply),
                Move::Flush => {
                    self.flights.flush();
                    // With nothing in flight nothing would wake us: the sync is begun in the next round.
                    if in_flight > 0 {
                        let event = self.wait(&mut writes, &mut syncs, &mut timer, None).await;
                        self.happened(event);
                    }
                }
                Move::Wait { appends, at_most } => {
                    timer.clear();
                    let due = at_most.map(|time| self.active.disk.now().saturating_add(time));
                    if in_flight == 0 && self.spin_for(appends, at_most) {
                        continue;
                    }
                    let disk = &self.active.disk;
                    let left = |due: Duration| due.saturating_sub(disk.now());
                    timer.extend(due.map(|due| sleep(disk.clone(), left(due))));
                    let event = self.wait(&mut writes, &mut syncs, &mut timer, appends).await;
                    self.happened(event);
                }
            }
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Written(flight) => self.flights.came_back(flight),
            Event::Synced(upto, outcome) => self.flights.synced(upto, outcome),
            Event::Other => {}
        }
    }

    async fn wait(
        &self,
        writes: &mut Slots<impl Future<Output = Flight>>,
        syncs: &mut Slots<impl Future<Output = (u64, Result<()>)>>,
        timer: &mut Slots<impl Future<Output = ()>>,
        appends: Option<usize>,
    ) -> Event {
        let mut polls = 0;
        let event = poll_fn(|context| {
            polls += 1;
            if let Poll::Ready(flight) = writes.poll(context) {
                return Poll::Ready(Event::Written(flight));
            }
            if let Poll::Ready((upto, outcome)) = syncs.poll(context) {
                return Poll::Ready(Event::Synced(upto, outcome));
            }
            let queued = appends.map(|appends| self.queue.poll_waiting(appends, context));
            if queued.is_some_and(|poll| poll.is_ready()) || timer.poll(context).is_ready() {
                return Poll::Ready(Event::Other);
            }
            Poll::Pending
        })
        .await;
        if polls == 1 {
            self.rest.owe();
        }
        event
    }

    async fn wait_for_room(&self) {
        let mut room = pin!(self.spares.wait());
        poll_fn(|context| match self.queue.poll_asked(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => room.as_mut().poll(context),
        })
        .await;
    }

    /// Looks whether so many calls wait, without going to sleep, if that has paid lately. `true` if they do.
    fn spin_for(&mut self, appends: Option<usize>, at_most: Option<Duration>) -> bool {
        // Who waits for a time, however many come, sleeps.
        let Some(wanted) = appends.filter(|wanted| *wanted < usize::MAX) else {
            return false;
        };
        let queue = Arc::clone(&self.queue);
        let ready = move || queue.appends_waiting() >= wanted;
        let spin = if wanted == 1 { &mut self.spin } else { &mut self.gathering };
        spin.until(&self.active.disk, at_most, ready)
    }

    /// Answers what is durable, in order, and tells of what is written.
    fn settle(&mut self) {
        while let Some(flight) = self.flights.next_written() {
            let Flight { group, encoder, start, end, persist, .. } = flight;
            // A barrier brought none.
            if end > start {
                let places = encoder.places().map(|(at, chain)| (start.after(at), chain));
                self.mover.written(group, places, *end, |live| apply_all(live, flight));
                self.observed.show(Durability::Written, group);
            }
            if *persist == Persist::Later {
                self.queue.written(group.number);
            }
        }
        let Active { offset, zeroed, .. } = self.active;
        self.pipeline.active_is_at(offset, zeroed.max(self.limits.segment_bytes.min(offset)));
        while let Some(flight) = self.flights.next_durable() {
            let now = self.active.disk.now();
            self.mover.durable(flight.end, |live| apply_all(live, &flight));
            let Flight { group, encoder, start, end, begun, in_flight, .. } = flight;
            self.observed.show(Durability::Durable, &group);
            if end > start {
                self.encoders.push(encoder);
            }
            self.policy.committed(&GroupCommit {
                now,
                appends: group.appends,
                bytes: end.offset - start.offset,
                latency: now.saturating_sub(begun),
                in_flight,
                waiting: self.queue.appends_waiting(),
            });
            self.metrics.groups.add(1);
            self.metrics.appends.add(group.appends as u64);
            self.metrics.bytes.add(end.offset - start.offset);
            self.queue.durable(group);
        }
    }

    /// Whether what was written and is not durable has to be synced now.
    fn sync_is_due(&mut self) -> bool {
        if self.flights.is_stopped() || !self.flights.needs_sync() {
            return false;
        }
        let since = self.flights.unsynced_since().expect("something is not synced");
        self.flights.disk_is_wanted()
            || self.flights.unsynced() > UNSYNCED_GROUPS_MAX
            || self.active.disk.now() >= since.saturating_add(self.limits.sync_interval)
    }

    fn next_move(&mut self, writing: usize, syncing: bool) -> Move {
        let waiting = self.queue.waiting();
        if self.flights.is_stopped() {
            return Move::Wait { appends: None, at_most: None };
        }
        if let Some(index) = waiting.release {
            // What is written down is written behind all that is durable.
            let written_down = self.mover.watermark().frees(index);
            return match written_down && !self.flights.is_empty() {
                true => Move::Flush,
                false => Move::Release,
            };
        }
        if self.waits_for_room {
            self.waits_for_room = !self.spares.has_some() && !waiting.closing;
            if self.waits_for_room {
                return Move::WaitForRoom;
            }
        }
        if waiting.groups == 0 {
            return self.nothing_waits(&waiting, syncing);
        }
        let direct = self.active.method.direct;
        let window = if direct { self.limits.in_flight_max } else { 1 };
        // Through the page cache, one sync is in flight at a time, and it covers what was written before it.
        if writing.max(self.flights.alone()) >= window || syncing && !direct && waiting.wants_disk {
            return Move::Wait { appends: None, at_most: self.until_sync(syncing) };
        }
        if waiting.barrier {
            return Move::Commit { alone: false };
        }
        if self.wants_cut(waiting.bytes) || !self.has_space(waiting.bytes) {
            return match self.flights.is_empty() {
                true => Move::MakeSpace(waiting.bytes),
                false => Move::Flush,
            };
        }
        let view = GroupView {
            now: self.active.disk.now(),
            appends: waiting.appends,
            bytes: waiting.bytes,
            full: waiting.full || waiting.closing,
            in_flight: writing + usize::from(syncing),
            appends_in_flight: self.flights.appends(),
            in_flight_max: window,
        };
        match self.policy.next(&view) {
            GroupDecision::Gather { appends, at_most } if appends > view.appends && !view.full => {
                // What was only written before waits no longer for that.
                let sync = self.until_sync(syncing).unwrap_or(at_most);
                Move::Wait { appends: Some(appends), at_most: Some(at_most.min(sync)) }
            }
            GroupDecision::Hold if view.in_flight > 0 && !view.full => {
                Move::Wait { appends: None, at_most: self.until_sync(syncing) }
            }
            GroupDecision::Commit => Move::Commit { alone: false },
            _ => Move::Commit { alone: true },
        }
    }

    fn nothing_waits(&mut self, waiting: &Waiting, syncing: bool) -> Move {
        if waiting.closing {
            if self.flights.is_empty() {
                return match self.queue.take_close() {
                    Some(reply) => Move::Close(reply),
                    None => Move::Wait { appends: Some(1), at_most: None },
                };
            }
            return Move::Flush;
        }
        if !self.flights.is_empty() {
            return Move::Wait { appends: Some(1), at_most: self.until_sync(syncing) };
        }
        let at_most = self.limits.idle_mark_after.filter(|_| self.unproven);
        match at_most {
            Some(after) if self.idle_since().is_some_and(|idle| idle >= after) => Move::Mark,
            at_most => Move::Wait { appends: Some(1), at_most },
        }
    }

    /// For how long nothing was staged.
    fn idle_since(&self) -> Option<Duration> {
        Some(self.active.disk.now().saturating_sub(self.flights.last_staged()?))
    }

    /// How long what was only written may stay so. `None` while a sync or a write that has to come back before it is
    /// under way: what ends that asks again.
    fn until_sync(&self, syncing: bool) -> Option<Duration> {
        if syncing || !self.flights.needs_sync() {
            return None;
        }
        let due = self.flights.unsynced_since()?.saturating_add(self.limits.sync_interval);
        Some(due.saturating_sub(self.active.disk.now()))
    }
}

/// What the records of a group change in the log.
fn apply_all(live: &mut Live, flight: &Flight) {
    for (at, (offset, _)) in flight.encoder.places().enumerate() {
        apply(live, flight.group.get(at), flight.start.after(offset));
    }
}

async fn sleep<D: Disk>(disk: D, time: Duration) {
    disk.sleep(time).await;
}

/// Writes a group: from the buffer it is in, or through one after another.
async fn write_flight<D: Disk>(
    disk: D,
    file: Rc<D::File>,
    path: Rc<Path>,
    mut flight: Flight,
    buffer: Option<D::Buf>,
    alone: bool,
) -> Flight {
    let Flight { group, encoder, start, end, persist, .. } = &mut flight;
    let outcome = match buffer {
        Some(buffer) => {
            let len = (end.offset - start.offset) as usize;
            let how = match persist {
                Persist::Later => How::Written,
                Persist::Now if alone => How::DurablyAlone,
                Persist::Now => How::Durably,
            };
            write_buffer(&*file, &path, start.offset, how, buffer, len).await
        }
        None => {
            let fill = |buffer: &mut [u8]| encoder.fill(&*group, buffer);
            let written = write(&disk, &*file, &path, start.offset, *persist, fill).await;
            written.map(|reached| assert_eq!(reached, end.offset, "what was planned"))
        }
    };
    flight.outcome = outcome;
    flight
}

async fn sync_before<F: DiskFile>(number: u64, file: Rc<F>, path: Rc<Path>) -> (u64, Result<()>) {
    let outcome = sync(&*file, &path).await;
    (number, outcome)
}
