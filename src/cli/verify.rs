//! `seawal verify`: is the log sound, and if not, where and why not?

use super::args;
use super::disk;
use super::exit::{self, Code};
use super::output;
use super::output::file_name;
use crate::error::{Error, ErrorKind};
use crate::recovery::scan::Scan;
use crate::recovery::verdict::Verdict;
use crate::types::Start;
use crate::wal::{Reader, Recovery};
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

/// Check a log and give a verdict
///
/// Reads everything, changes nothing, takes no lock. Exit codes: 0 clean, 1 torn tail (the unfinished last write
/// of a crash; the next `seawal append` cuts it), 2 damaged, 3 not a log, 4 I/O error and everything else.
#[derive(Args, Debug)]
pub(super) struct Verify {
    /// The directory of the log
    dir: PathBuf,
    /// Where reading starts: beginning, latest (after the newest snapshot), or INDEX/TERM of a snapshot
    #[arg(long, value_parser = args::start, default_value = "beginning", value_name = "START")]
    start: Start,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(&self) -> anyhow::Result<Code> {
        // Opening there reads no more than it needs; here everything is to be looked at.
        let looked = match self.start {
            Start::LatestSnapshot => Reader::snapshots_blocking(&self.dir).map(drop),
            Start::Beginning | Start::Snapshot { .. } => Ok(()),
        };
        let outcome = looked.and_then(|()| disk::scan(&self.dir, self.start));
        let code = code(&outcome);
        let mut out = output::stdout()?;
        if self.json {
            writeln!(out, "{}", self.object(&outcome, code))?;
        } else {
            match &outcome {
                Ok(scan) => writeln!(out, "{}", sentence(scan))?,
                Err(error) if code == Code::Damaged => writeln!(out, "damaged: {error}")?,
                Err(error) => exit::say(&error.to_string()),
            }
        }
        // The code is the answer, also when nobody reads the text.
        match out.flush() {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(code),
            flushed => Ok(flushed.map(|()| code)?),
        }
    }

    fn object(&self, outcome: &crate::Result<Scan>, code: Code) -> Value {
        let dir = self.dir.display().to_string();
        match outcome {
            Ok(scan) => {
                let found = Recovery::new(scan, None);
                json!({
                    "verdict": word(code),
                    "dir": dir,
                    "file": file_name(&scan.newest().path),
                    "offset": scan.end.offset,
                    "reason": found.cut.as_ref().map_or(scan.row.reason(), |cut| &cut.reason),
                    "torn_bytes": found.cut.as_ref().map_or(0, |cut| cut.bytes),
                    "first_index": found.first_index,
                    "last_index": found.last_index,
                    "segments": found.segments,
                })
            }
            Err(error) => json!({
                "verdict": word(code),
                "dir": dir,
                "file": error.path().map(file_name),
                "offset": error.offset(),
                "reason": error.to_string(),
            }),
        }
    }
}

fn code(outcome: &crate::Result<Scan>) -> Code {
    match outcome {
        Ok(scan) => match scan.row.verdict() {
            Verdict::Clean => Code::Success,
            Verdict::Torn => Code::Failed,
            Verdict::Damaged => Code::Damaged,
        },
        Err(error) => code_of_error(error),
    }
}

/// Here 1 means a torn tail, so what has no code of its own is 4.
fn code_of_error(error: &Error) -> Code {
    match exit::code_of(error.kind()) {
        Code::Failed if error.kind() != ErrorKind::TornTail => Code::Io,
        code => code,
    }
}

fn word(code: Code) -> &'static str {
    match code {
        Code::Success => "clean",
        Code::Failed => "torn",
        Code::Damaged => "damaged",
        Code::NotALog => "not-a-log",
        Code::Io | Code::Usage => "error",
    }
}

fn sentence(scan: &Scan) -> String {
    let found = Recovery::new(scan, None);
    let place = format!("{} at {}", scan.newest().path.display(), scan.end.offset);
    let entries = output::range(found.first_index, found.last_index);
    let segments = output::count(found.segments, "segment");
    match &found.cut {
        None => format!("clean: {place}: {}; entries: {entries}, in {segments}", scan.row.reason()),
        Some(cut) => format!(
            "torn tail: {place}: {}; {} bytes, which the next `seawal append` cuts; entries before \
             them: {entries}, in {segments}",
            cut.reason, cut.bytes
        ),
    }
}
