//! One life of an open log: callers that do what the plan lets them, side by side, and tell the oracle all they hear.

use crate::coverage::{Coverage, Met};
use crate::image::{Call, Image};
use crate::oracle::{CallId, Follower, Oracle};
use crate::plan::{FIXED_RECORD_BYTES_MAX, Plan};
use crate::story::Story;
use bytes::Bytes;
use futures_util::future::{Either, join_all, select};
use seawal::testing::Sim;
use seawal::{
    Durability, Entry, Error, ErrorKind, HardState, Result, Snapshot, Ticket, Wal, WhenFull,
};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::ffi::OsString;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// What a life has to do with.
pub(crate) struct Life {
    pub sim: Sim,
    pub dir: &'static str,
    pub story: Rc<Story>,
    pub wal: Wal,
    /// What its appends wait for.
    pub level: Durability,
    pub plan: Rc<Plan>,
    pub rng: RefCell<fastrand::Rng>,
    pub oracle: Rc<RefCell<Oracle>>,
    pub coverage: Rc<RefCell<Coverage>>,
    /// Bytes of the log itself, for payloads that look like it.
    pub specimen: Bytes,
    /// Calls that are left to be made.
    pub calls_left: Cell<usize>,
    pub ends_with_close: bool,
    /// Faults that had struck before it began.
    pub faults_before: u64,
    /// A call was refused for want of space.
    pub space_was_short: Cell<bool>,
    /// What is being taken back, and whether that has its place in the order.
    pub truncating: RefCell<Vec<(u64, bool)>>,
    /// Files in the directory when it began.
    pub files_at_first: usize,
}

/// While entries are being taken back.
struct Truncating<'a> {
    life: &'a Life,
    index: u64,
}

impl<'a> Truncating<'a> {
    fn new(life: &'a Life, index: u64) -> Truncating<'a> {
        life.truncating.borrow_mut().push((index, false));
        Truncating { life, index }
    }
}

impl Drop for Truncating<'_> {
    fn drop(&mut self) {
        let mut all = self.life.truncating.borrow_mut();
        let at = all.iter().position(|(index, _)| *index == self.index).expect("it is there");
        all.swap_remove(at);
    }
}

/// A call after it was polled for the first time.
struct Made<T> {
    /// If it was accepted.
    id: Option<CallId>,
    /// The index after the last one before it was.
    first: u64,
    outcome: Result<T>,
}

impl Life {
    /// The segments, those that were or will be some included; not the copies of what was cut.
    fn files(&self) -> Vec<OsString> {
        let names = self.sim.list_dir(self.dir).unwrap_or_default();
        let is_copy = |name: &OsString| name.to_string_lossy().ends_with(".broken");
        names.into_iter().filter(|name| !is_copy(name)).collect()
    }

    /// What the log begins behind.
    pub(crate) fn base(&self) -> u64 {
        self.wal.first_index() - 1
    }

    /// Entries are being taken back, and it is not known yet whether they are gone.
    pub(crate) fn is_truncating(&self) -> bool {
        self.truncating.borrow().iter().any(|(_, accepted)| *accepted)
    }

    /// Ends when all calls are made, or none can succeed any more; then the log is closed, if it is to be. Says whether
    /// that went well. Meanwhile some follow the log.
    pub(crate) async fn run(&self) -> bool {
        let followers = self.random(|rng| rng.usize(..3));
        let followers = join_all((0..followers).map(|_| self.follow()));
        let work = async {
            // Nothing but a release ends the wait of a full log.
            match select(pin!(self.calls()), pin!(self.keep_room())).await {
                Either::Left(_) => {}
                Either::Right((never, _)) => match never {},
            }
            self.ends_with_close && self.close().await
        };
        match select(pin!(work), pin!(followers)).await {
            Either::Left((closed, followers)) => {
                if closed || self.oracle.borrow().has_failed() {
                    // They end by themselves.
                    followers.await;
                }
                closed
            }
            Either::Right((_, work)) => work.await,
        }
    }

