//! Many seeds, on all cores.

use crate::coverage::Coverage;
use crate::run;
use crate::story::Story;
use std::panic;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const REPORT_EVERY: Duration = Duration::from_secs(10);

pub(crate) enum Amount {
    Runs(u64),
    Time(Duration),
}

pub(crate) struct Soak {
    pub amount: Amount,
    pub first: u64,
    /// Something that fewer runs met is a failure.
    pub least: u64,
    pub jobs: Option<usize>,
}

/// Runs a seed. What went wrong comes with the line that repeats it.
pub(crate) fn attempt(seed: u64) -> Result<Coverage, String> {
    attempt_story(seed, &Rc::new(Story::silent(seed)))
}

/// The same for a story that can be read afterwards.
pub(crate) fn attempt_story(seed: u64, story: &Rc<Story>) -> Result<Coverage, String> {
    let run = panic::AssertUnwindSafe(|| run::run(seed, story));
    panic::catch_unwind(run).map_err(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        format!(
            "seed {seed}: {message}\nreplay: cargo test --release --features testing --test simulate -- --seed {seed} --trace"
        )
    })
}

impl Soak {
    pub(crate) fn run(&self) -> ExitCode {
        let began = Instant::now();
        let total = Mutex::new(Coverage::default());
        let failure = Mutex::new(None);
        let next = AtomicU64::new(0);
        let is_over = || match self.amount {
            Amount::Runs(runs) => next.load(Ordering::Relaxed) >= runs,
            Amount::Time(time) => began.elapsed() >= time,
        };
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = self.jobs.unwrap_or(cores);
        println!("seeds from {} on, {threads} threads", self.first);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while !is_over() && failure.lock().unwrap().is_none() {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        match attempt(self.first.wrapping_add(number)) {
                            Ok(coverage) => total.lock().unwrap().add(&coverage),
                            Err(story) => {
                                failure.lock().unwrap().get_or_insert(story);
                            }
                        }
                    }
                });
            }
            let mut reported = Instant::now();
            while !is_over() && failure.lock().unwrap().is_none() {
                thread::sleep(Duration::from_millis(50));
                if reported.elapsed() >= REPORT_EVERY {
                    reported = Instant::now();
                    report(&total.lock().unwrap(), began);
                }
            }
        });
        let total = total.into_inner().unwrap();
        print!("{total}");
        report(&total, began);
        if let Some(failure) = failure.into_inner().unwrap() {
            println!("FAILED: {failure}");
            return ExitCode::FAILURE;
        }
        let below = total.below(self.least);
        if !below.is_empty() {
            println!("FAILED: fewer than {} runs met {}", self.least, below.join("; "));
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

fn report(total: &Coverage, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    println!("{} runs in {seconds:.0} s, {:.0} a second", total.runs, total.runs as f64 / seconds);
}
