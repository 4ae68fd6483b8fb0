//! The trait's face of the simulation: each operation is counted, traced, perhaps made to fail, done by the model, and
//! takes its time.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::Shared;
use super::faults::{Admission, OpKind};
use super::model::{DescriptionId, Flight, FlightId, Model, Outcome, Write, whole_pages};
use crate::io::fill::Fill;
use crate::io::pool::{Lease, Pool};
use crate::io::zeros::Zeros;
use crate::io::{
    Access, AlignedBuf, BlockingFile, DirEntry, Disk, DiskConfig, DiskFile, Geometry, Lane,
    Persist, Zeroing,
};

/// Copied at a time: little, so that a crash meets a copy in parts.
const COPY_BYTES: usize = 8 << 10;

/// The disk of one life of the simulated process: after a kill or a power loss its operations fail.
#[derive(Clone)]
pub(crate) struct SimDisk {
    process: Process,
    pool: Pool<AlignedBuf>,
    zeros: Rc<Zeros>,
}

impl SimDisk {
    pub(super) fn new(shared: Rc<Shared>, config: DiskConfig) -> Self {
        let life = shared.model.borrow().life();
        SimDisk {
            process: Process { shared, life },
            pool: Pool::of_buffers(&config),
            zeros: Rc::default(),
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Buf = Lease<AlignedBuf>;

    fn name(&self) -> &'static str {
        "sim"
    }

    async fn buffer(&self) -> Self::Buf {
        self.pool.take().await
    }

    async fn open(&self, path: &Path, access: Access, lane: Lane) -> io::Result<SimFile> {
        let detail = format!("{access:?} {lane:?}");
        let open = |model: &mut Model| model.open(path, access);
        // Made into a file before the wait, so that a dropped future closes it.
        let file = |description| SimFile {
            process: self.process.clone(),
            description,
            path: path.to_owned(),
            direct: Cell::new(access == Access::ReadDirect),
            zeros: Rc::clone(&self.zeros),
        };
        self.process.at_once(OpKind::Open, path, detail, open, file).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let list = |model: &mut Model| model.list(dir);
        self.process.at_once(OpKind::List, dir, String::new(), list, |entries| entries).await
    }

    async fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let create = |model: &mut Model| model.create_dir(dir);
        self.process.at_once(OpKind::CreateDir, dir, String::new(), create, |()| ()).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let detail = format!("to={}", to.display());
        let rename = |model: &mut Model| model.rename(from, to);
        self.process.at_once(OpKind::Rename, from, detail, rename, |()| ()).await
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let remove = |model: &mut Model| model.remove(path);
        self.process.at_once(OpKind::Remove, path, String::new(), remove, |()| ()).await
    }

    async fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let detail = format!("to={}", to.display());
        let link = |model: &mut Model| model.hard_link(from, to);
        self.process.at_once(OpKind::Link, from, detail, link, |()| ()).await
    }

    fn is_within(&self, path: &Path, dir: &Path) -> io::Result<bool> {
        self.process.check_alive()?;
        self.process.shared.model.borrow().is_within(path, dir)
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let admission = self.process.admit(OpKind::SyncDir, dir, String::new()).await?;
        let flight = {
            let model = self.process.shared.model.borrow();
            Flight::SyncDir {
                dir: model.dir_of(dir)?,
                covered: model.changes_made(),
                error: admission.error,
            }
        };
        match self.process.fly(flight, admission.latency).await {
            Outcome::Synced(result) => result,
            Outcome::Written(..) => unreachable!("a sync was submitted"),
        }
    }

    fn length_and_age(&self, path: &Path) -> io::Result<(u64, Duration)> {
        self.process.check_alive()?;
        // Virtual time does not outlast the process: all that is there is new.
        let length = self.process.shared.model.borrow().length(path)?;
        Ok((length, Duration::ZERO))
    }

    fn random_id(&self) -> io::Result<[u8; 16]> {
        let mut model = self.process.shared.model.borrow_mut();
        Ok(model.random_id())
    }

    fn now(&self) -> Duration {
        self.process.shared.executor.now()
    }

    async fn sleep(&self, duration: Duration) {
        let executor = &self.process.shared.executor;
        executor.sleep_until(executor.now().saturating_add(duration)).await;
    }

    fn spin(&self, _limit: Duration, ready: impl Fn() -> bool) -> bool {
        ready()
    }

    fn offload_max(&self) -> usize {
        // Not that of the machine that the test happens to run on: a seed repeats anywhere.
        2
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        // A dead process starts nothing.
        if self.process.is_alive() {
            self.process.shared.executor.spawn(task);
        }
    }
}