    async fn calls(&self) {
        let callers = join_all((0..self.plan.callers).map(|_| self.caller()));
        if self.plan.full_disk {
            let mut disk = pin!(self.disk_that_fills());
            match select(pin!(callers), &mut disk).await {
                Either::Left(_) => {}
                Either::Right(((), callers)) => drop(callers.await),
            }
            self.sim.set_free_bytes(None);
            // There is room, so it goes on without a reopen, as soon as what failed before was answered.
            self.sim.sleep(Duration::from_millis(5)).await;
            let record = self.record();
            let append = self.wal.append(record.clone());
            let made = self.make(Call::Append(vec![record]), append).await;
            let is_full = |error: &Error| error.kind() == ErrorKind::Full && self.may_be_full();
            let done = made.outcome.as_ref().err().is_none_or(is_full);
            assert!(done, "P5: there is room again: {:?}", made.outcome);
            self.tell(&made, self.level);
            self.meet_if(Met::RoomAgain, self.space_was_short.get() && made.outcome.is_ok());
        } else {
            callers.await;
        }
        if self.plan.fixed.is_some() {
            // What was given up may still wait for room.
            let _ = self.wal.sync().await;
        }
    }

    fn may_be_full(&self) -> bool {
        self.plan.fixed.is_some_and(|(_, when_full)| when_full == WhenFull::Fail)
    }

    /// In a log of fixed size, releases what there is, now and then.
    async fn keep_room(&self) -> Infallible {
        let Some((files_max, when_full)) = self.plan.fixed else {
            return pending().await;
        };
        let is_at_rest = || self.sim.in_flight().is_empty();
        loop {
            self.pause(20_000).await;
            let files = self.files();
            let allowed = self.files_at_first.max(files_max as usize);
            assert!(
                files.len() <= allowed,
                "{allowed} files there may be, and there are {files:?}"
            );
            let durable = self.wal.durable_index();
            if when_full == WhenFull::Wait && is_at_rest() && durable < self.wal.last_index() {
                self.sim.sleep(Duration::from_millis(4)).await;
                let waits = is_at_rest() && self.wal.durable_index() == durable;
                self.meet_if(Met::FullLogWaited, waits && durable < self.wal.last_index());
            }
            let index = self.wal.durable_index();
            if index > self.base() {
                let most = self.random(|rng| rng.bool());
                let first = self.wal.first_index();
                let index = if most { index } else { self.random(|rng| rng.u64(first..=index)) };
                self.release(index).await;
            }
        }
    }

    async fn close(&self) -> bool {
        match self.wal.close().await {
            Ok(index) => {
                let mut oracle = self.oracle.borrow_mut();
                oracle.closed(self.base(), true);
                assert_eq!(
                    index,
                    oracle.head().last_index(),
                    "what close() says is the last index"
                );
                true
            }
            Err(error) => {
                self.story.tell(|| format!("not closed: {error}"));
                assert!(self.is_faulty(), "nothing was made to fail, and closing did: {error}");
                false
            }
        }
    }

    async fn disk_that_fills(&self) {
        loop {
            self.pause(400).await;
            self.sim.set_free_bytes(Some(self.random(|rng| rng.u64(..40 << 10))));
            self.pause(4000).await;
            self.sim.set_free_bytes(None);
        }
    }

    async fn caller(&self) {
        let mut tickets: Vec<(CallId, Ticket)> = Vec::new();
        while self.calls_left.get() > 0 {
            self.calls_left.set(self.calls_left.get() - 1);
            self.coverage.borrow_mut().calls += 1;
            self.step(&mut tickets).await;
            if self.oracle.borrow().has_failed() {
                // From now on, everything is.
                for _ in 0..2 {
                    let outcome = self.wal.append(self.record()).await;
                    let error = outcome.expect_err("P3: reported after a failure");
                    assert!(error.is_poisoned(), "{error}");
                }
                break;
            }
            if self.random(|rng| rng.u8(..3)) == 0 {
                self.pause(if self.plan.idles { 6000 } else { 300 }).await;
            }
        }
        for (id, ticket) in tickets {
            self.wait_for(id, ticket).await;
        }
    }

