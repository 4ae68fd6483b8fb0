//! One segment file as a row of frames, read in large pieces.
//!
//! Memory is bounded by the piece, or by the largest frame where that is larger; a frame is never larger than the
//! file. Payloads are slices of the piece.

use crate::error::{Error, Result};
use crate::format::decode::{self, RawRecord};
use crate::format::frame::{FRAME_ALIGN, FrameLength, LENGTH_FIELD_BYTES};
use crate::io::{BLOCK_BYTES, DiskFile};
use bytes::Bytes;
use std::fmt;
use std::path::Path;

/// How much is read at a time.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;

/// A frame that claims more than this is not read, whatever the file holds: no writer makes one, and its memory
/// would have to be taken in one piece.
pub(crate) const FRAME_BYTES_MAX: u64 = 1 << 30;

/// What is found at an offset.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Record {
        record: RawRecord,
        /// Bytes of the frame.
        bytes: u64,
    },
    /// A length field of zero, or the end of the file: there are no more records.
    End,
    Broken(BrokenFrame),
}

/// Why there is no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BrokenFrame {
    /// 1 to 7 bytes to the end of the file.
    ShortLength { left: u64 },
    /// The frame reaches beyond the end of the file.
    BeyondEnd { wanted: u64, left: u64 },
    /// The file is long enough, but no writer makes frames of this size.
    TooLong { wanted: u64 },
    /// The length field says that the frame does not end at a multiple of eight. No writer makes such a one.
    Misaligned { bytes: u64 },
    /// The record is not a protobuf message.
    Protobuf { bytes: u64, why: String },
}

impl fmt::Display for BrokenFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokenFrame::ShortLength { left } => {
                write!(f, "the file ends {left} bytes into a length field")
            }
            BrokenFrame::BeyondEnd { wanted, left } => {
                write!(f, "a frame of {wanted} bytes where the file has {left} left")
            }
            BrokenFrame::TooLong { wanted } => {
                write!(f, "a frame of {wanted} bytes, more than any record may have")
            }
            BrokenFrame::Misaligned { bytes } => {
                write!(f, "a frame of {bytes} bytes, which is no multiple of eight")
            }
            BrokenFrame::Protobuf { why, .. } => write!(f, "the record does not parse ({why})"),
        }
    }
}

/// Random access to a file in aligned pieces.
pub(crate) struct Pieces<'a, F> {
    file: &'a F,
    path: &'a Path,
    file_bytes: u64,
    piece_bytes: u64,
    piece: Bytes,
    piece_at: u64,
}

impl<'a, F: DiskFile> Pieces<'a, F> {
    pub(crate) fn new(file: &'a F, path: &'a Path) -> Result<Pieces<'a, F>> {
        let file_bytes =
            file.len().map_err(|error| Error::io("asking for the length", path, error))?;
        let piece_bytes = PIECE_BYTES;
        Ok(Pieces { file, path, file_bytes, piece_bytes, piece: Bytes::new(), piece_at: 0 })
    }

    /// The same in pieces of another size.
    pub(crate) fn with_piece_bytes(self, piece_bytes: u64) -> Pieces<'a, F> {
        Pieces { piece_bytes, ..self }
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The bytes from `offset` on, `len` of them; fewer only at the end of the file.
    pub(crate) async fn bytes(&mut self, offset: u64, len: u64) -> Result<Bytes> {
        let len = len.min(self.file_bytes.saturating_sub(offset));
        if len == 0 {
            // Someone else may have made the file shorter than where we are.
            return Ok(Bytes::new());
        }
        let within = |piece_at: u64, piece: &Bytes| {
            offset >= piece_at && offset + len <= piece_at + piece.len() as u64
        };
        if !within(self.piece_at, &self.piece) {
            let block = BLOCK_BYTES as u64;
            let from = offset / block * block;
            let to =
                (offset + len.max(self.piece_bytes)).min(self.file_bytes).next_multiple_of(block);
            // The old piece goes before the new one comes.
            self.piece = Bytes::new();
            let read = self
                .file
                .read_at(from, (to - from) as usize)
                .await
                .map_err(|error| Error::io("reading", self.path, error).at_offset(from))?;
            self.piece = Bytes::from_owner(read);
            self.piece_at = from;
            if !within(from, &self.piece) {
                // Someone else made the file shorter.
                self.file_bytes = from + self.piece.len() as u64;
                let left = self.file_bytes.saturating_sub(offset).min(len);
                let start = (offset - from).min(self.piece.len() as u64) as usize;
                return Ok(self.piece.slice(start..start + left as usize));
            }
        }
        let start = (offset - self.piece_at) as usize;
        Ok(self.piece.slice(start..start + len as usize))
    }

    /// The frame at `offset`.
    pub(crate) async fn frame(&mut self, offset: u64) -> Result<Found> {
        let field = self.bytes(offset, LENGTH_FIELD_BYTES as u64).await?;
        let Ok(field) = <[u8; LENGTH_FIELD_BYTES]>::try_from(&field[..]) else {
            return Ok(match field.len() {
                0 => Found::End,
                left => Found::Broken(BrokenFrame::ShortLength { left: left as u64 }),
            });
        };
        if field == [0; LENGTH_FIELD_BYTES] {
            return Ok(Found::End);
        }
        let length = FrameLength::from_bytes(field);
        let left = self.file_bytes - offset;
        if length.total() > left {
            return Ok(Found::Broken(BrokenFrame::BeyondEnd { wanted: length.total(), left }));
        }
        if length.total() > FRAME_BYTES_MAX {
            return Ok(Found::Broken(BrokenFrame::TooLong { wanted: length.total() }));
        }
        if !length.total().is_multiple_of(FRAME_ALIGN) {
            return Ok(Found::Broken(BrokenFrame::Misaligned { bytes: length.total() }));
        }
        let body = self.bytes(offset + LENGTH_FIELD_BYTES as u64, length.body()).await?;
        if (body.len() as u64) < length.body() {
            let left = (LENGTH_FIELD_BYTES + body.len()) as u64;
            return Ok(Found::Broken(BrokenFrame::BeyondEnd { wanted: length.total(), left }));
        }
        Ok(match decode::record(body.slice(..length.record as usize)) {
            Ok(record) => Found::Record { record, bytes: length.total() },
            Err(error) => Found::Broken(BrokenFrame::Protobuf {
                bytes: length.total(),
                why: error.to_string(),
            }),
        })
    }
}
