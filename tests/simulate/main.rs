//! Runs of a whole log on a simulated machine that loses power, dies, fills up and fails, one for each seed, against an
//! oracle that knows what the log has promised.
//!
//! ```text
//! cargo test --release --features testing --test simulate                        # a few hundred seeds
//! cargo test --release --features testing --test simulate -- --runs 20000        # so many, and what they met
//! cargo test --release --features testing --test simulate -- --for 1h            # fresh ones, on all cores
//! cargo test --release --features testing --test simulate -- --seed 42 --trace   # one again, operation by operation
//! ```
#![allow(clippy::unwrap_used)] // nothing here is anything but a test

mod coverage;
mod image;
mod life;
mod oracle;
mod plan;
mod run;
mod small;
mod soak;
mod story;

use clap::Parser;
use libtest_mimic::{Arguments, Failed, Trial};
use soak::{Amount, Soak};
use std::process::ExitCode;
use std::rc::Rc;
use story::Story;

/// Seeds of an ordinary test run; others are for `--runs` and `--for`.
const RUNS: u64 = if cfg!(debug_assertions) { 200 } else { 2000 };

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    harness: Arguments,

    /// Runs this seed alone.
    #[arg(long)]
    seed: Option<u64>,

    /// Prints what the callers heard and the disk did.
    #[arg(long, requires = "seed")]
    trace: bool,

    /// Runs so many seeds on all cores, and prints what they met.
    #[arg(long)]
    runs: Option<u64>,

    /// Runs seeds for so long on all cores (`90s`, `20m`, `1h`), and prints what they met.
    #[arg(long = "for", value_parser = humantime::parse_duration)]
    time: Option<std::time::Duration>,

    /// So many at a time; else as many as there are cores.
    #[arg(long)]
    jobs: Option<usize>,

    /// The first seed; else 0 for a number of runs, and a random one for a time.
    #[arg(long)]
    first: Option<u64>,

    /// Fails if fewer runs than this met something.
    #[arg(long, default_value_t = 0)]
    least: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.seed {
        return one(seed, args.trace);
    }
    let amount = match (args.runs, args.time) {
        (Some(runs), _) => Some(Amount::Runs(runs)),
        (None, Some(time)) => Some(Amount::Time(time)),
        (None, None) => None,
    };
    if let Some(amount) = amount {
        let first = args.first.unwrap_or(match amount {
            Amount::Runs(_) => 0,
            Amount::Time(_) => fastrand::u64(..1 << 48),
        });
        return Soak { amount, first, least: args.least, jobs: args.jobs }.run();
    }
    let trials = vec![
        Trial::test("promises_hold_on_every_seed", || {
            let failure = (0..RUNS).find_map(|seed| soak::attempt(seed).err());
            failure.map_or(Ok(()), |failure| Err(Failed::from(failure)))
        }),
        Trial::test("every_state_of_small_histories_is_a_log", || {
            small::every_state_of_small_histories();
            Ok(())
        }),
        Trial::test("the_same_seed_gives_the_same_run", || {
            for seed in 0..50 {
                let trace = || {
                    let story = Rc::new(Story::silent(seed));
                    run::run(seed, &story);
                    story.sim.trace()
                };
                assert!(trace() == trace(), "seed {seed} gives two different runs");
            }
            Ok(())
        }),
    ];
    libtest_mimic::run(&args.harness, trials).exit_code()
}

fn one(seed: u64, trace: bool) -> ExitCode {
    let story = Rc::new(Story::told(seed));
    let outcome = soak::attempt_story(seed, &story);
    if trace {
        print!("{story}");
    }
    match outcome {
        Ok(coverage) => {
            print!("{coverage}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