    async fn step(&self, tickets: &mut Vec<(CallId, Ticket)>) {
        let raft = !self.plan.indexes_are_unique;
        // A log of fixed size is to become full.
        let releases = self.plan.releases && self.plan.fixed.is_none();
        if releases && self.random(|rng| rng.u8(..8)) == 0 {
            return self.release_some().await;
        }
        if self.plan.truncations && self.random(|rng| rng.u8(..8)) == 0 {
            return self.truncate().await;
        }
        match self.random(|rng| rng.u8(..25)) {
            0..6 => self.append(self.records(1), self.level).await,
            6..8 => {
                let count = self.random(|rng| rng.usize(2..6));
                self.append(self.records(count), self.level).await;
            }
            8..11 => {
                if let Some(ticket) = self.submit().await {
                    tickets.push(ticket);
                }
            }
            11 => self.try_append(tickets),
            12 | 13 => {
                if !tickets.is_empty() {
                    let at = self.random(|rng| rng.usize(..tickets.len()));
                    let (id, ticket) = tickets.swap_remove(at);
                    self.wait_for(id, ticket).await;
                }
            }
            14 => {
                self.meet(Met::WrittenLevel);
                self.append(self.records(1), Durability::Written).await;
            }
            15 => self.append(self.records(1), Durability::Durable).await,
            16 => self.barrier().await,
            17 | 18 => self.read().await,
            19 if self.plan.cancels => self.cancel().await,
            20 | 21 if raft => self.save().await,
            22 if raft => self.state().await,
            23 if raft => self.snapshot().await,
            24 => self.get().await,
            _ if !raft => self.wait_for_an_index().await,
            _ => self.pause(200).await,
        }
    }

    /// Follows a call from its first poll to its end. It is accepted when the last index moves, or, if it has none of its
    /// own, at once: those calls are made only where the queue is never full.
    async fn make<T>(&self, call: Call, future: impl Future<Output = Result<T>>) -> Made<T> {
        let mut future = pin!(future);
        let mut call = Some(call);
        let mut id = None;
        let mut first = 0;
        let outcome = poll_fn(|context| {
            let before = self.wal.last_index();
            let poll = future.as_mut().poll(context);
            let accepted = match &call {
                Some(Call::Append(records)) => {
                    self.wal.last_index() == before + records.len() as u64
                }
                // There may be nothing behind it any more: then it has no place of its own.
                Some(Call::Truncate { index, .. }) => {
                    before > *index && self.wal.last_index() == *index
                }
                Some(_) => !matches!(poll, Poll::Ready(Err(_))),
                None => false,
            };
            if accepted && let Some(mut call) = call.take() {
                if let Call::Truncate { index, may_be_released } = &mut call {
                    // Others may have released it since the call was made.
                    *may_be_released |= self.oracle.borrow().may_be_released(*index);
                    let mut all = self.truncating.borrow_mut();
                    all.iter_mut().filter(|(of, _)| *of == *index).for_each(|(_, is)| *is = true);
                }
                first = before + 1;
                id = Some(self.accept(call, first));
            }
            let waits = call.as_ref().is_some_and(|call| !matches!(call, Call::Truncate { .. }));
            self.meet_if(Met::QueueFull, waits && poll.is_pending());
            poll
        })
        .await;
        Made { id, first, outcome }
    }

    fn accept(&self, call: Call, first: u64) -> CallId {
        let records = match &call {
            Call::Append(records) | Call::Save { records, .. } => {
                records.iter().map(Bytes::len).collect()
            }
            _ => Vec::new(),
        };
        let id = {
            let first = self.plan.indexes_are_unique.then_some(first);
            self.oracle.borrow_mut().accept(call, first)
        };
        self.story.tell(|| format!("{id:?} accepted: {first}.. {records:?}"));
        id
    }

    /// Tells the oracle how a call ended that waits for this.
    fn tell<T>(&self, made: &Made<T>, durability: Durability) {
        match (&made.outcome, made.id) {
            (Ok(_), Some(id)) => self.reported(id, durability),
            (Ok(_), None) => panic!("a call was reported that had no place"),
            (Err(error), Some(id)) => self.failed(id, error),
            (Err(error), None) => self.refused(error),
        }
    }

    fn reported(&self, id: CallId, durability: Durability) {
        self.story.tell(|| format!("{id:?} {durability:?}"));
        let mut oracle = self.oracle.borrow_mut();
        match durability {
            Durability::Durable => oracle.durable(id),
            _ => oracle.written(id, self.sim.now()),
        }
    }

    /// Whether a fault has struck in this life.
    fn is_faulty(&self) -> bool {
        let mut oracle = self.oracle.borrow_mut();
        oracle.faulty |= self.sim.faults_met() > self.faults_before;
        oracle.faulty
    }

