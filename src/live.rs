//! Which stored version of each index is the valid one.
//!
//! A log only grows, but an entry may reuse an index and then replaces everything from there on (a Raft
//! conflict). What is valid is a handful of *runs*: stretches of consecutive indexes of one term in one segment.
//! Conflicts, cuts and changes of term are rare, so the runs are few; every run stands for at least one frame on
//! disk, so hostile input cannot make them outgrow the files.

use crate::types::Position;
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    term: u64,
    /// The frame of the entry `first`.
    start: Position,
}

/// An entry leaves a gap: it is not the successor of any entry there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub expected: u64,
    pub found: u64,
}

/// The valid entries of a log.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// Indexes up to this one are not looked at: a snapshot covers them.
    base: u64,
    /// The term of the entry at that index.
    base_term: u64,
    next: u64,
    runs: Vec<Run>,
    /// The last run lost its end, so the next entry starts another one.
    truncated: bool,
}

impl Live {
    /// No entries yet, after a snapshot at `base` (0 for none).
    pub(crate) fn after(base: u64, base_term: u64) -> Live {
        Live { base, base_term, next: base.saturating_add(1), runs: Vec::new(), truncated: false }
    }

    /// Takes in the next entry in the order of the bytes. It replaces the one of the same index, if there is one,
    /// and all that follow it.
    pub(crate) fn push(&mut self, index: u64, term: u64, position: Position) -> Result<(), Gap> {
        if index <= self.base {
            self.clear();
            return Ok(());
        }
        if index > self.next {
            return Err(Gap { expected: self.next, found: index });
        }
        if index < self.next {
            self.runs.retain(|run| run.first < index);
            self.truncated = true;
        }
        let continues = |run: &Run| run.term == term && run.start.seq == position.seq;
        if self.truncated || !self.runs.last().is_some_and(continues) {
            self.runs.push(Run { first: index, term, start: position });
            self.truncated = false;
        }
        self.next = index.saturating_add(1);
        Ok(())
    }

    /// As [`push`](Self::push) of `count` entries with consecutive indexes of one term, which follow each other in one
    /// segment from `position` on.
    pub(crate) fn push_run(
        &mut self,
        first: u64,
        count: u64,
        term: u64,
        position: Position,
    ) -> Result<(), Gap> {
        self.push(first, term, position)?;
        let next = first.saturating_add(count);
        if next > self.next {
            // What the base covers is skipped; where exactly the first behind it lies does not matter, since between it
            // and `position` no version of another index is.
            if self.runs.is_empty() {
                self.push(self.next, term, position)?;
            }
            self.next = next;
        }
        Ok(())
    }

    /// Takes in that a snapshot was saved. One beyond the last entry, or one whose term is not that of the entry at
    /// its index, replaces the log: Raft dropped what was there.
    pub(crate) fn snapshot(&mut self, index: u64, term: u64) {
        if index > self.base && self.term_of(index) != Some(term) {
            *self = Live::after(index, term);
        }
    }

    /// Lets go of the entries up to `index`; they were committed and will not be replaced. One that is beyond the last
    /// entry stands for all.
    pub(crate) fn release(&mut self, index: u64, term: u64) {
        if index <= self.base {
            return;
        }
        (self.base, self.base_term) = (index, term);
        if index >= self.last().unwrap_or(0) {
            return self.clear();
        }
        let first_kept = self.run_of(index + 1).unwrap_or(0);
        self.runs.drain(..first_kept);
        // Where exactly its first entry lies does not matter: between there and the start is no other version of one.
        self.runs[0].first = self.runs[0].first.max(index + 1);
    }

    /// Takes back the entries behind `index`.
    pub(crate) fn truncate(&mut self, index: u64) {
        if index <= self.base {
            return self.clear();
        }
        if index + 1 < self.next {
            self.runs.retain(|run| run.first <= index);
            self.next = index + 1;
            self.truncated = true;
        }
    }

