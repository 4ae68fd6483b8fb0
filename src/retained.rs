//! Which segments of an open log are still wanted, and by whom.
//!
//! Releasing says that entries are not wanted any more; files go as whole segments, oldest first. A segment stays as long
//! as it may hold an entry that was not released, by etcd's rule: to read what follows index *i*, one begins at the last
//! segment whose name has an index of at most *i*. And it stays as long as somebody has a *pin* on it or on one before it:
//! who reads a range, or copies the log, is not cut off in the middle.
//!
//! And the segment stays that says what was released: without it nobody would know why the log does not begin at its
//! first entry. Every head of ours repeats it; the segments of another writer do not.

use crate::types::Seq;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A segment file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub seq: Seq,
    /// Of its name: the entry that was to be the first in it.
    pub index: u64,
    pub path: PathBuf,
    pub bytes: u64,
    /// When this was noted, it was sealed for so long.
    pub noted: Duration,
    pub age_then: Duration,
}

impl Segment {
    /// One that begins now.
    pub(crate) fn new(seq: Seq, index: u64, path: &Path, bytes: u64, now: Duration) -> Segment {
        let path = path.to_owned();
        Segment { seq, index, path, bytes, noted: now, age_then: Duration::ZERO }
    }

    /// For how long it is sealed.
    pub(crate) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.noted).saturating_add(self.age_then)
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Retained {
    /// Oldest first.
    segments: Vec<Segment>,
    /// Entries up to this index are not wanted, and the term of that one.
    released: (u64, u64),
    /// The segment that says so.
    released_in: Seq,
    /// The first segment that is needed to read what follows that, and to know it.
    needed: Seq,
    pins: BTreeMap<u64, Pin>,
    places: u64,
}

/// What somebody wants.
#[derive(Clone, Copy, Debug)]
struct Pin {
    /// The first segment.
    seq: Seq,
    /// What was released when he came: entries behind that.
    released: (u64, u64),
}

impl Retained {
    pub(crate) fn new(segments: Vec<Segment>, released: (u64, u64), released_in: Seq) -> Retained {
        let mut retained = Retained { segments, released, released_in, ..Retained::default() };
        retained.find_needed();
        retained
    }

