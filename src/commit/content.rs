//! What a caller wants appended: how large it is, and whether it can follow what is there.

use super::group::{COPIED_BYTES_MAX, Group, Room};
use super::queue::Order;
use crate::error::{Error, ErrorKind, Result};
use crate::format::encode::entry_frame_bytes_max;
use crate::format::{MarkKind, Record};
use crate::live::Live;
use crate::payload::{Inner, Payload};
use crate::types::{Entry, EntryKind, HardState, INDEXES, Snapshot};
use std::ops::Range;

/// What a record counts in the queue besides its payload: about what it takes in memory.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// What a caller wants appended.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    /// A payload, which gets the next index.
    One(Payload<'a>),
    /// Payloads, which get the next indexes.
    Many(Vec<Payload<'a>>),
    /// etcd's Save: entries that know their index and term, then a hard state unless it is empty.
    Save(HardState, Vec<Entry>),
    /// Boxed, as it is rare, and any append takes as much room as the largest of these.
    Snapshot(Box<Snapshot>),
    Truncate(Box<Truncation>),
}

/// What is behind an entry is taken back: the entry is written again, or, where there is none, the snapshot before it.
#[derive(Debug)]
pub(crate) struct Truncation {
    pub last: Option<Entry>,
    pub base: Snapshot,
    /// As they were when the entry was read.
    pub changes: u64,
}

impl<'a> Content<'a> {
    /// A payload, which gets the next index.
    pub(crate) fn one(payload: impl Into<Payload<'a>>) -> Content<'a> {
        // What is large is copied here, and not under the lock of the queue.
        Content::One(payload.into().shared_beyond(COPIED_BYTES_MAX))
    }

    /// Payloads, which get the next indexes.
    pub(crate) fn many<P: Into<Payload<'a>>>(payloads: impl IntoIterator<Item = P>) -> Content<'a> {
        let shared = |payload: P| payload.into().shared_beyond(COPIED_BYTES_MAX);
        Content::Many(payloads.into_iter().map(shared).collect())
    }

    /// Whether it can follow the entries there are.
    pub(super) fn check(&self, order: &Order) -> Result<()> {
        self.check_indexes(order.live.next())?;
        match self {
            Content::Save(_, entries) => check_entries(entries, &order.live),
            // Also if they were released meanwhile: what was released is not written again.
            Content::Truncate(truncation)
                if truncation.changes != order.changes
                    || truncation.base.index != order.live.base() =>
            {
                Err(changed())
            }
            _ => Ok(()),
        }
    }

    /// What kind of group it is in.
    pub(super) fn kind(&self) -> MarkKind {
        match self {
            Content::Truncate(truncation) if truncation.last.is_none() => MarkKind::Truncation,
            _ => MarkKind::Entries,
        }
    }

    /// Whether the indexes that it takes, from `next` on, exist.
    fn check_indexes(&self, next: u64) -> Result<()> {
        let last = match self {
            Content::One(_) => next,
            Content::Many(payloads) => match payloads.len() {
                0 => 0,
                len => next.saturating_add(len as u64 - 1),
            },
            Content::Save(_, entries) => entries.last().map_or(0, |entry| entry.index),
            Content::Snapshot(snapshot) => snapshot.index,
            Content::Truncate(_) => 0,
        };
        if last > *INDEXES.end() {
            let what = format!("index {last} is beyond the last that a log can hold");
            return Err(Error::new(ErrorKind::InvalidInput, what).next("start a new log"));
        }
        // Every log has the record of a snapshot at 0/0; another term there would be refused as damage.
        if let Content::Snapshot(snapshot) = self
            && let Snapshot { index: 0, term: 1.., .. } = **snapshot
        {
            return Err(Error::new(ErrorKind::InvalidInput, "a snapshot at index 0 has a term")
                .next("nothing was appended: a snapshot of nothing has index 0 and term 0"));
        }
        Ok(())
    }

    /// Records, bytes of payload, and the largest payload.
    fn sizes(&self) -> (usize, usize, usize) {
        match self {
            Content::One(data) => sizes(std::iter::once(data.len())),
            Content::Many(payloads) => sizes(payloads.iter().map(Payload::len)),
            Content::Save(_, entries) => sizes(entries.iter().map(|entry| entry.data.len())),
            Content::Snapshot(snapshot) => sizes(std::iter::once(snapshot_bytes_max(snapshot))),
            // There already, so not too large.
            Content::Truncate(truncation) => {
                (1, truncation.last.as_ref().map_or(0, |entry| entry.data.len()), 0)
            }
        }
    }

    /// What it takes in the queue; refuses what is too large.
    pub(super) fn room(&self, record_bytes_max: usize, all: Room) -> Result<Room> {
        let (records, payload, largest) = self.sizes();
        if largest > record_bytes_max {
            let what = format!("a record of {largest} bytes; the limit is {record_bytes_max}");
            return Err(Error::new(ErrorKind::TooLarge, what)
                .next("split it, or raise Options::record_bytes_max"));
        }
        if u32::try_from(records).is_err() {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "more than 4,294,967,295 records in one batch",
            ));
        }
        // One append may be larger than all the room: then it waits until it is alone.
        Ok(Room {
            bytes: (payload + (records + 1) * RECORD_OVERHEAD_BYTES).min(all.bytes),
            records: records.clamp(1, all.records),
        })
    }

    /// Moves its records into `group`, from the next index on, and says what indexes they have. Payloads that were copied
    /// stay here: they are the caller's code to drop.
    pub(super) fn move_to(&mut self, group: &mut Group, order: &mut Order) -> Range<u64> {
        let (next, term) = (order.live.next(), order.term);
        if self.changes_entries(next) {
            order.changes += 1;
        }
        let mut normal = |index, data: &mut Payload<'_>| {
            order.accept_entry(index, term);
            group.push_entry(index, term, EntryKind::Normal, data);
        };
        match self {
            Content::One(data) => {
                normal(next, data);
                next..next + 1
            }
            Content::Many(payloads) => {
                let end = next + payloads.len() as u64;
                (next..end).zip(payloads).for_each(|(index, data)| normal(index, data));
                next..end
            }
            Content::Save(state, entries) => {
                let start = entries.first().map_or(next, |entry| entry.index);
                let end = start + entries.len() as u64;
                entries.iter_mut().for_each(|entry| move_entry(entry, group, order));
                if !state.is_empty() {
                    order.term = order.term.max(state.term);
                    order.commit = Some(state.commit);
                    group.push(Record::State(*state));
                }
                start..end
            }
            Content::Snapshot(snapshot) => {
                order.term = order.term.max(snapshot.term);
                order.live.snapshot(snapshot.index, snapshot.term);
                let at = snapshot.index;
                group.push(Record::Snapshot(std::mem::take(&mut **snapshot)));
                at..at
            }
            Content::Truncate(truncation) => {
                let Truncation { last, base, .. } = &mut **truncation;
                if let Some(entry) = last {
                    move_entry(entry, group, order);
                    return entry.index..entry.index + 1;
                }
                order.live.truncate(base.index);
                let next = base.index + 1;
                group.kind = MarkKind::Truncation;
                group.push(Record::Truncation(std::mem::take(base)));
                next..next
            }
        }
    }

    /// Whether entries before `next` are others afterwards.
    fn changes_entries(&self, next: u64) -> bool {
        match self {
            Content::One(_) | Content::Many(_) => false,
            Content::Save(_, entries) => entries.first().is_some_and(|first| first.index < next),
            Content::Snapshot(_) | Content::Truncate(_) => true,
        }
    }

    /// It takes at most this much on disk; nothing if there is nothing in it.
    pub(super) fn bytes_max(&self) -> u64 {
        match self {
            Content::One(data) => entry_frame_bytes_max(data.len()),
            Content::Many(payloads) => {
                payloads.iter().map(|data| entry_frame_bytes_max(data.len())).sum()
            }
            Content::Save(state, entries) => {
                let entries: u64 =
                    entries.iter().map(|entry| entry_frame_bytes_max(entry.data.len())).sum();
                entries + if state.is_empty() { 0 } else { entry_frame_bytes_max(0) }
            }
            Content::Snapshot(snapshot) => entry_frame_bytes_max(snapshot_bytes_max(snapshot)),
            Content::Truncate(truncation) => {
                let Truncation { last, base, .. } = &**truncation;
                let data = last.as_ref().map_or(0, |entry| entry.data.len());
                entry_frame_bytes_max(data.max(snapshot_bytes_max(base)))
            }
        }
    }
}

