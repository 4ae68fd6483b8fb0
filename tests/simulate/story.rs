//! What the callers did and heard, between the operations of the disk: for people who look at one run.

use seawal::testing::Sim;
use std::cell::RefCell;
use std::fmt;

pub(crate) struct Story {
    pub sim: Sim,
    /// Operations that had begun by then, and what happened; `None` if nobody listens.
    lines: Option<RefCell<Vec<(u64, String)>>>,
}

impl Story {
    /// Nobody listens.
    pub(crate) fn silent(seed: u64) -> Story {
        Story { sim: Sim::new(seed), lines: None }
    }

    pub(crate) fn told(seed: u64) -> Story {
        Story { sim: Sim::new(seed), lines: Some(RefCell::default()) }
    }

    pub(crate) fn tell(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            lines.borrow_mut().push((self.sim.operations(), line()));
        }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines.as_ref().map(|lines| lines.borrow().clone()).unwrap_or_default();
        let mut lines = lines.into_iter().peekable();
        for (number, entry) in (1..).zip(self.sim.trace()) {
            while let Some((_, line)) = lines.next_if(|(operations, _)| *operations < number) {
                writeln!(f, "      {line}")?;
            }
            writeln!(f, "{number:>4}  {entry}")?;
        }
        lines.try_for_each(|(_, line)| writeln!(f, "      {line}"))
    }
}
