//! Reads a log from its files, without changing anything, and says what it is worth.

use super::frames::Pieces;
use super::replay::Replay;
use super::survey::{self, Survey};
use super::verdict::{Behind, Facts, Row, Verdict};
use super::walk::{Cause, Content, Fact, Heeds, SegmentEnd, Stop, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::mark::MARK_FRAME_BYTES;
use crate::format::{Chain, LogId, Mark};
use crate::io::{Access, Disk, Lane};
use crate::segment::dir::{self, SegmentFile};
use crate::types::{Position, Snapshot, Start};
use std::io;
use std::path::Path;
use std::time::Duration;

/// A log as its files show it.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    /// The segments that were read, oldest first.
    pub segments: Vec<SegmentFile>,
    /// Entries, hard state, metadata.
    pub replay: Replay,
    /// Where the sound part ends and the next group goes.
    pub end: Position,
    pub chain: Chain,
    /// Of the marks; `None` in a log without any.
    pub log_id: Option<LogId>,
    pub epoch: u32,
    /// Number of the last group.
    pub group: u64,
    /// Everything before this is durable by the word of a mark, or because a later segment exists.
    pub proven: Position,
    pub row: Row,
    /// The sound part ends with a marked group, so that marks vouch for it.
    pub ends_in_group: bool,
    pub behind: Behind,
    /// Where the last segment holds anything but zeros.
    pub data_end: u64,
    /// Why the sound part ends, when something broken follows.
    pub stop: Option<Stop>,
    /// The unproven part was read past the page cache, so it is what the disk has.
    pub read_direct: bool,
}

impl Scan {
    pub(crate) fn newest(&self) -> &SegmentFile {
        &self.segments[self.segments.len() - 1]
    }

    pub(crate) fn is_torn(&self) -> bool {
        self.row.verdict() == Verdict::Torn
    }
}

/// What to make of a newest segment that does not end as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judge {
    ByTheTable,
    /// Somebody is writing it: what is sound is the log.
    AsThePrefixOfMore,
}

/// Reads the log from `start` to its end. Damage is an error; a torn tail is not.
pub(crate) async fn scan<D: Disk>(
    disk: &D,
    segments: &[SegmentFile],
    start: Start,
) -> Result<Scan> {
    judged_scan(disk, segments, start, Judge::ByTheTable).await
}

async fn judged_scan<D: Disk>(
    disk: &D,
    segments: &[SegmentFile],
    start: Start,
    judge: Judge,
) -> Result<Scan> {
    let (index, term) = match start {
        Start::Beginning => (0, 0),
        Start::Snapshot { index, term } => (index, term),
        Start::LatestSnapshot => snapshots(disk, segments)
            .await?
            .last()
            .map_or((0, 0), |snapshot| (snapshot.index, snapshot.term)),
    };
    let selected = dir::select(segments, index)?;
    let mut walk = Walk::default();
    let mut replay = Replay::from_snapshot(index, term);
    let (newest, sealed) = selected.split_last().expect("select gives at least one segment");
    for segment in sealed {
        let file = open(disk, &segment.path, Access::Read).await?;
        let mut pieces = Pieces::new(&file, &segment.path)?;
        let end = walk
            .segment(&mut pieces, segment.name.seq, &segment.path, |fact| {
                replay.take(&fact, &segment.path)
            })
            .await?;
        match end {
            SegmentEnd::Stop(stop) => {
                return Err(damaged(&segment.path, &stop, Row::DamagedSealed));
            }
            // The head of the next one would be believed whatever its chain says.
            SegmentEnd::End { offset: 0 } => {
                let what = "a segment that another one follows has no records";
                return Err(Error::damaged(&segment.path, 0, what));
            }
            SegmentEnd::End { .. } | SegmentEnd::Pause { .. } => {}
        }
    }

    let (file, read_direct) = open_newest(disk, &newest.path).await?;
    let mut pieces = Pieces::new(&file, &newest.path)?;
    let seq = newest.name.seq;
    let segment_end = walk
        .segment(&mut pieces, seq, &newest.path, |fact| replay.take(&fact, &newest.path))
        .await?;
    let (end, chain, stop) = match segment_end {
        SegmentEnd::End { offset } | SegmentEnd::Pause { offset } => {
            (Position::new(seq, offset), walk.chain, None)
        }
        SegmentEnd::Stop(stop) => (stop.unit, stop.chain, Some(stop)),
    };
    let survey = survey::behind(&mut pieces, end, walk.log_id).await?;
    let unwritten = match &stop {
        Some(stop) => survey::is_unwritten(&mut pieces, stop.extent.clone()).await?,
        None => false,
    };
    let row = Row::of(&Facts {
        headless: end.offset == 0,
        sealed: false,
        proven: survey.proof.is_some(),
        broken: stop.is_some(),
        unwritten,
        marked: walk.ends_in_group,
        behind: survey.behind,
    });
    let row = match judge {
        Judge::AsThePrefixOfMore if end.offset > 0 => Row::CleanEnd,
        _ => row,
    };
    if row.verdict() == Verdict::Damaged {
        return Err(refusal(&newest.path, end, stop.as_ref(), row, &survey));
    }
    if replay.start.is_none() && index > 0 {
        return Err(Error::new(
            ErrorKind::SnapshotNotFound,
            format!("the log has no snapshot record of index {index}, term {term}"),
        )
        .at_path(&selected[0].path)
        .next("start from one that it has: `seawal stat` lists them"));
    }
    // etcd may have written all that was read, on a log of ours.
    let log_id = match walk.log_id {
        Some(id) => Some(id),
        None => log_id_of_heads(disk, &segments[..segments.len() - selected.len()]).await?,
    };
    Ok(Scan {
        segments: selected.to_vec(),
        replay,
        end,
        chain,
        log_id,
        epoch: walk.last_mark.map_or(0, |mark| mark.epoch),
        group: walk.last_mark.map_or(0, |mark| mark.group),
        proven: walk.proven.max(Position::new(seq, 0)),
        row,
        ends_in_group: walk.ends_in_group,
        behind: survey.behind,
        data_end: survey.data_end,
        stop,
        read_direct,
    })
}

