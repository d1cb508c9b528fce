//! Rates: a bucket that fills at a steady rate and gives while there is enough in it.
//!
//! It is the generic cell rate algorithm (ITU-T I.371): one number says when the bucket is full again, so that it needs no
//! timer and is right however seldom it is looked at. Times are of the caller's clock, in milliseconds.
//!
//! A clock that is set back locks nobody out for longer than an empty bucket takes to fill.

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// How much may come: so many units a second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_s: u64,
    /// Time in which an empty bucket fills.
    fill_ns: u64,
}

impl Rate {
    /// At least one unit a second, and one at once.
    ///
    /// ```
    /// use megasock::ds::{Bucket, Rate};
    /// let (rate, mut bucket) = (Rate::new(10, 2), Bucket::FULL);
    /// assert!(bucket.take(2, &rate, 5_000) && !bucket.take(1, &rate, 5_099) && bucket.take(1, &rate, 5_100));
    /// ```
    pub const fn new(per_s: u64, at_once: u64) -> Rate {
        let per_s = if per_s == 0 { 1 } else { per_s };
        let at_once = if at_once == 0 { 1 } else { at_once };
        Rate { per_s, fill_ns: time_ns(at_once, per_s) }
    }

    /// Time in which an empty bucket has a unit again.
    pub const fn unit_ms(&self) -> u64 {
        time_ns(1, self.per_s).div_ceil(NS_PER_MS)
    }
}

/// Time in which so many units come in, rounded up: what is given is never more than the rate allows.
const fn time_ns(units: u64, per_s: u64) -> u64 {
    units.saturating_mul(NS_PER_S).div_ceil(per_s)
}

/// What is left of a rate's units: 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    full_at_ns: u64,
}

impl Bucket {
    /// One that nothing was taken from.
    pub const FULL: Bucket = Bucket { full_at_ns: 0 };

    /// Takes units, all or none; false if there are fewer.
    pub fn take(&mut self, units: u64, rate: &Rate, now_ms: u64) -> bool {
        let (full_at_ns, empty_at_ns) = self.bounds(rate, now_ms);
        let after_ns = full_at_ns.saturating_add(time_ns(units, rate.per_s));
        let has = after_ns <= empty_at_ns;
        self.full_at_ns = if has { after_ns } else { full_at_ns };
        has
    }

    /// Whether it is as good as one that nothing was taken from.
    pub fn is_full(&mut self, rate: &Rate, now_ms: u64) -> bool {
        (self.full_at_ns, _) = self.bounds(rate, now_ms);
        self.full_at_ns == now_ms.saturating_mul(NS_PER_MS)
    }

    /// When it is full, not before now, and when it would be if it were empty now.
    fn bounds(&self, rate: &Rate, now_ms: u64) -> (u64, u64) {
        let now_ns = now_ms.saturating_mul(NS_PER_MS);
        let empty_at_ns = now_ns.saturating_add(rate.fill_ns);
        (self.full_at_ns.clamp(now_ns, empty_at_ns), empty_at_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Starts of the clock: zero, where 32 bits of milliseconds wrap, and today.
    const STARTS_MS: [u64; 4] = [0, u32::MAX as u64 - 500, 1 << 40, 1_790_000_000_000];

    /// A bucket that is filled nanosecond by nanosecond: billionths of a unit in it.
    struct Naive {
        level: u128,
        level_max: u128,
        at_ms: u64,
    }

    impl Naive {
        fn take(&mut self, units: u64, per_s: u64, now_ms: u64) -> bool {
            let elapsed_ns = u128::from((now_ms - self.at_ms) * NS_PER_MS);
            self.at_ms = now_ms;
            self.level = self.level_max.min(self.level + elapsed_ns * u128::from(per_s));
            let wanted = u128::from(units) * u128::from(NS_PER_S);
            let has = wanted <= self.level;
            self.level -= if has { wanted } else { 0 };
            has
        }
    }

    proptest! {
        /// For rates whose units take whole nanoseconds the two agree to the unit, however long they run.
        #[test]
        fn it_gives_what_the_naive_one_gives(
            start in 0..STARTS_MS.len(),
            per_s in prop::sample::select(vec![1u64, 2, 8, 20, 50, 1_000, 1 << 9, 1_000_000]),
            at_once in 1u64..200,
            steps in prop::collection::vec((0u64..1_500, 0u64..120), 1..300),
        ) {
            let rate = Rate::new(per_s, at_once);
            let level_max = u128::from(at_once) * u128::from(NS_PER_S);
            let mut now_ms = STARTS_MS[start];
            let (mut bucket, mut naive) = (Bucket::FULL, Naive { level: level_max, level_max, at_ms: now_ms });
            for (pause_ms, units) in steps {
                // Most steps come close together, where it matters.
                now_ms += if pause_ms < 1_000 { pause_ms / 50 } else { pause_ms };
                prop_assert_eq!(bucket.take(units, &rate, now_ms), naive.take(units, per_s, now_ms));
                prop_assert_eq!(bucket.is_full(&rate, now_ms), naive.level == level_max);
            }
        }

        /// Whatever the rate and the clock do, no stretch of time gets more than what may come at once and what came in.
        #[test]
        fn it_never_gives_more_than_the_rate(
            per_s in 1u64..2_000_000_000,
            at_once in 1u64..4_000_000,
            steps in prop::collection::vec((0u64..3_000, 0u64..70_000), 1..100),
        ) {
            let rate = Rate::new(per_s, at_once);
            let (mut bucket, mut given, start_ms) = (Bucket::FULL, 0u128, 1_790_000_000_000);
            let mut now_ms = start_ms;
            for (pause_ms, units) in steps {
                now_ms += pause_ms;
                given += u128::from(units) * u128::from(bucket.take(units, &rate, now_ms));
                let came_in = u128::from(now_ms - start_ms) * u128::from(per_s) / 1_000;
                prop_assert!(given <= u128::from(at_once) + came_in + 1);
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_back_takes_no_more_than_what_is_left() {
        let (rate, mut bucket) = (Rate::new(1, 2), Bucket::FULL);
        assert!(bucket.take(2, &rate, 1_000_000_000));
        assert!(!bucket.take(1, &rate, 5) && !bucket.take(1, &rate, 1_004) && bucket.take(1, &rate, 1_005));
        assert!(!bucket.is_full(&rate, 3_004) && bucket.is_full(&rate, 3_005));
    }

    #[test]
    fn a_unit_that_no_bucket_holds_is_never_given() {
        let (rate, mut bucket) = (Rate::new(1_000, 10), Bucket::FULL);
        assert!(!bucket.take(11, &rate, 0) && !bucket.take(u64::MAX, &rate, 0) && bucket.take(10, &rate, 0));
        let mut full = Bucket::FULL;
        assert!(full.take(1, &Rate::new(0, 0), 0), "a rate of nothing is one a second");
    }
}