    /// Forgets all entries.
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.next = self.base.saturating_add(1);
    }

    /// The index that a snapshot covers, before the first entry.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// The first index, if there are entries.
    pub(crate) fn first(&self) -> Option<u64> {
        self.runs.first().map(|run| run.first)
    }

    /// The last index, if there are entries.
    pub(crate) fn last(&self) -> Option<u64> {
        self.runs.last().map(|_| self.next - 1)
    }

    /// The index that a plain append gets.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The index and term before the first entry.
    pub(crate) fn base_and_term(&self) -> (u64, u64) {
        (self.base, self.base_term)
    }

    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        self.run_of(index).map(|at| self.runs[at].term)
    }

    /// Whether the entry stored at `position` is the valid one of its index.
    pub(crate) fn is_live(&self, index: u64, position: Position) -> bool {
        self.run_of(index).is_some_and(|at| {
            let end = self.runs.get(at + 1).map(|run| run.start);
            self.runs[at].start <= position && end.is_none_or(|end| position < end)
        })
    }

    /// Whether two entries of these indexes, stored at these positions, and all valid ones between them are of one term
    /// and segment.
    pub(crate) fn is_one_run(&self, first: (u64, Position), last: (u64, Position)) -> bool {
        self.is_live(first.0, first.1)
            && self.is_live(last.0, last.1)
            && self.run_of(first.0) == self.run_of(last.0)
    }

    /// Where the valid entries lie that `index` is one of, one after another in the order of the bytes, in one segment.
    pub(crate) fn stretch_of(&self, index: u64) -> Option<Range<Position>> {
        let at = self.run_of(index)?;
        let start = self.runs[at].start;
        let behind = Position::new(start.seq, u64::MAX);
        let end = self.runs.get(at + 1).map_or(behind, |next| next.start.min(behind));
        Some(start..end)
    }

    fn run_of(&self, index: u64) -> Option<usize> {
        if index >= self.next {
            return None;
        }
        self.runs.partition_point(|run| run.first <= index).checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Seq;
    use proptest::prelude::*;

    fn at(offset: u64) -> Position {
        Position::new(Seq(offset / 100), offset)
    }

    #[test]
    fn gap_is_refused() {
        let mut live = Live::after(0, 0);
        live.push(1, 1, at(0)).unwrap();
        assert_eq!(live.push(3, 1, at(8)), Err(Gap { expected: 2, found: 3 }));
        assert_eq!(Live::after(50, 1).push(52, 1, at(0)), Err(Gap { expected: 51, found: 52 }));
    }

    #[test]
    fn overwrite_below_the_snapshot_drops_the_tail() {
        // etcd issue 22442: 7 to 10 of the old term came back.
        let mut live = Live::after(6, 1);
        for index in 1..=10 {
            live.push(index, 1, at(index)).unwrap();
        }
        live.push(5, 2, at(11)).unwrap();
        live.push(6, 2, at(12)).unwrap();
        assert_eq!(live.last(), None);
        assert_eq!(live.next(), 7);
    }

    #[test]
    fn snapshot_replaces_what_it_does_not_continue() {
        let mut live = Live::after(0, 0);
        for index in 1..=10 {
            live.push(index, 1, at(index)).unwrap();
        }
        live.snapshot(8, 1);
        assert_eq!(live.last(), Some(10), "a local snapshot keeps the tail");
        let mut replaced = live.clone();
        replaced.snapshot(8, 3);
        assert_eq!((replaced.last(), replaced.next()), (None, 9));
        live.snapshot(50, 3);
        assert_eq!((live.last(), live.next()), (None, 51));
    }

    #[test]
    fn last_possible_index_does_not_overflow() {
        let mut live = Live::after(u64::MAX - 1, 1);
        live.push(u64::MAX, 1, at(0)).unwrap();
        assert_eq!(live.next(), u64::MAX);
    }

    proptest! {
        /// A run is what its entries are.
        #[test]
        fn a_run_is_its_entries(
            base in 0u64..8,
            runs in proptest::collection::vec((0u64..12, 1u64..8, 1u64..3), 0..30),
        ) {
            let (mut by_runs, mut by_entries) = (Live::after(base, 1), Live::after(base, 1));
            let mut stored = Vec::new();
            let mut place = 0;
            for (first, count, term) in runs {
                let position = |i: u64| Position::new(Seq(0), (place + i) * 8);
                let outcome = by_runs.push_run(first, count, term, position(0));
                let pushes = (0..count).try_for_each(|i| by_entries.push(first + i, term, position(i)));
                prop_assert_eq!(outcome, pushes);
                if outcome.is_ok() {
                    stored.extend((0..count).map(|i| (first + i, position(i))));
                }
                place += count;
                prop_assert_eq!(by_runs.first(), by_entries.first());
                prop_assert_eq!(by_runs.next(), by_entries.next());
                prop_assert_eq!(by_runs.last(), by_entries.last());
                for &(index, position) in &stored {
                    prop_assert_eq!(by_runs.term_of(index), by_entries.term_of(index));
                    prop_assert_eq!(by_runs.is_live(index, position), by_entries.is_live(index, position));
                }
            }
        }

        /// Against the obvious model: a list that is cut and extended.
        #[test]
        fn agrees_with_a_list(base in 0u64..5, steps in proptest::collection::vec((0u64..12, 1u64..4), 0..60)) {
            let mut live = Live::after(base, 1);
            let mut model: Vec<(u64, Position)> = Vec::new();
            let mut stored = Vec::new();
            for (place, (index, term)) in steps.into_iter().enumerate() {
                let position = at(place as u64 * 8);
                let next = base + 1 + model.len() as u64;
                let outcome = live.push(index, term, position);
                prop_assert_eq!(outcome.is_err(), index > next);
                if index > next {
                    continue;
                }
                model.retain(|&(i, _)| i < index);
                if index > base {
                    model.push((index, position));
                }
                stored.push((index, position));
                prop_assert_eq!(live.first(), model.first().map(|e| e.0));
                prop_assert_eq!(live.last(), model.last().map(|e| e.0));
                for &(i, p) in &stored {
                    prop_assert_eq!(live.is_live(i, p), model.contains(&(i, p)), "{} at {}", i, p);
                }
                for &(i, p) in &model {
                    let stretch = live.stretch_of(i).unwrap();
                    prop_assert!(stretch.contains(&p) && stretch.start.seq == p.seq);
                }
            }
        }
    }
}
