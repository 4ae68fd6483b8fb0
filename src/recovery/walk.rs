//! From frames to facts: follows the chain through the segments and believes a group only when all of it is sound.
//!
//! A *fact* is a record whose checksum holds. Facts of a marked group are held back until the group is complete,
//! so that a cut always falls on a whole group; facts outside of groups (a log of etcd's, or a tail that etcd
//! appended) are given out one by one. The walk stops at the first thing that is not sound and says where the
//! unit it belongs to starts; what that means is for [`verdict`](super::verdict) to say.
//!
//! A segment says in its head what chain it continues. So it can be walked before those in front of it, by a walk that
//! takes its word for it ([`Walk::from_unknown`]); whether it was right is seen when their end is known
//! ([`Walk::follows`]).

use super::checks::{Checked, Checks};
use super::facts::{Checkpoint, Facts};
use super::frames::{BrokenFrame, Found, Pieces, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::format::decode::{self, RawRecord};
use crate::format::frame::LENGTH_FIELD_BYTES;
use crate::format::mark::NotAMark;
use crate::format::note;
use crate::format::{Chain, LogId, Mark, MarkKind, RecordType, Shape};
use crate::types::{HardState, INDEXES, Position, Seq, Snapshot};
use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// A sound record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub position: Position,
    /// The chain before it.
    pub chain: Chain,
    pub content: Content,
}

/// What a sound record says. Of an entry only what recovery needs, not the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Metadata(Option<Bytes>),
    Entry {
        index: u64,
        term: u64,
    },
    State(HardState),
    Snapshot(Snapshot),
    /// Entries up to there were released.
    Release(Snapshot),
    /// Entries behind it were taken back.
    Truncation(Snapshot),
    /// A layer's note on the log up to this entry: index and term.
    Note(u64, u64),
    /// Of no interest to this walk.
    Other,
}

/// How the walk through a segment ended.
#[derive(Clone, Debug)]
pub(crate) enum SegmentEnd {
    /// No more records: a zero length field, or the end of the file.
    End {
        offset: u64,
    },
    /// It walked as far as it was to, or the facts are to be taken first; there may be more. No group is open here.
    Pause {
        offset: u64,
    },
    Stop(Stop),
}

/// The first thing that is not sound.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    /// Where the broken unit (group, or record outside of groups) starts: a cut would fall here.
    pub unit: Position,
    /// The chain before the unit.
    pub chain: Chain,
    /// Where exactly it shows.
    pub offset: u64,
    pub cause: Cause,
    /// The bytes of the unit: if one of its sector pieces is all zero, it was never wholly written.
    pub extent: Range<u64>,
}

/// Why something is not sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Frame(BrokenFrame),
    /// The data of a record does not fit its checksum.
    Checksum {
        stored: u32,
        computed: u32,
    },
    /// A crc record does not continue the chain.
    Chain {
        stored: u32,
        computed: u32,
    },
    /// A segment does not begin with a crc record: who starts reading there would not know the chain.
    NoHead,
    /// A crc record with data stands where a group starts, and the data is no mark of this place and log.
    NotAMark,
    /// A group has fewer or more records, or bytes, than its mark says.
    Group,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Frame(broken) => broken.fmt(f),
            Cause::Checksum { stored, computed } => {
                write!(f, "checksum mismatch (stored {stored:08x}, computed {computed:08x})")
            }
            Cause::Chain { stored, computed } => write!(
                f,
                "a crc record does not continue the chain (stored {stored:08x}, computed {computed:08x})"
            ),
            Cause::NoHead => f.write_str("a segment does not begin with a crc record"),
            Cause::NotAMark => f.write_str("the start of a group is no commit mark of this place"),
            Cause::Group => f.write_str("a group is not what its mark says"),
        }
    }
}

/// Which records are interpreted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Heeds {
    #[default]
    All,
    /// Only those that say where reading may start; others are not looked into.
    StatesAndSnapshots,
}

/// The state that goes from segment to segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Walk {
    pub heeds: Heeds,
    head: Head,
    /// A record was walked over that is no crc record, or a group.
    moved: bool,
    pub chain: Chain,
    /// A crc record was walked over: the next one has to continue the chain, also where that is 0.
    pub chained: bool,
    /// The id of the log, once a mark was seen.
    pub log_id: Option<LogId>,
    /// The newest mark that counts.
    pub last_mark: Option<Mark>,
    /// The highest durable position that a mark knows.
    pub proven: Position,
    /// The last unit walked over was a marked group.
    pub ends_in_group: bool,
}