/// An open file of a [`SimDisk`].
pub(crate) struct SimFile {
    process: Process,
    description: DescriptionId,
    path: PathBuf,
    direct: Cell<bool>,
    zeros: Rc<Zeros>,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut model = self.process.shared.model.borrow_mut();
        model.close(self.description);
    }
}

impl SimFile {
    async fn at_once<T>(
        &self,
        op: OpKind,
        detail: String,
        act: impl FnOnce(&mut Model) -> io::Result<T>,
    ) -> io::Result<T> {
        self.process.at_once(op, &self.path, detail, act, |value| value).await
    }

    async fn write(
        &self,
        op: OpKind,
        buf: Lease<AlignedBuf>,
        len: usize,
        offset: u64,
        persist: Persist,
    ) -> (io::Result<usize>, Lease<AlignedBuf>) {
        assert!(len <= buf.len(), "a write stays inside its buffer");
        let now = match persist {
            Persist::Later => "",
            Persist::Now => " now",
        };
        let detail = format!("offset={offset} len={len}{now}");
        let admission = self.process.admit(op, &self.path, detail).await.and_then(|admission| {
            let model = self.process.shared.model.borrow();
            model.writable(self.description)?;
            model.check_aligned(self.description, offset, len)?;
            Ok(admission)
        });
        let admission = match admission {
            Ok(admission) => admission,
            Err(error) => return (Err(error), buf),
        };
        let of_pages = admission.bytes_of_pages_max.map(|max| whole_pages(offset, max));
        let of_pages = of_pages.filter(|&bytes| bytes > 0);
        let taken = len.min(admission.bytes_max.unwrap_or(len)).min(of_pages.unwrap_or(len));
        if taken < len {
            self.process.shared.faults.borrow_mut().was_short(taken);
        }
        let write = Write {
            description: self.description,
            len: taken,
            offset,
            persist,
            error: admission.error,
            op,
        };
        match self.process.fly(Flight::Write { write, buf }, admission.latency).await {
            Outcome::Written(result, buf) => (result, buf),
            Outcome::Synced(_) => unreachable!("a write was submitted"),
        }
    }
}

