//! What this process takes of the host's memory, and giving it back.
//!
//! glibc frees only the top of a heap by itself, so one small block that lives on keeps everything below it resident: after
//! a burst a server would look as large as in it, and one that has made room would not see it. The settings of the
//! process's allocator are left alone by the library; only the `megasock` command changes them.

use std::fs;

/// Resident memory of this process, in bytes; 0 where `/proc` does not say.
pub fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    resident_pages(&statm).unwrap_or(0) * page_bytes()
}

/// Bytes of a page in the figures of `/proc`: 4096, or up to sixteen times as many on other processors.
fn page_bytes() -> u64 {
    // SAFETY: sysconf with an integer only.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

pub use allocator::{give_back, prepare};

#[cfg(target_env = "gnu")]
mod allocator {
    /// Free bytes inside the heaps from which on they are given back, at least.
    const FREE_BYTES_MIN: usize = 128 << 10;

    /// Blocks from this size on get a mapping of their own, which goes back as it is freed. Set, because glibc would raise
    /// it with every such block freed, and then keep them in the heap.
    const MAPPED_BYTES_MIN: libc::c_int = 256 * 1024;

    /// Prepares the allocator; once, before threads start.
    pub fn prepare() {
        // SAFETY: mallopt takes two integers and changes only the allocator's own settings.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
            libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_BYTES_MIN);
        }
    }

    /// Gives free pages back, if free memory is more than an eighth of that in use. Not for a reactor's thread: while it
    /// works through a heap, that heap's users wait for some microseconds.
    pub fn give_back() {
        // SAFETY: mallinfo2 only reads, malloc_trim only returns pages that nobody uses; both lock the heaps they look at.
        unsafe {
            let info = libc::mallinfo2();
            if info.fordblks > FREE_BYTES_MIN.max(info.uordblks / 8) {
                libc::malloc_trim(0);
            }
        }
    }
}

/// musl's has no settings, and unmaps a group of blocks when the last of them is freed.
#[cfg(not(target_env = "gnu"))]
mod allocator {
    /// There is nothing to prepare.
    pub fn prepare() {}

    /// What is free has gone back already.
    pub fn give_back() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_what_is_touched() {
        let before = resident_bytes();
        assert!(before > 1 << 20, "{before}");
        let touched = vec![1u8; 64 << 20];
        let grown = resident_bytes() - before;
        assert!(grown > 60 << 20, "{grown} of {}", touched.len());
    }
}
