//! `seawal stat`: what is in a log, at a glance.
//!
//! It tells what it can find out. A damaged log still has segments, and one whose head was released still has a
//! newest snapshot to start from.

use super::args;
use super::disk;
use super::exit::{self, Code};
use super::output::file_name;
use super::output::{self, Stdout};
use crate::error::{Error, ErrorKind, Result};
use crate::recovery::scan::Scan;
use crate::segment::dir::SegmentFile;
use crate::types::{Snapshot, Start};
use crate::wal::{Reader, Recovery};
use clap::Args;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Describe a log: verdict, indexes, hard state, snapshots, segments
///
/// Reads only, without a lock. If the head of the log was released and no --start is given, it starts from the
/// newest snapshot and says so.
#[derive(Args, Debug)]
pub(super) struct Stat {
    /// The directory of the log
    dir: PathBuf,
    /// Where reading starts: beginning, latest (after the newest snapshot), or INDEX/TERM of a snapshot [default:
    /// beginning, or latest where the log does not reach back that far]
    #[arg(long, value_parser = args::start, value_name = "START")]
    start: Option<Start>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Stat {
    pub(super) fn run(&self) -> anyhow::Result<Code> {
        let report = Report::of(&self.dir, self.start)?;
        let mut out = output::stdout()?;
        if self.json {
            writeln!(out, "{}", report.object(&self.dir))?;
        } else {
            report.print(&mut out)?;
        }
        out.flush()?;
        Ok(match &report.scan {
            Ok(_) => Code::Success,
            Err(error) => exit::code_of(error.kind()),
        })
    }
}

struct Report {
    /// What reading the log gave, or why it could not be read.
    scan: Result<Scan>,
    /// The head was released, so reading started at the newest snapshot.
    released: bool,
    snapshots: Result<Vec<Snapshot>>,
    segments: Vec<SegmentStat>,
}

struct SegmentStat {
    name: String,
    bytes: u64,
    disk_bytes: u64,
    index: u64,
}

impl Report {
    /// An error only where there is nothing to report on.
    fn of(dir: &Path, start: Option<Start>) -> Result<Report> {
        let segments = disk::segments(dir)?;
        let mut scan = disk::scan(dir, start.unwrap_or_default());
        let released = |error: &Error| error.kind() == ErrorKind::Released;
        let released = start.is_none() && scan.as_ref().is_err_and(released);
        if released {
            scan = disk::scan(dir, Start::LatestSnapshot);
        }
        let segments = segments.iter().map(SegmentStat::of).collect::<Result<_>>()?;
        Ok(Report { scan, released, snapshots: Reader::snapshots_blocking(dir), segments })
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    fn verdict(&self) -> &'static str {
        match &self.scan {
            Ok(scan) if scan.is_torn() => "torn",
            Ok(_) => "clean",
            Err(error) if error.is_damaged() => "damaged",
            Err(_) => "unreadable",
        }
    }

    fn reason(&self) -> String {
        match &self.scan {
            Ok(scan) => match Recovery::new(scan, None).cut {
                Some(cut) => format!("{} ({} bytes)", cut.reason, cut.bytes),
                None => scan.row.reason().to_owned(),
            },
            Err(error) => error.to_string(),
        }
    }

