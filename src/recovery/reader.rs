//! Reads entries back, in order, never beyond what is durable.
//!
//! Two halves. On the submission thread, [`serve`] reads pieces of files, a few at a time. At the caller, [`Entries`]
//! asks for a piece, checks and decodes it, and hands out the entries: what costs CPU runs on the caller's time. An
//! entry is handed out only if it is the valid one of its index.

use crate::error::{Error, ErrorKind, Result};
use crate::format::decode;
use crate::format::frame::{FrameLength, LENGTH_FIELD_BYTES};
use crate::format::{Chain, RecordType};
use crate::inbox::Inbox;
use crate::io::{Access, BLOCK_BYTES, Disk, DiskFile, Lane};
use crate::recovery::frames::{FRAME_BYTES_MAX, PIECE_BYTES};
use crate::types::{Entry, Position, Seq};
use crate::watermark::Watermark;
use bytes::Bytes;
use futures_core::Stream;
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::{Semaphore, oneshot};

/// Pieces that are read at the same time, over all readers of a log.
const READS_IN_FLIGHT_MAX: usize = 8;

/// A piece of a file that someone wants.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    path: PathBuf,
    offset: u64,
    bytes: u64,
    reply: oneshot::Sender<Result<Bytes>>,
}

/// Answers requests, until the log is closed.
pub(crate) async fn serve<D: Disk>(disk: D, requests: Arc<Inbox<ReadRequest>>) {
    let slots = Arc::new(Semaphore::new(READS_IN_FLIGHT_MAX));
    while let Some(request) = requests.receive().await {
        let slot = Arc::clone(&slots).acquire_owned().await;
        let on = disk.clone();
        disk.spawn(async move {
            let outcome = read(&on, &request).await;
            // Whoever asked may be gone.
            let _ = request.reply.send(outcome);
            drop(slot);
        });
    }
}

/// The piece, from its block on, cut where it was asked to end.
async fn read<D: Disk>(disk: &D, request: &ReadRequest) -> Result<Bytes> {
    let path = &request.path;
    let file = disk
        .open(path, Access::Read, Lane::Background)
        .await
        .map_err(|error| Error::io("opening", path, error))?;
    let from = request.offset / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let ahead = (request.offset - from) as usize;
    let piece = file
        .read_at(from, ahead + request.bytes as usize)
        .await
        .map_err(|error| Error::io("reading", path, error).at_offset(from))?;
    let piece = Bytes::from_owner(piece);
    Ok(piece.slice(ahead.min(piece.len())..))
}

/// The entries of a range of indexes, in order: a [`Stream`] for async callers, and for others an iterator by
/// [`Entries::blocking`].
///
/// Ends after the last entry of the range, or at the first error. Entries are those that were durable when the
/// stream was made; if a later entry replaces one that was not yet handed out, the newer one is.
///
/// # Cancel safety
///
/// Dropping the stream, or a future of its next item, loses nothing but the work done.
#[must_use = "streams do nothing unless polled"]
pub struct Entries {
    requests: Arc<Inbox<ReadRequest>>,
    watermark: Watermark,
    /// Indexes still to be handed out.
    wanted: Range<u64>,
    state: State,
    decoder: Decoder,
    ready: VecDeque<Entry>,
}

enum State {
    /// The next piece is to be asked for.
    Ask,
    /// How far the log was durable when the piece was asked for. What lies behind that may have been half written
    /// when it was read, though it is durable by now.
    Reading(oneshot::Receiver<Result<Bytes>>, Position),
    Done,
    Failed(Error),
}

/// Where reading is, and the chain up to there.
struct Decoder {
    at: Position,
    path: PathBuf,
    chain: Chain,
    /// The next frame is larger than a piece.
    frame_bytes: u64,
}

impl Entries {
    /// The entries of `wanted`, which lies within the valid entries of the log.
    pub(crate) fn new(
        requests: Arc<Inbox<ReadRequest>>,
        watermark: Watermark,
        wanted: Range<u64>,
    ) -> Entries {
        let start = watermark.before(wanted.start);
        let state = if wanted.is_empty() || start.is_none() { State::Done } else { State::Ask };
        let (at, chain) =
            start.map_or_else(Default::default, |start| (start.position, start.chain));
        let decoder = Decoder { at, path: PathBuf::new(), chain, frame_bytes: 0 };
        Entries { requests, watermark, wanted, state, decoder, ready: VecDeque::new() }
    }

    /// A stream that gives nothing but `error`.
    pub(crate) fn failed(
        requests: Arc<Inbox<ReadRequest>>,
        watermark: Watermark,
        error: Error,
    ) -> Entries {
        let mut entries = Entries::new(requests, watermark, 0..0);
        entries.state = State::Failed(error);
        entries
    }

    /// An iterator that blocks the thread while it waits.
    pub fn blocking(self) -> BlockingEntries {
        BlockingEntries { entries: self }
    }

    fn ask(&mut self) -> Result<State> {
        let durable = self.watermark.position();
        if self.decoder.at >= durable {
            // What is left of the range was replaced by a shorter tail while it was read.
            return Ok(State::Done);
        }
        let seq = self.decoder.at.seq;
        let path = self.watermark.path_of(seq).ok_or_else(|| released(seq))?;
        self.decoder.path.clone_from(&path);
        let (reply, receiver) = oneshot::channel();
        self.requests.send(ReadRequest {
            path,
            offset: self.decoder.at.offset,
            bytes: PIECE_BYTES.max(self.decoder.frame_bytes),
            reply,
        })?;
        Ok(State::Reading(receiver, durable))
    }

