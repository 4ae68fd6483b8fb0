//! What runs on the submission thread: open or create the log, then commit and serve reads until it is closed.
//!
//! The job is one async function over any disk. On a thread ([`super::thread`]) it gets a real one; tests run it on
//! the simulated one. However it ends, by closing, by a failure or by a panic, its own or that of the runtime below it,
//! whoever waits for it is told ([`Shared::finish`]): nobody hangs.

use super::create::{create, create_if_missing, new_id};
use super::report::Recovery;
use super::thread::SubmissionThread;
use crate::backup::{self, BackupRequest};
use crate::commit::committer::{Committer, Limits};
use crate::commit::flight::Flights;
use crate::commit::observer::Observed;
use crate::commit::queue::{Order, Queue};
use crate::commit::rest::Rest;
use crate::commit::retire::Retire;
use crate::commit::spin::Spin;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{MarkKind, note};
use crate::inbox::Inbox;
use crate::io::{self, Backend, Disk, DiskFile, OnDisk, Zeroing};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::read::serve::{self, OpenFiles, ReadRequest};
use crate::recovery::follow;
use crate::recovery::handout::Handout;
use crate::recovery::notes::{self, Notes};
use crate::recovery::repair;
use crate::recovery::scan::{self, Scan};
use crate::recovery::starts;
use crate::recovery::verify::{self, VerifyRequest};
use crate::retained::Segment;
use crate::segment::active::Active;
use crate::segment::dir::{self, SegmentFile};
use crate::segment::method::{Method, Prealloc};
use crate::segment::pipeline::{self, Pipeline, Preparation};
use crate::segment::spares::{self, Spares};
use crate::tail::Tail;
use crate::types::Snapshot;
use crate::watermark::{self, Mover, Watermark, unharmed};
use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use tokio::sync::oneshot;

/// Zeros that opening writes behind the end of the log, at most: what comes after is cut to a segment that was
/// prepared in the background.
const OPEN_ZERO_BYTES_MAX: u64 = 32 << 20;

/// A reader looks so often for a log whose notes are not gone before it has read them.
const NOTE_LOOKS_MAX: usize = 4;

/// What the handles and the submission thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub queue: Arc<Queue>,
    pub reads: Arc<Inbox<ReadRequest>>,
    pub verifications: Arc<Inbox<VerifyRequest>>,
    pub backups: Arc<Inbox<BackupRequest>>,
    pub dir: PathBuf,
    pub metrics: Arc<Metrics>,
    watermark: OnceLock<Watermark>,
    /// Why the submission thread is gone.
    gone: OnceLock<Error>,
    /// Disconnects when the submission thread is done and has let go of all files.
    done: flume::Receiver<Infallible>,
}

impl Shared {
    /// Waits until the submission thread has let go of all files.
    pub(crate) async fn ended(&self) {
        let Err(flume::RecvError::Disconnected) = self.done.recv_async().await;
    }

    /// Why the submission thread is gone; waits until it is.
    pub(crate) async fn why_gone(&self) -> Error {
        self.ended().await;
        self.gone.get().cloned().unwrap_or_else(Error::closed)
    }

    /// Tells everyone who waits, or will ask.
    pub(super) fn finish(&self, error: &Error) {
        let error = self.gone.get_or_init(|| error.clone());
        self.queue.desert(error);
        let reads = self.reads.desert(error.clone());
        reads.into_iter().for_each(|read| unharmed(|| drop(read)));
        let verifications = self.verifications.desert(error.clone());
        verifications.into_iter().for_each(|request| unharmed(|| drop(request)));
        let backups = self.backups.desert(error.clone());
        backups.into_iter().for_each(|request| unharmed(|| drop(request)));
        if let Some(watermark) = self.watermark.get() {
            watermark.end(error);
        }
    }
}

/// What to do with the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Create,
    Open,
    OpenOrCreate,
    /// Without taking the lock or changing anything.
    Read,
}

/// An open log, for its first handle.
#[derive(Debug)]
pub(crate) struct Opened {
    pub watermark: Watermark,
    pub recovery: Recovery,
    pub backend: &'static str,
    /// `None` when it is open for reading only.
    pub method: Option<Method>,
    pub notes: Notes,
}