    fn object(&self, dir: &Path) -> Value {
        let scan = self.scan.as_ref().ok();
        let found = scan.map(|scan| Recovery::new(scan, None));
        let found = found.as_ref();
        json!({
            "dir": dir.display().to_string(),
            "verdict": self.verdict(),
            "reason": self.reason(),
            "start": match (self.released, found.and_then(|found| found.snapshot.as_ref())) {
                (true, Some(snapshot)) => json!({"index": snapshot.index, "term": snapshot.term, "head_released": true}),
                (_, Some(snapshot)) => json!({"index": snapshot.index, "term": snapshot.term}),
                (_, None) => Value::Null,
            },
            "first_index": found.and_then(|found| found.first_index),
            "last_index": found.and_then(|found| found.last_index),
            "hard_state": found.map(|found| {
                let state = found.hard_state;
                json!({"term": state.term, "vote": state.vote, "commit": state.commit})
            }),
            "metadata_bytes": found.and_then(|found| found.metadata.as_ref().map(|data| data.len())),
            "log_id": scan.and_then(|scan| scan.log_id).map(|id| output::hex(&id.0)),
            "epoch": scan.map(|scan| scan.epoch),
            "end": scan.map(|scan| json!({"file": file_name(&scan.newest().path), "offset": scan.end.offset})),
            "snapshots": self.snapshots.as_ref().ok().map(|snapshots| {
                let one = |snapshot: &Snapshot| json!({"index": snapshot.index, "term": snapshot.term});
                snapshots.iter().map(one).collect::<Vec<_>>()
            }),
            "bytes": self.bytes(),
            "segments": self.segments.iter().enumerate().map(|(at, segment)| json!({
                "name": segment.name,
                "bytes": segment.bytes,
                "disk_bytes": segment.disk_bytes,
                "first_index": segment.index,
                "state": self.state_of(at),
            })).collect::<Vec<_>>(),
        })
    }

    fn state_of(&self, at: usize) -> &'static str {
        if at + 1 == self.segments.len() { "active" } else { "sealed" }
    }

    fn print(&self, out: &mut Stdout) -> io::Result<()> {
        writeln!(out, "verdict      {}: {}", self.verdict(), self.reason())?;
        if let Ok(scan) = &self.scan {
            print_scan(scan, self.released, out)?;
        }
        match &self.snapshots {
            Ok(snapshots) if snapshots.is_empty() => writeln!(out, "snapshots    none")?,
            Ok(snapshots) => {
                let names = snapshots
                    .iter()
                    .map(|snapshot| format!("{}/{}", snapshot.index, snapshot.term));
                writeln!(out, "snapshots    {}", names.collect::<Vec<_>>().join(" "))?;
            }
            Err(error) => writeln!(out, "snapshots    unknown: {error}")?,
        }
        let segments = output::count(self.segments.len(), "segment");
        writeln!(out, "size         {} bytes in {segments}", self.bytes())?;
        for (at, segment) in self.segments.iter().enumerate() {
            let SegmentStat { name, bytes, disk_bytes, index } = segment;
            let state = self.state_of(at);
            writeln!(
                out,
                "  {name}  {state}  from index {index}  {bytes} bytes, {disk_bytes} on disk"
            )?;
        }
        Ok(())
    }
}

fn print_scan(scan: &Scan, released: bool, out: &mut Stdout) -> io::Result<()> {
    let found = Recovery::new(scan, None);
    let note = if released { ", the newest one: the head of the log was released" } else { "" };
    match &found.snapshot {
        Some(snapshot) => {
            writeln!(out, "start        snapshot {}/{}{note}", snapshot.index, snapshot.term)?;
        }
        None => writeln!(out, "start        beginning")?,
    }
    writeln!(out, "entries      {}", output::range(found.first_index, found.last_index))?;
    let state = found.hard_state;
    match state.is_empty() {
        true => writeln!(out, "hard state   not set")?,
        false => writeln!(
            out,
            "hard state   term {}, vote {:x}, commit {}",
            state.term, state.vote, state.commit
        )?,
    }
    match &found.metadata {
        Some(data) => writeln!(out, "metadata     {} bytes", data.len())?,
        None => writeln!(out, "metadata     not set")?,
    }
    match scan.log_id {
        Some(id) => writeln!(out, "log id       {}, epoch {}", output::hex(&id.0), scan.epoch)?,
        None => writeln!(out, "log id       none: no commit marks, as etcd writes it")?,
    }
    writeln!(out, "ends at      {} offset {}", file_name(&scan.newest().path), scan.end.offset)
}

impl SegmentStat {
    fn of(segment: &SegmentFile) -> Result<SegmentStat> {
        let path = &segment.path;
        let found = std::fs::metadata(path)
            .map_err(|error| Error::io("asking for the length", path, error))?;
        Ok(SegmentStat {
            name: file_name(path),
            bytes: found.len(),
            disk_bytes: found.blocks() * 512,
            index: segment.name.index,
        })
    }
}
