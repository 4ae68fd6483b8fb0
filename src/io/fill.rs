//! When is a read finished? The kernel may give fewer bytes than asked for without being at the end of the file,
//! and past the page cache it must be asked again at a block's border. This is that decision, free of any I/O,
//! so that every disk makes it alike and tests can produce the short reads that real disks seldom do.

use std::io;

use super::BLOCK_BYTES;

/// Progress of one read of `len` bytes at `offset`.
pub(crate) struct Fill {
    offset: u64,
    len: usize,
    filled: usize,
    /// For direct reads: the file's length when the read began.
    direct_end: Option<u64>,
}

impl Fill {
    /// A read through the page cache, or a direct one of a file that is `direct_end` bytes long.
    ///
    /// # Panics
    ///
    /// If a direct read is not aligned: the kernel's bare `EINVAL` would hide whose mistake it was.
    pub(crate) fn new(offset: u64, len: usize, direct_end: Option<u64>) -> Self {
        if direct_end.is_some() {
            assert!(offset.is_multiple_of(BLOCK_BYTES as u64), "direct read at {offset}");
            assert!(len.is_multiple_of(BLOCK_BYTES), "direct read of {len} bytes");
        }
        Fill { offset, len, filled: 0, direct_end }
    }

    /// Where in the buffer the next bytes go.
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    /// Where in the file they come from.
    pub(crate) fn position(&self) -> u64 {
        self.offset + self.filled as u64
    }

    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.len
    }

    /// Takes the kernel's count; `true` if the read is finished.
    ///
    /// # Errors
    ///
    /// A direct read that stops inside a block before the end of the file is repeated from the start of that block,
    /// which gives the device's own error or the bytes. If not even one block arrives, `UnexpectedEof`.
    pub(crate) fn advance(&mut self, count: usize) -> io::Result<bool> {
        assert!(count <= self.len - self.filled, "the kernel read past the buffer");
        let before = self.filled;
        self.filled += count;
        if count == 0 || self.is_full() {
            return Ok(true);
        }
        let Some(end) = self.direct_end else {
            return Ok(false);
        };
        let inside_block = self.filled % BLOCK_BYTES;
        if inside_block == 0 {
            return Ok(false);
        }
        if self.position() >= end {
            return Ok(true);
        }
        self.filled -= inside_block;
        if self.filled == before {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "direct read at {} stopped after {count} bytes, inside a block, in a file of {end} bytes",
                    self.position()
                ),
            ));
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_after_a_short_read_and_ends_when_full() {
        let mut fill = Fill::new(100, 10, None);
        assert!(!fill.advance(4).unwrap());
        assert_eq!((fill.filled(), fill.position()), (4, 104));
        assert!(fill.advance(6).unwrap());
        assert!(fill.is_full());
    }

    #[test]
    fn ends_at_the_end_of_the_file() {
        let mut fill = Fill::new(0, 10, None);
        assert!(!fill.advance(4).unwrap());
        assert!(fill.advance(0).unwrap());
        assert_eq!(fill.filled(), 4);
    }

    #[test]
    fn a_direct_read_ends_inside_the_last_block() {
        let mut fill = Fill::new(4096, 8192, Some(4096 + 5000));
        assert!(fill.advance(5000).unwrap());
        assert_eq!(fill.filled(), 5000);
    }

    #[test]
    fn a_direct_read_that_stops_early_is_repeated_from_the_block() {
        let mut fill = Fill::new(0, 16384, Some(16384));
        assert!(!fill.advance(4096 + 512).unwrap());
        assert_eq!((fill.filled(), fill.position()), (4096, 4096));
        let error = fill.advance(512).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_direct_read_goes_on_at_a_block() {
        let mut fill = Fill::new(0, 16384, Some(16384));
        assert!(!fill.advance(8192).unwrap());
        assert!(fill.advance(8192).unwrap());
    }

    #[test]
    #[should_panic(expected = "direct read at 512")]
    fn refuses_a_misaligned_direct_read() {
        Fill::new(512, 4096, Some(8192));
    }
}
