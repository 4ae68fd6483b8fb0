//! Which operation of the trait is which operation of the ring.
//!
//! | operation | how |
//! |---|---|
//! | `write_alone` | plain call: nothing else is to be done meanwhile |
//! | `write_at` | `WRITE_FIXED` from a registered buffer (`write.rs`) |
//! | `write_zeros` | `WRITE`, piece by piece, from the disk's zeros (`write.rs`) |
//! | `read_at` | `READ` into memory of its own |
//! | `sync_data`, `allocate`, `zero_range` | `FSYNC` with `DATASYNC`, `FALLOCATE`; the kernel runs them on its workers |
//! | `open`, `rename`, `remove_file` | `OPENAT`, `RENAMEAT`, `UNLINKAT` |
//! | `offload`, `copy_from`, `reflink_from` | plain calls, on helper threads |
//! | `sync_dir` | plain open (the directory is in the cache), then `FSYNC` |
//! | `sleep` | `TIMEOUT` if short (`timer.rs`), else tokio's timer |
//! | all others | plain calls: rare, short, or not in tokio-uring |
//!
//! Every ring operation but those on names holds a share of the file (tokio-uring's `SharedFd`, or what owns it), so the
//! description, and the lock on it, outlast a future that is dropped half-way.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio_uring::fs;

use super::buffers::RingBuf;
use super::in_flight::Loan;
use super::{Shared, timer, write};
use crate::io::fill::Fill;
use crate::io::{
    Access, AlignedBuf, BlockingFile, DirEntry, Disk, DiskFile, Geometry, Lane, Persist, Zeroing,
    geometry, plain,
};

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
            file: Rc::new(opened.await.map_err(io::Error::other)??),
            direct: Cell::new(access == Access::ReadDirect),
            disk: Rc::clone(&self.shared),
        })
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        plain::list(dir)
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        plain::create_dir(dir)
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let _token = self.shared.in_flight.enter();
        fs::rename(from, to).await
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let _token = self.shared.in_flight.enter();
        fs::remove_file(path).await
    }

    async fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn is_within(&self, path: &Path, dir: &Path) -> io::Result<bool> {
        plain::is_within(path, dir)
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let _token = self.shared.in_flight.enter();
        fs::File::from_std(plain::open_dir(dir)?).sync_all().await
    }

    fn length_and_age(&self, path: &Path) -> io::Result<(u64, Duration)> {
        plain::length_and_age(path)
    }

    fn random_id(&self) -> io::Result<[u8; 16]> {
        plain::random_id()
    }

    fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        timer::sleep(duration, &self.shared.timers, &self.shared.in_flight).await;
    }

    fn has_work(&self) -> bool {
        self.shared.in_flight.count() > 0
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
    /// Shared with the writes in flight: tokio-uring shows nobody the share that its own operations hold.
    file: Rc<fs::File>,
    direct: Cell<bool>,
    disk: Rc<Shared>,
}

impl UringFile {
    /// A file that a test has opened itself.
    #[cfg(test)]
    pub(super) fn for_tests(file: std::fs::File, disk: &UringDisk) -> Self {
        UringFile {
            file: Rc::new(fs::File::from_std(file)),
            direct: Cell::new(false),
            disk: Rc::clone(&disk.shared),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `self.file` owns the descriptor and closes it only when dropped (we never call its `close`), which
        // the borrow of `self` rules out. No memory is involved and no future: callers use it for plain calls.
        unsafe { BorrowedFd::borrow_raw(self.file.as_raw_fd()) }
    }

    /// Another descriptor of the same description, for a helper thread: it may outlast ours.
    fn another(&self) -> io::Result<std::fs::File> {
        Ok(std::fs::File::from(self.fd().try_clone_to_owned()?))
    }
}

impl DiskFile for UringFile {
    type Buf = RingBuf;

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        let direct_end = if self.direct.get() { Some(self.len()?) } else { None };
        let mut fill = Fill::new(offset, len, direct_end);
        let mut buf = AlignedBuf::with_len(len);
        while !fill.is_full() {
            let end = len.min(fill.filled() + READ_BYTES_MAX);
            let loan = Loan::new(buf, fill.filled()..end, self.disk.in_flight.enter());
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

    async fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn BlockingFile) -> T + Send + 'static,
    ) -> io::Result<T> {
        let file = self.another()?;
        self.disk.helpers.run(std::sync::Arc::new(file), self.direct.get(), work).await
    }

    async fn write_at(
        &self,
        buf: RingBuf,
        len: usize,
        offset: u64,
        persist: Persist,
    ) -> (io::Result<usize>, RingBuf) {
        if self.direct.get()
            && let Err(error) = plain::check_direct_write(offset, len)
        {
            return (Err(error), buf);
        }
        write::registered(&self.file, buf, len, offset, persist, &self.disk.in_flight).await
    }

    async fn write_alone(
        &self,
        buf: RingBuf,
        len: usize,
        offset: u64,
    ) -> (io::Result<usize>, RingBuf) {
        // The ring hands the end of such a write to a worker of the kernel, which has to wait for a CPU: for a whole tick of
        // the scheduler where all are busy and the kernel does not preempt.
        let written = plain::write(self.fd(), &buf[..len], offset, Persist::Now, self.direct.get());
        (written, buf)
    }

    async fn copy_from(&self, source: &Self, len: u64) -> io::Result<u64> {
        let to = self.another()?;
        source.offload(move |from| plain::copy(from, &to, len)).await?
    }

    async fn reflink_from(&self, source: &Self) -> io::Result<()> {
        let (from, to) = (source.another()?, self.another()?);
        source.offload(move |_| plain::reflink(from, to)).await?
    }

    async fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let direct = self.direct.get();
        let fill = self.disk.zeros.fill(offset, len, direct, async |zeros, len, offset| {
            if direct {
                plain::check_direct_write(offset, len)?;
            }
            write::plain(&self.file, zeros, len, offset, &self.disk.in_flight).await
        });
        fill.await
    }

    async fn zero_range(&self, offset: u64, len: u64, zeroing: Zeroing) -> io::Result<()> {
        let _token = self.disk.in_flight.enter();
        loop {
            let mode = plain::zeroing_mode(zeroing) as i32;
            match self.file.fallocate(offset, len, mode).await {
                Err(error) if plain::is_interrupted(&error) => {}
                Err(error) if plain::is_unsupported(&error) => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                result => return result,
            }
        }
    }

    async fn sync_data(&self) -> io::Result<()> {
        let _token = self.disk.in_flight.enter();
        // Not repeated, whatever the error: a second success would prove nothing about the first one's bytes.
        self.file.sync_data().await
    }

    async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let _token = self.disk.in_flight.enter();
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

    fn set_direct(&self, direct: bool) -> io::Result<()> {
        plain::set_direct(self.fd(), direct)?;
        self.direct.set(direct);
        Ok(())
    }

    fn geometry(&self) -> io::Result<Geometry> {
        geometry::geometry(self.fd())
    }

    fn set_lane(&mut self, _lane: Lane) {}

    fn try_lock(&self) -> io::Result<bool> {
        plain::try_lock(self.fd())
    }

    fn len(&self) -> io::Result<u64> {
        plain::length(self.fd())
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        plain::is_at(self.fd(), path)
    }

    fn links(&self) -> io::Result<u64> {
        plain::links(self.fd())
    }
}
