//! What runs on the submission thread: open or create the log, then commit and serve reads until it is closed.
//!
//! The job is one async function over any disk. On a thread of its own it gets a real one ([`on_a_thread`]); tests
//! run it on the simulated one. However it ends, by closing, by a failure or by a panic, whoever waits for it is
//! told ([`Shared::finish`]): nobody hangs.

use super::report::Recovery;
use crate::commit::committer::{Committer, Limits};
use crate::commit::queue::{Order, Queue, Request};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Chain, GroupEncoder, LogId, MarkKind, Place, Record};
use crate::inbox::Inbox;
use crate::io::{self, BLOCK_BYTES, Backend, Disk, OnDisk};
use crate::options::Options;
use crate::recovery::reader::{self, ReadRequest};
use crate::recovery::repair;
use crate::recovery::scan::{self, Scan};
use crate::segment::active::Active;
use crate::segment::dir;
use crate::segment::name::{PREPARED, SegmentName};
use crate::segment::pipeline::{self, LeftOver, Pipeline};
use crate::tail::Tail;
use crate::types::{Position, Seq, Snapshot};
use crate::watermark::{self, Mover, Watermark};
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::oneshot;

/// What the handles and the submission thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub queue: Arc<Queue>,
    pub reads: Arc<Inbox<ReadRequest>>,
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
    fn finish(&self, error: &Error) {
        let error = self.gone.get_or_init(|| error.clone());
        for request in self.queue.inbox.desert(error.clone()) {
            if let Request::Append(append) = request {
                append.reply.resolve(Err(error.clone()));
            }
        }
        drop(self.reads.desert(error.clone()));
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
}

/// Everything the submission thread needs.
pub(crate) struct Job {
    dir: PathBuf,
    options: Options,
    how: How,
    shared: Arc<Shared>,
    opened: oneshot::Sender<Result<Opened>>,
    done: flume::Sender<Infallible>,
}

/// A job, and where it reports that the log is open.
pub(crate) fn job(
    dir: &Path,
    options: Options,
    how: How,
) -> (Job, oneshot::Receiver<Result<Opened>>) {
    let (opened, receiver) = oneshot::channel();
    let (done, disconnected) = flume::bounded(0);
    let shared = Arc::new(Shared {
        queue: Arc::new(Queue::new(options.queue_bytes_max, options.record_bytes_max)),
        reads: Arc::new(Inbox::new()),
        watermark: OnceLock::new(),
        gone: OnceLock::new(),
        done: disconnected,
    });
    (Job { dir: dir.to_owned(), options, how, shared, opened, done }, receiver)
}

impl Job {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// Runs a job on a thread of its own, on the disk that the options ask for.
pub(crate) fn on_a_thread(job: Job) -> Result<()> {
    let run = move || {
        let shared = Arc::clone(&job.shared);
        let done = job.done.clone();
        let (backend, config) = (job.options.backend, job.options.disk_config());
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| io::run(backend, config, job)));
        shared.finish(&match outcome {
            Ok(Ok(())) => Error::closed(),
            Ok(Err(error)) => {
                Error::new(ErrorKind::Io, format!("setting up the {backend} backend failed"))
                    .next("use Backend::Auto or Backend::Threads (--backend threads)")
                    .because(error)
            }
            Err(panic) => panicked(panic.as_ref()),
        });
        drop(done);
    };
    std::thread::Builder::new().name("seawal".into()).spawn(run).map(drop).map_err(|error| {
        Error::new(ErrorKind::Io, "starting the submission thread failed").because(error)
    })
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
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
        let Job { dir, options, how, shared, opened, done } = self;
        let log = match how {
            How::Read => read_only(&disk, &dir, &options).await,
            _ => writable(&disk, &dir, &options, how, &shared).await,
        };
        let log = match log {
            Ok(log) => log,
            Err(error) => {
                shared.finish(&error);
                let _ = opened.send(Err(error));
                return;
            }
        };
        let Log { watermark, recovery, committer } = log;
        shared.watermark.get_or_init(|| watermark.clone());
        disk.spawn(reader::serve(disk.clone(), Arc::clone(&shared.reads)));
        // If nobody waits any more, the handle is gone too, and with it came the request to close.
        let _ = opened.send(Ok(Opened { watermark, recovery, backend: disk.name() }));
        match committer {
            Some(committer) => committer.run().await,
            None => while !matches!(shared.queue.inbox.receive().await, Request::Close(_)) {},
        }
        shared.finish(&Error::closed());
        drop(done);
    }
}

