//! What this process has used, for its metrics.

use std::fs;

/// CPU time of all threads so far in microseconds, in the kernel too.
pub fn cpu_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec, to which it gets a pointer valid for the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } != 0;
    if failed { 0 } else { time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000 }
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
    use std::time::{Duration, Instant};

    #[test]
    fn work_takes_cpu_time() {
        let (begun_us, begun) = (cpu_us(), Instant::now());
        while cpu_us() < begun_us + 20_000 {
            assert!(begun.elapsed() < Duration::from_secs(60), "a process at work takes no CPU time");
        }
    }

    #[test]
    fn an_open_file_is_counted() {
        // Other tests open and close files meanwhile.
        let many: Vec<_> = (0..500).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        assert!(open_descriptors() >= many.len() as u64);
    }
}
