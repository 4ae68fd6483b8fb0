//! What a stretch of the log says, in little memory.
//!
//! Segments are walked on several threads and their facts are replayed in order on one. What lies in between must not
//! grow with the number of records: entries that follow each other become one *run*, of the hard states only the last
//! counts, and where it is all too varied for that, the walk pauses until its facts were taken
//! ([`Facts::are_many`]).

use super::notes::NotePlace;
use super::walk::{Content, Fact};
use crate::index::{Point, SparseIndex};
use crate::types::{ConfState, HardState, Position, Snapshot};
use bytes::Bytes;

/// The walk pauses when there are so many items: 64 bytes each.
const ITEMS_MAX: usize = 1 << 15;

/// Or when they hold so much: metadata and members of a group may be long.
const BYTES_MAX: usize = 1 << 20;

/// What a snapshot record holds besides numbers.
fn snapshot_bytes(snapshot: &Snapshot) -> usize {
    snapshot.conf_state.as_ref().map_or(0, members_bytes)
}

fn members_bytes(conf: &ConfState) -> usize {
    let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
    lists.iter().map(|list| list.len() * size_of::<u64>()).sum()
}

/// Entries of one term with consecutive indexes, in a row of records between which no other item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryRun {
    pub first: u64,
    /// At least one.
    pub count: u64,
    pub term: u64,
    /// Of the first.
    pub position: Position,
}

impl EntryRun {
    pub(crate) fn last(&self) -> u64 {
        self.first + (self.count - 1)
    }
}

/// What has its place among the other items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Entries(EntryRun),
    Metadata {
        data: Option<Bytes>,
        position: Position,
    },
    Snapshot {
        snapshot: Snapshot,
        position: Position,
    },
    /// Entries up to its index were released.
    Release {
        snapshot: Snapshot,
        position: Position,
    },
    /// Entries behind its index were taken back.
    Truncation {
        snapshot: Snapshot,
        position: Position,
    },
    Note(NotePlace),
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub items: Vec<Item>,
    /// The last one.
    pub state: Option<HardState>,
    /// Of any hard state.
    pub state_term_max: u64,
    pub points: SparseIndex,
    /// What items hold besides themselves, about.
    bytes: usize,
}

/// How far facts had come at some place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checkpoint {
    items: usize,
    /// Entries of the last item, if it is a run.
    last_count: u64,
    state: Option<HardState>,
    state_term_max: u64,
    bytes: usize,
}

impl Facts {
    pub(crate) fn push(&mut self, fact: Fact) {
        let Fact { position, chain, content } = fact;
        match content {
            Content::Entry { index, term } => {
                self.points.note(Point { position, index, chain });
                match self.items.last_mut() {
                    // An index that can be followed is below the last: no overflow.
                    Some(Item::Entries(run))
                        if run.term == term
                            && index == run.first.saturating_add(run.count)
                            && run.position.seq == position.seq =>
                    {
                        run.count += 1;
                    }
                    _ => {
                        let run = EntryRun { first: index, count: 1, term, position };
                        self.items.push(Item::Entries(run));
                    }
                }
            }
            Content::State(state) => {
                self.state = Some(state);
                self.state_term_max = self.state_term_max.max(state.term);
            }
            Content::Metadata(data) => {
                self.bytes += data.as_ref().map_or(0, Bytes::len);
                self.items.push(Item::Metadata { data, position });
            }
            Content::Snapshot(snapshot) => {
                self.bytes += snapshot_bytes(&snapshot);
                self.items.push(Item::Snapshot { snapshot, position });
            }
            Content::Release(snapshot) => {
                self.bytes += snapshot_bytes(&snapshot);
                self.items.push(Item::Release { snapshot, position });
            }
            Content::Truncation(snapshot) => {
                self.bytes += snapshot_bytes(&snapshot);
                self.items.push(Item::Truncation { snapshot, position });
            }
            Content::Note(index, term) => {
                self.items.push(Item::Note(NotePlace { index, term, position }));
            }
            Content::Other => {}
        }
    }

    /// Takes in those that follow.
    pub(crate) fn append(&mut self, mut later: Facts) {
        self.items.append(&mut later.items);
        self.state = later.state.or(self.state);
        self.state_term_max = self.state_term_max.max(later.state_term_max);
        self.points.extend(&later.points);
        self.bytes += later.bytes;
    }