/// An open log on its disk.
struct Log<D: Disk> {
    watermark: Watermark,
    recovery: Recovery,
    /// `None` when it is open for reading only.
    committer: Option<Committer<D>>,
}

async fn read_only<D: Disk>(disk: &D, dir: &Path, options: &Options) -> Result<Log<D>> {
    let scan = scan::scan_unlocked(disk, dir, options.start).await?;
    let (_, watermark) = watermark_of(&scan);
    Ok(Log { watermark, recovery: Recovery::new(&scan, None), committer: None })
}

async fn writable<D: Disk>(
    disk: &D,
    dir: &Path,
    options: &Options,
    how: How,
    shared: &Shared,
) -> Result<Log<D>> {
    match how {
        How::Create => create(disk, dir, options).await?,
        How::OpenOrCreate => create_if_missing(disk, dir, options).await?,
        How::Open | How::Read => {}
    }
    let (file, segments) = dir::lock_newest(disk, dir, options.lock_wait).await?;
    let scan = scan::scan(disk, &segments, options.start).await?;
    check_numbers(&scan)?;
    let repaired = repair::repair(disk, dir, &file, &scan, options.segment_bytes).await?;
    let recovery = Recovery::new(&scan, Some(&repaired));
    if let Some(cut) = &recovery.cut {
        tracing::warn!(path = %cut.path.display(), position = %cut.position, bytes = cut.bytes,
            reason = cut.reason, "cut a torn tail");
    }

    let (mover, watermark) = watermark_of(&scan);
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
    };
    shared.queue.set_order(Order { live: scan.replay.live.clone(), term: tail.term });
    let mut committer = Committer {
        dir: dir.to_owned(),
        limits: Limits {
            segment_bytes: options.segment_bytes,
            // A group of many small appends shall not outgrow the segment it goes to.
            group_bytes_max: (options.group_bytes_max as u64).min(options.segment_bytes / 2),
            packing: options.packing,
            idle_mark_after: options.idle_mark_after,
        },
        queue: Arc::clone(&shared.queue),
        mover,
        active: Active {
            disk: disk.clone(),
            file,
            path: newest.path.clone(),
            seq: newest.name.seq,
            offset: scan.end.offset,
            allocated: repaired.allocated,
        },
        pipeline: Pipeline::start(disk.clone(), dir, options.segment_bytes),
        tail,
        head_end: 0,
        unproven: false,
    };
    if let Err(error) = committer.mark(MarkKind::Recovery).await {
        committer.abandon().await;
        return Err(error);
    }
    Ok(Log { watermark, recovery, committer: Some(committer) })
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

/// Creates the log unless there is one, or somebody creates one meanwhile.
async fn create_if_missing<D: Disk>(disk: &D, dir: &Path, options: &Options) -> Result<()> {
    let deadline = disk.now().saturating_add(options.lock_wait);
    loop {
        if has_log(disk, dir).await? {
            return Ok(());
        }
        match create(disk, dir, options).await {
            Err(error) if error.kind() == ErrorKind::Exists => return Ok(()),
            Err(error) if error.is_locked() && disk.now() < deadline => {
                disk.sleep(Duration::from_millis(5)).await;
            }
            outcome => return outcome,
        }
    }
}

