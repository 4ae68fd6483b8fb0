//! Checks the sealed segments of an open log, whenever somebody asks.
//!
//! Opening judges the segments it needs, and reading those it comes to; what lies before the snapshot that a log is read
//! from may rot unseen. Here everything is looked at. One segment at a time, on a helper thread, past the page cache
//! where the file system can: so what is checked is what the disk has, and neither commits nor the cache suffer. The
//! next segment begins when the result of the one before was taken, or lies ready: whoever does not ask holds it up, and
//! whoever drops the stream ends it.

use super::sealed::{self, Digest, Manner};
use super::walk::{Heeds, SegmentEnd, Walk};
use crate::blocking::Blocking;
use crate::error::{Error, Result};
use crate::inbox::Inbox;
use crate::io::{Disk, Lane};
use crate::segment::dir::{self, SegmentFile};
use crate::types::Seq;
use futures_core::Stream;
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

const MANNER: Manner = Manner { heeds: Heeds::All, past_cache: true, lane: Lane::Background };

/// Somebody wants the sealed segments checked.
#[derive(Debug)]
pub(crate) struct VerifyRequest {
    dir: PathBuf,
    /// The segments before this one are sealed, and durable.
    active: Seq,
    results: mpsc::Sender<Result<VerifiedSegment>>,
}

/// A sealed segment that is sound.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedSegment {
    /// Its number.
    pub seq: Seq,
    /// Its file.
    pub path: PathBuf,
    /// Bytes of its file.
    pub bytes: u64,
    /// Bytes of all files that were checked so far, this one and damaged ones included.
    pub bytes_total: u64,
    /// Segments that are still to be checked.
    pub segments_left: usize,
}

/// The sealed segments of a log, oldest first, as they are checked: a [`Stream`] for async callers, and for others an
/// iterator by [`Verification::blocking`]. See [`Wal::verify`](crate::Wal::verify).
///
/// # Cancel safety
///
/// Dropping a future of its next item loses nothing. Dropping the stream ends the checking at its next read.
#[must_use = "streams do nothing unless polled"]
#[derive(Debug)]
pub struct Verification {
    state: State,
}

#[derive(Debug)]
enum State {
    Running {
        results: mpsc::Receiver<Result<VerifiedSegment>>,
        requests: Arc<Inbox<VerifyRequest>>,
    },
    Failed(Error),
    Done,
}

impl Verification {
    /// Asks for the segments in `dir` before `active` to be checked.
    pub(crate) fn new(
        requests: Arc<Inbox<VerifyRequest>>,
        dir: PathBuf,
        active: Seq,
    ) -> Verification {
        let (sender, results) = mpsc::channel(1);
        let state = match requests.send(VerifyRequest { dir, active, results: sender }) {
            Ok(()) => State::Running { results, requests },
            Err(error) => State::Failed(error),
        };
        Verification { state }
    }

    /// An iterator that blocks the thread while it waits.
    pub fn blocking(self) -> Blocking<Verification> {
        Blocking::new(self)
    }
}

impl Stream for Verification {
    type Item = Result<VerifiedSegment>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = match &mut self.state {
            State::Running { results, requests } => match ready!(results.poll_recv(context)) {
                Some(item) => return Poll::Ready(Some(item)),
                // All were checked, or the submission thread is gone.
                None => requests.deserted().map(Err),
            },
            State::Failed(error) => Some(Err(error.clone())),
            State::Done => None,
        };
        self.state = State::Done;
        Poll::Ready(item)
    }
}

/// Answers requests, until the log is closed.
pub(crate) async fn serve<D: Disk>(disk: D, requests: Arc<Inbox<VerifyRequest>>) {
    while let Some(request) = requests.receive().await {
        let on = disk.clone();
        disk.spawn(async move {
            let results = request.results.clone();
            // Ends when it is done, or nobody wants to know any more.
            let mut work = pin!(verify(&on, request));
            let mut unwanted = pin!(results.closed());
            poll_fn(|context| match work.as_mut().poll(context) {
                Poll::Pending => unwanted.as_mut().poll(context),
                ready => ready,
            })
            .await;
        });
    }
}

async fn verify<D: Disk>(disk: &D, request: VerifyRequest) {
    let VerifyRequest { dir, active, results } = request;
    let mut segments = match dir::list(disk, &dir).await {
        Ok(segments) => segments,
        Err(error) => {
            let _ = results.send(Err(error)).await;
            return;
        }
    };
    let newer = segments.split_off(segments.partition_point(|segment| segment.name.seq < active));
    let mut before: Option<(Seq, Option<Walk>)> = None;
    let mut bytes_total = 0;
    for (at, segment) in segments.iter().enumerate() {
        let seq = segment.name.seq;
        if let Some((before, _)) = &before
            && let Err(error) = dir::check_next(*before, segment)
            && results.send(Err(error)).await.is_err()
        {
            return;
        }
        let continued = match before.take() {
            Some((before, walk)) if before.next() == seq => walk,
            _ => None,
        };
        let (walk, outcome, bytes) = check(disk, segment, at == 0, continued).await;
        if outcome.is_err() && is_gone(disk, segment) {
            // Released while it was checked, and its file may be another segment's by now.
            continue;
        }
        before = Some((seq, walk));
        bytes_total += bytes;
        let outcome = outcome.map(|()| VerifiedSegment {
            seq,
            path: segment.path.clone(),
            bytes,
            bytes_total,
            segments_left: segments.len() - at - 1,
        });
        if results.send(outcome).await.is_err() {
            return;
        }
    }
    // Whether the last of them lost its end shows where the active one begins.
    let next =
        newer.first().filter(|next| before.as_ref().is_some_and(|b| b.0.next() == next.name.seq));
    if let (Some(next), Some((_, Some(walk)))) = (next, before)
        && let Err(error) = sealed::check_head(disk, next, MANNER, &walk).await
    {
        let _ = results.send(Err(error)).await;
    }
}

fn is_gone<D: Disk>(disk: &D, segment: &SegmentFile) -> bool {
    let found = disk.length_and_age(&segment.path);
    found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Whether a sealed segment is sound, and continues the one before it, if that was. Gives the walk for the next one, and
/// the bytes of the file.
async fn check<D: Disk>(
    disk: &D,
    segment: &SegmentFile,
    first: bool,
    before: Option<Walk>,
) -> (Option<Walk>, Result<()>, u64) {
    // What comes before the first segment there is was released, unless it is the first of all.
    let mut walk = match before {
        Some(walk) => walk,
        None if first && segment.name.seq == Seq(0) => Walk::default(),
        None => Walk::from_unknown(MANNER.heeds),
    };
    let (mut from, mut bytes) = (0, 0);
    loop {
        let Digest { walk: walked, end, file_bytes, .. } =
            match sealed::walk(disk, segment, MANNER, walk, from).await {
                Ok(digest) => digest,
                Err(error) => return (None, Err(error), bytes),
            };
        (walk, bytes) = (walked, file_bytes);
        match end {
            Ok(SegmentEnd::Pause { offset }) => from = offset,
            Ok(end) => {
                let outcome = sealed::judge(segment, &end);
                return (outcome.is_ok().then(|| walk.known()), outcome, bytes);
            }
            Err(error) => return (None, Err(error), bytes),
        }
    }
}
