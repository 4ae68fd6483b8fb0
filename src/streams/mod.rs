//! [`Streams`]: many named streams in one log.
//!
//! A sync costs the same for one append as for a thousand. Fifty logs pay it fifty times; fifty streams in one log pay it
//! once. Each stream has indexes, reads, followers and a release of its own; on disk there is one log, which etcd's reader
//! opens as any other.
//!
//! # Data flow
//!
//! A record goes to the log as an [`entry`] that names its stream. When its group is durable, the submission thread shows
//! it to the [`table`], and wakes the appender, who finds the record's index in its stream there; so nothing but the order
//! of the log decides about indexes, also when a group fails for lack of space. Who reads finds in the table which entries
//! of the log he wants ([`reading`]). Opening reads the log once and fills the table.

mod entry;
mod named;
pub(crate) mod reading;
mod runs;
mod table;

pub use named::NamedStream;

use crate::backup::Backup;
use crate::commit::observer::Observer;
use crate::error::{Error, ErrorKind, Result};
use crate::format::note;
use crate::metrics::Stats;
use crate::options::Options;
use crate::payload::Payload;
use crate::recovery::notes::Notes;
use crate::types::Start;
#[cfg(feature = "cli")]
use crate::wal::Reader;
use crate::wal::{self, How, Recovery, Wal};
use crate::watermark::wake;
use bytes::Bytes;
use prost::Message;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use table::{Gone, Table};

/// A note takes no more than this part of a segment: a head and what comes behind it must fit.
const NOTE_PART: u64 = 4;

/// Many named streams in one log, open for appending. Clones are handles to the same log.
///
/// Streams share the log's group commits: many that append a little at a time are far quicker than as many logs. Each has
/// its own indexes from 1 on, reads, followers and release. The log is a log like any other, whose entries are messages of
/// `proto/streampb.proto`; its metadata says so.
///
/// ```
/// # fn main() -> seawal::Result<()> { pollster::block_on(async {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("log");
/// use seawal::{Options, Streams};
///
/// let (streams, _) = Streams::open_or_create(&dir, Options::new()).await?;
/// let orders = streams.stream("orders").await?;
/// let audit = streams.stream("audit").await?;
/// assert_eq!(orders.append("an order").await?, 1); // durable from here on
/// assert_eq!(audit.append("somebody ordered").await?, 1);
///
/// for entry in orders.read(1..).blocking() {
///     assert_eq!(entry?.data, "an order");
/// }
/// orders.release(1).await?;
/// streams.close().await?;
/// # Ok(()) }) }
/// ```
///
/// **Space.** The log gives its segments back oldest first. A record that was not released keeps its segment, and all that
/// were written after it, of all streams: a stream that is written rarely has to be released, or its records appended
/// again, now and then. [`Streams::oldest`] says which one keeps the log.
///
/// **Memory.** 24 bytes for each record that was not released, less where records of one stream follow each other in the
/// log. Opening reads the log once.
#[derive(Clone, Debug)]
pub struct Streams {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    wal: Wal,
    index: Arc<Index>,
    record_bytes_max: usize,
    note_bytes_max: usize,
}

/// The table, where the submission thread and the callers meet.
#[derive(Debug, Default)]
struct Index {
    table: Mutex<Table>,
    /// Streams that are being created, and the bytes of their names.
    creating: Mutex<(usize, usize)>,
    /// The entries of the log are not what they should be.
    broken: OnceLock<Error>,
}

impl Index {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all entries were understood, and counted.
    fn sound(&self) -> Result<()> {
        self.broken.get().map_or(Ok(()), |error| Err(error.clone()))
    }
}

impl Observer for Index {
    fn appended(&self, entries: &mut dyn Iterator<Item = (u64, &[u8])>) {
        let mut table = self.lock();
        for (at, data) in entries {
            if let Err(why) = table.take(at, data) {
                self.broken.get_or_init(|| not_of_streams(at, &why));
            }
        }
        let due = table.take_due();
        drop(table);
        due.into_iter().for_each(wake);
    }

    fn note(&self, at: u64, ends: bool) -> Option<Bytes> {
        // What was not understood was not counted.
        self.sound().ok()?;
        Some(self.lock().note(at, ends)?.encode_to_vec().into())
    }

