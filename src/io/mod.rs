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
//! 2. **A write is not durable.** Only [`DiskFile::sync_data`] makes the bytes, and the length, of *completed*
//!    writes durable. A write that is in flight when the sync is submitted is not covered.
//! 3. **A write may be short.** `write_at` gives the kernel's count; the caller decides.
//! 4. **A name is not durable.** `create`, `rename`, `remove_file` and `create_dir` reach stable storage with
//!    [`Disk::sync_dir`] of the directory that holds the name.
//! 5. **A failed sync is final.** Afterwards cached reads may show bytes that will never reach the disk, and
//!    another sync may succeed without having written them; [`Access::ReadDirect`] shows what the disk has.
//! 6. **The lock belongs to the file that is written through** (an open-file-description lock): it is let go only
//!    when that description is closed and its last operation has ended.

use std::future::Future;
use std::io;
use std::ops::DerefMut;
use std::path::Path;
use std::time::Duration;

mod buf;
mod fill;
mod plain;
mod pool;
mod start;
mod threads;
mod uring;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod sim;

pub(crate) use buf::AlignedBuf;
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
    /// The entries of a directory without `.` and `..`, in no particular order.
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<DirEntry>>>;
    /// Creates one directory with mode 0700; `AlreadyExists` if there is anything of that name.
    fn create_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;
    /// Renames a file, replacing what has the name `to`.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;
    fn remove_file(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;

    /// A random identity for a new log.
    fn random_id(&self) -> io::Result<[u8; 16]>;

    /// Time since an arbitrary start; never goes back.
    fn now(&self) -> Duration;
    /// At least so long. `threads` rounds up to whole milliseconds. On the ring a sleep of nothing submits what was
    /// started; a loop of `yield_now` never does.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;
    /// Runs a task beside the caller, on the same thread. It is dropped when the main task ends.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
}

/// An open file. Closed when dropped.
pub(crate) trait DiskFile: 'static {
    type Buf;

    /// Reads up to `len` bytes at `offset`; fewer only at the end of the file. Repeats short reads and `EINTR`.
    fn read_at(&self, offset: u64, len: usize) -> impl Future<Output = io::Result<AlignedBuf>>;
    /// Writes the first `len` bytes of `buf` at `offset` and gives the kernel's count and the buffer back.
    fn write_at(
        &self,
        buf: Self::Buf,
        len: usize,
        offset: u64,
    ) -> impl Future<Output = (io::Result<usize>, Self::Buf)>;
    /// Makes the bytes of completed writes, and the file's length, durable (`fdatasync`).
    fn sync_data(&self) -> impl Future<Output = io::Result<()>>;
    /// Reserves space for `offset..offset + len` and grows the file over it; new bytes read as zero
    /// (`fallocate` with mode 0). Where the file system has no such call, the file only grows (`ftruncate`).
    fn allocate(&self, offset: u64, len: u64) -> impl Future<Output = io::Result<()>>;
    fn truncate(&self, len: u64) -> impl Future<Output = io::Result<()>>;
    /// From now on the file is used for this.
    fn set_lane(&mut self, lane: Lane);
    /// Takes the exclusive lock of the whole file for this open file description; `false` if another has it.
    fn try_lock(&self) -> io::Result<bool>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
}