    fn failed(&self, id: CallId, error: &Error) {
        self.is_faulty();
        self.space_was_short.set(self.space_was_short.get() || error.is_no_space());
        self.story.tell(|| format!("{id:?} failed: {error}"));
        self.meet_if(Met::FullDisk, error.is_no_space());
        self.meet_if(Met::FullLogRefused, error.kind() == ErrorKind::Full);
        self.oracle.borrow_mut().failed(id, error);
    }

    fn refused(&self, error: &Error) {
        self.is_faulty();
        self.space_was_short.set(self.space_was_short.get() || error.is_no_space());
        self.story.tell(|| format!("refused: {error}"));
        self.meet_if(Met::FullDisk, error.is_no_space());
        self.oracle.borrow().refused(error);
    }

    async fn append(&self, mut records: Vec<Bytes>, level: Durability) {
        let wal = self.wal.with_durability(level);
        let call = Call::Append(records.clone());
        if records.len() == 1 {
            let record = records.remove(0);
            let made = self.make(call, wal.append(record)).await;
            if let Ok(index) = made.outcome {
                assert_eq!(index, made.first, "the index of an append");
            }
            self.tell(&made, level);
        } else {
            let count = records.len() as u64;
            let made = self.make(call, wal.append_batch(records)).await;
            if let Ok(indexes) = &made.outcome {
                assert_eq!(*indexes, made.first..made.first + count, "the indexes of a batch");
            }
            self.tell(&made, level);
        }
    }

    async fn submit(&self) -> Option<(CallId, Ticket)> {
        let count = self.random(|rng| rng.usize(1..3));
        let records = self.records(count);
        let call = Call::Append(records.clone());
        let made = self.make(call, self.wal.submit_batch(records)).await;
        match (made.outcome, made.id) {
            (Ok(ticket), Some(id)) => {
                let indexes = made.first..made.first + count as u64;
                assert_eq!(ticket.indexes(), indexes, "the indexes of a ticket");
                Some((id, ticket))
            }
            (Ok(_), None) => panic!("a ticket without a place"),
            (Err(error), Some(id)) => {
                self.failed(id, &error);
                None
            }
            (Err(error), None) => {
                self.refused(&error);
                None
            }
        }
    }

    fn try_append(&self, tickets: &mut Vec<(CallId, Ticket)>) {
        let record = self.record();
        match self.wal.try_append(record.clone()) {
            Ok(ticket) => {
                let id = self.accept(Call::Append(vec![record]), ticket.indexes().start);
                tickets.push((id, ticket));
            }
            Err(error) if error.kind() == ErrorKind::Full && self.plan.small_queue => {
                self.meet(Met::QueueFull);
            }
            Err(error) => self.refused(&error),
        }
    }

    async fn wait_for(&self, id: CallId, ticket: Ticket) {
        if self.random(|rng| rng.bool()) {
            match ticket.written().await {
                Ok(()) => self.reported(id, Durability::Written),
                Err(error) => return self.failed(id, &error),
            }
        }
        let indexes = ticket.indexes();
        match ticket.await {
            Ok(durable) => {
                assert_eq!(durable, indexes, "what becomes durable is what was accepted");
                self.reported(id, Durability::Durable);
            }
            Err(error) => self.failed(id, &error),
        }
    }

    /// Gives an append up before, while or after it is committed.
    async fn cancel(&self) {
        let records = self.records(1);
        let patience = self.pause(250);
        let append = self.append(records, self.level);
        let given_up = matches!(select(pin!(append), pin!(patience)).await, Either::Right(_));
        self.meet_if(Met::Cancelled, given_up);
    }

    async fn barrier(&self) {
        let last = self.oracle.borrow().last();
        match self.wal.sync().await {
            Ok(()) => {
                self.meet(Met::Barrier);
                // A call before it that was refused for want of space may not have been told yet.
                if let Some(id) = last.filter(|_| !self.plan.space_is_short) {
                    self.story.tell(|| format!("{id:?} synced"));
                    self.oracle.borrow_mut().synced(id);
                }
            }
            Err(error) => self.refused(&error),
        }
    }

