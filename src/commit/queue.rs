//! From callers to the committer: room, an index, a place in the order.
//!
//! The index is given out under the same lock as the place in the queue, so the order of indexes is the order of
//! the log. Room is counted in bytes ([`RECORD_OVERHEAD_BYTES`] for each record on top of its payload) and is given
//! back when the group is done; whoever finds none waits, first come first served.

use super::ticket::{self, Reply, Ticket};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Record;
use crate::format::encode::entry_frame_bytes_max;
use crate::inbox::Inbox;
use crate::live::Live;
use crate::types::{Entry, EntryKind, HardState, INDEXES, Position, Snapshot};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a record counts in the queue besides its payload: about what it takes in memory.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// What the committer finds in the queue.
#[derive(Debug)]
pub(crate) enum Request {
    Append(Append),
    /// Answered with the durable index, or the first error.
    Close(Option<tokio::sync::oneshot::Sender<Result<u64>>>),
}

/// Records that go into one group, all or nothing.
#[derive(Debug)]
pub(crate) struct Append {
    pub records: Vec<Record>,
    /// They take at most this much on disk.
    pub bytes_max: u64,
    pub reply: Reply,
    _room: OwnedSemaphorePermit,
}

/// What a caller wants appended.
#[derive(Debug)]
pub(crate) enum Content {
    /// Payloads, which get the next indexes.
    Plain(Vec<Bytes>),
    /// etcd's Save: entries that know their index and term, then a hard state unless it is empty.
    Save(HardState, Vec<Entry>),
    Snapshot(Snapshot),
}

/// The callers' end of the queue.
#[derive(Debug)]
pub(crate) struct Queue {
    order: Mutex<Order>,
    pub inbox: Inbox<Request>,
    room: Arc<Semaphore>,
    room_bytes: usize,
    record_bytes_max: usize,
}

/// The log as it will be when everything accepted is durable.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The accepted entries; their positions are not known yet and mean nothing here.
    pub live: Live,
    /// The highest term seen: that of plain appends.
    pub term: u64,
}

impl Order {
    fn accept(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Entry(entry) => {
                    self.term = self.term.max(entry.term);
                    self.live
                        .push(entry.index, entry.term, Position::default())
                        .expect("entries with a gap are refused before");
                }
                Record::State(state) => self.term = self.term.max(state.term),
                Record::Snapshot(snapshot) => {
                    self.term = self.term.max(snapshot.term);
                    self.live.snapshot(snapshot.index, snapshot.term);
                }
                Record::Metadata(_) => {}
            }
        }
    }
}

impl Queue {
    pub(crate) fn new(room_bytes: usize, record_bytes_max: usize) -> Queue {
        Queue {
            order: Mutex::new(Order { live: Live::after(0), term: 1 }),
            inbox: Inbox::new(),
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            record_bytes_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last index that was given out.
    pub(crate) fn last_index(&self) -> u64 {
        self.lock().live.next() - 1
    }

    /// The order as recovery found it, before anything is appended.
    pub(crate) fn set_order(&self, order: Order) {
        *self.lock() = order;
    }

    /// Waits for room and gives `content` its place.
    pub(crate) async fn append(&self, content: Content) -> Result<Ticket> {
        let bytes = content.bytes(self.record_bytes_max)?;
        // One append may be larger than all the room: then it waits until it is alone.
        let permits = u32::try_from(bytes.min(self.room_bytes)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room)
            .acquire_many_owned(permits)
            .await
            .expect("the semaphore is never closed");
        self.place(content, room)
    }

    fn place(&self, content: Content, room: OwnedSemaphorePermit) -> Result<Ticket> {
        let mut order = self.lock();
        let next = order.live.next();
        content.check_indexes(next)?;
        let (records, indexes) = match content {
            Content::Plain(payloads) => {
                let term = order.term;
                let entry = |(data, index)| {
                    Record::Entry(Entry { index, term, kind: EntryKind::Normal, data })
                };
                let records: Vec<Record> = payloads.into_iter().zip(next..).map(entry).collect();
                let end = next + records.len() as u64;
                (records, next..end)
            }
            Content::Save(state, entries) => {
                check_entries(&entries, &order.live)?;
                let start = entries.first().map_or(next, |entry| entry.index);
                let end = start + entries.len() as u64;
                let state = (!state.is_empty()).then_some(Record::State(state));
                (entries.into_iter().map(Record::Entry).chain(state).collect(), start..end)
            }
            Content::Snapshot(snapshot) => {
                let at = snapshot.index;
                (vec![Record::Snapshot(snapshot)], at..at)
            }
        };
        if let Some(error) = self.inbox.ended() {
            return Err(error);
        }
        if records.is_empty() {
            return Ok(Ticket::empty(next));
        }
        order.accept(&records);
        let bytes_max = records.iter().map(record_bytes_max).sum();
        let (ticket, reply) = ticket::pair(indexes);
        self.inbox.send(Request::Append(Append { records, bytes_max, reply, _room: room }))?;
        Ok(ticket)
    }

    /// Takes back everything that waits: its indexes are given out again, from `order` on.
    pub(crate) fn take_back(&self, order: Order) -> Vec<Request> {
        let mut current = self.lock();
        *current = order;
        std::iter::from_fn(|| self.inbox.try_receive()).collect()
    }
}

impl Content {
    /// Whether the indexes that it takes, from `next` on, exist.
    fn check_indexes(&self, next: u64) -> Result<()> {
        let last = match self {
            Content::Plain(payloads) => match payloads.len() {
                0 => 0,
                len => next.saturating_add(len as u64 - 1),
            },
            Content::Save(_, entries) => entries.last().map_or(0, |entry| entry.index),
            Content::Snapshot(snapshot) => snapshot.index,
        };
        if last > *INDEXES.end() {
            let what = format!("index {last} is beyond the last that a log can hold");
            return Err(Error::new(ErrorKind::InvalidInput, what).next("start a new log"));
        }
        Ok(())
    }

    /// What it counts in the queue; refuses what is too large.
    fn bytes(&self, record_bytes_max: usize) -> Result<usize> {
        let (records, payload, largest) = match self {
            Content::Plain(payloads) => sizes(payloads.iter().map(Bytes::len)),
            Content::Save(_, entries) => sizes(entries.iter().map(|entry| entry.data.len())),
            Content::Snapshot(snapshot) => sizes(std::iter::once(snapshot_bytes_max(snapshot))),
        };
        if largest > record_bytes_max {
            let what = format!("a record of {largest} bytes; the limit is {record_bytes_max}");
            return Err(Error::new(ErrorKind::TooLarge, what)
                .next("split it, or raise Options::record_bytes_max"));
        }
        if u32::try_from(records).is_err() {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "more than 4,294,967,295 records in one batch",
            ));
        }
        Ok(payload + (records + 1) * RECORD_OVERHEAD_BYTES)
    }
}