impl DiskFile for SimFile {
    type Buf = Lease<AlignedBuf>;

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        let detail = format!("offset={offset} len={len}");
        let direct_end = if self.direct.get() { Some(self.len()?) } else { None };
        // For the checks that the real disks make.
        let mut fill = Fill::new(offset, len, direct_end);
        let read = |model: &mut Model| model.read(self.description, offset, len);
        let bytes = self.at_once(OpKind::Read, detail, read).await?;
        fill.advance(bytes.len())?;
        let mut buf = AlignedBuf::with_len(bytes.len());
        buf.copy_from_slice(&bytes);
        Ok(buf)
    }

    async fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn BlockingFile) -> T + Send + 'static,
    ) -> io::Result<T> {
        let file = BlockingReads { file: self, latency: Cell::default(), halted: Cell::new(false) };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&file)));
        let executor = &self.process.shared.executor;
        if file.halted.get() {
            executor.halt();
            std::future::pending::<()>().await;
        }
        executor.sleep_until(executor.now() + file.latency.get()).await;
        outcome.map_err(|_| io::Error::other("offloaded work panicked"))
    }

    async fn write_at(
        &self,
        buf: Self::Buf,
        len: usize,
        offset: u64,
        persist: Persist,
    ) -> (io::Result<usize>, Self::Buf) {
        self.write(OpKind::Write, buf, len, offset, persist).await
    }

    async fn copy_from(&self, source: &Self, len: u64) -> io::Result<u64> {
        let pool = Pool::new([AlignedBuf::with_len(COPY_BYTES)]);
        let mut offset = 0;
        while offset < len {
            let read = source.read_at(offset, COPY_BYTES).await?;
            let wanted = (read.len() as u64).min(len - offset) as usize;
            let mut done = 0;
            while done < wanted {
                let mut buf = pool.take().await;
                let bytes = &read[done..wanted];
                buf[..bytes.len()].copy_from_slice(bytes);
                let place = offset + done as u64;
                let write = self.write(OpKind::Write, buf, bytes.len(), place, Persist::Later);
                match write.await.0? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    count => done += count,
                }
            }
            offset += wanted as u64;
            if read.len() < COPY_BYTES {
                break;
            }
        }
        Ok(offset)
    }

    async fn reflink_from(&self, source: &Self) -> io::Result<()> {
        let (from, to) = (source.description, self.description);
        let reflink = |model: &mut Model| model.reflink(from, to);
        self.at_once(OpKind::Reflink, String::new(), reflink).await
    }

    async fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let fill = self.zeros.fill(offset, len, self.direct.get(), async |zeros, len, offset| {
            self.write(OpKind::WriteZeros, zeros, len, offset, Persist::Later).await.0
        });
        fill.await
    }

    async fn zero_range(&self, offset: u64, len: u64, zeroing: Zeroing) -> io::Result<()> {
        let detail = format!("offset={offset} len={len} {zeroing:?}");
        let zero_range =
            |model: &mut Model| model.zero_range(self.description, offset, len, zeroing);
        self.at_once(OpKind::ZeroRange, detail, zero_range).await
    }

    async fn sync_data(&self) -> io::Result<()> {
        let admission = self.process.admit(OpKind::Sync, &self.path, String::new()).await?;
        let flight = Flight::Sync {
            description: self.description,
            covered: self.process.shared.model.borrow().changes_made(),
            error: admission.error,
        };
        match self.process.fly(flight, admission.latency).await {
            Outcome::Synced(result) => result,
            Outcome::Written(..) => unreachable!("a sync was submitted"),
        }
    }

    async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let detail = format!("offset={offset} len={len}");
        let allocate = |model: &mut Model| model.allocate(self.description, offset, len);
        self.at_once(OpKind::Allocate, detail, allocate).await
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        let truncate = |model: &mut Model| model.truncate(self.description, len);
        self.at_once(OpKind::Truncate, format!("len={len}"), truncate).await
    }

    fn set_direct(&self, direct: bool) -> io::Result<()> {
        self.process.check_alive()?;
        self.process.shared.model.borrow_mut().set_direct(self.description, direct)?;
        self.direct.set(direct);
        Ok(())
    }

    fn geometry(&self) -> io::Result<Geometry> {
        self.process.check_alive()?;
        Ok(self.process.shared.model.borrow().geometry())
    }

    fn set_lane(&mut self, _lane: Lane) {}

    fn try_lock(&self) -> io::Result<bool> {
        self.process.check_alive()?;
        let mut model = self.process.shared.model.borrow_mut();
        model.try_lock(self.description)
    }

    fn len(&self) -> io::Result<u64> {
        self.process.check_alive()?;
        self.process.shared.model.borrow().len(self.description)
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.process.check_alive()?;
        self.process.shared.model.borrow().is_at(self.description, path)
    }

    fn links(&self) -> io::Result<u64> {
        self.process.check_alive()?;
        Ok(self.process.shared.model.borrow().links(self.description))
    }
}

