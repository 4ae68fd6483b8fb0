//! The newest records, in memory: who follows the log closely reads them from here, and no file.
//!
//! Groups come in when they are written, one behind the other, into *blocks*; the oldest blocks go when there is more than
//! the limit. Payloads are copied, but for large ones whose memory is theirs alone: those are shared. Whoever reads holds
//! on to a block without a lock, and so without keeping the log from going on.
//!
//! # Invariants
//!
//! 1. What lies at or behind [`Recent::start`] is all here: there are no holes between blocks but marks and heads of
//!    segments, which hold no entries.
//! 2. A block is changed only while nobody else holds it.
//! 3. Blocks take at most the limit, those aside that readers hold on to after they have gone from here.

use crate::format::{RecordRef, Records};
use crate::types::{Entry, EntryKind, Position, Seq};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// A block takes no further group when it holds this much, or this part of all that may be kept: blocks go as a whole.
const BLOCK_FULL_BYTES: usize = 64 << 10;
const BLOCK_PARTS: usize = 16;

/// An entry that lies in a block.
#[derive(Debug)]
struct Item {
    offset: u64,
    index: u64,
    term: u64,
    kind: EntryKind,
    data: Data,
}

/// Where a payload lies.
#[derive(Clone, Copy, Debug)]
enum Data {
    /// In the bytes of the block.
    Copied { start: usize, len: usize },
    /// Among the shared payloads of the block.
    Shared { at: usize },
}

/// Some groups of one segment, one behind the other.
#[derive(Debug, Default)]
struct Block {
    seq: Seq,
    items: Vec<Item>,
    /// Payloads that were copied, one behind the other.
    bytes: Vec<u8>,
    /// Payloads that were not.
    shared: Vec<Bytes>,
    shared_bytes: usize,
    /// The end of its last group.
    end: Position,
}

impl Block {
    /// Empty, with the memory that it needed.
    fn clear(&mut self) {
        self.items.clear();
        if self.bytes.len() < self.bytes.capacity() / 2 {
            self.bytes.shrink_to_fit();
        }
        self.bytes.clear();
        self.shared.clear();
        self.shared_bytes = 0;
    }

    fn payload_bytes(&self) -> usize {
        self.bytes.len() + self.shared_bytes
    }

    fn memory(&self) -> usize {
        let shared = self.shared_bytes + self.shared.capacity() * size_of::<Bytes>();
        let items = self.items.capacity() * size_of::<Item>();
        size_of::<Block>() + self.bytes.capacity() + shared + items
    }

    /// It takes more than one group: then it takes many, and shall not grow with each.
    fn make_room(&mut self, full: usize) {
        let groups = full / self.payload_bytes().max(1);
        let items = (self.items.len() * groups).min(full / size_of::<Item>());
        self.items.reserve(items.saturating_sub(self.items.len()));
        self.bytes.reserve((self.bytes.len() * groups).saturating_sub(self.bytes.len()));
    }

    fn position(&self, item: usize) -> Position {
        Position::new(self.seq, self.items[item].offset)
    }

    fn push(
        &mut self,
        records: &(impl Records + ?Sized),
        positions: impl Iterator<Item = Position>,
    ) {
        for (at, position) in positions.enumerate() {
            let RecordRef::Entry { index, term, kind, data } = records.get(at) else {
                continue;
            };
            let data = match records.whole(at) {
                Some(whole) => {
                    self.shared.push(whole.clone());
                    self.shared_bytes += whole.len();
                    Data::Shared { at: self.shared.len() - 1 }
                }
                None => {
                    self.bytes.extend_from_slice(data);
                    Data::Copied { start: self.bytes.len() - data.len(), len: data.len() }
                }
            };
            self.items.push(Item { offset: position.offset, index, term, kind, data });
        }
    }
}

/// Entries of a block, one behind the other.
#[derive(Debug)]
pub(crate) struct Found {
    block: Arc<Block>,
    from: usize,
    to: usize,
}

/// Keeps a block as long as payloads of it are around.
struct Payloads(Arc<Block>);

