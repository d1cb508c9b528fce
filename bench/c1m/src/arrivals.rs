//! When things happened, in steps of a tenth of a second, and how many came at most within a step and within a second.

use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

const STEP_US: u64 = 100_000;
const STEPS_PER_SECOND: usize = 10;
/// An hour: what comes later counts into the last step.
const STEPS_MAX: usize = 36_000;

/// Counts by step; all of one run begin at the same moment, so they can be added.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Arrivals(Vec<u32>);

impl Arrivals {
    /// Counts one, so long after the beginning.
    pub(crate) fn note(&mut self, after_us: u64) {
        let step = usize::try_from(after_us / STEP_US).unwrap_or(STEPS_MAX).min(STEPS_MAX - 1);
        if self.0.len() <= step {
            self.0.resize(step + 1, 0);
        }
        self.0[step] += 1;
    }

    pub(crate) fn add(&mut self, other: &Arrivals) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }

    /// Most in a step.
    pub(crate) fn peak_100ms(&self) -> u64 {
        self.0.iter().copied().max().unwrap_or(0).into()
    }

    /// Most in any ten steps one after another.
    pub(crate) fn peak_1s(&self) -> u64 {
        let whole = self.0.windows(STEPS_PER_SECOND).map(|steps| steps.iter().map(|n| u64::from(*n)).sum());
        whole.max().unwrap_or_else(|| self.0.iter().map(|n| u64::from(*n)).sum())
    }

    /// The second each step ends with, and the rate a second in it.
    pub(crate) fn per_second(&self) -> impl Iterator<Item = (f64, f64)> {
        let steps = STEPS_PER_SECOND as f64;
        self.0.iter().enumerate().map(move |(at, n)| ((at + 1) as f64 / steps, f64::from(*n) * steps))
    }
}

/// How much lay between two moments of which only these are known: of what took longer than a second nothing is.
///
/// A welcome is seen later than it is given, by as much as both ends are busy; so a second may seem to hold more of them than
/// it did. What was asked for and had within the same second was given in it for certain.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Within(BTreeMap<i64, i64>);

impl Within {
    /// One that was asked for and had so long after the beginning.
    pub(crate) fn note(&mut self, asked_us: u64, had_us: u64) {
        let [asked, had] = [asked_us, had_us].map(|us| (us / STEP_US) as i64);
        // The windows that hold both begin here, and from there on no more.
        let (first, beyond) = (had + 1 - STEPS_PER_SECOND as i64, asked + 1);
        if first < beyond {
            *self.0.entry(first).or_default() += 1;
            *self.0.entry(beyond).or_default() -= 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Within) {
        for (step, change) in &other.0 {
            *self.0.entry(*step).or_default() += change;
        }
    }

    /// Most in any second.
    pub(crate) fn peak_1s(&self) -> u64 {
        let mut now = 0;
        let after = self.0.values().map(|change| {
            now += change;
            now
        });
        after.max().unwrap_or(0).max(0) as u64
    }
}

impl Serialize for Arrivals {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_second_may_begin_at_any_step() {
        let mut arrivals = Arrivals::default();
        assert_eq!((arrivals.peak_100ms(), arrivals.peak_1s()), (0, 0));
        for ms in [0, 950, 1_040, 1_050, 1_900, 2_040, 9_000] {
            arrivals.note(ms * 1_000);
        }
        assert_eq!((arrivals.peak_100ms(), arrivals.peak_1s()), (2, 3));
        let mut other = Arrivals::default();
        other.note(1_090_000);
        other.note(u64::MAX);
        arrivals.add(&other);
        assert_eq!((arrivals.peak_100ms(), arrivals.peak_1s()), (3, 4));
    }

    #[test]
    fn only_what_began_and_ended_in_a_second_is_certain() {
        let mut within = Within::default();
        assert_eq!(within.peak_1s(), 0);
        for (asked_ms, had_ms) in [(0, 5_000), (4_100, 5_050), (4_950, 5_010), (5_020, 5_980), (5_990, 5_995)]
        {
            within.note(asked_ms * 1_000, had_ms * 1_000);
        }
        assert_eq!(within.peak_1s(), 2, "one may have been welcome four seconds before it was seen");
        let mut other = Within::default();
        other.note(5_100_000, 5_100_000);
        within.add(&other);
        assert_eq!(within.peak_1s(), 3);
    }

    #[test]
    fn less_than_a_second_is_all_there_is() {
        let mut arrivals = Arrivals::default();
        (0..5).for_each(|step| arrivals.note(step * STEP_US));
        assert_eq!(arrivals.peak_1s(), 5);
        assert_eq!(arrivals.per_second().last(), Some((0.5, 10.0)));
    }
}
