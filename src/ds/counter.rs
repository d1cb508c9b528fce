//! Numbers one thread writes and any thread reads, without a locked instruction.
//!
//! Readers see some recent value of each, not one moment of all.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number one thread writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts so many more. For the one writer.
    pub fn add(&self, more: u64) {
        // Not fetch_add: there is one writer, and readers only need some recent value.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Counts so many less. For the one writer.
    pub fn subtract(&self, less: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(less), Ordering::Relaxed);
    }

    /// For the one writer.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// A recent value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets of a [`Histogram`]; what is beyond the last bound is in the last.
pub const BUCKETS: usize = 56;

/// How often values of which size came. The bounds, two an octave, are the same for all: 1, 2, 3, 4, 6, 8, 12, 16 … 2^28; the
/// unit is the owner's. Recording is two additions, whatever the value.
#[derive(Debug)]
pub struct Histogram {
    counts: [Counter; BUCKETS],
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl Histogram {
    /// One value. For the one writer.
    pub fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    /// The same value so many times. For the one writer.
    pub fn record_many(&self, value: u64, times: u64) {
        self.counts[bucket(value)].add(times);
        self.sum.add(value.wrapping_mul(times));
    }

    /// What was recorded until now.
    pub fn get(&self) -> Distribution {
        Distribution { counts: std::array::from_fn(|at| self.counts[at].get()), sum: self.sum.get() }
    }
}

/// What a [`Histogram`], or several added up, held at some moment.
///
/// ```
/// use megasock::ds::Histogram;
/// let latency_us = Histogram::default();
/// (1..=1_000).for_each(|us| latency_us.record(us));
/// let seen = latency_us.get();
/// assert_eq!((seen.count(), seen.sum), (1_000, 500_500));
/// assert_eq!(seen.count_up_to(4), 4);
/// assert!((470..=530).contains(&seen.quantile(0.5)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// Values, by bucket.
    pub counts: [u64; BUCKETS],
    /// Of all values.
    pub sum: u64,
}

impl Default for Distribution {
    fn default() -> Distribution {
        Distribution { counts: [0; BUCKETS], sum: 0 }
    }
}

impl Distribution {
    /// Values in it.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Values not above `bound`, which is one of the bounds.
    pub fn count_up_to(&self, bound: u64) -> u64 {
        self.counts[..=bucket(bound)].iter().sum()
    }

    /// The value that so large a part (0 to 1) does not exceed; between bounds a straight line is assumed. 0 when it is empty.
    pub fn quantile(&self, part: f64) -> u64 {
        let rank = (self.count() as f64 * part.clamp(0.0, 1.0)).max(f64::MIN_POSITIVE);
        let mut before = 0.0;
        for (at, &count) in self.counts.iter().enumerate() {
            let count = count as f64;
            if count > 0.0 && before + count >= rank {
                let from = if at == 0 { 0 } else { bound(at - 1) };
                let way = (rank - before) / count;
                return from + ((bound(at) - from) as f64 * way).round() as u64;
            }
            before += count;
        }
        0
    }

    /// What came since an `earlier` look at the same.
    pub fn since(&self, earlier: &Distribution) -> Distribution {
        Distribution {
            counts: std::array::from_fn(|at| self.counts[at].saturating_sub(earlier.counts[at])),
            sum: self.sum.wrapping_sub(earlier.sum),
        }
    }
}

impl std::ops::AddAssign<&Distribution> for Distribution {
    fn add_assign(&mut self, other: &Distribution) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// The bucket of a value: the first whose bound is not below it.
fn bucket(value: u64) -> usize {
    let below = value.saturating_sub(1);
    let index = match below.checked_ilog2() {
        None => usize::from(value > 1),
        Some(0) => 1,
        Some(octave) => 2 * octave as usize + (below >> (octave - 1) & 1) as usize,
    };
    index.min(BUCKETS - 1)
}

/// The largest value of a bucket, but for the last one, which has no end.
pub const fn bound(bucket: usize) -> u64 {
    match bucket {
        0 | 1 => bucket as u64 + 1,
        even if even.is_multiple_of(2) => 3 << (even / 2 - 1),
        odd => 2 << (odd / 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_reaches_it() {
        for value in (0..10_000).chain((10..27).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1])) {
            let first = (0..BUCKETS).find(|&at| bound(at) >= value).unwrap_or(BUCKETS - 1);
            assert_eq!(bucket(value), first, "{value}");
        }
        assert_eq!(bound(BUCKETS - 1), 1 << 28);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_a_bucket() {
        let histogram = Histogram::default();
        (0..100_000u64).for_each(|at| histogram.record(at * at % 77_777));
        let mut values: Vec<u64> = (0..100_000u64).map(|at| at * at % 77_777).collect();
        values.sort_unstable();
        for part in [0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = values[((values.len() as f64 * part) as usize).saturating_sub(1)];
            let told = histogram.get().quantile(part);
            assert_eq!(
                bucket(told.max(1)).abs_diff(bucket(exact)).min(2) / 2,
                0,
                "{part}: {told} for {exact}"
            );
        }
        assert_eq!(Distribution::default().quantile(0.5), 0);
    }

    #[test]
    fn sums_and_differences() {
        let histogram = Histogram::default();
        histogram.record_many(7, 3);
        let before = histogram.get();
        histogram.record(100);
        let after = histogram.get();
        assert_eq!((after.since(&before).count(), after.since(&before).sum), (1, 100));
        let mut both = before.clone();
        both += &after.since(&before);
        assert_eq!(both, after);
    }
}
