//! A full disk is not a failure: appends fail and take no index, nothing acked is lost, reads go on, and appends work
//! again when there is room.

use super::disk::Disk;
use super::image::Kind;
use crate::common::require;
use seawal::{Backend, Error, Options, Result, SyncMethod, Ticket, Wal};
use std::ops::Range;
use std::path::PathBuf;

/// What the ballast leaves to the log.
const FREE_BYTES: u64 = 24 << 20;
const SEGMENT_BYTES: u64 = 1 << 20;
/// Appends that wait at a time: some of them fail together.
const WINDOW: usize = 8;
/// Appends that are refused, one after another, before there is room.
const REFUSALS: usize = 5;

const HEAD_BYTES: usize = 8;

/// The record that was sent as the `serial`th, about 20 KB. It says so itself.
fn payload(serial: u64) -> Vec<u8> {
    let mut bytes = vec![serial as u8; 16_000 + (serial * 37 % 8_000) as usize];
    bytes[..HEAD_BYTES].copy_from_slice(&serial.to_le_bytes());
    bytes
}

/// The number of a record, which is as it was sent.
fn serial(payload_found: &[u8]) -> u64 {
    let head = payload_found[..HEAD_BYTES].try_into().unwrap();
    let serial = u64::from_le_bytes(head);
    assert!(payload_found == payload(serial), "record {serial} changed");
    serial
}

/// A log on a disk that gets full.
struct Log {
    disk: Disk,
    kind: Kind,
    options: Options,
    wal: Option<Wal>,
    /// Records sent so far.
    sent: u64,
    /// Those that were acked, in the order of their indexes.
    acked: Vec<u64>,
}

/// What was done.
#[derive(Debug)]
pub(crate) struct Done {
    /// What was acked when the disk was full for the first time.
    pub bytes: u64,
    /// Times that the log failed for good, and had to be opened again before it took appends.
    pub poisoned: u64,
    /// Records that were acked when nothing was free any more.
    pub without_room: usize,
}

/// Nothing if the machine that runs the tests cannot do it.
pub(crate) fn fill(kind: Kind, backend: Backend, method: SyncMethod) -> Option<Done> {
    let disk = match Disk::new(kind) {
        Ok(disk) => disk,
        Err(why) => {
            require::skip("loop", &why);
            return None;
        }
    };
    let options = Options::new().backend(backend).sync_method(method).segment_bytes(SEGMENT_BYTES);
    disk.leave(FREE_BYTES);
    let mut log = Log { disk, kind, options, wal: None, sent: 0, acked: Vec::new() };
    log.open();

    // The disk gets full, and room comes back.
    let poisoned = log.append_until_full() | log.is_refused_again();
    log.check();
    let bytes = log.acked.iter().map(|&serial| payload(serial).len() as u64).sum();
    log.disk.make_room();
    if poisoned {
        log.reopen();
    }
    log.is_taken(100);
    let mut done = Done { bytes, poisoned: poisoned.into(), without_room: 0 };

    // Once more, and now all is taken at once: appends go on in what the log has reserved. The log is opened on the
    // full disk, and again after the machine was off.
    log.disk.leave_nothing();
    let before = log.acked.len();
    let poisoned = log.append_until_full() | log.is_refused_again();
    done.poisoned += u64::from(poisoned);
    done.without_room = log.acked.len() - before;
    log.reopen();
    log.close();
    log.disk.remount();
    log.open();
    log.check();
    log.disk.make_room();
    log.is_taken(100);
    log.close();
    log.disk.remount();
    log.open();
    log.check();
    Some(done)
}

impl Log {
    fn wal(&self) -> &Wal {
        self.wal.as_ref().expect("it is open")
    }

    fn dir(&self) -> PathBuf {
        self.disk.dir().join("log")
    }