/// Everything the submission thread needs.
pub(crate) struct Job {
    dir: PathBuf,
    options: Options,
    how: How,
    /// Of entries, while the log is opened.
    handout: Option<Handout>,
    shared: Arc<Shared>,
    opened: oneshot::Sender<Result<Opened>>,
    done: flume::Sender<Infallible>,
}

/// A job, and where it reports that the log is open.
pub(crate) fn job(
    dir: &Path,
    options: Options,
    how: How,
    handout: Option<Handout>,
) -> (Job, oneshot::Receiver<Result<Opened>>) {
    let (opened, receiver) = oneshot::channel();
    let (done, disconnected) = flume::bounded(0);
    let shared = Arc::new(Shared {
        queue: Arc::new(Queue::new(options.queue_limits())),
        reads: Arc::new(Inbox::new()),
        verifications: Arc::new(Inbox::new()),
        backups: Arc::new(Inbox::new()),
        dir: dir.to_owned(),
        metrics: Arc::default(),
        watermark: OnceLock::new(),
        gone: OnceLock::new(),
        done: disconnected,
    });
    (Job { dir: dir.to_owned(), options, how, handout, shared, opened, done }, receiver)
}

impl Job {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Runs it where its options say.
    pub(crate) fn start(mut self) -> Result<()> {
        let thread = match self.options.thread.take() {
            Some(thread) => thread,
            None => SubmissionThread::start(&self.options)?,
        };
        // The thread lives as long as a log on it.
        self.options.thread = Some(thread.clone());
        thread.run(self)
    }

    /// Tells whoever opens it that it cannot be.
    pub(super) fn refuse(self, error: &Error) {
        self.shared.finish(error);
        unharmed(|| drop(self.opened.send(Err(error.clone()))));
    }

    /// Runs it on a simulated machine, where a panic is the test's. Dropped before its end, with the process, it says so.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn simulated<D: Disk>(self, disk: D) -> impl Future<Output = ()> {
        let end = End::of(&self);
        async move {
            let mut end = end;
            Box::pin(self.run(disk)).await;
            end.why = Error::closed();
        }
    }

    /// Runs it to its end; a panic of it ends only this log. Dropped before, with the runtime, it says so.
    pub(super) fn hosted<D: Disk>(self, disk: D) -> impl Future<Output = ()> {
        // Made here already: the future may be dropped before it is polled.
        let end = End::of(&self);
        async move {
            // What is declared behind it goes before it, files and locks too: before anyone is told.
            let mut end = end;
            let mut run = Box::pin(self.run(disk));
            let outcome = poll_fn(|context| {
                match std::panic::catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(context))) {
                    Ok(poll) => poll.map(Ok),
                    Err(panic) => std::task::Poll::Ready(Err(panic)),
                }
            })
            .await;
            end.why = match outcome {
                Ok(()) => Error::closed(),
                Err(panic) => panicked(panic.as_ref()),
            };
        }
    }
}

/// The end of a job, whatever brings it: when this goes, whoever waits for the log is told why.
struct End {
    shared: Arc<Shared>,
    why: Error,
    /// Behind the word itself: who waits for the end asks for the word then.
    _done: flume::Sender<Infallible>,
}

impl End {
    /// An end that the job does not come to by itself.
    fn of(job: &Job) -> End {
        let why = Error::new(ErrorKind::Poisoned, "the submission thread panicked under the log")
            .next("reopen the log, on another submission thread");
        End { shared: Arc::clone(&job.shared), why, _done: job.done.clone() }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.shared.finish(&self.why);
    }
}

pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Error::new(ErrorKind::Poisoned, format!("the submission thread panicked: {message}"))
        .next("reopen the log: opening finds out what reached the disk")
}

impl OnDisk for Job {
    type Output = ();

