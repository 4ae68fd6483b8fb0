//! An embeddable write-ahead log for async Rust on Linux.
//!
//! `append(record).await` returns when the record is on stable storage: it survives the death of the process, a
//! crash of the kernel, and power loss. One submission thread per log drives io_uring and commits appends in groups.
//! The bytes on disk are etcd's WAL format: etcd's reader opens our logs, and we open etcd's.
//!
//! ```
//! # fn main() -> seawal::Result<()> { pollster::block_on(async {
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path().join("log");
//! use seawal::{Options, Wal};
//!
//! let (wal, recovery) = Wal::open_or_create(&dir, Options::new()).await?;
//! assert_eq!(recovery.last_index, None);
//!
//! let index = wal.append("first record").await?; // durable from here on
//! assert_eq!(index, 1);
//!
//! for entry in wal.read(1..).blocking() {
//!     println!("{:?}", entry?.data);
//! }
//! wal.close().await?;
//! # Ok(()) }) }
//! ```
//!
//! # Rooms
//!
//! Data flows one way: `wal` → `commit` → `format::encode` → `segment` → `io`. Recovery goes the other way and hands
//! the write side one plain value, where the log ends. `docs/design.md` says why each piece is as it is.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "seawal runs on Linux only: it needs open-file-description locks, fallocate and (optionally) io_uring"
);

mod backup;
mod blocking;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod commit;
mod error;
mod format;
mod inbox;
mod index;
mod io;
mod live;
#[cfg(all(test, seawal_loom))]
mod loom_tests;
mod metrics;
mod options;
mod payload;
mod read;
mod recent;
mod recovery;
mod retained;
mod segment;
mod streams;
mod sync;
mod tail;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod types;
mod wal;
mod watermark;

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use backup::{Backup, CopyBy};
pub use blocking::Blocking;
pub use commit::committer::WhenFull;
#[cfg(feature = "experimental")]
pub use commit::policy::{Adaptive, Fixed, GroupCommit, GroupDecision, GroupPolicy, GroupView};
pub use commit::ticket::Ticket;
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "internals")]
#[doc(hidden)]
pub use format::internals;
pub use io::Backend;
pub use metrics::Stats;
pub use options::Options;
pub use payload::Payload;
pub use read::entries::Entries;
pub use read::tail::Tail;
pub use recovery::verify::{Verification, VerifiedSegment};
pub use segment::method::{Packing, Prealloc, SyncMethod};
pub use streams::reading::{StreamEntries, StreamTail};
pub use streams::{NamedStream, StreamInfo, Streams};
pub use types::{
    ConfState, Durability, Entry, EntryKind, HardState, Position, Seq, Snapshot, Start,
};
pub use wal::{Cut, Reader, Recovery, Replay, Replayed, SubmissionThread, Verdict, Wal};
