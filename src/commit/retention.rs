//! What is let go of without being asked: the oldest segments, when there is more than the options want.

use crate::retained::Segment;
use std::time::Duration;

/// What a log keeps. It is looked at when a segment is cut; the newest two segments stay in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Bytes of all segment files.
    pub bytes_max: Option<u64>,
    pub segments_max: Option<usize>,
    /// Since a segment was sealed.
    pub age_max: Option<Duration>,
}

impl Retention {
    pub(crate) fn is_unlimited(&self) -> bool {
        *self == Retention::default()
    }

    /// So many of the oldest segments are more than is wanted.
    pub(super) fn surplus(&self, segments: &[Segment], now: Duration) -> usize {
        let removable = segments.len().saturating_sub(2);
        let by_count = self.segments_max.map_or(0, |max| segments.len().saturating_sub(max));
        let by_bytes = self.bytes_max.map_or(0, |max| {
            let mut kept = 0_u64;
            let fits = segments.iter().rev().take_while(|segment| {
                kept = kept.saturating_add(segment.bytes);
                kept <= max
            });
            segments.len() - fits.count()
        });
        let by_age = self
            .age_max
            .map_or(0, |max| segments.iter().take_while(|segment| segment.age(now) > max).count());
        by_count.max(by_bytes).max(by_age).min(removable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Seq;
    use std::path::PathBuf;

    fn segments(count: u64) -> Vec<Segment> {
        let segment = |seq| Segment {
            seq: Seq(seq),
            index: 10 * seq,
            path: PathBuf::new(),
            bytes: 100,
            noted: Duration::from_secs(seq),
            age_then: Duration::from_secs(5),
        };
        (0..count).map(segment).collect()
    }

    #[test]
    fn each_limit_by_itself() {
        let all = segments(10);
        let none = Retention::default();
        let surplus = |retention: Retention| retention.surplus(&all, Duration::from_secs(10));
        assert_eq!(surplus(none), 0);
        assert_eq!(surplus(Retention { segments_max: Some(4), ..none }), 6);
        assert_eq!(surplus(Retention { bytes_max: Some(450), ..none }), 6);
        assert_eq!(surplus(Retention { age_max: Some(Duration::from_secs(11)), ..none }), 4);
        let both = Retention { segments_max: Some(4), bytes_max: Some(350), ..none };
        assert_eq!(surplus(both), 7);
    }

    #[test]
    fn the_newest_two_stay() {
        let none = Retention::default();
        for count in 0..4 {
            let retention = Retention { segments_max: Some(0), bytes_max: Some(0), ..none };
            let surplus = retention.surplus(&segments(count), Duration::MAX);
            assert_eq!(surplus, count.saturating_sub(2) as usize);
        }
    }
}
