//! Sealed segments, checked by several helper threads at a time and handed on in order.
//!
//! What takes time in opening a large log is to read it and to compute its checksums. A segment says in its head what
//! chain it continues, so each is walked by itself, away from the submission thread, from what its head says. When its
//! turn comes and the end of the one before is known, that is compared: a walk that began from anything else than what
//! was there is thrown away, and the segment is walked again from what is known. So what is found, and which failure is
//! told, is what one walk through the whole log would find: this only makes it faster.
//!
//! Memory is that of the segments in flight, [`Disk::offload_max`] of them: a piece of the file each, and their
//! [`Facts`], which pause the walk when they get too many.

use super::facts::Facts;
use super::frames::{HelpersFile, Pieces};
use super::verdict::Row;
use super::walk::{Heeds, SegmentEnd, Walk};
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Access, Disk, DiskFile, Lane};
use crate::segment::dir::SegmentFile;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// How segments are to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub heeds: Heeds,
    /// Only what the disk has is read, where the file system can.
    pub past_cache: bool,
    pub lane: Lane,
}

/// What a walk through a segment, or a part of one, came to.
#[derive(Debug)]
pub(crate) struct Digest {
    pub walk: Walk,
    pub facts: Facts,
    /// Errors are of what comes after the facts.
    pub end: Result<SegmentEnd>,
    pub file_bytes: u64,
}

/// Opens a segment to be read.
pub(super) async fn open<D: Disk>(
    disk: &D,
    segment: &SegmentFile,
    manner: Manner,
) -> Result<D::File> {
    let path = &segment.path;
    let file = match manner.past_cache {
        true => disk.open_past_cache(path, manner.lane).await.map(|(file, _)| file),
        false => disk.open(path, Access::Read, manner.lane).await,
    };
    file.map_err(|error| Error::io("opening", path, error))
}

/// Walks through a segment from `from` on, off this thread. An error is of opening it.
pub(crate) async fn walk<D: Disk>(
    disk: &D,
    segment: &SegmentFile,
    manner: Manner,
    mut walk: Walk,
    from: u64,
) -> Result<Digest> {
    let file = open(disk, segment, manner).await?;
    let path = segment.path.clone();
    let seq = segment.name.seq;
    let digest = file.offload(move |file| {
        let (file, mut facts, mut file_bytes) = (HelpersFile::new(file), Facts::default(), 0);
        // Nothing in it waits: its reads block.
        let end = pollster::block_on(async {
            let mut pieces = Pieces::new(&file, &path)?;
            let end = walk.segment(&mut pieces, seq, &path, from, &mut facts).await;
            file_bytes = pieces.file_bytes();
            end
        });
        Digest { walk, facts, end, file_bytes }
    });
    digest.await.map_err(|error| Error::io("checking", &segment.path, error))
}

/// Whether the head of a segment, of which nothing else is looked at, continues what was walked through before it.
pub(crate) async fn check_head<D: Disk>(
    disk: &D,
    segment: &SegmentFile,
    manner: Manner,
    before: &Walk,
) -> Result<()> {
    let head = Walk::through_head(before);
    match walk(disk, segment, manner, head, 0).await?.end? {
        SegmentEnd::Pause { offset } if offset > 0 => Ok(()),
        end => judge(segment, &end),
    }
}

/// Whether a segment that another one follows ended as it should.
pub(crate) fn judge(segment: &SegmentFile, end: &SegmentEnd) -> Result<()> {
    match end {
        SegmentEnd::Stop(stop) => {
            Err(super::scan::damaged(&segment.path, stop, Row::DamagedSealed))
        }
        // The head of the next one would be believed whatever its chain says.
        SegmentEnd::End { offset: 0 } => {
            let what = "a segment that another one follows has no records";
            Err(Error::damaged(&segment.path, 0, what))
        }
        SegmentEnd::End { .. } | SegmentEnd::Pause { .. } => Ok(()),
    }
}

/// Not a finding of the walk.
pub(super) fn is_of_the_system(error: &Error) -> bool {
    !matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported)
}

