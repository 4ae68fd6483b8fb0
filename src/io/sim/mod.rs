//! The disk for tests: a file system in memory, with faults, crashes and a virtual clock, that is as nasty as the
//! contract allows.
//!
//! A test makes a [`Sim`], runs code on its [`disk`](Sim::disk) with [`block_on`](Sim::block_on), makes something go
//! wrong, and runs the code again on what is left:
//!
//! ```text
//! let sim = Sim::new(seed);
//! sim.create_dir("/log");
//! sim.block_on_until(100, write_log(sim.disk(config)));   // up to, without, the 100th operation
//! sim.power_loss(Crash::Random);
//! sim.block_on(check_log(sim.disk(config)));
//! ```
//!
//! The same seed and the same code give the same run, operation for operation ([`trace`](Sim::trace)).
//!
//! # What is modelled
//!
//! - **Two states of everything**, what readers see and what the disk has: see `node.rs`. Only a sync that succeeds
//!   moves the second one on. [`Crash`] says what becomes of the rest.
//! - **Operations take time**, and take effect as late as they may: a write is seen when it ends. Dropping its future
//!   changes nothing about it; its buffer comes back when it has ended. A sync covers what had ended when it began.
//! - **A failed sync loses** the bytes it covered, or some of them ([`Sim::set_failures_are_partial`]), as Linux does:
//!   readers still see them, later syncs succeed without them, [`Access::ReadDirect`](crate::io::Access::ReadDirect) and
//!   a crash show the truth. (The length survives.) Of two syncs in flight only the one that fails is told.
//! - **A write with [`Persist::Now`](crate::io::Persist::Now)** is on the disk when it ends, with all of its file's
//!   pending lengths, and with no other bytes (but those of its pages, unless the file is direct). One that fails is a
//!   stray: no sync covers it, and a crash finds it written or not. Until then readers see its bytes if it went through
//!   the cache, else the old ones.
//! - **Writes in flight** end in any order, if [`Sim::set_latency_spread`] lets them; the one that ends last wins.
//! - **A failed directory sync** leaves the names as they were before it, to be synced again.
//! - **A rename** inside one directory is atomic; between two it is a link and an unlink, each synced with its
//!   directory.
//! - **Space** is counted from a file's start to the end of what was written or allocated; there are no holes.
//!
//! Not modelled: modes, symbolic links, `..`, the order that a journaling file system keeps between directories (there is none
//! here, which is nastier), written and unwritten extents, a page cache that forgets by itself.

mod disk;
mod exec;
mod fate;
mod faults;
mod model;
mod node;
mod rng;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

pub(crate) use self::disk::SimDisk;
use self::exec::{Executor, World};
use self::fate::Odometer;
use self::faults::{Faults, Rate};
pub use self::faults::{OpKind, TraceEntry};
use self::model::Model;
pub use self::node::{Crash, PowerLoss};
use super::{DiskConfig, Geometry};

/// A simulated machine: a disk in memory, a clock that jumps, and the process whose code runs on them.
///
/// Cloning gives another handle to the same machine. Tasks, and what they hold, are dropped with the last handle. A
/// machine stays on its thread.
#[derive(Clone)]
pub struct Sim {
    owner: Rc<Owner>,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("now", &self.now())
            .field("operations", &self.operations())
            .finish_non_exhaustive()
    }
}

struct Shared {
    executor: Executor,
    model: RefCell<Model>,
    faults: RefCell<Faults>,
}

/// Breaks the cycle of tasks that hold disks that hold the executor that holds the tasks.
struct Owner(Rc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        // A panic inside `block_on` has ended it before the handle goes; a task that holds the last handle has not.
        if !self.0.executor.is_running() {
            self.0.executor.clear();
        }
    }
}

impl World for Shared {
    fn next_event(&self) -> Option<Duration> {
        self.model.borrow().next_end()
    }

    fn settle(&self, now: Duration) {
        self.model.borrow_mut().settle(now);
    }
}

/// Running code.
impl Sim {
    /// A machine with an empty root directory. `seed` decides about everything that chance does here.
    #[must_use]
    pub fn new(seed: u64) -> Sim {
        Sim::of(Model::new(seed), seed)
    }