    async fn run<D: Disk>(self, disk: D) {
        let Job { dir, options, how, handout, shared, opened, done: _done } = self;
        let log = match how {
            How::Read => read_only(&disk, &dir, &options, handout).await,
            _ => writable(&disk, &dir, &options, (how, handout), &shared).await,
        };
        let log = match log {
            Ok(log) => log,
            Err(error) => {
                shared.finish(&error);
                let _ = opened.send(Err(error));
                return;
            }
        };
        let Log { watermark, recovery, notes, work } = log;
        let method = match &work {
            Work::Commits(committer) => Some(committer.active.method),
            Work::Follows(..) => None,
        };
        shared.watermark.get_or_init(|| watermark.clone());
        let direct = method.is_none_or(|method| method.direct);
        let (reads, metrics) = (Arc::clone(&shared.reads), Arc::clone(&shared.metrics));
        let open = Rc::new(OpenFiles::default());
        disk.spawn(serve::serve(disk.clone(), reads, metrics, direct, Rc::clone(&open)));
        disk.spawn(verify::serve(disk.clone(), Arc::clone(&shared.verifications)));
        disk.spawn(backup::serve(disk.clone(), Arc::clone(&shared.backups)));
        // If nobody waits any more, the handle is gone too, and with it came the request to close.
        let _ =
            opened.send(Ok(Opened { watermark, recovery, backend: disk.name(), method, notes }));
        match work {
            Work::Commits(committer) => {
                committer.retire.tell(move |path| open.forget(path));
                disk.spawn(Rc::clone(&committer.retire).run());
                committer.run().await;
            }
            Work::Follows(scan, mover) => {
                let follow = follow::follow(disk, dir, *scan, mover);
                beside(follow, shared.queue.wait_close()).await;
            }
        }
        shared.finish(&Error::closed());
    }
}

/// Runs `work` as long as it takes until `end`. Here, and not as a task of its own: if it panics, that is told.
async fn beside<T>(work: impl Future<Output = ()>, end: impl Future<Output = T>) -> T {
    let (mut work, mut end) = (pin!(work), pin!(end));
    let mut works = true;
    poll_fn(|context| {
        works = works && work.as_mut().poll(context).is_pending();
        end.as_mut().poll(context)
    })
    .await
}

/// An open log on its disk.
struct Log<D: Disk> {
    watermark: Watermark,
    recovery: Recovery,
    notes: Notes,
    work: Work<D>,
}

/// What moves the marks of an open log.
enum Work<D: Disk> {
    Commits(Box<Committer<D>>),
    /// Another process writes it, or nobody.
    Follows(Box<Scan>, Mover),
}

async fn read_only<D: Disk>(
    disk: &D,
    dir: &Path,
    options: &Options,
    mut handout: Option<Handout>,
) -> Result<Log<D>> {
    let mut looks = 1;
    let (scan, notes) = loop {
        let scan = scan::scan_unlocked(disk, dir, options.start, handout.as_mut()).await?;
        match notes_of(disk, &scan).await {
            Ok(notes) => break (scan, notes),
            // Released by who writes the log, and its file perhaps used again, since the scan.
            Err(_) if looks < NOTE_LOOKS_MAX => looks += 1,
            Err(error) => return Err(error),
        }
    };
    let (mover, watermark) = watermark_of(disk, &scan, &scan.segments, options)?;
    let recovery = Recovery::new(&scan, None);
    Ok(Log { watermark, recovery, notes, work: Work::Follows(Box::new(scan), mover) })
}

