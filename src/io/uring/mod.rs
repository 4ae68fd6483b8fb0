//! The normal disk: one tokio-uring ring per log, write buffers registered with the kernel.
//!
//! This file answers: can there be a ring here, and how does it begin and end? `buffers.rs`: how are registered
//! buffers lent out? `in_flight.rs`: who owns the memory of an operation? `ops.rs`: which operation does what?
//! `write.rs`: what does a write own? `timer.rs`: how does one sleep for less than a millisecond?
//!
//! # How the ring moves
//!
//! tokio-uring fills the submission queue when an operation's future is first polled, and submits when the thread
//! is about to sleep. So operations that are started together are submitted together, with one system call, and a
//! thread that never sleeps never submits: nothing that computes for long may run here, and `yield_now` in a loop
//! (tokio does not count it as sleeping) waits for ever. Completions wake the thread through epoll.
//!
//! # Who owns what
//!
//! An operation owns its buffer and a share of its file until its completion was seen. If its future is dropped
//! before that, tokio-uring keeps them in the ring's slab; the operation is not cancelled. With one exception, in
//! version 0.5.0: when the *runtime* is dropped, the slab lets go of the memory of such operations first and waits for
//! the kernel afterwards (`Driver::drop`). The kernel would read into freed memory. Hence invariant 1.
//!
//! # Invariants
//!
//! 1. The runtime is dropped only after every operation that owns memory has completed: [`UringRuntime`]'s drop ends
//!    the tasks and waits for [`InFlight`], also when the job panics.
//! 2. What can fail is tried before tokio-uring gets to `unwrap` it: a plain ring is set up and asked for its
//!    operations, and buffers are registered before the job begins.
//! 3. Neither queue of the ring runs full in normal work (see [`ENTRIES_MIN`]): tokio-uring copes badly with both.
//!
//! Not used, because the driver sleeps in epoll and not in the ring: `DEFER_TASKRUN` (completions would be seen too
//! late or never), `IOPOLL` (the same, and it has no fsync), `SQPOLL` (slower with few operations in flight).

mod buffers;
mod in_flight;
mod ops;
mod timer;
mod write;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use io_uring::{IoUring, Probe, opcode};
use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use tokio::task::JoinSet;

use self::buffers::Buffers;
use self::in_flight::InFlight;
pub(super) use self::ops::UringDisk;
use self::timer::Timers;
use super::offload::Helpers;
use super::start::{DiskConfig, OnDisk};
use super::zeros::Zeros;

/// Submission queue entries beside one for each write buffer: reads, syncs and directory operations of one log's
/// tasks between two sleeps. When the queue is full, tokio-uring submits on the spot, and panics if that fails.
const ENTRIES_MIN: usize = 256;

/// Completion queue entries for each submission queue entry. An overflowing completion queue has lost wake-ups in
/// tokio-uring; an entry takes 16 bytes.
const COMPLETIONS_PER_ENTRY: usize = 8;

