//! Segments, walked through once and in order, with their entries kept.
//!
//! Where a frame begins is known only when the one before it was looked at, and so is the chain. But to look at frames is
//! quick; what takes time is to read the file, to compute the checksums and to make entries of the records. So helper
//! threads take turns: who has the turn walks on, believing what records say of their checksums ([`Unchecked`]); then he
//! passes the turn on and checks that. Meanwhile another has the turn, or reads ahead of it. What proves unsound in any
//! way is walked through again from where all was well, with every check at its place: so what is found, and which failure
//! is told, is what one walk through the whole log would find.
//!
//! Memory is that of the chunks that were read ahead, at most [`AHEAD_MAX`], and of some turns.

use super::checks::{CheckedEntries, Checks, Unchecked};
use super::facts::Facts;
use super::frames::{Pieces, Source};
use super::handout::Handout;
use super::replay::Replay;
use super::sealed::{self, Manner};
use super::walk::{SegmentEnd, Walk};
use crate::error::{Error, Result};
use crate::io::{BLOCK_BYTES, BlockingFile, CHUNK_BYTES, Chunks, Disk, DiskFile};
use crate::segment::dir::SegmentFile;
use crate::types::{Entry, Seq};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};

/// A helper takes turns over so many bytes before it tells what it has.
const BYTES_AT_ONCE: u64 = 4 * CHUNK_BYTES;

/// No helper begins to take turns as long as so many bytes wait for those before them.
const BELIEVED_BYTES_MAX: u64 = 2 * BYTES_AT_ONCE;

/// So often it is looked whether the last segment has got longer meanwhile.
const LOOKS_MAX: usize = 4;

/// Chunks that were read ahead, or are being read.
const AHEAD_MAX: usize = 32;

/// A chunk has so many bytes of the next one too: most frames that begin in it are whole in it.
const OVERLAP: usize = 2 * BLOCK_BYTES;

