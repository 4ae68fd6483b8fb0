//! Pieces that are made in any order, from any points, are what one walk through the bytes gives: the same entries, at the
//! same places, and the same error behind them.

use super::*;
use crate::format::frame::FrameLength;
use crate::format::pb::{raftpb, walpb};
use crate::index::SparseIndex;
use crate::io::BlockingFile;
use crate::io::CHUNK_BYTES;
use crate::live::Live;
use crate::read::serve;
use crate::retained::Segment;
use crate::types::Entry;
use crate::watermark::{self, Mover};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use std::io;
use std::task::Waker;
use std::time::Duration;

/// What is found in a log: entries with their places, and what comes behind them.
#[derive(Debug, Default, PartialEq)]
struct Found {
    entries: Vec<(Position, Entry)>,
    error: Option<(Option<PathBuf>, Option<u64>)>,
}

impl Found {
    fn take(&mut self, piece: &mut Piece) {
        let seq = piece.end.seq;
        let places = piece.offsets.iter().map(|&offset| Position::new(seq, offset));
        self.entries.extend(places.zip(piece.entries.drain(..)));
    }

    fn fail(&mut self, error: &Error) {
        assert!(error.is_damaged(), "{error}");
        self.error = Some((error.path().map(PathBuf::from), error.offset()));
    }
}

/// A log in memory, and the points that were noted as it was written.
#[derive(Default)]
struct Log {
    segments: Vec<Vec<u8>>,
    chain: Chain,
    index: SparseIndex,
}

impl Log {
    /// Segments of entries: index, and length of the payload.
    fn of(segments: &[Vec<(u64, usize)>]) -> Log {
        let mut log = Log::default();
        for entries in segments {
            log.segments.push(Vec::new());
            log.record(4, None);
            entries.iter().for_each(|&(index, len)| log.entry(index, len));
        }
        log
    }

    fn entry(&mut self, index: u64, len: usize) {
        let position = self.end();
        self.index.note(Point { position, index, chain: self.chain });
        let data = Some(Bytes::from(vec![position.offset as u8; len]));
        let entry = raftpb::Entry { index: Some(index), data, ..Default::default() };
        self.record(2, Some(entry.encode_to_vec().into()));
    }

    fn record(&mut self, record_type: i64, data: Option<Bytes>) {
        self.chain = self.chain.after(data.as_deref().unwrap_or_default());
        let (r#type, crc) = (Some(record_type), Some(self.chain.0));
        let record = walpb::Record { r#type, crc, data }.encode_to_vec();
        let length = FrameLength::of_record(record.len());
        let segment = self.segments.last_mut().unwrap();
        let end = segment.len() + length.total() as usize;
        segment.extend(length.to_bytes());
        segment.extend(record);
        segment.resize(end, 0);
    }

    fn path(seq: usize) -> PathBuf {
        format!("{seq}.wal").into()
    }

    fn end(&self) -> Position {
        let last = self.segments.len() - 1;
        Position::new(Seq(last as u64), self.segments[last].len() as u64)
    }

    /// One walk from the head of the log to `limit`.
    fn walked(&self, limit: Position) -> Found {
        let (mut found, mut chain) = (Found::default(), Chain(0));
        for (seq, bytes) in self.segments.iter().enumerate() {
            let from = Position::new(Seq(seq as u64), 0);
            let limit_here = if from.seq < limit.seq { u64::MAX } else { limit.offset };
            let span = Span { from, chain, to: limit_here, limit: limit_here, frame_bytes: 0 };
            let mut piece = Piece::new(span);
            piece.take(&Bytes::copy_from_slice(bytes), true, &Log::path(seq));
            found.take(&mut piece);
            chain = piece.chain;
            if let Some(error) = piece.take_failure() {
                found.fail(&error);
                break;
            }
            if piece.ends_segment() && from.seq == limit.seq {
                found.error = Some((Some(Log::path(seq)), Some(piece.end.offset)));
            }
        }
        found
    }

    fn watermark(&self) -> (Mover, Watermark) {
        let segments = (0..self.segments.len())
            .map(|seq| Segment::new(Seq(seq as u64), 0, &Log::path(seq), 0, Duration::ZERO));
        watermark::watermark(watermark::Start {
            position: self.end(),
            live: Live::after(0, 0),
            index: self.index.clone(),
            segments: segments.collect(),
            released: (0, 0),
            released_in: Seq(0),
            recent_bytes_max: 0,
        })
    }

    fn answer(&self, request: ReadRequest, as_bytes: bool) {
        let ReadRequest { path, span, reply, .. } = request;
        let file = InMemory(&self.segments[span.from.seq.0 as usize]);
        let wanted = span.first_bytes();
        let answer = if as_bytes && wanted.end >= span.to {
            let (bytes, last) = serve::chunk(&file, &Arc::default(), &wanted).unwrap();
            Answer::Bytes { bytes, last }
        } else {
            Answer::Piece(serve::make(&file, &Arc::default(), span, &path))
        };
        let _ = reply.send(Ok(answer));
    }
}

struct InMemory<'a>(&'a [u8]);

impl BlockingFile for InMemory<'_> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = &self.0[self.0.len().min(offset as usize)..];
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn will_read_on(&self) {}
}

