//! Memory that the kernel may read and write on its own: direct reads need an aligned address, registered
//! buffers need one that never moves.
//!
//! # Invariants
//!
//! 1. The memory belongs to one [`AlignedBuf`], from its making to its drop, and does not move when the handle does.
//! 2. Every byte of the capacity is initialised, always: it comes zeroed and is only ever overwritten. So no
//!    watermark of "initialised so far" is kept, and a short read can expose old bytes but never arbitrary memory.
//! 3. `len <= capacity`; the capacity is a multiple of [`BLOCK_BYTES`] and never changes.
//!
//! Beyond the length nothing is readable or writable, neither by safe code nor by the ring: to tokio-uring the
//! buffer ends at its length.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use tokio_uring::buf::{IoBuf, IoBufMut};

use super::BLOCK_BYTES;

const _: () = assert!(BLOCK_BYTES.is_power_of_two());

/// Owned bytes at an address that is a multiple of [`BLOCK_BYTES`].
pub(crate) struct AlignedBuf {
    /// Start of the allocation; dangling (but aligned) if the capacity is zero.
    start: NonNull<u8>,
    capacity: usize,
    len: usize,
}

/// Gives the alignment to the dangling pointer of an empty buffer.
#[repr(align(4096))]
struct Block;

const _: () = assert!(align_of::<Block>() == BLOCK_BYTES);

// SAFETY: the handle is the only owner of plain heap memory (invariant 1), which any thread may use and free. No
// other thread's reference exists while the handle moves; the kernel's view of a buffer in flight is by address
// and knows no threads.
unsafe impl Send for AlignedBuf {}

impl AlignedBuf {
    /// `len` zero bytes, in an allocation rounded up to whole blocks.
    ///
    /// # Panics
    ///
    /// If the rounded size exceeds `isize::MAX`. Lengths that come from a disk are checked before they get here.
    pub(crate) fn with_len(len: usize) -> Self {
        let capacity =
            len.checked_next_multiple_of(BLOCK_BYTES).expect("a buffer fits the address space");
        if capacity == 0 {
            return AlignedBuf { start: NonNull::<Block>::dangling().cast(), capacity, len };
        }
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero. The memory is owned by the value made here, until its drop frees
        // it with the same layout; an operation in flight owns the value, so no dropped future frees it early.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        AlignedBuf { start, capacity, len }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK_BYTES).expect("a buffer fits the address space")
    }

    /// Cuts the length; does nothing if the buffer is shorter already. The memory stays.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: allocated in `with_len` with this layout (the capacity never changes) and freed only here.
            // The kernel does not use it any more: an operation owns its buffer until the completion was seen, even
            // if its future is dropped (`uring`: "Who owns what").
            unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len <= capacity` initialised bytes (invariants 2 and 3), owned by `self` and borrowed with it. No
        // operation writes to them meanwhile: it would own `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow is exclusive because that of `self` is.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// For `Bytes::from_owner`.
impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

// SAFETY: the address is that of the heap allocation, so it stays valid and the same while the value is moved about;
// the allocation lives as long as the value (invariant 1), and an operation in flight owns the value. All `len`
// bytes are initialised (invariant 2).
unsafe impl IoBuf for AlignedBuf {
    fn stable_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len
    }

    fn bytes_total(&self) -> usize {
        self.len
    }
}

// SAFETY: as for `IoBuf`; the pointer comes from an exclusive borrow of the only owner.
unsafe impl IoBufMut for AlignedBuf {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    // Nothing to remember: every byte is initialised from the start.
    unsafe fn set_init(&mut self, end: usize) {
        assert!(end <= self.len, "an operation stays inside its buffer");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn is_aligned_zeroed_and_rounded_up() {
        for len in [1, 511, 4095, 4096, 4097, 100_000] {
            let buf = AlignedBuf::with_len(len);
            assert_eq!(buf.as_ptr().addr() % BLOCK_BYTES, 0, "len {len}");
            assert_eq!(buf.len(), len);
            assert_eq!(buf.capacity, len.div_ceil(BLOCK_BYTES) * BLOCK_BYTES);
            assert!(buf.iter().all(|&byte| byte == 0), "len {len}");
        }
    }

    #[test]
    fn empty_allocates_nothing_and_is_aligned() {
        let mut buf = AlignedBuf::with_len(0);
        assert_eq!(buf.capacity, 0);
        assert_eq!(buf.stable_ptr().addr() % BLOCK_BYTES, 0);
        assert!(buf.is_empty());
        buf.truncate(0);
        assert!(buf[..].iter_mut().next().is_none());
    }

    #[test]
    #[should_panic(expected = "fits the address space")]
    fn refuses_a_length_beyond_memory() {
        AlignedBuf::with_len(usize::MAX);
    }

    #[test]
    fn truncate_only_cuts() {
        let mut buf = AlignedBuf::with_len(10);
        buf.copy_from_slice(b"0123456789");
        buf.truncate(4);
        assert_eq!(&buf[..], b"0123");
        buf.truncate(9);
        assert_eq!(&buf[..], b"0123");
        assert_eq!(buf.capacity, BLOCK_BYTES);
    }

    #[test]
    fn keeps_its_address_on_the_way_to_another_thread_and_into_bytes() {
        let mut buf = AlignedBuf::with_len(3);
        buf.copy_from_slice(b"abc");
        let address = buf.stable_ptr().addr();
        let bytes = std::thread::spawn(move || Bytes::from_owner(buf)).join().expect("thread ends");
        assert_eq!(&bytes[..], b"abc");
        assert_eq!(bytes.as_ptr().addr(), address);
    }

    #[test]
    fn the_ring_sees_exactly_the_length() {
        let mut buf = AlignedBuf::with_len(5000);
        buf.truncate(4100);
        assert_eq!(buf.bytes_init(), 4100);
        assert_eq!(buf.bytes_total(), 4100);
        assert_eq!(buf.stable_ptr(), buf.stable_mut_ptr().cast_const());
    }
}
