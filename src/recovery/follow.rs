//! Goes on from a scan while another process appends: looks at the newest segment again and again from where it ended, and
//! moves the marks that readers wait at, as the committer does in the process that writes.
//!
//! Nothing tells this process what the other one is about, so three rules keep what it concludes true:
//!
//! 1. **Shown is what is durable.** A sound group may still be lost with the power: what is handed out ends where a later
//!    mark, or a later segment, proves it durable. The writer's idle mark lets that catch up. Records outside of groups
//!    (etcd's) have nobody to prove them: they are shown when they are sound. What the scan found stays shown.
//! 2. **Broken is what stays broken.** A writer may be in the middle of anything: a group of which some blocks are there, a
//!    hole with groups behind it, a tail that a new writer cuts. So nothing is damage before it was read twice with a wait
//!    in between, and something that was written later proves the place durable; until then it is waited for.
//! 3. **What was shown stays.** The frame that ends it is looked at again, and the name of its file. If they are others,
//!    this is no longer the log that was opened.
//!
//! It looks only while somebody waits, with a pause in between that grows while nothing comes. What is sound and not shown
//! is not kept in memory but read once more: a look takes as much memory as a piece of a file, or the largest frame.

use super::checks::Checked;
use super::facts::Facts;
use super::frames::{Found, PIECE_BYTES, Pieces};
use super::scan::{self, Scan};
use super::survey;
use super::verdict::{self, Row, Verdict};
use super::walk::{SegmentEnd, Stop, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::format::decode::{self, RawRecord};
use crate::format::{Chain, Mark, MarkKind, Record, RecordType};
use crate::io::{BLOCK_BYTES, Disk, DiskFile};
use crate::live::Live;
use crate::retained::Segment;
use crate::segment::dir::{self, SegmentFile};
use crate::types::{Position, Seq, Snapshot};
use crate::watermark::Mover;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Between looks: a commit takes about as long as the shorter one, a person does not notice the longer one.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Before what looks broken is read again: longer than a commit takes.
const BEFORE_READING_AGAIN: Duration = Duration::from_millis(20);

/// When nothing came for so long, what lies behind the place is looked at; again after twice that, and so on.
const JUDGE_AFTER: Duration = Duration::from_millis(100);
const JUDGE_AFTER_MAX: Duration = Duration::from_secs(30);

/// Steps, each of at most a piece, or a group, before others on this thread get their turn.
const STEPS_MAX: usize = 64;

/// Payloads that are shown at a time, about.
const SHOWN_BYTES: usize = 256 << 10;

/// Read at a time to find what was shown: about what lies between two points of the index.
const RECALL_BYTES: u64 = 64 << 10;

/// So many bytes of a frame hold its length, type and checksum, which stands for all that is before it.
const FRAME_HEAD_BYTES: u64 = 24;

/// Follows the log that `scan` found in `dir`, until the marks are ended, or end for a reason found here.
pub(crate) async fn follow<D: Disk>(disk: D, dir: PathBuf, scan: Scan, mover: Mover) {
    let mut follower = Follower::new(disk.clone(), dir, scan, mover);
    let mut pause = PAUSE_MIN;
    let mut failed = None;
    while follower.mover.is_wanted().await {
        let shown = follower.shown;
        match follower.look().await {
            Ok(()) => {
                let moved = follower.shown != shown;
                pause = if moved { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            }
            Err(error) => {
                let place = (error.kind(), error.path().map(Path::to_owned), error.offset());
                if failed.as_ref() == Some(&place) && follower.shown == shown {
                    follower.mover.watermark().end(&error);
                    return;
                }
                failed = Some(place);
                follower.begin_again();
                pause = BEFORE_READING_AGAIN;
            }
        }
        if follower.shown != shown {
            failed = None;
        }
        disk.sleep(pause).await;
    }
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There may be more.
    On,
    /// All that this segment has was read, and some of it was new.
    AtEnd,
    /// There is no more now.
    Rest,
}

/// The place where nothing comes.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    at: Position,
    /// When it is judged, and how long after that again.
    due: Duration,
    wait: Duration,
}

struct Follower<D: Disk> {
    disk: D,
    dir: PathBuf,
    mover: Mover,
    live: Live,
    /// The segment that is read.
    path: PathBuf,
    file: Option<Rc<D::File>>,
    /// The one after it, once its name was seen. What is read of this one after that is all there is.
    next: Option<SegmentFile>,
    /// Everything before it is shown; the chain there.
    shown: Position,
    shown_chain: Chain,
    /// How far in the same segment the log is sound, and the walk that came there.
    walked: u64,
    walk: Walk,
    /// Where the last frame that is shown begins, and how.
    last_frame: Option<(u64, Bytes)>,
    /// What is read at a time.
    piece_bytes: u64,
    stuck: Option<Stuck>,
    /// While a look goes on: the newest segment as it began.
    look_upto: Option<Seq>,
}

impl<D: Disk> Follower<D> {
    fn new(disk: D, dir: PathBuf, scan: Scan, mover: Mover) -> Follower<D> {
        let walk = Walk::behind(scan.chain, scan.log_id, scan.proven, scan.ends_in_group);
        Follower {
            disk,
            dir,
            mover,
            path: scan.newest().path.clone(),
            live: scan.replay.live,
            file: None,
            next: None,
            shown: scan.end,
            shown_chain: scan.chain,
            walked: scan.end.offset,
            walk,
            last_frame: None,
            piece_bytes: BLOCK_BYTES as u64,
            stuck: None,
            look_upto: None,
        }
    }

    /// Takes in what is new, or a good part of it. Whoever waits for a look is told when it has come to where the newest
    /// segment ended as it began, or later: a busy writer does not keep it from its end.
    async fn look(&mut self) -> Result<()> {
        let upto = match self.look_upto {
            Some(upto) => upto,
            None => {
                self.mover.look_begins();
                let segments = self.list().await?;
                let upto = segments.last().map_or(self.shown.seq, |newest| newest.name.seq);
                *self.look_upto.insert(upto)
            }
        };
        for _ in 0..STEPS_MAX {
            let step = self.step().await?;
            if step == Step::Rest || step == Step::AtEnd && self.shown.seq >= upto {
                self.look_upto = None;
                self.mover.look_ended();
                break;
            }
        }
        Ok(())
    }

    /// Walks on through at most a piece, and shows what that proves.
    async fn step(&mut self) -> Result<Step> {
        let file = self.file().await?;
        let path = self.path.clone();
        let mut pieces = Pieces::new(&*file, &path)?.with_piece_bytes(self.piece_bytes);
        let sealed = self.next.is_some();
        let mut walk = self.walk.clone();
        let mut stretch = self.walked..self.walked + self.piece_bytes / 2;
        if self.walked - self.shown.offset < self.piece_bytes / 4 {
            // What waits for its proof is in the same piece.
            pieces.bytes(self.shown.offset, 1).await?;
            stretch.end = self.shown.offset + self.piece_bytes / 4 * 3;
        }
        let mut facts = Facts::default();
        let end = walk
            .stretch(&mut pieces, self.shown.seq, &path, stretch, &mut facts, &mut Checked)
            .await?;
        let is_all = sealed && matches!(end, SegmentEnd::End { .. });
        let on = match end {
            SegmentEnd::Pause { .. } => Step::On,
            SegmentEnd::End { .. } | SegmentEnd::Stop(_) => Step::AtEnd,
        };
        let (offset, stop) = match end {
            SegmentEnd::End { offset } | SegmentEnd::Pause { offset } => (offset, None),
            SegmentEnd::Stop(stop) => {
                walk.chain = stop.chain;
                (stop.unit.offset, Some(stop))
            }
        };
        let advance = offset - self.walked;
        (self.walk, self.walked) = (walk, offset);
        let block = BLOCK_BYTES as u64;
        self.piece_bytes = (4 * advance).next_multiple_of(block).clamp(block, PIECE_BYTES);
        let limit = if is_all { offset } else { self.proven() };
        if limit > self.shown.offset {
            if limit - self.shown.offset > self.piece_bytes {
                pieces = pieces.with_piece_bytes(PIECE_BYTES);
            }
            self.show_up_to(&mut pieces, limit).await?;
            return Ok(on);
        }
        match advance {
            0 => self.end_of_segment(&file, stop).await,
            _ => Ok(on),
        }
    }

    /// How far in this segment what is sound may be shown.
    fn proven(&self) -> u64 {
        let proven = self.walk.proven;
        match self.walk.log_id.is_none() || !self.walk.ends_in_group {
            true => self.walked,
            false if proven.seq == self.shown.seq => proven.offset.min(self.walked),
            false => 0,
        }
    }

    /// The file of this segment. One that is opened is checked to hold what is shown of it.
    async fn file(&mut self) -> Result<Rc<D::File>> {
        if let Some(file) = &self.file {
            return Ok(Rc::clone(file));
        }
        let file = match scan::open_newest(&self.disk, &self.path).await {
            Ok((file, _)) => Rc::new(file),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let segments = self.list().await?;
                return Err(self.lost(&segments));
            }
            Err(error) => return Err(error),
        };
        let path = self.path.clone();
        let mut pieces = Pieces::new(&*file, &path)?.with_piece_bytes(RECALL_BYTES);
        let from = self.mover.watermark().point_at(self.shown);
        let mut frames = Frames { at: from.position.offset, chain: from.chain };
        let mut last = None;
        while frames.at < self.shown.offset {
            let at = frames.at;
            if frames.next(&mut pieces).await?.is_none() {
                return Err(self.changed());
            }
            last = Some((at, pieces.bytes(at, FRAME_HEAD_BYTES).await?));
        }
        if frames.at > self.shown.offset || (last.is_some() && frames.chain != self.shown_chain) {
            return Err(self.changed());
        }
        self.last_frame = last;
        self.file = Some(Rc::clone(&file));
        Ok(file)
    }

    /// Shows the records up to an offset that is known to be sound and durable.
    async fn show_up_to(&mut self, pieces: &mut Pieces<'_, D::File>, limit: u64) -> Result<()> {
        let seq = self.shown.seq;
        let mut frames = Frames { at: self.shown.offset, chain: self.shown_chain };
        let mut batch = Batch::after(&self.live);
        let mut last = frames.at;
        while frames.at < limit {
            let Frames { at, chain } = frames;
            let Some(record) = frames.next(pieces).await? else {
                return Err(self.changed());
            };
            last = at;
            let place = (Position::new(seq, at), chain);
            batch.take_in(record, place).map_err(|what| Error::damaged(&self.path, at, what))?;
            if batch.bytes >= SHOWN_BYTES && frames.at < limit {
                self.show(&mut batch, &frames);
            }
        }
        if frames.at > limit {
            return Err(self.changed());
        }
        let head = pieces.bytes(last, FRAME_HEAD_BYTES).await?;
        self.show(&mut batch, &frames);
        self.last_frame = Some((last, Bytes::copy_from_slice(&head)));
        Ok(())
    }

    fn show(&mut self, batch: &mut Batch, upto: &Frames) {
        let end = Position::new(self.shown.seq, upto.at);
        let live = &batch.live;
        if batch.changed {
            let places = batch.places.iter().copied();
            self.mover.written(&batch.records[..], places, end, |old| old.clone_from(live));
        }
        self.mover.durable(end, |old| old.clone_from(live));
        if let Some((index, term)) = batch.released.take() {
            self.mover.release(index, term);
        }
        self.live.clone_from(live);
        (self.shown, self.shown_chain) = (end, upto.chain);
        batch.clear();
    }

    /// Nothing more is sound in this segment: is there a next one, is this still the log that was opened, is it damaged?
    async fn end_of_segment(&mut self, file: &D::File, stop: Option<Stop>) -> Result<Step> {
        if let Some(next) = self.next.take() {
            return match stop {
                None if self.walked > 0 => {
                    self.enter(next);
                    Ok(Step::On)
                }
                None => {
                    let what = "a segment that another one follows has no records";
                    Err(Error::damaged(&self.path, 0, what))
                }
                Some(_) if !self.is_named(file)? => {
                    Err(self.replaced("the segment has lost its name"))
                }
                Some(stop) => Err(scan::damaged(&self.path, &stop, Row::DamagedSealed)),
            };
        }
        let segments = self.list().await?;
        let next = self.shown.seq.next();
        self.next = segments.iter().find(|segment| segment.name.seq == next).cloned();
        if self.next.is_some() {
            return Ok(Step::On);
        }
        if !self.is_named(file)? {
            return Err(self.lost(&segments));
        }
        if let Some(later) = segments.iter().find(|segment| segment.name.seq > next) {
            let what = format!("segment {next} is missing: {} is there", later.name.seq);
            return Err(Error::new(ErrorKind::Damaged, what)
                .at_path(&later.path)
                .next("restore the missing segment from a copy, and open the log again"));
        }
        if let Some((at, head)) = &self.last_frame {
            let mut pieces = Pieces::new(file, &self.path)?.with_piece_bytes(BLOCK_BYTES as u64);
            if pieces.bytes(*at, FRAME_HEAD_BYTES).await? != head {
                return Err(self.changed());
            }
        }
        self.judge_in_time(file, stop.as_ref()).await?;
        Ok(Step::Rest)
    }

    /// Goes on in the next segment: one is begun when everything before it is durable.
    fn enter(&mut self, next: SegmentFile) {
        assert_eq!(self.walked, self.shown.offset, "all of a segment is shown when it is left");
        let seq = next.name.seq;
        let SegmentFile { name, path } = next;
        let now = self.disk.now();
        let segment = Segment::new(seq, name.index, &path, 0, now);
        self.mover.add_segment(segment, 0, self.shown.offset);
        self.path = path;
        self.shown = Position::new(seq, 0);
        self.walked = 0;
        (self.file, self.last_frame, self.stuck) = (None, None, None);
    }

    /// Looks at what lies behind the place where nothing comes, now and then.
    async fn judge_in_time(&mut self, file: &D::File, stop: Option<&Stop>) -> Result<()> {
        let now = self.disk.now();
        let at = Position::new(self.shown.seq, self.walked);
        let mut stuck = match self.stuck {
            Some(stuck) if stuck.at == at => stuck,
            _ => Stuck { at, due: now.saturating_add(JUDGE_AFTER), wait: JUDGE_AFTER },
        };
        if now >= stuck.due {
            // Stays due if it is damage, which is judged again then.
            self.judge(file, at, stop).await?;
            // What is not proven may have been taken back by a writer that did not find it on the disk.
            self.walk_again();
            stuck.wait = (2 * stuck.wait).min(JUDGE_AFTER_MAX);
            stuck.due = now.saturating_add(stuck.wait);
        }
        self.stuck = Some(stuck);
        Ok(())
    }

    /// Whether what follows the place proves that it was sound once.
    async fn judge(&mut self, file: &D::File, at: Position, stop: Option<&Stop>) -> Result<()> {
        let mut pieces = Pieces::new(file, &self.path)?;
        if stop.is_none() {
            // An idle log is not read to the end of its segment each time.
            let ahead = pieces.bytes(at.offset, PIECE_BYTES).await?;
            if at.offset > 0 && ahead.iter().all(|&byte| byte == 0) {
                return Ok(());
            }
        }
        let survey = survey::behind(&mut pieces, at, self.walk.log_id).await?;
        let row = Row::of(&verdict::Facts {
            headless: at.offset == 0,
            sealed: false,
            proven: survey.proof.is_some(),
            broken: stop.is_some(),
            // What is only not sound may be sound in a moment.
            unwritten: true,
            marked: self.walk.ends_in_group,
            behind: survey.behind,
        });
        if survey.proof.is_some() {
            // So is what is sound before it.
            self.walk.proven = self.walk.proven.max(at);
        }
        match row.verdict() {
            Verdict::Damaged => Err(scan::refusal(&self.path, at, stop, row, &survey)),
            Verdict::Clean | Verdict::Torn => Ok(()),
        }
    }

    /// Goes back to what is shown.
    fn walk_again(&mut self) {
        self.walked = self.shown.offset;
        self.walk.chain = self.shown_chain;
    }

    /// After a failure: everything that is not shown is looked at anew.
    fn begin_again(&mut self) {
        self.walk_again();
        (self.file, self.next) = (None, None);
    }

    async fn list(&self) -> Result<Vec<SegmentFile>> {
        match dir::list(&self.disk, &self.dir).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(self.replaced("the directory of the log is gone"))
            }
            listed => listed,
        }
    }

    fn is_named(&self, file: &D::File) -> Result<bool> {
        file.is_at(&self.path).map_err(|error| Error::io("asking for the name", &self.path, error))
    }

    /// The segment is not there by its name, and neither is the one after it.
    fn lost(&self, segments: &[SegmentFile]) -> Error {
        let seq: Seq = self.shown.seq;
        let later = segments.iter().find(|segment| segment.name.seq > seq);
        match later {
            Some(later) => Error::new(
                ErrorKind::Released,
                format!(
                    "segment {seq} was released before all of it was read: the log goes on with {}",
                    later.name.seq
                ),
            )
            .at_path(&self.path)
            .next("open the log again, and read from its first index on"),
            None => self.replaced("the segment is gone, or another file has its name"),
        }
    }

    fn changed(&self) -> Error {
        self.replaced("the segment does not hold any more what was read of it")
            .at_offset(self.shown.offset)
    }

    fn replaced(&self, what: &str) -> Error {
        Error::new(ErrorKind::Replaced, what)
            .at_path(&self.path)
            .next("another log, or a copy, was put in its place, or it was cut: open it again")
    }
}

