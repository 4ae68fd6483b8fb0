//! Commit marks: what a group says about itself and about the log before it.
//!
//! A mark is the data of a crc record. etcd's reader compares the record's crc and ignores its data, so marks cost
//! compatibility nothing; to us they tell a torn tail from damage. Layout, little-endian:
//!
//! ```text
//!   0  magic "SWLM"            40  segment sequence       u64
//!   4  version            u8   48  offset of this mark    u64
//!   5  kind               u8   56  group number           u64
//!   6  incompatible bits  u8   64  group bytes            u64
//!   7  log2 of block      u8   72  first index            u64
//!   8  shape             u32   80  durable: segment       u64
//!  12  records           u32   88  durable: offset        u64
//!  16  log id       16 bytes   96  CRC-32C of bytes 0–95  u32
//!  32  epoch             u32
//!  36  filler bytes      u32
//! ```
//!
//! The *shape* is a CRC-32C over the types of the group's records: the rolling checksum covers their data but not
//! their types, and a flipped bit there can make a sound hard state out of a sound entry.
//!
//! A payload can hold the image of a mark. So a mark *counts* only where it says it is: at its own offset, in its
//! own segment, with this log's id, and knowing nothing durable beyond itself ([`Mark::counts`]).

use crate::types::{Position, Seq};

const MAGIC: [u8; 4] = *b"SWLM";
const VERSION: u8 = 1;

/// Bytes of a mark.
pub(crate) const MARK_BYTES: usize = 100;
/// Bytes of the frame around a mark: length field, type, crc, data tag and length, mark, padding. The crc varint
/// takes 1 to 5 bytes, and padding absorbs the difference.
pub(crate) const MARK_FRAME_BYTES: u64 = 120;
/// Where in its frame a mark can start: after 8 bytes of length, 2 of type, 2 to 6 of crc, 2 of data tag and length.
pub(crate) const MARK_IN_FRAME: std::ops::RangeInclusive<usize> = 14..=18;

const _: () = assert!(*MARK_IN_FRAME.end() + MARK_BYTES <= MARK_FRAME_BYTES as usize);
const _: () = assert!(*MARK_IN_FRAME.start() + MARK_BYTES + 7 > MARK_FRAME_BYTES as usize);

/// Which log a mark belongs to: random, drawn when the log is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogId(pub [u8; 16]);

/// Why the group was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MarkKind {
    /// The first record of a segment.
    Head = 1,
    /// Records of callers.
    #[default]
    Entries = 2,
    /// Nothing was appended for a while: proves the groups before it.
    Idle = 3,
    /// The log was closed.
    Close = 4,
    /// The log was opened; a new epoch begins.
    Recovery = 5,
    /// All entries were taken back: its one record is that of the snapshot, or release, before them.
    Truncation = 6,
    /// Entries were released: its one record is a snapshot record that stands for them.
    Release = 7,
}

impl MarkKind {
    fn from_byte(byte: u8) -> Option<MarkKind> {
        Some(match byte {
            1 => MarkKind::Head,
            2 => MarkKind::Entries,
            3 => MarkKind::Idle,
            4 => MarkKind::Close,
            5 => MarkKind::Recovery,
            6 => MarkKind::Truncation,
            7 => MarkKind::Release,
            _ => return None,
        })
    }
}

/// A checksum over the types of records, in order; crc records are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape(pub u32);

impl Shape {
    #[must_use]
    pub(crate) fn with(self, record_type: i64) -> Shape {
        // 0 is no type that a group can have.
        let byte = u8::try_from(record_type).unwrap_or(0);
        Shape(crc32c::crc32c_append(self.0, &[byte]))
    }
}

/// The start of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub kind: MarkKind,
    /// The boundary that groups start and end at; 8 when they are packed.
    pub block_bytes: u64,
    /// See [`Shape`].
    pub shape: Shape,
    /// Records in the group besides crc records.
    pub records: u32,
    pub log_id: LogId,
    /// Grows by one with each open for writing.
    pub epoch: u32,
    /// Bytes of the filler frame that ends the group; 0 without one.
    pub filler_bytes: u32,
    /// Where the frame of this mark starts.
    pub position: Position,
    /// Running number of the group in the log.
    pub group: u64,
    /// Bytes of the group, from the start of this mark's frame to the end of the filler.
    pub group_bytes: u64,
    /// The first entry of the group, or the next one expected when it holds none.
    pub first_index: u64,
    /// The log was durable up to here when this mark was written.
    pub durable: Position,
}

/// Why bytes that start like a mark are not one this version can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAMark {
    /// No magic, or a checksum that does not fit: ordinary data.
    Other,
    /// A sound mark of a later version, or with features that this one does not know.
    Newer { version: u8, incompatible: u8 },
}