    async fn wait_for_an_index(&self) {
        // One that was refused for want of space may never come.
        let last = self.wal.last_index();
        if last == 0 || self.plan.space_is_short {
            return;
        }
        let index = self.random(|rng| rng.u64(1..=last));
        match self.wal.wait_durable(index).await {
            Ok(()) => {
                self.story.tell(|| format!("index {index} durable"));
                self.oracle.borrow_mut().durable_index(index);
            }
            Err(error) => self.refused(&error),
        }
    }

    async fn read(&self) {
        let (first, last) = (self.wal.first_index(), self.wal.durable_index());
        let from = self.random(|rng| rng.u64(first..=last + 1));
        let count = self.random(|rng| rng.u64(1..20));
        let unique = self.plan.indexes_are_unique;
        let end = (last + 1).min(from + count);
        let mut entries = self.wal.with_durability(Durability::Durable).read(from..end);
        // Meanwhile what it reads may be released.
        let is_slow = self.may_release() && self.random(|rng| rng.bool());
        let mut next = from;
        while let Some(entry) = entries.next().await {
            match entry {
                Ok(entry) => {
                    self.meet(Met::ReadWhileWriting);
                    self.meet_if(Met::ReadOn, entry.index < self.wal.first_index());
                    assert_eq!(entry.index, next, "entries follow each other");
                    next += 1;
                    self.oracle.borrow_mut().read(&entry, unique);
                }
                Err(error) if error.kind() == ErrorKind::Replaced && !unique => return,
                Err(error) => {
                    return assert!(self.is_faulty(), "nothing was made to fail: {error}");
                }
            }
            if is_slow {
                self.pause(1500).await;
            }
        }
        assert!(!unique || next >= end, "entries up to {end} were durable, and {next} is missing");
    }

    async fn get(&self) {
        let (first, last) = (self.wal.first_index(), self.wal.durable_index());
        let index = self.random(|rng| rng.u64(..last + 3));
        let unique = self.plan.indexes_are_unique;
        match self.wal.with_durability(Durability::Durable).get(index).await {
            Ok(entry) => {
                self.meet(Met::Get);
                assert_eq!(entry.index, index, "the entry that was asked for");
                assert!(index >= first, "{index} was released: the first is {first}");
                self.oracle.borrow_mut().read(&entry, unique);
            }
            Err(error) if error.kind() == ErrorKind::OutOfRange => {
                assert!(!unique || index > last, "{index} is durable: {error}");
            }
            Err(error) if error.kind() == ErrorKind::Released => {
                assert!(index < first, "the first is {first}: {error}");
                assert_eq!(error.first_index(), Some(first), "{error}");
            }
            Err(error) if error.kind() == ErrorKind::Replaced && !unique => {}
            Err(error) => assert!(self.is_faulty(), "nothing was made to fail: {error}"),
        }
    }

    /// Follows the log, at some pace, until it ends.
    async fn follow(&self) {
        if self.random(|rng| rng.bool()) {
            self.pause(3000).await;
        }
        let level = match self.random(|rng| rng.bool()) {
            true => Durability::Durable,
            false => Durability::Written,
        };
        let is_slow = self.random(|rng| rng.bool());
        let (first, last) = (self.wal.first_index(), self.wal.durable_index());
        let from = self.random(|rng| rng.u64(first..=last + 1));
        let mut tail = self.wal.with_durability(level).tail(from);
        let mut follower = Follower::new(level, from);
        loop {
            let pieces = self.wal.stats().pieces_read;
            let entry = match tail.next().await {
                Some(Ok(entry)) => entry,
                None => return self.oracle.borrow().tail_ended(&follower),
                Some(Err(error)) => return self.tail_failed(&error, &follower),
            };
            self.story.tell(|| format!("a tail, {level:?}: {} of {}", entry.index, entry.term));
            let is_new = self.oracle.borrow_mut().handed_out(&entry, &mut follower);
            self.meet_if(Met::Tail, is_new);
            self.meet_if(Met::TailFromFiles, is_new && self.wal.stats().pieces_read > pieces);
            if is_slow {
                self.pause(1500).await;
            }
        }
    }