async fn writable<D: Disk>(
    disk: &D,
    dir: &Path,
    options: &Options,
    (how, mut handout): (How, Option<Handout>),
    shared: &Shared,
) -> Result<Log<D>> {
    match how {
        How::Create => create(disk, dir, options).await?,
        How::OpenOrCreate => create_if_missing(disk, dir, options).await?,
        How::Open | How::Read => {}
    }
    let (file, segments) = dir::lock_newest(disk, dir, options.lock_wait).await?;
    let scan = scan::scan(disk, &segments, options.start, handout.as_mut()).await?;
    // That was all: whoever takes the entries is told.
    drop(handout);
    check_numbers(&scan)?;
    check_layer(&scan, dir, options)?;
    let notes = notes_of(disk, &scan).await?;
    let space = pipeline::space(options.segment_bytes);
    let repaired = repair::repair(disk, dir, &file, &scan, space).await?;
    let recovery = Recovery::new(&scan, Some(&repaired));
    if let Some(cut) = &recovery.cut {
        tracing::warn!(path = %cut.path.display(), position = %cut.position, bytes = cut.bytes,
            reason = cut.reason, "cut a torn tail");
    }

    let (mover, watermark) = watermark_of(disk, &scan, &segments, options)?;
    let newest = scan.newest();
    let tail = Tail {
        chain: scan.chain,
        next_index: scan.replay.live.next(),
        term: scan.replay.term_max.max(1),
        state: scan.replay.state,
        metadata: scan.replay.metadata.clone(),
        log_id: match scan.log_id {
            Some(id) => id,
            None => new_id(disk)?,
        },
        epoch: scan.epoch + 1,
        group: scan.group,
        released: scan.replay.released.clone(),
        snapshot: scan.replay.last_snapshot.clone(),
    };
    let commit = (!tail.state.is_empty()).then_some(tail.state.commit);
    let live = scan.replay.live.clone();
    shared.queue.set_order(Order { live, term: tail.term, commit, changes: 0 });
    let buffers = options.thread.as_ref().map_or(usize::MAX, |t| t.config().buffer_count);
    let geometry = file.geometry().map_err(|error| Error::io("asking", &newest.path, error))?;
    let method = Method::choose(options.sync_method, options.packing, &geometry, &newest.path)?;
    let preparation = Preparation {
        segment_bytes: options.segment_bytes,
        zero_fill: options.prealloc == Prealloc::ZeroFill && !geometry.copy_on_write,
        direct: method.direct,
    };
    spares::remove_all(disk, dir).await?;
    let spares = Rc::new(Spares::new(options.file_limits(geometry.copy_on_write), segments.len()));
    let mut committer = Committer {
        dir: dir.to_owned(),
        limits: Limits {
            segment_bytes: options.segment_bytes,
            in_flight_max: options.in_flight_max.min(buffers),
            idle_mark_after: options.idle_mark_after,
            sync_interval: options.sync_interval,
            retention: options.retention,
            when_full: options.when_full,
        },
        queue: Arc::clone(&shared.queue),
        policy: options.make_policy(),
        metrics: Arc::clone(&shared.metrics),
        spin: Spin::new(options.spin_limit()),
        gathering: Spin::new(options.spin_limit()),
        retire: Retire::new(disk.clone(), dir, watermark.clone(), Rc::clone(&spares)),
        waits_for_room: false,
        mover,
        observed: Observed::new(options.durability, options.observer.clone()),
        active: Active {
            disk: disk.clone(),
            file: Rc::new(file),
            path: newest.path.clone().into(),
            seq: newest.name.seq,
            // The end may lie within a block: the mark that brings it to a boundary goes through the page cache.
            method: Method { direct: false, ..method },
            offset: scan.end.offset,
            allocated: repaired.allocated,
            zeroed: 0,
        },
        pipeline: Pipeline::start(disk.clone(), dir, preparation, Rc::clone(&spares)),
        spares,
        tail,
        staged: scan.replay.live.clone(),
        head_end: 0,
        unproven: false,
        flights: Flights::default(),
        rest: Rest::default(),
        encoders: Vec::new(),
    };
    match make_ready(&mut committer, method, preparation).await {
        Ok(()) => Ok(Log { watermark, recovery, notes, work: Work::Commits(Box::new(committer)) }),
        Err(error) => {
            committer.abandon().await;
            Err(error)
        }
    }
}

/// The last steps of opening: the mark of the new epoch, and space behind it that is quick to write to.
async fn make_ready<D: Disk>(
    committer: &mut Committer<D>,
    method: Method,
    preparation: Preparation,
) -> Result<()> {
    committer.mark(MarkKind::Recovery).await?;
    let Active { file, path, offset, allocated, .. } = &committer.active;
    let block = io::BLOCK_BYTES as u64;
    let from = offset.next_multiple_of(method.boundary.max(block));
    let to = (*allocated).min(from + OPEN_ZERO_BYTES_MAX) / block * block;
    if preparation.zero_fill && from < to {
        pipeline::zeros_past_the_cache(&**file);
        pipeline::zero_at_once(&**file, path, from..to, Zeroing::Written).await?;
        committer.active.zeroed = to;
    }
    let Active { file, path, offset, .. } = &committer.active;
    // On a full disk the mark was left out, and the log may end within a block still: then this log goes on through the
    // page cache.
    let direct = method.direct && offset.is_multiple_of(method.boundary);
    file.set_direct(direct).map_err(|error| Error::io("switching to direct I/O", path, error))?;
    committer.active.method = Method { direct, ..method };
    Ok(())
}

