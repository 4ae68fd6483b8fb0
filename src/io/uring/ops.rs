//! Which operation of the trait is which operation of the ring.
//!
//! | operation | how |
//! |---|---|
//! | `write_at` | `WRITE_FIXED` from a registered buffer |
//! | `read_at` | `READ` into memory of its own |
//! | `sync_data`, `allocate` | `FSYNC` with `DATASYNC`, `FALLOCATE`; the kernel runs them on its workers |
//! | `open`, `rename`, `remove_file` | `OPENAT`, `RENAMEAT`, `UNLINKAT` |
//! | `sync_dir` | plain open (the directory is in the cache), then `FSYNC` |
//! | `sleep` | `TIMEOUT` if short (`timer.rs`), else tokio's timer |
//! | `list`, `create_dir`, `truncate`, `try_lock`, `len` | plain calls: rare, short, or not in tokio-uring |
//!
//! Every ring operation but those on names holds a share of the file (tokio-uring's `SharedFd`), so the description,
//! and the lock on it, outlast a future that is dropped half-way.

#![allow(unsafe_code)]

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio_uring::fs;

use super::buffers::RingBuf;
use super::in_flight::{InFlight, Loan};
use super::{Shared, timer};
use crate::io::fill::Fill;
use crate::io::{Access, AlignedBuf, DirEntry, Disk, DiskFile, Lane, plain};

/// The longest single read: the ring's lengths have 32 bits, and the kernel cuts at 2 GiB.
const READ_BYTES_MAX: usize = 1 << 30;

/// See the [module](super).
#[derive(Clone)]
pub(in crate::io) struct UringDisk {
    shared: Rc<Shared>,
}

impl UringDisk {
    pub(super) fn new(shared: Rc<Shared>) -> Self {
        UringDisk { shared }
    }
}

impl Disk for UringDisk {
    type File = UringFile;
    type Buf = RingBuf;

    fn name(&self) -> &'static str {
        "uring"
    }

    async fn buffer(&self) -> RingBuf {
        self.shared.buffers.take().await
    }

    async fn open(&self, path: &Path, access: Access, _lane: Lane) -> io::Result<UringFile> {
        let path = path.to_owned();
        let token = self.shared.in_flight.enter();
        // As a task that nobody can drop: a descriptor that arrives for a dropped future would never be closed. The
        // token makes the runtime's end wait for it.
        let opened = tokio_uring::spawn(async move {
            let _token = token;
            fs::OpenOptions::new()
                .read(true)
                .write(plain::writes(access))
                .create_new(access == Access::Create)
                .mode(plain::FILE_MODE)
                .custom_flags(plain::open_flags(access))
                .open(path)
                .await
        });
        Ok(UringFile {
            file: opened.await.map_err(io::Error::other)??,
            direct: access == Access::ReadDirect,
            in_flight: self.shared.in_flight.clone(),
        })
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        plain::list(dir)
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        plain::create_dir(dir)
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).await
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::from_std(plain::open_dir(dir)?).sync_all().await
    }

    fn random_id(&self) -> io::Result<[u8; 16]> {
        plain::random_id()
    }

    fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        timer::sleep(duration, &self.shared.in_flight).await;
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut tasks = self.shared.tasks.borrow_mut();
        // Forgets those that have ended, so that the set is bounded by the tasks that run.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(task);
    }
}

/// An open file of a [`UringDisk`].
pub(in crate::io) struct UringFile {
    file: fs::File,
    direct: bool,
    in_flight: InFlight,
}

impl UringFile {
    /// A file that a test has opened itself.
    #[cfg(test)]
    pub(super) fn for_tests(file: std::fs::File, disk: &UringDisk) -> Self {
        UringFile {
            file: fs::File::from_std(file),
            direct: false,
            in_flight: disk.shared.in_flight.clone(),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `self.file` owns the descriptor and closes it only when dropped (we never call its `close`), which
        // the borrow of `self` rules out. No memory is involved and no future: callers use it for plain calls.
        unsafe { BorrowedFd::borrow_raw(self.file.as_raw_fd()) }
    }
}

impl DiskFile for UringFile {
    type Buf = RingBuf;

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        let direct_end = if self.direct { Some(self.len()?) } else { None };
        let mut fill = Fill::new(offset, len, direct_end);
        let mut buf = AlignedBuf::with_len(len);
        while !fill.is_full() {
            let end = len.min(fill.filled() + READ_BYTES_MAX);
            let loan = Loan::new(buf, fill.filled()..end, self.in_flight.enter());
            let (result, loan) = self.file.read_at(loan, fill.position()).await;
            (buf, _) = loan.into_parts();
            match result {
                Ok(count) => {
                    if fill.advance(count)? {
                        break;
                    }
                }
                Err(error) if plain::is_interrupted(&error) => {}
                Err(error) => return Err(error),
            }
        }
        buf.truncate(fill.filled());
        Ok(buf)
    }

    async fn write_at(
        &self,
        buf: RingBuf,
        len: usize,
        offset: u64,
    ) -> (io::Result<usize>, RingBuf) {
        assert!(len <= buf.len(), "a write stays inside its buffer");
        let (mut fixed, mut index) = buf.into_parts();
        loop {
            let kept = (index, self.in_flight.enter());
            let loan = Loan::new(fixed, 0..len, kept);
            let (result, loan) = self.file.write_fixed_at(loan, offset).await;
            (fixed, (index, _)) = loan.into_parts();
            match result {
                // Nothing was written, so this is not a short write either.
                Err(error) if plain::is_interrupted(&error) => {}
                result => return (result, RingBuf::from_parts(fixed, index)),
            }
        }
    }

    async fn sync_data(&self) -> io::Result<()> {
        // Not repeated, whatever the error: a second success would prove nothing about the first one's bytes.
        self.file.sync_data().await
    }

    async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        loop {
            match self.file.fallocate(offset, len, 0).await {
                Err(error) if plain::is_interrupted(&error) => {}
                Err(error) if plain::is_unsupported(&error) => {
                    return plain::grow(self.fd(), offset, len);
                }
                result => return result,
            }
        }
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        plain::truncate(self.fd(), len)
    }

    fn set_lane(&mut self, _lane: Lane) {}

    fn try_lock(&self) -> io::Result<bool> {
        plain::try_lock(self.fd())
    }

    fn len(&self) -> io::Result<u64> {
        plain::length(self.fd())
    }
}
