//! `seawal append`: records from stdin into a log.
//!
//! Three threads, so that nothing waits for what it does not need:
//!
//! 1. the *reader* takes records from stdin, submits them, and passes their tickets on;
//! 2. the main thread waits for the tickets in order ([`Acks`]), prints and counts;
//! 3. the *watcher* waits for the log to fail.
//!
//! They meet in one bounded channel. The first failure ends the process, whatever the reader is blocked in: a write
//! of the log can fail while stdin has nothing to say.

use super::args::{self, Frame};
use super::exit::{self, Code};
use super::input::Records;
use super::output::{self, Stdout};
use crate::error::Error;
use crate::options::Options;
use crate::types::Start;
use crate::wal::Wal;
use crate::{Backend, Durability, Packing, Prealloc, SyncMethod, Ticket, WhenFull};
use anyhow::{Context, anyhow, bail};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressState, ProgressStyle};
use serde_json::json;
use std::fs::File;
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Records whose ticket is not yet looked at. A few groups of small ones: fewer commit slower, more only wait longer
/// (100,000 records of 100 bytes: 4 Ki 530,000/s, 8 Ki 680,000/s, 32 Ki 760,000/s at three times the commit time).
/// Large records are bounded by the queue of the log before.
const IN_FLIGHT_MAX: usize = 8 << 10;
/// What takes longer (an hour) is counted as this.
const COMMIT_US_MAX: u64 = 3_600_000_000;
/// Records between two looks at the progress bar.
const PROGRESS_EVERY: u64 = 256;

