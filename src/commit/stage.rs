//! How a group gets its place: room in the active segment, a mark that says what was durable, a cut if need be.

use super::committer::{Committer, WhenFull};
use super::flight::Flight;
use super::group::Group;
use super::queue::Order;
use crate::error::{Error, ErrorKind, Result};
use crate::format::mark::MARK_FRAME_BYTES;
use crate::format::{GroupEncoder, MarkKind, Place, Record, RecordRef, Records};
use crate::io::{Disk, DiskFile, Persist};
use crate::live::Live;
use crate::retained::Segment;
use crate::segment::active::Active;
use crate::segment::dir;
use crate::segment::name::SegmentName;
use crate::segment::pipeline::{Prepared, RELEASE_BYTES};
use crate::tail::Tail;
use crate::types::{Durability, Position};

impl<D: Disk> Committer<D> {
    /// Takes the oldest group and gives it its place, for which there is space. `None` if there is nothing to write. A
    /// group that fits into a write buffer is encoded into one at once.
    pub(super) async fn stage(&mut self, writing: usize) -> Option<(Flight, Option<D::Buf>)> {
        let group = self.queue.take_group()?;
        if group.is_barrier() {
            // It is answered when everything before it is durable.
            let flight = self.begin(group, GroupEncoder::default(), Persist::Now, writing);
            self.flights.came_back(flight);
            return None;
        }
        if !self.has_space(group.bytes_max) {
            // It has grown since it was looked at.
            self.queue.put_back(group);
            return None;
        }
        let first_index = (0..group.count()).find_map(|at| match group.get(at) {
            RecordRef::Entry { index, .. } => Some(index),
            RecordRef::Truncation(before) => Some(before.index + 1),
            _ => None,
        });
        let place = self.place(group.kind, first_index.unwrap_or(self.tail.next_index));
        let mut encoder = self.encoders.pop().unwrap_or_default();
        let mut buffer = Some(self.active.disk.buffer().await)
            .filter(|buffer| self.bytes_of(group.bytes_max) <= buffer.len() as u64);
        encoder.plan(&place, &group, buffer.as_deref_mut());
        for (at, (offset, _)) in encoder.places().enumerate() {
            let record = group.get(at);
            apply(&mut self.staged, record, place.position.after(offset));
            self.tail.take_in(record);
        }
        self.tail.next_index = self.staged.next();
        self.unproven = true;
        // A write that is durable by itself says nothing of those before it.
        let alone = group.wants_disk && self.flights.unsynced() == 0;
        let persist = if alone { self.active.method.persist() } else { Persist::Later };
        Some((self.begin(group, encoder, persist, writing + 1), buffer))
    }

    /// The group goes to where the segment ends now.
    fn begin(
        &mut self,
        group: Group,
        encoder: GroupEncoder,
        persist: Persist,
        in_flight: usize,
    ) -> Flight {
        let begun = self.active.disk.now();
        let start = self.active.position();
        if encoder.bytes() > 0 {
            self.staged_group(&encoder);
        }
        Flight {
            number: self.flights.stage(&group, persist, begun),
            group,
            encoder,
            start,
            end: self.active.position(),
            persist,
            begun,
            in_flight,
            outcome: Ok(()),
        }
    }

    /// The next group continues this one.
    fn staged_group(&mut self, encoder: &GroupEncoder) {
        self.active.offset += encoder.bytes();
        self.tail.chain = encoder.chain();
        self.tail.group += 1;
    }

    /// At most so many bytes take a group whose records take `records`: the mark, and a filler of less than two
    /// blocks.
    pub(super) fn bytes_of(&self, records: u64) -> u64 {
        records + MARK_FRAME_BYTES + 2 * self.active.method.boundary
    }

    /// Whether a group whose records take so many bytes should go to the next segment.
    pub(super) fn wants_cut(&self, records: u64) -> bool {
        let end = self.active.offset + self.bytes_of(records);
        let full = end > self.limits.segment_bytes;
        // The rest of this file is slow, and a fast one is there.
        let slow = end > self.active.zeroed && self.pipeline.has_zeroed();
        (full || slow) && self.active.offset > self.head_end
    }

    /// Whether there is space for a group whose records take so many bytes.
    pub(super) fn has_space(&self, records: u64) -> bool {
        self.active.offset + self.bytes_of(records) + RELEASE_BYTES <= self.active.allocated
    }

    fn place(&self, kind: MarkKind, first_index: u64) -> Place {
        Place {
            position: self.active.position(),
            chain: self.tail.chain,
            kind,
            log_id: self.tail.log_id,
            epoch: self.tail.epoch,
            group: self.tail.group + 1,
            first_index,
            durable: self.mover.watermark().position(Durability::Durable),
            boundary: self.active.method.boundary,
        }
    }

    /// Writes a group without records and makes it durable. It proves all groups before it durable. Nothing may be in
    /// flight.
    pub(crate) async fn mark(&mut self, kind: MarkKind) -> Result<()> {
        if self.write_group(kind, &[], RELEASE_BYTES).await?.is_some() {
            // Not worth a failure: the log is durable without it.
            self.unproven = false;
        }
        Ok(())
    }

    /// Writes a group of the log's own and makes it durable, if there is space for it and so much more; else nothing is
    /// written, and it says why. Nothing may be in flight.
    pub(super) async fn write_group(
        &mut self,
        kind: MarkKind,
        records: &[Record],
        spare: u64,
    ) -> Result<Option<Error>> {
        assert!(self.flights.is_empty(), "a mark speaks for all groups before it");
        let place = self.place(kind, self.tail.next_index);
        let mut encoder = GroupEncoder::new(&place, records);
        match self.active.reserve(encoder.bytes() + spare).await {
            Err(error) if error.is_no_space() => return Ok(Some(error)),
            outcome => outcome?,
        }
        self.active.commit(|buffer| encoder.fill(records, buffer)).await?;
        self.tail.chain = encoder.chain();
        self.tail.group += 1;
        self.unproven = false;
        self.mover.durable(self.active.position(), |_| {});
        Ok(None)
    }

