//! One segment file as a row of frames, read in large pieces.
//!
//! Memory is bounded by the piece, or by the largest frame where that is larger; a frame is never larger than the
//! file. Payloads are slices of the piece.
//!
//! Pieces come from a [`Source`]: a file of the disk, each read an operation of it, or a file in the hands of a helper
//! thread ([`HelpersFile`]), which reads into the same memory again and again.

use crate::error::{Error, Result};
use crate::format::decode::{self, RawRecord};
use crate::format::frame::{FRAME_ALIGN, FrameLength, LENGTH_FIELD_BYTES};
use crate::io::{AlignedBuf, BLOCK_BYTES, BlockingFile, DiskFile};
use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

/// How much is read at a time.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;

/// A frame that claims more than this is not read, whatever the file holds: no writer makes one, and its memory
/// would have to be taken in one piece.
pub(crate) const FRAME_BYTES_MAX: u64 = 1 << 30;

/// What a helper thread reads at a time: it is still in the cache of its core when it is checked.
const HELPERS_PIECE_BYTES: u64 = 256 << 10;

/// Where pieces come from.
pub(crate) trait Source {
    type Piece: Deref<Target = [u8]> + Default;

    fn piece_bytes(&self) -> u64;
    fn file_bytes(&self) -> io::Result<u64>;
    /// Reads `len` bytes at `offset`, both multiples of [`BLOCK_BYTES`]; fewer only at the end of the file. `spent` is the
    /// piece before.
    fn read(
        &self,
        spent: Self::Piece,
        offset: u64,
        len: usize,
    ) -> impl Future<Output = io::Result<Self::Piece>>;
}

impl<F: DiskFile> Source for F {
    type Piece = Bytes;

    fn piece_bytes(&self) -> u64 {
        PIECE_BYTES
    }

    fn file_bytes(&self) -> io::Result<u64> {
        self.len()
    }

    async fn read(&self, spent: Bytes, offset: u64, len: usize) -> io::Result<Bytes> {
        // The old piece goes before the new one comes.
        drop(spent);
        Ok(Bytes::from_owner(self.read_at(offset, len).await?))
    }
}

/// A file on a helper thread: its reads block.
pub(crate) struct HelpersFile<'a> {
    file: &'a dyn BlockingFile,
}

impl<'a> HelpersFile<'a> {
    pub(crate) fn new(file: &'a dyn BlockingFile) -> HelpersFile<'a> {
        file.will_read_on();
        HelpersFile { file }
    }
}

/// Memory that is read into again and again.
#[derive(Default)]
pub(crate) struct Reused {
    memory: Option<AlignedBuf>,
    filled: usize,
}

impl Deref for Reused {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory[..self.filled])
    }
}

impl Source for HelpersFile<'_> {
    type Piece = Reused;

    fn piece_bytes(&self) -> u64 {
        HELPERS_PIECE_BYTES
    }

    fn file_bytes(&self) -> io::Result<u64> {
        self.file.len()
    }

    async fn read(&self, spent: Reused, offset: u64, len: usize) -> io::Result<Reused> {
        // That of a frame larger than a piece is given back.
        let usual = HELPERS_PIECE_BYTES as usize + BLOCK_BYTES;
        let fits = |memory: &AlignedBuf| memory.len() >= len && memory.len() <= len.max(usual);
        let mut memory =
            spent.memory.filter(fits).unwrap_or_else(|| AlignedBuf::with_len(len.max(usual)));
        let filled = self.file.read_at(offset, &mut memory[..len])?;
        Ok(Reused { memory: Some(memory), filled })
    }
}

/// What is found at an offset.
#[derive(Clone, Debug)]
pub(crate) enum Found<D = Bytes> {
    Record {
        record: RawRecord<D>,
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

/// Where a record lies in the piece at hand, if there is one.
#[derive(Clone, Debug)]
pub(crate) enum Look {
    Frame { record: Range<usize>, bytes: u64 },
    End,
    Broken(BrokenFrame),
}

/// Random access to a file in aligned pieces.
pub(crate) struct Pieces<'a, S: Source> {
    file: &'a S,
    path: &'a Path,
    file_bytes: u64,
    piece_bytes: u64,
    piece: S::Piece,
    piece_at: u64,
}

impl<'a, S: Source> Pieces<'a, S> {
    pub(crate) fn new(file: &'a S, path: &'a Path) -> Result<Pieces<'a, S>> {
        let file_bytes =
            file.file_bytes().map_err(|error| Error::io("asking for the length", path, error))?;
        let (piece_bytes, piece) = (file.piece_bytes(), S::Piece::default());
        Ok(Pieces { file, path, file_bytes, piece_bytes, piece, piece_at: 0 })
    }

    /// The same in pieces of another size.
    pub(crate) fn with_piece_bytes(self, piece_bytes: u64) -> Pieces<'a, S> {
        Pieces { piece_bytes, ..self }
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The piece at hand.
    pub(crate) fn piece(&self) -> &S::Piece {
        &self.piece
    }

    /// The piece at hand and where it lies, for others that go on with it.
    pub(crate) fn into_piece(self) -> (S::Piece, u64) {
        (self.piece, self.piece_at)
    }