/// A log that still changes after this many looks is being written.
const LOOKS_MAX: usize = 6;
/// Longer than a commit takes.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Reads a log without its lock, beside whoever has it open for writing.
///
/// There a scan may meet a writer: what was read a moment ago lies before what is there now, and that looks like a
/// hole. So what looks broken is read again. If it is broken twice at the same place, it is broken; a place that
/// keeps moving is where somebody is writing, and what is sound before it is the log.
pub(crate) async fn scan_unlocked<D: Disk>(disk: &D, dir: &Path, start: Start) -> Result<Scan> {
    let mut broken_at = None;
    for look in 1.. {
        let judge = match look {
            LOOKS_MAX => Judge::AsThePrefixOfMore,
            _ => Judge::ByTheTable,
        };
        let seen = match dir::list_log(disk, dir).await {
            Ok(segments) => judged_scan(disk, &segments, start, judge).await,
            Err(error) => Err(error),
        };
        let place = match &seen {
            Ok(scan) if scan.is_torn() => (Some(scan.newest().path.clone()), scan.end.offset),
            Err(error) if error.is_damaged() => {
                (error.path().map(Path::to_owned), error.offset().unwrap_or(0))
            }
            _ => return seen,
        };
        if broken_at.as_ref() == Some(&place) || look == LOOKS_MAX {
            return seen;
        }
        broken_at = Some(place);
        disk.sleep(BETWEEN_LOOKS).await;
    }
    unreachable!("the looks are limited")
}

/// Opens the newest segment past the page cache, where the file system can; says whether it could.
pub(super) async fn open_newest<D: Disk>(disk: &D, path: &Path) -> Result<(D::File, bool)> {
    match disk.open(path, Access::ReadDirect, Lane::Commit).await {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Ok((open(disk, path, Access::Read).await?, false))
        }
        Err(error) => Err(Error::io("opening", path, error)),
    }
}

/// The id that the newest of these segments with a mark in its head has.
async fn log_id_of_heads<D: Disk>(disk: &D, segments: &[SegmentFile]) -> Result<Option<LogId>> {
    for segment in segments.iter().rev() {
        let file = open(disk, &segment.path, Access::Read).await?;
        let mut pieces = Pieces::new(&file, &segment.path)?;
        let head = pieces.bytes(0, MARK_FRAME_BYTES).await?;
        let mark = Mark::in_frame(&head);
        if let Some(mark) = mark.filter(|m| m.counts(None, Position::new(segment.name.seq, 0))) {
            return Ok(Some(mark.log_id));
        }
    }
    Ok(None)
}

async fn open<D: Disk>(disk: &D, path: &Path, access: Access) -> Result<D::File> {
    disk.open(path, access, Lane::Commit).await.map_err(|error| Error::io("opening", path, error))
}

pub(super) fn damaged(path: &Path, stop: &Stop, row: Row) -> Error {
    let reason = match stop.cause {
        // Its own bytes may be sound: what is missing is what it continues.
        Cause::Chain { .. } if stop.offset == 0 => {
            "the segment before it lost its end, or is another log's"
        }
        _ => row.reason(),
    };
    Error::damaged(path, stop.offset, format!("{}; {reason}", stop.cause))
}

pub(super) fn refusal(
    path: &Path,
    end: Position,
    stop: Option<&Stop>,
    row: Row,
    survey: &Survey,
) -> Error {
    let reason = match survey.proof {
        Some(mark) if row == Row::DamagedProven => format!(
            "{} (the mark at {} knows {} as durable)",
            row.reason(),
            mark.position,
            mark.durable
        ),
        _ => row.reason().to_owned(),
    };
    match stop {
        Some(stop) if survey.proof.is_none() => damaged(path, stop, row),
        Some(stop) => Error::damaged(path, stop.offset, format!("{}; {reason}", stop.cause)),
        None => Error::damaged(path, end.offset, format!("no record here; {reason}")),
    }
}

/// The snapshot records whose index is committed by the last hard state, in the order of their bytes: those that
/// reading may start from. All segments are read, as etcd does it, and damage in a sealed one is refused: a log is not
/// taken for sound because the part that is needed is.
pub(crate) async fn snapshots<D: Disk>(
    disk: &D,
    segments: &[SegmentFile],
) -> Result<Vec<Snapshot>> {
    let mut walk = Walk { heeds: Heeds::StatesAndSnapshots, ..Walk::default() };
    let mut commit = 0;
    let mut found: Vec<Snapshot> = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        let newest = at + 1 == segments.len();
        let file = match newest {
            true => open_newest(disk, &segment.path).await?.0,
            false => open(disk, &segment.path, Access::Read).await?,
        };
        let mut pieces = Pieces::new(&file, &segment.path)?;
        let take = |fact: Fact| {
            match fact.content {
                Content::State(state) => commit = state.commit,
                Content::Snapshot(snapshot) => found.push(snapshot),
                _ => {}
            }
            Ok(())
        };
        let end = walk.segment(&mut pieces, segment.name.seq, &segment.path, take).await?;
        match end {
            // The newest one is judged when it is read for good.
            SegmentEnd::Stop(stop) if !newest => {
                return Err(damaged(&segment.path, &stop, Row::DamagedSealed));
            }
            // One that is empty was not needed, or is judged then.
            _ => {}
        }
    }
    found.retain(|snapshot| snapshot.index <= commit);
    Ok(found)
}