    /// Makes space for a group whose records take so many bytes: begins the next segment, or extends this one for a group
    /// that is larger than a segment. On a full disk, everything that waits is refused. Nothing may be in flight.
    pub(super) async fn make_space(&mut self, records: u64) -> Result<()> {
        assert!(self.flights.is_empty(), "a segment is left when all of it is durable");
        let outcome = match self.wants_cut(records) {
            true => match self.next_segment().await {
                // From here on a failure is no longer one of space alone.
                Ok(prepared) => return self.cut(prepared).await,
                Err(error) if error.kind() == ErrorKind::Full => {
                    match self.limits.when_full {
                        WhenFull::Wait if !self.queue.waiting().closing => {
                            self.waits_for_room = true;
                        }
                        _ => self.refuse(&error),
                    }
                    return Ok(());
                }
                Err(error) => Err(error),
            },
            false => self.active.reserve(self.bytes_of(records) + RELEASE_BYTES).await,
        };
        match outcome {
            Err(error) if error.is_no_space() => {
                self.refuse(&error);
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn next_segment(&mut self) -> Result<Prepared<D::File>> {
        match self.pipeline.take().await {
            Err(error) if error.kind() == ErrorKind::Full => {
                // What was released may be on its way out.
                self.retire.finish().await;
                match self.spares.has_some() {
                    true => self.pipeline.take().await,
                    false => Err(error),
                }
            }
            outcome => outcome,
        }
    }

    async fn cut(&mut self, prepared: Prepared<D::File>) -> Result<()> {
        let released = self.release_by_the_way();
        let seq = self.active.seq.next();
        let place = Place {
            position: Position::new(seq, 0),
            ..self.place(MarkKind::Head, self.tail.next_index)
        };
        let mut records = vec![Record::Metadata(self.tail.metadata.clone())];
        if !self.tail.state.is_empty() {
            records.push(Record::State(self.tail.state));
        }
        // Who opens the log finds here what it begins with, whatever is left of the segments before.
        records.extend(self.tail.released.clone().map(Record::Release));
        // All before is durable, and was shown.
        let (last, term) = (self.tail.next_index - 1, self.tail.term);
        records.extend(self.observed.note(last, term, false).map(Record::Note));
        let mut encoder = GroupEncoder::new(&place, &records[..]);

        self.metrics.cuts.add(1);
        self.metrics.cuts_unready.add(u64::from(!prepared.ready));
        let (disk, method) = (&self.active.disk, self.active.method);
        let name = SegmentName { seq, index: self.tail.next_index };
        let (bytes, fill) =
            (encoder.bytes(), |buffer: &mut [u8]| encoder.fill(&records[..], buffer));
        let next = Active::begin(disk, prepared, &self.dir, name, method, bytes, fill).await?;
        // Nothing in the segment is acked before its name is durable.
        dir::sync(disk, &self.dir).await?;

        self.tail.chain = encoder.chain();
        self.tail.group += 1;
        self.head_end = next.offset;
        let now = self.active.disk.now();
        let segment = Segment::new(seq, name.index, &next.path, next.allocated, now);
        self.mover.add_segment(segment, next.offset, self.active.offset);
        if let Some((index, term)) = released {
            self.mover.release(index, term);
        }
        let sealed = std::mem::replace(&mut self.active, next);
        self.pipeline.taken(sealed.offset);
        // The old file, and with it its lock, goes only now that the new one is there to hold one. Unused space is given
        // back if it is much; readers pass over zeros.
        // Not of one that could be in use again by then.
        if (sealed.allocated - sealed.offset) * KEPT_SPACE_PARTS > sealed.allocated
            && let Some(held) = self.retire.hold()
        {
            let Active { disk, file, offset, path, .. } = sealed;
            disk.spawn(async move {
                if let Err(error) = file.truncate(offset).await {
                    tracing::warn!(path = %path.display(), %error, "a full segment keeps its unused space");
                }
                drop(held);
            });
        }
        Ok(())
    }

    /// A full disk: all that waits fails, and its indexes are given out again.
    fn refuse(&mut self, error: &Error) {
        let Tail { term, state, .. } = self.tail;
        let commit = (!state.is_empty()).then_some(state.commit);
        let order = Order { live: self.staged.clone(), term, commit, changes: 0 };
        self.queue.refuse(order, error);
    }

    /// The log takes no more appends: what is in flight and everything that waits get the cause. Then waits to be
    /// closed; reads go on meanwhile.
    pub(super) async fn poison(self, error: &Error) {
        let poisoned = Error::poisoned(error);
        self.mover.watermark().end(&poisoned);
        self.queue.fail(&poisoned);
        let reply = self.queue.wait_close().await;
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

/// A sealed segment keeps unused space up to one part of so many.
const KEPT_SPACE_PARTS: u64 = 16;

/// What a record changes in the log.
pub(super) fn apply(live: &mut Live, record: RecordRef<'_>, position: Position) {
    match record {
        RecordRef::Entry { index, term, .. } => {
            live.push(index, term, position).expect("the queue accepts no entries with a gap");
        }
        RecordRef::Snapshot(snapshot) => live.snapshot(snapshot.index, snapshot.term),
        RecordRef::Truncation(snapshot) => live.truncate(snapshot.index),
        // Where it is staged, the committer does more than that.
        RecordRef::Release(_)
        | RecordRef::State(_)
        | RecordRef::Metadata(_)
        | RecordRef::Note(_) => {}
    }
}
