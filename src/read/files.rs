//! The log as its files have it, piece by piece: they are asked for ahead, made at the same time, and put in order here.
//!
//! The next piece can be asked for before the one in front of it is there if it is known where that will end: at a point
//! of the sparse index, or with the segment. Where points are far apart, one waits for the other. What was asked for and
//! does not begin where the one before it ended is thrown away; so what comes, entries and errors, is what one walk
//! through the bytes would find, in its order.

use super::piece::{self, Piece, Span};
use super::serve::{Answer, ReadRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Chain;
use crate::inbox::Inbox;
use crate::index::Point;
use crate::types::{Position, Seq};
use crate::watermark::Watermark;
use std::collections::VecDeque;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

/// The first piece: about what lies between two points of the index.
const FIRST_PIECE_BYTES: u64 = 64 << 10;

/// A piece of a reader who goes on ends at the first point behind so much, if there is one before the second number.
const PIECE_BYTES: u64 = 768 << 10;
const PIECE_BYTES_MAX: u64 = 1 << 20;

/// Pieces that are asked for at the same time once a reader goes on.
const PIECES_AHEAD_MAX: usize = 4;

/// Reads forward from a place in the files.
#[derive(Debug)]
pub(crate) struct Files {
    requests: Arc<Inbox<ReadRequest>>,
    watermark: Watermark,
    /// Where the next piece begins, and the chain before it; 0 if it is not known.
    at: Position,
    chain: Chain,
    /// Of the frame there, if it was seen to begin.
    frame_bytes: u64,
    /// Pieces on their way, in their order.
    asked: VecDeque<Asked>,
    /// Where the piece begins that is asked for next, if that is known.
    next: Option<(Position, Chain)>,
    /// The file that was asked for last.
    file: Option<File>,
    piece_bytes: u64,
    /// Comes next.
    failed: Option<Error>,
}

#[derive(Clone, Debug)]
struct File {
    seq: Seq,
    path: PathBuf,
    sealed: bool,
}

#[derive(Debug)]
struct Asked {
    span: Span,
    path: PathBuf,
    receiver: oneshot::Receiver<Result<Answer>>,
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
            frame_bytes: 0,
            asked: VecDeque::new(),
            next: Some((position, chain)),
            file: None,
            piece_bytes: FIRST_PIECE_BYTES,
            failed: None,
        }
    }

    /// The next piece, which may be without entries. `limit` lies behind what came so far.
    pub(crate) fn poll_piece(
        &mut self,
        limit: Position,
        context: &mut Context<'_>,
    ) -> Poll<Result<Piece>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        self.ask(limit)?;
        let asked = self.asked.front_mut().expect("there is more before the limit");
        let Ok(answer) = ready!(Pin::new(&mut asked.receiver).poll(context)) else {
            // The submission thread is gone, and says why to whoever asks.
            return Poll::Ready(Err(self.requests.deserted().unwrap_or_else(Error::closed)));
        };
        let Asked { span, path, .. } = self.asked.pop_front().expect("it was the first");
        let mut piece = match answer? {
            Answer::Piece(piece) => piece,
            Answer::Bytes { bytes, last } => {
                let mut piece = Piece::new(span);
                piece.take(&bytes, last, &path);
                piece
            }
        };
        self.failed = piece.take_failure();
        if piece.end > span.from {
            if self.chain != Chain(0) && piece.began != self.chain {
                let what = piece::mismatch(piece.began.0, self.chain);
                return Poll::Ready(Err(Error::damaged(&path, span.from.offset, what)));
            }
            self.chain = piece.chain;
        }
        if piece.ends_segment() && span.from.seq >= limit.seq {
            let what = "zeros where a record was written";
            self.failed = Some(Error::damaged(&path, piece.end.offset, what));
        }
        self.go_on(&piece);
        Poll::Ready(Ok(piece))
    }

    /// Behind `piece`.
    fn go_on(&mut self, piece: &Piece) {
        self.at = match piece.ends_segment() && self.failed.is_none() {
            true => Position::new(piece.end.seq.next(), 0),
            false => piece.end,
        };
        self.frame_bytes = piece.frame_bytes;
        self.piece_bytes = (self.piece_bytes * 4).min(PIECE_BYTES);
        let next = self.asked.front().map(|asked| asked.span.from);
        if next.or(self.next.map(|next| next.0)) != Some(self.at) {
            self.asked.clear();
            self.next = Some((self.at, self.chain));
        }
    }

    /// Where the next piece begins.
    pub(crate) fn at(&self) -> Position {
        self.at
    }

    /// Asks for the next piece, and for more ahead of it, up to the limit.
    fn ask(&mut self, limit: Position) -> Result<()> {
        // One who wants a single entry asks for a single piece.
        let ahead = if self.piece_bytes == FIRST_PIECE_BYTES { 1 } else { PIECES_AHEAD_MAX };
        while self.asked.len() < ahead
            && let Some((from, chain)) = self.next.filter(|(from, _)| *from < limit)
        {
            let File { path, sealed, .. } = match self.file_of(from.seq) {
                Ok(file) => file,
                Err(error) if self.asked.is_empty() => return Err(error),
                // What lies before it comes first.
                Err(_) => break,
            };
            let limit_here = if from.seq < limit.seq { u64::MAX } else { limit.offset };
            let (wanted, max) = (from.offset + self.piece_bytes, from.offset + PIECE_BYTES_MAX);
            let (to, next) = match self.watermark.point_behind(from, wanted, max) {
                Some(Point { position, chain, .. }) if position.offset <= max.min(limit_here) => {
                    (position.offset, Some((position, chain)))
                }
                // To where is not known before it is there.
                Some(_) => (wanted, None),
                None if from.seq < limit.seq => {
                    (max, Some((Position::new(from.seq.next(), 0), Chain(0))))
                }
                None => (max, None),
            };
            let frame_bytes = if from == self.at { self.frame_bytes } else { 0 };
            let (to, limit) = (to.min(limit_here), limit_here);
            let span = Span { from, chain, to, limit, frame_bytes };
            let (reply, receiver) = oneshot::channel();
            self.requests.send(ReadRequest { path: path.clone(), sealed, span, reply })?;
            self.asked.push_back(Asked { span, path, receiver });
            self.next = next;
        }
        Ok(())
    }

    fn file_of(&mut self, seq: Seq) -> Result<File> {
        if let Some(file) = self.file.as_ref().filter(|file| file.seq == seq) {
            return Ok(file.clone());
        }
        let (path, sealed) = self.watermark.file_of(seq).ok_or_else(|| released(seq))?;
        Ok(self.file.insert(File { seq, path, sealed }).clone())
    }
}

fn released(seq: Seq) -> Error {
    Error::new(ErrorKind::Released, format!("segment {seq} is not part of the log any more"))
        .next("read from Wal::first_index on")
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
