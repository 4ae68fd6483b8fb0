//! The only room that talks to the kernel.
//!
//! The engine above knows one trait, [`Disk`]: files, directories, and beside them the clock, sleeping and
//! spawning, so that the whole write path names no runtime and runs unchanged in virtual time. Three disks
//! implement it:
//!
//! | disk | what runs the operations | for |
//! |---|---|---|
//! | [`uring`] | one tokio-uring ring, buffers registered with the kernel | the normal case |
//! | [`threads`] | plain system calls; slow ones on a helper thread | kernels and containers without io_uring |
//! | `sim` | memory, with faults, crashes and a virtual clock | tests |
//!
//! # The contract
//!
//! `contract.rs` holds the suite that every disk passes. In prose:
//!
//! 1. **Everything happens on one thread.** A disk, its files and its buffers stay on the thread that made them;
//!    futures are not `Send`. Dropping a future of an operation never frees memory that the kernel still uses.
//! 2. **A write is not durable** unless it was told to be ([`Persist::Now`]). Only [`DiskFile::sync_data`] makes the
//!    bytes, and the length, of *completed* writes durable. A write that is in flight when the sync is submitted is
//!    not covered.
//! 3. **A write may be short.** `write_at` gives the kernel's count; the caller decides.
//! 4. **A name is not durable.** `create`, `rename`, `remove_file` and `create_dir` reach stable storage with
//!    [`Disk::sync_dir`] of the directory that holds the name.
//! 5. **A failed sync is final.** Afterwards cached reads may show bytes that will never reach the disk, and
//!    another sync may succeed without having written them; [`Access::ReadDirect`] shows what the disk has. A failed
//!    write with [`Persist::Now`] is the same for its own bytes: they are on the disk, in part, or not at all.
//! 6. **The lock belongs to the file that is written through** (an open-file-description lock): it is let go only
//!    when that description is closed and its last operation has ended.
//! 7. **Work that takes long leaves the thread** ([`DiskFile::offload`]): it gets the file to read, and a panic in it is
//!    an error of whoever waits for it, and of nobody else.
//! 8. **Writes in flight end in any order**, also two to the same place: whoever cares waits for the first.

use std::future::Future;
use std::io;
use std::ops::DerefMut;
use std::path::Path;
use std::time::Duration;

mod buf;
mod chunk;
mod fill;
mod geometry;
mod offload;
mod plain;
mod pool;
mod start;
mod threads;
mod uring;
mod zeros;

#[cfg(test)]
mod contract;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod sim;

pub(crate) use buf::AlignedBuf;
pub(crate) use chunk::{CHUNK_BYTES, Chunks};
pub use start::Backend;
pub(crate) use start::{DiskConfig, OnDisk, run};

/// Every address, offset and length of direct reads, and every buffer, is a multiple of this. Covers the
/// logical block of all common devices (512 and 4096) and the page.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// How a file is opened. Always close-on-exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading, through the page cache.
    Read,
    /// Reading past the page cache (`O_DIRECT`). Where the file system cannot, opening fails with `InvalidInput`
    /// (EINVAL). Offsets and lengths of reads are multiples of [`BLOCK_BYTES`]; a read that crosses the end of
    /// the file is cut there.
    ReadDirect,
    /// Reading and writing a file that exists.
    Write,
    /// Reading and writing a file that does not exist yet; mode 0600. Fails with `AlreadyExists`.
    Create,
}

/// What a slow operation may hold up. The ring ignores it: there, nothing holds up anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Commits: run at once, on the thread that asks.
    Commit,
    /// Everything else: must not delay an operation in the commit lane.
    Background,
}

/// When a write is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persist {
    /// With the next [`DiskFile::sync_data`].
    Later,
    /// When it completes (`RWF_DSYNC`): its bytes, and what is needed to read them back (length, extents). Says
    /// nothing about other writes.
    Now,
}

/// What a file's file system and device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Every address, offset and length of direct I/O is a multiple of it, which is a power of two; `None`: no direct
    /// I/O here. (Direct *reads* here keep to [`BLOCK_BYTES`] all the same.)
    pub direct_align: Option<u64>,
    /// The larger of the file system's block and the device's physical block; a power of two.
    pub block_bytes: u64,
    /// Blocks are not overwritten in place, as far as we know: btrfs, bcachefs, zfs, f2fs; but also overlayfs, fuse and
    /// network file systems, of which nothing is known.
    pub copy_on_write: bool,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirEntry {
    pub name: std::ffi::OsString,
    /// A regular file, or a link to one.
    pub is_file: bool,
}