    fn of(model: Model, seed: u64) -> Sim {
        Sim {
            owner: Rc::new(Owner(Rc::new(Shared {
                executor: Executor::default(),
                model: RefCell::new(model),
                faults: RefCell::new(Faults::new(seed)),
            }))),
        }
    }

    fn shared(&self) -> &Rc<Shared> {
        &self.owner.0
    }

    /// A disk for the process that lives now. Ask for a new one after [`Sim::kill`] and [`Sim::power_loss`].
    pub(crate) fn disk(&self, config: DiskConfig) -> SimDisk {
        config.check();
        SimDisk::new(Rc::clone(self.shared()), config)
    }

    /// Runs a future, and the tasks beside it, until it is done. The tasks stay for the next call.
    ///
    /// # Panics
    ///
    /// If nothing can go on any more (a deadlock of the code under test), or everything goes on for ever at one moment
    /// of virtual time (a livelock). If it is called by a task.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        self.shared().executor.block_on(&**self.shared(), main).expect("nothing halts this run")
    }

    /// As [`Sim::block_on`], but stops before the operation of number `operation` begins, counted from 1 over the
    /// machine's whole life as [`Sim::operations`] does; `None` if it came to that. That operation's task hangs then:
    /// only a kill or a power loss goes on from here.
    ///
    /// # Panics
    ///
    /// As [`Sim::block_on`].
    pub fn block_on_until<T>(&self, operation: u64, main: impl Future<Output = T>) -> Option<T> {
        let halt_before = |number| self.shared().faults.borrow_mut().halt_before(number);
        halt_before(Some(operation));
        let result = self.shared().executor.block_on(&**self.shared(), main);
        halt_before(None);
        result
    }

    /// Runs a task beside the following calls of [`Sim::block_on`], until the process dies.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shared().executor.spawn(task);
    }

    /// Virtual time since the machine was made.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared().executor.now()
    }

    /// Waits so long, in virtual time.
    pub async fn sleep(&self, duration: Duration) {
        let executor = &self.shared().executor;
        executor.sleep_until(executor.now().saturating_add(duration)).await;
    }
}

/// Endings. All drop all tasks and close all files; none may be called by a task.
impl Sim {
    /// The process dies. Everything that readers saw is still there. Operations in flight end as if it lived, each at
    /// its time, and until then the locks of their files are held.
    pub fn kill(&self) {
        self.shared().executor.clear();
        self.shared().model.borrow_mut().kill();
    }

    /// The machine loses power, and comes back with what the disk has. Says what was lost.
    pub fn power_loss(&self, crash: Crash) -> PowerLoss {
        self.shared().executor.clear();
        self.shared().model.borrow_mut().power_loss(crash)
    }

    /// Every state in which the disk can be after a power loss at this moment, each on a machine of its own, which has
    /// no latencies or faults but those of a new one. There are two for each unsynced sector: take as many as you have
    /// time for. Two may be the same. On this machine the process dies, as with [`Sim::kill`].
    pub fn power_losses(&self) -> impl Iterator<Item = Sim> + use<> {
        self.shared().executor.clear();
        let disk = {
            let mut model = self.shared().model.borrow_mut();
            model.land_writes();
            model.kill();
            model.clone_disk()
        };
        let mut odometer = Some(Odometer::default());
        std::iter::from_fn(move || {
            let turning = odometer.as_mut()?;
            let left = disk.after_power_loss(turning, &mut PowerLoss::default());
            if !turning.advance() {
                odometer = None;
            }
            Some(Sim::of(left, 0))
        })
    }
}

/// Faults. Errors are numbers of the system: 5 is `EIO`, 28 `ENOSPC`.
impl Sim {
    /// The `n`th operation from now on fails with `errno`; the next one is the first.
    pub fn fail_nth(&self, n: u64, errno: i32) {
        self.shared().faults.borrow_mut().fail_nth(n, errno);
    }

