//! Where reading a log may start: snapshot records, and releases.

use super::facts::{Facts, Item};
use super::frames::Pieces;
use super::scan::{SEALED, damaged, open_newest};
use super::sealed::{self, Manner, Sealed};
use super::verdict::Row;
use super::walk::{Cause, Heeds, SegmentEnd, Walk};
use crate::error::Result;
use crate::io::Disk;
use crate::segment::dir::SegmentFile;
use crate::types::Snapshot;

/// The snapshot records whose index is committed by the last hard state, in the order of their bytes: those that
/// reading may start from. All segments are read, as etcd does it, and damage in a sealed one is refused: a log is not
/// taken for sound because the part that is needed is.
pub(crate) async fn snapshots<D: Disk>(
    disk: &D,
    segments: &[SegmentFile],
) -> Result<Vec<Snapshot>> {
    let mut found = Vec::new();
    let mut commit = 0;
    let mut take = |facts: Facts| {
        commit = facts.state.map_or(commit, |state| state.commit);
        found.extend(snapshot_records(facts));
    };
    let Some((newest, sealed)) = segments.split_last() else {
        return Ok(found);
    };
    let walk = Walk::heeding(STATES_AND_SNAPSHOTS.heeds);
    let mut sealed = Sealed::new(disk, sealed, STATES_AND_SNAPSHOTS, walk);
    while let Some(part) = sealed.next().await {
        take(part.facts);
        if let stop @ SegmentEnd::Stop(_) = part.end? {
            sealed::judge(part.segment, &stop)?;
        }
        // One that is empty was not needed, or is judged when the log is read for good.
    }
    take(facts_of_newest(disk, newest, sealed.walk).await?);
    found.retain(|snapshot| snapshot.index <= commit);
    Ok(found)
}

const STATES_AND_SNAPSHOTS: Manner = Manner { heeds: Heeds::StatesAndSnapshots, ..SEALED };

/// Snapshot records, whatever they were written for: from each etcd's reader starts.
fn snapshot_records(facts: Facts) -> impl Iterator<Item = Snapshot> {
    facts.items.into_iter().filter_map(|item| match item {
        Item::Snapshot { snapshot, .. }
        | Item::Release { snapshot, .. }
        | Item::Truncation { snapshot, .. } => Some(snapshot),
        Item::Entries(_) | Item::Metadata { .. } | Item::Note(_) => None,
    })
}

/// Those that stand for a snapshot.
fn snapshots_of(facts: Facts) -> impl Iterator<Item = Snapshot> {
    facts.items.into_iter().filter_map(|item| match item {
        Item::Snapshot { snapshot, .. } => Some(snapshot),
        _ => None,
    })
}

/// What the newest segment says as far as it is sound. Where that ends is judged when it is read for good.
async fn facts_of_newest<D: Disk>(disk: &D, newest: &SegmentFile, mut walk: Walk) -> Result<Facts> {
    let file = open_newest(disk, &newest.path).await?.0;
    let mut pieces = Pieces::new(&file, &newest.path)?;
    let (seq, mut facts, mut from) = (newest.name.seq, Facts::default(), 0);
    loop {
        let mut more = Facts::default();
        let end = walk.segment(&mut pieces, seq, &newest.path, from, &mut more).await?;
        facts.append(more);
        match end {
            SegmentEnd::Pause { offset } => from = offset,
            SegmentEnd::End { .. } | SegmentEnd::Stop(_) => return Ok(facts),
        }
    }
}

/// The index and term of the last of [`snapshots`], or of the last release if that lies behind it, found from the end.
///
/// The commit index is that of the last hard state, and every segment repeats that in its head: so it is known from the
/// newest segment, or from one not far before it where no head has any. From there on back the first segment with a
/// snapshot record that it covers ends the search. What lies before that is not read, and not judged.
pub(super) async fn latest_start<D: Disk>(
    disk: &D,
    segments: &[SegmentFile],
) -> Result<Option<(u64, u64)>> {
    let mut commit = None;
    // In the order of their bytes, as long as the commit index is not known.
    let mut found: Vec<Snapshot> = Vec::new();
    // Heads repeat it.
    let mut released = None;
    let later = |snapshot: Option<Snapshot>, released| {
        let start = snapshot.map(|snapshot| (snapshot.index, snapshot.term));
        start.max(released).filter(|start| start.0 > 0)
    };
    // What lies before a gap was left over: it is not read, and may go at any time.
    let gap = |pair: &[SegmentFile]| pair[1].name.seq != pair[0].name.seq.next();
    let first = segments.windows(2).rposition(gap).map_or(0, |at| at + 1);
    for at in (first..segments.len()).rev() {
        let facts = states_and_snapshots(disk, segments, at).await?;
        commit = commit.or(facts.state.map(|state| state.commit));
        released = released.or_else(|| last_release(&facts));
        found.splice(0..0, snapshots_of(facts));
        if let Some(commit) = commit {
            found.retain(|snapshot| snapshot.index <= commit);
            if !found.is_empty() {
                return Ok(later(found.pop(), released));
            }
        }
    }
    // Without any hard state nothing is committed.
    found.retain(|snapshot| snapshot.index == 0);
    Ok(later(found.pop(), released))
}

/// The index and term up to which entries were released, found from the end.
pub(super) async fn latest_release<D: Disk>(
    disk: &D,
    segments: &[SegmentFile],
) -> Result<Option<(u64, u64)>> {
    for at in (0..segments.len()).rev() {
        let facts = states_and_snapshots(disk, segments, at).await?;
        if let Some(released) = last_release(&facts) {
            return Ok(Some(released));
        }
    }
    Ok(None)
}

fn last_release(facts: &Facts) -> Option<(u64, u64)> {
    facts.items.iter().rev().find_map(|item| match item {
        Item::Release { snapshot, .. } => Some((snapshot.index, snapshot.term)),
        _ => None,
    })
}

/// What one of the segments says of states and snapshots, whatever comes before it.
async fn states_and_snapshots<D: Disk>(
    disk: &D,
    segments: &[SegmentFile],
    at: usize,
) -> Result<Facts> {
    match at + 1 == segments.len() {
        true => {
            let walk = Walk::from_unknown(STATES_AND_SNAPSHOTS.heeds);
            facts_of_newest(disk, &segments[at], walk).await
        }
        false => facts_of_sealed(disk, &segments[at], at == 0).await,
    }
}

/// What a sealed segment says of states and snapshots, whatever comes before it.
async fn facts_of_sealed<D: Disk>(disk: &D, segment: &SegmentFile, first: bool) -> Result<Facts> {
    let manner = STATES_AND_SNAPSHOTS;
    let mut walk = Walk::from_unknown(manner.heeds);
    let (mut facts, mut from) = (Facts::default(), 0);
    loop {
        let digest = sealed::walk(disk, segment, manner, walk, from).await?;
        walk = digest.walk;
        facts.append(digest.facts);
        match digest.end? {
            SegmentEnd::Pause { offset } => from = offset,
            SegmentEnd::End { .. } => return Ok(facts),
            SegmentEnd::Stop(mut stop) => {
                if walk.lacks_head() && !first && stop.offset == 0 {
                    stop.cause = Cause::NoHead;
                }
                return Err(damaged(&segment.path, &stop, Row::DamagedSealed));
            }
        }
    }
}