/// What a layer above the log has noted, if there is one.
async fn notes_of<D: Disk>(disk: &D, scan: &Scan) -> Result<Notes> {
    if scan.replay.metadata.as_deref() != Some(note::STREAMS) {
        return Ok(Notes::default());
    }
    notes::read(disk, &scan.segments, &scan.replay.notes, scan.replay.released_to.0).await
}

/// A log that has a layer above it is written by that only: without its notes it could not be read any more.
fn check_layer(scan: &Scan, dir: &Path, options: &Options) -> Result<()> {
    let of_streams = scan.replay.metadata.as_deref() == Some(note::STREAMS);
    match (of_streams, options.observer.is_some()) {
        (true, false) => {
            let what = "a log of named streams, which only Streams can write to";
            let next = "open it with Streams::open; a Reader can read it";
            Err(Error::new(ErrorKind::Unsupported, what).at_path(dir).next(next))
        }
        (false, true) => Err(Error::new(ErrorKind::NotALog, "a log, but not one of streams")
            .at_path(dir)
            .next("open it with Wal::open, or choose another directory")),
        _ => Ok(()),
    }
}

/// Whether the numbers in the log can be counted up. No log gets to their ends; bytes that somebody made may be there.
fn check_numbers(scan: &Scan) -> Result<()> {
    let newest = scan.newest();
    let left = scan.epoch < u32::MAX - 1
        && scan.group < u64::MAX >> 2
        && newest.name.seq.0 < u64::MAX >> 1;
    match left {
        true => Ok(()),
        false => {
            let what = "the sequence, epoch or group number of this log is at its end";
            Err(Error::new(ErrorKind::Unsupported, what)
                .at_path(&newest.path)
                .next("no log gets there by itself: restore it from a copy"))
        }
    }
}

fn watermark_of<D: Disk>(
    disk: &D,
    scan: &Scan,
    segments: &[SegmentFile],
    options: &Options,
) -> Result<(Mover, Watermark)> {
    // Also those before the start: what is released later may be older.
    let now = disk.now();
    let segments = segments.iter().map(|SegmentFile { name, path }| {
        let segment = Segment::new(name.seq, name.index, path, 0, now);
        // Who does not ask for retention needs no more.
        match options.retention.is_unlimited() {
            true => Ok(segment),
            false => {
                let known = disk.length_and_age(path);
                let (bytes, age_then) =
                    known.map_err(|error| Error::io("asking for the length", path, error))?;
                Ok(Segment { bytes, age_then, ..segment })
            }
        }
    });
    let segments = segments.collect::<Result<_>>()?;
    Ok(watermark::watermark(watermark::Start {
        position: scan.end,
        live: scan.replay.live.clone(),
        index: scan.replay.index.clone(),
        segments,
        released: scan.replay.released_to,
        released_in: scan.replay.released_in,
        recent_bytes_max: options.recent_bytes_max,
    }))
}

/// Reads the valid snapshot records of a log, on a thread of its own: the caller may be inside a runtime.
pub(crate) fn snapshots(dir: &Path) -> Result<Vec<Snapshot>> {
    struct Snapshots<'a>(&'a Path);

    impl OnDisk for Snapshots<'_> {
        type Output = Result<Vec<Snapshot>>;

        async fn run<D: Disk>(self, disk: D) -> Self::Output {
            let segments = dir::list_log(&disk, self.0).await?;
            starts::snapshots(&disk, &segments).await
        }
    }

    let read = || io::run(Backend::Threads, Options::new().disk_config(), Snapshots(dir));
    let outcome = std::thread::scope(|scope| scope.spawn(read).join());
    match outcome {
        Ok(Ok(snapshots)) => snapshots,
        Ok(Err(error)) => {
            Err(Error::new(ErrorKind::Io, "setting up the reader failed").because(error))
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
