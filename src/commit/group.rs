//! Appends that become durable together: they lie in one group on disk, are written at once, and are answered at once.

use crate::format::{MarkKind, Record, RecordRef, Records};
use crate::payload::{Inner, Payload};
use crate::types::Durability;
use crate::types::{Entry, EntryKind};
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
        if let Inner::Shared(bytes) = &mut data.0
            && (kind != EntryKind::Normal || bytes.len() > COPIED_BYTES_MAX)
        {
            let data = std::mem::take(bytes);
            return self.push(Record::Entry(Entry { index, term, kind, data }));
        }
        debug_assert_eq!(kind, EntryKind::Normal, "only plain appends borrow");
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
            Item::Record(record) => record.into(),
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
