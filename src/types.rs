//! The words of the log as plain values.
//!
//! Index and term are `u64` in the public API, always in fields or parameters that name them: Raft libraries hand
//! them over that way. What only this crate counts (segments, bytes) has a type, so that mixing does not compile.

use bytes::Bytes;
use std::fmt;
use std::ops::RangeInclusive;

/// The indexes that entries may have: 0 stands for none, and after the last there must be a next.
pub(crate) const INDEXES: RangeInclusive<u64> = 1..=u64::MAX - 1;

/// The running number of a segment file: 0 for the first, one more for each cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    pub(crate) fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A place in the log: a byte offset in a segment. Positions are ordered as the bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment.
    pub seq: Seq,
    /// The byte in its file.
    pub offset: u64,
}

impl Position {
    /// The place `offset` bytes into segment `seq`.
    #[must_use]
    pub fn new(seq: Seq, offset: u64) -> Position {
        Position { seq, offset }
    }

    /// So many bytes further in the same segment.
    pub(crate) fn after(self, bytes: u64) -> Position {
        Position { offset: self.offset + bytes, ..self }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} offset {}", self.seq, self.offset)
    }
}

/// What an entry is for. Plain appends are [`EntryKind::Normal`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A payload of the application.
    #[default]
    Normal,
    /// A Raft membership change (`raftpb.ConfChange`).
    ConfChange,
    /// A Raft membership change (`raftpb.ConfChangeV2`).
    ConfChangeV2,
}

impl EntryKind {
    /// The name as `dump` and `cat` print it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::Normal => "normal",
            EntryKind::ConfChange => "conf-change",
            EntryKind::ConfChangeV2 => "conf-change-v2",
        }
    }
}

/// One entry of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its number: one more than that of the entry before it.
    pub index: u64,
    /// The Raft term it was proposed in.
    pub term: u64,
    /// What it is for.
    pub kind: EntryKind,
    /// The payload.
    pub data: Bytes,
}

/// What a Raft node must remember beside its entries. All zero means *not set*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The latest term seen.
    pub term: u64,
    /// Whom this node voted for in that term.
    pub vote: u64,
    /// The highest index known to be committed.
    pub commit: u64,
}

impl HardState {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == HardState::default()
    }
}

/// The members of a Raft group, as a snapshot record carries them (since etcd 3.5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConfState {
    /// Members that vote.
    pub voters: Vec<u64>,
    /// Members that only receive.
    pub learners: Vec<u64>,
    /// Voters of the configuration being left, while changing through a joint one.
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when the joint configuration is left.
    pub learners_next: Vec<u64>,
    /// Whether the joint configuration is left without being asked.
    pub auto_leave: bool,
}

/// A record in the log which says that a snapshot of the state machine exists: entries up to `index` may be
/// forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// The last index the snapshot covers.
    pub index: u64,
    /// The term of the entry at that index.
    pub term: u64,
    /// The members at that index. etcd 3.5 and later require it for an index above 0.
    pub conf_state: Option<ConfState>,
}

/// How far an append has to get before it is reported, and how far records have to be for a reader to see them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The kernel has the record: it survives the death of this process, not that of the machine. It becomes durable
    /// with the next durable append, with [`Wal::sync`](crate::Wal::sync), or after
    /// [`Options::sync_interval`](crate::Options::sync_interval), whichever is first.
    Written,
    /// The record is on stable storage: it survives the loss of power.
    #[default]
    Durable,
}

/// Where reading of the log starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first entry that was not [released](crate::Wal::release). Refused when segments are gone without a record of
    /// a release, as etcd's purge leaves it.
    #[default]
    Beginning,
    /// After the newest snapshot record whose index is committed by the last hard state; at the beginning when
    /// there is none. It is looked for from the newest segment back, and what lies before the segments that are needed is
    /// not read: damage there does not keep the log from being opened. [`Wal::verify`](crate::Wal::verify) finds it.
    LatestSnapshot,
    /// After this snapshot, of which the log must hold a record.
    Snapshot {
        /// The last index the snapshot covers.
        index: u64,
        /// The term of the entry at that index.
        term: u64,
    },
}
