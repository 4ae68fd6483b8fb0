//! Chooses a disk and runs a job on it: the one place that knows all real disks.
//!
//! `Auto` decides once, before the job begins, by doing what the job would need: a ring is set up and the job's own
//! buffers are registered with it. So a job never starts on a disk that cannot carry it, and the fallback costs one
//! warning, not one per log operation.

use std::fmt;
use std::future::Future;
use std::io;
use std::str::FromStr;

use super::threads::ThreadsRuntime;
use super::uring::UringRuntime;
use super::{BLOCK_BYTES, Disk};

/// Which kernel interface carries the log's reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// [`Uring`](Backend::Uring) where it can be set up, else [`Threads`](Backend::Threads) with one warning that
    /// says why.
    #[default]
    Auto,
    /// io_uring with registered buffers. Opening fails where the kernel, a container's seccomp profile or the
    /// locked-memory limit forbids it.
    Uring,
    /// Plain system calls. Works everywhere; the same promises, fewer writes in flight.
    Threads,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Backend::Auto => "auto",
            Backend::Uring => "uring",
            Backend::Threads => "threads",
        })
    }
}

impl FromStr for Backend {
    type Err = io::Error;

    /// Parses the name that `Display` prints.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for any other text; the names are lower-case.
    fn from_str(name: &str) -> io::Result<Self> {
        match name {
            "auto" => Ok(Backend::Auto),
            "uring" => Ok(Backend::Uring),
            "threads" => Ok(Backend::Threads),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no backend is called {other:?}; use auto, uring or threads"),
            )),
        }
    }
}

/// What a disk is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskConfig {
    /// Write buffers, and so the limit on writes in flight: 1 to [`DiskConfig::BUFFER_COUNT_MAX`].
    pub buffer_count: usize,
    /// Length of each, a multiple of [`BLOCK_BYTES`] up to [`DiskConfig::BUFFER_BYTES_MAX`].
    pub buffer_bytes: usize,
}

impl DiskConfig {
    /// tokio-uring registers at most `UIO_MAXIOV` buffers, and drops the rest without a word.
    pub(crate) const BUFFER_COUNT_MAX: usize = 1024;
    /// The kernel's limit for one registered buffer.
    pub(crate) const BUFFER_BYTES_MAX: usize = 1 << 30;

    /// # Panics
    ///
    /// If a limit is broken: the options were validated before.
    pub(super) fn check(&self) {
        assert!(self.buffer_count > 0);
        assert!(self.buffer_count <= Self::BUFFER_COUNT_MAX);
        assert!(self.buffer_bytes > 0);
        assert!(self.buffer_bytes <= Self::BUFFER_BYTES_MAX);
        assert!(self.buffer_bytes.is_multiple_of(BLOCK_BYTES));
    }
}

/// Work that runs on a disk, whichever it is. (A closure cannot be generic over the disk.)
pub(crate) trait OnDisk {
    type Output;

    fn run<D: Disk>(self, disk: D) -> impl Future<Output = Self::Output>;
}