/// Reads from `from` on, while pieces are made in any order.
struct Reading {
    requests: Arc<Inbox<ReadRequest>>,
    files: Files,
    _mover: Mover,
    asked: Vec<ReadRequest>,
}

impl Reading {
    fn of(log: &Log, from: Point) -> Reading {
        let (mover, watermark) = log.watermark();
        let requests = Arc::new(Inbox::new());
        let files = Files::new(Arc::clone(&requests), watermark, from);
        Reading { requests, files, _mover: mover, asked: Vec::new() }
    }

    fn poll(&mut self, limit: Position) -> Poll<Result<Piece>> {
        let polled = self.files.poll_piece(limit, &mut Context::from_waker(Waker::noop()));
        while let Some(request) = self.requests.try_receive() {
            self.asked.push(request);
        }
        // Some that are not wanted any more were thrown away.
        self.asked.retain(|request| !request.reply.is_closed());
        polled
    }

    fn all(&mut self, log: &Log, limit: Position, rng: &mut fastrand::Rng) -> Found {
        let (mut found, always_bytes) = (Found::default(), rng.bool());
        while self.files.at() < limit {
            match self.poll(limit) {
                Poll::Ready(Ok(mut piece)) => found.take(&mut piece),
                Poll::Ready(Err(error)) => {
                    found.fail(&error);
                    return found;
                }
                Poll::Pending => {
                    assert!(self.asked.len() <= PIECES_AHEAD_MAX);
                    let request = self.asked.swap_remove(rng.usize(..self.asked.len()));
                    log.answer(request, always_bytes || rng.bool());
                }
            }
        }
        found
    }
}

fn head() -> Point {
    Point { position: Position::default(), index: 0, chain: Chain(0) }
}

