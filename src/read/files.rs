//! The log as its files have it, frame by frame: pieces are asked for ahead, and checked and decoded here.

use super::serve::ReadRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::format::decode;
use crate::format::frame::{FrameLength, LENGTH_FIELD_BYTES};
use crate::format::{Chain, RecordType};
use crate::inbox::Inbox;
use crate::index::Point;
use crate::io::BLOCK_BYTES;
use crate::recovery::frames::{FRAME_BYTES_MAX, PIECE_BYTES};
use crate::types::{Entry, Position, Seq};
use crate::watermark::Watermark;
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

/// The first piece: about what lies between two points of the index.
const FIRST_PIECE_BYTES: u64 = 64 << 10;

/// Pieces that are asked for at the same time once a reader goes on.
const PIECES_AHEAD_MAX: usize = 3;

/// Reads forward from a place in the files.
#[derive(Debug)]
pub(crate) struct Files {
    requests: Arc<Inbox<ReadRequest>>,
    watermark: Watermark,
    /// The next frame, and the chain before it.
    at: Position,
    chain: Chain,
    file: Option<File>,
    /// What is read and not decoded, from `at` on.
    piece: Bytes,
    /// The first bytes of the frame at `at`, the rest of which is in the next piece.
    begun: BytesMut,
    /// Pieces on their way, in their order.
    asked: VecDeque<Asked>,
    /// Where the piece that is asked for next begins.
    ask_at: u64,
    piece_bytes: u64,
    /// The last piece was shorter than asked for: the file ends there.
    ended: bool,
    /// Comes next.
    failed: Option<Error>,
}

#[derive(Clone, Debug)]
struct File {
    path: PathBuf,
    sealed: bool,
}

#[derive(Debug)]
struct Asked {
    bytes: u64,
    receiver: oneshot::Receiver<Result<Bytes>>,
}

/// What is at a place.
enum Frame {
    Whole(Bytes, FrameLength),
    /// Zeros, or the end of the file.
    EndOfSegment,
    /// The frame reaches beyond what is read.
    InNextPiece,
}

impl Files {
    pub(crate) fn new(
        requests: Arc<Inbox<ReadRequest>>,
        watermark: Watermark,
        from: Point,
    ) -> Files {
        let Point { position, chain, .. } = from;
        Files {
            requests,
            watermark,
            at: position,
            chain,
            file: None,
            piece: Bytes::new(),
            begun: BytesMut::new(),
            asked: VecDeque::new(),
            ask_at: position.offset,
            piece_bytes: FIRST_PIECE_BYTES,
            ended: false,
            failed: None,
        }
    }

