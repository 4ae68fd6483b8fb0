//! Power cuts: what was acked before the cut began is there when the machine is on again, and the log goes on.

use super::image::Kind;
use super::machine::{Cache, Machine};
use crate::common::known::{Known, look};
use crate::common::random::Random;
use crate::common::seccomp::without_uring;
use crate::common::writer::{Told, Writer, feed, payload};
use crate::common::{logs, require};
use nix::libc::EPERM;
use seawal::{Options, Wal};
use std::path::Path;
use std::process::ChildStdin;
use std::thread;
use std::time::Duration;

/// How a writer gets at the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Driver {
    Uring,
    Threads,
    /// `auto`, where io_uring is refused as in containers.
    Refused,
}

pub(crate) const WAYS: [&[&str]; 3] = [
    &["--sync", "fdatasync", "--prealloc", "zero-fill"],
    &["--sync", "dsync", "--prealloc", "zero-fill"],
    &["--sync", "dsync", "--prealloc", "fallocate"],
];

/// What was done, summed up.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub cuts: u64,
    pub acked: u64,
    /// Acked before the cut by the run that was cut.
    pub acked_in_time: u64,
    pub segments: u64,
}

impl Driver {
    fn start(self, dir: &Path, arguments: &[String]) -> Result<(Writer, ChildStdin), String> {
        let name = match self {
            Driver::Uring => "uring",
            Driver::Threads => "threads",
            Driver::Refused => "auto",
        };
        let arguments = [&["--backend".to_owned(), name.to_owned()], arguments].concat();
        let dir = dir.to_owned();
        let start = move || Writer::start(&dir, &arguments);
        match self {
            Driver::Refused => without_uring(EPERM, start),
            Driver::Uring | Driver::Threads => Ok(start()),
        }
    }
}

/// What is cut, and how.
pub(crate) struct Plan {
    pub kind: Kind,
    pub drivers: &'static [Driver],
    /// For each driver and each of [`WAYS`].
    pub cuts: u64,
    pub seed: u64,
}

impl Plan {
    /// Nothing if the machine that runs the tests cannot do it.
    pub(crate) fn run(&self) -> Option<Done> {
        let mut machine = match Machine::new(self.kind) {
            Ok(machine) => machine,
            Err(why) => {
                require::skip("loop", &why);
                return None;
            }
        };
        let mut random = Random(self.seed ^ self.kind as u64);
        let mut done = Done::default();
        for &driver in self.drivers {
            for way in WAYS {
                self.cut_one_log(&mut machine, driver, way, &mut random, &mut done)?;
            }
        }
        Some(done)
    }

    /// A log that loses its machine again and again.
    fn cut_one_log(
        &self,
        machine: &mut Machine,
        driver: Driver,
        way: &[&str],
        random: &mut Random,
        done: &mut Done,
    ) -> Option<()> {
        // A name that no log had before: the removal of that one may be lost in a cut, too.
        let dir = machine.dir().join(format!("log-{}", done.cuts));
        let mut known = Known::default();
        for _ in 0..self.cuts {
            let run = done.cuts;
            let cache = if random.within(0..3) == 0 { Cache::Kept } else { Cache::Lost };
            println!("cut {run}: {:?}, {driver:?}, {way:?}, cache {cache:?}", self.kind);
            let segment = random.within(16 << 10..128 << 10).to_string();
            let arguments = [&["--segment-size", &segment], way].concat();
            let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
            let (mut writer, stdin) = match driver.start(&dir, &arguments) {
                Ok(started) => started,
                Err(why) => {
                    require::skip("seccomp", &why);
                    return None;
                }
            };
            let _stdin = self.work_for_a_while(&mut writer, stdin, run, random);
            // First what was told, then the cut: what is told meanwhile may be lost.
            let told = writer.told();
            let cut = machine.cut(cache);
            let all = writer.kill();
            assert!(all.acks.starts_with(&told.acks));
            machine.switch_on(cut);
            known.hear(self.seed, run, &told);
            done.cuts += 1;
            done.acked_in_time += told.acks.len() as u64;
            match look(&dir, run) {
                Ok(entries) => known.check(self.seed, &entries),
                // Cut while it was created: no log yet, and nothing told.
                Err(error) => assert!(known.is_empty(), "{error}"),
            }
        }
        self.end_well(machine, &dir, &mut known, done.cuts);
        done.acked += known.acked_count();
        done.segments += logs::segments(&dir).len() as u64;
        std::fs::remove_dir_all(&dir).unwrap();
        Some(())
    }

    /// Until the moment of the cut. It is chosen by what was acked, so that a slow machine gets as far as a quick one.
    /// If nothing was sent, the writer's input is given back: at its end the writer would end.
    fn work_for_a_while(
        &self,
        writer: &mut Writer,
        stdin: ChildStdin,
        run: u64,
        random: &mut Random,
    ) -> Option<ChildStdin> {
        if random.within(0..6) == 0 {
            // While it opens, or just after: nothing is sent.
            thread::sleep(Duration::from_micros(random.within(0..30_000)));
            return Some(stdin);
        }
        let ready = writer.ready();
        feed(stdin, self.seed, run, ready + 1);
        writer.wait_for_acks(random.within(1..400));
        // Anywhere between two groups.
        thread::sleep(Duration::from_micros(random.within(0..3_000)));
        None
    }

    /// The log takes more, is closed, and is all there when the machine was switched off and on.
    fn end_well(&self, machine: &mut Machine, dir: &Path, known: &mut Known, run: u64) {
        let (wal, _) = Wal::open_or_create_blocking(dir, Options::new()).unwrap();
        let ready = wal.durable_index();
        let mut told = Told { ready: Some(ready), acks: Vec::new() };
        for index in ready + 1..=ready + 20 {
            let payload = payload(self.seed, run, index);
            assert_eq!(wal.append_blocking(&payload).unwrap(), index);
            told.acks.push((index, crc32c::crc32c(&payload)));
        }
        wal.close_blocking().unwrap();
        known.hear(self.seed, run, &told);
        machine.restart();
        known.check(self.seed, &look(dir, 0).unwrap());
    }
}
