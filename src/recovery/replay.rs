//! From facts to the state of the log: which entries are valid, the last hard state, the metadata.
//!
//! Facts are taken in the order of their bytes, and every entry replaces what follows it, also one that lies below
//! the snapshot that reading starts from. etcd passes over those, and lets entries come back that Raft had
//! replaced (its issue 22442).

use super::facts::{EntryRun, Facts, Item};
use super::notes::NotePlace;
use crate::error::{Error, ErrorKind, Result};
use crate::index::SparseIndex;
use crate::live::Live;
use crate::types::{HardState, INDEXES, Position, Seq, Snapshot};
use bytes::Bytes;
use std::path::Path;

/// What the facts so far amount to.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    /// Reading starts where the log does: behind what was released.
    from_beginning: bool,
    /// It starts behind what was released, and earlier if there is a note before that.
    from_release: bool,
    start_index: u64,
    start_term: u64,
    /// The term of the entry at the start's index, as long as it is valid.
    term_at_start: Option<u64>,
    /// The last snapshot record of another index.
    other_snapshot: Option<(u64, u64)>,
    /// A snapshot stands for the entries up to this index, which is a failure unless they were released.
    missing: Option<(u64, Error)>,
    /// The record of the last release, and the segment that it stands in, if that was read.
    pub released: Option<Snapshot>,
    pub released_in: Seq,
    /// The index of the last such record that was read.
    released_read: u64,
    /// The index and term of the entry that the log begins behind by that.
    pub released_to: (u64, u64),
    /// In the order of their indexes.
    pub notes: Vec<NotePlace>,
    /// The last snapshot record.
    pub last_snapshot: Option<Snapshot>,
    pub live: Live,
    pub index: SparseIndex,
    pub state: HardState,
    /// `None` is *not set*.
    pub metadata: Option<Bytes>,
    /// The record of the snapshot that reading starts from, once it was seen.
    pub start: Option<Snapshot>,
    /// The highest term of any entry or hard state.
    pub term_max: u64,
}

impl Replay {
    pub(crate) fn from_snapshot(index: u64, term: u64) -> Replay {
        Replay {
            from_beginning: false,
            from_release: false,
            start_index: index,
            start_term: term,
            term_at_start: None,
            other_snapshot: None,
            missing: None,
            released: None,
            released_in: Seq(0),
            released_read: 0,
            released_to: (0, 0),
            notes: Vec::new(),
            last_snapshot: None,
            live: Live::after(index, term),
            index: SparseIndex::default(),
            state: HardState::default(),
            metadata: None,
            start: None,
            term_max: term,
        }
    }

    /// From the first entry on that was not released, through a log whose first segment is there.
    pub(crate) fn from_beginning() -> Replay {
        Replay { from_beginning: true, ..Replay::from_snapshot(0, 0) }
    }

    /// The same, through a log whose first segments are gone because entries up to this one were released. Which segment
    /// says so may be none of those that are read.
    pub(crate) fn from_release(index: u64, term: u64) -> Replay {
        let released = Some(Snapshot { index, term, conf_state: None });
        let released_to = (index, term);
        let replay = Replay::from_snapshot(index, term);
        Replay { from_release: true, released, released_to, ..replay }
    }

    /// After all facts, of which the first stood in the segment at `path`: whether the entries that are missing were
    /// released, and those that were asked for were not.
    pub(crate) fn finish(&self, path: &Path) -> Result<()> {
        let released = self.released.as_ref().map_or(0, |snapshot| snapshot.index);
        match &self.missing {
            Some((index, error)) if *index > released => return Err(error.clone()),
            _ => {}
        }
        let released = self.released_to.0;
        if !self.from_beginning && !self.from_release && released > self.start_index {
            let what = format!(
                "the entries behind index {} were released: the first is {}",
                self.start_index,
                released.saturating_add(1)
            );
            return Err(Error::new(ErrorKind::Released, what)
                .at_path(path)
                .with_first_index(released.saturating_add(1))
                .next("start from a later snapshot, or at the beginning of what is left"));
        }
        Ok(())
    }

    /// Takes in the next facts, which stand in the segment at `path`.
    pub(crate) fn take(&mut self, facts: Facts, path: &Path) -> Result<()> {
        self.take_each(facts, path, |_, _| {})
    }

    /// The same; `taken` sees what is valid after each item, and the entries that it was, if it was some.
    pub(crate) fn take_each(
        &mut self,
        facts: Facts,
        path: &Path,
        mut taken: impl FnMut(&Live, Option<EntryRun>),
    ) -> Result<()> {
        let Facts { items, state, state_term_max, points, .. } = facts;
        for item in items {
            let mut run = None;
            match item {
                Item::Entries(entries) => {
                    self.entries(&entries, path)?;
                    run = Some(entries);
                }
                Item::Metadata { data, position } => self.metadata(data, position, path)?,
                Item::Snapshot { snapshot, position } => self.snapshot(snapshot, position, path)?,
                Item::Release { snapshot, position } => self.release(snapshot, position, path)?,
                Item::Truncation { snapshot, .. } => self.live.truncate(snapshot.index),
                Item::Note(note) => self.note(note),
            }
            taken(&self.live, run);
        }
        self.state = state.unwrap_or(self.state);
        self.term_max = self.term_max.max(state_term_max);
        self.index.extend(&points);
        Ok(())
    }

