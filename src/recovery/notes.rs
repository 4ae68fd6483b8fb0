//! Notes that a walk came by, and what they say.

use super::frames::{Found, Pieces};
use crate::error::{Error, Result};
use crate::format::note;
use crate::io::{Access, Disk, Lane};
use crate::segment::dir::SegmentFile;
use crate::types::Position;
use bytes::Bytes;

/// A note, and the entry that it goes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotePlace {
    pub index: u64,
    pub term: u64,
    pub position: Position,
}

/// What the layer above the log finds of its notes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    /// That of the entry that the log begins behind, if it does not begin with the first of all.
    pub first: Option<Bytes>,
    /// The last one.
    pub last: Option<Bytes>,
    /// The entries that notes go with, from the first of these on.
    pub indexes: Vec<u64>,
}

/// What the notes at these places say, of a log that begins behind the entry `base`.
pub(crate) async fn read<D: Disk>(
    disk: &D,
    segments: &[SegmentFile],
    places: &[NotePlace],
    base: u64,
) -> Result<Notes> {
    let mut notes = Notes::default();
    let places = &places[places.partition_point(|place| place.index < base)..];
    if let Some(first) = places.first().filter(|first| first.index == base) {
        notes.first = Some(data(disk, segments, first.position).await?);
    }
    if let Some(last) = places.last() {
        notes.last = Some(data(disk, segments, last.position).await?);
    }
    notes.indexes = places.iter().map(|place| place.index).collect();
    Ok(notes)
}

async fn data<D: Disk>(disk: &D, segments: &[SegmentFile], at: Position) -> Result<Bytes> {
    let segment = segments.iter().find(|segment| segment.name.seq == at.seq);
    let path = &segment.expect("it was walked through").path;
    let opened = disk.open(path, Access::Read, Lane::Background).await;
    let file = opened.map_err(|error| Error::io("opening", path, error))?;
    let mut pieces = Pieces::new(&file, path)?;
    if let Found::Record { record, .. } = pieces.frame(at.offset).await?
        && let Some(bytes) = record.data
        && let note::Seen::Note { data, .. } = note::Seen::in_record(&bytes)
    {
        return Ok(bytes.slice_ref(data));
    }
    Err(Error::damaged(path, at.offset, "a note is not there any more"))
}
