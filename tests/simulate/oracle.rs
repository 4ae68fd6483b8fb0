//! What the application was told, and so what must be in the log after a crash.
//!
//! The calls of one life of the log are kept in the order in which they were accepted. Whatever is found afterwards
//! must be the log as it was when that life began and the first so many of these calls: at least those that were
//! reported, none that was refused. Everything a call is told is checked as it is told.

use crate::image::{Call, Found, Image};
use bytes::Bytes;
use seawal::{Durability, Entry, Error, ErrorKind};
use std::collections::BTreeSet;
use std::time::Duration;

/// Names a call, over the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallId(u64);

#[derive(Debug)]
struct Accepted {
    id: CallId,
    /// The first index that it was given, if it is one that nobody had before.
    first: Option<u64>,
    call: Call,
    /// When it was told that the kernel has it.
    written_at: Option<Duration>,
}

/// What happened to the machine or the process between two lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The log was closed, and said so; or its last handle was dropped, and it ended in peace.
    Closed,
    /// The process died.
    Killed,
    /// The machine lost power.
    PowerLost,
}

/// Where an entry comes from: a call, or what was there before all of them, and its place there.
type Origin = (CallId, usize);

/// Someone who follows the log.
#[derive(Debug)]
pub(crate) struct Follower {
    level: Durability,
    from: u64,
    /// What was handed out last is one of these: several, where entries are equal.
    last: Vec<Origin>,
}

impl Follower {
    pub(crate) fn new(level: Durability, from: u64) -> Follower {
        Follower { level, from, last: Vec::new() }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// What was found when the log was opened.
    base: Image,
    /// Of this life, in their order.
    calls: Vec<Accepted>,
    ids: u64,
    /// So many calls are durable by the log's word, and so many are in the kernel's hands.
    durable: usize,
    written: usize,
    /// The first call that was told of a failure: it and all after it are never reported.
    failed: Option<CallId>,
    /// Refused for want of space, and not told yet: their indexes were given to others.
    given_back: BTreeSet<CallId>,
    /// A fault has struck since the log was opened: calls may fail.
    pub faulty: bool,
    /// Space may run out in this life, or segments in a log of fixed size.
    pub space_is_short: bool,
    pub may_be_full: bool,
    /// What was released may not come back up to this index: when the log was opened, it was so.
    released: u64,
    /// Up to this index somebody asked for a release.
    asked: u64,
    /// The options release entries too.
    pub retains: bool,
}

impl Oracle {
    /// A call has its place in the order: the last. `first` is its index if indexes only go back when calls are refused.
    pub(crate) fn accept(&mut self, call: Call, first: Option<u64>) -> CallId {
        while let Some(last) = self.calls.pop_if(|last| first.is_some() && last.first >= first) {
            assert!(self.space_is_short, "index {first:?} is given twice");
            assert!(self.calls.len() >= self.durable.max(self.written), "{last:?} is given back");
            self.given_back.insert(last.id);
        }
        self.ids += 1;
        let id = CallId(self.ids);
        self.calls.push(Accepted { id, first, call, written_at: None });
        id
    }

    /// The log when all that was accepted is there.
    pub(crate) fn head(&self) -> Image {
        self.image(self.calls.len())
    }

    fn image(&self, calls: usize) -> Image {
        let mut image = self.base.clone();
        self.calls[..calls].iter().for_each(|accepted| image.apply(&accepted.call));
        image
    }

    /// The last call that was accepted.
    pub(crate) fn last(&self) -> Option<CallId> {
        self.calls.last().map(|accepted| accepted.id)
    }

    fn place(&self, id: CallId) -> usize {
        let place = self.calls.binary_search_by_key(&id, |accepted| accepted.id);
        place.unwrap_or_else(|_| panic!("{id:?} is reported twice: it was refused before"))
    }