/// The disk, the clock and the executor of one log. Cloning gives another handle to the same.
pub(crate) trait Disk: Clone + 'static {
    type File: DiskFile<Buf = Self::Buf>;
    /// A write buffer: aligned to [`BLOCK_BYTES`], as long as [`DiskConfig`] says, contents arbitrary. Given back
    /// by dropping it.
    type Buf: DerefMut<Target = [u8]> + 'static;

    /// Which disk this is: "uring", "threads" or "sim".
    fn name(&self) -> &'static str;

    /// Takes a write buffer; waits for one to be given back when all are in use.
    fn buffer(&self) -> impl Future<Output = Self::Buf>;

    fn open(
        &self,
        path: &Path,
        access: Access,
        lane: Lane,
    ) -> impl Future<Output = io::Result<Self::File>>;
    /// Opens a file for reading past the page cache, or through it where the file system cannot; says which.
    fn open_past_cache(
        &self,
        path: &Path,
        lane: Lane,
    ) -> impl Future<Output = io::Result<(Self::File, bool)>> {
        async move {
            match self.open(path, Access::ReadDirect, lane).await {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    Ok((self.open(path, Access::Read, lane).await?, false))
                }
                opened => Ok((opened?, true)),
            }
        }
    }
    /// The entries of a directory without `.` and `..`, in no particular order.
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<DirEntry>>>;
    /// Creates one directory with mode 0700; `AlreadyExists` if there is anything of that name.
    fn create_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;
    /// Renames a file, replacing what has the name `to`.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;
    fn remove_file(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// The length of a file in bytes, and for how long it was not written to.
    fn length_and_age(&self, path: &Path) -> io::Result<(u64, Duration)>;
    /// Gives a file a second name, on the same file system; `AlreadyExists` if there is anything of that name.
    fn hard_link(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;
    /// Whether the directory `path` is `dir` or lies in it, however the two are spelled.
    fn is_within(&self, path: &Path, dir: &Path) -> io::Result<bool>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;

    /// A random identity for a new log.
    fn random_id(&self) -> io::Result<[u8; 16]>;

    /// Time since an arbitrary start; never goes back.
    fn now(&self) -> Duration;
    /// At least so long. `threads` rounds up to whole milliseconds, or is busy for less than one. On the ring a sleep of nothing submits what was
    /// started; a loop of `yield_now` never does.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;
    /// Lets the other tasks of this thread run, also those that other threads have woken.
    fn yield_now(&self) -> impl Future<Output = ()> {
        tokio::task::yield_now()
    }
    /// Whether somebody may wait for something that was started and is not done yet.
    fn has_work(&self) -> bool {
        true
    }
    /// Waits for `ready` without giving the thread away, for at most `limit`; says whether it is. In virtual time
    /// nothing can happen meanwhile.
    fn spin(&self, limit: Duration, ready: impl Fn() -> bool) -> bool {
        let begun = self.now();
        loop {
            if ready() {
                return true;
            }
            if self.now().saturating_sub(begun) >= limit {
                return false;
            }
            std::hint::spin_loop();
        }
    }
    /// How many pieces of work it is worth to have offloaded at the same time ([`DiskFile::offload`]).
    fn offload_max(&self) -> usize {
        offload::threads_max()
    }
    /// Runs a task beside the caller, on the same thread. It is dropped when the main task ends.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
}

/// How a range comes to be zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeroing {
    /// The device writes them, so that a later write changes no metadata (`FALLOC_FL_WRITE_ZEROES`, of kernel 6.17).
    Written,
    /// The file system notes that the blocks read as zeros, and keeps them reserved (`FALLOC_FL_ZERO_RANGE`).
    Unwritten,
}

