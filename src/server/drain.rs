//! How a whole server stops: over which time its connections are closed, and over which their clients come back.
//!
//! Clients come back at the time of their Close and a delay of their own after it. Both are spread evenly, so no more come back
//! in a second than the wider of the two spreads has: the delays are spread as widely as the rate demands, whatever time there
//! is for the Closes.

use crate::reactor::{DrainOrder, ticks};
use std::time::{Duration, Instant};

/// The shortest time over which clients come back.
const RETURN_WINDOW_MS_MIN: u64 = 1_000;

/// The window is so much longer than the rate demands, one part in this, as even spreads still have edges.
const RETURN_WINDOW_MARGIN: u64 = 16;

/// What a server that was told to stop does about it, see [`crate::Handle::stop`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Connections open when it was told to.
    pub clients: u64,
    /// Their Closes are spread over this time.
    pub closes_over: Duration,
    /// They are asked to come back at times spread over this one, each counted from its own Close.
    pub returns_over: Duration,
    /// What is left then is cut.
    pub timeout: Duration,
    /// Another process serves the address and takes the newcomers; without it they get a 503.
    pub is_handed_over: bool,
}

/// A server that was told to stop and has not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopping {
    /// Connections open when it was first told to.
    pub clients: u64,
    /// What is left then is cut.
    pub deadline: Instant,
    /// Another process serves the address and takes the newcomers.
    pub is_handed_over: bool,
}

/// A drain that has begun, and by when it does what it announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begun {
    announced: Drain,
    closes_end: Instant,
    deadline: Instant,
}

impl Begun {
    pub fn new(drain: Drain, now: Instant) -> Begun {
        Begun { announced: drain, closes_end: now + drain.closes_over, deadline: now + drain.timeout }
    }

    /// After it was told once more: the time only gets shorter, as on every core. Clients have been told already when to
    /// come back.
    pub fn shortened(self, again: Begun) -> Begun {
        let is_handed_over = self.announced.is_handed_over || again.announced.is_handed_over;
        Begun {
            announced: Drain { is_handed_over, ..self.announced },
            closes_end: self.closes_end.min(again.closes_end),
            deadline: self.deadline.min(again.deadline),
        }
    }

    /// What is going to happen, its times counted from now.
    pub fn left_at(&self, now: Instant) -> Drain {
        Drain {
            closes_over: self.closes_end.saturating_duration_since(now),
            timeout: self.deadline.saturating_duration_since(now),
            ..self.announced
        }
    }

    pub fn stopping(&self) -> Stopping {
        let Drain { clients, is_handed_over, .. } = self.announced;
        Stopping { clients, deadline: self.deadline, is_handed_over }
    }
}

impl Drain {
    /// For so many clients, of which `reconnect_rate` may come back in a second.
    pub(super) fn new(clients: u64, reconnect_rate: u32, timeout: Duration, is_handed_over: bool) -> Drain {
        let spread_ms = clients.saturating_mul(1_000).div_ceil(reconnect_rate.max(1).into());
        let window_ms = spread_ms.saturating_add(spread_ms / RETURN_WINDOW_MARGIN).max(RETURN_WINDOW_MS_MIN);
        // Well before the deadline, so that the closing handshakes fit in.
        let closes_over = (timeout / 5 * 4).min(Duration::from_millis(spread_ms));
        Drain {
            clients,
            closes_over,
            returns_over: Duration::from_millis(window_ms),
            timeout,
            is_handed_over,
        }
    }