/// Append records from stdin to a log, creating it if there is none
///
/// Each line is a record, without its newline; an empty line is an empty record, and a last line needs no newline.
/// Many records are in flight at a time. Ends with the end of the input, when all of it is durable; a summary goes
/// to stderr. Times take the units us, ms and s.
#[derive(Args, Debug)]
pub(super) struct Append {
    /// The directory of the log; its parent must exist
    dir: PathBuf,
    /// How records stand in the input
    #[arg(long, value_enum, default_value = "line")]
    frame: Frame,
    /// Print `READY <last durable index>`, then `ACK <index> <crc32c of the payload>` for each durable record (with
    /// `--durability written`, for each that the kernel has), in order, at once
    #[arg(long, conflicts_with = "json")]
    ack: bool,
    /// Print the summary as a JSON object on stdout
    #[arg(long)]
    json: bool,
    /// Fail if there is no log
    #[arg(long)]
    no_create: bool,
    /// Start a new segment file at this size; takes the units k, M, G, Ki, Mi, Gi [default: 64M]
    #[arg(long, value_parser = args::size, value_name = "BYTES")]
    segment_size: Option<u64>,
    /// What runs the I/O
    #[arg(long, value_parser = args::backend(), default_value = "auto")]
    backend: Backend,
    /// How commits become durable: fdatasync (a write through the page cache, then a sync), dsync (direct writes of
    /// whole blocks, durable by themselves, several at a time), or auto: dsync where the file system can
    #[arg(long, value_parser = args::sync_method(), default_value = "auto")]
    sync: SyncMethod,
    /// How the next segment is prepared: fallocate (its space is reserved), or zero-fill (and written with zeros,
    /// which makes commits quicker and costs every byte a second write)
    #[arg(long, value_parser = args::prealloc(), default_value = "zero-fill")]
    prealloc: Prealloc,
    /// Where commits start and end with `--sync fdatasync`; dsync always takes whole blocks
    #[arg(long, value_enum, default_value = "dense")]
    packing: PackingName,
    /// Commits that may be written at the same time with `--sync dsync`, 1 to 32 [default: 4]
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=32), value_name = "N")]
    in_flight: Option<usize>,
    /// A commit waits this long for more records, unless it is full [default: decided by measuring]
    #[arg(long, value_parser = args::duration, value_name = "DURATION")]
    group_delay: Option<Duration>,
    /// When a record is done
    #[arg(long, value_enum, default_value = "durable")]
    durability: DurabilityName,
    /// With `--durability written`: what was written is durable at the latest after this time [default: 1s]
    #[arg(long, value_parser = args::duration, value_name = "DURATION")]
    sync_interval: Option<Duration>,
    /// The largest record that is taken [default: 64Mi; at most 512Mi]
    #[arg(long, value_parser = args::size_in_memory, value_name = "BYTES", default_value = "64Mi", hide_default_value = true)]
    record_bytes_max: usize,
    /// Records that wait are committed together up to this size [default: 1Mi]
    #[arg(long, value_parser = args::size_in_memory, value_name = "BYTES")]
    group_bytes_max: Option<usize>,
    /// Records that wait are committed together up to this many [default: no limit]
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..), value_name = "N")]
    group_records_max: Option<usize>,
    /// The log never takes more than this: when it is full, records wait until entries are released, or fail
    /// (--when-full) [default: no limit; at least four segments]
    #[arg(long, value_parser = args::size, value_name = "BYTES")]
    log_bytes_max: Option<u64>,
    /// What becomes of records while a log with --log-bytes-max is full
    #[arg(long, value_enum, default_value = "wait", requires = "log_bytes_max")]
    when_full: WhenFullName,
    /// Release the oldest segments when there are more bytes than this
    #[arg(long, value_parser = args::size, value_name = "BYTES")]
    retain_bytes: Option<u64>,
    /// Release the oldest segments when there are more than this many
    #[arg(long, value_name = "N")]
    retain_segments: Option<usize>,
    /// Release segments that were sealed longer ago than this
    #[arg(long, value_parser = args::duration, value_name = "DURATION")]
    retain_age: Option<Duration>,
    /// Remove the files of released segments instead of using them again
    #[arg(long)]
    no_recycle: bool,
    /// Where an existing log is read from when it is opened: beginning, latest (after the newest snapshot), or
    /// INDEX/TERM of a snapshot
    #[arg(long, value_parser = args::start, default_value = "beginning", value_name = "START")]
    start: Start,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PackingName {
    /// At the next 8 bytes, as dense as etcd's
    Dense,
    /// At block boundaries
    Block,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WhenFullName {
    /// They wait
    Wait,
    /// They fail
    Fail,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DurabilityName {
    /// On stable storage: it survives power loss
    Durable,
    /// The kernel has it: it survives the death of the process. The end of the input makes all durable
    Written,
}

impl DurabilityName {
    fn durability(self) -> Durability {
        match self {
            DurabilityName::Durable => Durability::Durable,
            DurabilityName::Written => Durability::Written,
        }
    }
}

/// What the reader and the watcher tell the main thread.
enum Event {
    Accepted(Accepted),
    /// The input ended; with an error if it is not what it should be.
    End(anyhow::Result<()>),
    /// The log takes no more.
    Failed(Error),
}

/// A record that has its place in the log.
struct Accepted {
    ticket: Ticket,
    at: Instant,
    bytes: u64,
    /// Of the payload; 0 where nobody asks.
    crc: u32,
}

impl Append {
    pub(super) fn run(&self) -> anyhow::Result<Code> {
        let (wal, _) = match self.no_create {
            true => Wal::open_blocking(&self.dir, self.options())?,
            false => Wal::open_or_create_blocking(&self.dir, self.options())?,
        };
        let out = if self.ack { Some(output::stdout()?) } else { None };
        let mut acks = Acks::new(out, self.durability.durability())?;
        acks.ready(wal.durable_index())?;

        let (sender, events) = flume::bounded(IN_FLIGHT_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        watch(&wal, sender.downgrade())?;
        self.read(&wal, sender, Arc::clone(&stop))?;
        let progress = progress();
        let outcome = acks.take_all(&events, progress.as_ref());
        stop.store(true, Ordering::Relaxed);
        let flushed = acks.flush();
        if let Some(bar) = progress {
            bar.finish_and_clear();
        }
        // A log that failed is not closed: nothing more is to be said about it, and the process ends now.
        let input = outcome?;
        flushed?;
        wal.close_blocking()?;
        acks.seconds = acks.began.elapsed().as_secs_f64();
        input.with_context(|| {
            format!("the input failed after {}, which are durable", acks.count_text())
        })?;
        self.summary(&acks, &wal)?;
        Ok(Code::Success)
    }

    fn options(&self) -> Options {
        let mut options = Options::new()
            .backend(self.backend)
            .record_bytes_max(self.record_bytes_max)
            .start(self.start)
            .sync_method(self.sync)
            .prealloc(self.prealloc)
            .durability(self.durability.durability())
            .recycle(!self.no_recycle)
            .when_full(match self.when_full {
                WhenFullName::Wait => WhenFull::Wait,
                WhenFullName::Fail => WhenFull::Fail,
            })
            .packing(match self.packing {
                PackingName::Dense => Packing::Dense,
                PackingName::Block => Packing::Block,
            });
        if let Some(bytes) = self.segment_size {
            options = options.segment_bytes(bytes);
        }
        if let Some(bytes) = self.log_bytes_max {
            options = options.log_bytes_max(bytes);
        }
        if let Some(bytes) = self.retain_bytes {
            options = options.retain_bytes(bytes);
        }
        if let Some(segments) = self.retain_segments {
            options = options.retain_segments(segments);
        }
        if let Some(age) = self.retain_age {
            options = options.retain_age(age);
        }
        if let Some(bytes) = self.group_bytes_max {
            options = options.group_bytes_max(bytes);
        }
        if let Some(records) = self.group_records_max {
            options = options.group_records_max(records);
        }
        if let Some(groups) = self.in_flight {
            options = options.in_flight_max(groups);
        }
        if let Some(delay) = self.group_delay {
            options = options.group_delay(delay);
        }
        if let Some(interval) = self.sync_interval {
            options = options.sync_interval(interval);
        }
        options
    }

    /// Starts the reader. Nobody waits for it: it may sit in stdin when the process has to end.
    fn read(
        &self,
        wal: &Wal,
        events: flume::Sender<Event>,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<()> {
        let stdin =
            File::from(io::stdin().as_fd().try_clone_to_owned().context("opening stdin failed")?);
        let mut records = Records::new(stdin, self.frame, self.record_bytes_max);
        let (wal, ack) = (wal.clone(), self.ack);
        spawn("stdin", move || {
            loop {
                let record = records.next();
                // After a failure nothing may follow what failed.
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let event = match record {
                    Ok(Some(record)) => {
                        let bytes = record.len() as u64;
                        let crc = if ack { output::payload_crc(&record) } else { 0 };
                        match wal.submit_blocking(record) {
                            Ok(ticket) => {
                                Event::Accepted(Accepted { ticket, at: Instant::now(), bytes, crc })
                            }
                            Err(error) => Event::Failed(error),
                        }
                    }
                    Ok(None) => Event::End(Ok(())),
                    Err(error) => Event::End(Err(error)),
                };
                let last = !matches!(event, Event::Accepted(_));
                if events.send(event).is_err() || last {
                    return;
                }
            }
        })
    }

    fn summary(&self, acks: &Acks, wal: &Wal) -> anyhow::Result<()> {
        let rate = acks.records as f64 / acks.seconds.max(1e-9);
        let commit_us = |quantile| acks.commit_us.value_at_quantile(quantile);
        let (backend, method) = (wal.backend(), wal.sync_method());
        if self.json {
            let mut out = output::stdout()?;
            let object = json!({
                "records": acks.records,
                "bytes": acks.bytes,
                "seconds": acks.seconds,
                "appends_per_second": rate,
                "commit_us_p50": commit_us(0.5),
                "commit_us_p99": commit_us(0.99),
                "commit_us_max": acks.commit_us.max(),
                "last_index": acks.last_index,
                "backend": backend,
                "sync_method": method.to_string(),
            });
            writeln!(out, "{object}")?;
            out.flush()?;
        } else {
            exit::say(&format!(
                "{}, {:.2} MB in {:.3} s: {rate:.0} appends/s; commit p50 {} µs, p99 {} µs; backend {backend}, {method}",
                acks.count_text(),
                acks.bytes as f64 / 1e6,
                acks.seconds,
                commit_us(0.5),
                commit_us(0.99),
            ));
        }
        Ok(())
    }
}

/// Starts the watcher: a log that fails while no ticket is waited for says so too.
fn watch(wal: &Wal, events: flume::WeakSender<Event>) -> anyhow::Result<()> {
    let wal = wal.clone();
    spawn("watch", move || {
        // No log has that many entries, so this ends when the log does.
        if let Err(error) = pollster::block_on(wal.wait_durable(u64::MAX))
            && !error.is_closed()
            && let Some(events) = events.upgrade()
        {
            let _ = events.send(Event::Failed(error));
        }
    })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
    spawned.map(drop).context("starting a thread failed")
}

/// On a terminal, and not where someone types the records.
fn progress() -> Option<ProgressBar> {
    if !io::stderr().is_terminal() || io::stdin().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new_spinner();
    let style =
        ProgressStyle::with_template("{spinner} {human_pos} records, {msg}, {rate}/s, {elapsed}");
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
    };
    bar.set_style(
        style.unwrap_or_else(|_| ProgressStyle::default_spinner()).with_key("rate", rate),
    );
    bar.enable_steady_tick(Duration::from_millis(100));
    Some(bar)
}

/// Waits for tickets in order, and tells and counts what became durable, or written.
struct Acks {
    out: Option<Stdout>,
    wanted: Durability,
    began: Instant,
    seconds: f64,
    records: u64,
    bytes: u64,
    last_index: u64,
    /// From accepted to durable, or written.
    commit_us: Histogram<u64>,
}

impl Acks {
    fn new(out: Option<Stdout>, wanted: Durability) -> anyhow::Result<Acks> {
        Ok(Acks {
            out,
            wanted,
            began: Instant::now(),
            seconds: 0.0,
            records: 0,
            bytes: 0,
            last_index: 0,
            commit_us: Histogram::new_with_bounds(1, COMMIT_US_MAX, 3)?,
        })
    }

    fn ready(&mut self, durable_index: u64) -> anyhow::Result<()> {
        self.last_index = durable_index;
        if let Some(out) = &mut self.out {
            writeln!(out, "READY {durable_index}").map_err(unread)?;
        }
        self.flush()
    }

    /// Until the input ends (with what it ended with) or the log fails.
    fn take_all(
        &mut self,
        events: &flume::Receiver<Event>,
        progress: Option<&ProgressBar>,
    ) -> anyhow::Result<anyhow::Result<()>> {
        loop {
            let event = match events.try_recv() {
                Ok(event) => event,
                Err(_) => {
                    self.show(progress);
                    self.flush()?;
                    match events.recv() {
                        Ok(event) => event,
                        Err(_) => bail!("the thread that reads stdin died"),
                    }
                }
            };
            match event {
                Event::Accepted(accepted) => self.take(accepted)?,
                Event::End(outcome) => return Ok(outcome),
                Event::Failed(error) => return Err(error.into()),
            }
            if self.records.is_multiple_of(PROGRESS_EVERY) {
                self.show(progress);
            }
        }
    }

    fn take(&mut self, accepted: Accepted) -> anyhow::Result<()> {
        let Accepted { mut ticket, at, bytes, crc } = accepted;
        let index = ticket.indexes().start;
        match self.wanted {
            Durability::Written => self.outcome_of(pin!(ticket.written()))?,
            Durability::Durable => self.outcome_of(Pin::new(&mut ticket)).map(drop)?,
        }
        let commit_us = u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.commit_us.saturating_record(commit_us);
        self.records += 1;
        self.bytes += bytes;
        self.last_index = index;
        if let Some(out) = &mut self.out {
            writeln!(out, "ACK {index} {crc:08x}").map_err(unread)?;
        }
        Ok(())
    }

    /// Waits; but first tells what is known already.
    fn outcome_of<T>(
        &mut self,
        mut future: Pin<&mut impl Future<Output = Result<T, Error>>>,
    ) -> anyhow::Result<T> {
        let mut context = std::task::Context::from_waker(Waker::noop());
        let outcome = match future.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => {
                self.flush()?;
                pollster::block_on(future)
            }
        };
        Ok(outcome?)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| out.flush().map_err(unread))
    }

    fn show(&self, progress: Option<&ProgressBar>) {
        if let Some(bar) = progress {
            bar.set_message(HumanBytes(self.bytes).to_string());
            bar.set_position(self.records);
        }
    }

    fn count_text(&self) -> String {
        let plural = if self.records == 1 { "" } else { "s" };
        format!("{} record{plural}", self.records)
    }
}

/// Acks that nobody gets are a failure, unlike other output: the input is not done.
fn unread(error: io::Error) -> anyhow::Error {
    anyhow!("writing acks to stdout failed ({error}); not all of the input was appended")
}
