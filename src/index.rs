//! Where in the files an index lies, about: places from which decoding can start.
//!
//! Frames say how long they are, but nothing says where one begins, and a checksum continues the one before it. So an
//! entry is found by decoding from a place before it where both are known: the head of its segment, or one of these
//! *points*, which are noted every so many bytes, as the log is read and as it grows.
//!
//! # Invariants
//!
//! 1. Points are in the order of the bytes. Those of entries that were replaced stay: which stored version of an index
//!    is the valid one is for [`live`](crate::live) to say, and within a stretch of valid entries the order of the bytes
//!    is that of the indexes.
//! 2. There are at most [`POINTS_MAX`]. When there would be more, every second one is given up, and from then on they
//!    are noted half as often: memory stays the same however long the log is.

use crate::format::Chain;
use crate::types::Position;
use std::ops::Range;

/// 24 bytes each.
const POINTS_MAX: usize = 1 << 16;

/// Between points, as long as there is room for them.
const SPACING_BYTES: u64 = 64 << 10;

/// A place where a frame starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub position: Position,
    /// The first entry at or after it, in the order of the bytes.
    pub index: u64,
    /// The chain before it.
    pub chain: Chain,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct SparseIndex {
    points: Vec<Point>,
    points_max: usize,
    spacing: u64,
}

impl Default for SparseIndex {
    fn default() -> SparseIndex {
        SparseIndex::with_limits(POINTS_MAX, SPACING_BYTES)
    }
}

impl SparseIndex {
    fn with_limits(points_max: usize, spacing: u64) -> SparseIndex {
        SparseIndex { points: Vec::new(), points_max, spacing }
    }

    /// Takes in a point, which lies behind all those before, unless there is one close by.
    pub(crate) fn note(&mut self, point: Point) {
        let Position { seq, offset } = point.position;
        let known = match self.points.last() {
            Some(last) if last.position.seq == seq => last.position.offset,
            // The head of a segment needs none.
            _ => 0,
        };
        if offset.saturating_sub(known) < self.spacing {
            return;
        }
        self.points.push(point);
        if self.points.len() > self.points_max {
            let mut at = 0;
            self.points.retain(|_| {
                at += 1;
                at % 2 == 0
            });
            self.spacing *= 2;
        }
    }

    /// Forgets the points at and behind a place.
    pub(crate) fn truncate(&mut self, place: Position) {
        let kept = self.points.partition_point(|point| point.position < place);
        self.points.truncate(kept);
    }

    /// Takes in the points of what follows.
    pub(crate) fn extend(&mut self, other: &SparseIndex) {
        other.points.iter().for_each(|&point| self.note(point));
    }

    /// The last point at or before `position`, in its segment.
    pub(crate) fn at_or_before(&self, position: Position) -> Option<Point> {
        let upto = self.points.partition_point(|point| point.position <= position);
        let last = self.points[..upto].last()?;
        (last.position.seq == position.seq).then_some(*last)
    }

    /// The first point at or behind the offset `wanted` if it lies at `max` at most, else the last before that, else the
    /// first there is: behind `position`, in its segment.
    pub(crate) fn behind(&self, position: Position, wanted: u64, max: u64) -> Option<Point> {
        let from = self.points.partition_point(|point| point.position <= position);
        let behind = &self.points[from..];
        let behind = &behind[..behind.partition_point(|p| p.position.seq == position.seq)];
        let at = behind.partition_point(|point| point.position.offset < wanted);
        let found = behind.get(at).filter(|point| point.position.offset <= max);
        found.or(behind[..at].last()).or(behind.first()).copied()
    }

