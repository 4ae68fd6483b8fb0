//! A piece of the log: what lies between two places of a segment, checked and decoded.
//!
//! Where a frame begins and what the chain is before it is known at the points of the [sparse index](crate::index), and
//! where another piece ended. So pieces that begin at points are made at the same time, on several threads, and do not
//! know of each other: that one continues the other is for whoever puts them in order to see.
//!
//! A piece takes bytes in as they come, and memory for no more of them than lie between its places, or than its first
//! frame has where that is longer.

use crate::error::{Error, Result};
use crate::format::decode;
use crate::format::frame::{FrameLength, LENGTH_FIELD_BYTES};
use crate::format::{Chain, RecordType};
use crate::io::CHUNK_BYTES;
use crate::recovery::frames::FRAME_BYTES_MAX;
use crate::types::{Entry, Position};
use bytes::Bytes;
use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

/// What a piece is to hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// A frame begins here.
    pub from: Position,
    /// The chain before it; 0 if the crc record there says it.
    pub chain: Chain,
    /// Frames that begin before this offset are wanted.
    pub to: u64,
    /// No frame reaches beyond this offset: that is as far as the segment was written.
    pub limit: u64,
    /// Of the first frame, if it was seen to begin; else 0.
    pub frame_bytes: u64,
}

impl Span {
    /// The bytes to begin with.
    pub(crate) fn first_bytes(&self) -> Range<u64> {
        let from = self.from.offset;
        let bytes = CHUNK_BYTES.max(self.frame_bytes);
        from..(from + bytes).min(self.to.max(from + self.frame_bytes))
    }
}

/// Why a piece ends where it does.
#[derive(Debug)]
enum Ending {
    /// It has got so far.
    Open,
    /// Zeros, or the end of the file: the segment has no more records.
    OfSegment,
    Failed(Error),
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Piece {
    span: Span,
    /// What is sound, in order.
    pub entries: Vec<Entry>,
    /// Where in the segment each lies.
    pub offsets: Vec<u64>,
    /// The chain before the first record: as the span has it, or as the record itself says.
    pub began: Chain,
    /// The chain where it ends.
    pub chain: Chain,
    /// How far it reaches.
    pub end: Position,
    /// The frame that begins there has so many bytes, if it was seen to begin; else 0.
    pub frame_bytes: u64,
    ending: Ending,
}

impl Piece {
    /// Nothing yet.
    pub(crate) fn new(span: Span) -> Piece {
        Piece {
            span,
            entries: Vec::new(),
            offsets: Vec::new(),
            began: span.chain,
            chain: span.chain,
            end: span.from,
            frame_bytes: span.frame_bytes,
            ending: Ending::Open,
        }
    }

    /// The bytes to take in next; `None` if it is as far as it gets. A frame at its end that was not wholly taken in is
    /// the next piece's, unless it is the first.
    pub(crate) fn wants(&self) -> Option<Range<u64>> {
        let Span { from, to, .. } = self.span;
        let end = self.end.offset;
        let begun_at_end = self.end > from && end + self.frame_bytes > to;
        if !matches!(self.ending, Ending::Open) || end >= to || begun_at_end {
            return None;
        }
        let frame_bytes = self.frame_bytes;
        Some(Span { from: self.end, frame_bytes, ..self.span }.first_bytes())
    }

    /// Takes in bytes from where it ends on; `last`: the file has no more.
    pub(crate) fn take(&mut self, bytes: &Bytes, last: bool, path: &Path) {
        if let Err(error) = self.frames(bytes, last, path) {
            self.fail(error);
        }
    }

    /// It gets no further.
    pub(crate) fn fail(&mut self, error: Error) {
        self.ending = Ending::Failed(error);
    }

    pub(crate) fn ends_segment(&self) -> bool {
        matches!(self.ending, Ending::OfSegment)
    }

    /// Why it ends, if something failed.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        match std::mem::replace(&mut self.ending, Ending::Open) {
            Ending::Failed(error) => Some(error),
            ending => {
                self.ending = ending;
                None
            }
        }
    }

    fn frames(&mut self, bytes: &Bytes, last: bool, path: &Path) -> Result<()> {
        let damaged = |piece: &Piece, what: &str| Error::damaged(path, piece.end.offset, what);
        let mut at = 0;
        self.frame_bytes = 0;
        while self.end.offset < self.span.to {
            let rest = &bytes[at..];
            let Some(field) = rest.first_chunk::<LENGTH_FIELD_BYTES>() else {
                match (last, rest.len()) {
                    (true, 0) => self.ending = Ending::OfSegment,
                    (true, _) => return Err(damaged(self, "the file ends in a frame")),
                    (false, _) => self.frame_bytes = LENGTH_FIELD_BYTES as u64,
                }
                return Ok(());
            };
            let length = FrameLength::from_bytes(*field);
            if length.record == 0 {
                self.ending = Ending::OfSegment;
                return Ok(());
            }
            // Nothing is read, and no memory taken, for a length that cannot be.
            if length.total() > FRAME_BYTES_MAX {
                return Err(damaged(self, "a frame longer than any record may be"));
            }
            if !length.total().is_multiple_of(8) {
                return Err(damaged(self, "a frame whose length is no multiple of eight"));
            }
            if self.end.offset + length.total() > self.span.limit {
                return Err(damaged(self, "a frame that reaches beyond what was written"));
            }
            let total = length.total() as usize;
            if total > rest.len() {
                if last {
                    return Err(damaged(self, "the file ends in a frame"));
                }
                self.frame_bytes = length.total();
                return Ok(());
            }
            let body = &rest[LENGTH_FIELD_BYTES..LENGTH_FIELD_BYTES + length.record as usize];
            self.record(bytes, body).map_err(|what| damaged(self, &what))?;
            at += total;
            self.end = self.end.after(length.total());
        }
        Ok(())
    }

    /// Takes in a record that lies in `bytes`; or says what is wrong with it.
    fn record(&mut self, bytes: &Bytes, body: &[u8]) -> std::result::Result<(), String> {
        let record = decode::record_in(body)
            .map_err(|error| format!("the record does not parse ({error})"))?;
        let chain = record.chain_after(self.chain);
        if chain.0 != record.crc {
            return Err(mismatch(record.crc, chain));
        }
        if self.end == self.span.from && self.span.chain == Chain(0) && record.is_crc() {
            self.began = chain;
        }
        if record.record_type == RecordType::Entry as i64 {
            // As it mostly is, the data is a part of the frame, and is not copied.
            let data = match record.data.unwrap_or_default() {
                Cow::Borrowed(data) => bytes.slice_ref(data),
                Cow::Owned(data) => data.into(),
            };
            let entry = decode::entry(Some(data))
                .map_err(|why| format!("the entry does not parse: {why}"))?;
            self.entries.push(entry);
            self.offsets.push(self.end.offset);
        }
        self.chain = chain;
        Ok(())
    }
}

pub(crate) fn mismatch(stored: u32, computed: Chain) -> String {
    format!("checksum mismatch (stored {stored:08x}, computed {:08x})", computed.0)
}
