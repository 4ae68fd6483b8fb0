//! One run: lives of one log on one simulated machine, each with a recovery before it and some ending behind it.

use crate::coverage::{Coverage, Met};
use crate::image::Found;
use crate::life::Life;
use crate::oracle::{Ending, Oracle};
use crate::plan::Plan;
use crate::story::Story;
use bytes::Bytes;
use fastrand::Rng;
use futures_util::future::{Either, select};
use seawal::testing::{Crash, OpKind, Sim, TraceEntry};
use seawal::{
    Durability, Entries, Entry, ErrorKind, Options, Recovery, Replay, Replayed, Result, Start,
    Verdict, Wal,
};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

const DIR: &str = "/data/log";
/// A run makes at least so many calls, with at least one rotation, one crash and one recovery from it.
pub(crate) const CALLS_MIN: u64 = 50;
/// Then it is as good as a hang.
const LIVES_MAX: usize = 500;
/// What chance does not end earlier is ended after this time.
const LIFE_MAX: Duration = Duration::from_secs(60);

/// Runs the seed that the story's machine was made with.
pub(crate) fn run(seed: u64, story: &Rc<Story>) -> Coverage {
    let mut run = Run::new(seed, story);
    while !run.is_enough() {
        assert!(run.lives < LIVES_MAX, "after {LIVES_MAX} lives the run has come to nothing");
        run.life();
        run.lives += 1;
    }
    // Whatever the last ending was, what is left is a log.
    run.sim.clear_faults();
    let (wal, _) = run.open(u64::MAX).expect("nothing is made to fail");
    run.sim.block_on(wal.close()).expect("nothing is made to fail");
    let mut coverage = run.coverage.borrow().clone();
    coverage.runs = 1;
    coverage.meet_if(Met::SmallBlocks, run.plan.small_blocks);
    coverage.operations = run.sim.operations();
    coverage
}

struct Run {
    sim: Sim,
    story: Rc<Story>,
    rng: Rng,
    plan: Rc<Plan>,
    oracle: Rc<RefCell<Oracle>>,
    coverage: Rc<RefCell<Coverage>>,
    lives: usize,
    /// The mode of the life before.
    mode: Option<Met>,
    /// The worst since the log was last open.
    ending: Ending,
    /// The log was open once.
    created: bool,
    /// Recoveries in a row that were interrupted.
    interrupted: usize,
    /// The last power loss has torn something.
    torn: bool,
    /// What the log began behind when the callers were done.
    base: u64,
}

impl Run {
    fn new(seed: u64, story: &Rc<Story>) -> Run {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::new(&mut rng);
        story.tell(|| format!("{plan:?}"));
        let sim = story.sim.clone();
        sim.create_dir("/data");
        if plan.small_blocks {
            sim.set_block_bytes(512);
        }
        let micros = |rng: &mut Rng, max| Duration::from_micros(rng.u64(1..max));
        sim.set_latency_spread(OpKind::Write, micros(&mut rng, 200));
        sim.set_latency_spread(OpKind::WriteZeros, micros(&mut rng, 800));
        sim.set_latency_spread(OpKind::Sync, micros(&mut rng, 200));
        sim.set_failures_are_partial(rng.bool());
        Run {
            sim,
            story: Rc::clone(story),
            rng,
            plan: Rc::new(plan),
            oracle: Rc::default(),
            coverage: Rc::default(),
            lives: 0,
            mode: None,
            ending: Ending::Closed,
            created: false,
            interrupted: 0,
            torn: false,
            base: 0,
        }
    }

    fn is_enough(&self) -> bool {
        let coverage = self.coverage.borrow();
        coverage.calls >= CALLS_MIN
            && coverage.crashes > 0
            && coverage.has_met(Met::Rotation)
            && self.lives > 2
    }

    fn life(&mut self) {
        if self.plan.rot && self.ending != Ending::Killed && self.created {
            self.rot();
        }
        let Some((wal, mode)) = self.recover() else {
            return;
        };
        self.inject();
        let (began, faults_before) = (self.operations(), self.sim.faults_met());
        let outcome = self.live(wal, mode);
        self.end(outcome, began, faults_before);
        self.note_faults(began);
    }