impl Mark {
    pub(crate) fn to_bytes(self) -> [u8; MARK_BYTES] {
        let mut out = [0; MARK_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &[VERSION, self.kind as u8]);
        put(7, &[self.block_bytes.trailing_zeros() as u8]);
        put(8, &self.shape.0.to_le_bytes());
        put(12, &self.records.to_le_bytes());
        put(16, &self.log_id.0);
        put(32, &self.epoch.to_le_bytes());
        put(36, &self.filler_bytes.to_le_bytes());
        put(40, &self.position.seq.0.to_le_bytes());
        put(48, &self.position.offset.to_le_bytes());
        put(56, &self.group.to_le_bytes());
        put(64, &self.group_bytes.to_le_bytes());
        put(72, &self.first_index.to_le_bytes());
        put(80, &self.durable.seq.0.to_le_bytes());
        put(88, &self.durable.offset.to_le_bytes());
        let crc = crc32c::crc32c(&out[..96]);
        out[96..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Mark, NotAMark> {
        if bytes.len() != MARK_BYTES || bytes[..4] != MAGIC {
            return Err(NotAMark::Other);
        }
        let u32_at = |at: usize| u32::from_le_bytes(array(bytes, at));
        let u64_at = |at: usize| u64::from_le_bytes(array(bytes, at));
        if crc32c::crc32c(&bytes[..96]) != u32_at(96) {
            return Err(NotAMark::Other);
        }
        let (version, incompatible) = (bytes[4], bytes[6]);
        let newer = NotAMark::Newer { version, incompatible };
        if version != VERSION || incompatible != 0 || bytes[7] > 63 {
            return Err(newer);
        }
        Ok(Mark {
            kind: MarkKind::from_byte(bytes[5]).ok_or(newer)?,
            block_bytes: 1 << bytes[7],
            shape: Shape(u32_at(8)),
            records: u32_at(12),
            log_id: LogId(array(bytes, 16)),
            epoch: u32_at(32),
            filler_bytes: u32_at(36),
            position: Position::new(Seq(u64_at(40)), u64_at(48)),
            group: u64_at(56),
            group_bytes: u64_at(64),
            first_index: u64_at(72),
            durable: Position::new(Seq(u64_at(80)), u64_at(88)),
        })
    }

    /// Whether a mark found at `position` speaks for this log. `log_id` is `None` while no mark was seen yet.
    pub(crate) fn counts(&self, log_id: Option<LogId>, position: Position) -> bool {
        self.position == position
            && log_id.is_none_or(|id| id == self.log_id)
            && self.durable <= self.position
            // Numbers that can still be counted up.
            && self.epoch < u32::MAX
            && self.group < u64::MAX >> 1
            && self.group_bytes >= MARK_FRAME_BYTES
            && self.group_bytes.is_multiple_of(8)
    }

    /// Looks for the mark in what may be its frame: recovery uses it where the frames around are broken.
    pub(crate) fn in_frame(frame: &[u8]) -> Option<Mark> {
        let frame = frame.get(..MARK_FRAME_BYTES as usize)?;
        MARK_IN_FRAME
            .filter(|&at| frame[at..at + 4] == MAGIC)
            .find_map(|at| Mark::from_bytes(&frame[at..at + MARK_BYTES]).ok())
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn example() -> Mark {
        Mark {
            kind: MarkKind::Entries,
            block_bytes: 4096,
            shape: Shape(0x1234_5678),
            records: 3,
            log_id: LogId(*b"0123456789abcdef"),
            epoch: 7,
            filler_bytes: 3000,
            position: Position::new(Seq(2), 8192),
            group: 99,
            group_bytes: 4096,
            first_index: 1000,
            durable: Position::new(Seq(2), 4096),
        }
    }

    #[test]
    fn comes_back() {
        assert_eq!(Mark::from_bytes(&example().to_bytes()), Ok(example()));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = example().to_bytes();
        for bit in 0..MARK_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Mark::from_bytes(&flipped), Err(NotAMark::Other), "bit {bit}");
        }
    }

    #[test]
    fn newer_marks_are_told_from_other_data() {
        for (at, value) in [(4, 2u8), (6, 1), (5, 200)] {
            let mut bytes = example().to_bytes();
            bytes[at] = value;
            let crc = crc32c::crc32c(&bytes[..96]);
            bytes[96..].copy_from_slice(&crc.to_le_bytes());
            assert!(matches!(Mark::from_bytes(&bytes), Err(NotAMark::Newer { .. })));
        }
    }

    #[test]
    fn copy_elsewhere_does_not_count() {
        let mark = example();
        let at = mark.position;
        assert!(mark.counts(Some(mark.log_id), at));
        assert!(mark.counts(None, at));
        assert!(!mark.counts(Some(mark.log_id), Position::new(Seq(2), 8200)));
        assert!(!mark.counts(Some(mark.log_id), Position::new(Seq(3), 8192)));
        assert!(!mark.counts(Some(LogId([0; 16])), at));
        let knows_the_future = Mark { durable: Position::new(Seq(2), 8200), ..mark };
        assert!(!knows_the_future.counts(None, at));
    }

    proptest! {
        /// Any numbers come back, and the mark is found wherever its frame puts it.
        #[test]
        fn any_mark_comes_back(
            kind in 1u8..=7,
            log2 in 3u32..=63,
            small in any::<[u32; 4]>(),
            large in any::<[u64; 7]>(),
            log_id in any::<[u8; 16]>(),
        ) {
            let mark = Mark {
                kind: MarkKind::from_byte(kind).unwrap(),
                block_bytes: 1 << log2,
                shape: Shape(small[0]),
                records: small[1],
                log_id: LogId(log_id),
                epoch: small[2],
                filler_bytes: small[3],
                position: Position::new(Seq(large[0]), large[1]),
                group: large[2],
                group_bytes: large[3],
                first_index: large[4],
                durable: Position::new(Seq(large[5]), large[6]),
            };
            prop_assert_eq!(Mark::from_bytes(&mark.to_bytes()), Ok(mark));
            for at in MARK_IN_FRAME {
                let mut frame = vec![0; MARK_FRAME_BYTES as usize];
                frame[at..at + MARK_BYTES].copy_from_slice(&mark.to_bytes());
                prop_assert_eq!(Mark::in_frame(&frame), Some(mark));
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Mark::from_bytes(&bytes);
            let _ = Mark::in_frame(&bytes);
        }
    }
}