impl AsRef<[u8]> for Payloads {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Found {
    /// The entries, with their places. Small payloads share the memory of the block.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Position, Entry)> + '_ {
        let payloads = Bytes::from_owner(Payloads(Arc::clone(&self.block)));
        (self.from..self.to).map(move |at| {
            let &Item { index, term, kind, data, .. } = &self.block.items[at];
            let data = match data {
                Data::Copied { start, len } => payloads.slice(start..start + len),
                Data::Shared { at } => self.block.shared[at].clone(),
            };
            (self.block.position(at), Entry { index, term, kind, data })
        })
    }

    /// Where what follows them begins, at the latest.
    pub(crate) fn end(&self) -> Position {
        match self.to < self.block.items.len() {
            true => self.block.position(self.to),
            false => self.block.end,
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Recent {
    blocks: VecDeque<Arc<Block>>,
    /// What the blocks take.
    bytes: usize,
    bytes_max: usize,
    start: Position,
}

impl Recent {
    /// Nothing yet of what lies at or behind `start`.
    pub(crate) fn new(start: Position, bytes_max: usize) -> Recent {
        Recent { blocks: VecDeque::new(), bytes: 0, bytes_max, start }
    }

    /// From here on everything is in memory.
    pub(crate) fn start(&self) -> Position {
        self.start
    }

    /// Takes in the group that ends at `end`. It lies behind all that came before.
    pub(crate) fn push(
        &mut self,
        records: &(impl Records + ?Sized),
        positions: impl Iterator<Item = Position>,
        end: Position,
    ) {
        if payload_bytes(records) >= self.bytes_max {
            while self.drop_oldest().is_some() {}
            self.start = end;
            return;
        }
        let full = BLOCK_FULL_BYTES.min(self.bytes_max / BLOCK_PARTS);
        let open = self.blocks.back_mut().filter(|block| {
            block.seq == end.seq
                && block.payload_bytes() < full
                && block.items.len() * size_of::<Item>() < full
        });
        // Not while somebody reads it.
        match open.and_then(Arc::get_mut) {
            Some(block) => {
                self.bytes -= block.memory();
                block.make_room(full);
                block.push(records, positions);
                block.end = end;
                self.bytes += block.memory();
            }
            None => {
                let mut block = self.spare();
                let fresh = Arc::get_mut(&mut block).expect("nobody else has it");
                (fresh.seq, fresh.end) = (end.seq, end);
                fresh.push(records, positions);
                self.bytes += fresh.memory();
                self.blocks.push_back(block);
            }
        }
        while self.bytes > self.bytes_max {
            self.drop_oldest();
        }
    }

    /// A block to be filled: if there is as much as may be, the oldest one's memory.
    fn spare(&mut self) -> Arc<Block> {
        let full =
            self.blocks.front().is_some_and(|oldest| self.bytes + oldest.memory() > self.bytes_max);
        let mut oldest = full.then(|| self.drop_oldest()).flatten();
        match oldest.as_mut().and_then(Arc::get_mut) {
            Some(block) => block.clear(),
            None => oldest = None,
        }
        oldest.unwrap_or_default()
    }

    fn drop_oldest(&mut self) -> Option<Arc<Block>> {
        let oldest = self.blocks.pop_front()?;
        self.bytes -= oldest.memory();
        self.start = oldest.end;
        Some(oldest)
    }

    /// The next entries at or behind `at` and before `limit`, at most so many. Not to be asked before
    /// [`start`](Recent::start).
    pub(crate) fn after(&self, at: Position, limit: Position, max: usize) -> Option<Found> {
        assert!(at >= self.start, "older entries are in the files");
        let first = self.blocks.partition_point(|block| block.end <= at);
        for block in self.blocks.range(first..) {
            let place = |item: &Item| Position::new(block.seq, item.offset);
            let from = block.items.partition_point(|item| place(item) < at);
            let to = block.items.partition_point(|item| place(item) < limit).min(from + max);
            if from < to {
                return Some(Found { block: Arc::clone(block), from, to });
            }
            if block.end >= limit {
                break;
            }
        }
        None
    }

    /// Where the entry `index` lies, if it is here: in `stretch`, where entries lie in the order of their indexes.
    pub(crate) fn position_of(
        &self,
        stretch: &std::ops::Range<Position>,
        index: u64,
    ) -> Option<Position> {
        // In the stretch, indexes are in the order of the blocks.
        let before = |block: &Arc<Block>| {
            block.end <= stretch.start
                || block.items.last().is_none_or(|last| {
                    Position::new(block.seq, last.offset) < stretch.end && last.index < index
                })
        };
        let block = self.blocks.get(self.blocks.partition_point(before))?;
        let place = |item: &Item| Position::new(block.seq, item.offset);
        let from = block.items.partition_point(|item| place(item) < stretch.start);
        let to = block.items.partition_point(|item| place(item) < stretch.end);
        let items = block.items.get(from..to)?;
        let at = items.binary_search_by_key(&index, |item| item.index).ok()?;
        Some(block.position(from + at))
    }
}

fn payload_bytes(records: &(impl Records + ?Sized)) -> usize {
    let of = |at| match records.get(at) {
        RecordRef::Entry { data, .. } => data.len(),
        _ => 0,
    };
    (0..records.count()).map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Record;

    fn at(offset: u64) -> Position {
        Position::new(Seq(0), offset)
    }

    fn group(recent: &mut Recent, indexes: std::ops::Range<u64>, offset: u64, len: usize) {
        let entry = |index: u64| Entry {
            index,
            term: 1,
            data: vec![index as u8; len].into(),
            ..Entry::default()
        };
        let records: Vec<Record> =
            indexes.clone().map(|index| Record::Entry(entry(index))).collect();
        let count = indexes.end - indexes.start;
        let positions = (0..count).map(|n| at(offset + n * 10));
        recent.push(&records[..], positions, at(offset + count * 10));
    }

    fn indexes(found: Option<Found>) -> Vec<u64> {
        found.map_or(Vec::new(), |found| found.entries().map(|(_, entry)| entry.index).collect())
    }

    #[test]
    fn gives_what_follows_a_place_up_to_the_limit() {
        let mut recent = Recent::new(at(0), 1 << 20);
        group(&mut recent, 1..4, 100, 5);
        group(&mut recent, 4..6, 200, 5);
        assert_eq!(indexes(recent.after(at(0), at(220), 9)), [1, 2, 3, 4, 5]);
        assert_eq!(
            indexes(recent.after(at(0), at(130), 9)),
            [1, 2, 3],
            "the second group is not durable"
        );
        assert_eq!(indexes(recent.after(at(0), at(220), 2)), [1, 2]);
        let found = recent.after(at(0), at(220), 2).unwrap();
        assert_eq!(indexes(recent.after(found.end(), at(220), 9)), [3, 4, 5]);
        assert_eq!(indexes(recent.after(at(220), at(220), 9)), [0; 0]);
    }

    #[test]
    fn a_block_that_is_read_does_not_change() {
        let mut recent = Recent::new(at(0), 1 << 20);
        group(&mut recent, 1..2, 100, 5);
        let held = recent.after(at(0), at(110), 9).unwrap();
        group(&mut recent, 2..3, 200, 5);
        assert_eq!(held.entries().count(), 1);
        assert_eq!(recent.blocks.len(), 2);
        drop(held);
        group(&mut recent, 3..4, 300, 5);
        assert_eq!(recent.blocks.len(), 2, "now that nobody does, it is gone on with");
        assert_eq!(indexes(recent.after(at(110), at(310), 9)), [2, 3]);
    }

    #[test]
    fn the_oldest_go_and_what_is_left_has_no_hole() {
        let mut recent = Recent::new(at(0), 100_000);
        let mut offset = 0;
        for index in 1..1000 {
            group(&mut recent, index..index + 1, offset, 1000);
            offset += 10;
            assert!(recent.bytes <= 100_000);
            let memory: usize = recent.blocks.iter().map(|block| block.memory()).sum();
            assert_eq!(recent.bytes, memory);
            let mut seen = recent.start;
            let mut last = None;
            while let Some(found) = recent.after(seen, at(offset), 7) {
                for (_, entry) in found.entries() {
                    assert!(last.is_none_or(|last| entry.index == last + 1));
                    assert_eq!(entry.data[..], vec![entry.index as u8; 1000]);
                    last = Some(entry.index);
                }
                seen = found.end();
            }
            assert_eq!(last, Some(index));
        }
        assert!(recent.start > at(9000));
    }

    #[test]
    fn without_room_nothing_is_kept() {
        for limit in [0, 100] {
            let mut recent = Recent::new(at(0), limit);
            group(&mut recent, 1..2, 100, 5000);
            assert_eq!(recent.start(), at(110));
            assert_eq!(indexes(recent.after(at(110), at(110), 9)), [0; 0]);
        }
    }

    /// Large payloads of appends.
    struct Whole(u64, Vec<Bytes>);

    impl Records for Whole {
        fn count(&self) -> usize {
            self.1.len()
        }

        fn get(&self, at: usize) -> RecordRef<'_> {
            let (index, data) = (self.0 + at as u64, &self.1[at][..]);
            RecordRef::Entry { index, term: 1, kind: EntryKind::Normal, data }
        }

        fn whole(&self, at: usize) -> Option<&Bytes> {
            Some(&self.1[at])
        }
    }

    #[test]
    fn what_has_memory_of_its_own_is_shared_and_counted() {
        let mut recent = Recent::new(at(0), 1 << 20);
        let payload = |index: u64| Bytes::from(vec![index as u8; 100_000]);
        let newest = payload(50);
        for index in 1..50 {
            let group = Whole(index, vec![payload(index)]);
            recent.push(&group, [at(index * 10)].into_iter(), at(index * 10 + 10));
        }
        recent.push(&Whole(50, vec![newest.clone()]), [at(500)].into_iter(), at(510));
        assert!(recent.bytes <= 1 << 20, "what is shared counts");
        assert_eq!(indexes(recent.after(at(410), at(510), 9)), [41]);
        let found = recent.after(at(500), at(510), 9).unwrap();
        let (_, entry) = found.entries().next().unwrap();
        assert_eq!(entry.data.as_ptr(), newest.as_ptr(), "it was not copied");
        drop((found, entry, recent));
        assert!(newest.is_unique(), "nothing keeps what is gone");
    }

    #[test]
    fn shared_and_copied_payloads_lie_in_one_block() {
        let mut recent = Recent::new(at(0), 1 << 20);
        group(&mut recent, 1..3, 100, 5);
        let both = Whole(3, vec![vec![3; 5000].into(), vec![4; 3000].into()]);
        recent.push(&both, [at(200), at(300)].into_iter(), at(400));
        group(&mut recent, 5..7, 400, 5);
        assert_eq!(recent.blocks.len(), 1);
        let found = recent.after(at(0), at(420), 9).unwrap();
        let lens: Vec<_> =
            found.entries().map(|(_, entry)| (entry.index, entry.data.len())).collect();
        assert_eq!(lens, [(1, 5), (2, 5), (3, 5000), (4, 3000), (5, 5), (6, 5)]);
        for (_, entry) in found.entries() {
            assert!(entry.data.iter().all(|&byte| u64::from(byte) == entry.index));
        }
    }

    /// Payloads became large and are shared: memory that payloads were copied into does not stay for nothing.
    #[test]
    fn memory_that_a_block_does_not_need_any_more_goes() {
        let mut recent = Recent::new(at(0), 1 << 20);
        for index in 0..40 {
            group(&mut recent, index..index + 1, index * 10, 100_000);
        }
        for index in 40..80 {
            let large = Whole(index, vec![vec![index as u8; 100_000].into()]);
            recent.push(&large, [at(index * 10)].into_iter(), at(index * 10 + 10));
        }
        assert_eq!(recent.blocks.iter().map(|block| block.bytes.capacity()).sum::<usize>(), 0);
        assert!(recent.blocks.len() >= 10, "{} blocks", recent.blocks.len());
    }

    #[test]
    fn an_index_that_comes_twice_is_found_where_it_is_asked_for() {
        let mut recent = Recent::new(at(0), 1 << 20);
        group(&mut recent, 1..6, 100, 5);
        group(&mut recent, 3..8, 200, 5);
        assert_eq!(recent.position_of(&(at(100)..at(200)), 4), Some(at(130)));
        assert_eq!(recent.position_of(&(at(200)..at(999)), 4), Some(at(210)));
        assert_eq!(recent.position_of(&(at(200)..at(999)), 1), None);
    }
}
