//! When a client comes back: the rule of `clients/js` (its `Backoff` and `CLOSE_CODES`), in the same words.
//!
//! The n-th failure in a row is followed by a random delay below min(30 s, 1 s · 2ⁿ), the first cut by one below 1 s; a delay
//! that the server gave is kept exactly. A connection that lasted ten seconds makes the next failure the first again. Pure:
//! chance and time are arguments.

const BASE_MS: f64 = 1_000.0;
const CAP_MS: f64 = 30_000.0;
const STABLE_MS: u64 = 10_000;
/// A hint beyond this is held for a mistake.
const HINT_MS_MAX: u64 = 3_600_000;

/// What the code of a Close means to the client it is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Come back by the schedule.
    Retry,
    /// Come back, but from the far end of the schedule.
    Slow,
    /// Stay away: it was meant, or the token no longer serves.
    Stop,
}

impl Meaning {
    pub(crate) fn of(code: Option<u16>) -> Meaning {
        match code {
            Some(1000 | 4001 | 4401) => Meaning::Stop,
            Some(1002 | 1003 | 1007 | 1008 | 1009) => Meaning::Slow,
            _ => Meaning::Retry,
        }
    }
}

/// One client's count of failures in a row.
#[derive(Default, Clone, Copy)]
pub(crate) struct Backoff {
    failures: u8,
}

impl Backoff {
    /// The delay before the next attempt. `lasted_ms` is how long the connection that ended had been welcome, `None` if it
    /// never was; `random` lies in 0..1.
    pub(crate) fn next_ms(
        &mut self,
        lasted_ms: Option<u64>,
        hint_ms: Option<u64>,
        slow: bool,
        random: f64,
    ) -> u64 {
        if lasted_ms.is_some_and(|lasted| lasted >= STABLE_MS) {
            self.failures = 0;
        }
        let ceiling_ms = CAP_MS.min(BASE_MS * 2f64.powi(self.failures.into()));
        self.failures = self.failures.saturating_add(1);
        match hint_ms {
            Some(hint) => hint.min(HINT_MS_MAX),
            None if slow => (CAP_MS - random * (CAP_MS / 2.0)) as u64,
            None => (random * ceiling_ms) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEARLY_ONE: f64 = 1.0 - 1e-9;

    #[test]
    fn the_ceiling_doubles_to_the_cap_and_a_stable_connection_resets_it() {
        let mut backoff = Backoff::default();
        let mut next = |lasted| backoff.next_ms(lasted, None, false, NEARLY_ONE);
        let ceilings: Vec<u64> = (0..7).map(|_| next(None)).collect();
        assert_eq!(ceilings, [999, 1_999, 3_999, 7_999, 15_999, 29_999, 29_999]);
        assert_eq!(next(Some(STABLE_MS - 1)), 29_999, "not stable yet");
        assert_eq!(next(Some(STABLE_MS)), 999);
        assert_eq!(backoff.next_ms(None, None, false, 0.0), 0, "full jitter reaches down to nothing");
    }

    #[test]
    fn a_hint_is_kept_exactly_and_counts_as_a_failure() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next_ms(Some(STABLE_MS), Some(5_312), true, 0.5), 5_312);
        assert_eq!(backoff.next_ms(None, None, false, NEARLY_ONE), 1_999);
        assert_eq!(backoff.next_ms(None, Some(u64::MAX), false, 0.5), HINT_MS_MAX);
    }

    #[test]
    fn a_client_the_server_minds_comes_back_late_or_not_at_all() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next_ms(None, None, true, 0.0), 30_000);
        assert_eq!(backoff.next_ms(None, None, true, NEARLY_ONE), 15_000);
        let meanings = [Some(1012), Some(1013), None, Some(1008), Some(4001), Some(1000)].map(Meaning::of);
        use Meaning::{Retry, Slow, Stop};
        assert_eq!(meanings, [Retry, Retry, Retry, Slow, Stop, Stop]);
    }
}
