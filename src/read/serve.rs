//! Reads pieces of files for whoever asks.
//!
//! The submission thread has the files, but large pieces it leaves to helper threads: what the kernel has cached would be
//! copied on the thread that asks for it, and commits would wait for that.

use crate::error::{Error, ErrorKind, Result};
use crate::inbox::Inbox;
use crate::io::{Access, AlignedBuf, BLOCK_BYTES, Disk, DiskFile, Lane};
use crate::metrics::Metrics;
use crate::recovery::frames::PIECE_BYTES;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, oneshot};

/// Pieces that are read at the same time, over all readers of a log.
const READS_IN_FLIGHT_MAX: usize = 8;

/// Files that stay open for the next piece.
const OPEN_FILES_MAX: usize = 4;

/// Up to this length, reading holds the submission thread up for less time than a helper takes to wake.
const SMALL_BYTES_MAX: usize = 128 << 10;

/// The memory of a large piece: it begins and ends with a block.
const LARGE_BYTES: usize = PIECE_BYTES as usize + 2 * BLOCK_BYTES;

/// Memory that waits to be read into again.
const SPARES_MAX: usize = READS_IN_FLIGHT_MAX;

/// A piece of a file that someone wants.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    pub path: PathBuf,
    /// No more is written to the file.
    pub sealed: bool,
    pub offset: u64,
    /// Fewer come only at the end of the file.
    pub bytes: u64,
    pub reply: oneshot::Sender<Result<Bytes>>,
}

/// Answers requests, until the log is closed. `direct`: what is written goes past the page cache, and so shall what is
/// read of the segment that is being written: the kernel would have to throw out again what a reader brings in there,
/// with each write.
pub(crate) async fn serve<D: Disk>(
    disk: D,
    requests: Arc<Inbox<ReadRequest>>,
    metrics: Arc<Metrics>,
    direct: bool,
) {
    let slots = Arc::new(Semaphore::new(READS_IN_FLIGHT_MAX));
    let (open, spares) = (RefCell::default(), Arc::default());
    let files = Rc::new(Files { disk: disk.clone(), direct, open, spares });
    while let Some(request) = requests.receive().await {
        let slot = Arc::clone(&slots).acquire_owned().await;
        // Whoever asked may be gone.
        if request.reply.is_closed() {
            continue;
        }
        metrics.pieces_read.add(1);
        let files = Rc::clone(&files);
        disk.spawn(async move {
            let outcome = files.read(&request).await;
            let _ = request.reply.send(outcome);
            drop(slot);
        });
    }
}

/// Files that were read from lately.
struct Files<D: Disk> {
    disk: D,
    direct: bool,
    open: RefCell<VecDeque<Open<D::File>>>,
    spares: Arc<Spares>,
}

/// Memory for large pieces. New memory costs as much as reading into it.
#[derive(Debug, Default)]
struct Spares(Mutex<Vec<AlignedBuf>>);

impl Spares {
    fn lock(&self) -> MutexGuard<'_, Vec<AlignedBuf>> {
        // Nothing panics under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory for so many bytes; what is not much of a large piece has its own.
    fn take(self: &Arc<Self>, bytes: usize) -> Large {
        let len = if bytes > LARGE_BYTES / 2 { LARGE_BYTES } else { bytes };
        let spare = if len == LARGE_BYTES { self.lock().pop() } else { None };
        let memory = spare.unwrap_or_else(|| AlignedBuf::with_len(len));
        Large { memory, spares: Arc::clone(self) }
    }
}

/// The memory of a large piece, which goes back when nobody has any of its bytes.
struct Large {
    memory: AlignedBuf,
    spares: Arc<Spares>,
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, AlignedBuf::with_len(0));
        let mut spares = self.spares.lock();
        if memory.len() == LARGE_BYTES && spares.len() < SPARES_MAX {
            spares.push(memory);
        }
    }
}

struct Open<F> {
    path: PathBuf,
    direct: bool,
    file: Rc<F>,
}

impl<D: Disk> Files<D> {
    /// The piece, read from its block on, cut where it was asked to begin.
    async fn read(&self, request: &ReadRequest) -> Result<Bytes> {
        let path = &request.path;
        let file = self.file(path, self.direct && !request.sealed).await?;
        let from = request.offset / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let ahead = (request.offset - from) as usize;
        let end = ahead + request.bytes as usize;
        // No memory is taken for what the file does not have.
        let len = file.len().map_err(|error| Error::io("asking for the length", path, error))?;
        let left = len.saturating_sub(from).min(end as u64) as usize;
        let bytes = left.next_multiple_of(BLOCK_BYTES);
        assert!(bytes <= LARGE_BYTES, "nobody asks for more than a piece");
        let piece = match bytes <= SMALL_BYTES_MAX {
            true => file.read_at(from, bytes).await.map(Bytes::from_owner),
            false => self.read_large(&file, from, bytes).await,
        };
        let piece = piece.map_err(|error| Error::io("reading", path, error).at_offset(from))?;
        Ok(piece.slice(ahead.min(piece.len())..end.min(piece.len())))
    }

    async fn read_large(&self, file: &D::File, from: u64, bytes: usize) -> io::Result<Bytes> {
        let mut large = self.spares.take(bytes);
        let read = file.offload(move |file| {
            let filled = file.read_at(from, &mut large.memory[..bytes])?;
            Ok(Bytes::from_owner(large).slice(..filled))
        });
        read.await?
    }

    async fn file(&self, path: &Path, direct: bool) -> Result<Rc<D::File>> {
        let known = |open: &&Open<_>| open.path == path && open.direct == direct;
        if let Some(open) = self.open.borrow().iter().find(known) {
            return Ok(Rc::clone(&open.file));
        }
        let opened = match direct {
            true => self.disk.open_past_cache(path, Lane::Background).await.map(|(file, _)| file),
            false => self.disk.open(path, Access::Read, Lane::Background).await,
        };
        let file = Rc::new(opened.map_err(|error| {
            match error.kind() {
                // It was there when the log was opened, or cut.
                io::ErrorKind::NotFound => {
                    Error::new(ErrorKind::Released, "the segment is not part of the log any more")
                        .at_path(path)
                        .next("open the log again, and read from its first index on")
                        .because(error)
                }
                _ => Error::io("opening", path, error),
            }
        })?);
        let mut open = self.open.borrow_mut();
        // Of a segment that was sealed meanwhile there is another way to it.
        open.retain(|open| open.path != path);
        if open.len() == OPEN_FILES_MAX {
            open.pop_front();
        }
        open.push_back(Open { path: path.to_owned(), direct, file: Rc::clone(&file) });
        Ok(file)
    }
}
