//! Who decides what a crash leaves of what was not synced: chance, or every possible answer in turn.

use super::rng::Rng;

pub(super) trait Fate {
    /// How many of `max` changes survive that can only survive in their order.
    fn prefix(&mut self, max: usize) -> usize;

    /// Which of the sectors of one write survive.
    fn sectors(&mut self, count: usize) -> Vec<bool>;
}

/// Nothing survives.
pub(super) struct Nothing;

impl Fate for Nothing {
    fn prefix(&mut self, _max: usize) -> usize {
        0
    }

    fn sectors(&mut self, count: usize) -> Vec<bool> {
        vec![false; count]
    }
}

/// Everything survives.
pub(super) struct Everything;

impl Fate for Everything {
    fn prefix(&mut self, max: usize) -> usize {
        max
    }

    fn sectors(&mut self, count: usize) -> Vec<bool> {
        vec![true; count]
    }
}

/// Chance. A large write would almost never survive whole, or not at all, if each sector were tossed for.
impl Fate for Rng {
    fn prefix(&mut self, max: usize) -> usize {
        self.up_to(max)
    }

    fn sectors(&mut self, count: usize) -> Vec<bool> {
        match self.up_to(5) {
            0 => vec![false; count],
            1 => vec![true; count],
            2 => {
                let survive = self.up_to(count);
                (0..count).map(|sector| sector < survive).collect()
            }
            _ => (0..count).map(|_| self.coin()).collect(),
        }
    }
}

/// Counts through all answers to a series of questions: each run of the series gives the next combination.
#[derive(Default)]
pub(super) struct Odometer {
    /// The answers of this run, and the largest ones there are.
    digits: Vec<(usize, usize)>,
    asked: usize,
}

impl Odometer {
    /// Turns to the next combination; `false` when all have been.
    pub(super) fn advance(&mut self) -> bool {
        self.asked = 0;
        while let Some((digit, max)) = self.digits.last_mut() {
            if *digit < *max {
                *digit += 1;
                return true;
            }
            self.digits.pop();
        }
        false
    }

    fn digit(&mut self, max: usize) -> usize {
        if self.asked == self.digits.len() {
            self.digits.push((0, max));
        }
        let (digit, known_max) = self.digits[self.asked];
        assert_eq!(known_max, max, "the same series of questions each time");
        self.asked += 1;
        digit
    }
}

impl Fate for Odometer {
    fn prefix(&mut self, max: usize) -> usize {
        self.digit(max)
    }

    fn sectors(&mut self, count: usize) -> Vec<bool> {
        (0..count).map(|_| self.digit(1) == 1).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn odometer_gives_every_combination_once() {
        let mut odometer = Odometer::default();
        let mut seen = BTreeSet::new();
        let mut runs = 0;
        loop {
            let sectors = odometer.sectors(3);
            // How many questions there are may depend on the answers.
            let names = if sectors[0] { odometer.prefix(2) } else { 0 };
            seen.insert((sectors, names));
            runs += 1;
            if !odometer.advance() {
                break;
            }
        }
        assert_eq!((runs, seen.len()), (4 + 4 * 3, 16));
    }

    #[test]
    fn chance_leaves_all_or_nothing_or_the_start_of_a_large_write() {
        let mut rng = Rng::new(1);
        let seen: Vec<Vec<bool>> = (0..200).map(|_| rng.sectors(64)).collect();
        let count = |test: fn(&[bool]) -> bool| seen.iter().filter(|s| test(s)).count();
        assert!(count(|s| s.iter().all(|&b| b)) > 10);
        assert!(count(|s| s.iter().all(|&b| !b)) > 10);
        let prefix = |s: &[bool]| s.is_sorted_by(|a, b| a >= b) && s[0] && !s[63];
        assert!(count(prefix) > 10);
        assert!(count(|s| !s.is_sorted_by(|a, b| a >= b)) > 50);
    }
}
