//! `seawal cat`: the payloads of a log.

use super::exit::Code;
use super::printing::{Held, Printing};
use crate::streams::Streams;
use anyhow::anyhow;
use clap::Args;
use std::ops::Bound;

/// Print the payloads of a log
///
/// Reads only, without a lock: another process may be appending. A torn tail is passed over with a warning.
#[derive(Args, Debug)]
pub(super) struct Cat {
    #[command(flatten)]
    printing: Printing,
    /// The first index to print [default: the first there is]
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// The last index to print, itself included [default: the last there is]
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// Print the records of this named stream; indexes are those of the stream
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
}

impl Cat {
    pub(super) fn run(&self) -> anyhow::Result<Code> {
        self.printing.run(|reader, recovery, out| {
            let from = self.from.map_or(Bound::Unbounded, Bound::Included);
            let to = self.to.map_or(Bound::Unbounded, Bound::Included);
            let Some(name) = &self.stream else {
                self.check(Held::by(reader))?;
                for entry in reader.read((from, to)).blocking() {
                    self.printing.entry(&entry?, out)?;
                }
                return Ok(());
            };
            let streams = Streams::of_reader_blocking(reader, recovery)?;
            let stream = streams.get(name).ok_or_else(|| {
                anyhow!(
                    "there is no stream {name:?} in the log; `seawal streams` lists those there are"
                )
            })?;
            let (first, last) = (stream.first_index()?, stream.last_index()?);
            self.check(Held { what: "stream", first, last })?;
            for entry in stream.read((from, to)).blocking() {
                self.printing.entry(&entry?, out)?;
            }
            Ok(())
        })
    }

    fn check(&self, held: Held) -> anyhow::Result<()> {
        held.check("--from", self.from, 0)?;
        held.check("--to", self.to, 0)
    }
}