    fn releasable(&self) -> u64 {
        self.lock().releasable()
    }
}

/// A stream and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamInfo {
    /// Its name.
    pub name: Arc<str>,
    /// The index of its first record; one more than `last_index` when there are none.
    pub first_index: u64,
    /// The index of its last record.
    pub last_index: u64,
}

impl Streams {
    /// Creates a log of streams in `dir`: see [`Wal::create`].
    ///
    /// # Errors
    ///
    /// Those of [`Wal::create`]; [`ErrorKind::InvalidInput`] for options that a log of streams cannot have:
    /// [`Options::metadata`], [`Options::start`], and those that release entries by themselves (`retain_...`).
    ///
    /// # Cancel safety
    ///
    /// That of [`Wal::create`].
    pub async fn create(dir: impl AsRef<Path>, options: Options) -> Result<Streams> {
        Ok(start(dir.as_ref(), options, How::Create).await?.0)
    }

    /// Opens the log of streams in `dir`: see [`Wal::open`]. What it says of the recovery is of the log as a whole.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::open`] and [`Streams::create`]; [`ErrorKind::NotALog`] for a log that was not created for streams;
    /// [`ErrorKind::Damaged`] for one whose entries are not what this version of seawal writes.
    ///
    /// # Cancel safety
    ///
    /// That of [`Wal::open`].
    pub async fn open(dir: impl AsRef<Path>, options: Options) -> Result<(Streams, Recovery)> {
        start(dir.as_ref(), options, How::Open).await
    }

    /// Opens the log of streams in `dir`, or creates it if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`Streams::open`] and [`Streams::create`].
    pub async fn open_or_create(
        dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<(Streams, Recovery)> {
        start(dir.as_ref(), options, How::OpenOrCreate).await
    }

    /// The streams of a log that was opened for reading only, as they are now.
    #[cfg(feature = "cli")]
    pub(crate) fn of_reader_blocking(reader: &Reader, recovery: &Recovery) -> Result<Streams> {
        let (wal, index) = (reader.wal().clone(), Arc::<Index>::default());
        if recovery.metadata.as_deref() != Some(note::STREAMS) {
            return Err(Error::new(ErrorKind::NotALog, "a log, but not one of streams")
                .at_path(wal.dir())
                .next("read it with Reader, or give the directory of another log"));
        }
        *index.lock() = pollster::block_on(table_of(&wal))?;
        let shared = Shared { wal, index, record_bytes_max: 0, note_bytes_max: 0 };
        Ok(Streams { shared: Arc::new(shared) })
    }

    /// Opens the log by `open`, which gets the options to do it with.
    pub(crate) async fn over<F: Future<Output = Result<(Wal, Recovery)>>>(
        options: Options,
        open: impl FnOnce(Options) -> F,
    ) -> Result<(Streams, Recovery)> {
        let invalid = |what: &str| {
            let next = "change the options";
            Err(Error::new(ErrorKind::InvalidInput, what).next(next))
        };
        if options.metadata.is_some() {
            return invalid("a log of streams has metadata of its own");
        }
        if options.start != Start::Beginning {
            return invalid("a log of streams is read from its beginning");
        }
        if !options.retention.is_unlimited() {
            return invalid("records of streams are released by their owners, not by retention");
        }
        options.check()?;
        let record_bytes_max = options.record_bytes_max;
        let note_bytes_max = (options.segment_bytes / NOTE_PART) as usize;
        let index = Arc::<Index>::default();
        let observer = Arc::clone(&index) as Arc<dyn Observer>;
        let options = options.for_layer(note::STREAMS, entry::RECORD_OVERHEAD_BYTES, observer);
        let (wal, recovery) = open(options).await?;
        let table = table_of(&wal).await.and_then(|table| {
            match table.note_bytes_with(0, 0) <= note_bytes_max {
                true => Ok(table),
                false => Err(too_many(wal.dir())),
            }
        });
        match table {
            Ok(table) => *index.lock() = table,
            Err(error) => {
                let _ = wal.close().await;
                return Err(error);
            }
        }
        let shared = Arc::new(Shared { wal, index, record_bytes_max, note_bytes_max });
        shared.let_go();
        Ok((Streams { shared }, recovery))
    }

    /// The stream of this name, which is created if there is none. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for a name that is empty or longer than 255 bytes; [`ErrorKind::TooLarge`] if there
    /// are so many streams that what the log has to know of them would take more than a quarter of a segment: 64 bytes and
    /// the name of each; those of [`Wal::append`].
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the stream may or may not be there.
    pub async fn stream(&self, name: &str) -> Result<NamedStream> {
        loop {
            if let Some(stream) = self.get(name) {
                return Ok(stream);
            }
            if !table::is_name(name) {
                let what = format!("the name of a stream of {} bytes", name.len());
                let next = "give it 1 to 255 bytes";
                return Err(Error::new(ErrorKind::InvalidInput, what).next(next));
            }
            let _creating = self.shared.creates(name)?;
            // It is there then, unless somebody removes it at once.
            self.shared.append(entry::create(name)).await?;
        }
    }

    /// The stream of this name, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<NamedStream> {
        let table = self.shared.index.lock();
        let id = table.id_of(name)?;
        let name = Arc::clone(&table.stream(id).ok()?.name);
        drop(table);
        Some(NamedStream::new(Arc::clone(&self.shared), id, name))
    }

