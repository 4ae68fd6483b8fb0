//! The loop: take a group, make room, write, sync, move the watermark, answer.
//!
//! It is the only place that decides; everything it calls acts. It names no runtime.

use super::queue::{Append, Order, Queue, Request};
use crate::error::{Error, Result};
use crate::format::mark::MARK_FRAME_BYTES;
use crate::format::{GroupEncoder, MarkKind, Packing, Place, Record};
use crate::io::{BLOCK_BYTES, Disk, DiskFile};
use crate::live::Live;
use crate::segment::active::Active;
use crate::segment::dir;
use crate::segment::name::SegmentName;
use crate::segment::pipeline::{Pipeline, Prepared};
use crate::tail::Tail;
use crate::types::Position;
use crate::watermark::Mover;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// What the committer needs to know of the options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub segment_bytes: u64,
    pub group_bytes_max: u64,
    pub packing: Packing,
    pub idle_mark_after: Option<Duration>,
}

pub(crate) struct Committer<D: Disk> {
    pub dir: PathBuf,
    pub limits: Limits,
    pub queue: Arc<Queue>,
    pub mover: Mover,
    pub active: Active<D>,
    pub pipeline: Pipeline<D>,
    pub tail: Tail,
    /// Where the first group after the head of the active segment goes.
    pub head_end: u64,
    /// Records were written that no mark proves yet.
    pub unproven: bool,
}

/// Why a group did not make it.
enum Failure {
    /// There is no space for it. Nothing was written.
    NoSpace(Error),
    /// A write or sync failed: nobody knows what is on disk.
    Poison(Error),
}

impl<D: Disk> Committer<D> {
    /// Commits groups until the log is closed.
    pub(crate) async fn run(mut self) {
        let mut carried = None;
        loop {
            let request = match carried.take() {
                Some(request) => Some(request),
                None => self.next_request().await,
            };
            let outcome = match request {
                Some(Request::Append(first)) => {
                    let group = self.gather(first, &mut carried);
                    self.commit(group, &mut carried).await
                }
                Some(Request::Close(reply)) => {
                    let outcome = self.mark(MarkKind::Close).await;
                    self.pipeline.stop().await;
                    let durable = self.tail.next_index - 1;
                    if let Some(reply) = reply {
                        let _ = reply.send(outcome.map(|()| durable));
                    }
                    return;
                }
                None => self.mark(MarkKind::Idle).await.map_err(|error| (error, Vec::new())),
            };
            // On a disk whose operations block, nothing above may have waited, and tokio's own budget would let
            // readers and the pipeline in only after 128 commits.
            yield_once().await;
            if let Err((error, group)) = outcome {
                return self.poison(&error, group, carried).await;
            }
        }
    }