    fn reported(&mut self, id: CallId) -> usize {
        if let Some(failed) = self.failed {
            assert!(id < failed, "P3: {id:?} is reported as done, and {failed:?} before it failed");
        }
        self.place(id) + 1
    }

    /// A call was told that it is durable.
    pub(crate) fn durable(&mut self, id: CallId) {
        self.durable = self.reported(id).max(self.durable);
    }

    /// A call was told that the kernel has it.
    pub(crate) fn written(&mut self, id: CallId, now: Duration) {
        let upto = self.reported(id);
        self.written = upto.max(self.written);
        self.calls[upto - 1].written_at = Some(now);
    }

    /// The log syncs at intervals, so that so much time, at most, may be lost: the rest is durable by now.
    pub(crate) fn time_passed(&mut self, loss_window: Duration, now: Duration) {
        if self.faulty {
            return;
        }
        let is_old = |call: &Accepted| call.written_at.is_some_and(|at| at + loss_window < now);
        let durable = self.calls.iter().rposition(is_old).map_or(0, |last| last + 1);
        self.durable = self.durable.max(durable);
    }

    /// A sync that was asked for after this call was reported.
    pub(crate) fn synced(&mut self, last: CallId) {
        assert!(self.failed.is_none_or(|failed| last < failed), "P3: synced after a failure");
        self.durable = self.calls.partition_point(|call| call.id <= last).max(self.durable);
    }

    /// The log said, in passing, that this index is durable. Only for runs in which no index is given twice.
    pub(crate) fn durable_index(&mut self, index: u64) {
        let mut image = self.base.clone();
        let needed = std::iter::once(None)
            .chain(self.calls.iter().map(Some))
            .position(|accepted| {
                accepted.into_iter().for_each(|accepted| image.apply(&accepted.call));
                image.last_index() >= index
            })
            .unwrap_or_else(|| panic!("P2: index {index} is durable, and nobody appended it"));
        self.durable = self.durable.max(needed);
    }

    /// Entries up to this one are about to be released.
    pub(crate) fn releases(&mut self, index: u64) {
        self.asked = self.asked.max(index);
    }

    /// The log begins behind `base`. Says whether it does so by itself.
    pub(crate) fn begins_behind(&self, base: u64) -> bool {
        assert!(base >= self.released, "P1: {} was released, now only {base} is", self.released);
        let by_itself = base > self.asked;
        assert!(!by_itself || self.retains, "{base} is released; asked was up to {}", self.asked);
        by_itself
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked
    }

    /// Calls that go back to this index may be refused.
    pub(crate) fn may_be_released(&self, index: u64) -> bool {
        self.retains || index <= self.asked
    }

    /// A tail was told that what comes next was released: it may come through that without wanting it.
    pub(crate) fn tail_released(&self, follower: &Follower, first: u64) {
        let after = follower.last.first().copied();
        let mut unread = self.history().into_iter();
        let is_one = |(origin, index, _, _): &(Origin, u64, _, bool)| {
            after.is_none_or(|after| *origin > after) && (1..first).contains(index)
        };
        assert!(unread.any(|event| is_one(&event)), "a tail was told that {first} is the first");
        assert!(self.may_be_released(first - 1), "a tail was told that {first} is the first");
    }

    /// A call that was accepted was told of a failure.
    pub(crate) fn failed(&mut self, id: CallId, error: &Error) {
        if self.given_back.remove(&id) {
            let refused = is_for_want_of_space(error);
            return assert!(refused, "{id:?} gave its index back and failed: {error}");
        }
        let place = self.place(id);
        assert!(place >= self.durable, "P1: {id:?} was durable, and now it failed: {error}");
        if is_for_want_of_space(error) {
            let allowed = self.may_be_refused(error);
            assert!(allowed, "P5: there is space, and {id:?} failed: {error}");
            assert!(place >= self.written, "P5: {id:?} was written, and now it failed: {error}");
            // Nothing of it may ever be found.
            self.calls.remove(place);
            return;
        }
        assert!(error.is_poisoned(), "{id:?} was accepted and failed in a strange way: {error}");
        assert!(self.faulty, "nothing was made to fail, and {id:?} failed: {error}");
        self.failed = Some(self.failed.map_or(id, |failed| failed.min(id)));
    }

