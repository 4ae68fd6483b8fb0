//! `seawal streams`: the named streams of a log.

use super::exit::Code;
use super::output;
use crate::options::Options;
use crate::streams::Streams;
use crate::wal::Reader;
use clap::Args;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// List the named streams of a log
///
/// A line for each: the first and the last index, and the name. Reads only, without a lock: another process may be
/// appending.
#[derive(Args, Debug)]
pub(super) struct ListStreams {
    /// The directory of the log
    dir: PathBuf,
    /// Print JSON, an object a line
    #[arg(long)]
    json: bool,
}

impl ListStreams {
    pub(super) fn run(&self) -> anyhow::Result<Code> {
        let options = Options::new().backend(crate::Backend::Threads);
        let (reader, recovery) = Reader::open_blocking(&self.dir, options)?;
        let mut out = output::stdout()?;
        for stream in Streams::of_reader_blocking(&reader, &recovery)?.list() {
            let (name, first, last) = (&*stream.name, stream.first_index, stream.last_index);
            match self.json {
                true => {
                    let object = json!({"name": name, "first_index": first, "last_index": last});
                    writeln!(out, "{object}")?;
                }
                // No name shall look like two lines.
                false => writeln!(out, "{first} {last} {}", name.escape_debug())?,
            }
        }
        out.flush()?;
        Ok(Code::Success)
    }
}