    /// Decodes what is whole in the piece, and moves on.
    fn take(&mut self, piece: &Bytes, durable: Position) -> Result<State> {
        let found = self.decoder.decode(piece, durable)?;
        let (watermark, wanted) = (&self.watermark, &mut self.wanted);
        watermark.with_live(|live| {
            for (position, entry) in found {
                if entry.index == wanted.start
                    && live.is_live(entry.index, position)
                    && !wanted.is_empty()
                {
                    wanted.start += 1;
                    self.ready.push_back(entry);
                }
            }
        });
        Ok(if self.wanted.is_empty() { State::Done } else { State::Ask })
    }
}

fn released(seq: Seq) -> Error {
    Error::new(ErrorKind::OutOfRange, format!("segment {seq} is not part of the log any more"))
        .next("read from Wal::first_index on")
}

impl Decoder {
    /// The entries in `piece`, which starts at the place where decoding is; nothing beyond `durable` is looked at.
    fn decode(&mut self, piece: &Bytes, durable: Position) -> Result<Vec<(Position, Entry)>> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            let position = Position::new(self.at.seq, self.at.offset + at as u64);
            if position >= durable {
                break;
            }
            let rest = piece.slice(at..);
            let field = rest.get(..LENGTH_FIELD_BYTES).and_then(|field| field.try_into().ok());
            let whole_file = (piece.len() as u64) < PIECE_BYTES.max(self.frame_bytes);
            let length = match field.map(FrameLength::from_bytes) {
                Some(length) if length.record > 0 => length,
                // The end of a sealed segment: zeros, or no more bytes.
                Some(_) => return self.next_segment(found),
                None if whole_file && rest.is_empty() => return self.next_segment(found),
                None if whole_file => {
                    return Err(self.damaged(position, "the file ends in a frame"));
                }
                None => break,
            };
            if length.total() > FRAME_BYTES_MAX {
                return Err(self.damaged(position, "a frame longer than any record may be"));
            }
            if length.total() > rest.len() as u64 {
                if whole_file {
                    return Err(self.damaged(position, "the file ends in a frame"));
                }
                self.frame_bytes = length.total();
                break;
            }
            if let Some(entry) = self.record(&rest, length, position)? {
                found.push((position, entry));
            }
            self.frame_bytes = 0;
            at += length.total() as usize;
        }
        self.at.offset += at as u64;
        Ok(found)
    }

    fn record(
        &mut self,
        frame: &Bytes,
        length: FrameLength,
        at: Position,
    ) -> Result<Option<Entry>> {
        let body = LENGTH_FIELD_BYTES..LENGTH_FIELD_BYTES + length.record as usize;
        let record = decode::record(frame.slice(body))
            .map_err(|error| self.damaged(at, &format!("the record does not parse ({error})")))?;
        let is_crc = record.record_type == RecordType::Crc as i64;
        let chain = match &record.data {
            _ if is_crc && self.chain == Chain(0) => Chain(record.crc),
            Some(data) if !is_crc => self.chain.after(data),
            _ => self.chain,
        };
        if chain.0 != record.crc {
            let what =
                format!("checksum mismatch (stored {:08x}, computed {:08x})", record.crc, chain.0);
            return Err(self.damaged(at, &what));
        }
        self.chain = chain;
        if record.record_type != RecordType::Entry as i64 {
            return Ok(None);
        }
        let entry = decode::entry(record.data);
        entry.map(Some).map_err(|why| self.damaged(at, &format!("the entry does not parse: {why}")))
    }

    fn next_segment(&mut self, found: Vec<(Position, Entry)>) -> Result<Vec<(Position, Entry)>> {
        self.at = Position::new(self.at.seq.next(), 0);
        self.frame_bytes = 0;
        Ok(found)
    }

    fn damaged(&self, at: Position, what: &str) -> Error {
        Error::damaged(&self.path, at.offset, what)
    }
}

impl Stream for Entries {
    type Item = Result<Entry>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(entry) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(entry)));
            }
            let next = match &mut this.state {
                State::Done => return Poll::Ready(None),
                State::Failed(error) => {
                    let error = error.clone();
                    this.state = State::Done;
                    return Poll::Ready(Some(Err(error)));
                }
                State::Ask => this.ask(),
                State::Reading(receiver, durable) => {
                    let durable = *durable;
                    match ready!(Pin::new(receiver).poll(context)) {
                        Ok(Ok(piece)) => this.take(&piece, durable),
                        Ok(Err(error)) => Err(error),
                        // The submission thread is gone, and says why to whoever asks.
                        Err(_) => Err(this.requests.deserted().unwrap_or_else(Error::closed)),
                    }
                }
            };
            this.state = next.unwrap_or_else(State::Failed);
        }
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

/// Entries for callers that are not async; see [`Entries::blocking`].
#[derive(Debug)]
pub struct BlockingEntries {
    entries: Entries,
}

impl Iterator for BlockingEntries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        pollster::block_on(std::future::poll_fn(|context| {
            Pin::new(&mut self.entries).poll_next(context)
        }))
    }
}
