//! What a command tells its caller when it ends: an exit code, and one line on stderr if it failed.

use crate::error::{Error, ErrorKind};
use std::io::{self, Write};
use std::process::ExitCode;

/// The exit codes, the same for all commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Success = 0,
    /// Of `verify`: a torn tail. Of the others: a failure that has no code of its own.
    Failed = 1,
    Damaged = 2,
    NotALog = 3,
    Io = 4,
    /// As in sysexits.h.
    Usage = 64,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> ExitCode {
        ExitCode::from(code as u8)
    }
}

/// Says what went wrong. A reader of our output that has seen enough is no failure, and nothing is said.
pub(super) fn report(error: &anyhow::Error) -> Code {
    if is_closed_pipe(error) {
        return Code::Success;
    }
    say(&text(error));
    code(error)
}

/// A line on stderr in the name of this command. Where it cannot be written, nobody wants to know.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "seawal: {}", line.replace('\n', " "));
}

/// Only an error of writing to stdout is a bare [`io::Error`] of this kind.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn text(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        parts.push(cause.to_string());
        // The library's text already tells the causes below it.
        if cause.is::<Error>() {
            break;
        }
    }
    parts.join(": ")
}

fn code(error: &anyhow::Error) -> Code {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<Error>() {
            return code_of(error.kind());
        }
        if cause.is::<io::Error>() {
            return Code::Io;
        }
    }
    Code::Failed
}

pub(super) fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Damaged => Code::Damaged,
        ErrorKind::NotFound | ErrorKind::NotALog => Code::NotALog,
        ErrorKind::Io
        | ErrorKind::Poisoned
        | ErrorKind::NoSpace
        | ErrorKind::PermissionDenied
        | ErrorKind::ReadOnly => Code::Io,
        _ => Code::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use std::path::Path;

    fn refused(kind: io::ErrorKind) -> Error {
        Error::io("opening", Path::new("log"), kind.into())
    }

    #[test]
    fn code_is_that_of_the_cause() {
        let error = Err::<(), _>(refused(io::ErrorKind::NotFound)).context("while at it");
        let error = error.unwrap_err();
        assert_eq!(code(&error), Code::NotALog);
        assert_eq!(code(&anyhow::anyhow!("bad input")), Code::Failed);
        assert_eq!(code(&io::Error::other("stdin").into()), Code::Io);
    }

    #[test]
    fn text_tells_no_cause_twice() {
        let error = anyhow::Error::from(refused(io::ErrorKind::PermissionDenied));
        let text = text(&error);
        assert_eq!(text.matches("permission denied").count(), 1, "{text}");
    }

    #[test]
    fn only_a_closed_stdout_is_quiet() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_closed_pipe(&pipe().into()));
        assert!(!is_closed_pipe(&Error::io("writing", Path::new("log"), pipe()).into()));
        assert!(!is_closed_pipe(&anyhow::anyhow!("other")));
    }
}
