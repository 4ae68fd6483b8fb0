//! Appends that become durable together: they lie in one group on disk, are written at once, and are answered at once.

use crate::format::{MarkKind, Record, RecordRef, Records};
use crate::payload::{Inner, Payload};
use crate::types::Durability;
use crate::types::{Entry, EntryKind};
use bytes::Bytes;
use std::ops::AddAssign;

/// Payloads up to this length are copied into the group when they are accepted. To the submission thread, bytes in a row
/// cost less than many small ones that other threads have made and share.
pub(super) const COPIED_BYTES_MAX: usize = 2048;

/// Memory that a group keeps for the next one that uses it.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Room in the queue that records take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub bytes: usize,
    pub records: usize,
}

impl AddAssign for Room {
    fn add_assign(&mut self, other: Room) {
        self.bytes += other.bytes;
        self.records += other.records;
    }
}

/// A group, from the moment the first append joins it until it is answered.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Its number among those of this open log: groups are answered in this order.
    pub number: u64,
    /// Calls that joined it.
    pub appends: usize,
    /// The records take at most this much on disk.
    pub bytes_max: u64,
    pub room: Room,
    /// Somebody in it waits for the disk.
    pub wants_disk: bool,
    /// Of the mark before it.
    pub kind: MarkKind,
    items: Vec<Item>,
    /// Payloads that were copied, one behind the other.
    copied: Vec<u8>,
}

/// A record of a group.
#[derive(Debug)]
enum Item {
    /// A plain append whose payload was copied.
    Copied {
        index: u64,
        term: u64,
        start: usize,
        len: usize,
    },
    /// A plain append whose payload is all of its memory.
    Whole {
        index: u64,
        term: u64,
        data: Bytes,
    },
    Record(Record),
}

impl Group {
    /// Counts an append that joins.
    pub(super) fn join(&mut self, wanted: Durability, room: Room) {
        self.appends += 1;
        self.room += room;
        self.wants_disk |= wanted == Durability::Durable;
    }

    /// Takes an entry in: copies a small payload, else takes it.
    pub(super) fn push_entry(
        &mut self,
        index: u64,
        term: u64,
        kind: EntryKind,
        data: &mut Payload<'_>,
    ) {
        let copied = kind == EntryKind::Normal && data.len() <= COPIED_BYTES_MAX;
        match &mut data.0 {
            Inner::Shared(bytes) if !copied => {
                let data = std::mem::take(bytes);
                return self.push(Record::Entry(Entry { index, term, kind, data }));
            }
            Inner::Whole(bytes) if !copied => {
                let data = std::mem::take(bytes);
                return self.items.push(Item::Whole { index, term, data });
            }
            _ => {}
        }
        debug_assert_eq!(kind, EntryKind::Normal, "others are shared");
        let (start, len) = (self.copied.len(), data.len());
        self.copied.extend_from_slice(data.as_slice());
        self.items.push(Item::Copied { index, term, start, len });
    }

    pub(super) fn push(&mut self, record: Record) {
        self.items.push(Item::Record(record));
    }

    /// It holds nothing but the wish that all before it be durable.
    pub(crate) fn is_barrier(&self) -> bool {
        self.items.is_empty()
    }

    /// Drops the records.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.copied.clear();
        self.copied.shrink_to(KEPT_BYTES_MAX);
    }

    /// An empty one, in the same memory.
    pub(super) fn reset(mut self, number: u64) -> Group {
        self.clear();
        Group { number, items: self.items, copied: self.copied, ..Group::default() }
    }
}

impl Records for Group {
    fn count(&self) -> usize {
        self.items.len()
    }

    fn get(&self, at: usize) -> RecordRef<'_> {
        match &self.items[at] {
            &Item::Copied { index, term, start, len } => RecordRef::Entry {
                index,
                term,
                kind: EntryKind::Normal,
                data: &self.copied[start..start + len],
            },
            &Item::Whole { index, term, ref data } => {
                RecordRef::Entry { index, term, kind: EntryKind::Normal, data }
            }
            Item::Record(record) => record.into(),
        }
    }

    fn whole(&self, at: usize) -> Option<&Bytes> {
        match &self.items[at] {
            Item::Whole { data, .. } => Some(data),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_payloads_come_back_alike() {
        let mut group = Group::default();
        let lengths = [0, COPIED_BYTES_MAX, COPIED_BYTES_MAX + 1];
        for (at, &len) in lengths.iter().enumerate() {
            let mut data = Payload::from(vec![at as u8; len]);
            group.push_entry(at as u64, 7, EntryKind::Normal, &mut data);
        }
        for (at, &len) in lengths.iter().enumerate() {
            let (index, kind, data) = (at as u64, EntryKind::Normal, &vec![at as u8; len][..]);
            assert_eq!(group.get(at), RecordRef::Entry { index, term: 7, kind, data });
        }
        assert!(group.reset(2).is_barrier());
    }

    /// A part of something larger would keep all of that, for as long as readers may want the part.
    #[test]
    fn only_what_is_all_of_its_memory_may_be_kept() {
        let large = vec![7; COPIED_BYTES_MAX + 1].into_boxed_slice().into_vec();
        let small = vec![7; COPIED_BYTES_MAX].into_boxed_slice().into_vec();
        let mut spacious = Vec::with_capacity(1 << 20);
        spacious.extend_from_slice(&large);
        let text = String::from_utf8(large.clone()).unwrap();
        let part = Bytes::from(vec![7; 1 << 20]).slice(..large.len());
        let borrowed = Payload::from(&large).shared_beyond(COPIED_BYTES_MAX);
        let cases: [(Payload<'_>, bool); 6] = [
            (borrowed, true),
            (large.clone().into(), true),
            (text.into(), true),
            (spacious.into(), false),
            (part.into(), false),
            (small.into(), false),
        ];
        let mut group = Group::default();
        for (at, (mut data, kept)) in cases.into_iter().enumerate() {
            group.push_entry(at as u64, 7, EntryKind::Normal, &mut data);
            assert_eq!(group.whole(at).is_some(), kept, "case {at}");
        }
    }

    #[test]
    fn one_who_wants_the_disk_is_enough() {
        let mut group = Group::default();
        group.join(Durability::Written, Room::default());
        assert!(!group.wants_disk);
        group.join(Durability::Durable, Room::default());
        group.join(Durability::Written, Room::default());
        assert!(group.wants_disk);
    }
}
