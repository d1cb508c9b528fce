//! CPU time: of a process from its threads' schedstat (nanoseconds on a core, exact once the thread sleeps), of the
//! whole host from /proc/stat (ticks of 10 ms, so only for windows of seconds).

use super::read;
use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// Processes whose CPU time is counted as one, and what each of their threads has used.
pub(crate) struct ProcessCpu {
    root: u32,
    with_descendants: bool,
    /// Nanoseconds by thread. A thread that ended keeps what it had used.
    threads: HashMap<u32, u64>,
}

impl ProcessCpu {
    /// Process `pid` with all its descendants.
    pub(crate) fn of(pid: u32) -> ProcessCpu {
        ProcessCpu { root: pid, with_descendants: true, threads: HashMap::new() }
    }

    /// This process without the server it may have started.
    pub(crate) fn of_this_program() -> ProcessCpu {
        ProcessCpu { root: std::process::id(), with_descendants: false, threads: HashMap::new() }
    }

    /// CPU time used so far, all threads of all processes.
    pub(crate) fn used(&mut self) -> Duration {
        let pids = if self.with_descendants { family(self.root) } else { vec![self.root] };
        for pid in pids {
            for thread in threads(pid) {
                let stat = read(&format!("/proc/{pid}/task/{thread}/schedstat"));
                if let Some(on_core_ns) = stat.split_whitespace().next().and_then(|ns| ns.parse().ok()) {
                    self.threads.insert(thread, on_core_ns);
                }
            }
        }
        Duration::from_nanos(self.threads.values().sum())
    }
}

/// How long threads were ready and waited for a core, and how often they got one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Waits {
    nanoseconds: u64,
    slices: u64,
}

impl Waits {
    /// So far, of the threads of `pid` whose names begin so.
    pub(crate) fn of(pid: u32, names: &str) -> Waits {
        let mut waits = Waits::default();
        for thread in threads(pid) {
            if !read(&format!("/proc/{pid}/task/{thread}/comm")).starts_with(names) {
                continue;
            }
            let stat = read(&format!("/proc/{pid}/task/{thread}/schedstat"));
            let mut numbers = stat.split_whitespace().skip(1).map(|number| number.parse().unwrap_or(0));
            waits.nanoseconds += numbers.next().unwrap_or(0);
            waits.slices += numbers.next().unwrap_or(0);
        }
        waits
    }

    /// Microseconds for each time on a core since `before`.
    pub(crate) fn us_each_since(self, before: Waits) -> f64 {
        let slices = self.slices.saturating_sub(before.slices).max(1);
        self.nanoseconds.saturating_sub(before.nanoseconds) as f64 / 1e3 / slices as f64
    }
}

/// A process and its descendants.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let mut pids = vec![root];
    let mut at = 0;
    while let Some(&pid) = pids.get(at) {
        at += 1;
        for thread in threads(pid) {
            let children = read(&format!("/proc/{pid}/task/{thread}/children"));
            pids.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    pids
}

fn threads(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Busy time of all cores together since boot.
pub(crate) fn host_busy() -> Duration {
    let stat = read("/proc/stat");
    let ticks: Vec<u64> =
        stat.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let busy: u64 =
        ticks.iter().enumerate().filter(|(at, _)| ![3, 4].contains(at) && *at < 8).map(|(_, t)| t).sum();
    Duration::from_millis(busy * 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn waits_are_those_of_the_named_threads() {
        let waits = |names| Waits::of(std::process::id(), names);
        let before = waits("");
        std::thread::sleep(Duration::from_millis(1));
        assert!(waits("").slices > before.slices);
        assert_eq!((waits("no such thread").slices, waits("").us_each_since(waits("")) >= 0.0), (0, true));
    }

    #[test]
    fn time_spent_shows_up_and_an_ended_thread_is_not_forgotten() {
        let mut cpu = ProcessCpu::of_this_program();
        let before = cpu.used();
        let spun = std::thread::spawn(|| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(30) {
                std::hint::spin_loop();
            }
            std::thread::sleep(Duration::from_millis(20)); // read below while it sleeps
        });
        std::thread::sleep(Duration::from_millis(40));
        let during = cpu.used();
        spun.join().unwrap();
        assert!(cpu.used() >= during && during > before);
    }
}
