//! Memory against its budget: measured on an ordinary thread of the server, shown to all cores as one number.
//!
//! The budget is the whole of what the host, and the control group, has, compared with all that is used of it, by whomever:
//! the kernel's killer makes no difference either. Where the operator set one, this process and its sockets must fit that
//! too; of the sockets it counts what each takes idle, for what their buffers hold the kernel tells of the host alone, and
//! there it is counted. Whichever is closest to its end counts, and what cannot be read is taken for enough.
//!
//! The thread also gives free memory back to the kernel, without which no room made would show. It ends with the last
//! reactor.

use super::tune::MemoryBudget;
use crate::budget::{self, Band};
use crate::ds::Counter;
use crate::reactor::{Counters, Gauge, Pressure};
use crate::sys::host::HostFacts;
use crate::sys::memory;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two looks, at most: also between two at how much free memory the heaps hold.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(2);

/// Between two looks, at least; one takes less than a hundredth of it.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(100);

/// The bands of all measures, by the pressure they make.
const BANDS: [(Pressure, Band); 3] = [
    (Pressure::Near, budget::MEMORY_NEAR),
    (Pressure::Over, budget::MEMORY_OVER),
    (Pressure::FarOver, budget::MEMORY_FAR_OVER),
];

/// Memory as the thread last saw it, for whoever looks.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Where the cores read how short it is.
    pub gauge: Arc<Gauge>,
    used_bytes: Counter,
    budget_bytes: Counter,
}

impl Seen {
    /// What it is at present.
    pub fn get(&self) -> MemoryUse {
        MemoryUse {
            used_bytes: self.used_bytes.get(),
            budget_bytes: self.budget_bytes.get(),
            pressure: self.gauge.get(),
        }
    }
}

/// Memory by that measure which is closest to its end: the host's, the control group's, or the one the operator set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// In use.
    pub used_bytes: u64,
    /// What there is; 0 where that is not known.
    pub budget_bytes: u64,
    /// What the cores do about it.
    pub pressure: Pressure,
}

/// Watches over the memory of one server.
pub(super) struct MemoryWatch {
    /// What the operator allows, now.
    pub budget: Arc<MemoryBudget>,
    /// Of all cores.
    pub counters: Vec<Arc<Counters>>,
    /// Where it is shown.
    pub seen: Arc<Seen>,
    /// Nothing is ever sent; it is cut off when the last reactor has ended.
    pub ended: Receiver<()>,
}

impl MemoryWatch {
    /// Starts the thread.
    pub fn start(self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("memory".to_owned()).spawn(move || self.run())
    }

    fn run(self) {
        let mut given_back: Option<Instant> = None;
        loop {
            if given_back.is_none_or(|at| at.elapsed() >= LOOK_EVERY_MAX) {
                memory::give_back();
                given_back = Some(Instant::now());
            }
            let usages = self.measure();
            let closest = usages.iter().max_by_key(|usage| usage.percent());
            if let Some(closest) = closest {
                self.seen.used_bytes.set(closest.used_bytes);
                self.seen.budget_bytes.set(closest.budget_bytes);
            }
            let (before, percent) = (self.seen.gauge.get(), closest.map_or(0, |usage| usage.percent()));
            let pressure = after(before, percent);
            if let Some(closest) = closest.filter(|_| pressure != before) {
                self.seen.gauge.set(pressure);
                announce(before, pressure, closest);
            }
            let next_look = usages.iter().map(Usage::next_look).min().unwrap_or(LOOK_EVERY_MAX);
            match self.ended.recv_timeout(next_look) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    }

    fn measure(&self) -> Vec<Usage> {
        let mut usages = Usage::of_host(&HostFacts::read());
        if let Some(budget_bytes) = self.budget.get() {
            let sockets: u64 = self.counters.iter().map(|core| core.slots_held.get()).sum();
            let used_bytes = memory::resident_bytes() + sockets * budget::KERNEL_PER_CONNECTION;
            usages.push(Usage { used_bytes, budget_bytes });
        }
        usages
    }
}

fn announce(before: Pressure, now: Pressure, usage: &Usage) {
    let (used_mib, budget_mib) = (usage.used_bytes >> 20, usage.budget_bytes >> 20);
    let measure = match now {
        Pressure::Calm => "newcomers are let in",
        Pressure::Near => "newcomers get 503",
        Pressure::Over => "newcomers get 503, idle connections are closed",
        Pressure::FarOver => "newcomers get 503, idle connections are closed, those that do not read are cut",
    };
    if now < before {
        return tracing::info!(used_mib, budget_mib, "more memory is free again: {measure}");
    }
    tracing::warn!(
        used_mib,
        budget_mib,
        "memory is short: {measure}; more of it (memory_budget, the control group's limit, the host's), or a lower \
         max_connections"
    );
}

/// Memory in use, and what there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    used_bytes: u64,
    budget_bytes: u64,
}

