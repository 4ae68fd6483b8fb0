//! Runs the `seawal` command.
#![allow(dead_code)] // every test binary uses a part of this

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

pub(crate) const SEAWAL: &str = env!("CARGO_BIN_EXE_seawal");

/// `seawal append --ack` by way of `wrapper`: a program and its arguments, or nothing.
pub(crate) fn append(wrapper: &[&str], dir: &Path, arguments: &[&str]) -> Command {
    let words: Vec<&str> = wrapper.iter().copied().chain([SEAWAL, "append", "--ack"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(arguments).arg(dir).env_remove("RUST_LOG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command with `lines` records of a line each as its input.
pub(crate) fn run(mut command: Command, lines: usize) -> std::io::Result<Output> {
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let feeder = std::thread::spawn(move || {
        for line in 0..lines {
            // It may have failed long before.
            if writeln!(stdin, "record {line}").is_err() {
                return;
            }
        }
    });
    let output = child.wait_with_output();
    let _ = feeder.join();
    output
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every line of the input was acked, in order.
#[track_caller]
pub(crate) fn assert_acked(output: &Output, lines: usize) {
    let errors = stderr(output);
    assert!(output.status.success(), "{}: {errors}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut told = text.lines();
    assert_eq!(told.next(), Some("READY 0"), "{errors}");
    for line in 0..lines {
        let crc = crc32c::crc32c(format!("record {line}").as_bytes());
        assert_eq!(told.next(), Some(&*format!("ACK {} {crc:08x}", line + 1)), "{errors}");
    }
    assert_eq!(told.next(), None);
}