fn watermark_of(scan: &Scan) -> (Mover, Watermark) {
    let segments = scan.segments.iter().map(|segment| (segment.name.seq, segment.path.clone()));
    watermark::watermark(scan.end, scan.replay.live.clone(), segments.collect())
}

fn new_id<D: Disk>(disk: &D) -> Result<LogId> {
    let id = disk.random_id();
    id.map(LogId).map_err(|error| {
        Error::new(ErrorKind::Io, "drawing a random id for the log failed").because(error)
    })
}

/// Whether `dir` holds anything by the name of a segment, as etcd asks it.
async fn has_log<D: Disk>(disk: &D, dir: &Path) -> Result<bool> {
    match disk.list(dir).await {
        Ok(entries) => {
            Ok(entries.iter().any(|entry| entry.name.as_encoded_bytes().ends_with(b".wal")))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("listing the directory", dir, error)),
    }
}

/// Reads the valid snapshot records of a log, on a thread of its own: the caller may be inside a runtime.
pub(crate) fn snapshots(dir: &Path) -> Result<Vec<Snapshot>> {
    struct Snapshots<'a>(&'a Path);

    impl OnDisk for Snapshots<'_> {
        type Output = Result<Vec<Snapshot>>;

        async fn run<D: Disk>(self, disk: D) -> Self::Output {
            let segments = dir::list_log(&disk, self.0).await?;
            scan::snapshots(&disk, &segments).await
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

/// Puts an empty log into `dir`. The log is there from the moment its first segment has its name, and it gets that
/// name only when the segment, and the directory's own name, are durable.
async fn create<D: Disk>(disk: &D, dir: &Path, options: &Options) -> Result<()> {
    let exists = || {
        Error::new(ErrorKind::Exists, "there is a log already")
            .at_path(dir)
            .next("open it, or choose another directory")
    };
    if has_log(disk, dir).await? {
        return Err(exists());
    }
    match disk.create_dir(dir).await {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::NotFound, "the directory above it does not exist")
                .at_path(dir)
                .next("create that first"));
        }
        Err(error) => return Err(Error::io("creating the directory", dir, error)),
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => dir,
    };
    disk.sync_dir(parent)
        .await
        .map_err(|error| Error::io("syncing the parent directory", parent, error))?;

    let whose = LeftOver::MayBeAnothers;
    let prepared = pipeline::prepare(disk, dir, options.segment_bytes, whose).await?;
    // Whoever created the log since we looked has let go of the prepared name.
    let outcome = match has_log(disk, dir).await {
        Ok(true) => Err(exists()),
        Ok(false) => write_first_segment(disk, dir, options, prepared).await,
        Err(error) => Err(error),
    };
    // Where a log is, the name is its owner's to remove.
    if outcome.as_ref().is_err_and(|error| error.kind() != ErrorKind::Exists) {
        let _ = disk.remove_file(&dir.join(PREPARED)).await;
    }
    outcome
}

async fn write_first_segment<D: Disk>(
    disk: &D,
    dir: &Path,
    options: &Options,
    prepared: pipeline::Prepared<D::File>,
) -> Result<()> {
    let start = Position::new(Seq(0), 0);
    let place = Place {
        position: start,
        chain: Chain::default(),
        kind: MarkKind::Head,
        log_id: new_id(disk)?,
        epoch: 0,
        group: 1,
        first_index: 1,
        durable: start,
        boundary: options.packing.boundary(BLOCK_BYTES as u64),
    };
    let records =
        [Record::Metadata(options.metadata.clone()), Record::Snapshot(Snapshot::default())];
    let mut encoder = GroupEncoder::new(&place, &records);
    let name = SegmentName { seq: start.seq, index: 0 };
    let (bytes, fill) = (encoder.bytes(), |buffer: &mut [u8]| encoder.fill(buffer));
    // The name becomes durable with the directory sync of the opening that follows, before anyone is told.
    Active::begin(disk, prepared, dir, name, bytes, fill).await.map(drop)
}
