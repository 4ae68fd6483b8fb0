//! `seawal tail`: the end of a log, and what comes.

use super::exit::Code;
use super::output::Stdout;
use super::printing::{Held, Printing};
use crate::wal::Reader;
use clap::Args;
use futures_core::Stream;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::future::poll_fn;
use std::io::{self, Write};
use std::pin::pin;
use std::task::Poll;

/// Print the last entries of a log, and those that come
///
/// Reads only, without a lock. With --follow it prints what another process appends as soon as the log proves it durable:
/// when more was appended, or 0.1 s later. An entry that replaces others (a Raft conflict) comes behind them, with its
/// lower index.
#[derive(Args, Debug)]
pub(super) struct Tail {
    #[command(flatten)]
    printing: Printing,
    /// How many entries to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, conflicts_with = "from")]
    lines: u64,
    /// The index to begin with; with --follow it may be the next one
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Go on with what is appended, until interrupted or the reader of the output is gone
    #[arg(short, long)]
    follow: bool,
}

impl Tail {
    pub(super) fn run(&self) -> anyhow::Result<Code> {
        self.printing.run(|reader, _, out| {
            let held = Held::by(reader);
            held.check("--from", self.from, self.follow.into())?;
            let Held { first, last, .. } = held;
            let of_lines = (last + 1).saturating_sub(self.lines).max(first);
            let from = self.from.unwrap_or(of_lines);
            if self.follow {
                return self.follow(reader, from, out);
            }
            for entry in reader.read(from..=last).blocking() {
                self.printing.entry(&entry?, out)?;
            }
            Ok(())
        })
    }

    fn follow(&self, reader: &Reader, from: u64, out: &mut Stdout) -> anyhow::Result<()> {
        std::thread::Builder::new().name("stdout".into()).spawn(leave_with_the_reader)?;
        let mut tail = pin!(reader.tail(from));
        loop {
            // What is there is in the pipe before more is waited for.
            let item =
                pollster::block_on(poll_fn(|context| match tail.as_mut().poll_next(context) {
                    Poll::Ready(item) => Poll::Ready(Ok(item)),
                    Poll::Pending => match out.flush() {
                        Ok(()) => Poll::Pending,
                        Err(error) => Poll::Ready(Err(error)),
                    },
                }))?;
            match item {
                Some(entry) => self.printing.entry(&entry?, out)?,
                None => return Ok(()),
            }
        }
    }
}

/// Ends the process when nobody reads its output any more: while nothing comes, no write would tell.
fn leave_with_the_reader() {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    loop {
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Ok(_) if fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
                std::process::exit(Code::Success as i32);
            }
            Ok(_) | Err(_) => return,
        }
    }
}