impl Usage {
    /// Of the host, and of the tightest control group.
    fn of_host(facts: &HostFacts) -> Vec<Usage> {
        let total_bytes = facts.memory_total_bytes;
        let used_bytes = total_bytes.saturating_sub(facts.memory_available_bytes);
        let host = Usage { used_bytes, budget_bytes: total_bytes };
        let group = facts
            .cgroup_memory
            .map(|group| Usage { used_bytes: group.used_bytes, budget_bytes: group.limit_bytes });
        std::iter::once(host).chain(group).collect()
    }

    /// Of the budget; 0 where that is not known.
    fn percent(&self) -> u64 {
        let percent = u128::from(self.used_bytes) * 100 / u128::from(self.budget_bytes.max(1));
        if self.budget_bytes == 0 { 0 } else { percent.try_into().unwrap_or(u64::MAX) }
    }

    /// In a time in which it cannot have become short unseen.
    fn next_look(&self) -> Duration {
        let near_bytes = self.budget_bytes / 100 * budget::MEMORY_NEAR.from_percent;
        let left_bytes = near_bytes.saturating_sub(self.used_bytes);
        let rise_ms = left_bytes / (budget::MEMORY_RISE_PER_SECOND / 1000);
        Duration::from_millis(rise_ms).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX)
    }
}

/// The pressure at `percent` of the budget, where it was `before`.
fn after(before: Pressure, percent: u64) -> Pressure {
    let holds = |(pressure, band): &(Pressure, Band)| {
        percent >= if *pressure <= before { band.until_percent } else { band.from_percent }
    };
    BANDS.into_iter().rev().find(holds).map_or(Pressure::Calm, |(pressure, _)| pressure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::host::{CgroupMemory, roomy};
    use Pressure::{Calm, FarOver, Near, Over};

    #[test]
    fn pressure_rises_at_one_mark_and_falls_at_a_lower_one() {
        let course = [
            (0, Calm),
            (89, Calm),
            (90, Near),
            (85, Near),
            (94, Near),
            (95, Over),
            (90, Over),
            (89, Near),
            (97, Over),
            (98, FarOver),
            (95, FarOver),
            (94, Over),
            (85, Near),
            (84, Calm),
            (1_000, FarOver),
            (0, Calm),
        ];
        let mut pressure = Calm;
        for (percent, expected) in course {
            pressure = after(pressure, percent);
            assert_eq!(pressure, expected, "{percent} %");
        }
    }

    #[test]
    fn bands_are_in_order_and_lead_to_calm_from_anywhere() {
        for pair in BANDS.windows(2) {
            assert!(pair[0].0 < pair[1].0 && pair[0].1.from_percent < pair[1].1.from_percent);
            assert!(pair[0].1.until_percent < pair[1].1.until_percent);
        }
        for before in Pressure::ALL {
            assert_eq!((after(before, 0), after(before, 100)), (Calm, FarOver));
            for percent in 0..=120 {
                let settled = after(before, percent);
                assert_eq!(after(settled, percent), settled, "{before:?} at {percent} %");
            }
        }
    }

    #[test]
    fn host_and_control_group_are_measured_each_for_itself() {
        let percents =
            |facts: &HostFacts| Usage::of_host(facts).iter().map(Usage::percent).collect::<Vec<_>>();
        let host = HostFacts { memory_total_bytes: 1_000, memory_available_bytes: 300, ..roomy() };
        assert_eq!(percents(&host), [70]);
        for (limit_bytes, percent) in [(100, 95), (1_000, 9), (0, 0)] {
            let cgroup_memory = Some(CgroupMemory { limit_bytes, used_bytes: 95 });
            assert_eq!(percents(&HostFacts { cgroup_memory, ..host.clone() }), [70, percent]);
        }
        let unknown = HostFacts { memory_total_bytes: 0, memory_available_bytes: 0, ..host };
        assert_eq!(percents(&unknown), [0]);
    }

    #[test]
    fn it_looks_more_often_the_less_is_left() {
        let look = |used_bytes| Usage { used_bytes, budget_bytes: 1 << 30 }.next_look();
        assert_eq!(
            (look(0), look(1 << 30), look(u64::MAX)),
            (LOOK_EVERY_MAX, LOOK_EVERY_MIN, LOOK_EVERY_MIN)
        );
        assert!(look(850 << 20) > LOOK_EVERY_MIN && look(850 << 20) < LOOK_EVERY_MAX);
    }

    #[test]
    fn all_of_a_small_budget_is_used_and_the_thread_ends_with_the_reactors() {
        let (alive, ended) = crossbeam_channel::bounded(0);
        let seen = Arc::new(Seen::default());
        let budget = Arc::new(MemoryBudget::new(Some(1 << 20)));
        let watch = MemoryWatch { budget, counters: Vec::new(), seen: Arc::clone(&seen), ended };
        assert!(watch.measure().last().is_some_and(|own| own.percent() > 100));
        let thread = watch.start().unwrap();
        drop(alive);
        thread.join().unwrap();
        let now = seen.get();
        assert_eq!((now.pressure, now.budget_bytes), (FarOver, 1 << 20));
        assert!(now.used_bytes > now.budget_bytes);
    }
}