/// Records that are to be shown together.
struct Batch {
    records: Vec<Record>,
    places: Vec<(Position, Chain)>,
    bytes: usize,
    /// The entries when they are.
    live: Live,
    changed: bool,
    /// Of the mark before the next record.
    kind: Option<MarkKind>,
    /// The index and term up to which entries were released.
    released: Option<(u64, u64)>,
}

impl Batch {
    fn after(live: &Live) -> Batch {
        let (records, places) = (Vec::new(), Vec::new());
        let (live, changed) = (live.clone(), false);
        Batch { records, places, bytes: 0, live, changed, kind: None, released: None }
    }

    fn clear(&mut self) {
        self.records.clear();
        self.places.clear();
        (self.bytes, self.changed) = (0, false);
    }

    /// Takes in what matters to readers. Fails with what is wrong about a record whose checksum fits.
    fn take_in(&mut self, record: RawRecord, place: (Position, Chain)) -> Result<(), String> {
        match RecordType::from_number(record.record_type) {
            Some(RecordType::Entry) => {
                let entry = decode::entry(record.data)
                    .map_err(|why| format!("the entry does not parse: {why}"))?;
                self.live.push(entry.index, entry.term, place.0).map_err(|gap| {
                    format!("entry {} where {} is the next", gap.found, gap.expected)
                })?;
                self.bytes += entry.data.len() + size_of::<Record>();
                self.records.push(Record::Entry(entry));
                self.places.push(place);
                self.changed = true;
            }
            Some(RecordType::Snapshot) => {
                let snapshot = decode::snapshot(&record.data.unwrap_or_default())
                    .map_err(|why| format!("the snapshot record does not parse: {why}"))?;
                let Snapshot { index, term, .. } = snapshot;
                match self.kind {
                    Some(MarkKind::Truncation) => self.live.truncate(index),
                    Some(MarkKind::Release | MarkKind::Head) if index > 0 => {
                        self.released = Some((index, term));
                    }
                    _ => self.live.snapshot(index, term),
                }
                self.changed = true;
            }
            Some(RecordType::Crc) => {
                let mark = record.data.map(|data| Mark::from_bytes(&data));
                self.kind = mark.and_then(|mark| mark.ok()).map(|mark| mark.kind);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Goes through a segment frame by frame.
#[derive(Clone, Copy, Debug)]
struct Frames {
    at: u64,
    chain: Chain,
}

impl Frames {
    /// The next record; `None` if there is none that continues the chain.
    async fn next<F: DiskFile>(&mut self, pieces: &mut Pieces<'_, F>) -> Result<Option<RawRecord>> {
        let Found::Record { record, bytes } = pieces.frame(self.at).await? else {
            return Ok(None);
        };
        let chain = record.chain_after(self.chain);
        if chain.0 != record.crc {
            return Ok(None);
        }
        (self.at, self.chain) = (self.at + bytes, chain);
        Ok(Some(record))
    }
}