    /// The next entries before `limit`, at most about `max`, with their places; none when the limit is reached.
    pub(crate) fn poll_entries(
        &mut self,
        limit: Position,
        max: usize,
        context: &mut Context<'_>,
    ) -> Poll<Result<Vec<(Position, Entry)>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let mut found = Vec::new();
        match ready!(self.poll_into(&mut found, limit, max, context)) {
            Err(error) if found.is_empty() => return Poll::Ready(Err(error)),
            // What lies before it is sound, and goes out first.
            outcome => self.failed = outcome.err(),
        }
        Poll::Ready(Ok(found))
    }

    fn poll_into(
        &mut self,
        found: &mut Vec<(Position, Entry)>,
        limit: Position,
        max: usize,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        while self.at < limit && found.len() < max {
            match self.frame(limit)? {
                Frame::Whole(frame, length) => {
                    if let Some(entry) = self.record(&frame, length)? {
                        found.push((self.at, entry));
                    }
                    self.at = self.at.after(length.total());
                }
                Frame::EndOfSegment if self.at.seq >= limit.seq => {
                    return Poll::Ready(Err(self.damaged("zeros where a record was written")));
                }
                Frame::EndOfSegment => self.begin(self.at.seq.next()),
                // What is decoded goes out first; who wants no more asks for no more.
                Frame::InNextPiece if !found.is_empty() => break,
                Frame::InNextPiece => ready!(self.poll_piece(limit, context))?,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Where the next frame is.
    pub(crate) fn at(&self) -> Position {
        self.at
    }

    fn begin(&mut self, seq: Seq) {
        self.at = Position::new(seq, 0);
        self.file = None;
        self.piece.clear();
        self.asked.clear();
        self.ask_at = 0;
        self.ended = false;
    }

    /// Takes the frame at `at` out of what is read.
    fn frame(&mut self, limit: Position) -> Result<Frame> {
        if !self.begun.is_empty() {
            return self.rest_of_frame(limit);
        }
        let Some(field) = self.piece.get(..LENGTH_FIELD_BYTES) else {
            return match (self.ended, self.piece.len()) {
                (true, 0) => Ok(Frame::EndOfSegment),
                (true, _) => Err(self.damaged("the file ends in a frame")),
                // Pieces end with a block, and frames begin at multiples of eight.
                (false, _) => Ok(Frame::InNextPiece),
            };
        };
        let length = FrameLength::from_bytes(field.try_into().expect("eight bytes"));
        if length.record == 0 {
            return Ok(Frame::EndOfSegment);
        }
        self.check(length, limit)?;
        let total = length.total() as usize;
        if total <= self.piece.len() {
            return Ok(Frame::Whole(self.piece.split_to(total), length));
        }
        if self.ended {
            return Err(self.damaged("the file ends in a frame"));
        }
        self.begun.extend_from_slice(&std::mem::take(&mut self.piece));
        Ok(Frame::InNextPiece)
    }

    /// Adds what is read to a frame of which the beginning was.
    fn rest_of_frame(&mut self, limit: Position) -> Result<Frame> {
        let field = self.begun[..LENGTH_FIELD_BYTES].try_into().expect("eight bytes");
        let length = FrameLength::from_bytes(field);
        self.check(length, limit)?;
        let missing = length.total() as usize - self.begun.len();
        let more = self.piece.split_to(missing.min(self.piece.len()));
        self.begun.extend_from_slice(&more);
        if more.len() == missing {
            return Ok(Frame::Whole(std::mem::take(&mut self.begun).freeze(), length));
        }
        match self.ended {
            true => Err(self.damaged("the file ends in a frame")),
            false => Ok(Frame::InNextPiece),
        }
    }

    /// Nothing is read, and no memory taken, for a length that cannot be.
    fn check(&self, length: FrameLength, limit: Position) -> Result<()> {
        if length.total() > FRAME_BYTES_MAX {
            return Err(self.damaged("a frame longer than any record may be"));
        }
        if !length.total().is_multiple_of(8) {
            return Err(self.damaged("a frame whose length is no multiple of eight"));
        }
        if self.at.seq == limit.seq && self.at.offset + length.total() > limit.offset {
            return Err(self.damaged("a frame that reaches beyond what was written"));
        }
        Ok(())
    }

    fn record(&mut self, frame: &Bytes, length: FrameLength) -> Result<Option<Entry>> {
        let body = &frame[LENGTH_FIELD_BYTES..LENGTH_FIELD_BYTES + length.record as usize];
        let record = decode::record_in(body)
            .map_err(|error| self.damaged(&format!("the record does not parse ({error})")))?;
        let (stored, chain) = (record.crc, record.chain_after(self.chain));
        if chain.0 != stored {
            let what = format!("checksum mismatch (stored {stored:08x}, computed {:08x})", chain.0);
            return Err(self.damaged(&what));
        }
        self.chain = chain;
        if record.record_type != RecordType::Entry as i64 {
            return Ok(None);
        }
        // As it mostly is, the data is a part of the frame, and is not copied.
        let data = match record.data.unwrap_or_default() {
            Cow::Borrowed(data) => frame.slice_ref(data),
            Cow::Owned(data) => data.into(),
        };
        let entry = decode::entry(Some(data));
        entry.map(Some).map_err(|why| self.damaged(&format!("the entry does not parse: {why}")))
    }

    fn damaged(&self, what: &str) -> Error {
        let path = self.file.as_ref().map(|file| file.path.clone()).unwrap_or_default();
        Error::damaged(&path, self.at.offset, what)
    }

    /// Waits for the next piece.
    fn poll_piece(&mut self, limit: Position, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.ask(limit)?;
        let Some(asked) = self.asked.front_mut() else {
            // The segment goes on behind the limit only: it is damaged, or the limit is.
            return Poll::Ready(Err(
                self.damaged("the file ends before the place that was written to")
            ));
        };
        let piece = match ready!(Pin::new(&mut asked.receiver).poll(context)) {
            Ok(piece) => piece?,
            // The submission thread is gone, and says why to whoever asks.
            Err(_) => {
                return Poll::Ready(Err(self.requests.deserted().unwrap_or_else(Error::closed)));
            }
        };
        let asked = self.asked.pop_front().expect("it was the first");
        self.ended = (piece.len() as u64) < asked.bytes;
        if self.ended {
            self.asked.clear();
        }
        self.piece = piece;
        self.piece_bytes = (self.piece_bytes * 4).min(PIECE_BYTES);
        Poll::Ready(Ok(()))
    }

    /// Asks for the next piece, and for more ahead of it, up to the limit.
    fn ask(&mut self, limit: Position) -> Result<()> {
        let file = match &self.file {
            Some(file) => file.clone(),
            None => {
                let seq = self.at.seq;
                let (path, sealed) = self.watermark.file_of(seq).ok_or_else(|| released(seq))?;
                self.file.insert(File { path, sealed }).clone()
            }
        };
        let end = if self.at.seq < limit.seq { u64::MAX } else { limit.offset };
        // One who wants a single entry asks for a single piece.
        let ahead = if self.piece_bytes == FIRST_PIECE_BYTES { 1 } else { PIECES_AHEAD_MAX };
        while self.asked.len() < ahead && self.ask_at < end && !self.ended {
            let block = BLOCK_BYTES as u64;
            let to = (self.ask_at + self.piece_bytes).next_multiple_of(block).min(end);
            let bytes = to - self.ask_at;
            let (reply, receiver) = oneshot::channel();
            let File { path, sealed } = file.clone();
            self.requests.send(ReadRequest { path, sealed, offset: self.ask_at, bytes, reply })?;
            self.asked.push_back(Asked { bytes, receiver });
            self.ask_at = to;
        }
        Ok(())
    }
}

fn released(seq: Seq) -> Error {
    Error::new(ErrorKind::Released, format!("segment {seq} is not part of the log any more"))
        .next("read from Wal::first_index on")
}
