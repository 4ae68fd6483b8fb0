//! Write buffers that the kernel has mapped once, so that no write maps them again.
//!
//! tokio-uring's registry lends them by index and knows no waiting; the [`Pool`] of their indexes adds that.
//!
//! # Invariants
//!
//! 1. A buffer is checked out exactly while its index is leased. The index goes back *after* the buffer, everywhere:
//!    by the order of fields in [`RingBuf`], which a write in flight owns whole.
//! 2. The whole of a buffer is initialised and exposed, always: its registered length is its length.

use std::io;
use std::ops::{Deref, DerefMut};

use tokio_uring::buf::fixed::{FixedBuf, FixedBufRegistry};

use crate::io::pool::{Lease, Pool};
use crate::io::{AlignedBuf, DiskConfig};

pub(super) struct Buffers {
    registry: FixedBufRegistry<AlignedBuf>,
    indexes: Pool<usize>,
    buffer_bytes: usize,
}

impl Buffers {
    pub(super) fn new(config: &DiskConfig) -> Self {
        let buffers = AlignedBuf::several(config.buffer_count, config.buffer_bytes);
        Buffers {
            registry: FixedBufRegistry::new(buffers),
            indexes: Pool::new((0..config.buffer_count).rev()),
            buffer_bytes: config.buffer_bytes,
        }
    }

    /// Registers with the ring of the runtime that is running; its end unregisters.
    pub(super) fn register(&self) -> io::Result<()> {
        self.registry.register()
    }

    /// Takes a buffer; waits while all are in use.
    pub(super) async fn take(&self) -> RingBuf {
        let index = self.indexes.take().await;
        let fixed = self
            .registry
            .check_out(*index.item())
            .expect("a free index is that of a checked-in buffer");
        assert_eq!(fixed.len(), self.buffer_bytes);
        RingBuf { fixed, index }
    }
}

/// A registered write buffer.
pub(in crate::io) struct RingBuf {
    // In this order: the buffer is checked in before its index is free.
    fixed: FixedBuf,
    index: Lease<usize>,
}

impl RingBuf {
    /// What the kernel knows the buffer by.
    pub(super) fn index(&self) -> u16 {
        assert_eq!(usize::from(self.fixed.buf_index()), *self.index.item());
        self.fixed.buf_index()
    }
}

impl Deref for RingBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.fixed
    }
}

impl DerefMut for RingBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.fixed
    }
}
