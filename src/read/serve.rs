//! Makes pieces of the log for whoever asks.
//!
//! The submission thread has the files, but large pieces it leaves to helper threads, which read, check and decode them:
//! all of that would hold commits up. Of a small one the thread only reads the bytes; to decode them is for who asked.

use super::piece::{Piece, Span};
use crate::error::{Error, ErrorKind, Result};
use crate::inbox::{self, Inbox};
use crate::io::{Access, BLOCK_BYTES, BlockingFile, Chunks, Disk, DiskFile, Lane};
use crate::metrics::Metrics;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};

/// Pieces that are made at the same time, over all readers of a log.
const PIECES_IN_FLIGHT_MAX: usize = 8;

/// Files that stay open for the next piece.
const OPEN_FILES_MAX: usize = 4;

/// Up to this length, reading holds the submission thread up for less time than a helper takes to wake.
const SMALL_BYTES_MAX: u64 = 128 << 10;

/// A piece of a file that someone wants.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    pub path: PathBuf,
    /// No more is written to the file.
    pub sealed: bool,
    pub span: Span,
    pub reply: oneshot::Sender<Result<Answer>>,
}

/// What comes of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Piece(Piece),
    /// The bytes that the piece [begins with](Span::first_bytes), which are all of it; `last`: the file has no more.
    Bytes {
        bytes: Bytes,
        last: bool,
    },
}

/// Answers requests, until the log is closed. `direct`: what is written goes past the page cache, and so shall what is
/// read of the segment that is being written: the kernel would have to throw out again what a reader brings in there,
/// with each write.
pub(crate) async fn serve<D: Disk>(
    disk: D,
    requests: Arc<Inbox<ReadRequest>>,
    metrics: Arc<Metrics>,
    direct: bool,
    open: Rc<OpenFiles<D::File>>,
) {
    let slots = Arc::new(Semaphore::new(PIECES_IN_FLIGHT_MAX));
    let chunks = Arc::default();
    let files = Rc::new(Files { disk: disk.clone(), direct, open, chunks });
    while let Some(request) = requests.receive().await {
        let slot = Arc::clone(&slots).acquire_owned().await;
        // Whoever asked may be gone.
        if request.reply.is_closed() {
            continue;
        }
        metrics.pieces_read.add(1);
        let files = Rc::clone(&files);
        disk.spawn(async move {
            let ReadRequest { path, sealed, span, reply } = request;
            inbox::answer(reply, files.piece(&path, sealed, span)).await;
            drop(slot);
        });
    }
}

/// Files that were read from lately.
struct Files<D: Disk> {
    disk: D,
    direct: bool,
    open: Rc<OpenFiles<D::File>>,
    chunks: Arc<Chunks>,
}

/// Files that stay open for the next piece.
pub(crate) struct OpenFiles<F>(RefCell<VecDeque<Open<F>>>);

impl<F> Default for OpenFiles<F> {
    fn default() -> OpenFiles<F> {
        OpenFiles(RefCell::default())
    }
}

impl<F> OpenFiles<F> {
    /// Closes the file at `path`, which is not part of the log any more: its space is free only when nobody has it open.
    pub(crate) fn forget(&self, path: &Path) {
        self.0.borrow_mut().retain(|open| open.path != path);
    }
}

fn released(path: &Path) -> Error {
    Error::new(ErrorKind::Released, "the segment is not part of the log any more")
        .at_path(path)
        .next("read from the first index on; a Reader may have to be opened again")
}

struct Open<F> {
    path: PathBuf,
    direct: bool,
    file: Rc<F>,
}

impl<D: Disk> Files<D> {
    async fn piece(&self, path: &Path, sealed: bool, span: Span) -> Result<Answer> {
        let file = self.file(path, self.direct && !sealed).await?;
        let answer = self.piece_of(&file, path, span).await;
        // Of a segment that was released, the file may have become another: what was read is not to be believed.
        match file.is_at(path) {
            Ok(true) => answer,
            Ok(false) => Err(released(path)),
            Err(error) => Err(Error::io("asking for the name", path, error)),
        }
    }

