//! Memory four ways: resident, kernel slab by cache, TCP buffers, and what the host says is still available. Each
//! misses something the others see.

use super::{cpu, number_after, read};
use std::collections::BTreeMap;

const PAGE_BYTES: u64 = 4096;

/// Memory at one moment. Absent: this user may not read it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Resident bytes of the server, when it runs here.
    pub(crate) server_rss_bytes: Option<u64>,
    pub(crate) driver_rss_bytes: u64,
    /// Bytes of kernel slab by cache.
    pub(crate) slab_bytes: Option<BTreeMap<String, u64>>,
    /// Bytes of TCP buffers (sockstat).
    pub(crate) tcp_buffer_bytes: u64,
    pub(crate) available_bytes: u64,
}

impl Memory {
    pub(crate) fn now(server_pid: Option<u32>) -> Memory {
        Memory {
            server_rss_bytes: server_pid.map(rss_bytes),
            driver_rss_bytes: resident(std::process::id()),
            slab_bytes: std::fs::read_to_string("/proc/slabinfo").ok().map(|text| slab(&text)),
            tcp_buffer_bytes: tcp_buffer_bytes(),
            available_bytes: kib(&read("/proc/meminfo"), "MemAvailable:"),
        }
    }

    /// Bytes of slab that came since `before`, by cache.
    pub(crate) fn slab_since(&self, before: &Memory) -> Option<BTreeMap<String, i64>> {
        let (now, then) = (self.slab_bytes.as_ref()?, before.slab_bytes.as_ref()?);
        let grown = |(name, bytes): (&String, &u64)| {
            (name.clone(), *bytes as i64 - then.get(name).copied().unwrap_or(0) as i64)
        };
        Some(now.iter().map(grown).filter(|(_, bytes)| *bytes != 0).collect())
    }
}

/// Resident bytes of a process and its descendants, exact (smaps_rollup); the kernel's own counters lag by some pages
/// a core.
pub(crate) fn rss_bytes(pid: u32) -> u64 {
    cpu::family(pid).into_iter().map(resident).sum()
}

fn resident(pid: u32) -> u64 {
    kib(&read(&format!("/proc/{pid}/smaps_rollup")), "Rss:")
}

/// Resident bytes from the counters: cheap enough for a progress bar.
pub(crate) fn rss_bytes_roughly(pid: u32) -> u64 {
    kib(&read(&format!("/proc/{pid}/status")), "VmRSS:")
}

/// Bytes of all TCP buffers.
pub(crate) fn tcp_buffer_bytes() -> u64 {
    let sockstat = read("/proc/net/sockstat");
    let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = tcp.split_whitespace().skip_while(|word| *word != "mem").nth(1);
    pages.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * PAGE_BYTES
}

/// Kernel slab as a whole.
pub(crate) fn slab_total_bytes() -> u64 {
    kib(&read("/proc/meminfo"), "Slab:")
}

fn kib(text: &str, name: &str) -> u64 {
    number_after(text, name).unwrap_or(0) * 1024
}

/// Bytes of each cache: slabs × pages a slab, which counts what lies unused in them too.
fn slab(slabinfo: &str) -> BTreeMap<String, u64> {
    let cache = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let pages_per_slab: u64 = words.get(5)?.parse().ok()?;
        let at = words.iter().position(|word| *word == "slabdata")?;
        let slabs: u64 = words.get(at + 2)?.parse().ok()?;
        Some((words[0].to_owned(), slabs * pages_per_slab * PAGE_BYTES))
    };
    slabinfo.lines().filter_map(cache).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slab_is_counted_in_whole_pages() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> …\n\
            TCP 100 140 2304 14 8 : tunables 0 0 0 : slabdata 10 10 0\n";
        assert_eq!(slab(text), BTreeMap::from([("TCP".to_owned(), 10 * 8 * 4096)]));
    }

    #[test]
    fn this_process_has_memory() {
        let memory = Memory::now(Some(std::process::id()));
        assert!(memory.server_rss_bytes.unwrap() > 1 << 20 && memory.available_bytes > 0);
        let rough = rss_bytes_roughly(std::process::id());
        assert!(rough > 1 << 20);
    }
}