/// What [`ops`], [`write`](mod@write) and [`timer`] submit. The youngest, `RenameAt` and `UnlinkAt`, are of kernel 5.11.
const OPERATIONS: [(u8, &str); 9] = [
    (opcode::Read::CODE, "READ"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::WriteFixed::CODE, "WRITE_FIXED"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::Timeout::CODE, "TIMEOUT"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
    (opcode::OpenAt::CODE, "OPENAT"),
    (opcode::RenameAt::CODE, "RENAMEAT"),
    (opcode::UnlinkAt::CODE, "UNLINKAT"),
];

/// The runtime that carries a [`UringDisk`].
pub(super) struct UringRuntime {
    runtime: tokio_uring::Runtime,
    shared: Rc<Shared>,
}

/// What the disk, its files and the runtime's end have in common.
struct Shared {
    buffers: Buffers,
    in_flight: InFlight,
    zeros: Zeros,
    helpers: Helpers,
    timers: Timers,
    tasks: RefCell<JoinSet<()>>,
    start: Instant,
}

impl UringRuntime {
    /// Sets up the ring and registers the buffers.
    ///
    /// # Errors
    ///
    /// What the kernel said, with a text that says what to do about it.
    pub(super) fn start(config: DiskConfig) -> io::Result<Self> {
        let entries = (ENTRIES_MIN + config.buffer_count).next_power_of_two();
        let mut ring = io_uring::IoUring::builder();
        ring.setup_cqsize(
            u32::try_from(entries * COMPLETIONS_PER_ENTRY).expect("limited by DiskConfig"),
        );
        let entries = u32::try_from(entries).expect("limited by DiskConfig");

        // A ring of our own first: what it says is clean, while tokio-uring leaks and unwraps on the same errors.
        probe(&ring.build(entries).map_err(no_ring)?)?;
        let runtime =
            tokio_uring::Runtime::new(tokio_uring::builder().entries(entries).uring_builder(&ring))
                .map_err(no_ring)?;

        let buffers = Buffers::new(&config);
        // Registration finds the ring through the runtime's thread-local context, which `block_on` sets.
        runtime
            .block_on(async { buffers.register() })
            .map_err(|error| no_buffers(&error, &config))?;
        Ok(UringRuntime {
            runtime,
            shared: Rc::new(Shared {
                buffers,
                in_flight: InFlight::default(),
                zeros: Zeros::default(),
                helpers: Helpers::default(),
                timers: Timers::default(),
                tasks: RefCell::default(),
                start: Instant::now(),
            }),
        })
    }

    pub(super) fn run<J: OnDisk>(self, job: J) -> J::Output {
        let disk = UringDisk::new(Rc::clone(&self.shared));
        self.runtime.block_on(job.run(disk))
    }
}

impl Drop for UringRuntime {
    /// Invariant 1. A panic in here while another unwinds aborts the process, which is safe too.
    fn drop(&mut self) {
        self.runtime.block_on(async {
            loop {
                // Taken out, so that no borrow is held while the tasks' destructors run: they may spawn.
                let mut tasks = self.shared.tasks.take();
                if tasks.is_empty() {
                    break;
                }
                tasks.shutdown().await;
            }
            self.shared.in_flight.until_none().await;
        });
        self.shared.helpers.stop();
    }
}

/// Asks a ring whether its kernel has all that we use.
fn probe(ring: &IoUring) -> io::Result<()> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(no_ring)?;
    for (code, name) in OPERATIONS {
        if !probe.is_supported(code) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("io_uring here has no {name}; seawal's ring needs kernel 5.11 or later"),
            ));
        }
    }
    Ok(())
}

/// The set-up failed: says why, as far as the error tells, and what to do.
fn no_ring(error: io::Error) -> io::Error {
    let hint = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => {
            "it is forbidden to this process: by a container's seccomp profile (Docker's default one; allow \
             io_uring_setup, io_uring_enter and io_uring_register), or by sysctl kernel.io_uring_disabled"
        }
        Some(Errno::ENOSYS) => {
            "this kernel has no io_uring (kernel 5.11 or later is needed), or a seccomp profile hides it"
        }
        Some(Errno::ENOMEM) => {
            "raise RLIMIT_MEMLOCK (ulimit -l; LimitMEMLOCK= in systemd; --ulimit memlock= in Docker), which older \
             kernels charge with the ring"
        }
        Some(Errno::EMFILE | Errno::ENFILE) => "raise the limit of open files (ulimit -n)",
        _ => "run `seawal doctor` for what this machine allows",
    };
    io::Error::new(error.kind(), format!("io_uring cannot be set up: {error}: {hint}"))
}

/// The registration failed; nearly always because it would lock more memory than is allowed.
fn no_buffers(error: &io::Error, config: &DiskConfig) -> io::Error {
    let wanted = config.buffer_count * config.buffer_bytes;
    let limit = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((RLIM_INFINITY, _)) => "unlimited".to_owned(),
        Ok((soft, _)) => format!("{soft} bytes"),
        Err(errno) => format!("unknown ({errno})"),
    };
    io::Error::new(
        error.kind(),
        format!(
            "{} write buffers of {} bytes cannot be registered with io_uring: {error}: {wanted} bytes would be locked \
             in memory and RLIMIT_MEMLOCK is {limit} for all rings of this user; raise it (ulimit -l; LimitMEMLOCK= in \
             systemd; --ulimit memlock= in Docker), or use fewer or smaller buffers",
            config.buffer_count, config.buffer_bytes,
        ),
    )
}

#[cfg(test)]
mod tests;