/// What a walk knows of the chain where it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Head {
    /// It comes from the segment before, or there is none.
    #[default]
    Known,
    /// The crc record there will say it.
    Unknown,
    /// It has.
    Says(Chain),
    /// It is known, and nothing but the head is to be walked through.
    Alone,
}

struct OpenGroup {
    mark: Mark,
    start: u64,
    end: u64,
    chain_before: Chain,
    shape: Shape,
    records: u64,
    /// Before its first record.
    checkpoint: Checkpoint,
}

impl OpenGroup {
    /// Whether the records are those that the mark says, now that they reach to `offset`.
    fn is_complete(&self, offset: u64) -> bool {
        offset == self.end
            && self.records == u64::from(self.mark.records)
            && self.shape == self.mark.shape
    }

    fn extent(&self) -> Range<u64> {
        extent_of(&self.mark, self.start)
    }
}

/// Where a sector piece of zeros shows that the group at `start` was not wholly written. The zeros of the filler show
/// nothing, but its own head does: length field, type and crc, and the tag of its data or, after a small crc, a byte of
/// its length: 17 bytes.
pub(crate) fn extent_of(mark: &Mark, start: u64) -> Range<u64> {
    let zeros = u64::from(mark.filler_bytes).saturating_sub(17);
    let end = start.saturating_add(mark.group_bytes).saturating_sub(zeros);
    start..end.max(start)
}

impl Walk {
    /// A walk through a log from its start.
    pub(crate) fn heeding(heeds: Heeds) -> Walk {
        Walk { heeds, ..Walk::default() }
    }

    /// A walk that goes on behind what a scan found.
    pub(crate) fn behind(
        chain: Chain,
        log_id: Option<LogId>,
        proven: Position,
        ends_in_group: bool,
    ) -> Walk {
        Walk { chain, chained: true, log_id, proven, ends_in_group, ..Walk::default() }
    }

    /// A walk through a segment of which is not known what comes before it.
    pub(crate) fn from_unknown(heeds: Heeds) -> Walk {
        Walk { heeds, head: Head::Unknown, ..Walk::default() }
    }

    /// The segment that this walk began with does not begin with a crc record.
    pub(crate) fn lacks_head(&self) -> bool {
        self.head == Head::Unknown
    }

    /// A walk that goes on after `before`, and pauses behind the first record, or group.
    pub(crate) fn through_head(before: &Walk) -> Walk {
        Walk { head: Head::Alone, ..before.clone() }
    }

    /// Goes on from here as a walk that knows what came before.
    pub(crate) fn known(self) -> Walk {
        Walk { head: Head::Known, ..self }
    }

    /// Whether this walk, which was [from unknown](Self::from_unknown), would have been the same after `before`. If not, it
    /// says nothing; if it is, it goes on as that.
    pub(crate) fn follows(&mut self, before: &Walk) -> bool {
        let Head::Says(chain) = self.head else {
            return false;
        };
        let continues = before.chained || before.chain != Chain(0);
        let other_log =
            self.log_id.is_some() && before.log_id.is_some_and(|id| Some(id) != self.log_id);
        if !self.moved || (continues && chain != before.chain) || other_log {
            return false;
        }
        self.head = Head::Known;
        self.log_id = self.log_id.or(before.log_id);
        self.last_mark = self.last_mark.or(before.last_mark);
        self.proven = self.proven.max(before.proven);
        true
    }

    /// Walks through one segment, from `from` on: its start, or where this walk paused. Of a group that is not whole, no
    /// fact is left. After an error `facts` are those before it.
    pub(crate) async fn segment<S: Source>(
        &mut self,
        pieces: &mut Pieces<'_, S>,
        seq: Seq,
        path: &Path,
        from: u64,
        facts: &mut Facts,
    ) -> Result<SegmentEnd> {
        self.stretch(pieces, seq, path, from..u64::MAX, facts, &mut Checked).await
    }

