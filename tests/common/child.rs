//! A test that runs a part of itself in another process: the same binary, told by its environment what to do.
#![allow(dead_code)] // every test binary uses a part of this

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

/// The variable that carries what a child is to do. Without it a child test does nothing.
const TASK: &str = "SEAWAL_TEST_TASK";

/// In a child test: what to do, if this is a child.
pub(crate) fn task() -> Option<String> {
    std::env::var(TASK).ok()
}

/// A command that runs the test `name` of this binary as a child, by way of `wrapper` if that is not empty.
pub(crate) fn command(wrapper: &[&str], name: &str, task: &str) -> Command {
    let exe = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [] => Command::new(&exe),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&exe);
            command
        }
    };
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(TASK, task)
        .stdin(Stdio::null());
    command
}

/// Prints a line that [`answers`] finds.
pub(crate) fn answer(text: &str) {
    // Not by the macros: the test harness writes to the same line.
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nanswer: {text}").and_then(|()| out.flush()).unwrap();
}

/// What the child answered.
pub(crate) fn answers(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| line.strip_prefix("answer: ")).map(str::to_owned).collect()
}

/// A child that answered and now waits for a line.
pub(crate) struct Waiting {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Waiting {
    /// Starts a child and waits for its first answer.
    pub(crate) fn start(mut command: Command) -> (Waiting, String) {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let answer = loop {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "the child ended without an answer");
            if let Some(answer) = line.trim_end().strip_prefix("answer: ") {
                break answer.to_owned();
            }
        };
        (Waiting { child, stdin, stdout }, answer)
    }

    /// Lets it go on, and waits until it has ended well.
    pub(crate) fn finish(mut self) {
        self.stdin.write_all(b"go on\n").unwrap();
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }
}

/// In a child: waits for [`Waiting::finish`].
pub(crate) fn wait_to_go_on() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}
