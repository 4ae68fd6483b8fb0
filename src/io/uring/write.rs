//! Writes, put together by hand: tokio-uring's own know no flags, and so no `RWF_DSYNC`.
//!
//! All that the kernel uses is the operation's data ([`Owned`]), which tokio-uring keeps until the completion was seen,
//! whether or not anybody still waits for it.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use io_uring::types::{Fd, RwFlags};
use io_uring::{cqueue, opcode, squeue};
use nix::libc;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot, fs};

use super::buffers::RingBuf;
use super::in_flight::{InFlight, Token};
use crate::io::pool::Lease;
use crate::io::{AlignedBuf, Persist, plain};

/// Writes the first `len` bytes of a registered buffer.
pub(super) async fn registered(
    file: &Rc<fs::File>,
    mut buf: RingBuf,
    len: usize,
    offset: u64,
    persist: Persist,
    in_flight: &InFlight,
) -> (io::Result<usize>, RingBuf) {
    assert!(len <= buf.len(), "a write stays inside its buffer");
    let flags: RwFlags = match persist {
        Persist::Later => 0,
        Persist::Now => libc::RWF_DSYNC,
    };
    loop {
        let write = opcode::WriteFixed::new(
            Fd(file.as_raw_fd()),
            buf.as_ptr(),
            entry_len(len),
            buf.index(),
        )
        .offset(offset)
        .rw_flags(flags)
        .build();
        let (result, returned) = submit(write, buf, file, in_flight).await;
        buf = returned;
        match result {
            // Nothing was written, so this is not a short write either.
            Err(error) if plain::is_interrupted(&error) => {}
            result => return (result, buf),
        }
    }
}

/// Writes the first `len` bytes of a buffer that is not registered.
pub(super) async fn plain(
    file: &Rc<fs::File>,
    mut buf: Lease<AlignedBuf>,
    len: usize,
    offset: u64,
    in_flight: &InFlight,
) -> io::Result<usize> {
    assert!(len <= buf.len(), "a write stays inside its buffer");
    loop {
        let write = opcode::Write::new(Fd(file.as_raw_fd()), buf.as_ptr(), entry_len(len))
            .offset(offset)
            .build();
        let (result, returned) = submit(write, buf, file, in_flight).await;
        buf = returned;
        match result {
            Err(error) if plain::is_interrupted(&error) => {}
            result => return result,
        }
    }
}

fn entry_len(len: usize) -> u32 {
    u32::try_from(len).expect("limited by DiskConfig")
}

/// What a write in flight owns. In this order: the memory goes first, the token that vouches for it last.
struct Owned<B> {
    buf: B,
    /// A share: the description, and the lock on it, outlast a future that is dropped half-way.
    _file: Rc<fs::File>,
    _token: Token,
}

/// `write` is of memory that `buf` owns and that stays where it is when `buf` moves, and of the descriptor of `file`.
async fn submit<B: Unpin + 'static>(
    write: squeue::Entry,
    buf: B,
    file: &Rc<fs::File>,
    in_flight: &InFlight,
) -> (io::Result<usize>, B) {
    // `new` is a safe function, although it cannot check the entry's pointer and descriptor. They are right: both
    // belong to the operation's data, which is kept until the completion was seen even if this future is dropped, and
    // the token makes the runtime's end wait for that.
    let owned = Owned { buf, _file: Rc::clone(file), _token: in_flight.enter() };
    UnsubmittedOneshot::new(owned, Ended(PhantomData), write).submit().await
}

struct Ended<B>(PhantomData<B>);

impl<B> OneshotOutputTransform for Ended<B> {
    type Output = (io::Result<usize>, B);
    type StoredData = Owned<B>;

    fn transform_oneshot_output(self, owned: Owned<B>, entry: cqueue::Entry) -> Self::Output {
        // A negative result is an errno.
        let count = usize::try_from(entry.result());
        (count.map_err(|_| io::Error::from_raw_os_error(-entry.result())), owned.buf)
    }
}