    /// The same from the start of `stretch`, where this walk ended before, up to the first unit that ends at its end or
    /// later.
    pub(crate) async fn stretch<S: Source>(
        &mut self,
        pieces: &mut Pieces<'_, S>,
        seq: Seq,
        path: &Path,
        stretch: Range<u64>,
        facts: &mut Facts,
        checks: &mut impl Checks<S::Piece>,
    ) -> Result<SegmentEnd> {
        let mut group: Option<OpenGroup> = None;
        let end = self.units(pieces, (seq, path), stretch, facts, &mut group, checks).await;
        if let Some(open) = &group {
            facts.roll_back(&open.checkpoint, Position::new(seq, open.start));
        }
        end
    }

    /// Leaves the group that is open where the walk ends.
    async fn units<S: Source>(
        &mut self,
        pieces: &mut Pieces<'_, S>,
        (seq, path): (Seq, &Path),
        stretch: Range<u64>,
        facts: &mut Facts,
        group: &mut Option<OpenGroup>,
        checks: &mut impl Checks<S::Piece>,
    ) -> Result<SegmentEnd> {
        let mut offset = stretch.start;
        loop {
            let enough = facts.are_many()
                || offset >= stretch.end
                || (self.head == Head::Alone && offset > 0);
            if group.is_none() && enough {
                return Ok(SegmentEnd::Pause { offset });
            }
            let look = pieces.look(offset).await?;
            let here = offset;
            let stop = |walk: &Walk, group: &Option<OpenGroup>, cause, extent: Range<u64>| {
                let group = group.as_ref();
                let start = group.map_or(here, |g| g.start);
                SegmentEnd::Stop(Stop {
                    unit: Position::new(seq, start),
                    chain: group.map_or(walk.chain, |g| g.chain_before),
                    offset: here,
                    cause,
                    extent: group.map_or(extent, OpenGroup::extent),
                })
            };
            let (record, bytes) = match pieces.found(look) {
                Found::Record { record, bytes } => (record, bytes),
                Found::End if group.is_none() => return Ok(SegmentEnd::End { offset }),
                Found::End => return Ok(stop(self, group, Cause::Group, 0..0)),
                Found::Broken(broken) => {
                    let extent = broken_extent(offset, &broken);
                    return Ok(stop(self, group, Cause::Frame(broken), extent));
                }
            };
            let position = Position::new(seq, offset);
            let body = offset + LENGTH_FIELD_BYTES as u64..offset + bytes;
            if record.is_crc() {
                if offset == 0 && self.head == Head::Unknown {
                    (self.chain, self.chained) = (Chain(record.crc), true);
                    self.head = Head::Says(self.chain);
                }
                let chain_before = self.chain;
                // A fresh decoder has 0 and takes what it finds. etcd's also takes it when it has come to 0, and so
                // does not see that a segment was cut off behind its first record.
                let continues = self.chained || self.chain != Chain(0);
                if continues && self.chain.0 != record.crc {
                    let cause = Cause::Chain { stored: record.crc, computed: self.chain.0 };
                    // Not torn in etcd's eyes, whatever it looks like.
                    return Ok(stop(self, group, cause, 0..0));
                }
                self.chain = Chain(record.crc);
                self.chained = true;
                if group.is_none() && record.data.is_some() {
                    let Some(mark) = self.mark(record.data.as_deref(), position, path)? else {
                        self.chain = chain_before;
                        return Ok(stop(self, group, Cause::NotAMark, body));
                    };
                    *group = Some(OpenGroup {
                        mark,
                        start: offset,
                        end: offset.saturating_add(mark.group_bytes),
                        chain_before,
                        shape: Shape::default(),
                        records: 0,
                        checkpoint: facts.checkpoint(),
                    });
                } else if let (Some(_), Some(data)) = (&*group, record.data.as_deref()) {
                    match note::Seen::in_record(data) {
                        note::Seen::Note { index, term, .. } => {
                            let content = Content::Note(index, term);
                            facts.push(Fact { position, chain: self.chain, content });
                        }
                        note::Seen::Broken => return Ok(stop(self, group, Cause::Group, 0..0)),
                        note::Seen::Other => {}
                    }
                }
            } else {
                if offset == 0 && self.chain != Chain(0) {
                    return Ok(stop(self, group, Cause::NoHead, 0..0));
                }
                let chain = checks.chain_after(self.chain, &record, pieces.piece());
                if chain.0 != record.crc {
                    let cause = Cause::Checksum { stored: record.crc, computed: chain.0 };
                    return Ok(stop(self, group, cause, body));
                }
                let kind = group.as_ref().map(|group| group.mark.kind);
                let (record_type, content) = content(record, kind, self.heeds, path, offset)?;
                facts.push(Fact { position, chain: self.chain, content });
                self.chain = chain;
                match group {
                    Some(group) => {
                        group.shape = group.shape.with(record_type);
                        group.records += 1;
                    }
                    None => {
                        self.ends_in_group = false;
                        self.moved = true;
                    }
                }
            }
            offset += bytes;
            if let Some(open) = group.as_ref().filter(|group| offset >= group.end) {
                if !open.is_complete(offset) {
                    return Ok(stop(self, group, Cause::Group, 0..0));
                }
                self.ends_in_group = true;
                self.moved = true;
                self.last_mark = Some(open.mark);
                self.proven = self.proven.max(open.mark.durable);
                *group = None;
            }
        }
    }

