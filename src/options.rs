//! Every limit of the crate, with the reason for each default. Checked once, when a log is opened.

use crate::commit::committer::WhenFull;
use crate::commit::group::Room;
use crate::commit::observer::Observer;
use crate::commit::policy::{Adaptive, Fixed, GroupPolicy, PolicyMaker};
use crate::commit::queue;
use crate::commit::retention::Retention;
use crate::error::{Error, ErrorKind, Result};
use crate::format::note;
use crate::io::{BLOCK_BYTES, Backend, DiskConfig};
use crate::segment::method::{Packing, Prealloc, SyncMethod};
use crate::segment::pipeline::space;
use crate::segment::spares;
use crate::types::Durability;
use crate::types::Start;
use crate::wal::SubmissionThread;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How a log is created, opened and run. Start from [`Options::new`]; every setting has a default.
///
/// ```
/// use seawal::Options;
/// let options = Options::new().segment_bytes(16_000_000).record_bytes_max(1 << 20);
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) backend: Backend,
    pub(crate) thread: Option<SubmissionThread>,
    pub(crate) sync_method: SyncMethod,
    pub(crate) packing: Packing,
    pub(crate) prealloc: Prealloc,
    pub(crate) durability: Durability,
    pub(crate) sync_interval: Duration,
    pub(crate) segment_bytes: u64,
    pub(crate) record_bytes_max: usize,
    pub(crate) group_bytes_max: usize,
    pub(crate) group_records_max: usize,
    pub(crate) group_delay: Duration,
    pub(crate) group_policy: Option<PolicyMaker>,
    pub(crate) in_flight_max: usize,
    pub(crate) recent_bytes_max: usize,
    pub(crate) queue_bytes_max: usize,
    pub(crate) queue_records_max: usize,
    pub(crate) spin: Duration,
    pub(crate) stay_awake: Duration,
    pub(crate) idle_mark_after: Option<Duration>,
    pub(crate) lock_wait: Duration,
    pub(crate) metadata: Option<Bytes>,
    pub(crate) start: Start,
    pub(crate) recycle: bool,
    pub(crate) log_bytes_max: Option<u64>,
    pub(crate) when_full: WhenFull,
    pub(crate) retention: Retention,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            backend: Backend::Auto,
            thread: None,
            sync_method: SyncMethod::Auto,
            packing: Packing::Dense,
            prealloc: Prealloc::ZeroFill,
            durability: Durability::Durable,
            // Redis' everysec.
            sync_interval: Duration::from_secs(1),
            // etcd's.
            segment_bytes: 64_000_000,
            // Above any sane record; below what makes a reader's memory a surprise.
            record_bytes_max: 64 << 20,
            // A sync costs about as much as writing a few hundred KiB; groups larger than a buffer only add latency.
            group_bytes_max: BUFFER_BYTES_MAX,
            // No limit of its own: bytes are what costs.
            group_records_max: usize::MAX,
            // A group gathers while the one before it is written.
            group_delay: Duration::ZERO,
            group_policy: None,
            // More make groups smaller, and on few cores that costs more than it gives.
            in_flight_max: 3,
            recent_bytes_max: 8 << 20,
            // Several groups, and room for one record of the largest size.
            queue_bytes_max: 64 << 20,
            // Bounds what wake-ups cost at a time.
            queue_records_max: 1 << 20,
            // A caller takes 20 to 40 us to come back, and so does waking a thread.
            spin: Duration::from_micros(50),
            stay_awake: Duration::from_micros(250),
            // Long against a commit, short against what a person calls idle.
            idle_mark_after: Some(Duration::from_millis(100)),
            // After a SIGKILL the kernel keeps the lock 20 to 75 ms.
            lock_wait: Duration::from_secs(2),
            metadata: None,
            start: Start::Beginning,
            recycle: true,
            log_bytes_max: None,
            when_full: WhenFull::Wait,
            retention: Retention::default(),
            observer: None,
        }
    }
}

/// What `record_bytes_max` may be.
const RECORD_BYTES_LIMIT: usize = 512 << 20;
/// Length of a write buffer, at most: a MiB of records, and what is around them.
const BUFFER_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// All write buffers together, at most: half of the usual RLIMIT_MEMLOCK of 8 MiB.
const BUFFERS_BYTES_MAX: usize = 4 << 20;

impl Options {
    /// All defaults.
    #[must_use]
    pub fn new() -> Options {
        Options::default()
    }

    /// What runs the I/O. Default: [`Backend::Auto`].
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Options {
        self.backend = backend;
        self
    }

    /// Runs the log on this thread, beside others. Default: a thread of its own, on [`Options::backend`].
    #[must_use]
    pub fn submission_thread(mut self, thread: &SubmissionThread) -> Options {
        self.thread = Some(thread.clone());
        self
    }