    /// A segment begins, and its head repeats what was released; the one before it is sealed now, with so many bytes.
    pub(crate) fn push(&mut self, segment: Segment, sealed_bytes: u64) {
        if let Some(sealed) = self.segments.last_mut() {
            (sealed.bytes, sealed.noted, sealed.age_then) =
                (sealed_bytes, segment.noted, Duration::ZERO);
        }
        self.released_in = segment.seq;
        self.segments.push(segment);
        self.find_needed();
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The file of a segment, and whether no more is written to it.
    pub(crate) fn file_of(&self, seq: Seq) -> Option<(&PathBuf, bool)> {
        let at = self.segments.binary_search_by_key(&seq, |segment| segment.seq).ok()?;
        Some((&self.segments[at].path, at + 1 < self.segments.len()))
    }

    pub(crate) fn released(&self) -> (u64, u64) {
        self.released
    }

    /// Entries up to `index` are not wanted any more. If that [frees](Self::frees) a segment, the newest says so by now.
    pub(crate) fn release(&mut self, index: u64, term: u64) {
        self.released = self.released.max((index, term));
        if self.frees(index)
            && let Some(newest) = self.segments.last()
        {
            self.released_in = newest.seq;
        }
        self.find_needed();
    }

    /// Whether a segment could go if entries up to `index` were released.
    pub(crate) fn frees(&self, index: u64) -> bool {
        self.needed_from(index) > 0
    }

    fn find_needed(&mut self) {
        let at = self.needed_from(self.released.0);
        let to_read = self.segments.get(at).map_or(Seq(0), |segment| segment.seq);
        self.needed = to_read.min(self.released_in);
    }

    /// The number of segments before the first that is needed to read what follows `index`.
    fn needed_from(&self, index: u64) -> usize {
        self.segments.iter().rposition(|segment| segment.index <= index).unwrap_or(0)
    }

    /// Entries up to this index, and the term of that one, nobody reads any more. Where the index went back, a pin on a late
    /// segment may be on entries that were released.
    pub(crate) fn unread(&self) -> (u64, u64) {
        let pinned = self.pins.values().map(|pin| pin.released).min();
        pinned.unwrap_or(self.released).min(self.released)
    }

    /// The first segment that somebody wants.
    fn wanted_from(&self) -> Seq {
        let pinned = self.pins.values().map(|pin| pin.seq).min();
        pinned.unwrap_or(self.needed).min(self.needed)
    }

    /// Whether there is a segment that nobody wants. Readers ask whenever they have got on.
    pub(crate) fn has_unwanted(&self) -> bool {
        self.segments.first().is_some_and(|oldest| oldest.seq < self.wanted_from())
    }

    /// Takes out the segments that nobody wants, oldest first. The newest always stays.
    pub(crate) fn take_unwanted(&mut self) -> Vec<Segment> {
        let wanted = self.wanted_from();
        let unwanted = self.segments.partition_point(|segment| segment.seq < wanted);
        self.segments.drain(..unwanted).collect()
    }

    /// From now on all segments stay; gives the place of the pin.
    pub(crate) fn pin(&mut self) -> u64 {
        self.places += 1;
        self.pins.insert(self.places, Pin { seq: Seq(0), released: self.released });
        self.places
    }

    /// Those before `seq` are not wanted by this pin any more.
    pub(crate) fn move_pin(&mut self, place: u64, seq: Seq) {
        let pin = self.pins.get_mut(&place).expect("it stays until it is taken out");
        pin.seq = seq;
    }

    pub(crate) fn unpin(&mut self, place: u64) {
        self.pins.remove(&place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retained(indexes: &[u64]) -> Retained {
        found(indexes, (0, 0), Seq(0))
    }

    fn found(indexes: &[u64], released: (u64, u64), released_in: Seq) -> Retained {
        let segment = |(seq, &index): (usize, &u64)| {
            Segment::new(Seq(seq as u64), index, Path::new("x.wal"), 100, Duration::ZERO)
        };
        Retained::new(indexes.iter().enumerate().map(segment).collect(), released, released_in)
    }

    fn taken(retained: &mut Retained) -> Vec<u64> {
        retained.take_unwanted().iter().map(|segment| segment.seq.0).collect()
    }

    #[test]
    fn a_segment_stays_while_it_may_hold_an_entry() {
        let mut retained = retained(&[0, 10, 20, 30]);
        retained.release(9, 1);
        assert_eq!(taken(&mut retained), [0; 0]);
        // etcd begins at the last name that is not above.
        retained.release(10, 1);
        assert_eq!(taken(&mut retained), [0]);
        retained.release(1_000, 1);
        assert_eq!(taken(&mut retained), [1, 2], "the newest stays");
        assert_eq!(taken(&mut retained), [0; 0]);
    }

    #[test]
    fn indexes_that_go_back_keep_what_came_before() {
        // The third segment replaced 5 and all behind it.
        let mut retained = retained(&[0, 10, 5, 12]);
        assert!(!retained.frees(4));
        retained.release(7, 2);
        assert_eq!(taken(&mut retained), [0, 1]);
    }

    #[test]
    fn what_says_what_was_released_stays() {
        let mut retained = found(&[0, 10, 20, 30], (25, 1), Seq(1));
        assert_eq!(taken(&mut retained), [0]);
        retained.push(Segment::new(Seq(4), 40, Path::new("x.wal"), 100, Duration::ZERO), 100);
        assert_eq!(taken(&mut retained), [1], "the head of the new one repeats it");
        let mut retained = found(&[0, 10, 20], (9, 1), Seq(0));
        retained.release(9, 1);
        assert_eq!(taken(&mut retained), [0; 0], "that was not written down again");
        retained.release(10, 1);
        assert_eq!(taken(&mut retained), [0]);
    }

    #[test]
    fn what_is_pinned_stays_and_all_behind_it() {
        let mut retained = retained(&[0, 10, 20, 30]);
        let (one, other) = (retained.pin(), retained.pin());
        retained.move_pin(other, Seq(2));
        retained.release(25, 1);
        assert_eq!(retained.unread(), (0, 0));
        assert_eq!(taken(&mut retained), [0; 0]);
        retained.move_pin(one, Seq(1));
        assert_eq!(taken(&mut retained), [0]);
        retained.unpin(one);
        assert_eq!(retained.unread(), (0, 0), "also in the third are some that were released");
        assert_eq!(taken(&mut retained), [1]);
        retained.unpin(other);
        assert_eq!(retained.unread(), (25, 1));
        assert_eq!(taken(&mut retained), [0; 0]);
    }
}
