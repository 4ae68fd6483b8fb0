//! Where the records of a stream lie in the log.
//!
//! Records that follow each other in the stream and in the log are one *run*. A stream that is appended to in batches, or
//! by itself, has few runs; one that shares every group with others has one for each record, of 24 bytes.

use std::collections::VecDeque;
use std::ops::Range;

/// `count` records from `index` on, in the entries of the log from `at` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    index: u64,
    at: u64,
    count: u64,
}

/// See the [module](self). Both indexes rise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs(VecDeque<Run>);

impl Runs {
    /// The record `index` lies in the log's entry `at`, behind all others.
    pub(super) fn push(&mut self, index: u64, at: u64) {
        if let Some(last) = self.0.back_mut()
            && (last.index + last.count, last.at + last.count) == (index, at)
        {
            last.count += 1;
            return;
        }
        self.0.push_back(Run { index, at, count: 1 });
    }

    /// The entry of the log that holds the record `index`.
    pub(super) fn place_of(&self, index: u64) -> Option<u64> {
        self.places(index, 1).next().and_then(|(found, at)| (found == index).then_some(at))
    }

    /// The record in the log's entry `at`.
    pub(super) fn index_at(&self, at: u64) -> Option<u64> {
        let behind = self.0.partition_point(|run| run.at <= at);
        let run = self.0.get(behind.checked_sub(1)?)?;
        (at - run.at < run.count).then_some(run.index + (at - run.at))
    }

    /// The entry of the log that holds the first record.
    pub(super) fn first_place(&self) -> Option<u64> {
        self.0.front().map(|run| run.at)
    }

    /// At most `max` records from `from` on, with their places in the log.
    pub(super) fn places(&self, from: u64, max: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        let first = self.0.partition_point(|run| run.index + run.count <= from);
        let each = |run: &Run| {
            let Run { index, at, count } = *run;
            (0..count).map(move |n| (index + n, at + n))
        };
        let runs = self.0.range(first..).flat_map(each);
        runs.skip_while(move |(index, _)| *index < from).take(max)
    }

    /// Those of these records.
    pub(super) fn of(&self, wanted: &Range<u64>) -> Runs {
        let first = self.0.partition_point(|run| run.index + run.count <= wanted.start);
        let behind = self.0.partition_point(|run| run.index < wanted.end);
        let mut runs = Runs(self.0.range(first..behind.max(first)).copied().collect());
        runs.forget(wanted.start.saturating_sub(1));
        if let Some(last) = runs.0.back_mut() {
            last.count = last.count.min(wanted.end - last.index);
        }
        runs
    }

    /// Forgets the records up to `index`.
    pub(super) fn forget_up_to(&mut self, index: u64) {
        self.forget(index);
        // What was kept when nobody released is not kept for ever.
        if self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(2 * self.0.len());
        }
    }

    fn forget(&mut self, index: u64) {
        while let Some(run) = self.0.front_mut() {
            if run.index + run.count <= index + 1 {
                self.0.pop_front();
                continue;
            }
            let gone = (index + 1).saturating_sub(run.index);
            *run = Run { index: run.index + gone, at: run.at + gone, count: run.count - gone };
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn they_are_a_map(gaps in prop::collection::vec(1..4_u64, 1..60), forgotten in 0..70_u64, max in 0..9_usize) {
            let (mut runs, mut map, mut at) = (Runs::default(), BTreeMap::new(), 0);
            for (index, gap) in (1..).zip(&gaps) {
                at += gap;
                runs.push(index, at);
                map.insert(index, at);
            }
            runs.forget_up_to(forgotten);
            map.retain(|index, _| *index > forgotten);
            prop_assert_eq!(runs.first_place(), map.values().next().copied());
            for index in 0..gaps.len() as u64 + 2 {
                prop_assert_eq!(runs.place_of(index), map.get(&index).copied());
                let found: Vec<_> = runs.places(index, max).collect();
                let known: Vec<_> = map.range(index..).take(max).map(|(a, b)| (*a, *b)).collect();
                prop_assert_eq!(found, known);
            }
            let wanted = forgotten / 2 + 1..forgotten + 9;
            let of: Vec<_> = runs.of(&wanted).places(0, 100).collect();
            let known: Vec<_> = map.range(wanted).map(|(a, b)| (*a, *b)).collect();
            prop_assert_eq!(of, known);
            for at in 0..at + 2 {
                let index = map.iter().find(|(_, there)| **there == at).map(|(index, _)| *index);
                prop_assert_eq!(runs.index_at(at), index);
            }
        }
    }
}