fn payload_bytes() -> impl Strategy<Value = usize> {
    prop_oneof![
        20 => 0usize..3000,
        10 => 20_000usize..90_000,
        1 => CHUNK_BYTES as usize - 40..CHUNK_BYTES as usize + 40,
        1 => 300_000usize..2_500_000,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn pieces_are_what_one_walk_gives(
        segments in proptest::collection::vec(
            proptest::collection::vec((1u64..100, payload_bytes()), 0..120),
            1..4,
        ),
        damage in proptest::option::of((any::<proptest::sample::Index>(), any::<proptest::sample::Index>(), 0u8..10)),
        from in any::<proptest::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut log = Log::of(&segments);
        let limit = log.end();
        let entries = log.walked(limit).entries;
        if let Some((segment, place, how)) = damage {
            let segment = segment.index(log.segments.len());
            let bytes = &mut log.segments[segment];
            let place = place.index(bytes.len());
            // Its length becomes zero, or reaches over the next points.
            let frames = entries.iter().filter(|(at, _)| at.seq.0 == segment as u64);
            let frames: Vec<_> = frames.collect();
            let frame = rng.choice(frames).map_or(0, |(at, _)| at.offset as usize);
            match how {
                0 => bytes.truncate(place),
                1 => bytes[frame..frame + 8].fill(0),
                2..6 => bytes[frame + 2] ^= 1 << rng.u8(..5),
                _ => bytes[place] ^= 1 << rng.u8(..8),
            }
        }
        let walked = log.walked(limit);
        let mut reading = Reading::of(&log, head());
        prop_assert_eq!(&reading.all(&log, limit, &mut rng), &walked);

        // From any point on, what one walk gives from there on.
        let at = from.index(walked.entries.len() + 1);
        if let Some((position, _)) = walked.entries.get(at)
            && let Some(point) = log.index.at_or_before(*position)
        {
            let found = Reading::of(&log, point).all(&log, limit, &mut rng);
            let behind = walked.entries.partition_point(|(at, _)| *at < point.position);
            prop_assert_eq!(&found.entries[..], &walked.entries[behind..]);
            prop_assert_eq!(found.error, walked.error);
        }
    }
}

/// Who wants one entry asks for one piece; who goes on and then stops has a few pieces made, and no more; and nobody
/// makes a piece for who has gone.
#[test]
fn who_stops_leaves_few_pieces() {
    let log = Log::of(&[(1..=10_000).map(|index| (index, 1000)).collect()]);
    let mut reading = Reading::of(&log, head());
    let limit = log.end();
    assert!(reading.poll(limit).is_pending());
    assert_eq!(reading.asked.len(), 1);
    let span = reading.asked[0].span;
    assert!((FIRST_PIECE_BYTES..2 * FIRST_PIECE_BYTES).contains(&(span.to - span.from.offset)));
    log.answer(reading.asked.remove(0), true);
    assert!(reading.poll(limit).is_ready());
    assert!(reading.asked.is_empty(), "nothing before it is wanted");
    for _ in 0..10 {
        assert!(reading.poll(limit).is_pending());
    }
    assert_eq!(reading.asked.len(), PIECES_AHEAD_MAX);
    let bytes = |request: &ReadRequest| request.span.to - request.span.from.offset;
    assert!(reading.asked.iter().all(|request| bytes(request) <= PIECE_BYTES_MAX));
    let Reading { files, asked, .. } = reading;
    drop(files);
    assert!(asked.iter().all(|request| request.reply.is_closed()));
}

/// Points of a very long log are far apart: pieces stay as short, and each waits for the one before it.
#[test]
fn pieces_are_short_where_points_are_few() {
    let mut log = Log::of(&[(1..=6000).map(|index| (index, 1000)).collect()]);
    log.index = SparseIndex::default();
    let at = log.walked(log.end()).entries[5999].0;
    log.index.note(Point { position: at, index: 6000, chain: log.chain });
    let mut reading = Reading::of(&log, head());
    let mut entries = 0;
    while reading.files.at() < at {
        assert!(reading.poll(at).is_pending());
        assert_eq!(reading.asked.len(), 1);
        let request = reading.asked.remove(0);
        assert!(request.span.to - request.span.from.offset <= PIECE_BYTES_MAX);
        log.answer(request, false);
        let Poll::Ready(Ok(piece)) = reading.poll(at) else { panic!("it was answered") };
        entries += piece.entries.len();
    }
    assert_eq!(entries, 5999);
}

/// What a file has been changed to meanwhile is not taken for what follows a point, however sound it is.
#[test]
fn a_piece_that_does_not_continue_the_one_before_is_damage() {
    let mut log = Log::of(&[(1..=3000).map(|index| (index, 1000)).collect()]);
    log.chain = Chain(log.chain.0 ^ 1);
    let point = Point { position: log.end(), index: 3001, chain: log.chain };
    (3001..=4000).for_each(|index| log.entry(index, 1000));
    // No piece reaches over it.
    log.index = SparseIndex::default();
    log.index.note(point);
    let found = Reading::of(&log, head()).all(&log, log.end(), &mut fastrand::Rng::with_seed(1));
    assert_eq!(found.error, Some((Some(Log::path(0)), Some(point.position.offset))));
    assert_eq!(found.entries.len(), 3000);
}
