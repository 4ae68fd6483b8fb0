//! `seawal backup`: a copy of a log, beside whoever writes it.
//!
//! The log is only read: another process may have it open for writing, and asks no lock of us. So nothing pins its
//! segments; if they are released faster than they are copied, the library begins again a few times before it gives up.

use super::disk;
use super::exit::Code;
use super::output;
use crate::backup::source::Origin;
use crate::backup::{self, Backup, CopyBy};
use crate::error::Result;
use crate::io::{Disk, OnDisk};
use clap::Args;
use indicatif::{HumanBytes, ProgressBar};
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Copy a log while it is written, or bring such a copy up to date
///
/// The backup is a log by itself, and holds all that was durable when this began. Only what is new is copied, and the
/// newest segment; segments that the log has released are removed. Takes no lock of the log.
#[derive(Args, Debug)]
pub(super) struct BackUp {
    /// The directory of the log
    dir: PathBuf,
    /// The directory of the backup: empty, an earlier backup, or none yet
    to: PathBuf,
    /// Give the log's own files a second name instead of copying them. Damage to one is then damage to both
    #[arg(long)]
    hard_links: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

struct BackUpJob<'a> {
    dir: &'a Path,
    to: &'a Path,
    copy_by: CopyBy,
}

impl OnDisk for BackUpJob<'_> {
    type Output = Result<Backup>;

    async fn run<D: Disk>(self, disk: D) -> Result<Backup> {
        backup::backup(&disk, self.dir, &Origin::Files, self.to, self.copy_by).await
    }
}

impl BackUp {
    pub(super) fn run(&self) -> anyhow::Result<Code> {
        let copy_by = if self.hard_links { CopyBy::HardLink } else { CopyBy::default() };
        let spinner = spinner();
        let made = disk::run(BackUpJob { dir: &self.dir, to: &self.to, copy_by });
        if let Some(spinner) = spinner {
            spinner.finish_and_clear();
        }
        let made = made??;
        let mut out = output::stdout()?;
        match self.json {
            true => writeln!(out, "{}", self.object(&made))?,
            false => writeln!(out, "{}", self.sentence(&made))?,
        }
        out.flush()?;
        Ok(Code::Success)
    }

    fn object(&self, made: &Backup) -> Value {
        json!({
            "dir": self.dir.display().to_string(),
            "to": self.to.display().to_string(),
            "last_index": made.last_index,
            "segment": made.position.seq.0,
            "offset": made.position.offset,
            "segments": made.segments,
            "segments_new": made.segments_new,
            "segments_removed": made.segments_removed,
            "bytes_copied": made.bytes_copied,
            "bytes_reflinked": made.bytes_reflinked,
            "bytes_linked": made.bytes_linked,
        })
    }

    fn sentence(&self, made: &Backup) -> String {
        let mut how = vec![format!("{} copied", HumanBytes(made.bytes_copied))];
        let shared = [(made.bytes_reflinked, "shared"), (made.bytes_linked, "linked")];
        let shared = shared.into_iter().filter(|(bytes, _)| *bytes > 0);
        how.extend(shared.map(|(bytes, how)| format!("{} {how}", HumanBytes(bytes))));
        format!(
            "{}: up to index {}, in {}: {} new ({}), {} removed",
            self.to.display(),
            made.last_index,
            output::count(made.segments, "segment"),
            made.segments_new,
            how.join(", "),
            made.segments_removed
        )
    }
}

/// Shows on a terminal that something is going on.
fn spinner() -> Option<ProgressBar> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(100));
    Some(spinner)
}