/// Walks through segments that follow each other.
pub(crate) struct Kept<'a, D: Disk> {
    disk: &'a D,
    memory: Arc<Chunks>,
    coming: VecDeque<(&'a SegmentFile, Manner)>,
    /// The next one, of which the first chunks are read while the one before it is walked through.
    next: Option<(&'a SegmentFile, Result<Stretches<D::File>>)>,
}

impl<'a, D: Disk> Kept<'a, D> {
    pub(crate) fn new(
        disk: &'a D,
        segments: impl IntoIterator<Item = (&'a SegmentFile, Manner)>,
    ) -> Kept<'a, D> {
        let coming = segments.into_iter().collect();
        Kept { disk, memory: Arc::default(), coming, next: None }
    }

    /// Walks through the next segment, and hands out its entries. Says how it ended. Not to be called again after the
    /// [last](Self::is_last).
    pub(crate) async fn segment(
        &mut self,
        walk: &mut Walk,
        replay: &mut Replay,
        handout: &mut Handout,
    ) -> Result<(&'a SegmentFile, SegmentEnd)> {
        if self.next.is_none() {
            self.begin().await;
        }
        let (segment, stretches) = self.next.take().expect("there is another");
        let (mut stretches, path) = (stretches?, &segment.path);
        self.begin().await;
        let is_last = self.is_last();
        stretches.start(walk);
        let mut looks = 0;
        loop {
            let stretch = stretches.next().await;
            let stretch = stretch.map_err(|error| Error::io("checking", path, error))?;
            *walk = stretch.walk;
            let is_empty = stretch.facts.items.is_empty();
            handout.take(replay, stretch.facts, stretch.entries, path).await?;
            match stretch.end? {
                SegmentEnd::Pause { .. } => {}
                // What was read ahead, and waited for whoever takes the entries, may be old by now: where somebody else
                // writes, there is more.
                SegmentEnd::End { offset }
                    if is_last && looks < LOOKS_MAX && (looks == 0 || !is_empty) =>
                {
                    looks += 1;
                    stretches.go_on_carefully(walk.clone(), offset);
                }
                end => return Ok((segment, end)),
            }
        }
    }

    /// There is no other segment.
    pub(crate) fn is_last(&self) -> bool {
        self.next.is_none() && self.coming.is_empty()
    }

    async fn begin(&mut self) {
        let Some((segment, manner)) = self.coming.pop_front() else {
            return;
        };
        let file = sealed::open(self.disk, segment, manner).await;
        let stretches = file.map(|file| {
            let turns = Turns::new(segment, &self.memory);
            let mut stretches = Stretches::new(file, turns, self.disk.offload_max());
            // Somebody may write to the last one until it is its turn.
            if !self.coming.is_empty() {
                stretches.read_ahead();
            }
            stretches
        });
        self.next = Some((segment, stretches));
    }
}

/// What lies between two places of a segment.
struct Stretch {
    /// The walk at its end.
    walk: Walk,
    facts: Facts,
    entries: Vec<Entry>,
    end: Result<SegmentEnd>,
}

/// A stretch of which records were believed.
struct Believed {
    /// Where it begins.
    from: (Walk, u64),
    bytes: u64,
    /// `None` if something in it is not sound.
    stretch: Option<Stretch>,
}

/// The stretches of a segment, in order.
struct Stretches<F> {
    file: Rc<F>,
    turns: Arc<Turns>,
    helpers_max: usize,
    helpers: Vec<Helper>,
    /// By the number of their turns, and the number of the next that is wanted.
    believed: BTreeMap<u64, Believed>,
    wanted: u64,
    /// Something is not sound: from here on it is walked without believing anything.
    careful: Option<(Walk, u64)>,
}

/// What a helper will have.
type Helper = Pin<Box<dyn Future<Output = io::Result<Vec<(u64, Believed)>>>>>;

impl<F: DiskFile> Stretches<F> {
    fn new(file: F, turns: Turns, helpers_max: usize) -> Stretches<F> {
        Stretches {
            file: Rc::new(file),
            turns: Arc::new(turns),
            // One more waits: a helper that is done goes on at once.
            helpers_max: helpers_max + 1,
            helpers: Vec::new(),
            believed: BTreeMap::new(),
            wanted: 0,
            careful: None,
        }
    }

    /// Begins to read.
    fn read_ahead(&mut self) {
        self.send_helper(|turns, file| {
            while turns.read_ahead(file) {}
            Vec::new()
        });
        // Work begins when it is first asked for.
        let mut context = Context::from_waker(Waker::noop());
        self.helpers.retain_mut(|helper| helper.as_mut().poll(&mut context).is_pending());
    }

    /// From here on they can be walked through.
    fn start(&mut self, walk: &Walk) {
        self.turns.turn().walk = walk.clone();
    }

    fn send_helper(
        &mut self,
        work: impl FnOnce(&Turns, &dyn BlockingFile) -> Vec<(u64, Believed)> + Send + 'static,
    ) {
        let (file, turns) = (Rc::clone(&self.file), Arc::clone(&self.turns));
        let help = async move { file.offload(move |file| work(&turns, file)).await };
        self.helpers.push(Box::pin(help));
    }

    /// Not to be called again after the last, which does not end with a pause.
    async fn next(&mut self) -> io::Result<Stretch> {
        loop {
            if let Some((walk, from)) = self.careful.take() {
                let turns = Arc::clone(&self.turns);
                let stretch = self.file.offload(move |file| turns.carefully(file, walk, from));
                let stretch = stretch.await?;
                if let &Ok(SegmentEnd::Pause { offset }) = &stretch.end {
                    self.careful = Some((stretch.walk.clone(), offset));
                }
                return Ok(stretch);
            }
            let Some(Believed { from, stretch, .. }) = self.believed.remove(&self.wanted) else {
                self.help().await?;
                continue;
            };
            self.wanted += 1;
            if let Some(stretch) = stretch {
                return Ok(stretch);
            }
            self.go_on_carefully(from.0, from.1);
        }
    }

    /// Goes on from a place without believing anything, or what was read before.
    fn go_on_carefully(&mut self, walk: Walk, from: u64) {
        self.helpers.clear();
        self.believed.clear();
        self.turns.passed(u64::MAX);
        self.careful = Some((walk, from));
    }

    /// Waits until a helper has something.
    async fn help(&mut self) -> io::Result<()> {
        let waiting: u64 = self.believed.values().map(|believed| believed.bytes).sum();
        while self.helpers.len() < self.helpers_max
            && waiting < BELIEVED_BYTES_MAX
            && !self.turns.ended.load(Ordering::Relaxed)
        {
            self.send_helper(Turns::take_some);
        }
        let helpers = &mut self.helpers;
        // All are asked: work begins when it is first asked for.
        let believed = poll_fn(|context| {
            let mut ready = Vec::new();
            helpers.retain_mut(|helper| match helper.as_mut().poll(context) {
                Poll::Ready(believed) => {
                    ready.push(believed);
                    false
                }
                Poll::Pending => true,
            });
            if ready.is_empty() { Poll::Pending } else { Poll::Ready(ready) }
        })
        .await;
        for believed in believed {
            self.believed.extend(believed?);
        }
        Ok(())
    }
}

/// What helpers take turns at.
struct Turns {
    path: PathBuf,
    seq: Seq,
    memory: Arc<Chunks>,
    turn: Mutex<Turn>,
    /// There are no more turns.
    ended: AtomicBool,
    ahead: Mutex<Ahead>,
    /// A chunk was read, or could not be.
    arrived: Condvar,
}

#[derive(Default)]
struct Turn {
    number: u64,
    walk: Walk,
    offset: u64,
    /// The piece at hand, and where it lies.
    piece: (Bytes, u64),
}

/// Chunks of the file that were read ahead of the walk.
#[derive(Default)]
struct Ahead {
    /// By their numbers; `None` while one is read.
    chunks: BTreeMap<u64, Option<Bytes>>,
    next: u64,
}

impl Turns {
    fn new(segment: &SegmentFile, memory: &Arc<Chunks>) -> Turns {
        Turns {
            path: segment.path.clone(),
            seq: segment.name.seq,
            memory: Arc::clone(memory),
            turn: Mutex::default(),
            ended: AtomicBool::new(false),
            ahead: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    /// Some turns, each with its number.
    fn take_some(&self, file: &dyn BlockingFile) -> Vec<(u64, Believed)> {
        let (mut some, mut bytes) = (Vec::new(), 0);
        while bytes < BYTES_AT_ONCE
            && let Some((number, believed)) = self.take(file)
        {
            bytes += believed.bytes;
            some.push((number, believed));
        }
        some
    }

    fn take(&self, file: &dyn BlockingFile) -> Option<(u64, Believed)> {
        let mut turn = loop {
            match self.turn.try_lock() {
                Ok(turn) => break turn,
                Err(TryLockError::Poisoned(turn)) => break turn.into_inner(),
                Err(TryLockError::WouldBlock) if self.read_ahead(file) => {}
                Err(TryLockError::WouldBlock) => break self.turn(),
            }
        };
        if self.ended.load(Ordering::Relaxed) {
            return None;
        }
        let from = (turn.walk.clone(), turn.offset);
        let number = turn.number;
        turn.number += 1;
        let (mut facts, mut records) = (Facts::default(), Unchecked::default());
        let Turn { walk, offset, piece, .. } = &mut *turn;
        let end = self.stretch(file, (walk, *offset), piece, &mut facts, &mut records);
        match end {
            Ok(SegmentEnd::Pause { offset }) => turn.offset = offset,
            _ => self.ended.store(true, Ordering::Relaxed),
        }
        let (walk, bytes) = (turn.walk.clone(), turn.offset - from.1);
        drop(turn);
        let is_sound = match &end {
            Ok(SegmentEnd::Pause { .. } | SegmentEnd::End { .. }) => true,
            Ok(SegmentEnd::Stop(_)) => false,
            Err(error) => sealed::is_of_the_system(error),
        };
        let entries = records.check(&facts).filter(|_| is_sound);
        let stretch = entries.map(|entries| Stretch { walk, facts, entries, end });
        Some((number, Believed { from, bytes, stretch }))
    }

    /// Walks through a stretch, and takes in the piece that it ends in.
    fn stretch(
        &self,
        file: &dyn BlockingFile,
        (walk, from): (&mut Walk, u64),
        piece: &mut (Bytes, u64),
        facts: &mut Facts,
        checks: &mut impl Checks<Bytes>,
    ) -> Result<SegmentEnd> {
        let file = FileReadAhead { file, turns: self };
        let mut pieces = Pieces::new(&file, &self.path)?.with_piece(std::mem::take(piece));
        let stretch = from..from + CHUNK_BYTES;
        // Nothing in it waits: its reads block.
        let end = pollster::block_on(walk.stretch(
            &mut pieces,
            self.seq,
            &self.path,
            stretch,
            facts,
            checks,
        ));
        *piece = pieces.into_piece();
        end
    }

    /// A stretch in which nothing is believed.
    fn carefully(&self, file: &dyn BlockingFile, mut walk: Walk, from: u64) -> Stretch {
        let (mut facts, mut checks) = (Facts::default(), CheckedEntries::default());
        let mut piece = Default::default();
        let end = self.stretch(file, (&mut walk, from), &mut piece, &mut facts, &mut checks);
        let entries = checks.of(&facts);
        Stretch { walk, facts, entries, end }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        // If somebody panicked at his turn, that is told, and others come to nothing.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        // Nothing panics under the lock.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the next chunk, if it is not far ahead; says whether it was there to be read.
    fn read_ahead(&self, file: &dyn BlockingFile) -> bool {
        let mut ahead = self.ahead();
        let next = ahead.next;
        let is_there = file.len().is_ok_and(|bytes| next * CHUNK_BYTES < bytes);
        if ahead.chunks.len() >= AHEAD_MAX || !is_there {
            return false;
        }
        let claim = self.claim(&mut ahead, next);
        drop(ahead);
        // If it fails, whoever needs it reads it again, and is told.
        claim.read(file).is_ok()
    }

    /// A chunk of the file, and as much of the next one as there is room for.
    fn chunk(&self, file: &dyn BlockingFile, number: u64) -> io::Result<Bytes> {
        let mut ahead = self.ahead();
        loop {
            match ahead.chunks.get(&number) {
                Some(Some(chunk)) => return Ok(chunk.clone()),
                Some(None) => {
                    drop(ahead);
                    let has_read = self.read_ahead(file);
                    ahead = self.ahead();
                    if !has_read && matches!(ahead.chunks.get(&number), Some(None)) {
                        ahead = self.arrived.wait(ahead).unwrap_or_else(PoisonError::into_inner);
                    }
                }
                None => {
                    let claim = self.claim(&mut ahead, number);
                    drop(ahead);
                    return claim.read(file);
                }
            }
        }
    }

    fn claim(&self, ahead: &mut Ahead, number: u64) -> Claim<'_> {
        ahead.next = ahead.next.max(number + 1);
        ahead.chunks.insert(number, None);
        Claim { turns: self, number, chunk: None }
    }

    /// What lies before `offset` is not needed any more.
    fn passed(&self, offset: u64) {
        let mut ahead = self.ahead();
        let needed = ahead.chunks.split_off(&(offset / CHUNK_BYTES));
        let passed = std::mem::replace(&mut ahead.chunks, needed);
        drop(ahead);
        drop(passed);
    }
}

/// A chunk that is read by who has this; others wait for it.
struct Claim<'a> {
    turns: &'a Turns,
    number: u64,
    chunk: Option<Bytes>,
}

impl Claim<'_> {
    fn read(mut self, file: &dyn BlockingFile) -> io::Result<Bytes> {
        let offset = self.number * CHUNK_BYTES;
        if offset == 0 {
            file.will_read_on();
        }
        // No memory is taken for what the file does not have.
        let left = file.len()?.saturating_sub(offset).next_multiple_of(BLOCK_BYTES as u64);
        let len = left.min(CHUNK_BYTES + OVERLAP as u64) as usize;
        let chunk = self.turns.memory.read(file, offset, len)?;
        Ok(self.chunk.insert(chunk).clone())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut ahead = self.turns.ahead();
        match self.chunk.take() {
            // It may have been passed by meanwhile, by who read it in another way.
            Some(chunk) => {
                if let Some(place) = ahead.chunks.get_mut(&self.number) {
                    *place = Some(chunk);
                }
            }
            None => drop(ahead.chunks.remove(&self.number)),
        }
        drop(ahead);
        self.turns.arrived.notify_all();
    }
}

/// A file on a helper thread, of which chunks may have been read ahead.
struct FileReadAhead<'a> {
    file: &'a dyn BlockingFile,
    turns: &'a Turns,
}

impl Source for FileReadAhead<'_> {
    type Piece = Bytes;

    /// No more than any chunk has from any place in it on.
    fn piece_bytes(&self) -> u64 {
        OVERLAP as u64 - BLOCK_BYTES as u64
    }

    fn file_bytes(&self) -> io::Result<u64> {
        self.file.len()
    }

    async fn read(&self, spent: Bytes, offset: u64, len: usize) -> io::Result<Bytes> {
        drop(spent);
        self.turns.passed(offset);
        let number = offset / CHUNK_BYTES;
        let into = (offset - number * CHUNK_BYTES) as usize;
        match into + len <= CHUNK_BYTES as usize + OVERLAP {
            true => {
                let chunk = self.turns.chunk(self.file, number)?;
                Ok(chunk.slice(into.min(chunk.len())..))
            }
            // A large frame that begins in it.
            false => self.turns.memory.read(self.file, offset, len),
        }
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