    /// The next operation of this kind fails with `errno`. Called twice, the next two do.
    pub fn fail_next(&self, op: OpKind, errno: i32) {
        self.shared().faults.borrow_mut().fail_next(op, errno);
    }

    /// The `n`th operation of this kind from now on fails with `errno`; the next one is the first.
    pub fn fail_nth_of(&self, op: OpKind, n: u64, errno: i32) {
        self.shared().faults.borrow_mut().fail_nth_of(op, n, errno);
    }

    /// From now on each operation of this kind fails with `errno` once in so many times, by the seed.
    pub fn fail_once_in(&self, op: OpKind, times: u32, errno: i32) {
        self.shared().faults.borrow_mut().at_random(op, times, Rate::Fails(errno));
    }

    /// The `n`th operation of this kind from now on takes just so long, whatever the others take.
    pub fn slow_nth_of(&self, op: OpKind, n: u64, latency: Duration) {
        self.shared().faults.borrow_mut().slow_nth_of(op, n, latency);
    }

    /// From now on each operation of this kind takes just so long once in so many times, by the seed.
    pub fn slow_once_in(&self, op: OpKind, times: u32, latency: Duration) {
        self.shared().faults.borrow_mut().at_random(op, times, Rate::Takes(latency));
    }

    /// The next write that does not fail takes at most `bytes_max` bytes.
    pub fn short_write_next(&self, bytes_max: usize) {
        self.shared().faults.borrow_mut().short_write_next(bytes_max);
    }

    /// From now on each write takes only a part of its bytes once in so many times, by the seed.
    pub fn short_write_once_in(&self, times: u32) {
        let mut faults = self.shared().faults.borrow_mut();
        faults.at_random(OpKind::Write, times, Rate::Short);
        faults.at_random(OpKind::WriteZeros, times, Rate::Short);
    }

    /// Whether a sync that fails has written some of its pages all the same, and a write that fails some of its bytes,
    /// by the seed. At first they have done nothing.
    pub fn set_failures_are_partial(&self, partial: bool) {
        self.shared().model.borrow_mut().set_failures_are_partial(partial);
    }

    /// How many operations have failed, or were short, because of faults asked for, since the machine was made.
    #[must_use]
    pub fn faults_met(&self) -> u64 {
        self.shared().faults.borrow().met()
    }

    /// How many of the faults asked for have not happened yet. Those of chance are not counted.
    #[must_use]
    pub fn pending_faults(&self) -> usize {
        self.shared().faults.borrow().pending()
    }

    /// Takes back the faults that have not happened, and those of chance.
    pub fn clear_faults(&self) {
        self.shared().faults.borrow_mut().clear();
    }

    /// Leaves `free` bytes of space from now on, or any number.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        self.shared().model.borrow_mut().set_free_bytes(free);
    }

    /// Opening for writing, creating, renaming and removing fail with `EROFS`. Files that are open stay writable.
    pub fn set_read_only(&self, read_only: bool) {
        self.shared().model.borrow_mut().set_read_only(read_only);
    }

    /// What operations of this kind take from now on. At first: writes 20 µs, syncs 100 µs, allocations 50 µs, the
    /// others nothing.
    pub fn set_latency(&self, op: OpKind, latency: Duration) {
        self.shared().faults.borrow_mut().set_latency(op, latency);
    }

    /// Beyond its latency, an operation of this kind takes anything up to `spread` from now on, by the seed. So writes
    /// overtake each other.
    pub fn set_latency_spread(&self, op: OpKind, spread: Duration) {
        self.shared().faults.borrow_mut().set_latency_spread(op, spread);
    }
}

/// What the machine has.
impl Sim {
    /// What the files say of their disk. At first: direct I/O and blocks of 4096 bytes, written in place.
    #[cfg(test)]
    pub(crate) fn set_geometry(&self, geometry: Geometry) {
        self.shared().model.borrow_mut().set_geometry(geometry);
    }

    /// Whether its file system can do direct I/O; at first it can.
    pub fn set_direct_io(&self, direct_io: bool) {
        let mut model = self.shared().model.borrow_mut();
        let geometry = model.geometry();
        let direct_align = direct_io.then_some(geometry.block_bytes);
        model.set_geometry(Geometry { direct_align, ..geometry });
    }

