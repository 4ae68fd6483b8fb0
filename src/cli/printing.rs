//! Entries on standard output: what `cat` and `tail` share.

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
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct Printing {
    /// The directory of the log
    dir: PathBuf,
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

impl Printing {
    /// Opens the log and prints what `print` takes from it. What is sound goes out also when something else is not.
    pub(super) fn run(
        &self,
        print: impl FnOnce(&Reader, &Recovery, &mut Stdout) -> anyhow::Result<()>,
    ) -> anyhow::Result<Code> {
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
        let mut out = output::stdout()?;
        let printed = print(&reader, &recovery, &mut out);
        let flushed = out.flush();
        printed?;
        flushed?;
        Ok(Code::Success)
    }

    pub(super) fn entry(&self, entry: &Entry, out: &mut Stdout) -> io::Result<()> {
        match (self.format, self.frame) {
            (EntryFormat::Json, _) => self.json(entry, out),
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
    fn json(&self, entry: &Entry, out: &mut Stdout) -> io::Result<()> {
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

/// What a log, or a stream, holds.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub what: &'static str,
    pub first: u64,
    pub last: u64,
}

impl Held {
    pub(super) fn by(reader: &Reader) -> Held {
        Held { what: "log", first: reader.first_index(), last: reader.last_index() }
    }

    /// Refuses the bound that `flag` gave if it is not one of these indexes, or up to `beyond` more.
    pub(super) fn check(self, flag: &str, bound: Option<u64>, beyond: u64) -> anyhow::Result<()> {
        let Held { what, first, last } = self;
        let held = match first <= last {
            true => format!("{first} to {last}"),
            false => "no entries".to_owned(),
        };
        match bound {
            Some(index) if index < first => {
                bail!(
                    "index {index} is not in the {what}, which holds {held}; raise {flag} to {first}"
                )
            }
            Some(index) if index > last.saturating_add(beyond) => {
                bail!(
                    "index {index} is not in the {what}, which holds {held}; lower {flag}, or leave it out"
                )
            }
            _ => Ok(()),
        }
    }
}