/// A file in the hands of offloaded work. Its reads are operations as others are, but nothing can wait for them: what
/// time they take is slept through afterwards, and if the simulation is to stop before one, the rest of the work is for
/// nothing.
struct BlockingReads<'a> {
    file: &'a SimFile,
    latency: Cell<Duration>,
    halted: Cell<bool>,
}

impl BlockingFile for BlockingReads<'_> {
    fn len(&self) -> io::Result<u64> {
        DiskFile::len(self.file)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let SimFile { process, description, path, direct, .. } = self.file;
        process.check_alive()?;
        if self.halted.get() {
            return Err(io::Error::other("the simulation has stopped"));
        }
        let detail = format!("offset={offset} len={} offloaded", buf.len());
        let direct_end = if direct.get() { Some(self.len()?) } else { None };
        let mut fill = Fill::new(offset, buf.len(), direct_end);
        let now = process.shared.executor.now();
        let admission = process.shared.faults.borrow_mut().admit(OpKind::Read, path, detail, now);
        let Some(admission) = admission else {
            self.halted.set(true);
            return Err(io::Error::other("the simulation has stopped"));
        };
        self.latency.set(self.latency.get() + admission.latency);
        if let Some(errno) = admission.error {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let bytes = process.shared.model.borrow().read(*description, offset, buf.len())?;
        fill.advance(bytes.len())?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn will_read_on(&self) {}
}

/// One life of the simulated process.
#[derive(Clone)]
struct Process {
    shared: Rc<Shared>,
    life: u64,
}

impl Process {
    fn is_alive(&self) -> bool {
        self.shared.model.borrow().life() == self.life
    }

    fn check_alive(&self) -> io::Result<()> {
        match self.is_alive() {
            true => Ok(()),
            false => Err(io::Error::other("the simulated process has died")),
        }
    }

    /// Every operation begins here. Does not come back if the simulation is to stop before it.
    async fn admit(&self, op: OpKind, path: &Path, detail: String) -> io::Result<Admission> {
        self.check_alive()?;
        let now = self.shared.executor.now();
        let admission = self.shared.faults.borrow_mut().admit(op, path, detail, now);
        match admission {
            Some(admission) => Ok(admission),
            None => {
                self.shared.executor.halt();
                std::future::pending().await
            }
        }
    }

    /// An operation that takes effect when it is submitted. `keep` makes the caller's value of the model's before the
    /// operation takes its time, which the caller may not wait for.
    async fn at_once<T, U>(
        &self,
        op: OpKind,
        path: &Path,
        detail: String,
        act: impl FnOnce(&mut Model) -> io::Result<T>,
        keep: impl FnOnce(T) -> U,
    ) -> io::Result<U> {
        let admission = self.admit(op, path, detail).await?;
        let result = match admission.error {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => act(&mut self.shared.model.borrow_mut()),
        };
        let result = result.map(keep);
        let executor = &self.shared.executor;
        executor.sleep_until(executor.now() + admission.latency).await;
        result
    }

    /// An operation that takes effect when it ends, whether or not this future is still there.
    ///
    /// # Panics
    ///
    /// If the future is polled after the process died: somebody kept it outside of the simulation.
    async fn fly(&self, flight: Flight, latency: Duration) -> Outcome {
        let executor = &self.shared.executor;
        let ends_at = executor.now() + latency;
        let id = self.shared.model.borrow_mut().submit(flight, ends_at);
        let ticket = Ticket { shared: &self.shared, id, taken: false };
        // Without latency it ends here and now.
        self.shared.model.borrow_mut().settle(executor.now());
        executor.sleep_until(ends_at).await;
        ticket.outcome().expect("the process that began the operation is alive")
    }
}

/// The claim to the outcome of an operation in flight.
struct Ticket<'a> {
    shared: &'a Shared,
    id: FlightId,
    taken: bool,
}

impl Ticket<'_> {
    fn outcome(mut self) -> Option<Outcome> {
        self.taken = true;
        self.shared.model.borrow_mut().take_outcome(self.id)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.taken {
            self.shared.model.borrow_mut().abandon(self.id);
        }
    }
}