    /// The block of its file system and device, which is also that of direct I/O where there is such; at first 4096
    /// bytes. It writes sectors of 512 bytes all the same.
    ///
    /// # Panics
    ///
    /// If it is not a power of two from 512 to 4096.
    pub fn set_block_bytes(&self, block_bytes: u64) {
        assert!(block_bytes.is_power_of_two() && (512..=4096).contains(&block_bytes));
        let mut model = self.shared().model.borrow_mut();
        let geometry = model.geometry();
        let direct_align = geometry.direct_align.map(|_| block_bytes);
        model.set_geometry(Geometry { direct_align, block_bytes, ..geometry });
    }

    /// Whether its file system says that it never writes in place, as btrfs does; at first it does.
    pub fn set_copy_on_write(&self, copy_on_write: bool) {
        let mut model = self.shared().model.borrow_mut();
        let geometry = Geometry { copy_on_write, ..model.geometry() };
        model.set_geometry(geometry);
    }

    /// Whether the device can zero ranges by itself; at first it cannot.
    pub fn set_zeroes_ranges(&self, zeroes_ranges: bool) {
        self.shared().model.borrow_mut().set_zeroes_ranges(zeroes_ranges);
    }

    /// Whether files can share blocks, as on btrfs and xfs; at first they cannot. Here a shared block takes no space.
    pub fn set_reflinks(&self, reflinks: bool) {
        self.shared().model.borrow_mut().set_reflinks(reflinks);
    }
}

/// Evidence.
impl Sim {
    /// Operations begun since the machine was made.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.shared().faults.borrow().operations()
    }

    /// The writes and syncs that have begun and not ended.
    #[must_use]
    pub fn in_flight(&self) -> Vec<OpKind> {
        self.shared().model.borrow().in_flight()
    }

    /// The operations begun since the machine was made, or since [`Sim::clear_trace`].
    #[must_use]
    pub fn trace(&self) -> Vec<TraceEntry> {
        self.shared().faults.borrow().trace().to_vec()
    }

    /// Forgets the trace.
    pub fn clear_trace(&self) {
        self.shared().faults.borrow_mut().clear_trace();
    }
}

/// The files, beside all operations: nothing here is counted, traced, or made to fail.
impl Sim {
    /// Makes a directory and those above it, durably.
    ///
    /// # Panics
    ///
    /// If a file is in the way.
    pub fn create_dir(&self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        let result = self.shared().model.borrow_mut().make_dir_durably(path);
        result.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Makes or replaces a file, and the directories above it, durably.
    ///
    /// # Panics
    ///
    /// If a directory has the name, or a file is in the way.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) {
        let path = path.as_ref();
        let mut model = self.shared().model.borrow_mut();
        model
            .write_durably(path, bytes.into())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// What a reader sees.
    ///
    /// # Errors
    ///
    /// If there is no such file.
    pub fn read_file(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let model = self.shared().model.borrow();
        Ok(model.file_at(path.as_ref())?.cached().to_vec())
    }

    /// What the disk has of the file that a reader finds under this name now.
    ///
    /// # Errors
    ///
    /// If there is no such file.
    pub fn read_file_durable(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let model = self.shared().model.borrow();
        Ok(model.file_at(path.as_ref())?.durable().to_vec())
    }

    /// The names in a directory, as a reader sees them, in order.
    ///
    /// # Errors
    ///
    /// If there is no such directory.
    pub fn list_dir(&self, path: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
        let entries = self.shared().model.borrow().list(path.as_ref())?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }

    /// Flips the bits of `xor` in one byte of a file, wherever that byte is: on the disk and in what readers see.
    ///
    /// # Panics
    ///
    /// If there is no such byte, or `xor` is zero: the test would test nothing.
    pub fn corrupt(&self, path: impl AsRef<Path>, offset: usize, xor: u8) {
        let path = path.as_ref();
        let mut model = self.shared().model.borrow_mut();
        match model.file_at_mut(path) {
            Ok(file) => file.corrupt(offset, xor),
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}
