//! What this process has used, for its metrics.

use std::fs;

/// CPU time of all threads so far in microseconds, in the kernel too.
pub fn cpu_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec, to which it gets a pointer valid for the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } != 0;
    if failed { 0 } else { time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000 }
}

/// The calling thread, as the kernel numbers it.
pub fn thread_id() -> u64 {
    // SAFETY: gettid takes nothing and cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as u64 }
}

/// How long a thread of this process was ready to run so far, in microseconds, and did not, because its CPU did something else. 0
/// where the kernel does not count it.
pub fn waited_us(thread_id: u64) -> u64 {
    // Nanoseconds that it ran, nanoseconds that it waited, how often it ran: Documentation/scheduler/sched-stats.rst.
    let counted = fs::read_to_string(format!("/proc/self/task/{thread_id}/schedstat")).unwrap_or_default();
    counted.split_whitespace().nth(1).and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0) / 1_000
}

/// Ordinary file descriptors open now, some per core: connections have direct ones, which `/proc` does not show. 0 where it
/// shows none.
pub fn open_descriptors() -> u64 {
    // Reading them takes one more.
    fs::read_dir("/proc/self/fd").map_or(0, |entries| (entries.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    #[test]
    fn work_takes_cpu_time() {
        let (begun_us, begun) = (cpu_us(), Instant::now());
        while cpu_us() < begun_us + 20_000 {
            assert!(begun.elapsed() < Duration::from_secs(60), "a process at work takes no CPU time");
        }
    }

    #[test]
    fn a_thread_waits_for_a_cpu_that_another_has() {
        if waited_us(thread_id()) == 0 && fs::read_to_string("/proc/self/schedstat").is_err() {
            return println!("this kernel does not count it");
        }
        let cpu = core_affinity::get_core_ids().expect("CPUs")[0];
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (say_id, id) = std::sync::mpsc::channel();
            for _ in 0..2 {
                let (say_id, is_over) = (say_id.clone(), &is_over);
                scope.spawn(move || {
                    core_affinity::set_for_current(cpu);
                    say_id.send(thread_id()).unwrap();
                    while !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let (one, other, begun) = (id.recv().unwrap(), id.recv().unwrap(), Instant::now());
            let have_waited = || waited_us(one) > 20_000 && waited_us(other) > 20_000;
            while !have_waited() && begun.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(5));
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(have_waited(), "two threads on one CPU: {} and {} us", waited_us(one), waited_us(other));
        });
        assert_eq!(waited_us(u64::MAX), 0, "no such thread");
    }

    #[test]
    fn an_open_file_is_counted() {
        // Other tests open and close files meanwhile.
        let many: Vec<_> = (0..500).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        assert!(open_descriptors() >= many.len() as u64);
    }
}
