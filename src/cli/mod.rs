//! The `seawal` command: a log by hand, and a log under a script.
//!
//! Every command is a file here, with its arguments and what it does. They share how arguments are read ([`args`]),
//! how a log is read without changing it ([`disk`]), how entries are printed ([`printing`]), where output goes
//! ([`output`]), and what an exit code means
//! ([`exit`]). The commands that only look take no locks and run beside a writer.

mod append;
mod args;
mod backup;
mod cat;
mod disk;
mod dump;
mod exit;
mod input;
mod output;
mod printing;
mod release;
mod stat;
mod streams;
mod tail;
mod verify;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::io;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

const EXIT_CODES: &str = "\
Exit codes:
   0  success; `verify`: the log is clean
   1  the command failed; `verify`: the log has a torn tail
   2  the log is damaged
   3  there is no log
   4  I/O error; `verify`: everything else
  64  the command line is wrong

Environment:
  RUST_LOG  what the library reports on stderr (default: warn)";

/// Write-ahead logs in etcd's format: append, read, inspect, check.
#[derive(Debug, Parser)]
#[command(name = "seawal", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Append(append::Append),
    Cat(cat::Cat),
    Tail(tail::Tail),
    Dump(dump::Dump),
    Verify(verify::Verify),
    Stat(stat::Stat),
    Streams(streams::ListStreams),
    Release(release::Release),
    #[command(name = "backup")]
    BackUp(backup::BackUp),
}

/// Runs the command that the arguments of this process name, and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    report_to_stderr();
    let outcome = match &cli.command {
        Command::Append(append) => append.run(),
        Command::Cat(cat) => cat.run(),
        Command::Tail(tail) => tail.run(),
        Command::Dump(dump) => dump.run(),
        Command::Verify(verify) => verify.run(),
        Command::Stat(stat) => stat.run(),
        Command::Streams(streams) => streams.run(),
        Command::Release(release) => release.run(),
        Command::BackUp(backup) => backup.run(),
    };
    outcome.unwrap_or_else(|error| exit::report(&error)).into()
}

/// Help that was asked for is no error. What clap calls 2 is a damaged log here, so a wrong command line is 64.
fn usage(error: &clap::Error) -> ExitCode {
    // If this cannot be printed, there is nobody to tell.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => exit::Code::Usage.into(),
    }
}

/// Warnings of the library, as lines on stderr.
fn report_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .without_time()
        .with_target(false)
        // It would panic where stderr is closed.
        .log_internal_errors(false)
        .init();
}