    /// Opens it, and finds what was acked. Of records that a log refused when it failed for good, the first may be
    /// there too.
    fn open(&mut self) {
        let (wal, recovery) =
            Wal::open_or_create_blocking(self.dir(), self.options.clone()).unwrap();
        let (last, acked) = (recovery.last_index.unwrap_or(0), self.acked.len() as u64);
        assert!(last >= acked, "{acked} were acked, {last} are there");
        assert!(
            last == acked || self.kind.copies_on_write(),
            "{acked} were acked, {last} are there"
        );
        for entry in wal.read(acked + 1..).blocking() {
            let serial = serial(&entry.unwrap().data);
            assert!(serial < self.sent && self.acked.last().is_none_or(|&last| last < serial));
            self.acked.push(serial);
        }
        self.wal = Some(wal);
    }

    fn close(&mut self) {
        let wal = self.wal.take().expect("it is open");
        if let Err(error) = wal.close_blocking() {
            assert!(error.is_poisoned() && self.kind.copies_on_write(), "{error}");
        }
    }

    fn reopen(&mut self) {
        self.close();
        self.open();
    }

    /// Sends a record; gives its number.
    fn submit(&mut self) -> (u64, Result<Ticket>) {
        self.sent += 1;
        (self.sent - 1, self.wal().submit_blocking(payload(self.sent - 1)))
    }

    /// A record was acked, or not; its index is the next.
    fn hear(&mut self, serial: u64, outcome: Result<Range<u64>>) -> Result<()> {
        let indexes = outcome?;
        self.acked.push(serial);
        let index = self.acked.len() as u64;
        assert_eq!(indexes, index..index + 1);
        Ok(())
    }

    /// The failure is a full disk. Says whether it is one for good, as it may be where blocks are not overwritten in
    /// place.
    fn is_for_good(&self, error: &Error) -> bool {
        assert!(error.is_no_space() || error.is_poisoned(), "{error}");
        assert!(!error.is_poisoned() || self.kind.copies_on_write(), "{error}");
        error.is_poisoned()
    }

    /// Appends, several at a time, until some fail; says whether the log failed for good. Who is accepted when those
    /// before have failed takes their index, and may find room.
    fn append_until_full(&mut self) -> bool {
        loop {
            let tickets: Vec<_> = (0..WINDOW).map(|_| self.submit()).collect();
            let mut failed = None;
            for (serial, ticket) in tickets {
                let outcome = ticket.and_then(Ticket::wait_blocking);
                failed = self.hear(serial, outcome).err().or(failed);
            }
            if let Some(error) = failed {
                println!("full after {}: {error}", self.acked.len());
                return self.is_for_good(&error);
            }
        }
    }

    /// Appends fail, one after another, and take no index. Says whether the log failed for good.
    fn is_refused_again(&mut self) -> bool {
        let mut poisoned = false;
        let mut refusals = 0;
        while refusals < REFUSALS {
            let (serial, ticket) = self.submit();
            // The segment may have room for a small one.
            if let Err(error) = self.hear(serial, ticket.and_then(Ticket::wait_blocking)) {
                refusals += 1;
                poisoned |= self.is_for_good(&error);
            }
            if !poisoned {
                assert_eq!(self.wal().last_index(), self.acked.len() as u64);
                assert_eq!(self.wal().durable_index(), self.acked.len() as u64);
            }
        }
        poisoned
    }

    /// Appends work, and go on behind the last that was acked.
    fn is_taken(&mut self, count: u64) {
        for _ in 0..count {
            let (serial, ticket) = self.submit();
            self.hear(serial, ticket.and_then(Ticket::wait_blocking)).unwrap();
        }
    }

    /// Every record that was acked can be read, is what was sent, and nothing else is there.
    fn check(&self) {
        let mut found = Vec::new();
        for (index, entry) in (1..).zip(self.wal().read(..).blocking()) {
            let entry = entry.unwrap();
            assert_eq!(entry.index, index);
            found.push(serial(&entry.data));
        }
        assert_eq!(found, self.acked);
    }
}