    /// What each core does.
    pub(super) fn order(&self) -> DrainOrder {
        let ms = |time: Duration| time.as_millis().try_into().unwrap_or(u64::MAX);
        DrainOrder {
            timeout_ticks: ticks(ms(self.timeout)),
            close_ticks: ticks(ms(self.closes_over)),
            return_window_ms: ms(self.returns_over),
            leaves: self.is_handed_over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{Pace, Returns, TICK_MS};
    use proptest::prelude::*;

    /// When the clients of all cores come back, in milliseconds from the order: each tells its own in the order it closes
    /// them.
    fn returns_ms(drain: &Drain, cores: &[(u32, u32)]) -> Vec<u64> {
        let order = drain.order();
        let mut all = Vec::new();
        for &(clients, start) in cores {
            let pace = Pace { clients, began_tick: 0, end_tick: order.close_ticks };
            let mut returns = Returns::new(start, order.return_window_ms);
            let mut closed = 0;
            for tick in 0..=order.close_ticks {
                while closed < pace.due(tick).min(clients) {
                    closed += 1;
                    all.push(u64::from(tick) * TICK_MS + returns.next_ms());
                }
            }
            assert_eq!(closed, clients, "all are closed in time");
        }
        all.sort_unstable();
        all
    }

    /// Most that come back within any second.
    fn peak(returns_ms: &[u64]) -> usize {
        let in_second =
            |(at, from): (usize, &u64)| returns_ms[at..].iter().take_while(|to| **to < from + 1_000).count();
        returns_ms.iter().enumerate().map(in_second).max().unwrap_or(0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_second_brings_back_more_than_the_rate(
            cores in prop::collection::vec((0u32..4_000, any::<u32>()), 1..6),
            rate in 20u32..5_000,
            timeout_s in 1u64..90,
        ) {
            let clients: u32 = cores.iter().map(|(clients, _)| clients).sum();
            let drain = Drain::new(clients.into(), rate, Duration::from_secs(timeout_s), false);
            let returns_ms = returns_ms(&drain, &cores);
            let last_ms = returns_ms.last().copied().unwrap_or(0);
            prop_assert!(last_ms <= (drain.closes_over + drain.returns_over).as_millis() as u64 + TICK_MS);
            // Even, but not to the client: the sequence has a discrepancy that grows with the logarithm of its length, and ticks
            // come in between. Delays drawn at random would exceed the rate by its square root, many times.
            let peak = peak(&returns_ms);
            prop_assert!(peak <= rate as usize * 9 / 8 + 8 * cores.len(), "{} at {} a second", peak, rate);
        }
    }

    #[test]
    fn a_hundred_thousand_come_back_as_announced() {
        let drain = Drain::new(100_000, 2_000, Duration::from_secs(30), false);
        assert_eq!(drain.closes_over, Duration::from_secs(24), "faster than the rate, for the deadline");
        assert_eq!(drain.returns_over, Duration::from_millis(53_125));
        let peak = peak(&returns_ms(&drain, &[(50_900, 7), (49_100, 1 << 31)]));
        assert!((1_800..=2_000).contains(&peak), "{peak}");
    }

    #[test]
    fn few_go_at_once_and_come_back_within_a_second() {
        let drain = Drain::new(20, 2_000, Duration::from_secs(30), false);
        assert_eq!(
            (drain.closes_over, drain.returns_over),
            (Duration::from_millis(10), Duration::from_secs(1))
        );
        assert_eq!(drain.order().close_ticks, 1);
    }

    #[test]
    fn told_again_it_announces_the_times_that_are_left() {
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let first = Drain::new(8_000, 1_000, 30 * second, false);
        let begun = Begun::new(first, began);
        assert_eq!((begun.left_at(began), first.closes_over), (first, 8 * second));

        let now = began + 3 * second;
        let later = begun.shortened(Begun::new(Drain::new(5_500, 1_000, 60 * second, true), now));
        let left = Drain { closes_over: 5 * second, timeout: 27 * second, is_handed_over: true, ..first };
        assert_eq!(later.left_at(now), left, "no later");

        let sooner = later.shortened(Begun::new(Drain::new(5_000, 1_000, 5 * second, false), now));
        assert_eq!(sooner.left_at(now), Drain { closes_over: 4 * second, timeout: 5 * second, ..left });
        let stopping = Stopping { clients: 8_000, deadline: now + 5 * second, is_handed_over: true };
        assert_eq!(sooner.stopping(), stopping);
        let over = Drain { closes_over: Duration::ZERO, timeout: Duration::ZERO, ..left };
        assert_eq!(sooner.left_at(now + 9 * second), over);
    }

    #[test]
    fn no_time_is_no_time_for_closes() {
        let drain = Drain::new(1_000_000, 1, Duration::ZERO, true);
        assert_eq!((drain.order().timeout_ticks, drain.order().close_ticks), (1, 1));
        assert!(drain.order().leaves);
    }
}
