//! The time of day, and what a thread has used of its core.

use std::time::SystemTime;

/// Milliseconds since 1970; 0 where the host's clock is set to before that.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// CPU time of the calling thread in microseconds, in the kernel too. A system call, unlike the time of day.
pub(super) fn thread_cpu_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec, to which it gets a pointer valid for the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0;
    if failed { 0 } else { time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn it_runs_while_the_thread_works_and_never_faster_than_the_wall() {
        let (begun_us, begun) = (thread_cpu_us(), Instant::now());
        while thread_cpu_us() < begun_us + 20_000 {
            assert!(begun.elapsed() < Duration::from_secs(60), "a thread at work takes no CPU time");
        }
        assert!(begun.elapsed() >= Duration::from_micros(19_999));
        let used_us = thread_cpu_us();
        std::thread::sleep(Duration::from_millis(50));
        assert!(thread_cpu_us() < used_us + 25_000, "a thread that sleeps takes CPU time");
    }
}
