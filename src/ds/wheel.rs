//! A timer wheel whose links live in the slots: arming, disarming and firing are O(1), and nothing is allocated.
//!
//! One timer a slot. A deadline beyond the horizon waits in the last bucket and is linked on when that comes round, so a
//! long timer costs one touch per turn of the wheel. Activity does not move a timer: its owner re-checks when it fires.

/// Buckets of the wheel: the farthest deadline linked directly.
pub const HORIZON_TICKS: u32 = 512;

const NONE: u32 = u32::MAX;
const FIRST_IN_BUCKET: u32 = 1 << 31;

/// The timer of one slot.
#[derive(Debug, Clone, Copy)]
pub struct Timer {
    /// Next slot of the bucket.
    next: u32,
    /// Previous slot of the bucket, or `FIRST_IN_BUCKET | bucket`; [`NONE`] while not armed.
    previous: u32,
    /// The tick it was armed for; valid while armed.
    deadline: u32,
}

impl Default for Timer {
    fn default() -> Timer {
        Timer { next: NONE, previous: NONE, deadline: 0 }
    }
}

impl Timer {
    /// True while it is in the wheel.
    pub fn is_armed(&self) -> bool {
        self.previous != NONE
    }

    /// The tick it is armed for.
    pub fn deadline(&self) -> Option<u32> {
        self.is_armed().then_some(self.deadline)
    }
}

/// Where the timers live.
pub trait Timers {
    /// The timer of `slot`.
    fn timer(&mut self, slot: u32) -> &mut Timer;
}

/// The buckets.
pub struct Wheel {
    heads: Box<[u32; HORIZON_TICKS as usize]>,
    /// One bit a bucket that is not empty.
    occupied: [u64; HORIZON_TICKS as usize / 64],
    now: u32,
}

impl Wheel {
    /// An empty wheel at tick `now`.
    pub fn new(now: u32) -> Wheel {
        Wheel { heads: Box::new([NONE; HORIZON_TICKS as usize]), occupied: [0; _], now }
    }

    /// Arms the timer of `slot` for `deadline`, at the next tick if that has passed. An armed timer moves.
    pub fn arm(&mut self, timers: &mut impl Timers, slot: u32, deadline: u32) {
        self.disarm(timers, slot);
        let ahead = deadline.saturating_sub(self.now).clamp(1, HORIZON_TICKS - 1);
        let bucket = (self.now.wrapping_add(ahead)) % HORIZON_TICKS;
        let head = std::mem::replace(&mut self.heads[bucket as usize], slot);
        self.occupied[bucket as usize / 64] |= 1 << (bucket % 64);
        *timers.timer(slot) = Timer { next: head, previous: FIRST_IN_BUCKET | bucket, deadline };
        if head != NONE {
            timers.timer(head).previous = slot;
        }
    }

    /// Disarms the timer of `slot`, armed or not.
    pub fn disarm(&mut self, timers: &mut impl Timers, slot: u32) {
        let Timer { next, previous, .. } = std::mem::take(timers.timer(slot));
        if previous == NONE {
            return;
        }
        if next != NONE {
            timers.timer(next).previous = previous;
        }
        if previous & FIRST_IN_BUCKET == 0 {
            timers.timer(previous).next = next;
            return;
        }
        let bucket = previous & !FIRST_IN_BUCKET;
        self.heads[bucket as usize] = next;
        if next == NONE {
            self.occupied[bucket as usize / 64] &= !(1 << (bucket % 64));
        }
    }

    /// Moves on to tick `now` and appends the slots whose deadline has come, disarmed, to `fired`.
    pub fn advance(&mut self, timers: &mut impl Timers, now: u32, fired: &mut Vec<u32>) {
        let steps = now.saturating_sub(self.now).min(HORIZON_TICKS);
        let first = now - steps;
        for tick in first + 1..=now {
            self.now = tick;
            let mut slot = self.heads[(tick % HORIZON_TICKS) as usize];
            while slot != NONE {
                let Timer { next, deadline, .. } = *timers.timer(slot);
                if deadline <= now {
                    self.disarm(timers, slot);
                    fired.push(slot);
                } else {
                    self.arm(timers, slot, deadline);
                }
                slot = next;
            }
        }
    }

    /// Ticks until a bucket that is not empty comes round; `None` when no timer is armed.
    pub fn next_in_ticks(&self) -> Option<u32> {
        let start = (self.now + 1) % HORIZON_TICKS;
        let words = self.occupied.len();
        for step in 0..=words {
            let word = (start as usize / 64 + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= !0 << (start % 64);
            } else if step == words {
                bits &= !(!0 << (start % 64));
            }
            if bits != 0 {
                let bucket = word as u32 * 64 + bits.trailing_zeros();
                return Some((bucket + HORIZON_TICKS - start) % HORIZON_TICKS + 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    struct Table(Vec<Timer>);

    impl Timers for Table {
        fn timer(&mut self, slot: u32) -> &mut Timer {
            &mut self.0[slot as usize]
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arm { slot: u32, ahead: u32 },
        Disarm { slot: u32 },
        Advance { ticks: u32 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..8, prop_oneof![0u32..20, 0u32..3000]).prop_map(|(slot, ahead)| Step::Arm { slot, ahead }),
            (0u32..8).prop_map(|slot| Step::Disarm { slot }),
            prop_oneof![0u32..10, 0u32..2000].prop_map(|ticks| Step::Advance { ticks }),
        ]
    }

    proptest! {
        #[test]
        fn fires_what_a_sorted_list_would(start in 0u32..2000, steps in prop::collection::vec(step(), 0..120)) {
            let mut table = Table(vec![Timer::default(); 8]);
            let mut wheel = Wheel::new(start);
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            let mut armed_beyond_horizon = false;
            let mut now = start;
            for step in steps {
                match step {
                    Step::Arm { slot, ahead } => {
                        wheel.arm(&mut table, slot, now + ahead);
                        armed_beyond_horizon |= ahead >= HORIZON_TICKS;
                        // A deadline that has passed fires at the next tick.
                        model.insert(slot, (now + ahead).max(now + 1));
                    }
                    Step::Disarm { slot } => {
                        wheel.disarm(&mut table, slot);
                        model.remove(&slot);
                    }
                    Step::Advance { ticks } => {
                        now += ticks;
                        let mut fired = Vec::new();
                        wheel.advance(&mut table, now, &mut fired);
                        fired.sort_unstable();
                        let expected: Vec<u32> =
                            model.iter().filter(|(_, due)| **due <= now).map(|(slot, _)| *slot).collect();
                        model.retain(|_, due| *due > now);
                        prop_assert_eq!(fired, expected);
                    }
                }
                let nearest = model.values().min().map(|due| due - now);
                match (wheel.next_in_ticks(), nearest) {
                    (None, None) => {}
                    // Never later than the nearest deadline; earlier only to link a far one on.
                    (Some(next), Some(nearest)) => {
                        prop_assert!(next >= 1 && next <= nearest);
                        prop_assert!(next == nearest || armed_beyond_horizon);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
                for slot in 0..8 {
                    prop_assert_eq!(table.0[slot as usize].is_armed(), model.contains_key(&slot));
                }
            }
        }
    }
}