/// Runs `job` on the calling thread and blocks it until the job is done. The tasks that the job spawned and that are
/// not done by then are dropped; every operation in flight has ended when this returns, also by a panic.
///
/// # Errors
///
/// That of the set-up, with a text that says what to do about it. The job has not begun then.
///
/// # Panics
///
/// If the thread already runs a tokio runtime, or `config` breaks a limit. A panic of the job goes through.
pub(crate) fn run<J: OnDisk>(
    backend: Backend,
    config: DiskConfig,
    job: J,
) -> io::Result<J::Output> {
    config.check();
    match backend {
        Backend::Uring => Ok(UringRuntime::start(config)?.run(job)),
        Backend::Threads => Ok(ThreadsRuntime::start(config)?.run(job)),
        Backend::Auto => match UringRuntime::start(config) {
            Ok(uring) => Ok(uring.run(job)),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "seawal runs without io_uring, on the threads backend; choose it explicitly to silence this"
                );
                Ok(ThreadsRuntime::start(config)?.run(job))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use nix::libc::{ENOMEM, ENOSYS, EPERM, SYS_io_uring_register, SYS_io_uring_setup};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    use super::*;

    const CONFIG: DiskConfig = DiskConfig { buffer_count: 2, buffer_bytes: BLOCK_BYTES };

    #[test]
    fn names_go_there_and_back() {
        for backend in [Backend::Auto, Backend::Uring, Backend::Threads] {
            assert_eq!(backend.to_string().parse::<Backend>().unwrap(), backend);
        }
        let error = "Uring".parse::<Backend>().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Backend::default(), Backend::Auto);
    }

    struct Name;

    impl OnDisk for Name {
        type Output = &'static str;

        async fn run<D: Disk>(self, disk: D) -> &'static str {
            disk.name()
        }
    }

    /// Writes down the fields of every event.
    #[derive(Clone, Default)]
    struct Events(Arc<Mutex<Vec<String>>>);

    impl tracing::field::Visit for Events {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
            let mut events = self.0.lock().unwrap();
            let line = events.last_mut().expect("an event has begun");
            line.push_str(&format!(" {field}={value:?}"));
        }
    }

    impl tracing::Subscriber for Events {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.target().starts_with("seawal")
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let level = event.metadata().level().to_string();
            self.0.lock().unwrap().push(level);
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    /// Runs on a thread of its own where the kernel answers `syscall` with `errno`; if `rules` are given, only where
    /// they match.
    fn where_refused(
        syscall: i64,
        rules: Vec<SeccompRule>,
        errno: i32,
        backend: Backend,
    ) -> (io::Result<&'static str>, Vec<String>) {
        std::thread::spawn(move || {
            let filter: BpfProgram = SeccompFilter::new(
                [(syscall, rules)].into(),
                SeccompAction::Allow,
                SeccompAction::Errno(errno as u32),
                std::env::consts::ARCH.try_into().expect("known machine"),
            )
            .and_then(TryInto::try_into)
            .expect("valid filter");
            seccompiler::apply_filter(&filter).expect("this thread takes the filter");
            let events = Events::default();
            let result =
                tracing::subscriber::with_default(events.clone(), || run(backend, CONFIG, Name));
            let lines = events.0.lock().unwrap().clone();
            (result, lines)
        })
        .join()
        .expect("the thread ends")
    }

    /// A container's profile: io_uring_setup is refused. The log must open all the same and say why it is slower,
    /// once, in words that lead to the profile.
    #[test]
    fn auto_falls_back_with_one_warning() {
        let (name, events) = where_refused(SYS_io_uring_setup, vec![], EPERM, Backend::Auto);
        assert_eq!(name.unwrap(), "threads");
        assert_eq!(events.len(), 1, "{events:?}");
        assert!(events[0].starts_with("WARN"), "{events:?}");
        for word in ["os error 1)", "seccomp", "kernel.io_uring_disabled"] {
            assert!(events[0].contains(word), "{word} is not in {events:?}");
        }
    }

    #[test]
    fn auto_falls_back_where_the_kernel_has_no_rings() {
        let (name, events) = where_refused(SYS_io_uring_setup, vec![], ENOSYS, Backend::Auto);
        assert_eq!(name.unwrap(), "threads");
        assert_eq!(events.len(), 1, "{events:?}");
        assert!(events[0].contains("kernel 5.11"), "{events:?}");
    }

    #[test]
    fn auto_takes_the_ring_where_there_is_one() {
        let events = Events::default();
        let name = tracing::subscriber::with_default(events.clone(), || {
            run(Backend::Uring, CONFIG, Name)?;
            run(Backend::Auto, CONFIG, Name)
        });
        match name {
            Ok(name) => assert_eq!(name, "uring"),
            Err(error) => eprintln!("skipped: {error}"),
        }
        assert!(events.0.lock().unwrap().is_empty());
    }

    #[test]
    fn uring_asked_for_is_uring_or_an_error() {
        let (name, events) = where_refused(SYS_io_uring_setup, vec![], EPERM, Backend::Uring);
        let error = name.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("seccomp"), "{error}");
        assert!(events.is_empty(), "{events:?}");
    }

    /// The ring itself is allowed, but its registrations are refused as a tight RLIMIT_MEMLOCK would refuse them.
    #[test]
    fn a_refused_registration_names_the_limit() {
        const IORING_REGISTER_BUFFERS: u64 = 0;
        let buffers = SeccompCondition::new(
            1,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            IORING_REGISTER_BUFFERS,
        );
        let buffers = SeccompRule::new(vec![buffers.unwrap()]).unwrap();
        let refused = where_refused(SYS_io_uring_register, vec![buffers], ENOMEM, Backend::Uring);
        let error = refused.0.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        for word in ["RLIMIT_MEMLOCK", "8192 bytes", "os error 12)"] {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn threads_asked_for_is_threads() {
        assert_eq!(run(Backend::Threads, CONFIG, Name).unwrap(), "threads");
    }
}