    /// The mark in a crc record, if it holds one that counts.
    fn mark(&mut self, data: Option<&[u8]>, at: Position, path: &Path) -> Result<Option<Mark>> {
        let Some(data) = data else {
            return Ok(None);
        };
        match Mark::from_bytes(data) {
            Ok(mark) if mark.counts(self.log_id, at) => {
                self.log_id = Some(mark.log_id);
                Ok(Some(mark))
            }
            Ok(_) | Err(NotAMark::Other) => Ok(None),
            Err(NotAMark::Newer { version, incompatible }) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("a group of format version {version} with features {incompatible:#04x}"),
            )
            .at_path(path)
            .at_offset(at.offset)
            .next("open it with a newer seawal")),
        }
    }
}

/// The bytes in which a zero sector piece makes a record outside of groups torn: all after its length field, as
/// etcd has it.
fn broken_extent(offset: u64, broken: &BrokenFrame) -> Range<u64> {
    let start = offset + LENGTH_FIELD_BYTES as u64;
    match broken {
        BrokenFrame::ShortLength { .. } => offset..start,
        BrokenFrame::BeyondEnd { wanted, .. } => start..offset.saturating_add(*wanted),
        BrokenFrame::TooLong { .. } => start..start,
        BrokenFrame::Misaligned { bytes } | BrokenFrame::Protobuf { bytes, .. } => {
            start..offset + bytes
        }
    }
}

/// A checksum that fits says that this is what was written. So what does not parse now never did: damage.
fn content(
    record: RawRecord<Cow<'_, [u8]>>,
    kind: Option<MarkKind>,
    heeds: Heeds,
    path: &Path,
    offset: u64,
) -> Result<(i64, Content)> {
    let damaged = |what: String| Error::damaged(path, offset, what);
    let known = RecordType::from_number(record.record_type);
    let heeded = matches!(known, Some(RecordType::State | RecordType::Snapshot));
    if heeds == Heeds::StatesAndSnapshots && !heeded {
        return Ok((record.record_type, Content::Other));
    }
    let Some(record_type) = known else {
        return Err(damaged(format!("unknown record type {}", record.record_type)));
    };
    let bad = |why: decode::BadPayload| {
        damaged(format!("the {} record does not parse: {why}", record_type.name()))
    };
    let data = record.data.as_deref();
    let content = match record_type {
        RecordType::Metadata => Content::Metadata(data.map(Bytes::copy_from_slice)),
        RecordType::Entry => {
            let (index, term) = decode::entry_numbers(data.unwrap_or_default()).map_err(bad)?;
            if !INDEXES.contains(&index) {
                return Err(damaged(format!("an entry of index {index}: no log holds one")));
            }
            Content::Entry { index, term }
        }
        RecordType::State => Content::State(decode::state(data.unwrap_or_default()).map_err(bad)?),
        RecordType::Snapshot => {
            let snapshot = decode::snapshot(data.unwrap_or_default()).map_err(bad)?;
            if snapshot.index > *INDEXES.end() {
                let index = snapshot.index;
                return Err(damaged(format!("a snapshot at index {index}: no log gets there")));
            }
            match kind {
                Some(MarkKind::Truncation) => Content::Truncation(snapshot),
                // That of index 0, as in the first segment, stands for nothing.
                Some(MarkKind::Release | MarkKind::Head) if snapshot.index > 0 => {
                    Content::Release(snapshot)
                }
                _ => Content::Snapshot(snapshot),
            }
        }
        RecordType::Crc => unreachable!("crc records are handled by the walk"),
    };
    Ok((record.record_type, content))
}