    fn metadata(&mut self, data: Option<Bytes>, at: Position, path: &Path) -> Result<()> {
        // Not set is no conflict with what comes later; set is, also when it is empty.
        if let Some(known) = &self.metadata
            && known[..] != data.as_deref().unwrap_or_default()[..]
        {
            let what = "metadata differs from that of an earlier segment";
            return Err(Error::damaged(path, at.offset, what));
        }
        self.metadata = data;
        Ok(())
    }

    fn release(&mut self, snapshot: Snapshot, at: Position, path: &Path) -> Result<()> {
        if snapshot.index < self.released_read {
            let what = format!(
                "entries up to {} are released, and those up to {} were before: no log does that",
                snapshot.index, self.released_read
            );
            return Err(Error::damaged(path, at.offset, what));
        }
        self.released_read = snapshot.index;
        if self.released.as_ref().is_some_and(|released| snapshot.index < released.index) {
            // The last one was looked up before.
            return Ok(());
        }
        if snapshot.index == self.start_index && self.start_index > 0 {
            self.check_start(&snapshot, at, path)?;
            self.start = Some(snapshot.clone());
        }
        // A layer releases up to the first entry behind a note, and goes on from the note.
        let note = self.notes.iter().rev().find(|note| note.index < snapshot.index);
        let (index, term) =
            note.map_or((snapshot.index, snapshot.term), |note| (note.index, note.term));
        if self.from_beginning && index > self.start_index {
            (self.start_index, self.start_term) = (index, term);
            self.term_at_start = Some(term);
            self.live.release(index, term);
            self.start = Some(snapshot.clone());
        }
        self.released_to = (index, term);
        self.term_max = self.term_max.max(snapshot.term);
        self.released = Some(snapshot);
        self.released_in = at.seq;
        Ok(())
    }

    /// One that goes with the last entry so far, or before the first that is left, is a note of this log.
    fn note(&mut self, note: NotePlace) {
        let follows = self.notes.last().is_none_or(|last| last.index <= note.index);
        let fits = self.live.last().is_none() || self.live.next() == note.index.saturating_add(1);
        if !follows || !fits || !INDEXES.contains(&note.index) {
            return;
        }
        // There may be another of the same entry, which knows less of what was released.
        self.notes.pop_if(|last| last.index == note.index);
        self.notes.push(note);
        let NotePlace { index, term, .. } = note;
        if self.from_release && index < self.start_index && self.live.last().is_none() {
            (self.start_index, self.start_term) = (index, term);
            self.released_to = (index, term);
            self.term_at_start = Some(term);
            self.live = Live::after(index, term);
            self.start = Some(Snapshot { index, term, conf_state: None });
        }
    }

    fn check_start(&self, snapshot: &Snapshot, at: Position, path: &Path) -> Result<()> {
        if snapshot.term == self.start_term {
            return Ok(());
        }
        let what = format!(
            "a snapshot record at index {} has term {}, not {}",
            snapshot.index, snapshot.term, self.start_term
        );
        Err(Error::damaged(path, at.offset, what))
    }

    fn snapshot(&mut self, snapshot: Snapshot, at: Position, path: &Path) -> Result<()> {
        if snapshot.index > 0 {
            self.last_snapshot = Some(snapshot.clone());
        }
        if snapshot.index != self.start_index {
            self.other_snapshot = Some((snapshot.index, snapshot.term));
            return Ok(());
        }
        self.check_start(&snapshot, at, path)?;
        // A snapshot that does not continue the entries below it replaced the log.
        if snapshot.index > 0 && self.term_at_start != Some(snapshot.term) {
            self.live.clear();
        }
        // From here on it stands for the entry at its index; the same record may come again.
        self.term_at_start = Some(snapshot.term);
        self.start = Some(snapshot);
        Ok(())
    }

