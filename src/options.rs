//! Every limit of the crate, with the reason for each default. Checked once, when a log is opened.

use crate::error::{Error, ErrorKind, Result};
use crate::format::Packing;
use crate::io::{BLOCK_BYTES, Backend, DiskConfig};
use crate::types::Start;
use bytes::Bytes;
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
    pub(crate) segment_bytes: u64,
    pub(crate) record_bytes_max: usize,
    pub(crate) group_bytes_max: usize,
    pub(crate) queue_bytes_max: usize,
    pub(crate) packing: Packing,
    pub(crate) idle_mark_after: Option<Duration>,
    pub(crate) lock_wait: Duration,
    pub(crate) metadata: Option<Bytes>,
    pub(crate) start: Start,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            backend: Backend::Auto,
            // etcd's.
            segment_bytes: 64_000_000,
            // Above any sane record; below what makes a reader's memory a surprise.
            record_bytes_max: 64 << 20,
            // A sync costs about as much as writing a few hundred KiB; larger groups only add latency.
            group_bytes_max: 1 << 20,
            // Several groups, and room for one record of the largest size.
            queue_bytes_max: 64 << 20,
            packing: Packing::Dense,
            // Long against a commit, short against what a person calls idle.
            idle_mark_after: Some(Duration::from_millis(100)),
            // After a SIGKILL the kernel keeps the lock 20 to 75 ms.
            lock_wait: Duration::from_secs(2),
            metadata: None,
            start: Start::Beginning,
        }
    }
}

/// Write buffers of a log: one is filled while another is written.
const BUFFER_COUNT: usize = 2;
/// Length of each. Together they stay far below the usual RLIMIT_MEMLOCK of 8 MiB.
const BUFFER_BYTES_MAX: usize = 1 << 20;

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

    /// A segment is at most this long, unless a single append or batch is longer; its space is reserved before it is used.
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
    /// batch may be larger. Default: 1 MiB. At least 4 KiB.
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

    /// Where groups start and end. Default: [`Packing::Dense`].
    #[must_use]
    pub fn packing(mut self, packing: Packing) -> Options {
        self.packing = packing;
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

    /// The limits, and how they hang together.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid =
            |what: &str| Err(Error::new(ErrorKind::InvalidInput, what).next("change the options"));
        if self.segment_bytes < 16 << 10 {
            return invalid("segment_bytes is below 16 KiB");
        }
        if self.record_bytes_max > 512 << 20 {
            return invalid("record_bytes_max is above 512 MiB");
        }
        if self.group_bytes_max < 4 << 10 || self.group_bytes_max > 1 << 30 {
            return invalid("group_bytes_max is not between 4 KiB and 1 GiB");
        }
        if self.queue_bytes_max < 4 << 10 || self.queue_bytes_max > 1 << 31 {
            return invalid("queue_bytes_max is not between 4 KiB and 2 GiB");
        }
        if self.metadata.as_ref().is_some_and(|metadata| metadata.len() > 1 << 20) {
            return invalid("metadata is longer than 1 MiB");
        }
        Ok(())
    }

    pub(crate) fn disk_config(&self) -> DiskConfig {
        DiskConfig {
            buffer_count: BUFFER_COUNT,
            buffer_bytes: self
                .group_bytes_max
                .clamp(BLOCK_BYTES, BUFFER_BYTES_MAX)
                .next_multiple_of(BLOCK_BYTES),
        }
    }
}