    /// A call was refused at once.
    pub(crate) fn refused(&self, error: &Error) {
        let allowed = match error.kind() {
            ErrorKind::NoSpace | ErrorKind::Full => self.may_be_refused(error),
            ErrorKind::Poisoned => self.faulty,
            // What it was to replace is released, which shows in the order before it shows to readers.
            ErrorKind::InvalidInput => {
                self.may_be_released(self.head().last_index().saturating_sub(5).max(1))
            }
            _ => false,
        };
        assert!(allowed, "a call was refused: {error}");
    }

    fn may_be_refused(&self, error: &Error) -> bool {
        self.space_is_short && (error.is_no_space() || self.may_be_full)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Compares an entry that was read from the open log.
    pub(crate) fn read(&mut self, entry: &Entry, indexes_are_unique: bool) {
        let mut image = self.base.clone();
        let mut seen = image.has(entry);
        for accepted in &self.calls {
            image.apply(&accepted.call);
            seen |= image.has(entry);
        }
        let Entry { index, term, .. } = entry;
        assert!(seen, "P2: entry {index} of term {term} was read, and nobody appended it");
        if indexes_are_unique {
            self.durable_index(entry.index);
        }
    }

    /// All entries there ever were, in the order of the bytes, with their terms and records; and whether they are valid
    /// when all that was accepted is there.
    fn history(&self) -> Vec<(Origin, u64, (u64, &Bytes), bool)> {
        let mut all = Vec::new();
        // And whether it is certain that it is that one.
        let mut valid: Vec<(usize, bool)> = Vec::new();
        for (at, (term, data)) in self.base.entries.iter().enumerate() {
            valid.push((all.len(), true));
            all.push(((CallId(0), at), at as u64 + 1, (*term, data), false));
        }
        let mut appended = self.base.term;
        for Accepted { id, call, .. } in &self.calls {
            let (first, term, records) = match call {
                Call::Append(records) => {
                    appended = appended.max(1);
                    (valid.len() as u64 + 1, appended, &records[..])
                }
                Call::Save { first, term, records } => (*first, *term, &records[..]),
                Call::State(state) => (valid.len() as u64 + 1, state.term, &[][..]),
                Call::Snapshot(_) => continue,
                Call::Truncate { index, may_be_released } => {
                    valid.truncate(*index as usize);
                    if let Some(last) = valid.last_mut() {
                        // Written again, unless there is no such entry any more.
                        let (_, index, record, _): (Origin, u64, (u64, &Bytes), bool) = all[last.0];
                        *last = (all.len(), !may_be_released);
                        all.push(((*id, 0), index, record, false));
                    }
                    continue;
                }
            };
            appended = appended.max(term);
            valid.truncate(first as usize - 1);
            for (at, data) in records.iter().enumerate() {
                valid.push((all.len(), true));
                all.push(((*id, at), first + at as u64, (term, data), false));
            }
        }
        valid.into_iter().for_each(|(at, is_certain)| all[at].3 = is_certain);
        all
    }

    /// A tail handed out an entry: nothing that is valid was left out before it, and it is as durable, or as much in the
    /// kernel's hands, as a call that was reported. Says whether it is an entry of this life.
    pub(crate) fn handed_out(&mut self, entry: &Entry, follower: &mut Follower) -> bool {
        assert!(entry.index >= follower.from, "entry {} was not asked for", entry.index);
        let history = self.history();
        let mut last = Vec::new();
        // Whether what comes next may follow on what came last.
        let mut follows = follower.last.is_empty();
        for (origin, index, (term, data), is_valid) in &history {
            let is_it = (*index, *term, *data) == (entry.index, entry.term, &entry.data);
            if follows && is_it {
                last.push(*origin);
            }
            follows &= !is_valid || *index < follower.from;
            follows |= follower.last.contains(origin);
        }
        let Some((id, _)) = last.first().copied() else {
            panic!(
                "P2: a tail ({:?}, from {}) hands out entry {} of term {}, which does not follow on {:?}",
                follower.level, follower.from, entry.index, entry.term, follower.last
            );
        };
        follower.last = last;
        let is_new = id > CallId(0);
        match follower.level {
            Durability::Durable if is_new => self.durable(id),
            Durability::Written if is_new && !self.has_failed() => {
                self.written = self.written.max(self.place(id) + 1);
            }
            _ => {}
        }
        is_new
    }

    /// A tail of a log that was closed has ended: there is no more.
    pub(crate) fn tail_ended(&self, follower: &Follower) {
        assert!(!self.has_failed(), "P3: a tail ends in peace after a failure");
        let after = follower.last.last().copied();
        let missed = |(origin, index, _, is_valid): &(Origin, u64, _, bool)| {
            after.is_none_or(|after| *origin > after) && *is_valid && *index >= follower.from
        };
        let missed = self.history().iter().find(|event| missed(event)).map(|event| event.0);
        assert_eq!(missed, None, "a tail has ended before all was handed out");
    }

    /// The log was closed in peace: all that was accepted is there. It began behind `base`, for the last time for sure,
    /// or at least.
    pub(crate) fn closed(&mut self, base: u64, is_last: bool) {
        assert!(!self.has_failed(), "P3: the log closed in peace after a failure");
        self.durable = self.calls.len();
        self.begins_behind(base);
        // Without space it is not written down.
        if !self.space_is_short {
            self.released = base;
        }
        if is_last {
            (self.asked, self.retains) = (base, false);
        }
    }

    /// Calls that must have survived.
    fn least(&self, ending: Ending) -> usize {
        match ending {
            Ending::Closed => self.calls.len(),
            Ending::Killed if !self.has_failed() && !self.faulty => self.written.max(self.durable),
            Ending::Killed | Ending::PowerLost => self.durable,
        }
    }

    /// Compares what is found with what may be: says how many of the calls survived.
    pub(crate) fn found(&self, ending: Ending, found: &Found) -> usize {
        let least = self.least(ending);
        let mut image = self.image(least);
        self.begins_behind(found.base);
        for survived in least.. {
            if image.is(found) {
                return survived;
            }
            let Some(next) = self.calls.get(survived) else { break };
            image.apply(&next.call);
        }
        let is = (0..=self.calls.len()).find(|&calls| self.image(calls).is(found));
        let Found { base, entries, state } = found;
        panic!(
            "P1, P2: after {ending:?}, {least} of {} calls must be there ({} durable, {} written, of {} entries \
             when the log was opened), and what was found, {} entries behind {base}, up to {:?}, and {state:?}, is {}",
            self.calls.len(),
            self.durable,
            self.written,
            self.base.entries.len(),
            entries.len(),
            entries.last().map(|entry| (entry.index, entry.term, entry.data.len())),
            match is {
                Some(calls) => format!("what {calls} calls make"),
                None => "nothing that any number of calls makes".to_owned(),
            }
        );
    }

    /// Whether calls survived that nobody was told of, and whether such are lost that were only written.
    pub(crate) fn beyond_promises(&self, survived: usize) -> (bool, bool) {
        (survived > self.durable.max(self.written), survived < self.written)
    }

    /// The log is open again, with the first `survived` calls. What is there now stays.
    pub(crate) fn opened(&mut self, survived: usize, released: u64) {
        let mut base = self.image(survived);
        // A snapshot record that nobody was told of may be there all the same.
        base.settled = self.head().settled.min(base.last_index());
        *self = Oracle { base, ids: self.ids, released, asked: released, ..Oracle::default() };
    }
}

fn is_for_want_of_space(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Full)
}
