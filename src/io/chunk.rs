//! Memory that pieces of a file are read into, and that others keep slices of.

use super::{AlignedBuf, BLOCK_BYTES, BlockingFile};
use bytes::Bytes;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much is read at a time: it is still in the cache of the core that read it when it is checked.
pub(crate) const CHUNK_BYTES: u64 = 256 << 10;

/// The memory of a chunk: it begins and ends with a block.
const CHUNK_MEMORY: usize = CHUNK_BYTES as usize + 2 * BLOCK_BYTES;

/// A chunk's memory is not taken for fewer bytes.
const CHUNK_USED_MIN: usize = CHUNK_MEMORY / 2;

/// Memory that waits to be read into again.
const SPARES_MAX: usize = 32;

/// Memory for chunks. New memory costs as much as reading into it.
#[derive(Debug, Default)]
pub(crate) struct Chunks(Mutex<Vec<AlignedBuf>>);

impl Chunks {
    fn lock(&self) -> MutexGuard<'_, Vec<AlignedBuf>> {
        // Nothing panics under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chunks whose memory waits to be read into again.
    #[cfg(test)]
    pub(crate) fn spares(&self) -> usize {
        self.lock().len()
    }

    /// Memory for so many bytes. That of a larger frame than a chunk has is new, and so is that of a small segment: whoever
    /// keeps its entries would keep a whole chunk for them.
    fn take(self: &Arc<Self>, bytes: usize) -> Chunk {
        let of_chunk = (CHUNK_USED_MIN..=CHUNK_MEMORY).contains(&bytes);
        let spare = if of_chunk { self.lock().pop() } else { None };
        let len = if of_chunk { CHUNK_MEMORY } else { bytes };
        let memory = spare.unwrap_or_else(|| AlignedBuf::with_len(len));
        Chunk { memory, spares: Arc::clone(self) }
    }

    /// The bytes of `file` from `offset` on, `len` of them, or as many as it has.
    pub(crate) fn read(
        self: &Arc<Self>,
        file: &dyn BlockingFile,
        offset: u64,
        len: usize,
    ) -> io::Result<Bytes> {
        let mut chunk = self.take(len);
        let filled = file.read_at(offset, &mut chunk.memory[..len])?;
        Ok(Bytes::from_owner(chunk).slice(..filled))
    }
}

/// Memory that goes back when nobody has any of its bytes.
struct Chunk {
    memory: AlignedBuf,
    spares: Arc<Chunks>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, AlignedBuf::with_len(0));
        let mut spares = self.spares.lock();
        if memory.len() == CHUNK_MEMORY && spares.len() < SPARES_MAX {
            spares.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, each entry of a log of small segments that somebody kept held a whole chunk. (Found by fuzzing.)
    #[test]
    fn a_small_segment_takes_little_memory() {
        let spares = Arc::<Chunks>::default();
        drop(spares.take(CHUNK_MEMORY));
        assert_eq!(spares.spares(), 1);
        let chunk = spares.take(3 * BLOCK_BYTES);
        assert_eq!(chunk.memory.len(), 3 * BLOCK_BYTES);
        drop(chunk);
        assert_eq!(spares.spares(), 1);
    }
}