    fn tail_failed(&self, error: &Error, follower: &Follower) {
        self.story.tell(|| format!("a tail: {error}"));
        let allowed = match error.kind() {
            // What only the files have is not read after the end.
            ErrorKind::Closed => self.ends_with_close,
            // It began where the written log had gone back from.
            ErrorKind::OutOfRange => !self.plan.indexes_are_unique,
            ErrorKind::Released => {
                let first = error.first_index().expect("what is there says so");
                assert!(first <= self.wal.first_index(), "{error}");
                self.meet(Met::TailReleased);
                return self.oracle.borrow().tail_released(follower, first);
            }
            _ => self.is_faulty(),
        };
        assert!(allowed, "a tail failed: {error}");
    }

    /// Entries of a term, from an index on that may be taken already.
    async fn save(&self) {
        let head = self.oracle.borrow().head();
        let settled = self.settled(&head);
        let back = self.random(|rng| rng.u64(..5)).min(head.last_index().saturating_sub(settled));
        let first = head.last_index() - back + 1;
        let term = head.term + self.random(|rng| rng.u64(..2)).max(u64::from(head.term == 0));
        let count = self.random(|rng| rng.usize(1..4));
        let records = self.records(count);
        let entry = |(index, data)| Entry { index, term, data, ..Entry::default() };
        let entries = (first..).zip(records.clone()).map(entry).collect();
        self.meet_if(Met::Conflict, back > 0);
        let saved = self.wal.save(HardState::default(), entries);
        let made = self.make(Call::Save { first, term, records }, saved).await;
        self.tell(&made, self.level);
    }

    /// Entries up to this index do not change any more.
    fn settled(&self, head: &Image) -> u64 {
        head.settled.max(self.base()).max(self.oracle.borrow().asked())
    }

    fn may_release(&self) -> bool {
        self.plan.releases || self.plan.retention.is_some()
    }

    /// Some of what is durable, or nothing, or what is not there.
    async fn release_some(&self) {
        let (first, last) = (self.wal.first_index(), self.wal.durable_index());
        match self.random(|rng| rng.u8(..16)) {
            0 => {
                let error = self.wal.release(last + 1).await.expect_err("it is not durable");
                let kinds = [ErrorKind::OutOfRange, ErrorKind::Poisoned];
                assert!(kinds.contains(&error.kind()), "{error}");
            }
            1 if first > 1 => {
                let error = self.wal.release(first - 2).await.expect_err("more was released");
                assert_eq!(error.kind(), ErrorKind::Released, "{error}");
            }
            2..6 => self.release(last).await,
            _ => {
                let index = self.random(|rng| rng.u64(first - 1..=last));
                self.release(index).await;
            }
        }
    }