/// A walk through sealed segments that follow each other. The first is walked from `walk`, which then is where it has
/// come to.
pub(crate) struct Sealed<'a, D> {
    disk: &'a D,
    manner: Manner,
    pub walk: Walk,
    /// What was not begun, and whether that is all.
    coming: &'a [SegmentFile],
    none_begun: bool,
    begun: VecDeque<Begun<'a>>,
    /// The segment at hand has more, from here on.
    paused: Option<(&'a SegmentFile, u64)>,
}

/// A segment that is walked through ahead of its turn.
struct Begun<'a> {
    segment: &'a SegmentFile,
    /// What comes before it was known.
    known: bool,
    outcome: Outcome<'a>,
}

enum Outcome<'a> {
    Coming(Pin<Box<dyn Future<Output = Result<Digest>> + 'a>>),
    There(Box<Result<Digest>>),
}

/// A part of a segment, in order, as one walk through all of them gives it.
pub(crate) struct Part<'a> {
    pub segment: &'a SegmentFile,
    pub facts: Facts,
    /// How the part ended.
    pub end: Result<SegmentEnd>,
}

impl<'a, D: Disk> Sealed<'a, D> {
    pub(crate) fn new(
        disk: &'a D,
        segments: &'a [SegmentFile],
        manner: Manner,
        walk: Walk,
    ) -> Sealed<'a, D> {
        let begun = VecDeque::new();
        Sealed { disk, manner, walk, coming: segments, none_begun: true, begun, paused: None }
    }

    /// The next part; `None` after the last segment. Not to be called again after one whose end is an error or a stop.
    pub(crate) async fn next(&mut self) -> Option<Part<'a>> {
        let (segment, digest) = match self.paused.take() {
            Some((segment, from)) => {
                let going_on = self.walk.clone();
                (segment, walk(self.disk, segment, self.manner, going_on, from).await)
            }
            None => self.next_segment().await?,
        };
        let Digest { walk, facts, end, .. } = match digest {
            Ok(digest) => digest,
            Err(error) => {
                return Some(Part { segment, facts: Facts::default(), end: Err(error) });
            }
        };
        self.walk = walk;
        if let Ok(SegmentEnd::Pause { offset }) = end {
            self.paused = Some((segment, offset));
        }
        Some(Part { segment, facts, end })
    }

    /// The digest of the next segment as it is behind those before it.
    async fn next_segment(&mut self) -> Option<(&'a SegmentFile, Result<Digest>)> {
        self.begin();
        poll_fn(|context| {
            for begun in &mut self.begun {
                if let Outcome::Coming(digest) = &mut begun.outcome
                    && let Poll::Ready(digest) = digest.as_mut().poll(context)
                {
                    begun.outcome = Outcome::There(Box::new(digest));
                }
            }
            match self.begun.front().map(|begun| &begun.outcome) {
                Some(Outcome::Coming(_)) => Poll::Pending,
                Some(Outcome::There(_)) | None => Poll::Ready(()),
            }
        })
        .await;
        let Begun { segment, known, outcome: Outcome::There(digest) } = self.begun.pop_front()?
        else {
            unreachable!("it was waited for");
        };
        let digest = match *digest {
            Ok(digest) if known => Ok(digest),
            Ok(mut digest) => match digest.walk.follows(&self.walk) {
                true => Ok(digest),
                false => match digest.end {
                    // Not a second time: what the system says counts, wherever the walk began.
                    Err(error) if is_of_the_system(&error) => Err(error),
                    _ => walk(self.disk, segment, self.manner, self.walk.clone(), 0).await,
                },
            },
            Err(error) => Err(error),
        };
        Some((segment, digest))
    }

    fn begin(&mut self) {
        while self.begun.len() < self.disk.offload_max()
            && let Some((segment, coming)) = self.coming.split_first()
        {
            self.coming = coming;
            let known = std::mem::take(&mut self.none_begun);
            let from = match known {
                true => self.walk.clone(),
                false => Walk::from_unknown(self.manner.heeds),
            };
            let digest = Box::pin(walk(self.disk, segment, self.manner, from, 0));
            self.begun.push_back(Begun { segment, known, outcome: Outcome::Coming(digest) });
        }
    }
}
