//! `seawal release`: lets go of what is not needed any more.

use super::args;
use super::disk;
use super::exit::Code;
use super::output;
use crate::options::Options;
use crate::types::Start;
use crate::wal::Wal;
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Let go of the entries up to an index
///
/// Opens the log for writing, so no other process may have it open. Files that hold nothing but released entries are
/// removed; what the log begins with is written down first.
#[derive(Args, Debug)]
pub(super) struct Release {
    /// The directory of the log
    dir: PathBuf,
    /// The last index that is not needed
    index: u64,
    /// Where reading starts when the log is opened: beginning, latest (after the newest snapshot), or INDEX/TERM of a
    /// snapshot
    #[arg(long, value_parser = args::start, default_value = "beginning", value_name = "START")]
    start: Start,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl Release {
    pub(super) fn run(&self) -> anyhow::Result<Code> {
        let (wal, _) = Wal::open_blocking(&self.dir, Options::new().start(self.start))?;
        let before = Files::of(&self.dir)?;
        let released = wal.release_blocking(self.index);
        let first_index = wal.first_index();
        wal.close_blocking()?;
        released?;
        let after = Files::of(&self.dir)?;
        let (files, bytes) = (before.count - after.count, before.bytes.saturating_sub(after.bytes));
        let mut out = output::stdout()?;
        if self.json {
            let object = json!({"first_index": first_index, "segments_removed": files, "bytes_freed": bytes});
            writeln!(out, "{object}")?;
        } else {
            let segments = output::count(files, "segment");
            writeln!(out, "the first index is {first_index}; removed {segments}, {bytes} bytes")?;
        }
        out.flush()?;
        Ok(Code::Success)
    }
}

struct Files {
    count: usize,
    bytes: u64,
}

impl Files {
    /// The segments in a directory.
    fn of(dir: &Path) -> anyhow::Result<Files> {
        let segments = disk::segments(dir)?;
        let mut files = Files { count: segments.len(), bytes: 0 };
        for segment in &segments {
            files.bytes += std::fs::metadata(&segment.path)?.len();
        }
        Ok(files)
    }
}
