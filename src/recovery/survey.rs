//! What lies in a segment beyond the place where its sound part ends.
//!
//! After a broken unit the frames can no longer be followed, since nothing says where the next one starts. But
//! frames start at multiples of eight, and a mark can be recognised by itself: so every eight bytes are looked at.

use super::frames::{PIECE_BYTES, Pieces};
use super::verdict::Behind;
use crate::error::Result;
use crate::format::crc::Chain;
use crate::format::decode::{self, RawRecord};
use crate::format::frame::{FrameLength, LENGTH_FIELD_BYTES};
use crate::format::mark::MARK_FRAME_BYTES;
use crate::format::{LogId, Mark, RecordType};
use crate::io::DiskFile;
use crate::types::Position;
use bytes::Bytes;
use std::ops::Range;

/// A sector: what a disk writes wholly or not at all.
const SECTOR_BYTES: u64 = 512;

static ZEROS: [u8; 4096] = [0; 4096];

/// What was found behind a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    pub behind: Behind,
    /// A mark that knows the place as durable.
    pub proof: Option<Mark>,
    /// The end of the last eight bytes that are not all zero; the place itself if all are.
    pub data_end: u64,
}

/// Looks at everything from `place` to the end of its file.
pub(crate) async fn behind<F: DiskFile>(
    pieces: &mut Pieces<'_, F>,
    place: Position,
    log_id: Option<LogId>,
) -> Result<Survey> {
    let mut survey = Survey { behind: Behind::Nothing, proof: None, data_end: place.offset };
    // Checking for a record may read far ahead of its place; this keeps the whole linear in the file.
    let mut budget = pieces.file_bytes().saturating_sub(place.offset).saturating_mul(4);
    let mut offset = place.offset;
    while offset < pieces.file_bytes() {
        // Pieces overlap, so that a mark across their border is seen in the second.
        let piece = pieces.bytes(offset, PIECE_BYTES).await?;
        let last = offset + piece.len() as u64 >= pieces.file_bytes();
        let step = match piece.len() as u64 {
            0 => break,
            len if last => len,
            len => len - MARK_FRAME_BYTES,
        };
        let mut at = 0;
        while at < step as usize {
            // Most of a live segment is zeros; they are passed over a block at a time.
            if piece.get(at..at + ZEROS.len()) == Some(&ZEROS) {
                at += ZEROS.len();
                continue;
            }
            let word = &piece[at..piece.len().min(at + 8)];
            let here = Position::new(place.seq, offset + at as u64);
            let rest = piece.slice(at..);
            at += 8;
            if word.iter().all(|&byte| byte == 0) {
                continue;
            }
            survey.data_end = here.offset + word.len() as u64;
            survey.behind = survey.behind.max_of(Behind::Garbage);
            if let Some(mark) = Mark::in_frame(&rest)
                && mark.counts(log_id, here)
            {
                survey.behind = Behind::Records;
                if mark.durable > place {
                    survey.proof.get_or_insert(mark);
                }
            } else if survey.behind != Behind::Records && has_two_records(&rest, &mut budget) {
                survey.behind = Behind::Records;
            }
        }
        offset += step;
    }
    Ok(survey)
}

impl Behind {
    fn max_of(self, other: Behind) -> Behind {
        if self == Behind::Nothing { other } else { self }
    }
}

/// Whether two frames follow each other here of which the second continues the first's checksum. The chain up to
/// here is lost, but two records vouch for each other.
fn has_two_records(bytes: &Bytes, budget: &mut u64) -> bool {
    let Some((first, len)) = frame(bytes, budget) else {
        return false;
    };
    let Some((second, _)) = frame(&bytes.slice(len..), budget) else {
        return false;
    };
    !second.is_crc()
        && Chain(first.crc).after(second.data.as_deref().unwrap_or_default()).0 == second.crc
}

fn frame(bytes: &Bytes, budget: &mut u64) -> Option<(RawRecord, usize)> {
    let field = bytes.get(..LENGTH_FIELD_BYTES)?.try_into().ok()?;
    let length = FrameLength::from_bytes(field);
    // The smallest record has a type and a crc.
    if length.record < 4 || length.total() > bytes.len() as u64 || bytes[LENGTH_FIELD_BYTES] != 0x08
    {
        return None;
    }
    *budget = budget.checked_sub(length.total())?;
    let record = bytes.slice(LENGTH_FIELD_BYTES..LENGTH_FIELD_BYTES + length.record as usize);
    let record = decode::record(record).ok()?;
    RecordType::from_number(record.record_type)?;
    Some((record, length.total() as usize))
}

/// Whether a sector piece of `extent` is all zero, or beyond the end of the file: then its bytes were never wholly
/// written. Sectors are those of the file; the pieces at both ends may be short.
pub(crate) async fn is_unwritten<F: DiskFile>(
    pieces: &mut Pieces<'_, F>,
    extent: Range<u64>,
) -> Result<bool> {
    if extent.end > pieces.file_bytes() {
        return Ok(true);
    }
    let mut offset = extent.start;
    while offset < extent.end {
        // Read up to a sector border, so that no sector is looked at in two parts.
        let to = extent.end.min((offset + PIECE_BYTES) / SECTOR_BYTES * SECTOR_BYTES);
        let bytes = pieces.bytes(offset, to - offset).await?;
        if (bytes.len() as u64) < to - offset {
            return Ok(true);
        }
        let mut at = 0;
        while at < bytes.len() {
            let here = offset + at as u64;
            let sector_left = (SECTOR_BYTES - here % SECTOR_BYTES) as usize;
            let end = bytes.len().min(at + sector_left);
            if bytes[at..end].iter().all(|&byte| byte == 0) {
                return Ok(true);
            }
            at = end;
        }
        offset = to;
    }
    Ok(false)
}
