//! The verdict: a pure table from what was found to what it means.
//!
//! Each row has a name and says one thing; a test walks all combinations of facts and demands that exactly one row
//! fits. The reasons stand in `docs/recovery.md`.

/// What lies behind the place where the sound part of the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Behind {
    /// Only zeros, or nothing.
    Nothing,
    /// Bytes that are no records.
    Garbage,
    /// Sound records or marks.
    Records,
}

/// What is known of the place where the sound part ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Facts {
    /// No record of this segment is sound.
    pub headless: bool,
    /// There is a later segment.
    pub sealed: bool,
    /// A mark behind it knows it as durable.
    pub proven: bool,
    /// There is something, and it is not sound; else the log just ends (zero length field, end of file).
    pub broken: bool,
    /// A sector piece of the broken unit is all zero, or beyond the end of the file.
    pub unwritten: bool,
    /// What comes before is a marked group, so that what follows should be one too.
    pub marked: bool,
    pub behind: Behind,
}

/// What the facts mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Row {
    /// The log ends, and nothing follows.
    CleanEnd,
    /// The log ends; bytes that are no records follow. Appending clears them. etcd opens such a log.
    EndBeforeGarbage,
    /// The log ends, but records follow: the first sectors of a group, or of an etcd Save, were lost.
    TornHole,
    /// The last group or record was not wholly written.
    TornUnit,
    /// A later segment was started, so this one was complete.
    DamagedSealed,
    /// A later mark knows the place as durable.
    DamagedProven,
    /// A segment gets its name only after its head is durable.
    DamagedHead,
    /// Wholly written, and yet not sound.
    DamagedUnit,
}

/// The three answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    Clean,
    /// Cut at the start of the unit.
    Torn,
    /// Refuse.
    Damaged,
}

impl Row {
    const ALL: [Row; 8] = [
        Row::CleanEnd,
        Row::EndBeforeGarbage,
        Row::TornHole,
        Row::TornUnit,
        Row::DamagedSealed,
        Row::DamagedProven,
        Row::DamagedHead,
        Row::DamagedUnit,
    ];

    /// The row that fits.
    pub(crate) fn of(facts: &Facts) -> Row {
        let mut rows = Row::ALL.into_iter().filter(|row| row.fits(facts));
        let row = rows.next().expect("a row fits every combination of facts");
        debug_assert_eq!(rows.next(), None, "one row fits {facts:?}");
        row
    }

    fn fits(self, facts: &Facts) -> bool {
        let &Facts { headless, sealed, proven, broken, unwritten, marked, behind } = facts;
        let open = !sealed && !proven && !headless;
        match self {
            Row::DamagedSealed => sealed,
            Row::DamagedProven => !sealed && proven,
            Row::DamagedHead => !sealed && !proven && headless,
            Row::CleanEnd => open && !broken && behind == Behind::Nothing,
            Row::EndBeforeGarbage => open && !broken && behind == Behind::Garbage && !marked,
            Row::TornHole => {
                open && !broken
                    && (behind == Behind::Records || behind == Behind::Garbage && marked)
            }
            Row::TornUnit => open && broken && unwritten,
            Row::DamagedUnit => open && broken && !unwritten,
        }
    }

    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Row::CleanEnd | Row::EndBeforeGarbage => Verdict::Clean,
            Row::TornHole | Row::TornUnit => Verdict::Torn,
            Row::DamagedSealed | Row::DamagedProven | Row::DamagedHead | Row::DamagedUnit => {
                Verdict::Damaged
            }
        }
    }

    /// Why, for the person who reads the error or the report.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Row::CleanEnd => "the log ends, and nothing follows",
            Row::EndBeforeGarbage => "the log ends; bytes that are no records follow",
            Row::TornHole => "the first sectors of the last write never reached the disk",
            Row::TornUnit => "the last write reached the disk only in part",
            Row::DamagedSealed => "a later segment was started, so this one was complete",
            Row::DamagedProven => "a later commit mark knows this place as durable",
            Row::DamagedHead => {
                "no record of this segment is sound, though its head was durable before it got its name"
            }
            Row::DamagedUnit => "all its sectors were written",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_facts() -> impl Iterator<Item = Facts> {
        (0..64u32).flat_map(|bits| {
            let bit = move |at: u32| bits >> at & 1 == 1;
            [Behind::Nothing, Behind::Garbage, Behind::Records].map(|behind| Facts {
                headless: bit(0),
                sealed: bit(1),
                proven: bit(2),
                broken: bit(3),
                unwritten: bit(4),
                marked: bit(5),
                behind,
            })
        })
    }

    #[test]
    fn exactly_one_row_fits_every_combination() {
        for facts in all_facts() {
            let fitting: Vec<Row> = Row::ALL.into_iter().filter(|row| row.fits(&facts)).collect();
            assert_eq!(fitting.len(), 1, "{facts:?}: {fitting:?}");
        }
    }

    #[test]
    fn every_row_is_reached() {
        for row in Row::ALL {
            assert!(all_facts().any(|facts| Row::of(&facts) == row), "{row:?}");
        }
    }

    #[test]
    fn what_is_proven_or_sealed_is_never_cut() {
        for facts in all_facts().filter(|facts| facts.proven || facts.sealed) {
            assert_eq!(Row::of(&facts).verdict(), Verdict::Damaged, "{facts:?}");
        }
    }

    #[test]
    fn what_is_wholly_written_is_never_cut() {
        for facts in all_facts().filter(|facts| facts.broken && !facts.unwritten) {
            assert_eq!(Row::of(&facts).verdict(), Verdict::Damaged, "{facts:?}");
        }
    }

    /// How much a verdict lets go: what a person still has to lose.
    fn lenience(verdict: Verdict) -> u8 {
        match verdict {
            Verdict::Damaged => 0,
            Verdict::Torn => 1,
            Verdict::Clean => 2,
        }
    }

    /// More evidence that the place was durable never turns a refusal into a cut, nor a cut into a clean end.
    #[test]
    fn evidence_of_durability_only_makes_it_stricter() {
        for facts in all_facts() {
            let evidence = [
                Facts { sealed: true, ..facts },
                Facts { proven: true, ..facts },
                Facts { headless: true, ..facts },
                // All its sectors were written.
                Facts { unwritten: false, ..facts },
            ];
            for more in evidence {
                let (before, after) = (Row::of(&facts).verdict(), Row::of(&more).verdict());
                assert!(lenience(after) <= lenience(before), "{facts:?}: {before:?} to {after:?}");
            }
        }
    }

    /// The more there is behind the end, the less it is taken for a clean one; a broken unit never is.
    #[test]
    fn what_lies_behind_the_end_is_never_passed_over_for_more_of_it() {
        for facts in all_facts() {
            let with = |behind| lenience(Row::of(&Facts { behind, ..facts }).verdict());
            let (nothing, garbage, records) =
                (with(Behind::Nothing), with(Behind::Garbage), with(Behind::Records));
            assert!(nothing >= garbage && garbage >= records, "{facts:?}");
            let broken = Row::of(&Facts { broken: true, ..facts }).verdict();
            assert_ne!(broken, Verdict::Clean, "{facts:?}");
        }
    }
}