fn sizes(lens: impl Iterator<Item = usize>) -> (usize, usize, usize) {
    lens.fold((0, 0, 0), |(count, sum, max), len| (count + 1, sum + len, max.max(len)))
}

/// Entries must follow each other, and leave no gap to what is there.
fn check_entries(entries: &[Entry], live: &Live) -> Result<()> {
    let invalid = |what: String| {
        Err(Error::new(ErrorKind::InvalidInput, what).next("nothing was appended: fix the entries"))
    };
    let allowed = live.base() + 1..=live.next();
    if let Some(first) = entries.first()
        && !allowed.contains(&first.index)
    {
        let (from, to) = allowed.into_inner();
        return invalid(format!("entry {} does not follow: it may be {from} to {to}", first.index));
    }
    for pair in entries.windows(2) {
        if pair[0].index.checked_add(1) != Some(pair[1].index) {
            return invalid(format!("entry {} follows entry {}", pair[1].index, pair[0].index));
        }
    }
    Ok(())
}

fn record_bytes_max(record: &Record) -> u64 {
    match record {
        Record::Entry(entry) => entry_frame_bytes_max(entry.data.len()),
        Record::Metadata(data) => entry_frame_bytes_max(data.as_ref().map_or(0, Bytes::len)),
        Record::State(_) => entry_frame_bytes_max(0),
        Record::Snapshot(snapshot) => entry_frame_bytes_max(snapshot_bytes_max(snapshot)),
    }
}

/// Index and term, and a tag and a number for each member.
fn snapshot_bytes_max(snapshot: &Snapshot) -> usize {
    let members = snapshot.conf_state.as_ref().map_or(0, |conf| {
        conf.voters.len()
            + conf.learners.len()
            + conf.voters_outgoing.len()
            + conf.learners_next.len()
    });
    32 + members * 11
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(indexes: &[u64]) -> Vec<Entry> {
        let entry = |&index| Entry { index, term: 1, ..Entry::default() };
        indexes.iter().map(entry).collect()
    }

    fn append(queue: &Queue, content: Content) -> Result<Ticket> {
        pollster::block_on(queue.append(content))
    }

    #[test]
    fn save_with_a_gap_takes_no_index() {
        let queue = Queue::new(1 << 20, 1 << 10);
        for bad in [&[2][..], &[1, 3], &[0]] {
            let error =
                append(&queue, Content::Save(HardState::default(), entries(bad))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
        let ticket = append(&queue, Content::Plain(vec![Bytes::new()])).unwrap();
        assert_eq!(ticket.indexes(), 1..2);
    }

    #[test]
    fn index_beyond_the_last_is_refused() {
        let queue = Queue::new(1 << 20, 1 << 10);
        let snapshot = |index| Content::Snapshot(Snapshot { index, term: 1, conf_state: None });
        let error = append(&queue, snapshot(u64::MAX)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        drop(append(&queue, snapshot(u64::MAX - 2)).unwrap());
        let ticket = append(&queue, Content::Plain(vec![Bytes::new()])).unwrap();
        assert_eq!(ticket.indexes(), u64::MAX - 1..u64::MAX);
        let error = append(&queue, Content::Plain(vec![Bytes::new()])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn save_may_go_back() {
        let queue = Queue::new(1 << 20, 1 << 10);
        let save =
            |indexes: &[u64]| append(&queue, Content::Save(HardState::default(), entries(indexes)));
        drop(save(&[1, 2, 3]).unwrap());
        assert_eq!(save(&[2]).unwrap().indexes(), 2..3);
        assert!(save(&[4]).is_err());
    }

    #[test]
    fn nothing_to_save_is_durable_at_once() {
        let queue = Queue::new(1 << 20, 1 << 10);
        let ticket = append(&queue, Content::Save(HardState::default(), Vec::new())).unwrap();
        assert_eq!(pollster::block_on(ticket).unwrap(), 1..1);
    }

    #[test]
    fn record_above_the_limit_is_refused() {
        let queue = Queue::new(1 << 20, 1 << 10);
        let content = Content::Plain(vec![Bytes::from(vec![0; 1025])]);
        assert_eq!(append(&queue, content).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn what_is_taken_back_gives_its_index_back() {
        let queue = Queue::new(1 << 20, 1 << 10);
        let first = append(&queue, Content::Plain(vec![Bytes::new(); 3])).unwrap();
        drop(queue.take_back(Order { live: Live::after(0), term: 1 }));
        assert!(pollster::block_on(first).is_err());
        let again = append(&queue, Content::Plain(vec![Bytes::new()])).unwrap();
        assert_eq!(again.indexes(), 1..2);
    }
}
