//! How a whole server stops: over which time its connections are closed, and over which their clients come back.
//!
//! Clients come back at the time of their Close and a delay of their own after it. Both are spread evenly, so no more come back
//! in a second than the wider of the two spreads has: the delays are spread as widely as the rate demands, whatever time there
//! is for the Closes.
//!
//! Where nobody takes over, who came back at once would find this process still there, be refused, and come with all the
//! others when the next one listens. So all delays begin when this process has ended and another one has been started.

use crate::config::Config;
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
    /// No client is asked back before this; zero when another process takes over.
    pub returns_after: Duration,
    /// They are asked to come back at times spread over this one, each counted from its own Close, or from `returns_after` if
    /// that is later.
    pub returns_over: Duration,
    /// Connections still open after this are cut.
    pub timeout: Duration,
    /// Another process serves the address and takes the newcomers; without it they get a 503.
    pub is_handed_over: bool,
}

/// A server that was told to stop and has not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopping {
    /// Connections open when it was first told to.
    pub clients: u64,
    /// Connections still open at this moment are cut.
    pub deadline: Instant,
    /// Another process serves the address and takes the newcomers.
    pub is_handed_over: bool,
}

/// A drain that has begun, and by when it does what it announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begun {
    announced: Drain,
    closes_end: Instant,
    returns_begin: Instant,
    deadline: Instant,
}

impl Begun {
    pub fn new(drain: Drain, now: Instant) -> Begun {
        Begun {
            announced: drain,
            closes_end: now + drain.closes_over,
            returns_begin: now + drain.returns_after,
            deadline: now + drain.timeout,
        }
    }

    /// After it was told once more: the time only gets shorter, as on every core. Clients have been told already when to
    /// come back.
    pub fn shortened(self, again: Begun) -> Begun {
        let is_handed_over = self.announced.is_handed_over || again.announced.is_handed_over;
        Begun {
            announced: Drain { is_handed_over, ..self.announced },
            closes_end: self.closes_end.min(again.closes_end),
            returns_begin: self.returns_begin,
            deadline: self.deadline.min(again.deadline),
        }
    }

    /// What is going to happen, its times counted from now.
    pub fn left_at(&self, now: Instant) -> Drain {
        Drain {
            closes_over: self.closes_end.saturating_duration_since(now),
            returns_after: self.returns_begin.saturating_duration_since(now),
            timeout: self.deadline.saturating_duration_since(now),
            ..self.announced
        }
    }

    pub fn stopping(&self) -> Stopping {
        let Drain { clients, is_handed_over, .. } = self.announced;
        Stopping { clients, deadline: self.deadline, is_handed_over }
    }
}

/// What the operator says of a drain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Clients that may come back in a second.
    pub reconnect_rate: u32,
    /// Time for a closing handshake.
    pub close_timeout: Duration,
    /// Time for the start of the next process; `None`: clients come back to others.
    pub restart_time: Option<Duration>,
}

impl Terms {
    pub fn of(config: &Config) -> Terms {
        Terms {
            reconnect_rate: config.reconnect_rate,
            close_timeout: Duration::from_millis(config.close_timeout_ms),
            restart_time: config.restart_time_ms.map(Duration::from_millis),
        }
    }
}