    /// All streams, in the order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<StreamInfo> {
        let table = self.shared.index.lock();
        table.streams().map(|(_, stream)| info(stream)).collect()
    }

    /// The stream whose first record keeps the oldest segment of the log; `None` if no stream has any.
    #[must_use]
    pub fn oldest(&self) -> Option<StreamInfo> {
        self.shared.index.lock().oldest().map(info)
    }

    /// Removes a stream with all its records. Durable when it returns. One of the same name that is created later is
    /// another, and begins at 1.
    ///
    /// In a log of fixed size it needs room as an append does: where there is none, release the stream's records first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is none; those of [`Wal::append`].
    ///
    /// # Cancel safety
    ///
    /// Dropped early, the stream may be gone or not.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let id = self.shared.index.lock().id_of(name).ok_or_else(|| no_stream(name))?;
        self.shared.append(entry::remove(id)).await?;
        self.shared.let_go();
        Ok(())
    }

    /// Appends records to several streams; they become durable together: after a crash all of them are there, or none.
    /// Gives their indexes, each in its stream.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for a stream of another log; those of [`NamedStream::append`], for the batch as a whole.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its first poll, nothing is appended. Dropped later, the records may still become durable.
    pub async fn append_batch<'a, R: Into<Payload<'a>>>(
        &self,
        records: impl IntoIterator<Item = (&'a NamedStream, R)>,
    ) -> Result<Vec<u64>> {
        let (mut streams, mut entries) = (Vec::new(), Vec::new());
        for (stream, record) in records {
            if !stream.is_of(&self.shared) {
                let what = format!("the stream {:?} is of another log", stream.name());
                let next = "nothing was appended: ask this log for its stream";
                return Err(Error::new(ErrorKind::InvalidInput, what).next(next));
            }
            stream.there()?;
            entries.push(self.shared.record(stream.id(), record.into())?);
            streams.push(stream);
        }
        let indexes = self.shared.append_batch(entries).await?;
        let table = self.shared.index.lock();
        let each = streams.into_iter().zip(indexes);
        each.map(|(stream, at)| index_of(&table, stream.id(), stream.name(), at)).collect()
    }

    /// Waits until everything that was accepted before is durable: see [`Wal::sync`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn sync(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        self.shared.wal.sync()
    }

    /// What the log has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.wal.stats()
    }

    /// Copies the log to `to` while appends go on: see [`Wal::backup`]. The copy opens as a log of streams.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<Backup> {
        self.shared.wal.backup(to).await
    }

    /// Closes the log for all its handles, and writes down what was released: see [`Wal::close`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// As there.
    pub async fn close(&self) -> Result<()> {
        self.shared.wal.close().await.map(drop)
    }
}

impl Shared {
    /// Appends an entry; gives its index in the log.
    async fn append(&self, data: Bytes) -> Result<u64> {
        let at = self.wal.append(data).await?;
        self.index.sound().map(|()| at)
    }