    /// Opens the log, unless that is interrupted or fails.
    fn recover(&mut self) -> Option<(Wal, Met)> {
        self.sim.clear_faults();
        let began = self.operations();
        let faulty = !self.plan.faults.is_empty() && self.rng.u8(..3) == 0;
        if faulty {
            self.inject();
        } else if self.rng.u8(..4) == 0 && self.created && self.ending != Ending::Killed {
            self.reader_agrees();
        }
        let interrupt = self.rng.u8(..4) == 0;
        let at = if interrupt { self.sim.operations() + self.rng.u64(1..30) } else { u64::MAX };
        let opened = self.open(at);
        self.note_faults(began);
        if opened.is_none() && self.ending == Ending::Closed {
            self.ending = Ending::Killed;
        }
        opened
    }

    /// Opens the log and compares what is there. `None` if it was interrupted, or failed where it may.
    fn open(&mut self, at: u64) -> Option<(Wal, Met)> {
        let mode = self.plan.next_mode(&mut self.rng);
        Plan::prepare(mode, &self.sim);
        let options = self.plan.options(mode, &mut self.rng);
        let began = self.operations();
        let faults_before = self.sim.faults_met();
        // By no number of the seed: the others would be others.
        let mut replayed = (self.lives % 2 == 1).then(Vec::new);
        let open = async {
            match &mut replayed {
                Some(entries) => replay(self.sim.replay_or_create(DIR, options), entries).await,
                None => self.sim.open_or_create(DIR, options).await,
            }
        };
        let Some(opened) = self.sim.block_on_until(at, open) else {
            self.interrupted += 1;
            let mut done = self.sim.trace().into_iter().skip(began);
            let clears = done.any(|entry| entry.op == OpKind::Truncate);
            self.meet_if(Met::CrashInRepair, self.created && clears && self.torn);
            self.oracle.borrow_mut().faulty |= self.sim.faults_met() > faults_before;
            self.meet(if self.created { Met::CrashInRecovery } else { Met::CrashInCreate });
            self.meet_if(Met::CrashInRecoveryTwice, self.created && self.interrupted > 1);
            self.crash(None);
            return None;
        };
        self.story
            .tell(|| format!("opened as {mode:?}: {:?}", opened.as_ref().map(|opened| &opened.1)));
        let (wal, recovery) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let faulty = self.sim.faults_met() > faults_before;
                // A sync that failed may have taken what was only written.
                self.oracle.borrow_mut().faulty |= faulty;
                assert!(faulty, "P4: nothing was damaged, and the log does not open: {error}");
                assert!(!error.is_damaged(), "P4: what fails to be read is not damaged: {error}");
                self.meet(Met::FailedOpen);
                self.sim.kill();
                return None;
            }
        };
        self.sim.clear_faults();
        let entries = self.compare(&wal, &recovery);
        if let Some(mut replayed) = replayed {
            replayed.retain(|entry| entry.index >= wal.first_index());
            assert_eq!(replayed, entries, "what is handed out by opening is what is read then");
            self.meet(Met::Replayed);
        }
        self.meet_if(Met::ModeChanged, self.mode.is_some_and(|before| before != mode));
        self.meet(mode);
        self.mode = Some(mode);
        self.created = true;
        self.interrupted = 0;
        self.ending = Ending::Closed;
        Some((wal, mode))
    }

    /// Gives the entries that the log has.
    fn compare(&mut self, wal: &Wal, recovery: &Recovery) -> Vec<Entry> {
        let entries = self.sim.block_on(collect(wal.read(..))).expect("what was opened is read");
        let base = wal.first_index() - 1;
        let ends = entries.first().zip(entries.last()).map(|(a, b)| (a.index, b.index));
        assert_eq!(recovery.first_index.zip(recovery.last_index), ends);
        assert_eq!(
            wal.durable_index(),
            base + entries.len() as u64,
            "what is handed out is durable"
        );
        let found = Found { base, entries, state: recovery.hard_state };
        let survived = self.found(&found);
        let (more, less) = self.oracle.borrow().beyond_promises(survived);
        self.meet_if(Met::UnackedSurvived, more);
        self.meet_if(Met::WrittenLost, less);
        self.meet_if(Met::TornTailCut, recovery.verdict == Verdict::Torn);
        let by_itself = self.oracle.borrow().begins_behind(base);
        self.meet_if(Met::RetentionReleased, by_itself);
        self.oracle.borrow_mut().opened(survived, base);
        self.read_from_snapshot(&found);
        found.entries
    }

    /// The last snapshot record is one that reading can start from.
    fn read_from_snapshot(&mut self, found: &Found) {
        let head = self.oracle.borrow().head();
        let (index, term) = match head.snapshot {
            0 => return,
            index => (index, head.entries[index as usize - 1].0),
        };
        let options = Options::new().start(Start::Snapshot { index, term });
        let entries = self.sim.block_on(async {
            let (reader, _) = self.sim.open_reader(DIR, options).await?;
            collect(reader.read(..)).await
        });
        if index < found.base {
            let error = entries.expect_err("what follows on the snapshot was released");
            return assert_eq!(error.kind(), ErrorKind::Released, "{error}");
        }
        let entries = entries.expect("P1: the record of a snapshot is there");
        let following = &found.entries[(index - found.base) as usize..];
        assert_eq!(entries, following, "what follows the snapshot at {index}");
        self.meet(Met::ReadFromSnapshot);
    }

    fn found(&self, found: &Found) -> usize {
        self.oracle.borrow().found(self.ending, found)
    }

    /// Who only reads finds what is found by who opens it for writing afterwards.
    fn reader_agrees(&mut self) {
        let read = |sim: &Sim| -> Result<Found> {
            sim.block_on(async {
                let (reader, recovery) = sim.open_reader(DIR, Options::new()).await?;
                let (base, state) = (reader.first_index() - 1, recovery.hard_state);
                Ok(Found { base, entries: collect(reader.read(..)).await?, state })
            })
        };
        let found = read(&self.sim).expect("nothing is made to fail");
        let survived = self.found(&found);
        let opened = self.open(u64::MAX);
        let (wal, _) = opened.expect("what a reader opens opens");
        let after = self.sim.block_on(collect(wal.read(..))).expect("what was opened is read");
        assert_eq!(after.len(), found.entries.len(), "reader and writer see {survived} calls");
        assert_eq!((wal.first_index() - 1, after), (found.base, found.entries));
        self.meet(Met::ReaderAgrees);
        self.sim.block_on(wal.close()).expect("nothing is made to fail");
    }

    fn inject(&mut self) {
        if self.plan.faults.is_empty() || self.rng.bool() {
            return;
        }
        for fault in &self.plan.faults {
            fault.inject(&self.sim);
        }
    }

    /// Lets the callers run until they are done or something ends it. Says whether the log was closed; `None` if it was
    /// ended.
    fn live(&mut self, wal: Wal, mode: Met) -> Option<bool> {
        let everysec = mode == Met::EverySec;
        let specimen = self.segments().last().and_then(|path| self.sim.read_file(path).ok());
        {
            let mut oracle = self.oracle.borrow_mut();
            oracle.space_is_short |= self.plan.space_is_short;
            oracle.may_be_full |= self.plan.fixed.is_some();
            oracle.retains |= self.plan.retention.is_some();
        }
        let plan = self.plan.grown(self.lives);
        let life = Rc::new(Life {
            sim: self.sim.clone(),
            dir: DIR,
            story: Rc::clone(&self.story),
            wal,
            level: if everysec { Durability::Written } else { Durability::Durable },
            plan: Rc::new(plan),
            rng: RefCell::new(self.rng.fork()),
            oracle: Rc::clone(&self.oracle),
            coverage: Rc::clone(&self.coverage),
            specimen: specimen.map(Bytes::from).unwrap_or_default(),
            calls_left: Cell::new(
                self.rng.usize(5..if self.plan.fixed.is_some() { 200 } else { 80 }),
            ),
            ends_with_close: self.rng.bool(),
            faults_before: self.sim.faults_met(),
            space_was_short: Cell::new(false),
            truncating: RefCell::default(),
            files_at_first: self.sim.list_dir(DIR).map_or(0, |names| names.len()),
        });
        let at = match self.rng.u8(..4) {
            0 => u64::MAX,
            1 if self.plan.fixed.is_some() => u64::MAX,
            _ => self.sim.operations() + self.rng.u64(1..self.plan.operations_max),
        };
        let limit = match self.rng.u8(..3) {
            0 => Duration::from_micros(self.rng.u64(..4000)),
            _ => LIFE_MAX,
        };
        let living = Rc::clone(&life);
        let mut running = Box::pin(async move { living.run().await });
        let limited = async {
            match select(running.as_mut(), pin!(self.sim.sleep(limit))).await {
                Either::Left((closed, _)) => Some(closed),
                Either::Right(_) => None,
            }
        };
        let ended = match self.sim.block_on_until(at, limited) {
            Some(None) if limit == LIFE_MAX => panic!("hang: somebody waits for ever"),
            ended => ended.flatten(),
        };
        if ended.is_none() {
            // Who has been answered hears it: the log has given its word.
            let _ = poll_once(running.as_mut());
        }
        self.note_strikes(life.faults_before);
        self.base = life.base();
        self.meet_if(Met::CrashInTruncation, ended.is_none() && life.is_truncating());
        if everysec {
            let (window, now) = (self.plan.loss_window(), self.sim.now());
            self.oracle.borrow_mut().time_passed(window, now);
        }
        self.sim.set_free_bytes(None);
        self.meet_if(Met::Rotation, life.wal.stats().cuts > 0);
        self.meet_if(Met::CrashAfterFailure, ended.is_none() && self.oracle.borrow().has_failed());
        if ended.is_none() {
            // What dies with the process does not close the log.
            self.crash(Some(mode));
        }
        ended
    }

    /// After the callers are done.
    fn end(&mut self, ended: Option<bool>, began: usize, faults_before: u64) {
        self.note_files(began, ended.is_none());
        let Some(closed) = ended else {
            self.meet_if(Met::CrashInCut, in_cut(&self.sim.trace()[began..]));
            return;
        };
        if closed {
            self.meet(Met::Close);
        } else {
            // The handles are gone: what was accepted becomes durable in the background.
            self.sim.block_on(self.sim.sleep(LIFE_MAX));
            self.note_strikes(faults_before);
            let (failed, faulty) = {
                let oracle = self.oracle.borrow();
                (oracle.has_failed(), oracle.faulty)
            };
            self.ending = if failed || faulty { Ending::Killed } else { Ending::Closed };
            self.meet_if(Met::HandlesDropped, self.ending == Ending::Closed);
        }
        if self.ending == Ending::Closed {
            // Nothing can be lost any more.
            self.oracle.borrow_mut().closed(self.base, closed);
            if self.rng.bool() {
                self.crash(None);
            }
        }
    }

    /// The process dies, or the machine, in a life of this mode, or between two.
    fn crash(&mut self, mode: Option<Met>) {
        let in_flight = self.sim.in_flight();
        let writes = in_flight.iter().any(|op| matches!(op, OpKind::Write | OpKind::WriteZeros));
        self.meet_if(Met::CrashInZeroFill, in_flight.contains(&OpKind::WriteZeros));
        self.meet_if(Met::CrashInSync, in_flight.contains(&OpKind::Sync));
        self.coverage.borrow_mut().crashes += 1;
        if self.rng.u8(..3) == 0 {
            self.story.tell(|| format!("killed, in flight {in_flight:?}"));
            self.sim.kill();
            self.meet(Met::Kill);
            self.meet_if(Met::LateWrites, writes);
            if self.ending == Ending::Closed {
                self.ending = Ending::Killed;
            }
            return;
        }
        let crash = match self.rng.u8(..8) {
            0 => Crash::LoseUnsynced,
            1 => Crash::KeepUnsynced,
            _ => Crash::Random,
        };
        let loss = self.sim.power_loss(crash);
        self.story.tell(|| format!("{crash:?}, in flight {in_flight:?}: {loss:?}"));
        self.ending = Ending::PowerLost;
        self.meet(Met::PowerLoss);
        self.meet_if(Met::Hole, loss.holes > 0);
        let window = [Met::Window, Met::WindowZeroed, Met::DeviceZeroes];
        let in_window = mode.is_some_and(|mode| window.contains(&mode));
        self.torn = loss.holes + loss.torn_writes > 0;
        self.meet_if(Met::HoleInWindow, loss.holes > 0 && in_window);
        self.meet_if(Met::TornWrite, loss.torn_writes > 0);
        self.meet_if(Met::LostName, loss.lost_names > 0);
        self.meet_if(Met::LostLength, loss.lost_lengths > 0);
    }

    /// A bit of the log rots. Opening refuses and names the segment, or the bit says nothing.
    fn rot(&mut self) {
        if self.rng.u8(..3) > 0 {
            return;
        }
        let mut segments = self.segments();
        // A length field that rots in a group that nothing proves yet looks like a torn write.
        if self.ending != Ending::Closed {
            segments.pop();
        }
        let Some(path) = segments.get(self.rng.usize(..segments.len().max(1))).cloned() else {
            return;
        };
        let mut bytes = self.sim.read_file_durable(&path).expect("it is listed");
        // Not in what the file had lost, and a power loss gives back: nobody would see it before.
        bytes.truncate(self.sim.read_file(&path).expect("it is listed").len());
        let data = bytes.iter().rposition(|&byte| byte != 0).map_or(1, |last| last + 16);
        let offset = self.rng.usize(..data.min(bytes.len()).max(1));
        if offset >= bytes.len() {
            return;
        }
        let xor = 1 << self.rng.u8(..8);
        self.sim.clear_faults();
        self.sim.corrupt(&path, offset, xor);
        self.story.tell(|| format!("rot: {path} at {offset}"));
        Plan::prepare(self.plan.mode, &self.sim);
        let options = self.plan.options(self.plan.mode, &mut self.rng);
        let open = self.sim.open(DIR, options);
        match self.sim.block_on(open) {
            Ok((wal, recovery)) => {
                self.compare(&wal, &recovery);
                self.meet(Met::RotHarmless);
                self.ending = Ending::Closed;
                self.sim.block_on(wal.close()).expect("nothing is made to fail");
            }
            Err(error) => {
                // It may have been what says where the log begins, when the files before are gone.
                let first = segments.first() == Some(&path) && error.kind() == ErrorKind::Released;
                let said = error.is_damaged() || first;
                assert!(said, "a bit of {path} at {offset} rotted: {error}");
                let named = error.path().and_then(|path| path.to_str());
                assert_eq!(named, Some(path.as_str()), "at {offset}: {error}");
                assert!(error.next_step().is_some(), "{error}");
                self.meet(Met::RotRefused);
                self.sim.corrupt(&path, offset, xor);
                self.sim.kill();
            }
        }
    }

    /// How long the trace is, which is never cleared here; asking the trace itself would copy it.
    fn operations(&self) -> usize {
        usize::try_from(self.sim.operations()).expect("a run is short")
    }

    /// The paths of the log's segments, oldest first.
    fn segments(&self) -> Vec<String> {
        let names = self.sim.list_dir(DIR).unwrap_or_default();
        let names = names.into_iter().filter_map(|name| name.into_string().ok());
        names.filter(|name| name.ends_with(".wal")).map(|name| format!("{DIR}/{name}")).collect()
    }

    /// What became of released segments in this life.
    fn note_files(&self, began: usize, crashed: bool) {
        let trace = &self.sim.trace()[began..];
        let removes = |entry: &TraceEntry| {
            let to_spare = entry.op == OpKind::Rename && entry.detail.contains("seawal-spare");
            let is_segment = entry.path.extension().is_some_and(|extension| extension == "wal");
            is_segment && (entry.op == OpKind::Remove || to_spare)
        };
        let reuses = |entry: &TraceEntry| {
            let name = entry.path.file_name().and_then(|name| name.to_str());
            entry.op == OpKind::Rename && name.is_some_and(|name| name.starts_with("seawal-spare"))
        };
        self.meet_if(Met::FilesRemoved, trace.iter().any(removes));
        let synced = |entry: &TraceEntry| entry.op == OpKind::SyncDir;
        let removed = trace.iter().rposition(removes);
        let unsynced = removed.is_some_and(|at| !trace[at..].iter().any(synced));
        self.meet_if(Met::CrashInRemoval, crashed && unsynced);
        if let Some(at) = trace.iter().rposition(reuses) {
            let of_next = |op| {
                let prepared = |entry: &TraceEntry| entry.path.ends_with("seawal-next.tmp");
                trace[at..].iter().any(|entry| entry.op == op && prepared(entry))
            };
            let (synced, cut) = (of_next(OpKind::Sync), of_next(OpKind::Rename));
            self.meet_if(Met::CrashInClear, crashed && !synced);
            let before = trace[..at].iter().any(reuses);
            self.meet_if(Met::Recycled, cut || before);
        }
    }

    /// A fault that has struck since excuses what it may have done.
    fn note_strikes(&self, faults_before: u64) {
        self.oracle.borrow_mut().faulty |= self.sim.faults_met() > faults_before;
    }

    fn note_faults(&self, began: usize) {
        for entry in &self.sim.trace()[began..] {
            self.meet_if(Met::ShortWrite, entry.short.is_some());
            let slow = entry.op == OpKind::Sync && entry.takes >= Duration::from_millis(30);
            self.meet_if(Met::SlowSync, slow);
            if entry.error.is_none() {
                continue;
            }
            match entry.op {
                OpKind::Write | OpKind::WriteZeros => self.meet(Met::FailedWrite),
                OpKind::Sync => self.meet(Met::FailedSync),
                OpKind::SyncDir => self.meet(Met::FailedSyncDir),
                OpKind::Rename => self.meet(Met::FailedRename),
                OpKind::Allocate => self.meet(Met::FailedAllocate),
                OpKind::Read => self.meet(Met::FailedRead),
                _ => {}
            }
        }
    }

    fn meet(&self, met: Met) {
        self.coverage.borrow_mut().meet(met);
    }

    fn meet_if(&self, met: Met, is_met: bool) {
        self.coverage.borrow_mut().meet_if(met, is_met);
    }
}