impl Drain {
    /// For so many clients.
    pub(super) fn new(clients: u64, terms: &Terms, timeout: Duration, is_handed_over: bool) -> Drain {
        let spread_ms = clients.saturating_mul(1_000).div_ceil(terms.reconnect_rate.max(1).into());
        let window_ms = spread_ms.saturating_add(spread_ms / RETURN_WINDOW_MARGIN).max(RETURN_WINDOW_MS_MIN);
        let spread = Duration::from_millis(spread_ms);
        // Well before the deadline, so that the closing handshakes fit in.
        let closes_over = (timeout / 5 * 4).min(spread);
        // Some do not answer their Close. Few clients keep the rate whenever they come, and need not wait for those.
        let ends_within = timeout.min(closes_over + terms.close_timeout.min(spread));
        let restart_time = terms.restart_time.filter(|_| !is_handed_over);
        Drain {
            clients,
            closes_over,
            returns_after: restart_time.map_or(Duration::ZERO, |restart| ends_within + restart),
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
            return_after_ms: ms(self.returns_after),
            leaves: self.is_handed_over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{Pace, Returns, TICK_MS};
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Clients of one core: how many, where its sequence of delays starts, and which of them, in thousandths, wait for their
    /// Close; the others leave as soon as they are told.
    type Clients = (u32, u32, u32);

    fn terms(reconnect_rate: u32) -> Terms {
        Terms { reconnect_rate, close_timeout: 5 * SECOND, restart_time: Some(2 * SECOND) }
    }

    /// When the last one is closed, and when the clients of all cores come back, in milliseconds from the order: each core
    /// tells its own in the order in which it closes them.
    fn returns_ms(drain: &Drain, cores: &[Clients]) -> (u64, Vec<u64>) {
        let order = drain.order();
        let (mut end_ms, mut all) = (0, Vec::new());
        for &(clients, start, staying) in cores {
            let pace = Pace { clients, began_tick: 0, end_tick: order.close_ticks };
            let mut returns = Returns::new(start, &order);
            let delays_ms: Vec<u64> = (0..clients).map(|_| returns.next_ms(&pace)).collect();
            let mut waiting = (0u32..)
                .zip(delays_ms)
                .filter(|(client, _)| client.wrapping_mul(389) % 1_000 < staying)
                .peekable();
            let mut begun = clients - waiting.clone().count() as u32;
            for tick in 0..=order.close_ticks {
                let at_ms = u64::from(tick) * TICK_MS;
                while let Some((_, delay_ms)) = waiting.next_if(|_| begun < pace.due(tick)) {
                    begun += 1;
                    end_ms = at_ms.max(end_ms);
                    all.push(at_ms + delay_ms);
                }
            }
            assert!(waiting.next().is_none(), "all are closed in time");
        }
        all.sort_unstable();
        (end_ms, all)
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
        fn no_second_brings_back_more_than_the_rate_and_none_before_there_is_a_server(
            cores in prop::collection::vec((0u32..4_000, any::<u32>(), 0u32..=1_000), 1..6),
            rate in 20u32..5_000,
            timeout_s in 1u64..90,
            restart_s in prop::option::of(1u64..10),
            is_handed_over: bool,
        ) {
            let clients: u32 = cores.iter().map(|(clients, ..)| clients).sum();
            let terms = Terms { restart_time: restart_s.map(Duration::from_secs), ..terms(rate) };
            let drain = Drain::new(clients.into(), &terms, Duration::from_secs(timeout_s), is_handed_over);
            let (end_ms, returns_ms) = returns_ms(&drain, &cores);
            let last_ms = returns_ms.last().copied().unwrap_or(0);
            let all_within = drain.closes_over + drain.returns_after + drain.returns_over;
            prop_assert!(last_ms <= all_within.as_millis() as u64 + TICK_MS);
            match restart_s.filter(|_| !is_handed_over) {
                Some(restart_s) => prop_assert!(returns_ms.iter().all(|at| *at + TICK_MS >= end_ms + restart_s * 1_000)),
                None => prop_assert_eq!(drain.returns_after, Duration::ZERO),
            }
            // Even, but not to the client: the sequence has a discrepancy that grows with the logarithm of its length, and ticks
            // come in between. Delays drawn at random would exceed the rate by its square root, many times.
            let peak = peak(&returns_ms);
            prop_assert!(peak <= rate as usize * 9 / 8 + 8 * cores.len(), "{} at {} a second", peak, rate);
        }
    }

    #[test]
    fn a_hundred_thousand_come_back_as_announced() {
        let cores = [(50_900, 7, 1_000), (49_100, 1 << 31, 1_000)];
        for (is_handed_over, begin_s) in [(true, 0u64), (false, 24 + 5 + 2)] {
            let drain = Drain::new(100_000, &terms(2_000), 30 * SECOND, is_handed_over);
            assert_eq!(drain.closes_over, 24 * SECOND, "faster than the rate, for the deadline");
            assert_eq!(
                (drain.returns_after, drain.returns_over),
                (Duration::from_secs(begin_s), Duration::from_millis(53_125))
            );
            let (_, returns_ms) = returns_ms(&drain, &cores);
            let first_ms = returns_ms[0];
            assert!((begin_s * 1_000..begin_s * 1_000 + 1_000).contains(&(first_ms + TICK_MS)), "{first_ms}");
            let peak = peak(&returns_ms);
            assert!((1_800..=2_000).contains(&peak), "{peak}");
        }
    }

    #[test]
    fn few_go_at_once_and_come_back_within_a_second() {
        let drain = Drain::new(20, &terms(2_000), 30 * SECOND, false);
        let times = (drain.closes_over, drain.returns_after, drain.returns_over);
        assert_eq!(times, (Duration::from_millis(10), Duration::from_millis(2_020), SECOND));
        assert_eq!(drain.order().close_ticks, 1);
    }

    #[test]
    fn nobody_waits_longer_than_for_the_deadline_and_the_restart() {
        let drain = Drain::new(100_000, &terms(2_000), 10 * SECOND, false);
        assert_eq!((drain.closes_over, drain.returns_after), (8 * SECOND, 12 * SECOND));
        let elsewhere = Terms { restart_time: None, ..terms(2_000) };
        assert_eq!(Drain::new(100_000, &elsewhere, 10 * SECOND, false).returns_after, Duration::ZERO);
    }

    #[test]
    fn told_again_it_announces_the_times_that_are_left() {
        let (began, terms) = (Instant::now(), terms(1_000));
        let first = Drain::new(8_000, &terms, 30 * SECOND, false);
        let begun = Begun::new(first, began);
        assert_eq!((begun.left_at(began), first.closes_over), (first, 8 * SECOND));
        assert_eq!(first.returns_after, (8 + 5 + 2) * SECOND);

        let now = began + 3 * SECOND;
        let later = begun.shortened(Begun::new(Drain::new(5_500, &terms, 60 * SECOND, true), now));
        let left = Drain {
            closes_over: 5 * SECOND,
            returns_after: 12 * SECOND,
            timeout: 27 * SECOND,
            is_handed_over: true,
            ..first
        };
        assert_eq!(later.left_at(now), left, "no later");

        let sooner = later.shortened(Begun::new(Drain::new(5_000, &terms, 5 * SECOND, false), now));
        assert_eq!(sooner.left_at(now), Drain { closes_over: 4 * SECOND, timeout: 5 * SECOND, ..left });
        let stopping = Stopping { clients: 8_000, deadline: now + 5 * SECOND, is_handed_over: true };
        assert_eq!(sooner.stopping(), stopping);
        let none = Duration::ZERO;
        let over = Drain { closes_over: none, timeout: none, returns_after: 3 * SECOND, ..left };
        assert_eq!(sooner.left_at(now + 9 * SECOND), over);
    }

    #[test]
    fn no_time_is_no_time_for_closes() {
        let drain = Drain::new(1_000_000, &terms(1), Duration::ZERO, true);
        assert_eq!((drain.order().timeout_ticks, drain.order().close_ticks), (1, 1));
        assert!(drain.order().leaves);
    }
}
