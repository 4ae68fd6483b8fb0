//! Memory that the kernel may read and write on its own: direct reads need an aligned address, registered
//! buffers need one that never moves.
//!
//! # Invariants
//!
//! 1. The memory, or a part of a [`Mapping`], belongs to one [`AlignedBuf`], from its making to its drop, and does not
//!    move when the handle does.
//! 2. Every byte of the capacity is initialised, always: it comes zeroed and is only ever overwritten. So no
//!    watermark of "initialised so far" is kept, and a short read can expose old bytes but never arbitrary memory.
//! 3. `len <= capacity`; the capacity is a multiple of [`BLOCK_BYTES`] and never changes.
//!
//! # Huge pages
//!
//! Buffers that are made together lie in huge pages, the first ones at least, where the system has them. To the device a
//! page is a piece of memory to be looked up: a MiB is 256 of them, more than many take in one request, or one. Copying
//! into them is quicker as well (`docs/decisions/0018-write-buffers-lie-in-huge-pages.md`).
//!
//! Beyond the length nothing is readable or writable, neither by safe code nor by the ring: to tokio-uring the
//! buffer ends at its length.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use tokio_uring::buf::{IoBuf, IoBufMut};

use super::BLOCK_BYTES;

const _: () = assert!(BLOCK_BYTES.is_power_of_two());

/// Owned bytes at an address that is a multiple of [`BLOCK_BYTES`].
pub(crate) struct AlignedBuf {
    /// Start of the allocation; dangling (but aligned) if the capacity is zero.
    start: NonNull<u8>,
    capacity: usize,
    len: usize,
    /// What it is a part of, if it is not an allocation of its own.
    mapping: Option<Arc<Mapping>>,
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
            let start = NonNull::<Block>::dangling().cast();
            return AlignedBuf { start, capacity, len, mapping: None };
        }
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero. The memory is owned by the value made here, until its drop frees
        // it with the same layout; an operation in flight owns the value, so no dropped future frees it early.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        AlignedBuf { start, capacity, len, mapping: None }
    }

    /// So many buffers of `len` zero bytes each, one behind the other in as many huge pages as they fill; the rest lies in
    /// small ones, so that nothing is taken, or locked, that is not asked for. The memory goes with the last of them.
    ///
    /// # Panics
    ///
    /// As [`AlignedBuf::with_len`].
    pub(crate) fn several(count: usize, len: usize) -> Vec<Self> {
        let capacity = len.checked_next_multiple_of(BLOCK_BYTES);
        let all = capacity.and_then(|capacity| capacity.checked_mul(count));
        let (Some(capacity), Some(all @ HUGE_PAGE_BYTES..)) = (capacity, all) else {
            return (0..count).map(|_| Self::with_len(len)).collect();
        };
        let mapping = Arc::new(Mapping::of_huge_pages(all));
        let part = |at: usize| {
            // SAFETY: the mapping has `count * capacity` bytes from `first` on, and `at < count`.
            let start = unsafe { mapping.first.add(at * capacity) };
            AlignedBuf { start, capacity, len, mapping: Some(Arc::clone(&mapping)) }
        };
        (0..count).map(part).collect()
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
        if self.capacity > 0 && self.mapping.is_none() {
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

/// What huge pages hold where a page has 4 KiB. Elsewhere asking for them does nothing.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zero bytes that several buffers lie in, each in a part of its own.
struct Mapping {
    start: NonNull<u8>,
    bytes: NonZeroUsize,
    /// What the buffers lie in begins here, with a huge page.
    first: NonNull<u8>,
}

// SAFETY: addresses of memory that any thread may use and unmap; the mapping itself reads and writes none of it.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing of it changes.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of_huge_pages(bytes: usize) -> Self {
        // Wherever it begins, there is a boundary in it with so much behind.
        let mapped = bytes.checked_add(HUGE_PAGE_BYTES).and_then(NonZeroUsize::new);
        let mapped = mapped.expect("buffers fit the address space");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory, where the kernel finds room: nothing that is mapped is touched.
        let start = unsafe { mmap_anonymous(None, mapped, access, MapFlags::MAP_PRIVATE) };
        let Ok(start) = start else { handle_alloc_error(AlignedBuf::layout(mapped.get())) };
        let start = start.cast::<u8>();
        // SAFETY: less than a huge page further, and one more than what is used is mapped.
        let first = unsafe { start.add(start.align_offset(HUGE_PAGE_BYTES)) };
        let huge = bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        // SAFETY: `bytes` from `first` on are mapped; the advice changes nothing but the size of their pages. A system
        // without huge pages refuses it, and small ones do as well.
        let _ = unsafe { madvise(first.cast(), huge, MmapAdvise::MADV_HUGEPAGE) };
        Mapping { start, bytes: mapped, first }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `of_huge_pages` with this length, and unmapped only here. Each buffer in it holds a handle, so
        // there are none left, and the kernel uses none (see `AlignedBuf`).
        let outcome = unsafe { munmap(self.start.cast(), self.bytes.get()) };
        debug_assert!(outcome.is_ok(), "{outcome:?}");
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
    fn several_lie_apart_in_memory_that_stays_until_the_last_is_gone() {
        for len in [3 * BLOCK_BYTES, 1_000_000, HUGE_PAGE_BYTES] {
            let mut buffers = AlignedBuf::several(3, len);
            for (at, buffer) in (1..).zip(&mut buffers) {
                assert_eq!((buffer.len(), buffer.as_ptr().addr() % BLOCK_BYTES), (len, 0));
                assert!(buffer.iter().all(|&byte| byte == 0), "len {len}");
                buffer.fill(at);
            }
            for at in [3, 2, 1] {
                let buffer = buffers.pop().expect("three were made");
                assert!(buffer.iter().all(|&byte| byte == at), "len {len}, buffer {at}");
            }
        }
    }

    /// What the kernel says of the memory that an address lies in.
    fn smaps_of(address: usize) -> Option<String> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let mut found = None;
        for line in smaps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let place = |text| usize::from_str_radix(text, 16).ok();
            if let Some((Some(from), Some(to))) = range.map(|(from, to)| (place(from), place(to))) {
                if found.is_some() {
                    break;
                }
                found = (from..to).contains(&address).then(String::new);
            } else if let Some(found) = &mut found {
                found.push_str(line);
                found.push('\n');
            }
        }
        found
    }

    #[test]
    fn large_ones_ask_for_huge_pages_and_give_them_back() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return eprintln!("skipped: this kernel has no huge pages");
        }
        let buffers = AlignedBuf::several(3, 1_000_000);
        let first = buffers[0].as_ptr().addr();
        assert_eq!(first % HUGE_PAGE_BYTES, 0);
        let asked = buffers.iter().map(|buffer| {
            let said = smaps_of(buffer.as_ptr().addr()).expect("it is mapped");
            let flags = said.lines().find(|line| line.starts_with("VmFlags")).expect("flags");
            flags.split(' ').any(|flag| flag == "hg")
        });
        assert_eq!(asked.collect::<Vec<_>>(), [true, true, true]);
        let behind = smaps_of(first + HUGE_PAGE_BYTES).expect("the end of the third is");
        assert!(!behind.contains(" hg"), "a huge page would be more than was asked for: {behind}");
        let mapping = Arc::downgrade(buffers[0].mapping.as_ref().expect("they share it"));
        drop(buffers);
        assert!(mapping.upgrade().is_none(), "the last buffer takes it along");
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
