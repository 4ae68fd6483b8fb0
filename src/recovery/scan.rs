//! Reads a log from its files, without changing anything, and says what it is worth.

use super::facts::Facts;
use super::frames::Pieces;
use super::handout::Handout;
use super::kept::Kept;
use super::replay::Replay;
use super::sealed::{self, Digest, Manner, Sealed};
use super::starts;
use super::survey::{self, Survey};
use super::verdict::{self, Behind, Row, Verdict};
use super::walk::{Cause, Heeds, SegmentEnd, Stop, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::mark::MARK_FRAME_BYTES;
use crate::format::{Chain, LogId, Mark};
use crate::io::{Access, BLOCK_BYTES, Disk, DiskFile, Lane};
use crate::segment::dir::{self, SegmentFile};
use crate::types::{Position, Start};
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::task::Poll;
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

/// Nobody writes to sealed segments; when a log is opened, nobody waits for anything else.
pub(super) const SEALED: Manner =
    Manner { heeds: Heeds::All, past_cache: false, lane: Lane::Commit };

/// What was not synced is only believed if the disk has it.
const NEWEST: Manner = Manner { past_cache: true, ..SEALED };

/// Reads the log from `start` to its end, and hands out its entries if they are wanted. Damage is an error; a torn tail is
/// not.
pub(crate) async fn scan<D: Disk>(
    disk: &D,
    segments: &[SegmentFile],
    start: Start,
    handout: Option<&mut Handout>,
) -> Result<Scan> {
    judged_scan(disk, segments, start, handout, Judge::ByTheTable).await
}

async fn judged_scan<D: Disk>(
    disk: &D,
    segments: &[SegmentFile],
    start: Start,
    handout: Option<&mut Handout>,
    judge: Judge,
) -> Result<Scan> {
    let begin = match start {
        Start::Beginning => None,
        Start::Snapshot { index, term } => Some((index, term)),
        Start::LatestSnapshot => starts::latest_start(disk, segments).await?,
    };
    let (selected, mut replay) = match begin {
        Some((index, term)) => (dir::select(segments, index)?, Replay::from_snapshot(index, term)),
        None => match dir::select(segments, 0) {
            Ok(selected) => (selected, Replay::from_beginning()),
            // Segments are gone: a release says up to where. Of those before that a crash may have brought back some.
            Err(error) => match starts::latest_release(disk, segments).await? {
                Some((index, term)) => {
                    let selected = match dir::select(segments, index) {
                        // A later release is not there to be read: what is damaged is found on the way.
                        Err(error) if error.kind() == ErrorKind::Released => {
                            dir::in_a_row(segments)?
                        }
                        selected => selected?,
                    };
                    (selected, Replay::from_release(index, term))
                }
                None => return Err(error),
            },
        },
    };
    let (newest, sealed) = selected.split_last().expect("select gives at least one segment");
    let (walk, ahead, walked) = match handout {
        None => {
            let (walk, ahead) = through_sealed(disk, sealed, newest, &mut replay).await?;
            (walk, ahead, None)
        }
        Some(handout) => {
            let (walk, end) = handed_out(disk, selected, &mut replay, handout).await?;
            (walk, None, Some(end))
        }
    };
    let (file, read_direct) = open_newest(disk, &newest.path).await?;
    let mut pieces = Pieces::new(&file, &newest.path)?;
    let (walk, segment_end, surveyed) = match walked {
        Some(end) => (walk, end, None),
        None => through_newest((newest, &mut pieces), walk, ahead, &mut replay).await?,
    };
    let seq = newest.name.seq;
    let (end, chain, stop) = match segment_end {
        SegmentEnd::Stop(stop) => (stop.unit, stop.chain, Some(stop)),
        SegmentEnd::End { offset } | SegmentEnd::Pause { offset } => {
            (Position::new(seq, offset), walk.chain, None)
        }
    };
    let survey = match surveyed {
        Some((place, log_id, survey)) if (place, log_id) == (end, walk.log_id) => survey,
        _ => survey::behind(&mut pieces, end, walk.log_id).await?,
    };
    let unwritten = match &stop {
        Some(stop) => survey::is_unwritten(&mut pieces, stop.extent.clone()).await?,
        None => false,
    };
    let row = Row::of(&verdict::Facts {
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
    replay.finish(&selected[0].path)?;
    if let (None, Some((index @ 1.., term))) = (&replay.start, begin) {
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

/// Walks through the sealed segments, and meanwhile ahead of that through the newest.
async fn through_sealed<D: Disk>(
    disk: &D,
    sealed: &[SegmentFile],
    newest: &SegmentFile,
    replay: &mut Replay,
) -> Result<(Walk, Option<Ahead>)> {
    let ahead = async {
        match sealed {
            [] => None,
            _ => Some(Ahead::of(disk, newest).await),
        }
    };
    let mut sealed = Sealed::new(disk, sealed, SEALED, Walk::default());
    let through_sealed = async {
        while let Some(part) = sealed.next().await {
            replay.take(part.facts, &part.segment.path)?;
            sealed::judge(part.segment, &part.end?)?;
        }
        Ok::<_, Error>(sealed.walk)
    };
    let (walk, ahead) = both(through_sealed, ahead).await;
    Ok((walk?, ahead.transpose()?))
}

/// Walks through the newest segment, behind `walk`, unless it was walked through ahead from what is known now: then it may
/// have been surveyed already.
async fn through_newest<F: DiskFile>(
    (newest, pieces): (&SegmentFile, &mut Pieces<'_, F>),
    mut walk: Walk,
    ahead: Option<Ahead>,
    replay: &mut Replay,
) -> Result<(Walk, SegmentEnd, Option<Surveyed>)> {
    let (mut ahead, surveyed) = match ahead {
        Some(Ahead { mut digest, surveyed }) => match digest.end {
            Err(error) if sealed::is_of_the_system(&error) => return Err(error),
            end => {
                let digest = digest.walk.follows(&walk).then_some((digest.walk, digest.facts, end));
                (digest, surveyed)
            }
        },
        None => (None, None),
    };
    let mut from = 0;
    loop {
        let (facts, end) = match ahead.take() {
            Some((walked, facts, end)) => {
                walk = walked;
                (facts, end)
            }
            None => {
                let (mut facts, seq) = (Facts::default(), newest.name.seq);
                let end = walk.segment(pieces, seq, &newest.path, from, &mut facts).await;
                (facts, end)
            }
        };
        replay.take(facts, &newest.path)?;
        match end? {
            SegmentEnd::Pause { offset } => from = offset,
            end => return Ok((walk, end, surveyed)),
        }
    }
}

/// Walks through all segments once, and hands out their entries.
async fn handed_out<D: Disk>(
    disk: &D,
    segments: &[SegmentFile],
    replay: &mut Replay,
    handout: &mut Handout,
) -> Result<(Walk, SegmentEnd)> {
    handout.begin().await?;
    let (newest, sealed) = segments.split_last().expect("select gives at least one segment");
    let sealed = sealed.iter().map(|segment| (segment, SEALED));
    let mut kept = Kept::new(disk, sealed.chain([(newest, NEWEST)]));
    let mut walk = Walk::default();
    loop {
        let (segment, end) = kept.segment(&mut walk, replay, handout).await?;
        if kept.is_last() {
            return Ok((walk, end));
        }
        sealed::judge(segment, &end)?;
    }
}

/// The newest segment, looked at while the sealed ones are.
struct Ahead {
    /// Walked through from unknown.
    digest: Digest,
    surveyed: Option<Surveyed>,
}

/// What lies behind this place, in the log of this id, if that is where the records end.
type Surveyed = (Position, Option<LogId>, Survey);

impl Ahead {
    async fn of<D: Disk>(disk: &D, newest: &SegmentFile) -> Result<Ahead> {
        let walk = Walk::from_unknown(Heeds::All);
        let digest = sealed::walk(disk, newest, NEWEST, walk, 0).await?;
        let surveyed = match digest.end {
            Ok(SegmentEnd::End { offset }) => {
                let (file, _) = open_newest(disk, &newest.path).await?;
                let mut pieces = Pieces::new(&file, &newest.path)?;
                let (place, log_id) = (Position::new(newest.name.seq, offset), digest.walk.log_id);
                let survey = survey::behind(&mut pieces, place, log_id).await?;
                Some((place, log_id, survey))
            }
            _ => None,
        };
        Ok(Ahead { digest, surveyed })
    }
}

/// Waits for two at the same time.
async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut of_a, mut of_b) = (None, None);
    poll_fn(|context| {
        if of_a.is_none()
            && let Poll::Ready(outcome) = a.as_mut().poll(context)
        {
            of_a = Some(outcome);
        }
        if of_b.is_none()
            && let Poll::Ready(outcome) = b.as_mut().poll(context)
        {
            of_b = Some(outcome);
        }
        match (of_a.take(), of_b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (of_a, of_b) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
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
pub(crate) async fn scan_unlocked<D: Disk>(
    disk: &D,
    dir: &Path,
    start: Start,
    mut handout: Option<&mut Handout>,
) -> Result<Scan> {
    let mut broken_at = None;
    for look in 1.. {
        let judge = match look {
            LOOKS_MAX => Judge::AsThePrefixOfMore,
            _ => Judge::ByTheTable,
        };
        let seen = match dir::list_log(disk, dir).await {
            Ok(segments) => {
                judged_scan(disk, &segments, start, handout.as_deref_mut(), judge).await
            }
            Err(error) => Err(error),
        };
        let place = match &seen {
            Ok(scan) if scan.is_torn() => (Some(scan.newest().path.clone()), scan.end.offset),
            Err(error) if error.is_damaged() || was_released(error) => {
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

/// Segments went while it was looked which there are.
fn was_released(error: &Error) -> bool {
    let of_a_segment = error.path().and_then(Path::extension).is_some_and(|end| end == "wal");
    matches!(error.kind(), ErrorKind::Released | ErrorKind::NotFound) && of_a_segment
}

/// Opens the newest segment past the page cache, where the file system can; says whether it could.
pub(super) async fn open_newest<D: Disk>(disk: &D, path: &Path) -> Result<(D::File, bool)> {
    let opened = disk.open_past_cache(path, Lane::Commit).await;
    opened.map_err(|error| Error::io("opening", path, error))
}

/// The id that the newest of these segments with a mark in its head has.
async fn log_id_of_heads<D: Disk>(disk: &D, segments: &[SegmentFile]) -> Result<Option<LogId>> {
    for segment in segments.iter().rev() {
        let file = disk.open(&segment.path, Access::Read, Lane::Commit).await;
        let file = file.map_err(|error| Error::io("opening", &segment.path, error))?;
        if let Some(id) = log_id_in_head(&file, segment).await? {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// The id in the head of a segment; `None` without a mark there.
pub(crate) async fn log_id_in_head<F: DiskFile>(
    file: &F,
    segment: &SegmentFile,
) -> Result<Option<LogId>> {
    // Of a log of etcd's there may be many: no more of each than it takes.
    const _: () = assert!(MARK_FRAME_BYTES <= BLOCK_BYTES as u64);
    let head = file.read_at(0, BLOCK_BYTES).await;
    let head = head.map_err(|error| Error::io("reading", &segment.path, error).at_offset(0))?;
    let mark = Mark::in_frame(&head);
    let mark = mark.filter(|mark| mark.counts(None, Position::new(segment.name.seq, 0)));
    Ok(mark.map(|mark| mark.log_id))
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