    /// The entry for a record.
    fn record(&self, id: u64, record: Payload<'_>) -> Result<Bytes> {
        if record.len() > self.record_bytes_max {
            let (len, max) = (record.len(), self.record_bytes_max);
            let what = format!("a record of {len} bytes; the limit is {max}");
            let next = "split it, or raise Options::record_bytes_max";
            return Err(Error::new(ErrorKind::TooLarge, what).next(next));
        }
        Ok(entry::record(id, record.as_slice()))
    }

    /// The same for several that become durable together.
    async fn append_batch(&self, data: Vec<Bytes>) -> Result<Range<u64>> {
        let indexes = self.wal.append_batch(data).await?;
        self.index.sound().map(|()| indexes)
    }

    /// Keeps room in notes for one more stream, until it is there.
    fn creates(&self, name: &str) -> Result<Creating<'_>> {
        let mut creating = self.index.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let (names, bytes) = (creating.0 + 1, creating.1 + name.len());
        if self.index.lock().note_bytes_with(names, bytes) > self.note_bytes_max {
            return Err(too_many(self.wal.dir()));
        }
        *creating = (names, bytes);
        Ok(Creating { index: &self.index, bytes: name.len() })
    }

    /// Releases entries of the log that no stream wants any more, if segments go by that.
    fn let_go(&self) {
        let unwanted = self.index.lock().releasable();
        self.wal.let_go_soon(unwanted);
    }
}

/// A stream that is being created.
struct Creating<'a> {
    index: &'a Index,
    bytes: usize,
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        let mut creating = self.index.creating.lock().unwrap_or_else(PoisonError::into_inner);
        *creating = (creating.0 - 1, creating.1 - self.bytes);
    }
}

async fn start(dir: &Path, options: Options, how: How) -> Result<(Streams, Recovery)> {
    let opened = Streams::over(options, |options| wal::start(dir, options, how)).await;
    opened.map_err(|error| if error.path().is_none() { error.at_path(dir) } else { error })
}

/// What notes and entries say that are there, of a log of streams.
async fn table_of(wal: &Wal) -> Result<Table> {
    let Notes { first, last, indexes } = wal.notes();
    let base = wal.first_index() - 1;
    let begun = Table::new(base, first.as_deref(), last.as_deref(), indexes);
    let mut table = begun.map_err(|why| not_of_streams(base, &why))?;
    let mut entries = wal.read(..);
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        table.take(entry.index, &entry.data).map_err(|why| not_of_streams(entry.index, &why))?;
    }
    table.finish().map_err(|why| not_of_streams(wal.durable_index(), &why))?;
    Ok(table)
}

fn too_many(dir: &Path) -> Error {
    let what = "there are too many streams for segments of this size";
    Error::new(ErrorKind::TooLarge, what)
        .at_path(dir)
        .next("remove streams, or raise Options::segment_bytes")
}

/// The index of the record in the log's entry `at`.
fn index_of(table: &Table, id: u64, name: &str, at: u64) -> Result<u64> {
    match table.index_at(id, at) {
        Ok(Some(index)) => Ok(index),
        Ok(None) => {
            let what = "the record was appended, and somebody has released it already";
            Err(Error::new(ErrorKind::Released, what).next("its index is not known any more"))
        }
        Err(Gone) => Err(no_stream(name)),
    }
}

fn info(stream: &table::Stream) -> StreamInfo {
    let (first_index, last_index) = (stream.released + 1, stream.next - 1);
    StreamInfo { name: Arc::clone(&stream.name), first_index, last_index }
}

fn no_stream(name: &str) -> Error {
    let what = format!("there is no stream {name:?}");
    Error::new(ErrorKind::NotFound, what).next("create it: Streams::stream")
}

fn not_of_streams(at: u64, why: &str) -> Error {
    let what = format!("entry {at} is none of a log of streams: {why}");
    let next = "nothing was changed: look at it with `seawal cat`, and restore the log from a copy";
    Error::new(ErrorKind::Damaged, what).next(next)
}

#[cfg(test)]
mod tests;