    fn entries(&mut self, run: &EntryRun, path: &Path) -> Result<()> {
        let &EntryRun { first, count, term, position } = run;
        self.term_max = self.term_max.max(term);
        if first <= self.start_index {
            self.term_at_start = (run.last() >= self.start_index).then_some(term);
        }
        let Err(gap) = self.live.push_run(first, count, term, position) else {
            return Ok(());
        };
        match self.other_snapshot {
            Some((index, snapshot_term)) if gap.found == index + 1 => {
                let error = Error::new(
                    ErrorKind::Released,
                    format!(
                        "a snapshot of index {index}, term {snapshot_term} stands for the entries from {} on",
                        gap.expected
                    ),
                )
                .at_path(path)
                .at_offset(position.offset)
                .next("start there: Start::Snapshot, or --start INDEX/TERM");
                if !self.from_beginning {
                    return Err(error);
                }
                // A release behind it may say that nobody wants them.
                self.missing = Some((index, error));
                self.live = Live::after(index, snapshot_term);
                self.live.push_run(first, count, term, position).expect("it follows the snapshot");
                Ok(())
            }
            _ => {
                let what = format!(
                    "entry {} where {} is the next: entries are missing, unless a snapshot stands for them",
                    gap.found, gap.expected
                );
                let error = Error::damaged(path, position.offset, what);
                if !self.from_release || self.live.last().is_some() {
                    return Err(error);
                }
                // They were released later, and what says so is damaged: that is told when it is read.
                self.missing = Some((first - 1, error));
                self.live = Live::after(first - 1, term);
                self.live.push_run(first, count, term, position).expect("it begins the log");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Chain;
    use crate::recovery::walk::{Content, Fact};

    fn run(start: (u64, u64), contents: &[Content]) -> Result<Replay> {
        let mut replay = Replay::from_snapshot(start.0, start.1);
        let mut facts = Facts::default();
        for (at, content) in contents.iter().enumerate() {
            let position = Position::new(Seq(0), at as u64 * 8);
            facts.push(Fact { position, chain: Chain(0), content: content.clone() });
        }
        replay.take(facts, Path::new("0.wal"))?;
        Ok(replay)
    }

    fn entry(index: u64, term: u64) -> Content {
        Content::Entry { index, term }
    }

    fn snapshot(index: u64, term: u64) -> Content {
        Content::Snapshot(Snapshot { index, term, conf_state: None })
    }

    #[test]
    fn snapshot_of_another_term_replaces_the_tail() {
        let mut facts: Vec<Content> = (1..=10).map(|index| entry(index, 1)).collect();
        facts.push(snapshot(8, 3));
        assert_eq!(run((8, 3), &facts).unwrap().live.last(), None);
    }

    #[test]
    fn local_snapshot_keeps_the_tail() {
        let mut facts: Vec<Content> = (1..=10).map(|index| entry(index, 1)).collect();
        facts.push(snapshot(8, 1));
        assert_eq!(run((8, 1), &facts).unwrap().live.last(), Some(10));
    }

    #[test]
    fn repeated_snapshot_record_drops_nothing() {
        // Entries behind a snapshot that jumped past the end, then the same record again: an idempotent retry.
        let facts = [entry(1, 1), snapshot(50, 3), entry(51, 3), entry(52, 3), snapshot(50, 3)];
        assert_eq!(run((50, 3), &facts).unwrap().live.last(), Some(52));
    }

    #[test]
    fn gap_that_a_snapshot_explains_is_no_damage() {
        let error = run((0, 0), &[entry(1, 1), snapshot(50, 3), entry(51, 3)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Released, "{error}");
    }

    #[test]
    fn snapshot_of_two_terms_is_refused() {
        assert!(run((0, 0), &[snapshot(0, 0), snapshot(0, 7)]).unwrap_err().is_damaged());
    }

    #[test]
    fn metadata_must_agree() {
        let metadata =
            |bytes: Option<&'static [u8]>| Content::Metadata(bytes.map(Bytes::from_static));
        assert!(run((0, 0), &[metadata(Some(b"a")), metadata(Some(b""))]).is_err());
        assert!(run((0, 0), &[metadata(Some(b"a")), metadata(Some(b"a"))]).is_ok());
        assert!(run((0, 0), &[metadata(None), metadata(Some(b"a"))]).is_ok());
        assert!(run((0, 0), &[metadata(Some(b"")), metadata(None)]).is_ok());
    }

    #[test]
    fn releases_do_not_go_back() {
        let release = |index| Content::Release(Snapshot { index, term: 1, conf_state: None });
        let facts = [entry(1, 1), entry(2, 1), release(2), entry(3, 1), release(2)];
        assert_eq!(run((0, 0), &facts).unwrap().released.unwrap().index, 2);
        let facts = [entry(1, 1), entry(2, 1), release(2), release(1)];
        assert!(run((0, 0), &facts).unwrap_err().is_damaged());
    }

    /// A log was closed right behind a cut: the second note knows what was released since.
    #[test]
    fn a_later_note_of_the_same_entry_counts() {
        let facts = [entry(1, 1), Content::Note(1, 1), Content::Note(1, 1), Content::Note(9, 1)];
        let notes = run((0, 0), &facts).unwrap().notes;
        let places: Vec<_> = notes.iter().map(|note| (note.index, note.position.offset)).collect();
        assert_eq!(places, [(1, 16)], "and one that goes with no entry does not");
        // Nor does one that comes too late, and it does not take the place of the other.
        let facts = [entry(1, 1), Content::Note(1, 1), entry(2, 1), Content::Note(1, 1)];
        let notes = run((0, 0), &facts).unwrap().notes;
        assert_eq!((notes.len(), notes[0].position.offset), (1, 8));
    }

    #[test]
    fn gap_is_damage() {
        let facts = [entry(1, 1), entry(3, 1)];
        assert!(run((0, 0), &facts).unwrap_err().is_damaged());
    }
}