    /// The last point before the entry `index`, which lies in `stretch`: valid entries, one after another.
    pub(crate) fn before(&self, stretch: Range<Position>, index: u64) -> Option<Point> {
        let in_front = self.points.partition_point(|point| point.position <= stretch.start);
        let inside = &self.points[in_front..];
        let inside = inside.partition_point(|p| p.position < stretch.end && p.index <= index);
        let last = self.points[..in_front + inside].last()?;
        (last.position.seq == stretch.start.seq).then_some(*last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Seq;
    use proptest::prelude::*;

    fn point(seq: u64, offset: u64, index: u64) -> Point {
        Point { position: Position::new(Seq(seq), offset), index, chain: Chain(offset as u32) }
    }

    #[test]
    fn entries_that_were_replaced_do_not_mislead() {
        // 1 to 30 at 10 to 300; then 5 to 34 again, at 310 to 600.
        let mut index = SparseIndex::with_limits(100, 10);
        (1..=30).for_each(|i| index.note(point(0, i * 10, i)));
        (5..=34).for_each(|i| index.note(point(0, 260 + i * 10, i)));
        let at = |offset| Position::new(Seq(0), offset);
        let of = |stretch, i| index.before(stretch, i).map(|point| point.position.offset);
        // The first version of 20, as somebody sees it who does not know of the second yet.
        assert_eq!(of(at(10)..at(310), 20), Some(200));
        assert_eq!(of(at(310)..at(u64::MAX), 20), Some(460));
        assert_eq!(of(at(310)..at(u64::MAX), 5), Some(310));
        // Within its group the first entry lies behind the point that the group starts at.
        assert_eq!(of(at(315)..at(u64::MAX), 5), Some(310));
    }

    #[test]
    fn a_point_of_another_segment_is_none() {
        let mut index = SparseIndex::with_limits(100, 10);
        index.note(point(0, 50, 5));
        let start = Position::new(Seq(1), 0);
        assert_eq!(index.before(start..Position::new(Seq(1), 900), 9), None);
    }

    #[test]
    fn the_next_point_is_not_too_far_if_there_is_a_nearer_one() {
        let mut index = SparseIndex::with_limits(100, 10);
        [50, 100, 200, 400].into_iter().for_each(|offset| index.note(point(1, offset, offset)));
        index.note(point(2, 60, 500));
        let behind = |offset, wanted, max| {
            let found = index.behind(Position::new(Seq(1), offset), wanted, max);
            found.map(|point| (point.position.seq.0, point.position.offset))
        };
        assert_eq!(behind(0, 60, 120), Some((1, 100)));
        assert_eq!(behind(0, 100, 120), Some((1, 100)));
        assert_eq!(behind(50, 120, 150), Some((1, 100)), "the last before what is too far");
        assert_eq!(behind(100, 120, 150), Some((1, 200)), "there is none nearer");
        assert_eq!(behind(200, 500, 900), Some((1, 400)), "the last there is");
        assert_eq!(behind(400, 500, 900), None, "in this segment");
    }

    proptest! {
        /// Whatever the limits: the point found lies at or before the entry, and not far before it unless few may be kept.
        #[test]
        fn finds_a_place_at_or_before(
            points_max in 2usize..20,
            lengths in proptest::collection::vec(1u64..40, 1..200),
        ) {
            let mut index = SparseIndex::with_limits(points_max, 50);
            let mut places = vec![0];
            for (at, len) in lengths.iter().enumerate() {
                index.note(point(0, places[at], at as u64 + 1));
                places.push(places[at] + len);
            }
            prop_assert!(index.points.len() <= points_max);
            let all = Position::new(Seq(0), 0)..Position::new(Seq(0), u64::MAX);
            for at in 0..lengths.len() {
                let found = index.before(all.clone(), at as u64 + 1);
                let from = found.map_or(0, |point| point.position.offset);
                prop_assert!(from <= places[at]);
                // A point that was given up leaves twice the distance between those beside it.
                prop_assert!(places[at] - from < 2 * index.spacing);
                if let Some(found) = found {
                    prop_assert_eq!(places[found.index as usize - 1], from);
                }
            }
        }
    }
}