fn move_entry(entry: &mut Entry, group: &mut Group, order: &mut Order) {
    order.accept_entry(entry.index, entry.term);
    let mut data = Payload::from(std::mem::take(&mut entry.data));
    group.push_entry(entry.index, entry.term, entry.kind, &mut data);
    // Small ones come back, to be dropped by the caller.
    if let Inner::Shared(data) = data.0 {
        entry.data = data;
    }
}

/// What was looked at before is not the log any more.
pub(crate) fn changed() -> Error {
    Error::new(ErrorKind::Replaced, "entries were replaced meanwhile").next("look again")
}

fn sizes(lens: impl Iterator<Item = usize>) -> (usize, usize, usize) {
    lens.fold((0, 0, 0), |(count, sum, max), len| (count + 1, sum + len, max.max(len)))
}

/// Entries must follow each other, and leave no gap to what is there.
fn check_entries(entries: &[Entry], live: &Live) -> Result<()> {
    let invalid = |what: String| {
        Err(Error::new(ErrorKind::InvalidInput, what).next("nothing was appended: fix the entries"))
    };
    let allowed = live.base() + 1..=live.next();
    if let Some(first) = entries.first()
        && !allowed.contains(&first.index)
    {
        let (from, to) = allowed.into_inner();
        return invalid(format!("entry {} does not follow: it may be {from} to {to}", first.index));
    }
    for pair in entries.windows(2) {
        if pair[0].index.checked_add(1) != Some(pair[1].index) {
            return invalid(format!("entry {} follows entry {}", pair[1].index, pair[0].index));
        }
    }
    Ok(())
}

/// Index and term, and a tag and a number for each member.
fn snapshot_bytes_max(snapshot: &Snapshot) -> usize {
    let members = snapshot.conf_state.as_ref().map_or(0, |conf| {
        conf.voters.len()
            + conf.learners.len()
            + conf.voters_outgoing.len()
            + conf.learners_next.len()
    });
    32 + members * 11
}