    /// The number of entries among them.
    pub(crate) fn entries(&self) -> u64 {
        let count = |item: &Item| match item {
            Item::Entries(run) => run.count,
            _ => 0,
        };
        self.items.iter().map(count).sum()
    }

    /// They should be taken before there are more.
    pub(crate) fn are_many(&self) -> bool {
        self.items.len() >= ITEMS_MAX || self.bytes >= BYTES_MAX
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let last_count = match self.items.last() {
            Some(Item::Entries(run)) => run.count,
            _ => 0,
        };
        let &Facts { state, state_term_max, bytes, .. } = self;
        Checkpoint { items: self.items.len(), last_count, state, state_term_max, bytes }
    }

    /// Forgets what was pushed since the checkpoint, all of which lies at or behind `place`.
    pub(crate) fn roll_back(&mut self, to: &Checkpoint, place: Position) {
        self.items.truncate(to.items);
        if let Some(Item::Entries(run)) = self.items.last_mut() {
            run.count = to.last_count;
        }
        (self.state, self.state_term_max, self.bytes) = (to.state, to.state_term_max, to.bytes);
        self.points.truncate(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Chain;
    use crate::types::Seq;

    fn at(place: u64, content: Content) -> Fact {
        Fact { position: Position::new(Seq(0), place * 8), chain: Chain(0), content }
    }

    fn entry(place: u64, index: u64, term: u64) -> Fact {
        at(place, Content::Entry { index, term })
    }

    #[test]
    fn entries_that_follow_each_other_are_one_run() {
        let mut facts = Facts::default();
        let state = |commit| Content::State(HardState { term: 9 - commit, vote: 0, commit });
        for place in 0..1_000_000 {
            facts.push(entry(2 * place, place + 1, 1));
            facts.push(at(2 * place + 1, state(place % 2)));
        }
        assert_eq!(facts.items.len(), 1);
        assert_eq!(facts.state.unwrap().commit, 1);
        assert_eq!(facts.state_term_max, 9);
        // A gap, one that goes back, another term.
        for (place, index, term) in [(0, 9, 1), (1, 11, 1), (2, 5, 1), (3, 6, 2), (4, 7, 2)] {
            facts.push(entry(2_000_000 + place, index, term));
        }
        let counts = facts.items.iter().map(|item| match item {
            Item::Entries(run) => run.count,
            _ => 0,
        });
        assert_eq!(counts.collect::<Vec<_>>(), [1_000_000, 1, 1, 1, 2]);
    }

    #[test]
    fn a_group_that_is_not_whole_leaves_nothing() {
        let mut facts = Facts::default();
        facts.push(entry(0, 1, 1));
        facts.push(entry(1, 2, 1));
        let (before, checkpoint) = (facts.clone(), facts.checkpoint());
        facts.push(entry(100_000, 3, 1));
        facts.push(at(100_001, Content::State(HardState { term: 5, ..HardState::default() })));
        facts.push(at(100_002, Content::Metadata(None)));
        facts.push(entry(200_000, 4, 1));
        facts.roll_back(&checkpoint, Position::new(Seq(0), 800_000));
        assert_eq!(facts.items, before.items);
        assert_eq!((facts.state, facts.state_term_max), (None, 0));
        let all = Position::new(Seq(0), 0)..Position::new(Seq(0), u64::MAX);
        assert_eq!(facts.points.before(all, 9), None);
    }

    /// Few records may hold much: metadata, and the members of a group.
    #[test]
    fn what_items_hold_counts() {
        let metadata = Content::Metadata(Some(Bytes::from(vec![7; BYTES_MAX / 4])));
        let conf_state = ConfState { voters: vec![1; BYTES_MAX / 32], ..ConfState::default() };
        let snapshot = Snapshot { index: 1, term: 1, conf_state: Some(conf_state) };
        for content in [metadata, Content::Snapshot(snapshot)] {
            let mut facts = Facts::default();
            let checkpoint = facts.checkpoint();
            let pushed = (0..).take_while(|&place| {
                facts.push(at(place, content.clone()));
                !facts.are_many()
            });
            assert_eq!(pushed.count(), 3);
            facts.roll_back(&checkpoint, Position::default());
            assert!(!facts.are_many());
        }
    }
}