/// An open file. Closed when dropped.
pub(crate) trait DiskFile: 'static {
    type Buf;

    /// Reads up to `len` bytes at `offset`; fewer only at the end of the file. Repeats short reads and `EINTR`.
    fn read_at(&self, offset: u64, len: usize) -> impl Future<Output = io::Result<AlignedBuf>>;
    /// Runs `work`, which takes CPU and reads this file, on a helper thread; in the simulation here and now, where its
    /// reads are operations as others are. It begins when the future is first polled. If the future is dropped, work that
    /// has begun fails at its next read. A panic in it is an error here.
    fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn BlockingFile) -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>>;
    /// Writes the first `len` bytes of `buf` at `offset` and gives the kernel's count and the buffer back.
    fn write_at(
        &self,
        buf: Self::Buf,
        len: usize,
        offset: u64,
        persist: Persist,
    ) -> impl Future<Output = (io::Result<usize>, Self::Buf)>;
    /// As [`write_at`](Self::write_at) with [`Persist::Now`], for a caller that has nothing else to do until then: where a
    /// plain call is quicker, it may block the thread.
    fn write_alone(
        &self,
        buf: Self::Buf,
        len: usize,
        offset: u64,
    ) -> impl Future<Output = (io::Result<usize>, Self::Buf)> {
        self.write_at(buf, len, offset, Persist::Now)
    }
    /// Copies the first `len` bytes of `source` to the same place here, in large pieces and off this thread; says how many,
    /// which is fewer only where `source` ends. For a file that nothing else is written to meanwhile. Long copies are made
    /// durable bit by bit, so that no commit waits for all of it; the rest is with [`sync_data`](Self::sync_data). If the
    /// future is dropped, it ends at the next piece.
    fn copy_from(&self, source: &Self, len: u64) -> impl Future<Output = io::Result<u64>>;
    /// Makes this empty file a copy of `source` that shares all its blocks, until one of the two is written to (`FICLONE`).
    /// `Unsupported` where the file system cannot, or the two are on different ones; then nothing has changed. Not durable
    /// before [`sync_data`](Self::sync_data).
    fn reflink_from(&self, source: &Self) -> impl Future<Output = io::Result<()>>;
    /// Really writes zeros, so that the blocks are there and written and a later write changes no metadata; grows the
    /// file if need be. In pieces, one write of the disk in flight at a time, without a buffer of the pool; if the
    /// future is dropped, at most the piece under way still lands. Not durable before [`sync_data`](Self::sync_data).
    fn write_zeros(&self, offset: u64, len: u64) -> impl Future<Output = io::Result<()>>;
    /// The same without sending zeros to the device; see [`Zeroing`]. `Unsupported` where kernel, file system or device
    /// cannot: then it is for [`write_zeros`](Self::write_zeros).
    fn zero_range(
        &self,
        offset: u64,
        len: u64,
        zeroing: Zeroing,
    ) -> impl Future<Output = io::Result<()>>;
    /// Makes the bytes of completed writes, and the file's length, durable (`fdatasync`).
    fn sync_data(&self) -> impl Future<Output = io::Result<()>>;
    /// Reserves space for `offset..offset + len` and grows the file over it; new bytes read as zero
    /// (`fallocate` with mode 0). Where the file system has no such call, the file only grows (`ftruncate`).
    fn allocate(&self, offset: u64, len: u64) -> impl Future<Output = io::Result<()>>;
    fn truncate(&self, len: u64) -> impl Future<Output = io::Result<()>>;
    /// From now on this open file's reads and writes go past the page cache, or through it again; the description, and
    /// so its lock, stays. `InvalidInput` (EINVAL) where the file system cannot, and nothing has changed. Not for while
    /// operations are in flight: which of them it still concerns is open.
    ///
    /// Reads follow the rules of [`Access::ReadDirect`] then. Writes keep to [`Geometry::direct_align`] or fail with
    /// `InvalidInput`.
    fn set_direct(&self, direct: bool) -> io::Result<()>;
    /// What the file system and the device below this file can do.
    fn geometry(&self) -> io::Result<Geometry>;
    /// From now on the file is used for this.
    fn set_lane(&mut self, lane: Lane);
    /// Takes the exclusive lock of the whole file for this open file description; `false` if another has it.
    fn try_lock(&self) -> io::Result<bool>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether `path` leads to this file: not if the name is gone, or another file has it.
    fn is_at(&self, path: &Path) -> io::Result<bool>;
    /// How many names the file has.
    fn links(&self) -> io::Result<u64>;
}

/// An open file as work off the submission thread has it: its calls block.
pub(crate) trait BlockingFile {
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// As [`DiskFile::read_at`], into memory of the caller: says how much of `buf` was filled. For direct reads it is
    /// aligned to [`BLOCK_BYTES`].
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// It will be read from front to back: a hint. (Not `POSIX_FADV_WILLNEED`: the page cache would then consist of single
    /// pages, from which all later reads are slower.)
    fn will_read_on(&self);
}
