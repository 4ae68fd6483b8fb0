//! `seawal cat`: the payloads of a log.

use super::exit::Code;
use super::printing::{self, Printing};
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
}

impl Cat {
    pub(super) fn run(&self) -> anyhow::Result<Code> {
        self.printing.run(|reader, out| {
            printing::check_bound(reader, "--from", self.from, 0)?;
            printing::check_bound(reader, "--to", self.to, 0)?;
            let from = self.from.map_or(Bound::Unbounded, Bound::Included);
            let to = self.to.map_or(Bound::Unbounded, Bound::Included);
            for entry in reader.read((from, to)).blocking() {
                self.printing.entry(&entry?, out)?;
            }
            Ok(())
        })
    }
}