    /// The next request, or `None` when it is time for an idle mark.
    async fn next_request(&self) -> Option<Request> {
        let mut request = pin!(self.queue.inbox.receive());
        let Some(after) = self.limits.idle_mark_after.filter(|_| self.unproven) else {
            return Some(request.await);
        };
        let mut idle = pin!(self.active.disk.sleep(after));
        poll_fn(|context| {
            if let Poll::Ready(request) = request.as_mut().poll(context) {
                return Poll::Ready(Some(request));
            }
            idle.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    /// Everything that waits, as far as it fits in a group. What does not fit is carried over.
    fn gather(&self, first: Append, carried: &mut Option<Request>) -> Vec<Append> {
        let mut bytes = first.bytes_max;
        let mut group = vec![first];
        while let Some(request) = self.queue.inbox.try_receive() {
            match request {
                Request::Append(append)
                    if bytes + append.bytes_max <= self.limits.group_bytes_max =>
                {
                    bytes += append.bytes_max;
                    group.push(append);
                }
                other => {
                    *carried = Some(other);
                    break;
                }
            }
        }
        group
    }

    /// Commits a group and answers it. An error poisons the log, and gives the group back unanswered.
    async fn commit(
        &mut self,
        group: Vec<Append>,
        carried: &mut Option<Request>,
    ) -> Result<(), (Error, Vec<Append>)> {
        let bytes_max = group.iter().map(|append| append.bytes_max).sum();
        let outcome = match self.make_room(bytes_max).await {
            Ok(()) => self.write_group(&group).await.map_err(Failure::Poison),
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(()) => {
                for append in group {
                    append.reply.resolve(Ok(()));
                }
                Ok(())
            }
            Err(Failure::NoSpace(error)) => {
                self.take_back(group, carried, &error);
                Ok(())
            }
            Err(Failure::Poison(error)) => Err((error, group)),
        }
    }

    /// A full disk: the group and all behind it fail, and their indexes are given out again.
    fn take_back(&self, group: Vec<Append>, carried: &mut Option<Request>, error: &Error) {
        let live = self.mover.watermark().with_live(Live::clone);
        let order = Order { live, term: self.tail.term };
        let behind = carried.take().into_iter().chain(self.queue.take_back(order));
        let mut close = None;
        let mut failed = group;
        for request in behind {
            match request {
                Request::Append(append) => failed.push(append),
                Request::Close(_) => close = Some(request),
            }
        }
        *carried = close;
        for append in failed {
            append.reply.resolve(Err(error.clone()));
        }
    }

    /// Sees to it that the active segment has space for a group of `bytes` of records.
    async fn make_room(&mut self, bytes: u64) -> Result<(), Failure> {
        // The mark, and a filler of less than two blocks.
        let boundary = self.limits.packing.boundary(BLOCK_BYTES as u64);
        let bytes = bytes + MARK_FRAME_BYTES + 2 * boundary;
        let full = self.active.offset + bytes > self.limits.segment_bytes;
        if full && self.active.offset > self.head_end {
            self.cut().await?;
        }
        self.active.reserve(bytes).await.map_err(no_space_or_poison)
    }

    async fn write_group(&mut self, group: &[Append]) -> Result<()> {
        let records = || group.iter().flat_map(|append| &append.records);
        let first_index = records()
            .find_map(|record| match record {
                Record::Entry(entry) => Some(entry.index),
                _ => None,
            })
            .unwrap_or(self.tail.next_index);
        let start = self.active.position();
        let place = self.place(MarkKind::Entries, start, first_index);
        let mut encoder = GroupEncoder::new(&place, records());
        self.active.write(|buffer| encoder.fill(buffer)).await?;
        self.active.sync().await?;

        self.tail.chain = encoder.chain();
        self.tail.group += 1;
        self.unproven = true;
        let mut next_index = self.tail.next_index;
        self.mover.advance(self.active.position(), |live| {
            for (record, offset) in records().zip(encoder.record_offsets()) {
                let position = Position::new(start.seq, start.offset + offset);
                apply(live, record, position);
            }
            next_index = live.next();
        });
        self.tail.next_index = next_index;
        for record in records() {
            self.tail.term = self.tail.term.max(term_of(record));
            if let Record::State(state) = record {
                self.tail.state = *state;
            }
        }
        Ok(())
    }

    fn place(&self, kind: MarkKind, position: Position, first_index: u64) -> Place {
        Place {
            position,
            chain: self.tail.chain,
            kind,
            log_id: self.tail.log_id,
            epoch: self.tail.epoch,
            group: self.tail.group + 1,
            first_index,
            // Every group is synced before the next is written.
            durable: self.active.position(),
            boundary: self.limits.packing.boundary(BLOCK_BYTES as u64),
        }
    }

    /// Writes and syncs a group without records. It proves all groups before it durable.
    pub(crate) async fn mark(&mut self, kind: MarkKind) -> Result<()> {
        let place = self.place(kind, self.active.position(), self.tail.next_index);
        let mut encoder = GroupEncoder::new(&place, []);
        match self.active.reserve(encoder.bytes()).await {
            Ok(()) => {}
            // Not worth a failure: the log is durable without it.
            Err(error) if error.is_no_space() => {
                self.unproven = false;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.active.write(|buffer| encoder.fill(buffer)).await?;
        self.active.sync().await?;
        self.tail.chain = encoder.chain();
        self.tail.group += 1;
        self.unproven = false;
        self.mover.advance(self.active.position(), |_| {});
        Ok(())
    }

    /// Starts the next segment. Every group so far is synced, so the old one is complete.
    async fn cut(&mut self) -> Result<(), Failure> {
        let prepared = self.pipeline.take().await.map_err(no_space_or_poison)?;
        self.switch_to(prepared).await.map_err(Failure::Poison)
    }

    async fn switch_to(&mut self, prepared: Prepared<D::File>) -> Result<()> {
        // Gives the unused space back. If a crash undoes it, readers pass over the zeros.
        self.active
            .file
            .truncate(self.active.offset)
            .await
            .map_err(|error| Error::io("shortening", &self.active.path, error))?;
        let seq = self.active.seq.next();
        let start = Position::new(seq, 0);
        let place = self.place(MarkKind::Head, start, self.tail.next_index);
        let mut records = vec![Record::Metadata(self.tail.metadata.clone())];
        if !self.tail.state.is_empty() {
            records.push(Record::State(self.tail.state));
        }
        let mut encoder = GroupEncoder::new(&place, &records);

        let disk = &self.active.disk;
        let name = SegmentName { seq, index: self.tail.next_index };
        let (bytes, fill) = (encoder.bytes(), |buffer: &mut [u8]| encoder.fill(buffer));
        let next = Active::begin(disk, prepared, &self.dir, name, bytes, fill).await?;
        // Nothing in the segment is acked before its name is durable.
        dir::sync(disk, &self.dir).await?;

        self.tail.chain = encoder.chain();
        self.tail.group += 1;
        self.head_end = next.offset;
        self.mover.add_segment(seq, &next.path, next.offset);
        // The old file, and with it its lock, goes only now that the new one is there to hold one.
        self.active = next;
        self.pipeline.taken();
        Ok(())
    }

    /// The log takes no more appends: `group` and everything that waits get the cause. Then waits to be closed;
    /// reads go on meanwhile.
    async fn poison(self, error: &Error, group: Vec<Append>, carried: Option<Request>) {
        let poisoned = Error::poisoned(error);
        self.mover.watermark().end(&poisoned);
        let behind = self.queue.inbox.end(poisoned.clone());
        let group = group.into_iter().map(Request::Append);
        let mut close = None;
        for request in group.chain(carried).chain(behind) {
            match request {
                Request::Append(append) => append.reply.resolve(Err(poisoned.clone())),
                Request::Close(reply) => close = Some(reply),
            }
        }
        let reply = match close {
            Some(reply) => reply,
            None => loop {
                // The inbox has ended: only the request to close can still come.
                if let Request::Close(reply) = self.queue.inbox.receive().await {
                    break reply;
                }
            },
        };
        // Before the lock goes: the prepared file has the same name for everyone.
        self.pipeline.stop().await;
        if let Some(reply) = reply {
            let _ = reply.send(Err(poisoned));
        }
    }

    /// The log could not be made ready: lets nothing go on behind the back of whoever opens it next.
    pub(crate) async fn abandon(self) {
        self.pipeline.stop().await;
    }
}

/// Lets the other tasks of this thread run.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What a durable record changes in the log.
fn apply(live: &mut Live, record: &Record, position: Position) {
    match record {
        Record::Entry(entry) => live
            .push(entry.index, entry.term, position)
            .expect("the queue accepts no entries with a gap"),
        Record::Snapshot(snapshot) => live.snapshot(snapshot.index, snapshot.term),
        Record::State(_) | Record::Metadata(_) => {}
    }
}

fn term_of(record: &Record) -> u64 {
    match record {
        Record::Entry(entry) => entry.term,
        Record::State(state) => state.term,
        Record::Snapshot(snapshot) => snapshot.term,
        Record::Metadata(_) => 0,
    }
}

/// Which failure of making room is a full disk, and which one poisons.
fn no_space_or_poison(error: Error) -> Failure {
    if error.is_no_space() { Failure::NoSpace(error) } else { Failure::Poison(error) }
}
