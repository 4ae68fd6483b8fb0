//! How entries are let go of.
//!
//! What was released is not read any more from the moment on that the committer has seen the request. Files go only as
//! whole segments, and only then it is written down what the log begins with: a group with a snapshot record, by which
//! etcd's reader opens what is left. Who releases one entry after another costs commits nothing until a segment can go.
//! What was released since is written down when the log is closed; a crash brings it back.

use super::committer::Committer;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{MarkKind, Record, RecordRef};
use crate::io::Disk;
use crate::live::Live;
use crate::segment::pipeline::RELEASE_BYTES;
use crate::types::{Durability, Snapshot};
use crate::watermark::unharmed;

impl<D: Disk> Committer<D> {
    /// Releases what is asked for, and tells who waits. What fails here poisons the log.
    pub(super) async fn release(&mut self) -> Result<()> {
        let (index, replies) = self.queue.take_release();
        let (answer, outcome) = match self.release_up_to(index).await {
            Ok(None) => (Ok(()), Ok(())),
            Ok(Some(refused)) => (Err(refused), Ok(())),
            Err(error) => (Err(Error::poisoned(&error)), Err(error)),
        };
        for reply in replies {
            unharmed(|| drop(reply.send(answer.clone())));
        }
        outcome
    }

    /// Says why, if nothing is to be released.
    async fn release_up_to(&mut self, index: u64) -> Result<Option<Error>> {
        let mark = self.mover.watermark();
        if index <= mark.released().0 && (index <= self.written_down() || !mark.frees(index)) {
            return Ok(None);
        }
        let durable = mark.with_live(Durability::Durable, |live| match live.base_and_term() {
            (base, term) if base == index => Some(term),
            _ => live.term_of(index),
        });
        let Some(term) = durable else {
            // It was there when it was asked for: a snapshot has replaced the log since, or a conflict its end.
            let what = format!("there is no durable entry {index} any more");
            let error = Error::new(ErrorKind::InvalidInput, what);
            return Ok(Some(error.next("nothing was released")));
        };
        if !self.is_committed(index) {
            let commit = self.tail.state.commit;
            let what = format!("index {index} is not committed: the last hard state says {commit}");
            let error = Error::new(ErrorKind::InvalidInput, what);
            let next = "nothing was released: save the hard state that commits it first";
            return Ok(Some(error.next(next)));
        }
        if let Err(error) = self.queue.accept_release(index, term) {
            return Ok(Some(error));
        }
        self.staged.release(index, term);
        let no_space = match mark.frees(index) {
            true => self.write_down(index, term).await?,
            false => None,
        };
        if no_space.is_none() {
            self.mover.release(index, term);
        }
        Ok(no_space)
    }

    /// Writes down what was released, if that was not.
    pub(super) async fn write_release(&mut self) -> Result<()> {
        let (index, term) = self.mover.watermark().released();
        if index <= self.written_down() {
            return Ok(());
        }
        // Without space for it the entries are there again the next time.
        self.write_down(index, term).await.map(drop)
    }

    /// Before the log is closed: what the layer above wants to find again.
    pub(super) async fn write_note(&mut self) -> Result<()> {
        let (last, term) = (self.tail.next_index - 1, self.tail.term);
        let Some(note) = self.observed.note(last, term, true) else {
            return Ok(());
        };
        // Without space for it there is an older one.
        let records = [Record::Note(note)];
        self.write_group(MarkKind::Entries, &records, RELEASE_BYTES).await.map(drop)
    }

    /// Before a cut: what the options do not want kept, and what was released and is not written down yet, the next head
    /// is to say. Nothing may be in flight.
    pub(super) fn release_by_the_way(&mut self) -> Option<(u64, u64)> {
        let mark = self.mover.watermark();
        let mut released = mark.released();
        if !self.limits.retention.is_unlimited() {
            let segments = mark.segments();
            let surplus = self.limits.retention.surplus(&segments, self.active.disk.now());
            // As many of them as can go.
            let wanted = (1..=surplus).rev().map(|at| segments[at].index);
            let allowed = wanted.filter_map(|index| {
                let live = |live: &Live| live.term_of(index);
                let term = mark.with_live(Durability::Durable, live)?;
                self.is_committed(index).then_some((index, term))
            });
            released = released.max(allowed.max().unwrap_or_default());
        }
        let unwanted = self.observed.releasable();
        if unwanted > released.0
            && let Some(term) = mark.with_live(Durability::Durable, |live| live.term_of(unwanted))
        {
            released = (unwanted, term);
        }
        let (index, term) = released;
        // What was written down a layer may have gone back behind, when the log was opened.
        let is_new = index > self.written_down();
        let changes = is_new || index > mark.released().0;
        if !changes || self.queue.accept_release(index, term).is_err() {
            return None;
        }
        self.staged.release(index, term);
        if is_new {
            self.tail.take_in(RecordRef::Release(&self.record_of(index, term)));
        }
        Some((index, term))
    }

    /// The last index whose release the next opening will find.
    fn written_down(&self) -> u64 {
        self.tail.released.as_ref().map_or(0, |released| released.index)
    }

    /// Where there is no hard state, nothing that is durable is replaced.
    fn is_committed(&self, index: u64) -> bool {
        self.tail.state.is_empty() || index <= self.tail.state.commit
    }

    fn record_of(&self, index: u64, term: u64) -> Snapshot {
        // The members of the group, if that is the snapshot's index.
        let same = |known: &&Snapshot| (known.index, known.term) == (index, term);
        let known = self.tail.snapshot.as_ref().filter(same).cloned();
        known.unwrap_or(Snapshot { index, term, conf_state: None })
    }

    async fn write_down(&mut self, index: u64, term: u64) -> Result<Option<Error>> {
        let record = Record::Release(self.record_of(index, term));
        let records = std::slice::from_ref(&record);
        let no_space = self.write_group(MarkKind::Release, records, 0).await?;
        if no_space.is_none() {
            self.tail.take_in((&record).into());
        }
        Ok(no_space)
    }
}