    /// The same with a piece of this file at hand.
    pub(crate) fn with_piece(self, (piece, piece_at): (S::Piece, u64)) -> Pieces<'a, S> {
        Pieces { piece, piece_at, ..self }
    }

    /// Where in the piece at hand these bytes are, if they are.
    fn place(&self, offset: u64, len: u64) -> Option<Range<usize>> {
        let start = offset.checked_sub(self.piece_at)?;
        (start + len <= self.piece.len() as u64).then_some(start as usize..(start + len) as usize)
    }

    /// Sees to it that the bytes from `offset` on, `len` of them, are in the piece at hand, and says where; fewer only at
    /// the end of the file.
    async fn load(&mut self, offset: u64, len: u64) -> Result<Range<usize>> {
        let len = len.min(self.file_bytes.saturating_sub(offset));
        if len == 0 {
            // Someone else may have made the file shorter than where we are.
            return Ok(0..0);
        }
        if let Some(place) = self.place(offset, len) {
            return Ok(place);
        }
        let block = BLOCK_BYTES as u64;
        let from = offset / block * block;
        let wanted = len.max(self.piece_bytes);
        let to = (offset + wanted).min(self.file_bytes).next_multiple_of(block);
        let spent = std::mem::take(&mut self.piece);
        self.piece = self
            .file
            .read(spent, from, (to - from) as usize)
            .await
            .map_err(|error| Error::io("reading", self.path, error).at_offset(from))?;
        self.piece_at = from;
        Ok(self.place(offset, len).unwrap_or_else(|| {
            // Someone else made the file shorter.
            self.file_bytes = from + self.piece.len() as u64;
            let start = (offset - from).min(self.piece.len() as u64) as usize;
            start..self.piece.len()
        }))
    }

    /// The frame at `offset` if all of it is in the piece at hand, as nearly all frames are.
    fn frame_here(&self, offset: u64) -> Option<Look> {
        let start = usize::try_from(offset.checked_sub(self.piece_at)?).ok()?;
        let rest = self.piece.get(start..)?;
        let length = FrameLength::from_bytes(*rest.first_chunk()?);
        let bytes = length.total();
        let left = (rest.len() as u64).min(self.file_bytes.saturating_sub(offset));
        if length.record == 0 || bytes > left || !bytes.is_multiple_of(FRAME_ALIGN) {
            return None;
        }
        let body = start + LENGTH_FIELD_BYTES;
        Some(Look::Frame { record: body..body + length.record as usize, bytes })
    }

    /// Looks for a frame at `offset`.
    pub(crate) async fn look(&mut self, offset: u64) -> Result<Look> {
        if let Some(look) = self.frame_here(offset) {
            return Ok(look);
        }
        let field = self.load(offset, LENGTH_FIELD_BYTES as u64).await?;
        let Ok(field) = <[u8; LENGTH_FIELD_BYTES]>::try_from(&self.piece[field.clone()]) else {
            return Ok(match field.len() {
                0 => Look::End,
                left => Look::Broken(BrokenFrame::ShortLength { left: left as u64 }),
            });
        };
        if field == [0; LENGTH_FIELD_BYTES] {
            return Ok(Look::End);
        }
        let length = FrameLength::from_bytes(field);
        let left = self.file_bytes - offset;
        if length.total() > left {
            return Ok(Look::Broken(BrokenFrame::BeyondEnd { wanted: length.total(), left }));
        }
        if length.total() > FRAME_BYTES_MAX {
            return Ok(Look::Broken(BrokenFrame::TooLong { wanted: length.total() }));
        }
        if !length.total().is_multiple_of(FRAME_ALIGN) {
            return Ok(Look::Broken(BrokenFrame::Misaligned { bytes: length.total() }));
        }
        let body = self.load(offset + LENGTH_FIELD_BYTES as u64, length.body()).await?;
        if (body.len() as u64) < length.body() {
            let left = (LENGTH_FIELD_BYTES + body.len()) as u64;
            return Ok(Look::Broken(BrokenFrame::BeyondEnd { wanted: length.total(), left }));
        }
        let record = body.start..body.start + length.record as usize;
        Ok(Look::Frame { record, bytes: length.total() })
    }

    /// What was seen by the last [`Pieces::look`], which gave `look`.
    pub(crate) fn found(&self, look: Look) -> Found<Cow<'_, [u8]>> {
        look.into_found(|place| decode::record_in(&self.piece[place]))
    }
}

impl Look {
    fn into_found<D>(
        self,
        decode: impl FnOnce(Range<usize>) -> std::result::Result<RawRecord<D>, prost::DecodeError>,
    ) -> Found<D> {
        match self {
            Look::Frame { record, bytes } => match decode(record) {
                Ok(record) => Found::Record { record, bytes },
                Err(error) => {
                    Found::Broken(BrokenFrame::Protobuf { bytes, why: error.to_string() })
                }
            },
            Look::End => Found::End,
            Look::Broken(broken) => Found::Broken(broken),
        }
    }
}

impl<F: DiskFile> Pieces<'_, F> {
    /// The bytes from `offset` on, `len` of them; fewer only at the end of the file.
    pub(crate) async fn bytes(&mut self, offset: u64, len: u64) -> Result<Bytes> {
        let place = self.load(offset, len).await?;
        Ok(self.piece.slice(place))
    }

    /// The frame at `offset`.
    pub(crate) async fn frame(&mut self, offset: u64) -> Result<Found> {
        let look = self.look(offset).await?;
        Ok(look.into_found(|place| decode::record(self.piece.slice(place))))
    }
}