    /// Releases entries that are durable; or gives that up half-way.
    async fn release(&self, index: u64) {
        self.oracle.borrow_mut().releases(index);
        let base = self.base();
        self.story.tell(|| format!("release of {index}"));
        let patience = match self.plan.cancels && self.random(|rng| rng.u8(..3)) == 0 {
            true => self.random(|rng| rng.u64(..250)),
            false => u64::MAX,
        };
        let patience = self.sim.sleep(Duration::from_micros(patience));
        let outcome = match select(pin!(self.wal.release(index)), pin!(patience)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => return,
        };
        self.story.tell(|| format!("release of {index}: {outcome:?}"));
        match outcome {
            Ok(()) => {
                assert!(self.base() >= index, "{index} was released, not only {}", self.base());
                self.meet_if(Met::Released, index > base);
            }
            // A hard state does not say that it is committed; or it is being replaced.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                assert!(!self.plan.indexes_are_unique, "{error}");
            }
            Err(error) => self.refused(&error),
        }
    }

    /// Takes back entries, perhaps all; or gives that up half-way.
    async fn truncate(&self) {
        let (head, before) = {
            let oracle = self.oracle.borrow();
            (oracle.head(), oracle.last())
        };
        let (least, last) = (head.settled.max(self.base()), head.last_index());
        if least >= last {
            return;
        }
        let index = match self.random(|rng| rng.u8(..4)) {
            0 => least,
            1 => self.random(|rng| rng.u64(least..=last)),
            _ => last - self.random(|rng| rng.u64(0..=5)).min(last - least),
        };
        let may_be_released = self.oracle.borrow().may_be_released(index);
        let call = Call::Truncate { index, may_be_released };
        self.story.tell(|| format!("truncate_after {index}"));
        let truncating = Truncating::new(self, index);
        let patience = match self.plan.cancels && self.random(|rng| rng.u8(..3)) == 0 {
            true => self.random(|rng| rng.u64(..400)),
            false => u64::MAX,
        };
        let patience = self.sim.sleep(Duration::from_micros(patience));
        let made = {
            let made = self.make(call, self.wal.truncate_after(index));
            match select(pin!(made), pin!(patience)).await {
                Either::Left((made, _)) => made,
                Either::Right(_) => return,
            }
        };
        drop(truncating);
        self.story.tell(|| format!("truncate_after {index}: {:?}", made.outcome));
        match (&made.outcome, made.id) {
            (Ok(()), Some(_)) => {
                self.meet(if index == self.base() {
                    Met::TruncatedToNothing
                } else {
                    Met::Truncated
                });
                self.tell(&made, Durability::Durable);
            }
            // There was nothing behind it any more: what came before is durable.
            (Ok(()), None) => {
                before.into_iter().for_each(|id| self.oracle.borrow_mut().synced(id));
            }
            (Err(error), None) if error.kind() == ErrorKind::Released => {
                let released = self.oracle.borrow().may_be_released(index + 1);
                assert!(released, "{index} and what follows is there: {error}");
            }
            // Others have taken back more.
            (Err(error), None) if error.kind() == ErrorKind::OutOfRange => {}
            _ if self.is_faulty() && made.outcome.as_ref().is_err_and(is_of_reading) => {}
            _ => self.tell(&made, Durability::Durable),
        }
    }

    async fn state(&self) {
        self.meet(Met::StateOnly);
        let head = self.oracle.borrow().head();
        let state = HardState {
            term: head.term.max(1) + self.random(|rng| rng.u64(..2)),
            vote: self.random(|rng| rng.u64(..4)),
            commit: head.snapshot,
        };
        let made = self.make(Call::State(state), self.wal.save(state, Vec::new())).await;
        self.tell(&made, self.level);
    }

    async fn snapshot(&self) {
        let head = self.oracle.borrow().head();
        let last = head.last_index();
        // What is being taken back is nothing to make a snapshot of.
        let last = self.truncating.borrow().iter().fold(last, |last, (index, _)| last.min(*index));
        if last <= head.settled {
            return;
        }
        self.meet(Met::Snapshot);
        let index = self.random(|rng| rng.u64(head.settled + 1..=last));
        let (term, _) = head.entries[index as usize - 1];
        let snapshot = Snapshot { index, term, ..Snapshot::default() };
        let saved = self.wal.save_snapshot(snapshot.clone());
        let made = self.make(Call::Snapshot(snapshot), saved).await;
        self.tell(&made, self.level);
    }

    fn records(&self, count: usize) -> Vec<Bytes> {
        (0..count).map(|_| self.record()).collect()
    }

    /// Noise, nothing, or, where no bits rot, zeros and bytes of a log: of a record that nothing proves yet, a sector of zeros
    /// looks like one that was never written.
    fn record(&self) -> Bytes {
        self.random(|rng| {
            let len = match rng.u8(..40) {
                0 if self.plan.fixed.is_some() => FIXED_RECORD_BYTES_MAX,
                0 => 20_000,
                1..4 => 0,
                _ => rng.usize(..self.plan.record_bytes_max),
            };
            match rng.u8(..8) {
                0 if !self.plan.rot => Bytes::from(vec![0; len]),
                1 if !self.plan.rot && !self.specimen.is_empty() => {
                    let start = rng.usize(..self.specimen.len());
                    self.specimen.slice(start..self.specimen.len().min(start + len))
                }
                _ => {
                    let mut bytes = vec![0; len];
                    rng.fill(&mut bytes);
                    Bytes::from(bytes)
                }
            }
        })
    }

    async fn pause(&self, micros_max: u64) {
        let micros = self.random(|rng| rng.u64(..micros_max));
        self.sim.sleep(Duration::from_micros(micros)).await;
    }

    fn random<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }

    fn meet(&self, met: Met) {
        self.coverage.borrow_mut().meet(met);
    }

    fn meet_if(&self, met: Met, is_met: bool) {
        self.coverage.borrow_mut().meet_if(met, is_met);
    }
}

/// What reading an entry may fail with: also that a failed sync has lost it. Nothing was begun then.
fn is_of_reading(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::Damaged)
}