/// Whether the last that happened to names was a part of a cut, and not its end.
fn in_cut(trace: &[TraceEntry]) -> bool {
    let is_prepared = |entry: &TraceEntry| entry.path.extension().is_some_and(|e| e == "tmp");
    let last = trace.iter().rev().find(|entry| match entry.op {
        OpKind::Write => is_prepared(entry),
        OpKind::Rename | OpKind::SyncDir => true,
        _ => false,
    });
    last.is_some_and(|entry| entry.op != OpKind::SyncDir)
}

/// Takes what is handed out while a log is opened.
async fn replay(mut replay: Replay, entries: &mut Vec<Entry>) -> Result<(Wal, Recovery)> {
    while let Some(replayed) = replay.next().await {
        match replayed {
            Replayed::Entry(entry) => {
                let follows = entries.last().is_none_or(|last| last.index < entry.index);
                assert!(follows, "{entry:?} comes unannounced behind {:?}", entries.last());
                entries.push(entry);
            }
            Replayed::TruncatedAfter(index) => entries.retain(|entry| entry.index <= index),
        }
    }
    replay.finish().await
}

async fn collect(mut entries: Entries) -> Result<Vec<Entry>> {
    let mut all = Vec::new();
    while let Some(entry) = entries.next().await {
        all.push(entry?);
    }
    Ok(all)
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> bool {
    future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
}