    /// How groups become durable. Default: [`SyncMethod::Auto`].
    #[must_use]
    pub fn sync_method(mut self, method: SyncMethod) -> Options {
        self.sync_method = method;
        self
    }

    /// Where groups start and end with [`SyncMethod::Fdatasync`]; [`SyncMethod::Dsync`] always takes whole blocks.
    /// Default: [`Packing::Dense`].
    #[must_use]
    pub fn packing(mut self, packing: Packing) -> Options {
        self.packing = packing;
        self
    }

    /// How the next segment is prepared. Default: [`Prealloc::ZeroFill`].
    #[must_use]
    pub fn prealloc(mut self, prealloc: Prealloc) -> Options {
        self.prealloc = prealloc;
        self
    }

    /// What an append waits for, unless [`Wal::with_durability`](crate::Wal::with_durability) says otherwise. Default:
    /// [`Durability::Durable`].
    ///
    /// With [`Durability::Written`] a loss of power takes at most what was appended within the last
    /// [`Options::sync_interval`] and the time of one sync; a crash of the process takes nothing.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Options {
        self.durability = durability;
        self
    }

    /// What was appended with [`Durability::Written`] is synced at the latest after this time, if nothing else has
    /// made it durable. Default: 1 s.
    #[must_use]
    pub fn sync_interval(mut self, interval: Duration) -> Options {
        self.sync_interval = interval;
        self
    }

    /// A segment is at most this long, unless a single append or batch is longer; its space is reserved before it is used,
    /// and 8 KiB more, for the record of a release on a full disk.
    /// Default: 64,000,000 bytes, as etcd. At least 16 KiB.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Options {
        self.segment_bytes = bytes;
        self
    }

    /// A payload larger than this is refused with [`ErrorKind::TooLarge`]. Default: 64 MiB; at most 512 MiB.
    ///
    /// etcd up to 3.5.4 does not read records of 10 MiB and more: for logs that it must read, set 10 MiB less
    /// 128 bytes.
    #[must_use]
    pub fn record_bytes_max(mut self, bytes: usize) -> Options {
        self.record_bytes_max = bytes;
        self
    }

    /// Appends that wait are committed together up to this many bytes, and up to half a segment; a single append or
    /// batch may be larger. Default: 1,088 KiB, which 16 records of 64 KiB fit into. At least 4 KiB.
    #[must_use]
    pub fn group_bytes_max(mut self, bytes: usize) -> Options {
        self.group_bytes_max = bytes;
        self
    }

    /// Appends beyond this many waiting bytes wait for room. Each record counts 128 bytes more than its payload.
    /// Default: 64 MiB. At least 4 KiB; a larger single append goes alone.
    #[must_use]
    pub fn queue_bytes_max(mut self, bytes: usize) -> Options {
        self.queue_bytes_max = bytes;
        self
    }

    /// Appends beyond this many waiting records wait for room. Default: 1,048,576. At least 1; a larger batch goes
    /// alone.
    #[must_use]
    pub fn queue_records_max(mut self, records: usize) -> Options {
        self.queue_records_max = records;
        self
    }

    /// A group holds at most so many records; a single batch may be larger. Default: no limit.
    #[must_use]
    pub fn group_records_max(mut self, records: usize) -> Options {
        self.group_records_max = records;
        self
    }

    /// A group waits this long for more appends before it is committed, unless it is full
    /// ([`Options::group_records_max`], [`Options::group_bytes_max`]). Every append then takes that much longer, and the
    /// disk is asked less often. Takes the place of the default policy. Default: zero, that is the default policy.
    ///
    /// The threads backend rounds a delay that is longer than [`Options::spin`] up to whole milliseconds.
    #[must_use]
    pub fn group_delay(mut self, delay: Duration) -> Options {
        self.group_delay = delay;
        self
    }

    /// Decides when groups are committed, in place of the default policy and [`Options::group_delay`]. `make` is called
    /// for each log that is opened.
    #[cfg(feature = "experimental")]
    #[must_use]
    pub fn group_policy(
        mut self,
        make: impl Fn() -> Box<dyn GroupPolicy> + Send + Sync + 'static,
    ) -> Options {
        self.group_policy = Some(PolicyMaker(std::sync::Arc::new(make)));
        self
    }

    /// So many groups may be written at the same time, with [`SyncMethod::Dsync`]; they are reported in order.
    /// [`SyncMethod::Fdatasync`] writes one at a time: of two concurrent syncs of a file only one is told of a write that
    /// was lost. Default: 3; 1 to 32.
    #[must_use]
    pub fn in_flight_max(mut self, groups: usize) -> Options {
        self.in_flight_max = groups;
        self
    }

    /// The newest records are kept in memory up to this many bytes, for those who follow the log ([`Wal::tail`]) and for
    /// other reads of them. Zero keeps none. Default: 8 MiB; at most 1 GiB.
    ///
    /// [`Wal::tail`]: crate::Wal::tail
    #[must_use]
    pub fn recent_bytes_max(mut self, bytes: usize) -> Options {
        self.recent_bytes_max = bytes;
        self
    }

    /// The submission thread looks for new appends for this long before it goes to sleep, as long as that pays; after
    /// some times in vain it stops. Zero never spins. On a machine with one core it never does. Default: 50 us.
    #[must_use]
    pub fn spin(mut self, time: Duration) -> Options {
        self.spin = time;
        self
    }

    /// While an append waits for the disk and no other does, its task keeps the thread of its runtime from going to sleep,
    /// for this long at most and as long as that pays: to wake the thread would take a third of a commit on a good disk.
    /// Other tasks run meanwhile, also those that are part of the same one (`join!`, `select!`), which are polled often;
    /// what it takes is CPU time, as much as the record is with the disk. Outside of tokio, as with
    /// [`Wal::append_blocking`](crate::Wal::append_blocking), the thread itself is busy. One append in 16 sleeps in any case:
    /// some runtimes submit I/O only when their thread does. Zero never stays awake, nor is it done on a machine with one
    /// core. Default: 250 us; at most 10 ms.
    #[must_use]
    pub fn stay_awake(mut self, time: Duration) -> Options {
        self.stay_awake = time;
        self
    }

    /// After this long without appends, a mark is written that proves the last records durable: from then on
    /// damage to them is told from a torn write. `None` writes no idle marks. Default: 100 ms.
    #[must_use]
    pub fn idle_mark_after(mut self, after: Option<Duration>) -> Options {
        self.idle_mark_after = after;
        self
    }

    /// How long opening waits for the lock of another process. Default: 2 s.
    #[must_use]
    pub fn lock_wait(mut self, wait: Duration) -> Options {
        self.lock_wait = wait;
        self
    }

    /// Bytes that every segment of a new log begins with, for the application's own use (etcd: node and cluster
    /// id). Opening an existing log takes no notice. Default: not set.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<Bytes>) -> Options {
        self.metadata = Some(metadata.into());
        self
    }

    /// Where an existing log is read from. Entries before it are not looked at. Default: [`Start::Beginning`].
    #[must_use]
    pub fn start(mut self, start: Start) -> Options {
        self.start = start;
        self
    }

    /// Files of released segments are used again for later ones, unless they have more than one name, or the file system
    /// copies on write. Their space stays reserved meanwhile: one at a time, or in a log of fixed size
    /// ([`Options::log_bytes_max`]) all. Default: yes.
    #[must_use]
    pub fn recycle(mut self, recycle: bool) -> Options {
        self.recycle = recycle;
        self
    }

    /// The log never has more segments than these bytes are for, the one included that is prepared; each takes
    /// [`Options::segment_bytes`] and up to 12 KiB. When it is full, appends wait or fail ([`Options::when_full`]) until
    /// [`Wal::release`](crate::Wal::release) lets segments go. Then a single append or batch may have half a segment. Default:
    /// no limit. At least four segments.
    #[must_use]
    pub fn log_bytes_max(mut self, bytes: u64) -> Options {
        self.log_bytes_max = Some(bytes);
        self
    }

    /// What appends do while a log with [`Options::log_bytes_max`] is full. Default: [`WhenFull::Wait`].
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Options {
        self.when_full = when_full;
        self
    }

    /// Releases the oldest segments when all of them together have more bytes than this: see [`Options::retain_segments`].
    #[must_use]
    pub fn retain_bytes(mut self, bytes: u64) -> Options {
        self.retention.bytes_max = Some(bytes);
        self
    }

    /// Releases the oldest segments when there are more than so many, as [`Wal::release`](crate::Wal::release) does. That is
    /// looked at whenever a segment is begun; the newest two stay, and so does what the last hard state, if there is one,
    /// does not say is committed. Default: everything is kept.
    #[must_use]
    pub fn retain_segments(mut self, segments: usize) -> Options {
        self.retention.segments_max = Some(segments);
        self
    }

    /// Releases segments that were sealed longer ago than this: see [`Options::retain_segments`].
    #[must_use]
    pub fn retain_age(mut self, age: Duration) -> Options {
        self.retention.age_max = Some(age);
        self
    }

    /// Those of the log of an application that shows all appends to `observer`, and makes its records longer by so much.
    pub(crate) fn for_layer(
        mut self,
        metadata: &'static [u8],
        overhead: usize,
        observer: Arc<dyn Observer>,
    ) -> Options {
        self.metadata = Some(Bytes::from_static(metadata));
        self.record_bytes_max = (self.record_bytes_max + overhead).min(RECORD_BYTES_LIMIT);
        self.observer = Some(observer);
        self
    }

    /// Files that the log may have.
    pub(crate) fn file_limits(&self, copy_on_write: bool) -> spares::Limits {
        let recycle = self.recycle && !copy_on_write;
        let files_max = self.log_bytes_max.map(|bytes| bytes / space(self.segment_bytes));
        let files_max = files_max.map_or(usize::MAX, |files| files as usize);
        let spares_max = match (recycle, self.log_bytes_max) {
            (false, _) => 0,
            (true, None) => 1,
            (true, Some(_)) => files_max,
        };
        spares::Limits { files_max, spares_max }
    }

    /// The limits, and how they hang together.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid =
            |what: &str| Err(Error::new(ErrorKind::InvalidInput, what).next("change the options"));
        if self.segment_bytes < 16 << 10 {
            return invalid("segment_bytes is below 16 KiB");
        }
        if self.record_bytes_max > RECORD_BYTES_LIMIT {
            return invalid("record_bytes_max is above 512 MiB");
        }
        if self.group_bytes_max < 4 << 10 || self.group_bytes_max > 1 << 30 {
            return invalid("group_bytes_max is not between 4 KiB and 1 GiB");
        }
        if self.queue_bytes_max < 4 << 10 || self.queue_bytes_max > 1 << 31 {
            return invalid("queue_bytes_max is not between 4 KiB and 2 GiB");
        }
        if self.queue_records_max == 0 || self.queue_records_max > 1 << 31 {
            return invalid("queue_records_max is not between 1 and 2^31");
        }
        if self.group_records_max == 0 {
            return invalid("group_records_max is zero");
        }
        if self.in_flight_max == 0 || self.in_flight_max > 32 {
            return invalid("in_flight_max is not between 1 and 32");
        }
        if self.recent_bytes_max > 1 << 30 {
            return invalid("recent_bytes_max is above 1 GiB");
        }
        if self.log_bytes_max.is_some_and(|bytes| bytes / space(self.segment_bytes) < 4) {
            return invalid("log_bytes_max is below four segments, each 8 KiB above segment_bytes");
        }
        if self.group_delay > Duration::from_secs(60) {
            return invalid("group_delay is longer than a minute");
        }
        if self.spin > Duration::from_millis(10) {
            return invalid("spin is longer than 10 ms");
        }
        if self.stay_awake > Duration::from_millis(10) {
            return invalid("stay_awake is longer than 10 ms");
        }
        if self.metadata.as_ref().is_some_and(|metadata| metadata.len() > 1 << 20) {
            return invalid("metadata is longer than 1 MiB");
        }
        if self.observer.is_none() && self.metadata.as_deref() == Some(note::STREAMS) {
            return invalid("this metadata is that of logs of named streams");
        }
        Ok(())
    }

    pub(crate) fn disk_config(&self) -> DiskConfig {
        // Each group in flight uses one at a time.
        let buffer_count = self.in_flight_max.max(2);
        let buffer_bytes_max = BUFFER_BYTES_MAX.min(BUFFERS_BYTES_MAX / buffer_count);
        DiskConfig {
            buffer_count,
            buffer_bytes: self
                .group_bytes_max
                .clamp(BLOCK_BYTES, buffer_bytes_max)
                .next_multiple_of(BLOCK_BYTES),
        }
    }

    pub(crate) fn queue_limits(&self) -> queue::Limits {
        queue::Limits {
            room: Room { bytes: self.queue_bytes_max, records: self.queue_records_max },
            record_bytes_max: self.record_bytes_max,
            // A group of many small appends shall not outgrow the segment it goes to.
            group_bytes_max: (self.group_bytes_max as u64).min(self.segment_bytes / 2),
            group_records_max: self.group_records_max,
            append_bytes_max: match self.log_bytes_max {
                Some(_) => self.segment_bytes / 2,
                None => u64::MAX,
            },
            awake_max: with_cores(self.stay_awake),
        }
    }

    pub(crate) fn make_policy(&self) -> Box<dyn GroupPolicy> {
        match &self.group_policy {
            Some(maker) => maker.0(),
            None if self.group_delay > Duration::ZERO => Box::new(Fixed::new(self.group_delay)),
            None => Box::<Adaptive>::default(),
        }
    }

    /// For how long the submission thread may spin on this machine.
    pub(crate) fn spin_limit(&self) -> Duration {
        with_cores(self.spin)
    }
}

/// For how long a thread may be busy with waiting: not at all where it is the only one that can run.
fn with_cores(time: Duration) -> Duration {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores > 1 { time } else { Duration::ZERO }
}
