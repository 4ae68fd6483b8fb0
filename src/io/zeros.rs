//! One buffer of zeros for a disk, made when it is first asked for and kept: segments are filled with it for as long
//! as the log lives. It is lent like any other buffer, so that a write in flight owns it; that there is only one keeps
//! the zeros from crowding out commits at the device.

use std::cell::OnceCell;
use std::io;

use nix::errno::Errno;

use super::pool::{Lease, Pool};
use super::{AlignedBuf, BLOCK_BYTES};

/// Long enough that the device, not the call, is what takes the time; short enough to wait behind.
pub(super) const ZEROS_BYTES: usize = 256 << 10;

const _: () = assert!(ZEROS_BYTES.is_multiple_of(BLOCK_BYTES));

#[derive(Default)]
pub(super) struct Zeros(OnceCell<Pool<AlignedBuf>>);

impl Zeros {
    /// Fills a range of a file by `write`, which is given the zeros, how many of them, and where to write them, and
    /// gives the kernel's count. `direct`: past the page cache, where a write begins at a block.
    pub(super) async fn fill(
        &self,
        offset: u64,
        len: u64,
        direct: bool,
        write: impl AsyncFn(Lease<AlignedBuf>, usize, u64) -> io::Result<usize>,
    ) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or_else(|| io::Error::from(Errno::EFBIG))?;
        let mut position = offset;
        while position < end {
            let left = usize::try_from(end - position).unwrap_or(usize::MAX);
            let wanted = left.min(ZEROS_BYTES);
            let count = write(self.take().await, wanted, position).await?;
            assert!(count <= wanted, "the kernel wrote past the buffer");
            // After a direct write that stopped inside a block, that block is written again.
            let inside_block = if direct && count < wanted { count % BLOCK_BYTES } else { 0 };
            let done = count - inside_block;
            if done == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            position += done as u64;
        }
        Ok(())
    }

    async fn take(&self) -> Lease<AlignedBuf> {
        let pool = self.0.get_or_init(|| Pool::new([AlignedBuf::with_len(ZEROS_BYTES)]));
        pool.take().await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// The pieces that are written when the kernel takes so many bytes of each.
    fn pieces(offset: u64, len: u64, direct: bool, counts: &[usize]) -> (Vec<(u64, usize)>, bool) {
        let zeros = Zeros::default();
        let written = RefCell::new(Vec::new());
        let fill = zeros.fill(offset, len, direct, async |buf, wanted, position| {
            assert!(buf[..wanted].iter().all(|&byte| byte == 0));
            let mut written = written.borrow_mut();
            written.push((position, wanted));
            Ok(counts.get(written.len() - 1).copied().unwrap_or(wanted))
        });
        let polled = pin!(fill).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(result) = polled else { panic!("nothing to wait for") };
        (written.take(), result.is_ok())
    }

    const PIECE: u64 = ZEROS_BYTES as u64;

    #[test]
    fn goes_piece_by_piece() {
        assert_eq!(pieces(7, 0, false, &[]), (vec![], true));
        assert_eq!(pieces(7, 9, false, &[]), (vec![(7, 9)], true));
        let expected = vec![(7, ZEROS_BYTES), (7 + PIECE, ZEROS_BYTES), (7 + 2 * PIECE, 1)];
        assert_eq!(pieces(7, 2 * PIECE + 1, false, &[]), (expected, true));
    }

    #[test]
    fn goes_on_after_a_short_write() {
        assert_eq!(pieces(0, 100, false, &[30]), (vec![(0, 100), (30, 70)], true));
        let expected = vec![(4096, 8192), (8192, 4096)];
        assert_eq!(pieces(4096, 8192, true, &[5000]), (expected, true));
    }

    #[test]
    fn a_write_of_nothing_is_an_error() {
        assert_eq!(pieces(0, 100, false, &[0]), (vec![(0, 100)], false));
        assert_eq!(pieces(0, 8192, true, &[100]), (vec![(0, 8192)], false));
        assert!(!pieces(u64::MAX, 2, false, &[]).1);
    }
}