    async fn piece_of(&self, file: &D::File, path: &Path, span: Span) -> Result<Answer> {
        let wanted = span.first_bytes();
        let blocks = blocks(&wanted);
        if wanted.end >= span.to && blocks.end - blocks.start <= SMALL_BYTES_MAX {
            let len = (blocks.end - blocks.start) as usize;
            let read = file.read_at(blocks.start, len).await.map(Bytes::from_owner);
            let read = read.map_err(|error| reading(path, blocks.start, error))?;
            let (bytes, last) = cut(&read, &wanted);
            return Ok(Answer::Bytes { bytes, last });
        }
        let (chunks, its_path) = (Arc::clone(&self.chunks), path.to_owned());
        let made = file.offload(move |file| make(file, &chunks, span, &its_path));
        made.await.map(Answer::Piece).map_err(|error| reading(path, wanted.start, error))
    }

    async fn file(&self, path: &Path, direct: bool) -> Result<Rc<D::File>> {
        let known = |open: &&Open<_>| open.path == path && open.direct == direct;
        if let Some(open) = self.open.0.borrow().iter().find(known) {
            return Ok(Rc::clone(&open.file));
        }
        let opened = match direct {
            true => self.disk.open_past_cache(path, Lane::Background).await.map(|(file, _)| file),
            false => self.disk.open(path, Access::Read, Lane::Background).await,
        };
        let file = Rc::new(opened.map_err(|error| {
            match error.kind() {
                // It was there when the log was opened, or cut.
                io::ErrorKind::NotFound => released(path).because(error),
                _ => Error::io("opening", path, error),
            }
        })?);
        let mut open = self.open.0.borrow_mut();
        // Of a segment that was sealed meanwhile there is another way to it.
        open.retain(|open| open.path != path);
        if open.len() == OPEN_FILES_MAX {
            open.pop_front();
        }
        open.push_back(Open { path: path.to_owned(), direct, file: Rc::clone(&file) });
        Ok(file)
    }
}

/// Makes a piece, on a helper thread.
pub(super) fn make(
    file: &dyn BlockingFile,
    chunks: &Arc<Chunks>,
    span: Span,
    path: &Path,
) -> Piece {
    let mut piece = Piece::new(span);
    while let Some(wanted) = piece.wants() {
        match chunk(file, chunks, &wanted) {
            Ok((bytes, last)) => piece.take(&bytes, last, path),
            Err(error) => piece.fail(reading(path, wanted.start, error)),
        }
    }
    piece
}

/// The bytes that are `wanted`, and whether the file has no more.
pub(super) fn chunk(
    file: &dyn BlockingFile,
    chunks: &Arc<Chunks>,
    wanted: &Range<u64>,
) -> io::Result<(Bytes, bool)> {
    let blocks = blocks(wanted);
    // No memory is taken for what the file does not have.
    let end = file.len()?.next_multiple_of(BLOCK_BYTES as u64).clamp(blocks.start, blocks.end);
    let len = (end - blocks.start) as usize;
    let read = chunks.read(file, blocks.start, len)?;
    Ok(cut(&read, wanted))
}

fn blocks(wanted: &Range<u64>) -> Range<u64> {
    let block = BLOCK_BYTES as u64;
    wanted.start / block * block..wanted.end.next_multiple_of(block)
}

/// What is `wanted` of what was read of its blocks, and whether the file has no more.
fn cut(read: &Bytes, wanted: &Range<u64>) -> (Bytes, bool) {
    let ahead = wanted.start as usize % BLOCK_BYTES;
    let end = ahead + (wanted.end - wanted.start) as usize;
    (read.slice(ahead.min(read.len())..end.min(read.len())), read.len() < end)
}

fn reading(path: &Path, offset: u64, error: io::Error) -> Error {
    Error::io("reading", path, error).at_offset(offset)
}
