//! `seawal cat`: the payloads of a log.

use super::args::{self, Frame};
use super::exit::{self, Code};
use super::output::{self, Stdout};
use crate::options::Options;
use crate::types::{Entry, Start};
use crate::wal::{Reader, Recovery};
use anyhow::bail;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, ValueEnum};
use std::io::{self, Write};
use std::ops::Bound;
use std::path::PathBuf;

/// Print the payloads of a log
///
/// Reads only, without a lock: another process may be appending. A torn tail is passed over with a warning.
#[derive(Args, Debug)]
pub(super) struct Cat {
    /// The directory of the log
    dir: PathBuf,
    /// The first index to print [default: the first there is]
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// The last index to print, itself included [default: the last there is]
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// Where reading starts: beginning, latest (after the newest snapshot), or INDEX/TERM of a snapshot
    #[arg(long, value_parser = args::start, default_value = "beginning", value_name = "START")]
    start: Start,
    /// How payloads are told apart in the output of --format text
    #[arg(long, value_enum, default_value = "line")]
    frame: Frame,
    /// What is printed for each entry
    #[arg(long, value_enum, default_value = "text")]
    format: EntryFormat,
    /// Leave the payload out of JSON
    #[arg(long)]
    no_data: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EntryFormat {
    /// The payload, then a newline (see --frame)
    Text,
    /// An object a line: index, term, type, len, crc32c, data (base64)
    Json,
    /// The payload and nothing else
    Raw,
}

impl Cat {
    pub(super) fn run(&self) -> anyhow::Result<Code> {
        if self.frame == Frame::Len32 && self.format != EntryFormat::Text {
            let what = "--frame len32 goes with --format text only\n";
            let mut command = super::Cli::command();
            let error = command.error(ErrorKind::ArgumentConflict, what);
            let _ = error.print();
            return Ok(Code::Usage);
        }
        let options = Options::new().backend(crate::Backend::Threads).start(self.start);
        let (reader, recovery) = Reader::open_blocking(&self.dir, options)?;
        if let Some(cut) = &recovery.cut {
            exit::say(&format!(
                "warning: {} at {}: a torn tail of {} bytes was passed over ({}); opening the log \
                 for appending cuts it",
                cut.path.display(),
                cut.position.offset,
                cut.bytes,
                cut.reason
            ));
        }
        self.check_range(&recovery)?;
        let mut out = output::stdout()?;
        let written = self.print(&reader, &mut out);
        // What is sound goes out also when something else is not.
        let flushed = out.flush();
        written?;
        flushed?;
        Ok(Code::Success)
    }

    fn check_range(&self, recovery: &Recovery) -> anyhow::Result<()> {
        let (Some(from), Some(first), Some(last)) =
            (self.from, recovery.first_index, recovery.last_index)
        else {
            return Ok(());
        };
        if from < first {
            bail!("index {from} is not in the log, which holds {first} to {last}; raise --from");
        }
        Ok(())
    }

    fn print(&self, reader: &Reader, out: &mut Stdout) -> anyhow::Result<()> {
        let from = self.from.map_or(Bound::Unbounded, Bound::Included);
        let to = self.to.map_or(Bound::Unbounded, Bound::Included);
        let entries = reader.read((from, to));
        for entry in entries.blocking() {
            self.print_entry(&entry?, out)?;
        }
        Ok(())
    }

    fn print_entry(&self, entry: &Entry, out: &mut Stdout) -> io::Result<()> {
        match (self.format, self.frame) {
            (EntryFormat::Json, _) => self.print_json(entry, out),
            (EntryFormat::Raw, _) => out.write_all(&entry.data),
            (EntryFormat::Text, Frame::Len32) => {
                let len = u32::try_from(entry.data.len()).map_err(io::Error::other)?;
                out.write_all(&len.to_le_bytes())?;
                out.write_all(&entry.data)
            }
            (EntryFormat::Text, Frame::Line) => {
                out.write_all(&entry.data)?;
                out.write_all(b"\n")
            }
        }
    }

    /// Nothing in it needs escaping, so it is written as it comes.
    fn print_json(&self, entry: &Entry, out: &mut Stdout) -> io::Result<()> {
        write!(
            out,
            r#"{{"index":{},"term":{},"type":"{}","len":{},"crc32c":"{:08x}""#,
            entry.index,
            entry.term,
            entry.kind.name(),
            entry.data.len(),
            output::payload_crc(&entry.data)
        )?;
        if !self.no_data {
            write!(out, r#","data":"{}""#, Base64Display::new(&entry.data, &STANDARD))?;
        }
        out.write_all(b"}\n")
    }
}
