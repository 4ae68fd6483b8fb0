//! Refuses io_uring, as containers do.
#![allow(dead_code)] // every test binary uses a part of this

use nix::libc::SYS_io_uring_setup;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Does `work` on a thread of its own, where io_uring_setup is answered with `errno`; an error if no filter can be
/// set. A filter is for the thread and what it starts.
pub(crate) fn without_uring<T: Send + 'static>(
    errno: i32,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let thread = std::thread::spawn(move || {
        let filter: BpfProgram = SeccompFilter::new(
            [(SYS_io_uring_setup, vec![])].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(errno as u32),
            std::env::consts::ARCH.try_into().expect("known machine"),
        )
        .and_then(TryInto::try_into)
        .expect("valid filter");
        seccompiler::apply_filter(&filter).map_err(|error| error.to_string())?;
        Ok(work())
    });
    thread.join().unwrap()
}
